"""The page of several models side by side: measures with their intervals, and answers to the same prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError
from preftune.report.answers import as_text
from preftune.report.measures import Measure, read_measures, show_value
from preftune.report.rendering import write_page
from preftune.report.run_files import finite, mapping

_OPEN, _SHOWN = 6, 60


@dataclass(frozen=True)
class ComparisonRow:
    """One measure of every model, and what can be said of the order."""

    title: str
    explanation: str
    measures: list[Measure | None]
    verdict: str


@dataclass(frozen=True)
class SharedPrompt:
    """A prompt, every model's answer in order, and the answer that the data prefers."""

    prompt: str
    completions: list[str]
    chosen: str


@dataclass(frozen=True)
class ComparisonView:
    """Everything the template of a comparison prints."""

    headline: str
    sentence: str
    made: str
    models: list[tuple[str, str]]
    rows: list[ComparisonRow]
    shown: list[SharedPrompt]
    folded: list[SharedPrompt]
    prompts: int


def write_comparison(comparison: Mapping[str, Any], path: Path) -> Path:
    """Writes the page of ``comparison`` to ``path``; PreftuneError without models or on a full disk."""
    return write_page("compare.html", Path(path), page=view_comparison(comparison))


def view_comparison(comparison: Mapping[str, Any]) -> ComparisonView:
    """The page's content; parts that are absent are left out, never guessed."""
    models = [mapping(model) for model in comparison.get("models") or []]
    if not models:
        mend = "Name two models: preftune compare A B."
        raise PreftuneError("There are no models to compare.", where="models", mend=mend)
    names = [str(model.get("name") or f"model {number}") for number, model in enumerate(models, start=1)]
    rows = _rows(names, list(comparison.get("measures") or []))
    answers = list(comparison.get("answers") or [])
    exchanges = [_exchange(mapping(answer), len(names)) for answer in islice(answers, _SHOWN)]
    count = finite(comparison.get("n"))
    return ComparisonView(
        headline=_headline(names, rows),
        sentence=rows[0].verdict if rows else "Nothing was measured, so nothing is claimed.",
        made=" · ".join(_made(comparison.get("made"), count)),
        models=[(name, str(model.get("path") or "")) for name, model in zip(names, models, strict=True)],
        rows=rows,
        shown=exchanges[:_OPEN],
        folded=exchanges[_OPEN:],
        prompts=len(answers),
    )


def order_of(names: Sequence[str], measures: Sequence[Measure | None]) -> str:
    """Which model is highest and from whose interval its own stands apart, as a sentence."""
    known = [(name, measure) for name, measure in zip(names, measures, strict=True) if measure]
    if len(known) < 2:
        return "Measured for fewer than two models."
    bounds = [(name, m, m.low, m.high) for name, m in known if m.low is not None and m.high is not None]
    if len(bounds) < len(known) or not all(measure.has_interval for _, measure in known):
        return "No verdict: n or an interval is missing."
    best, highest, low, _ = max(bounds, key=lambda bound: bound[1].value)
    beside = [name for name, measure, _, high in bounds if measure is not highest and high >= low]
    if not beside:
        return f"{best} is highest; its interval overlaps no other."
    return f"No clear order: the interval of {best} overlaps that of {', '.join(beside)}."


def _rows(names: Sequence[str], measured: Sequence[Any]) -> list[ComparisonRow]:
    by_model = [read_measures(measures) for measures in measured[: len(names)]]
    by_model += [{} for _ in range(len(names) - len(by_model))]
    rows = []
    for name in dict.fromkeys(name for measures in by_model for name in measures):
        measures = [found.get(name) for found in by_model]
        known = next(measure for measure in measures if measure)
        rows.append(ComparisonRow(known.title, known.explanation, measures, order_of(names, measures)))
    return sorted(rows, key=lambda row: "accurac" not in row.title.lower())


def _headline(names: Sequence[str], rows: Sequence[ComparisonRow]) -> str:
    if not rows:
        return " and ".join(names) if len(names) < 3 else f"{len(names)} models side by side"
    values = [f"{show_value(measure)} for {name}" for name, measure in zip(names, rows[0].measures, strict=True)]
    return f"{rows[0].title}: {', '.join(values)}"


def _made(made: Any, count: float | None) -> list[str]:
    parts = [str(made)] if made else []
    return [*parts, f"{int(count):,} examples"] if count is not None else parts


def _exchange(answer: Mapping[str, Any], models: int) -> SharedPrompt:
    completions = [as_text(text) for text in islice(answer.get("completions") or [], models)]
    completions += [""] * (models - len(completions))
    return SharedPrompt(as_text(answer.get("prompt")), completions, as_text(answer.get("chosen")))
