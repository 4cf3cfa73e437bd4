"""The page of a sweep of weights: what each soup is worth by every reward, and how two of them trade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from preftune.report.measures import Measure, read_measures
from preftune.report.pareto_view import Candidate, ParetoView, view_pareto
from preftune.report.rendering import write_page
from preftune.report.run_files import mapping

_MOST_REWARDS = 3


@dataclass(frozen=True)
class SoupView:
    """Everything the template of a sweep prints; ``soups`` are name, folder and a measure a column."""

    headline: str
    sentence: str
    made: str
    models: list[str]
    columns: list[str]
    soups: list[tuple[str, str, list[Measure | None]]]
    fronts: list[ParetoView]


def write_soup_page(document: Mapping[str, Any], path: Path) -> Path:
    """Writes the page of what ``preftune soup`` found to ``path``."""
    return write_page("soup.html", path, page=view_soups(document))


def view_soups(document: Mapping[str, Any]) -> SoupView:
    """The page's content."""
    entries = [mapping(entry) for entry in document.get("soups") or []]
    measured = [(_name(entry), read_measures(entry.get("measures"))) for entry in entries]
    names = list(dict.fromkeys(name for _, measures in measured for name in measures))
    fronts = []
    for number, (across, up) in enumerate(combinations(names[:_MOST_REWARDS], 2)):
        both = [Candidate(name, found[across], found[up]) for name, found in measured if {across, up} <= found.keys()]
        fronts.append(view_pareto(both, f"pareto-{number}"))
    known = [front for front in fronts if front is not None]
    return SoupView(
        headline=f"{len(entries)} models between {_and(document.get('models') or [])}",
        sentence=known[0].sentence if known else "Each is the weighted mean of the models' weights.",
        made=str(document.get("made") or ""),
        models=[str(model) for model in document.get("models") or []],
        columns=[next(found[name].title for _, found in measured if name in found) for name in names],
        soups=[
            (name, str(entry.get("folder") or ""), [found.get(column) for column in names])
            for entry, (name, found) in zip(entries, measured, strict=True)
        ],
        fronts=known,
    )


def _name(entry: Mapping[str, Any]) -> str:
    weights = entry.get("weights") or []
    return " / ".join(f"{weight:.2f}" if isinstance(weight, int | float) else str(weight) for weight in weights)


def _and(models: Sequence[Any]) -> str:
    return " and ".join(Path(str(model)).name or str(model) for model in models)
