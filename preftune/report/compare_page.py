"""The page of several models side by side: measures with their intervals, and answers to the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preftune.errors import PreftuneError
from preftune.report.answers import as_text
from preftune.report.eval_verdict import moved, short_names, who_won
from preftune.report.measures import (
    Measure,
    read_measure,
    read_measures,
    show_difference,
    show_difference_interval,
    show_interval,
    show_value,
)
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
    sentences: list[str]
    made: str
    models: list[tuple[str, str, str]]  # name, path, what it could not use
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
    short = short_names(models)
    names = [short[str(m.get("name"))] if m.get("name") else f"model {n}" for n, m in enumerate(models, start=1)]
    rows = _rows(names, list(comparison.get("measures") or []), mapping(comparison.get("differences")))
    win = mapping(comparison.get("win_rate"))
    rate = read_measure("win_rate", mapping(win.get("measures")).get("win_rate"))
    answers = list(comparison.get("answers") or [])
    exchanges = [_exchange(mapping(answer), len(names)) for answer in islice(answers, _SHOWN)]
    count = finite(comparison.get("n"))
    return ComparisonView(
        headline=_headline(names, rows) if rate is None else who_won(names[-1], names[0], rate),
        sentences=[one for one in _sentences(rows, comparison, win, rate) if one],
        made=" · ".join(_made(comparison.get("made"), count)),
        models=[
            (name, str(model.get("path") or ""), left_out(model)) for name, model in zip(names, models, strict=True)
        ],
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


def left_out(model: Mapping[str, Any]) -> str:
    """The pairs and prompts that a model could not use, in words."""
    parts = [
        f"{count:,.0f} {noun}{'' if count == 1 else 's'}"
        for key, noun in (("left_out", "pair"), ("unasked", "prompt"))
        if (count := finite(model.get(key)))
    ]
    return f"left out: {' and '.join(parts)}" if parts else ""


def _sentences(
    rows: Sequence[ComparisonRow], comparison: Mapping[str, Any], win: Mapping[str, Any], rate: Measure | None
) -> Iterator[str]:
    if rate is not None:
        said = str(win.get("sentence") or "")
        yield f"Win rate {show_value(rate)} ({show_interval(rate)}). {rate.explanation} {said[:1].upper()}{said[1:]}."
    elif why := mapping(comparison.get("not_taken")).get("win_rate"):
        yield f"No win rate: {why}"
    yield rows[0].verdict if rows else "Nothing was measured, so nothing is claimed."


def _of_difference(names: Sequence[str], difference: Measure) -> str:
    """The order by the items' own differences, the second minus the first: sharper than two intervals side by side."""
    figures = f"{show_difference(difference)} ({show_difference_interval(difference)})"
    if not moved(difference):
        return f"No measurable difference: {names[1]} minus {names[0]} {figures}."
    return f"{names[1]} is {'higher' if difference.value > 0 else 'lower'} than {names[0]}: {figures}."


def _rows(names: Sequence[str], measured: Sequence[Any], differences: Mapping[str, Any]) -> list[ComparisonRow]:
    by_model = [read_measures(measures) for measures in measured[: len(names)]]
    by_model += [{} for _ in range(len(names) - len(by_model))]
    rows = []
    for name in dict.fromkeys(name for measures in by_model for name in measures):
        measures = [found.get(name) for found in by_model]
        known = next(measure for measure in measures if measure)
        difference = read_measure(name, differences.get(name)) if len(names) == 2 else None
        verdict = order_of(names, measures) if difference is None else _of_difference(names, difference)
        rows.append(ComparisonRow(known.title, known.explanation, measures, verdict))
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
