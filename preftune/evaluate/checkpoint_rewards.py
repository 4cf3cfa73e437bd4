"""The frontier of runs: the start, each checkpoint and the saved model, with reward and distance from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from preftune.evaluate.answering import Answers, Progress, draw_answers, log_prob_sums
from preftune.evaluate.answers import KL, answer_lengths, kl_of
from preftune.evaluate.checkpoint_models import CHECKPOINTS, CheckpointedRun, open_checkpoints
from preftune.evaluate.entrants import name_in_measures, run_config
from preftune.evaluate.frontier import Frontier, FrontierPoint, frontier_of
from preftune.evaluate.gathering import Gathered, Questions
from preftune.evaluate.measures import Measure
from preftune.evaluate.model import model_folder
from preftune.evaluate.rewarding import REWARD, Rewarding, prompt_means, reward_measures, score_answers
from preftune.training.checkpoints import list_checkpoints

_LENGTH = "mean_length"


def measure_frontier(
    runs: Sequence[str],
    gathered: Mapping[str, Gathered],
    questions: Questions,
    rewarding: Rewarding,
    progress: Progress,
    note: Callable[[str], object],
) -> Frontier | None:
    """All points of ``runs``; what is in ``gathered`` (starts and saved models) is not measured again.

    Runs of one start share its point. A run without checkpoints has its saved model only, and that is said.
    """
    points: list[FrontierPoint] = []
    started: set[str] = set()
    for run in runs:
        label, saved = _label(run, len(runs)), gathered[model_folder(run)]
        start = gathered.get(saved.entrant.start or "")
        origin = str(run_config(run).get("model") or saved.entrant.start)
        if start is not None and REWARD in start.measures and origin not in started:
            points.append(_known(label, 0, start, rewarding, kl=_none_yet(len(start.answers.drawn()))))
            started.add(origin)
        points += _of_checkpoints(run, label, questions, rewarding, progress, note)
        if REWARD in saved.measures and (kl := saved.measures.get(KL)) is not None:
            points.append(_known(label, None, saved, rewarding, kl=kl))
    return frontier_of(points)


def _label(run: str, runs: int) -> str:
    """The run's name; of several with its beta, by which they differ."""
    name, beta = name_in_measures(run), run_config(run).get("beta")
    return f"{name} (beta {beta:g})" if runs > 1 and isinstance(beta, int | float) else name


def _known(run: str, step: int | None, one: Gathered, rewarding: Rewarding, *, kl: Measure) -> FrontierPoint:
    """The point of one who has answered already."""
    name, measures = one.entrant.name, one.measures
    return FrontierPoint(run, step, measures[REWARD], kl, measures[_LENGTH], tuple(prompt_means(rewarding.sums(name))))


def _none_yet(n: int) -> Measure:
    return Measure(0.0, 0.0, 0.0, n, "nats", "KL from the start", "The start itself.")


def _of_checkpoints(
    run: str,
    label: str,
    questions: Questions,
    rewarding: Rewarding,
    progress: Progress,
    note: Callable[[str], object],
) -> Iterator[FrontierPoint]:
    if not list_checkpoints(Path(run).expanduser() / CHECKPOINTS):
        note(f"{run} keeps no checkpoints (--save_steps, --save_total_limit): its saved model alone is on the frontier")
        return
    plan = questions.plan
    overrides = {"dtype": plan.dtype, "trust_remote_code": plan.trust_remote_code}
    overrides |= {} if plan.tokenizer is None else {"tokenizer": plan.tokenizer}
    with progress(f"loading {run}", None):
        opened = open_checkpoints(run, label, overrides, note)
    for step in opened.steps:
        yield _point(opened, step, questions, rewarding, progress)


def _point(
    run: CheckpointedRun, step: int, questions: Questions, rewarding: Rewarding, progress: Progress
) -> FrontierPoint:
    plan = questions.plan
    run.set_to(step)
    name = f"{run.name}, step {step}"
    answers = draw_answers(
        replace(run.model, name=name),
        questions.prompts,
        n=plan.num_answers,
        max_length=plan.max_length,
        max_new_tokens=plan.max_new_tokens,
        seed=plan.seed,
        progress=progress,
    )
    scores = score_answers(rewarding, questions.prompts, answers, name, progress)
    return FrontierPoint(
        run.name,
        step,
        reward_measures(rewarding, {REWARD: scores[REWARD]})[REWARD],
        _kl(run, answers, plan.batch_size),
        answer_lengths(answers.drawn(), answers.prompts())[_LENGTH],
        tuple(prompt_means(scores[REWARD])),
    )


def _kl(run: CheckpointedRun, answers: Answers, batch_size: int) -> Measure:
    """Of the model as it is set; afterwards it is the start."""
    drawn = answers.drawn()
    own = log_prob_sums(run.model.engine, drawn, batch_size)
    run.set_to(0)
    return kl_of(own - log_prob_sums(run.model.engine, drawn, batch_size), answers.prompts())
