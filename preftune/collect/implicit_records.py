"""From evidence to records: labels with their confidence, or pairs.

Log-odds of different signals are added, as if they were independent given whether the answer is good, and the sum is
capped: that independence is an assumption which users' habits break. Of two answers with log-odds g1 and g2 of being
good the first is the better one, given that one of them is, with log-odds g1 - g2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from preftune.collect.implicit_evidence import Knowledge, PromptEvidence, click_pair_log_odds
from preftune.collect.implicit_signals import logit, sigmoid
from preftune.data.records import Completion, Label, Pair

Shape: TypeAlias = Literal["labels", "pairs"]
# Signals that speak of an answer in comparison with another, so that a pair takes them as they are.
COMPARING: Final = ("regenerate", "edit", "click")
NO_EVIDENCE: Final = "no evidence"
UNSURE: Final = "below the least confidence"
SINGLE: Final = "only one answer to the prompt"
_LEAST: Final = 1e-9


@dataclass(frozen=True)
class Writing:
    """How evidence becomes records: the knowledge behind it, the least confidence, the source, the texts."""

    knowledge: Knowledge
    min_confidence: float
    source: Mapping[str, Any]
    assumptions: Mapping[str, str]
    content: Callable[[str, int], Any]

    def source_of(self, counts: Mapping[str, int]) -> dict[str, Any]:
        """The provenance of a record with these signals, and what is assumed about them."""
        kinds = [kind for kind in counts if kind in self.assumptions]
        stated = dict.fromkeys(self.assumptions[kind] for kind in (*kinds, "combined"))
        return {**self.source, "signals": dict(counts), "assumptions": list(stated)}


def labels_of(evidence: PromptEvidence, writing: Writing, dropped: Counter[str]) -> Iterator[Label]:
    """A label for each answer with enough evidence; ``dropped`` counts the others by reason."""
    prompt: Any = None
    for answer, values in evidence.values.items():
        log_odds = _capped(logit(writing.knowledge.assumptions.prior) + sum(values.values()), writing)
        if not any(abs(value) > _LEAST for value in values.values()) or abs(log_odds) < _LEAST:
            dropped[NO_EVIDENCE] += 1
            continue
        confidence = sigmoid(abs(log_odds))
        if confidence < writing.min_confidence:
            dropped[UNSURE] += 1
            continue
        prompt = writing.content("prompts", evidence.prompt) if prompt is None else prompt
        completion: Completion = writing.content("answers", answer)
        yield Label(
            prompt=prompt,
            completion=completion,
            label=log_odds > 0,
            confidence=_rounded(confidence),
            source=writing.source_of(evidence.counts[answer]),
            meta={"log_odds": {kind: _rounded(value) for kind, value in values.items()}},
        )


def pairs_of(evidence: PromptEvidence, writing: Writing, dropped: Counter[str]) -> Iterator[Pair]:
    """The pairs of a prompt: those that a signal joins, and the best answer with the worst, the next best with the
    next worst and so on, so that no answer is in more than one pair of the second kind."""
    answers = {*evidence.values, *evidence.exposures}
    if len(answers) < 2:
        dropped[SINGLE] += len(answers)
        return
    prompt: Any = None
    for first, second in _candidates(evidence):
        values = _pair_values(first, second, evidence, writing.knowledge)
        log_odds = _capped(sum(values.values()), writing)
        if abs(log_odds) < _LEAST:
            dropped[NO_EVIDENCE] += 1
            continue
        confidence = sigmoid(abs(log_odds))
        if confidence < writing.min_confidence:
            dropped[UNSURE] += 1
            continue
        winner, loser = (first, second) if log_odds > 0 else (second, first)
        prompt = writing.content("prompts", evidence.prompt) if prompt is None else prompt
        sign = 1 if winner == first else -1
        yield Pair(
            prompt=prompt,
            chosen=writing.content("answers", winner),
            rejected=writing.content("answers", loser),
            confidence=_rounded(confidence),
            margin=_edit_margin(winner, loser, evidence),
            source=writing.source_of(_pair_counts(first, second, values, evidence)),
            meta={"log_odds": {kind: _rounded(sign * value) for kind, value in values.items()}},
        )


def _candidates(evidence: PromptEvidence) -> list[tuple[int, int]]:
    joined = {(min(one.winner, one.loser), max(one.winner, one.loser)) for one in evidence.joined}
    totals = {answer: sum(values.values()) for answer, values in evidence.values.items()}
    ranked = sorted(totals, key=lambda answer: (-totals[answer], answer))
    folded = zip(ranked[: len(ranked) // 2], reversed(ranked), strict=False)
    return sorted(joined | {(min(pair), max(pair)) for pair in folded})


def _pair_values(first: int, second: int, evidence: PromptEvidence, knowledge: Knowledge) -> dict[str, float]:
    """Log-odds by kind that the first is better than the second."""
    values: dict[str, float] = {}
    for one in evidence.joined:
        if {one.winner, one.loser} == {first, second}:
            direction = 1 if one.winner == first else -1
            values[one.kind] = values.get(one.kind, 0.0) + direction * one.log_odds
    for answer, direction in ((first, 1), (second, -1)):
        for kind, value in evidence.values.get(answer, {}).items():
            if kind not in COMPARING:
                values[kind] = values.get(kind, 0.0) + direction * value
    if first in evidence.exposures and second in evidence.exposures:
        values["click"] = click_pair_log_odds(evidence.exposures[first], evidence.exposures[second], knowledge)
    return values


def _pair_counts(first: int, second: int, values: Mapping[str, float], evidence: PromptEvidence) -> dict[str, int]:
    joined = Counter(one.kind for one in evidence.joined if {one.winner, one.loser} == {first, second})
    both = evidence.counts.get(first, Counter()) + evidence.counts.get(second, Counter())
    counts = {kind: joined[kind] if kind in joined else both[kind] for kind in values}
    return counts | ({"shown": both["shown"]} if "click" in values else {})


def _edit_margin(winner: int, loser: int, evidence: PromptEvidence) -> float | None:
    """How much of the loser was changed to make the winner; None where no edit did."""
    shares = [one.share for one in evidence.joined if (one.winner, one.loser) == (winner, loser)]
    sizes = [share for share in shares if share is not None]
    return _rounded(sum(sizes) / len(sizes)) if sizes else None


def _capped(log_odds: float, writing: Writing) -> float:
    cap = logit(writing.knowledge.assumptions.cap)
    return min(max(log_odds, -cap), cap)


def _rounded(value: float) -> float:
    return round(value, 6)
