"""The page of ``preftune align``: what was decided at every turn, and why, with the figures; then what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from preftune.errors import PreftuneError
from preftune.report.measures import Measure, cut, read_measure, read_measures
from preftune.report.rendering import write_page
from preftune.report.run_files import mapping

FILE = "align.json"
_MOST_ANSWERS = 6
_NAMES = {"none": "No", "judge": "Yes", "sft": "Yes", "kept": "Yes", "broken": "No", "yes": "Yes", "no": "No"}
_METHODS = {"ppo": "Yes, for PPO", "online-dpo": "Yes, for online DPO"}
_VERDICTS = {"rising": "Yes", "plateau": "No", "falling": "No, it went too far", "cannot tell": "It cannot be told"}
_ENDS = {"low": "the low end of its interval", "high": "the high end of its interval"}


@dataclass(frozen=True)
class TurnView:
    """A decision: the question, what was decided, why; and candidates with accuracy, reward and length."""

    title: str
    choice: str
    why: str
    candidates: list[tuple[str, Measure | None, Measure | None, str]]


@dataclass(frozen=True)
class PromiseView:
    """A promise of the gate and what became of it."""

    promise: str
    state: str
    is_kept: bool
    why: str


@dataclass(frozen=True)
class AlignView:
    """Everything the template prints; ``stages`` are name, method, state and link."""

    title: str
    made: str
    headline: str
    sentence: str
    turns: list[TurnView]
    stages: list[tuple[str, str, str, str]]
    measures: list[tuple[str, Measure, Measure | None]]
    gate: list[PromiseView]
    answers: list[tuple[str, list[tuple[str, str]]]]
    about: list[tuple[str, str]]


def write_align_page(folder: Path) -> Path:
    """Writes ``report.html`` into the folder of a way, from its ``align.json``; PreftuneError where there is none."""
    return write_page("align.html", folder / "report.html", page=view_align(folder))


def view_align(folder: Path) -> AlignView:
    """The page's content."""
    document = _read(folder / FILE)
    if document is None:
        raise PreftuneError("This folder holds no way.", where=str(folder), mend="Give the --output of preftune align.")
    decisions = [mapping(one) for one in document.get("decisions") or []]
    evaluation = mapping(document.get("evaluation")) if document.get("finished") else {}  # else of an earlier call
    gate = [_promise(mapping(one)) for one in evaluation.get("gate") or []]
    return AlignView(
        title=folder.resolve().name or "align",
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        headline=_headline(document, gate),
        sentence=_sentence(document, evaluation),
        turns=[_turn(one) for one in decisions],
        stages=list(_stages(folder)),
        measures=_measures(evaluation),
        gate=gate,
        answers=_answers(evaluation),
        about=_about(document),
    )


def _headline(document: Mapping[str, Any], gate: Sequence[PromiseView]) -> str:
    if not document.get("finished"):
        return "On the way: the same command goes on"
    broken = sum(not one.is_kept for one in gate)
    if broken:
        return f"The gate is broken: {broken} of {len(gate)} {'promise' if len(gate) == 1 else 'promises'} not kept"
    return "The model keeps what was promised"


def _sentence(document: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    if not document.get("finished"):
        return "What was decided so far stands below."
    chosen = str(document.get("chosen_name") or document.get("chosen") or "")
    measures = read_measures(evaluation.get("measures"))
    told = [f"Chosen is {chosen}."] if chosen else []
    if accuracy := _told(measures.get("preference_accuracy")):
        told.append(f"On pairs that nothing had looked at it prefers what people preferred in {accuracy}.")
    if rate := _told(measures.get("win_rate")):
        told.append(f"The judge prefers its answers to the start's in {rate}.")
    return " ".join(told)


def _told(measure: Measure | None) -> str:
    """A share with its interval and n, in words; empty where there is none."""
    if measure is None or measure.low is None or measure.high is None:
        return ""
    return f"{measure.value:.1%} ({measure.low:.1%} to {measure.high:.1%}, n = {measure.n})"


def _turn(decision: Mapping[str, Any]) -> TurnView:
    figures = mapping(decision.get("figures"))
    candidates = [mapping(one) for one in figures.get("candidates") or []]
    choice = str(decision.get("choice"))
    return TurnView(
        title=str(decision.get("title") or decision.get("name") or ""),
        choice=_answer(choice, figures),
        why=cut(str(decision.get("why") or ""), 2000),
        candidates=[
            (
                str(one.get("name")),
                read_measure("accuracy", one.get("accuracy")),
                read_measure("reward", one.get("reward")),
                f"{float(one.get('length') or 0):.0f}" if one.get("length") else "",
            )
            for one in candidates
        ],
    )


def _answer(choice: str, figures: Mapping[str, Any]) -> str:
    """What answers the question; of a plateau test its verdict, and what the way goes on with."""
    verdict = _VERDICTS.get(str(figures.get("verdict")))
    if verdict is not None:
        return f"{verdict}; on with {choice}"
    return _METHODS.get(choice) or _NAMES.get(choice, choice)


def _stages(folder: Path) -> Any:
    document = _read(folder / "pipeline.json") or {}
    for entry in islice(document.get("stages") or [], 60):
        found = mapping(entry)
        place, state = str(found.get("folder") or ""), str(found.get("status") or "")
        if state == "waiting":
            continue
        is_inside = place not in ("", ".", "..") and "/" not in place
        link = f"{quote(place)}/report.html" if is_inside and (folder / place / "report.html").is_file() else ""
        yield str(found.get("name")), str(found.get("method")), state, link


def _measures(evaluation: Mapping[str, Any]) -> list[tuple[str, Measure, Measure | None]]:
    """The chosen model's measures, each beside its change from the start."""
    found = read_measures(evaluation.get("measures"))
    plain = {name: one for name, one in found.items() if not name.startswith("change/") and not name.endswith("/start")}
    return [(one.title, one, found.get(f"change/{name}")) for name, one in plain.items()]


def _promise(one: Mapping[str, Any]) -> PromiseView:
    bound = f"at least {one['at_least']:g}" if "at_least" in one else f"at most {one.get('at_most', 0):g}"
    is_kept = bool(one.get("kept"))
    by = str(one.get("by"))
    promise = f"{one.get('measure')} {bound}, by {_ENDS.get(by, f'its {by}')}"
    return PromiseView(promise, "kept" if is_kept else "broken", is_kept, str(one.get("why") or ""))


def _answers(evaluation: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    shown = []
    for raw in islice(evaluation.get("answers") or [], _MOST_ANSWERS):
        one = mapping(raw)
        texts = [(_named(str(name)), cut(_text(text), 1500)) for name, text in mapping(one.get("completions")).items()]
        if texts:
            shown.append((cut(str(one.get("prompt") or ""), 1500), texts))
    return shown


def _named(path: str) -> str:
    """A stage's model by the stage."""
    place = Path(path)
    return place.parent.name if place.name == "model" and place.parent.name else path


def _text(value: Any) -> str:
    return str(value[0]) if isinstance(value, list) and value else str(value)


def _about(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    options, sizes = mapping(document.get("options")), mapping(document.get("sizes"))
    rows = [(str(name), str(value)) for name, value in options.items() if value is not None]
    rows += [(f"pairs in {name}", f"{count:,}") for name, count in sizes.items()]
    minutes = document.get("minutes")
    return rows + ([("minutes", f"{minutes:.0f}")] if isinstance(minutes, int | float) else [])


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
