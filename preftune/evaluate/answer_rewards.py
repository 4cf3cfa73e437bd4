"""What rewards say of a model's own answers: drawn once, judged by each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from preftune.data.records import PromptRecord, content_row
from preftune.data.tokens import TemplateRefusal, encode_prompt
from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure, mean
from preftune.evaluate.model import OpenModel, answer
from preftune.rewards.calling import Asked, Rewards
from preftune.rollout.sample import Completion


def reward_measures(
    model: OpenModel,
    prompts: Sequence[PromptRecord],
    rewards: Rewards,
    *,
    max_length: int | None,
    max_new_tokens: int,
    seed: int,
    progress: Callable[[str, int], Any],
) -> dict[str, Measure]:
    """The mean of each reward over answers to ``prompts`` drawn at temperature 1, by the rewards' names.

    Prompts that leave no room within ``max_length`` are left out; so, of a reward, are answers it gives no score,
    and its n says so. Raises PreftuneError where nothing is left.
    """
    encoded = _encoded(prompts, model.tokenizer, max_length)
    drawn = answer(
        model,
        [tokens for _, tokens in encoded],
        max_new_tokens=max_new_tokens,
        temperature=1.0,
        seed=seed,
        progress=progress,
    )
    records = [record for record, _ in encoded]
    with progress(f"judging answers of {model.name}", len(records)) as bar:
        table = rewards.score(_asked(records, drawn, model.tokenizer))
        bar.advance(len(records))
    return {name: _measured(name, table.values[:, column]) for column, name in enumerate(table.names)}


def _encoded(
    prompts: Sequence[PromptRecord], tokenizer: Any, longest: int | None
) -> list[tuple[PromptRecord, list[int]]]:
    found = []
    for record in prompts:
        try:
            tokens = encode_prompt(record, tokenizer)
        except TemplateRefusal:
            continue
        if tokens and (longest is None or len(tokens) < longest):
            found.append((record, tokens))
    if not found:
        raise PreftuneError("None of the prompts can be asked.", mend="Raise --max_length, or look at the template.")
    return found


def _asked(records: Sequence[PromptRecord], drawn: Sequence[Completion], tokenizer: Any) -> Asked:
    """The answers as rewards take them: to messages as a message, beside the data's other columns."""
    texts = [tokenizer.decode(one.tokens, skip_special_tokens=True) for one in drawn]
    columns = dict.fromkeys(name for record in records for name in record.columns)
    return Asked(
        ids=[record.id for record in records],
        prompts=[content_row(record)["prompt"] for record in records],
        completions=[
            [{"role": "assistant", "content": text}] if record.is_conversational else text
            for record, text in zip(records, texts, strict=True)
        ],
        completion_ids=[list(one.tokens) for one in drawn],
        columns={name: [record.columns.get(name) for record in records] for name in columns},
    )


def _measured(name: str, scores: np.ndarray) -> Measure:
    known = scores[np.isfinite(scores)]
    return mean(known, "", f"Reward {name}", f"Mean over {len(scores)} answers drawn at temperature 1.")
