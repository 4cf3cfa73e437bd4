"""The page of a pipeline: a row a stage, and, where stages have several rewards, how they trade one for another."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from preftune.errors import PreftuneError
from preftune.report.measures import Measure, cut, read_measure
from preftune.report.outcome import Outcome, view_outcome
from preftune.report.pareto_view import Candidate, ParetoView, view_pareto
from preftune.report.rendering import write_page
from preftune.report.run_files import mapping

FILE = "pipeline.json"
# How `eval.json` calls the mean of one reward among several.
REWARD_MEASURE = re.compile(r"rewards?/(?P<name>.+?)(/mean)?")
_MOST_STAGES, _MOST_REWARDS = 60, 3
_STATES = {
    "finished": "Finished",
    "stopped": "Stopped: the same command goes on",
    "running": "Begun and not ended",
    "failed": "Ended by an error",
    "waiting": "Not run yet",
}


@dataclass(frozen=True)
class StageView:
    """A stage in words; ``link`` leads to its own page, empty where there is none."""

    number: str
    name: str
    method: str
    state: str
    error: str
    link: str
    outcome: Outcome | None


@dataclass(frozen=True)
class PipelineView:
    """Everything the template of a pipeline prints."""

    title: str
    made: str
    headline: str
    sentence: str
    stages: list[StageView]
    fronts: list[ParetoView]
    problems: list[str]


def write_pipeline_page(folder: Path) -> Path:
    """Writes ``report.html`` into the pipeline's folder, from ``pipeline.json`` and the files of its stages.

    PreftuneError where the folder holds no pipeline; a stage's file that cannot be read is told on the page.
    """
    folder = Path(folder)
    return write_page("pipeline.html", folder / "report.html", page=view_pipeline(folder))


def view_pipeline(folder: Path) -> PipelineView:
    """The page's content."""
    document = _read(folder / FILE)
    if document is None:
        mend = "Give the output_dir of `preftune run`."
        raise PreftuneError("This folder holds no pipeline.", where=str(folder), mend=mend)
    problems: list[str] = []
    entries = [mapping(entry) for entry in islice(document.get("stages") or [], _MOST_STAGES)]
    evaluations = [_evaluation(folder, entry, problems) for entry in entries]
    stages = [_stage(folder, entry, found) for entry, found in zip(entries, evaluations, strict=True)]
    finished = sum(entry.get("status") == "finished" for entry in entries)
    return PipelineView(
        title=folder.resolve().name or "pipeline",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=_headline(finished, entries),
        sentence=_sentence(entries),
        stages=stages,
        fronts=_fronts(list(zip((stage.name for stage in stages), evaluations, strict=True))),
        problems=problems,
    )


def _headline(finished: int, entries: Sequence[Mapping[str, Any]]) -> str:
    names = ", then ".join(str(entry.get("name")) for entry in entries)
    if finished == len(entries):
        return f"{names}: finished" if entries else "A pipeline without stages"
    return f"{names}: {finished} of {len(entries)} stages finished"


def _sentence(entries: Sequence[Mapping[str, Any]]) -> str:
    open_ones = [entry for entry in entries if entry.get("status") != "finished"]
    if not open_ones:
        return "Each stage started from the model of an earlier one unless its settings say otherwise."
    state = _STATES.get(str(open_ones[0].get("status")), "Not finished")
    return f"{open_ones[0].get('name')}: {state[:1].lower()}{state[1:]}."


def _stage(folder: Path, entry: Mapping[str, Any], evaluation: Mapping[str, Any]) -> StageView:
    name, status = str(entry.get("name") or ""), str(entry.get("status") or "")
    place = str(entry.get("folder") or "")
    has_page = place not in ("", ".", "..") and "/" not in place and (folder / place / "report.html").is_file()
    return StageView(
        number=str(entry.get("number") or ""),
        name=name,
        method=str(entry.get("method") or ""),
        state=_STATES.get(status, "Not known"),
        error=cut(str(entry.get("error") or ""), 600) if status == "failed" else "",
        link=f"{quote(place)}/report.html" if has_page else "",
        outcome=view_outcome(evaluation, prefix=f"stage-{entry.get('number')}-") if evaluation else None,
    )


def _evaluation(folder: Path, entry: Mapping[str, Any], problems: list[str]) -> Mapping[str, Any]:
    file = folder / str(entry.get("folder") or "") / "eval.json"
    if not file.is_file():
        return {}
    found = _read(file)
    if found is None:
        problems.append(f"{file.parent.name}/eval.json is damaged and was left out.")
    return found or {}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


# --- several rewards ------------------------------------------------------------------------------------


def _fronts(evaluations: Sequence[tuple[str, Mapping[str, Any]]]) -> list[ParetoView]:
    """A front for each two of the first rewards that at least one stage was measured by."""
    candidates = [candidate for name, found in evaluations for candidate in _measured(name, found)]
    names = list(dict.fromkeys(reward for _, rewards in candidates if len(rewards) > 1 for reward in rewards))
    fronts = []
    for number, (across, up) in enumerate(combinations(names[:_MOST_REWARDS], 2)):
        both = [Candidate(name, found[across], found[up]) for name, found in candidates if {across, up} <= found.keys()]
        fronts.append(view_pareto(both, f"pareto-{number}"))
    return [front for front in fronts if front is not None]


def _measured(stage: str, evaluation: Mapping[str, Any]) -> list[tuple[str, dict[str, Measure]]]:
    """The rewards of the model that a stage began with and of the one it made."""
    sides = ((f"start of {stage}", "before"), (stage, "after"))
    return [(name, _rewards(mapping(evaluation.get(key)))) for name, key in sides]


def _rewards(measures: Mapping[str, Any]) -> dict[str, Measure]:
    found = {}
    for name, raw in measures.items():
        matched = REWARD_MEASURE.fullmatch(str(name))
        measure = read_measure(str(name), raw) if matched else None
        if matched and measure is not None:
            found[matched["name"]] = measure
    return found
