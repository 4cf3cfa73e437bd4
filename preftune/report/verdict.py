"""The sentence a page begins with: what was found decides it, then what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from preftune.diagnose.telling import by_reason
from preftune.report.audit_view import Finding, shown_steps
from preftune.report.charts import Mark
from preftune.report.measures import cut
from preftune.report.outcome import Outcome

_MOST_REASONS, _LONGEST_TITLE = 20, 120


@dataclass(frozen=True)
class Verdict:
    """The headline, the sentences under it, and what could not be told: names by reason."""

    headline: str
    severity: str  # error, warning, or nothing: the colour of the headline's mark
    sentences: list[str]
    unclear: list[tuple[str, str]]
    looked: str


def view_verdict(outcome: Outcome, findings: Sequence[Finding], diagnosis: Mapping[str, Any]) -> Verdict:
    """An error comes before any claim of an effect; a warning stands beside it."""
    errors = [one for one in findings if one.severity == "error"]
    warnings = [one for one in findings if one.severity == "warning"]
    unclear = _unclear(diagnosis.get("cannot_tell"))
    looked = _looked(diagnosis)
    if errors:
        more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        headline = f"Not to be trusted yet: {_lowered(cut(errors[0].title, _LONGEST_TITLE))}{more}"
        sentences = [_told(errors[0]), f"Measured all the same: {_lowered(outcome.headline)}.", *outcome.sentences]
        return Verdict(headline, "error", sentences, unclear, looked)
    if warnings:
        title = cut(warnings[0].title, _LONGEST_TITLE)
        told = f"a warning: {_lowered(title)}" if len(warnings) == 1 else f"{len(warnings)} warnings"
        headline = f"{outcome.headline}, with {told}"
        return Verdict(headline, "warning", [_told(warnings[0]), *outcome.sentences], unclear, looked)
    sentences = [*outcome.sentences, looked] if looked else list(outcome.sentences)
    return Verdict(outcome.headline, "", sentences, unclear, looked)


def marks_of(findings: Sequence[Finding]) -> list[Mark]:
    """Findings that show on steps of a curve, as the charts take them; only what is plainly an id becomes a label."""
    return [
        Mark(
            label=one.id if re.fullmatch(r"[A-Za-z]\d{1,3}[a-z]?", one.id) else "",
            title=f"{_lowered(cut(one.title, _LONGEST_TITLE))}, {shown_steps(*one.steps)}",
            severity=one.severity,
            first=one.steps[0],
            last=one.steps[1],
            series=one.series,
        )
        for one in findings
        if one.steps is not None and one.series
    ]


def _told(finding: Finding) -> str:
    place = f" Seen at {finding.place}." if finding.place else ""
    return f"{finding.what or finding.title}{place} {finding.remedy}".strip()


def _looked(diagnosis: Mapping[str, Any]) -> str:
    checked, unclear = diagnosis.get("checked"), diagnosis.get("cannot_tell")
    if not isinstance(checked, list) or not checked:
        return ""
    missing = len(unclear) if isinstance(unclear, list) else 0
    limits = f"; of {missing} more nothing can be told" if missing else ""
    return f"{len(checked)} kinds of trouble were looked for in the curves{limits}."


def _unclear(entries: Any) -> list[tuple[str, str]]:
    return [(", ".join(names), why) for why, names in islice(by_reason(entries).items(), _MOST_REASONS)]


def _lowered(text: str) -> str:
    """The text to stand within a sentence: names such as KL keep their capitals."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
