"""D31 to D33: what the audit of the judges has found (judge.json), told again with its figures.

Rules and thresholds are those of ``preftune make judge``: consistency below 0.8, the place shown at p < 0.01 of 100
verdicts, length at |z| > 3, replies without a verdict above 2%.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.recorded import SEVERITIES
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.readers.documents import JUDGE, judges_of
from preftune.diagnose.series import RunLog

LEAST: Final = 30  # comparisons or replies; below it no share is known to better than 17 points
COMMAND: Final = "preftune make judge ... --json > judge.json"


@dataclass(frozen=True)
class Question:
    """What is asked of a judge: the findings that answer it, its figures, and how many cases it was asked on."""

    id: str
    title: str
    ids: tuple[str, ...]
    figures: Callable[[Mapping[str, Any]], Iterator[Evidence]]
    cases: Callable[[Mapping[str, Any]], int]
    of: str


def detect_judge(question: Question, log: RunLog) -> Outcome:
    """What is wrong with any of the judges; too little where one of them has judged less than is needed."""
    document = log.documents.get(JUDGE)
    judges = judges_of(document) if isinstance(document, Mapping) else {}
    if not judges:
        return CannotTell(f"Curves do not show it: `{COMMAND}`, and name that with the run.")
    found = [(name, one) for name, audit in judges.items() for one in _findings(audit) if one["id"] in question.ids]
    if found:
        return _finding(question, log, judges, found)
    for name, audit in judges.items():
        n = question.cases(audit)
        if n < LEAST:
            return CannotTell(f"{name} has {n} {question.of}, and {LEAST} are needed.")
    return Nothing()


def _finding(
    question: Question, log: RunLog, judges: Mapping[str, Mapping[str, Any]], found: list[tuple[str, Mapping[str, Any]]]
) -> Finding:
    grave = min(found, key=lambda one: list(SEVERITIES).index(_severity(one[1])))[1]
    names = dict.fromkeys(name for name, _ in found)
    return Finding(
        id=question.id,
        severity=SEVERITIES[_severity(grave)],
        certainty="certain" if _severity(grave) == "error" else "likely",
        title=question.title,
        what=" ".join(f"{name}: {_sentence(one)}" for name, one in found),
        why="The judge is a language model, whose verdict depends on more than the two answers.",
        remedy=str(grave.get("remedy") or f"See `{COMMAND}`."),
        first_step=0,
        last_step=log.last_step,
        evidence=tuple(
            Evidence(one.series, f"{name}: {one.what}" if len(judges) > 1 else one.what, one.value, one.bound)
            for name in names
            for one in question.figures(judges[name])
        ),
        source="Zheng et al. 2023 (arXiv:2306.05685)",
    )


def _sentence(finding: Mapping[str, Any]) -> str:
    parts = (f"{finding.get('title', finding['id'])}.", finding.get("what"), finding.get("evidence"))
    return " ".join(str(part).strip() for part in parts if part)


def _findings(audit: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = audit.get("findings")
    return [one for one in listed if isinstance(one, Mapping) and "id" in one] if isinstance(listed, list) else []


def _severity(finding: Mapping[str, Any]) -> str:
    said = str(finding.get("severity"))
    return said if said in SEVERITIES else "warning"


# --- figures --------------------------------------------------------------------------------------------


def _of_position(audit: Mapping[str, Any]) -> Iterator[Evidence]:
    yield from _share(audit, "consistency", "verdicts that hold in both orders")
    yield from _share(audit, "position", "verdicts for the answer shown first")
    if (p := _number(audit.get("position_p"))) is not None:
        yield Evidence("judge", "p of that if places meant nothing", p)


def _of_length(audit: Mapping[str, Any]) -> Iterator[Evidence]:
    found = _length(audit)
    value, z = (_number(found.get(name)) for name in ("value", "z"))
    if value is not None and abs(value) < 100:
        yield Evidence("judge", "odds of winning for an answer twice as long, times", math.exp(value))
    if z is not None:
        yield Evidence("judge", "z of it", z)


def _of_replies(audit: Mapping[str, Any]) -> Iterator[Evidence]:
    yield from _share(audit, "invalid", "replies that are no verdict")
    yield from _share(audit, "refusals", "refusals")
    injected = audit.get("injections")
    counts = [n for n in map(_number, injected.values()) if n] if isinstance(injected, Mapping) else []
    if counts:
        yield Evidence("judge", "signs that an answer speaks to the judge", sum(counts))


def _share(audit: Mapping[str, Any], name: str, what: str) -> Iterator[Evidence]:
    share = audit.get(name)
    value = _number(share.get("value")) if isinstance(share, Mapping) else None
    if value is not None:
        yield Evidence("judge", f"{what} (of {_cases(audit, name):,})", value)


def _cases(audit: Mapping[str, Any], name: str) -> int:
    share = audit.get(name)
    n = _number(share.get("n")) if isinstance(share, Mapping) else None
    return int(n or 0)


def _length(audit: Mapping[str, Any]) -> Mapping[str, Any]:
    """With people's choices held equal, where they are known."""
    listed = (audit.get(name) for name in ("length_held", "length"))
    return next((one for one in listed if isinstance(one, Mapping)), {})


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None  # false for NaN too


_QUESTIONS: Final = (
    Question(
        "D31",
        "The judge goes by position",
        ("judge-one-answer", "judge-position", "judge-place"),
        _of_position,
        lambda audit: _cases(audit, "consistency"),
        "comparisons in both orders",
    ),
    Question(
        "D32",
        "The judge goes by length",
        ("judge-length",),
        _of_length,
        lambda audit: _cases(audit, "first_wins") if _length(audit) else 0,
        "comparisons with a winner and a difference in length",
    ),
    Question(
        "D33",
        "The judge's replies are malformed or injected",
        ("judge-invalid", "judge-refusals", "judge-injection"),
        _of_replies,
        lambda audit: _cases(audit, "invalid"),
        "replies",
    ),
)
JUDGES: Final = tuple(
    Detector(one.id, one.title.lower(), partial(detect_judge, one), documents=[JUDGE], is_live=False)
    for one in _QUESTIONS
)
