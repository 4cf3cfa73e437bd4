"""From replies to verdicts, and from verdicts to one ruling a comparison.

A verdict counts only where both orders agree. What is no verdict (a malformed reply, a refusal, a failed call) is
none: never a win, and never a tie.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from typing import Any, Final, Literal, TypeAlias

from preftune.collect.calls import Answer, Reply
from preftune.collect.judge_prompts import LETTERS, TIE, VERDICT_MARKER, Question
from preftune.rewards.judge import strict_json

Kind: TypeAlias = Literal["first", "second", "tie", "invalid", "refusal", "failed"]
Outcome: TypeAlias = Literal["first", "second", "tie", "invalid", "refusal", "failed", "injection"]

CHOICES: Final = ("first", "second", "tie")
LEAST_MASS: Final = 0.25  # of the probability must lie on verdicts; below, their shares say what a grammar forced
LONGEST_REPLY: Final = 100_000  # characters
CANARY, FLIPPED = "canary", "flipped-when-escaped"
_POINTS: Final = {"first": 1.0, "second": 0.0, "tie": 0.5}
_THOUGHT: Final = re.compile(r"\A\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_FENCED: Final = re.compile(r"\A```(?:json)?\s*\n(.*)\n```\Z", re.DOTALL)
_REFUSAL: Final = re.compile(
    r"\A\W*(?:(?:i['’]?m|i am)\s+(?:very\s+|really\s+)?sorry|sorry,"
    r"|i\s+(?:can(?:no|['’])t|can not|won['’]t|must decline)"
    r"|(?:i['’]?m|i am)\s+(?:unable|not\s+able)|as\s+an\s+ai\b|i\s+apologi[sz]e)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Verdict:
    """What one reply says of one comparison: "first" is the comparison's first answer, wherever it was shown.

    ``is_swapped``: the second answer was shown before the first. ``first_probability`` is that of the first being
    better, from the reply's token probabilities where it has them. ``lengths`` are the two answers' characters.
    ``reason`` is the judge's own, or why there is no verdict. ``signs`` of injection are the reply's.
    """

    comparison: str
    judge: str
    kind: Kind
    is_swapped: bool
    sample: int = 0
    first_probability: float | None = None
    is_escaped: bool = False
    lengths: tuple[int, int] | None = None
    reason: str = ""
    signs: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """How far it is for the first answer, from 0 to 1."""
        return _POINTS[self.kind] if self.first_probability is None else self.first_probability


@dataclass(frozen=True)
class Ruling:
    """What all verdicts on a comparison come to.

    ``confidence`` that the winner is the better answer, and ``probability`` that the first is: None without a valid
    verdict. ``judges`` says how each judge ruled; ``signs`` are those of injection.
    """

    comparison: str
    outcome: Outcome
    confidence: float | None
    probability: float | None
    judges: Mapping[str, Outcome] = field(default_factory=dict)
    signs: tuple[str, ...] = ()
    why: str = ""


def verdicts_of(question: Question, judge: str, answer: Answer, envelope: str) -> list[Verdict]:
    """The verdicts in an answer: one of a comparison, and of a ranking one for every two answers."""
    names = {pair: question.candidates.comparison_id(pair) for pair in combinations(sorted(question.shown), 2)}
    found = _failed(answer) if answer.reply is None else read_reply(answer.reply, len(question.shown))
    signs = (CANARY,) if answer.reply is not None and envelope in answer.reply.text else ()
    lengths = question.candidates.lengths()
    place = {shown: number for number, shown in enumerate(question.shown)}
    verdicts: list[Verdict] = []
    for (one, other), name in names.items():
        is_swapped = place[one] > place[other]
        kind, probability = found.between(place[one], place[other])
        verdicts.append(
            Verdict(
                comparison=name,
                judge=judge,
                kind=kind,
                is_swapped=is_swapped,
                sample=question.sample,
                first_probability=probability,
                is_escaped=question.is_escaped,
                lengths=(lengths[one], lengths[other]),
                reason=found.reason,
                signs=signs,
            )
        )
    return verdicts


# --- reading a reply ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReplyRead:
    """A reply's content: ``order`` of the shown places, the best first, equal ones in one group; or the ``fault``.

    ``first_probability`` is that of the answer shown first, of two.
    """

    order: tuple[tuple[int, ...], ...] = ()
    fault: Literal["invalid", "refusal", "failed"] | None = None
    reason: str = ""
    first_probability: float | None = None

    def between(self, one: int, other: int) -> tuple[Kind, float | None]:
        """The verdict on the answers shown at these places, and the probability of the first of them."""
        if self.fault is not None:
            return self.fault, None
        rank = {place: number for number, group in enumerate(self.order) for place in group}
        kind: Kind = "tie" if rank[one] == rank[other] else "first" if rank[one] < rank[other] else "second"
        chance = self.first_probability
        return kind, chance if chance is None or one < other else 1 - chance


def read_reply(reply: Reply, shown: int) -> ReplyRead:
    """What a reply says of so many answers. Only a reply in the form asked for holds a verdict."""
    if reply.refused:
        return ReplyRead(fault="refusal", reason=_cut(reply.text) or "the judge refused")
    text = _bare(reply.text)
    if text is None:
        return ReplyRead(fault="invalid", reason="the reply is empty or too long")
    try:
        value = {"verdict": text} if shown == 2 and text in ("A", "B", TIE) else strict_json(text)
    except (ValueError, RecursionError):
        return _unread(reply, text, "the reply is not one JSON object")
    name = "verdict" if shown == 2 else "ranking"
    if not isinstance(value, Mapping) or not value.keys() <= {"reason", name} or name not in value:
        return _unread(reply, text, f"the reply is not a reason and a {name}")
    reason = value.get("reason", "")
    order = _verdict_order(value[name]) if shown == 2 else _ranking_order(value[name], shown)
    if order is None or not isinstance(reason, str):
        return ReplyRead(fault="invalid", reason=f"the reply's {name} is none: {_cut(json.dumps(value[name]))}")
    chance = None if shown != 2 or reply.choices is None else soft_verdict(reply.choices)
    return ReplyRead(order, None, _cut(reason), chance)


def soft_verdict(choices: Mapping[str, float]) -> float | None:
    """The probability that the answer shown first is better, a tie counted half, from log-probs of tokens.

    A token counts for the verdict that it is or can only begin. None where less than a quarter of the
    probability lies on verdicts.
    """
    masses = {"A": 0.0, "B": 0.0, TIE: 0.0}
    for token, log_prob in choices.items():
        marker = re.search(VERDICT_MARKER, token)
        written = (token[marker.end() :] if marker else token).strip().split('"')[0]
        if written in ("A", "B"):
            masses[written] += math.exp(min(0.0, log_prob))
        elif written and TIE.startswith(written):
            masses[TIE] += math.exp(min(0.0, log_prob))
    mass = sum(masses.values())
    return None if mass < LEAST_MASS else (masses["A"] + masses[TIE] / 2) / mass


def _failed(answer: Answer) -> ReplyRead:
    return ReplyRead(fault="failed", reason=answer.failure or "no reply")


def _bare(text: str) -> str | None:
    """The reply without the thoughts before it and the fence around it."""
    if len(text) > LONGEST_REPLY:
        return None
    text = _THOUGHT.sub("", text, count=1).strip()
    fenced = _FENCED.match(text)
    return (fenced[1].strip() if fenced else text) or None


def _unread(reply: Reply, text: str, why: str) -> ReplyRead:
    if _REFUSAL.match(text):
        return ReplyRead(fault="refusal", reason=_cut(text))
    if reply.finish in ("length", "max_tokens"):
        why = "the reply was cut off at its longest length"
    return ReplyRead(fault="invalid", reason=f"{why}: {_cut(text)}")


def _verdict_order(value: Any) -> tuple[tuple[int, ...], ...] | None:
    orders: dict[Any, tuple[tuple[int, ...], ...]] = {"A": ((0,), (1,)), "B": ((1,), (0,)), TIE: ((0, 1),)}
    return orders.get(value) if isinstance(value, str) else None


def _ranking_order(value: Any, shown: int) -> tuple[tuple[int, ...], ...] | None:
    """Every letter once, or no ranking."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        return None
    if sorted(value) != list(LETTERS[:shown]):
        return None
    return tuple((LETTERS.index(letter),) for letter in value)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"


