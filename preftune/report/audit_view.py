"""The data audit for the page: counts, lengths, findings and whatever else the file holds, put into words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from preftune.report.measures import (
    cut,
    humanise,
    names_a_share,
    read_measure,
    show_interval,
    show_number,
    show_plain,
    show_value,
)
from preftune.report.run_files import finite, mapping

SEVERITIES = ("error", "warning", "info")
_CERTAINTIES = {"certain": "certain", "likely": "likely", "hint": "only a hint"}
_SHOWN_ELSEWHERE = {"read", "used", "rejected", "lengths", "findings"}
_MOST_FACTS, _MOST_REASONS, _MOST_FINDINGS, _DEEPEST = 60, 40, 100, 3


@dataclass(frozen=True)
class Fact:
    """One line of a table of facts: a label, its value, and a remark beneath such as an interval."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True)
class Finding:
    """Something worth the reader's attention, from the audit or from the watchers of the run."""

    severity: str
    title: str
    what: str
    evidence: str
    rows: str
    remedy: str
    id: str = ""
    why: str = ""
    certainty: str = ""
    steps: tuple[float, float] | None = None
    series: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where in the run it shows, and how sure it is."""
        parts = [] if self.steps is None else [shown_steps(*self.steps)]
        return ", ".join([*parts, *filter(None, [self.certainty])])


@dataclass(frozen=True)
class Table:
    """A small table: header words, then rows whose first cell is a label."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class AuditView:
    """The audit as the template prints it; counts are None where the file lacks them."""

    read: str | None
    used: str | None
    used_percent: float | None  # width of the bar only
    reasons: list[tuple[str, str]]
    miscount: str
    lengths: list[Table]
    facts: list[Fact]
    findings: list[Finding]


def view_audit(audit: Mapping[str, Any]) -> AuditView | None:
    """The audit in words, or None where there is none."""
    if not audit:
        return None
    read, used = finite(audit.get("read")), finite(audit.get("used"))
    rejected = mapping(audit.get("rejected"))
    rest = {key: value for key, value in audit.items() if key not in _SHOWN_ELSEWHERE}
    return AuditView(
        read=None if read is None else show_number(read),
        used=None if used is None else show_number(used),
        used_percent=100 * used / read if read and used is not None and 0 <= used <= read else None,
        reasons=[
            (humanise(str(reason)), show_plain(count)) for reason, count in islice(rejected.items(), _MOST_REASONS)
        ],
        miscount=_miscount(read, used, rejected),
        lengths=_length_tables(audit),
        facts=list(islice(_facts(rest), _MOST_FACTS)),
        findings=view_findings(audit.get("findings")),
    )


def view_findings(raw: Any) -> list[Finding]:
    """Findings of either file, the gravest first; unknown severities count as information."""
    found = [_finding(entry) for entry in raw if isinstance(entry, Mapping)] if isinstance(raw, list) else []
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))[:_MOST_FINDINGS]


def shown_steps(first: float, last: float) -> str:
    """``step 40`` or ``steps 40 to 90``."""
    return f"step {first:,.0f}" if first == last else f"steps {first:,.0f} to {last:,.0f}"


def show_row(row: Mapping[str, Any]) -> str:
    """A row that was left out, on one line."""
    return "; ".join(f"{humanise(str(key))}: {cut(show_plain(value), 120)}" for key, value in islice(row.items(), 6))


def _finding(entry: Mapping[str, Any]) -> Finding:
    severity = str(entry.get("severity", "info")).lower()
    title, what = (str(entry.get(key) or "") for key in ("title", "what"))
    return Finding(
        severity=severity if severity in SEVERITIES else "info",
        title=title or what or str(entry.get("id") or "Finding"),
        what=what if title else "",
        evidence=_evidence(entry.get("evidence")),
        rows=_short_list(entry.get("rows") or []),
        remedy=str(entry.get("remedy") or entry.get("mend") or ""),
        id=str(entry.get("id") or ""),
        why=str(entry.get("why") or ""),
        certainty=_CERTAINTIES.get(str(entry.get("certainty")), ""),
        steps=_steps(entry),
        series=_series(entry.get("figures")),
    )


