"""Answers to the same held-out prompts side by side: before, during and after the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from preftune.report.measures import cut
from preftune.report.run_files import finite
from preftune.report.word_differences import Pieces, word_differences

_SHOWN, _OPEN = 12, 4
_LONGEST = 3000  # characters of one answer


@dataclass(frozen=True)
class Answer:
    """One completion, or the beginning of a long one; ``remark`` tells its length and whether it came to an end.

    ``pieces`` are its text, with what the other moment's answer lacks marked.
    """

    stage: str
    text: str
    remark: str
    pieces: Pieces


@dataclass(frozen=True)
class Exchange:
    """A prompt and what the model answered before and after; ``during`` lies folded away."""

    prompt: str
    before: Answer | None
    after: Answer | None
    during: list[Answer]


@dataclass(frozen=True)
class Answers:
    """The exchanges shown at once, those folded away, and how many prompts the file holds."""

    shown: list[Exchange]
    folded: list[Exchange]
    prompts: int


def view_answers(samples: Sequence[Mapping[str, Any]]) -> Answers:
    """Exchanges in the file's order, never chosen by their content; prompts with both sides come first."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        identity = sample.get("prompt_id", sample.get("prompt"))
        grouped.setdefault(repr(identity), []).append(sample)
    groups = sorted(grouped.values(), key=lambda group: not {"before", "after"} <= {one.get("stage") for one in group})
    exchanges = [_exchange(group) for group in groups[:_SHOWN]]
    return Answers(exchanges[:_OPEN], exchanges[_OPEN:], len(groups))


def as_text(content: Any) -> str:
    """Text or a list of chat messages as text, cut where it is very long."""
    return cut(_joined(content), _LONGEST)


def _exchange(group: Sequence[Mapping[str, Any]]) -> Exchange:
    ordered = sorted(group, key=lambda sample: finite(sample.get("step")) or 0.0)
    by_stage = {stage: [s for s in ordered if s.get("stage") == stage] for stage in ("before", "during", "after")}
    before, during, after = by_stage["before"], by_stage["during"], by_stage["after"]
    first, last = _answer(before[0]) if before else None, _answer(after[-1]) if after else None
    if first is not None and last is not None:
        old, new = word_differences(first.text, last.text)
        first, last = replace(first, pieces=old), replace(last, pieces=new)
    return Exchange(
        prompt=as_text(group[0].get("prompt")),
        before=first,
        after=last,
        during=[_answer(sample) for sample in during],
    )


def _joined(content: Any) -> str:
    if isinstance(content, list):
        messages = [message for message in content if isinstance(message, Mapping)]
        return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in messages)
    return content if isinstance(content, str) else str(content or "")


def _answer(sample: Mapping[str, Any]) -> Answer:
    step, tokens = finite(sample.get("step")), finite(sample.get("tokens"))
    stage = str(sample.get("stage")).capitalize()
    remarks = [] if tokens is None else [f"{int(tokens):,} tokens"]
    if sample.get("finished") is False:
        remarks.append("cut off at the length limit")
    at_step = "" if step is None else f", step {int(step):,}"
    whole = _joined(sample.get("completion"))
    if len(whole) > _LONGEST:
        remarks.append(f"its first {_LONGEST:,} of {len(whole):,} characters")
    text = whole[:_LONGEST]
    return Answer(f"{stage}{at_step}", text, ", ".join(remarks), [(text, False)])