# --- ruling ---------------------------------------------------------------------------------------------


def rule(verdicts: Sequence[Verdict], suspects: Mapping[str, Sequence[str]] | None = None) -> Ruling:
    """The ruling of one comparison.

    Of a judge's sample both orders must agree, else it is a tie; of its samples more than half, and of the judges
    more than half, else it is a tie. ``suspects`` are the answers ("first", "second") that hold signs of injection:
    where one of them wins, and not when its passages are escaped, the outcome is "injection".

    The confidence is Laplace's rule of succession over the readings of whole samples: (points for the winner + 1) /
    (readings + 2).
    """
    plain = [verdict for verdict in verdicts if not verdict.is_escaped]
    by_judge: dict[str, Outcome] = {judge: _judge_outcome(part) for judge, part in _by(plain, "judge")}
    signs = dict.fromkeys(sign for several in (suspects or {}).values() for sign in several)
    signs |= dict.fromkeys(sign for verdict in verdicts for sign in verdict.signs)
    outcome = majority(by_judge.values())
    samples = [part for _, part in _by(plain, "judge", "sample") if _sample_outcome(part) in CHOICES]
    valid = [verdict.points for part in samples for verdict in part]
    probability = sum(valid) / len(valid) if valid else None
    if outcome in (suspects or {}) and _flips(outcome, verdicts):
        return Ruling(plain[0].comparison, "injection", None, probability, by_judge, (*signs, FLIPPED))
    why = "" if outcome in CHOICES else next((one.reason for one in plain if one.kind == outcome), "")
    confidence = _confidence(valid, outcome) if outcome in ("first", "second") else None
    return Ruling(plain[0].comparison, outcome, confidence, probability, by_judge, tuple(signs), why)


