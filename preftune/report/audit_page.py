"""The page of an audit: what is wrong with the data, the gravest first, with examples and the mend of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preftune.report.audit_view import SEVERITIES, AuditView, Finding, view_audit, view_findings
from preftune.report.measures import Measure, read_measure, show_plain
from preftune.report.rendering import write_page
from preftune.report.run_files import finite, mapping

_MOST_EXAMPLES, _LONGEST_TEXT = 5, 400
_TEXTS = ("prompt", "chosen", "rejected", "text", "training", "why")
_PARTS_OF_TEXT = {
    "prompt": "Prompt",
    "chosen": "Chosen",
    "rejected": "Rejected",
    "text": "Text",
    "training": "Training",
}
# Figures of the whole set that stand at the top, where they were measured; all others are in the tables below.
_HEADLINES = (
    ("longer_wins",),
    ("desirable",),
    ("agreement", "agreement"),
    ("agreement", "alpha"),
    ("mislabelled", "accuracy"),
    ("mislabelled", "rate"),
    ("shortcuts", "together"),
    ("near_duplicates", "repeats"),
    ("leakage", "exact"),
    ("leakage", "near"),
    ("person", "rate"),
    ("ceiling", "expected"),
)


@dataclass(frozen=True)
class Shown:
    """A finding with its share and examples, each a list of label and text, ``why`` last."""

    finding: Finding
    share: Measure | None
    examples: list[list[tuple[str, str]]]


@dataclass(frozen=True)
class AuditPage:
    """Everything the template of an audit prints."""

    source: str
    headline: str
    score: str
    counts: dict[str, int]
    figures: list[tuple[str, Measure]]
    audit: AuditView
    findings: list[Shown]
    sample: str
    not_run: list[tuple[str, str]]
    notes: list[str]
    made: str


def write_audit_page(document: Mapping[str, Any], path: Path, *, source: str = "", made: str = "") -> Path:
    """Writes the page of an audit's document (``Audit.as_dict()``) to ``path``."""
    return write_page("audit.html", path, page=view_page(document, source, made))


def view_page(document: Mapping[str, Any], source: str = "", made: str = "") -> AuditPage:
    """The page's content."""
    findings = [_shown(entry) for entry in document.get("findings") or [] if isinstance(entry, Mapping)]
    findings.sort(key=lambda one: SEVERITIES.index(one.finding.severity))
    counts = {name: sum(one.finding.severity == name for one in findings) for name in SEVERITIES}
    audit = view_audit(document)
    assert audit is not None  # a document has at least its counts
    score = finite(mapping(document.get("ceiling")).get("score"))
    sections = ("findings", "not_run", "notes", "sample")
    return AuditPage(
        source=source,
        headline=_headline(counts),
        score="" if score is None else f"{score:.0f}",
        counts=counts,
        figures=list(_figures(document)),
        audit=view_audit({k: v for k, v in document.items() if k not in sections}) or audit,
        findings=findings,
        sample=_sample(mapping(document.get("sample"))),
        not_run=[(str(name), str(why)) for name, why in mapping(document.get("not_run")).items()],
        notes=[str(note) for note in document.get("notes") or []],
        made=made,
    )


def _shown(entry: Mapping[str, Any]) -> Shown:
    (finding,) = view_findings([entry])
    examples = [one for one in entry.get("examples") or [] if isinstance(one, Mapping)]
    return Shown(
        finding=finding,
        share=read_measure("share", entry.get("share")) if entry.get("share") else None,
        examples=[_example(one) for one in islice(examples, _MOST_EXAMPLES)],
    )


def _example(example: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The row's id, its texts in reading order, and why it is shown."""
    names = [*(name for name in _TEXTS if name in example), *(name for name in example if name not in _TEXTS)]
    ordered = sorted(names, key=lambda name: (name != "id", name == "why"))
    return [(_PARTS_OF_TEXT.get(name, name.capitalize()), _cut(show_plain(example[name]))) for name in ordered]


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def _headline(counts: Mapping[str, int]) -> str:
    words = {"error": "error", "warning": "warning", "info": "note"}
    told = [f"{n} {words[name]}{'' if n == 1 else 's'}" for name, n in counts.items() if n]
    return ", ".join(told) if told else "Nothing was found that needs mending"


def _figures(document: Mapping[str, Any]) -> Iterator[tuple[str, Measure]]:
    for path in _HEADLINES:
        figure: Any = document
        for name in path:
            figure = mapping(figure).get(name)
        measure = read_measure(path[-1], figure) if isinstance(figure, Mapping) else None
        if measure is not None and finite(mapping(figure).get("value")) is not None:
            yield measure.title, measure


def _sample(sample: Mapping[str, Any]) -> str:
    if not sample:
        return ""
    audits = sample.get("audits")
    names = ", ".join(str(name) for name in audits) if isinstance(audits, list) else "some audits"
    looked_at, of = finite(sample.get("looked_at")), finite(sample.get("of"))
    return f"A random {looked_at:,.0f} of {of:,.0f} records were looked at for: {names}." if looked_at and of else ""