def _steps(entry: Mapping[str, Any]) -> tuple[float, float] | None:
    first, last = finite(entry.get("first_step")), finite(entry.get("last_step"))
    return None if first is None or last is None or last < first else (first, last)


def _series(figures: Any) -> tuple[str, ...]:
    listed = [one for one in figures if isinstance(one, Mapping)] if isinstance(figures, list) else []
    return tuple(dict.fromkeys(str(one["series"]) for one in listed if one.get("series")))


def _evidence(evidence: Any) -> str:
    """Evidence as a sentence; named figures are held to the rule for shares like any other."""
    if not isinstance(evidence, Mapping):
        return show_plain(evidence) if evidence else ""
    shown = (f"{fact.label} {fact.value}" + (f" ({fact.remark})" if fact.remark else "") for fact in _facts(evidence))
    return "; ".join(islice(shown, 12)) + "."


def _short_list(rows: Any) -> str:
    if not isinstance(rows, list):
        return show_plain(rows)
    more = f" and {len(rows) - 8:,} more" if len(rows) > 8 else ""
    return ", ".join(show_plain(row) for row in rows[:8]) + more


def _miscount(read: float | None, used: float | None, rejected: Mapping[str, Any]) -> str:
    """A sentence where read is not used + left out; rows may never be lost silently."""
    if read is None or used is None:
        return ""
    left_out = sum(finite(count) or 0.0 for count in rejected.values())
    if read == used + left_out:
        return ""
    figures = (show_number(count) for count in (read, used, left_out))
    return "The counts do not add up: {} rows read, {} used, {} left out.".format(*figures)


def _length_tables(audit: Mapping[str, Any]) -> list[Table]:
    """Lengths in characters, and for every split that was tokenised in tokens."""
    tables = [_lengths("Lengths in characters", mapping(audit.get("lengths")))]
    for split, receipt in islice(mapping(audit.get("tokens")).items(), 6):
        caption = f"Lengths in tokens, {humanise(str(split)).lower()}"
        tables.append(_lengths(caption, mapping(mapping(receipt).get("lengths"))))
    return [table for table in tables if table]


def _lengths(caption: str, lengths: Mapping[str, Any]) -> Table | None:
    """One row a part (prompt, chosen, rejected), the columns as the file orders them."""
    parts = {str(name): part for name, part in islice(lengths.items(), 12) if isinstance(part, Mapping)}
    keys = list(dict.fromkeys(key for part in parts.values() for key in part))[:8]
    if not keys:
        return None
    rows = [[humanise(name), *(_length(part.get(key)) for key in keys)] for name, part in parts.items()]
    return Table(caption, [str(key) for key in keys], rows)


def _length(value: Any) -> str:
    number = finite(value)
    return show_plain(value or "") if number is None else show_number(number, None if number == int(number) else 1)


def _facts(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[Fact]:
    for key, value in values.items():
        label = f"{prefix}: {humanise(str(key)).lower()}" if prefix else humanise(str(key))
        measure = read_measure(str(key), value)
        if measure is not None:
            title = f"{prefix}: {measure.title.lower()}" if prefix else measure.title
            yield Fact(title, show_value(measure), show_interval(measure))
        elif key == "lengths" or value in ({}, []):
            continue  # lengths have tables of their own
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _facts(value, label, depth + 1)
        elif isinstance(value, list) and len(value) > 8:
            yield Fact(label, f"{len(value):,} entries")
        elif isinstance(value, float) and names_a_share(str(key)):
            yield Fact(label, "—", "not printed: n or interval is missing")
        else:
            number = finite(value)
            yield Fact(label, show_plain(value) if number is None else show_number(number))
