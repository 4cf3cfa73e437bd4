"""Answers of a model to prompts, several a prompt where wanted: as texts, as tokens, and as rewards take them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from preftune.data.records import PromptRecord, content_row
from preftune.data.tokens import TemplateRefusal, encode_prompt
from preftune.evaluate.model import OpenModel
from preftune.models.layout import Group
from preftune.rewards.calling import Asked
from preftune.rollout.engine import open_sampler
from preftune.rollout.protocol import Sampling
from preftune.rollout.sample import Completion, padding_and_stops

Progress = Callable[[str, float | None], Any]


@dataclass(frozen=True)
class Answers:
    """What a model answered to each prompt: texts and tokens; none to one that it could not be asked."""

    texts: tuple[tuple[str, ...], ...]
    completions: tuple[tuple[Completion, ...], ...] = field(repr=False)

    @property
    def left_out(self) -> int:
        """Prompts that could not be asked."""
        return sum(not texts for texts in self.texts)

    def drawn(self) -> list[Completion]:
        """All completions, prompt by prompt."""
        return [one for several in self.completions for one in several]

    def prompts(self) -> list[int]:
        """The number of the prompt of each completion, in the order of ``drawn``."""
        return [number for number, several in enumerate(self.completions) for _ in several]


def draw_answers(
    model: OpenModel,
    prompts: Sequence[PromptRecord],
    *,
    n: int,
    max_length: int | None,
    max_new_tokens: int,
    seed: int,
    progress: Progress,
    temperature: float = 1.0,
) -> Answers:
    """``n`` answers of ``model`` to each of ``prompts``, greedy at temperature 0.

    Prompts that leave no room within ``max_length`` and those that the chat template refuses get none.
    """
    encoded = {number: ids for number, one in enumerate(prompts) if (ids := _encoded(one, model.tokenizer, max_length))}
    if not encoded:
        return Answers(((),) * len(prompts), ((),) * len(prompts))
    settings = padding_and_stops(model.engine.model, model.tokenizer)
    sampler = open_sampler(model.engine.model, None, stop_ids=settings["stop_ids"], pad_id=settings["pad_id"])
    with progress(f"answers of {model.name}", n * len(encoded)) as bar:
        drawn = sampler.sample(list(encoded.values()), n, Sampling(max_new_tokens, temperature), seed, bar.advance)
    completions: list[tuple[Completion, ...]] = [()] * len(prompts)
    for (number, ids), several in zip(encoded.items(), drawn, strict=True):
        completions[number] = tuple(Completion(ids, one.tokens, one.finished) for one in several)
    return Answers(
        tuple(
            tuple(model.tokenizer.decode(one.tokens, skip_special_tokens=True) for one in several)
            for several in completions
        ),
        tuple(completions),
    )


def asked_of(prompts: Sequence[PromptRecord], answers: Answers) -> Asked:
    """All answers as rewards take them: to messages as a message, beside the data's other columns."""
    members = [(number, place) for number, texts in enumerate(answers.texts) for place in range(len(texts))]
    records = [prompts[number] for number, _ in members]
    columns = dict.fromkeys(name for record in records for name in record.columns)
    return Asked(
        ids=[record.id for record in records],
        prompts=[content_row(record)["prompt"] for record in records],
        completions=[_content(prompts[number], answers.texts[number][place]) for number, place in members],
        completion_ids=[list(answers.completions[number][place].tokens) for number, place in members],
        columns={name: [record.columns.get(name) for record in records] for name in columns},
    )


def log_prob_sums(
    engine: Callable[..., Any], completions: Sequence[Completion], batch_size: int
) -> Float[np.ndarray, "completions"]:
    """log p of each completion in nats, NaN for one without a token."""
    found = np.full(len(completions), np.nan)
    usable = [number for number, one in enumerate(completions) if one.tokens]
    for begin in range(0, len(usable), batch_size):
        members = usable[begin : begin + batch_size]
        with torch.no_grad():
            sums = engine([Group(completions[i].prompt, (completions[i].tokens,)) for i in members]).sums()
        found[members] = sums.double().cpu().numpy()
    return found


def _encoded(record: PromptRecord, tokenizer: Any, longest: int | None) -> list[int]:
    try:
        ids = encode_prompt(record, tokenizer)
    except TemplateRefusal:
        return []
    return ids if longest is None or len(ids) < longest else []


def _content(record: PromptRecord, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if record.is_conversational else text
