"""The label audit by a person: a random sample shown blind, its exact error rate, and what so many rows can show."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, get_args

from preftune.audit.examples import EXAMPLES, example_of
from preftune.audit.findings import Finding, Share, count_of
from preftune.data.records import Choice, Comparison, Pair
from preftune.data.sources import open_place
from preftune.durable import write_file
from preftune.errors import PreftuneError

FIRES_ABOVE = 0.10  # share of wrong labels in the sample that is worth a warning
CONFIRMED_ABOVE = 0.05  # lower bound of the interval that makes it sure
GOOD_RATE, BAD_RATE = 0.05, 0.20  # the rates between which a sample should tell
CONFIRMING_ROWS = 200
FALSE_ALARM_LIMIT, POWER_LIMIT = 0.10, 0.80  # outside of which a sample is too small to say

_CHOICES = (*get_args(Choice), "skip")
_WHY = "The person preferred the rejected side."


@dataclass(frozen=True)
class Answer:
    """What the person said of one row of the sample: "first" is its ``response_1``; "skip" is no answer."""

    id: str
    choice: str
    seconds: float | None = None


@dataclass(frozen=True)
class Answers:
    """The answers of a file, and in sentences the lines that hold none."""

    answers: tuple[Answer, ...]
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class SampleAudit:
    """What a person found in a sample.

    ``judged`` rows got an answer other than "skip"; ``wrong`` are the ids where he chose the rejected side, ``ties``
    those where he chose neither, which is not counted as wrong. ``unknown`` answers are about no row of the data, and
    of ``repeated`` answers on a row the last counts.
    """

    judged: int
    wrong: tuple[str, ...]
    ties: tuple[str, ...]
    skipped: int
    unknown: int
    repeated: int
    rate: Share
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class SampleSize:
    """How many rows tell two rates apart: the higher one is concluded from ``at_least`` wrong of ``rows``."""

    rows: int
    at_least: int


def draw_sample(ids: Sequence[str], n: int, seed: int) -> tuple[str, ...]:
    """``n`` of the ids, all where there are fewer, each as likely as the next, in random order."""
    if n < 1:
        raise PreftuneError(f"A sample of {n} rows shows nothing.", mend="Draw 50, or 200 to be surer.")
    return tuple(random.Random(seed).sample(ids, min(n, len(ids))))


def blind(pair: Pair, seed: int) -> Comparison:
    """The pair as a comparison that does not tell its label: the seed and the id decide the sides."""
    sides = (pair.rejected, pair.chosen) if _is_swapped(pair.id, seed) else (pair.chosen, pair.rejected)
    return Comparison(prompt=pair.prompt, response_1=sides[0], response_2=sides[1], id=pair.id)


def write_sample(path: str | PathLike[str], pairs: Sequence[Pair], n: int, seed: int) -> tuple[str, ...]:
    """Writes a blind sample as JSON lines of id, prompt, response_1 and response_2, and gives its ids.

    The file can be judged on the annotation page, or by writing lines of id and choice into another file.
    """
    by_id = {pair.id: pair for pair in pairs}
    ids = draw_sample(list(by_id), n, seed)
    rows = (blind(by_id[name], seed).as_row() for name in ids)
    kept = ("id", "prompt", "response_1", "response_2")
    lines = [json.dumps({key: row[key] for key in kept}, ensure_ascii=False) + "\n" for row in rows]
    write_file(Path(path), "".join(lines))
    return ids


def read_answers(path: str | PathLike[str]) -> Answers:
    """The answers in a file of rows with id, choice and, where known, seconds.

    A comparison with votes, as the annotation page writes it, gives an answer for each vote. What is no answer is
    named with its place and does not keep the others from being read.
    """
    answers: list[Answer] = []
    rejected: list[str] = []
    for raw in open_place(path):
        found = [] if raw.problem else _answers_in(raw.value)
        if raw.problem:
            rejected.append(f"{raw.where}: {raw.problem}")
        elif not found:
            rejected.append(f"{raw.where}: It needs an id and a choice ({', '.join(_CHOICES)}).")
        answers += found
    return Answers(tuple(answers), tuple(rejected))


def audit_sample(pairs: Iterable[Pair], answers: Iterable[Answer], seed: int) -> SampleAudit:
    """What the answers on a blind sample, drawn with this seed, say about the labels of the pairs."""
    given = list(answers)
    last = {answer.id: answer for answer in given}
    judged = {pair.id: pair for pair in pairs if pair.id in last}
    choices = {name: last[name].choice for name in judged if last[name].choice != "skip"}
    wrong = tuple(name for name, choice in choices.items() if choice == _wrong_side(name, seed))
    ties = tuple(name for name, choice in choices.items() if choice in ("tie", "both_bad"))
    examples = tuple(example_of(judged[name], _WHY) for name in wrong[:EXAMPLES])
    return SampleAudit(
        judged=len(choices),
        wrong=wrong,
        ties=ties,
        skipped=len(judged) - len(choices),
        unknown=len(last.keys() - judged.keys()),
        repeated=len(given) - len(last),
        rate=rate_of_sample(len(wrong), len(choices)),
        findings=(what_sample_shows(len(wrong), len(choices), wrong, examples),),
    )


def rate_of_sample(wrong: int, n: int) -> Share:
    """``wrong`` of ``n`` with the exact 95% interval (Clopper and Pearson 1934); without figures where ``n`` is 0."""
    title = "Wrong labels, judged by a person"
    explanation = "Share of a random sample whose rejected side the person preferred; the interval is exact."
    if not 0 <= wrong <= n:
        raise PreftuneError(f"{wrong} of {n} rows cannot be wrong.", mend="Count the wrong ones among those judged.")
    if not n:
        return Share(None, None, None, 0, title, explanation)
    from scipy.stats import binomtest

    interval = binomtest(wrong, n).proportion_ci(confidence_level=0.95, method="exact")
    return Share(wrong / n, float(interval.low), float(interval.high), n, title, explanation)


def what_sample_shows(
    wrong: int, n: int, rows: tuple[str, ...] = (), examples: tuple[Mapping[str, str], ...] = ()
) -> Finding:
    """What ``wrong`` of ``n`` judged rows say about all labels, and what they cannot say.

    It warns where more than one in ten is wrong, and calls that confirmed where the interval's lower bound is above
    5%. A sample is too small where this would warn of a good set (5% wrong) in more than 10% of samples, or miss a bad
    one (20% wrong) in more than 20%.
    """
    rate = rate_of_sample(wrong, n)
    if rate.value is None or rate.low is None:
        return _sample_finding("info", "Nobody has judged the sample", rate, rows, examples, "Judge 50 rows.")
    if rate.value > FIRES_ABOVE and rate.low > CONFIRMED_ABOVE:
        remedy = (
            "Label the rows again, or leave the suspicious ones out; or train with a loss that expects flipped labels."
        )
        return _sample_finding("warning", "Labels are wrong", rate, rows, examples, remedy)
    false_alarm, power = firing_chance(n, GOOD_RATE), firing_chance(n, BAD_RATE)
    if false_alarm > FALSE_ALARM_LIMIT or power < POWER_LIMIT:
        return _sample_finding("info", "Too few rows were judged to say", rate, rows, examples, "Judge at least 50.")
    more = f"Judge {max(CONFIRMING_ROWS, 4 * n)} rows to be sure."
    if rate.value > FIRES_ABOVE:
        return _sample_finding("warning", "Labels may be wrong", rate, rows, examples, more)
    remedy = "None is needed." if n >= CONFIRMING_ROWS else f"None is needed. {more}"
    return _sample_finding("info", "The sample shows no unusual share of wrong labels", rate, rows, examples, remedy)


def firing_chance(n: int, rate: float) -> float:
    """The chance that a sample of ``n`` warns where ``rate`` of all labels are wrong."""
    from scipy.stats import binom

    return float(binom.sf(_firing_count(n) - 1, n, rate))


def sample_size_for(low: float, high: float, alpha: float = 0.05, power: float = 0.8) -> SampleSize:
    """The fewest rows that tell an error rate of ``high`` from one of ``low``, by the exact binomial test.

    A set at ``low`` is called bad in at most ``alpha`` of samples and one at ``high`` in at least ``power`` of them.
    """
    if not 0 < low < high < 1 or not 0 < alpha < power < 1:
        raise PreftuneError(
            f"There is no sample for low {low}, high {high}, alpha {alpha}, power {power}.",
            mend="Give shares between 0 and 1, low below high and alpha below power.",
        )
    import numpy as np
    from scipy.stats import binom

    start, step = 1, 4096
    while start < 10_000_000:
        rows = np.arange(start, start + step)
        at_least = binom.isf(alpha, rows, low).astype(np.int64) + 1  # the fewest that ``low`` exceeds by alpha at most
        suffices = np.flatnonzero(binom.sf(at_least - 1, rows, high) >= power)
        if len(suffices):
            return SampleSize(int(rows[suffices[0]]), int(at_least[suffices[0]]))
        start += step
    raise PreftuneError("More than ten million rows would be needed.", mend="Choose rates that are further apart.")


def _is_swapped(name: str, seed: int) -> bool:
    return bool(hashlib.blake2b(f"{seed}\0sides\0{name}".encode(), digest_size=8).digest()[0] & 1)


def _wrong_side(name: str, seed: int) -> str:
    return "first" if _is_swapped(name, seed) else "second"


def _answers_in(row: object) -> list[Answer]:
    """The answers of a row: its own, or those of its votes; none where it holds none."""
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str | int):
        return []
    votes = row.get("annotators")
    said = [vote for vote in votes if isinstance(vote, Mapping)] if isinstance(votes, list) else [row]
    known = [each for each in said if each.get("choice") in _CHOICES]
    return [Answer(str(row["id"]), each["choice"], _seconds(each.get("seconds"))) for each in known]


def _seconds(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _firing_count(n: int) -> int:
    """The fewest wrong rows that are more than FIRES_ABOVE of ``n``."""
    return next(count for count in range(n + 2) if count > FIRES_ABOVE * n + 1e-9)


def _sample_finding(
    severity: Any,
    title: str,
    rate: Share,
    rows: tuple[str, ...],
    examples: tuple[Mapping[str, str], ...],
    remedy: str,
) -> Finding:
    return Finding(
        id="wrong-labels-by-person",
        severity=severity,
        title=title,
        what=_what_so_many_show(rate),
        evidence=_evidence(rate),
        rows=rows,
        remedy=remedy,
        share=rate if rate.n else None,
        examples=examples,
    )


def _evidence(rate: Share) -> str:
    if rate.value is None:
        return "No row was judged."
    wrong = round(rate.value * rate.n)
    return (
        f"{wrong:,} of {count_of(rate.n, 'row')} wrong: {rate.value:.1%} (exact 95% interval {rate.low:.1%} to "
        f"{rate.high:.1%})."
    )


def _what_so_many_show(rate: Share) -> str:
    if not rate.n:
        return "A person's judgement of a random sample is the only direct measure of wrong labels."
    count = _firing_count(rate.n)
    false_alarm, power = firing_chance(rate.n, GOOD_RATE), firing_chance(rate.n, BAD_RATE)
    return (
        f"With {count_of(rate.n, 'row')} the warning starts at {count:,} wrong: it sounds in {false_alarm:.1%} of "
        f"samples where {GOOD_RATE:.0%} of the labels are wrong, and in {power:.1%} where {BAD_RATE:.0%} are. "
        "It says how many labels are wrong, not which."
    )
