"""What candidates are worth on the same held-out items: which pairs they rank right, what a judge says of answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from preftune.data.records import Pair, PromptRecord
from preftune.data.split import prompt_key
from preftune.data.tokens import tokenize_pairs
from preftune.evaluate.answering import asked_of, draw_answers
from preftune.evaluate.checkpoint_models import open_checkpoints
from preftune.evaluate.matches import scores_of
from preftune.evaluate.model import OpenModel, open_model
from preftune.evaluate.preferences import implicit_rewards, prefers_right, score_pairs
from preftune.models.settings import ModelConfig

Progress = Callable[[str, float | None], AbstractContextManager[Any]]
Reference: TypeAlias = Float[np.ndarray, "pairs 2"]  # the start's log-probs of the exam's pairs


@dataclass(frozen=True)
class Exam:
    """The held-out pairs and prompts that decide, the judge's folder (None: no judge), and how answers are drawn."""

    pairs: Sequence[Pair]
    judge: str | None
    max_length: int
    max_new_tokens: int
    prompts: int
    dtype: str
    seed: int
    progress: Progress


@dataclass(frozen=True)
class Candidate:
    """A policy by its name: ``right`` of each pair (0, one half, 1), ``reward`` of its answer to each prompt.

    ``prompts`` says what prompt each pair is of; ``length`` is the mean of the answers, in tokens, 0 where none were
    drawn.
    """

    name: str
    prompts: Sequence[bytes]
    right: Float[np.ndarray, "pairs"]
    reward: Float[np.ndarray, "prompts"]
    length: float


def examine_start(start: str, exam: Exam) -> Reference:
    """The log-probs that candidates' implicit rewards are measured from."""
    model = _opened(start, exam)
    tokens = tokenize_pairs(exam.pairs, model.tokenizer, max_length=exam.max_length).records
    with exam.progress(f"scoring pairs with {model.name}", len(tokens)) as bar:
        return score_pairs(model.engine, tokens, 8, bar.advance).log_probs


def examine_folder(name: str, folder: Path, reference: Reference, exam: Exam) -> Candidate:
    """The model that lies in ``folder``."""
    return _examined(name, _opened(str(folder), exam), reference, exam)


def examine_run(run: Path, step: int, name: str, reference: Reference, exam: Exam) -> Candidate:
    """A run's model as it was after ``step`` steps."""
    with exam.progress(f"loading {run.name}", None):
        opened = open_checkpoints(str(run), run.name, {"dtype": exam.dtype}, lambda text: None)
    opened.set_to(step)
    return _examined(name, opened.model, reference, exam)


def save_checkpoint_model(run: Path, step: int, folder: Path) -> None:
    """Writes a run's model as it was after ``step`` steps."""
    from preftune.models.adapters import save_model

    opened = open_checkpoints(str(run), run.name, {}, lambda text: None)
    opened.set_to(step)
    save_model(opened.model.engine.model, opened.model.tokenizer, folder)


def asked_prompts(exam: Exam) -> list[PromptRecord]:
    """The first different prompts of the pairs, as many as are answered."""
    found: dict[str, PromptRecord] = {}
    for pair in exam.pairs:
        if len(found) == exam.prompts:
            break
        found.setdefault(prompt_key(pair), PromptRecord(prompt=pair.prompt))
    return list(found.values())


def _opened(source: str, exam: Exam) -> OpenModel:
    with exam.progress(f"loading {source}", None):
        return open_model(ModelConfig.model_validate({"model": source, "dtype": exam.dtype}), lambda text: None)


def _examined(name: str, model: OpenModel, reference: Reference, exam: Exam) -> Candidate:
    tokens = tokenize_pairs(exam.pairs, model.tokenizer, max_length=exam.max_length).records
    with exam.progress(f"scoring pairs with {name}", len(tokens)) as bar:
        scores = score_pairs(model.engine, tokens, 8, bar.advance)
    right = prefers_right(implicit_rewards(scores, reference, 1.0))
    if exam.judge is None:
        return Candidate(name, scores.prompts, right, np.empty(0), 0.0)
    prompts = asked_prompts(exam)
    answers = draw_answers(
        model,
        prompts,
        n=1,
        max_length=exam.max_length,
        max_new_tokens=exam.max_new_tokens,
        seed=exam.seed,
        progress=exam.progress,
    )
    lengths = [len(one.tokens) for one in answers.drawn()]
    rewards = _rewards(prompts, answers, exam)
    return Candidate(name, scores.prompts, right, rewards, float(np.mean(lengths)) if lengths else 0.0)


def _rewards(prompts: Sequence[PromptRecord], answers: Any, exam: Exam) -> Float[np.ndarray, "prompts"]:
    """The judge's score of each prompt's answer; NaN where there is none."""
    from preftune.rewards.naming import open_rewards

    with exam.progress("asking the judge", len(prompts)):
        judge = open_rewards([str(exam.judge)], max_length=exam.max_length)
        table = judge.score(asked_of(prompts, answers))
    by_prompt = scores_of(table.values[:, 0], answers)
    return np.array([one[0] if one else np.nan for one in by_prompt])