def consistent_pairs(verdicts: Iterable[Verdict]) -> list[tuple[Verdict, Verdict]]:
    """Verdicts on one comparison by one judge and sample in both orders, the unswapped one first; valid ones only."""
    pairs: list[tuple[Verdict, Verdict]] = []
    usable = [verdict for verdict in verdicts if verdict.kind in CHOICES and not verdict.is_escaped]
    for _, part in _by(usable, "comparison", "judge", "sample"):
        orders = {verdict.is_swapped: verdict for verdict in part}
        if len(orders) == 2:
            pairs.append((orders[False], orders[True]))
    return pairs


def _by(verdicts: Iterable[Verdict], *names: str) -> list[tuple[Any, list[Verdict]]]:
    def key(verdict: Verdict) -> Any:
        values = [getattr(verdict, name) for name in names]
        return values[0] if len(values) == 1 else tuple(values)

    return [(value, list(part)) for value, part in groupby(sorted(verdicts, key=key), key=key)]


def _judge_outcome(verdicts: Sequence[Verdict]) -> Outcome:
    return majority(_sample_outcome(part) for _, part in _by(verdicts, "sample"))


def _sample_outcome(verdicts: Sequence[Verdict]) -> Outcome:
    """The verdict that both orders give; of what is none the worst word."""
    kinds: set[Outcome] = {verdict.kind for verdict in verdicts}
    faults: tuple[Outcome, ...] = ("failed", "refusal", "invalid")
    for fault in faults:
        if fault in kinds:
            return fault
    if len({verdict.is_swapped for verdict in verdicts}) < 2:
        return "failed"
    return kinds.pop() if len(kinds) == 1 else "tie"


def majority(outcomes: Iterable[str]) -> Any:
    """What more than half of the valid ones say, else a tie; without a valid one, the commonest fault."""
    counts = Counter(outcomes)
    valid = {choice: counts[choice] for choice in CHOICES if counts[choice]}
    if not valid:
        return counts.most_common(1)[0][0] if counts else "failed"
    leading = max(valid, key=lambda choice: valid[choice])
    return leading if valid[leading] * 2 > sum(valid.values()) else "tie"


def _flips(outcome: Outcome, verdicts: Sequence[Verdict]) -> bool:
    """Whether the winner no longer wins where the passages are escaped; False where that gave no valid verdict."""
    escaped = [verdict for verdict in verdicts if verdict.is_escaped]
    outcomes = [_judge_outcome(part) for _, part in _by(escaped, "judge")]
    return any(one in CHOICES for one in outcomes) and majority(outcomes) != outcome


def _confidence(points: Sequence[float], outcome: Outcome) -> float:
    for_winner = sum(points) if outcome == "first" else len(points) - sum(points)
    return (for_winner + 1) / (len(points) + 2)
