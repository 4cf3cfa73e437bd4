"""What is taken from each model while it is in memory: answers, log-probs of pairs, losses on general text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from preftune.data.records import Pair, PromptRecord
from preftune.errors import PreftuneError
from preftune.evaluate.answering import Answers, Progress, draw_answers, log_prob_sums
from preftune.evaluate.answers import KL, answer_lengths, kl_from_reference, kl_of
from preftune.evaluate.diversity import diversity_measures
from preftune.evaluate.entrants import Entrant, seen_as
from preftune.evaluate.measures import Measure
from preftune.evaluate.model import OpenModel, examine
from preftune.evaluate.plan import EvaluationPlan
from preftune.evaluate.preferences import PairScores
from preftune.evaluate.prompting import fitted
from preftune.evaluate.retention import RETENTION, PassageLosses, Passages, passage_losses, retention_measure


@dataclass(frozen=True)
class Questions:
    """What every entrant is asked: pairs, prompts, general text; and how."""

    pairs: Sequence[Pair]
    prompts: Sequence[PromptRecord]
    passages: Passages | None
    plan: EvaluationPlan
    starts: frozenset[str] = frozenset()  # the names of those that others started from


@dataclass
class Gathered:
    """What one entrant gave. ``log_probs`` are of its own answers, ``scores`` of the pairs named by ``ids``."""

    entrant: Entrant
    measures: dict[str, Measure]
    answers: Answers
    scores: PairScores | None = None
    ids: tuple[str, ...] = ()
    left_out: int = 0
    losses: PassageLosses | None = None
    log_probs: Float[np.ndarray, "completions"] | None = None
    more_answers: Answers | None = None  # of the best-of-n curve
    tasks: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


def gather_source(
    model: OpenModel,
    entrants: Sequence[Entrant],
    questions: Questions,
    earlier: Sequence[Gathered],
    progress: Progress,
) -> list[Gathered]:
    """What each of ``entrants``, all of one open model, gives; those of ``earlier`` that started from one of them get
    their KL."""
    found = []
    for entrant in entrants:
        with seen_as(model, entrant) as view:
            found.append(_gather(view, entrant, questions, progress))
            if entrant.role != "prompted":
                _add_kl(view, entrant, [*earlier, *found], questions.plan, progress)
    return found


def _gather(view: OpenModel, entrant: Entrant, questions: Questions, progress: Progress) -> Gathered:
    plan = questions.plan
    pairs, prompts = questions.pairs, questions.prompts
    if entrant.prompting is not None and (prompts or pairs):
        first = prompts[0] if prompts else PromptRecord(prompt=pairs[0].prompt)
        prompting = fitted(entrant.prompting, first, view.tokenizer)
        pairs, prompts = [prompting.apply(one) for one in pairs], [prompting.apply(one) for one in prompts]
    answers = draw_answers(
        view,
        prompts,
        n=plan.num_answers,
        max_length=plan.max_length,
        max_new_tokens=plan.max_new_tokens,
        seed=plan.seed,
        progress=progress,
    )
    gathered = Gathered(entrant, {}, answers)
    if pairs:
        _score_pairs(gathered, view, pairs, plan, progress)
    if drawn := answers.drawn():
        of = answers.prompts()
        gathered.measures |= answer_lengths(drawn, of)
        if view.frozen is not None:
            gathered.measures[KL] = kl_from_reference(view.engine, view.frozen.log_probs, drawn, plan.batch_size, of)
        elif entrant.start is not None and entrant.prompting is None:
            gathered.log_probs = log_prob_sums(view.engine, drawn, plan.batch_size)
        gathered.measures |= diversity_measures(answers.texts, plan.seed)
    if questions.passages is not None and entrant.prompting is None:
        _read_passages(gathered, view, questions.passages, plan, progress)
    if plan.best_of_n and entrant.name in questions.starts:
        gathered.more_answers = _draw_more(view, prompts, plan, progress)
    return gathered


def _score_pairs(
    gathered: Gathered, view: OpenModel, pairs: Sequence[Pair], plan: EvaluationPlan, progress: Progress
) -> None:
    how = {"beta": plan.beta, "max_length": plan.max_length, "batch_size": plan.batch_size}
    try:
        examined = examine(view, pairs, **how, progress=progress)
    except PreftuneError:  # none of them can be used
        if gathered.entrant.role == "model" and not gathered.answers.drawn():
            raise
        gathered.left_out = len(pairs)
        return
    gathered.measures |= dict(examined.measures)
    gathered.scores, gathered.ids, gathered.left_out = examined.scores, examined.ids, examined.left_out


def _read_passages(
    gathered: Gathered, view: OpenModel, passages: Passages, plan: EvaluationPlan, progress: Progress
) -> None:
    with progress(f"general text by {view.name}", len(passages.texts)) as bar:
        gathered.losses = passage_losses(
            view.engine,
            view.tokenizer,
            passages,
            max_length=plan.max_length,
            batch_size=plan.batch_size,
            progress=bar.advance,
        )
    gathered.measures[RETENTION] = retention_measure(gathered.losses)


def _draw_more(view: OpenModel, prompts: Sequence[PromptRecord], plan: EvaluationPlan, progress: Progress) -> Answers:
    """The start's draws for the best-of-n curve, by another seed than its answers."""
    return draw_answers(
        replace(view, name=f"{view.name}, {plan.best_of_n} a prompt"),
        prompts,
        n=plan.best_of_n,
        max_length=plan.max_length,
        max_new_tokens=plan.max_new_tokens,
        seed=plan.seed + 1,
        progress=progress,
    )


def _add_kl(
    view: OpenModel, start: Entrant, gathered: Sequence[Gathered], plan: EvaluationPlan, progress: Progress
) -> None:
    """The KL of whole models from ``start``, which is open now, over the answers they gave."""
    for one in gathered:
        if one.entrant.start != start.name or one.log_probs is None or KL in one.measures:
            continue
        drawn = one.answers.drawn()
        if not _reads_alike(drawn, view.tokenizer, one.answers):
            continue
        with progress(f"KL of {one.entrant.name}", None):
            ratios = one.log_probs - log_prob_sums(view.engine, drawn, plan.batch_size)
        one.measures[KL] = kl_of(ratios, one.answers.prompts())


def _reads_alike(drawn: Sequence[Any], tokenizer: Any, answers: Answers) -> bool:
    """Whether the tokenizer gives the answers' tokens the same texts, as that of a model's own start does."""
    written = [text for several in answers.texts for text in several]
    return [tokenizer.decode(one.tokens, skip_special_tokens=True) for one in drawn[:4]] == written[:4]
