"""The page of an evaluation: the verdict first, then who wins, what it cost, the frontier, best of n, and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from preftune.report.answers import as_text
from preftune.report.compare_page import SharedPrompt, left_out
from preftune.report.drawing import Drawing
from preftune.report.eval_charts import Spot, best_of_chart, frontier_chart, lengths_chart, win_rate_chart
from preftune.report.eval_verdict import Win, eval_verdict, moved, short_names, wins_of, worth_of
from preftune.report.measures import (
    Measure,
    read_measure,
    read_measures,
    show_difference,
    show_difference_interval,
)
from preftune.report.rendering import write_page
from preftune.report.run_files import finite, mapping

_OPEN, _SHOWN = 4, 24
_COLUMNS = (
    ("reward", "Reward"),
    ("ranking_accuracy", "Preferred answer likelier"),
    ("accuracy", "Accuracy"),
    ("mean_length", "Length, tokens"),
    ("kl", "KL from the start, nats"),
    ("retention_loss", "General text, nats a token"),
)


@dataclass(frozen=True)
class Standing:
    """One who answered: a row of the table, with its win rate against the start where it was taken."""

    name: str
    role: str
    win_rate: Measure | None
    figures: list[Measure | None]
    left_out: str


@dataclass(frozen=True)
class Change:
    """What moved from the start, in words."""

    title: str
    value: str
    interval: str
    verdict: str
    direction: str


@dataclass(frozen=True)
class Promise:
    """A promise of the gate and whether it holds."""

    said: str
    is_kept: bool
    why: str


@dataclass(frozen=True)
class FrontierRow:
    """A checkpoint of the frontier's table."""

    number: int
    name: str
    reward: Measure | None
    kl: Measure | None
    behind: str
    is_best: bool


@dataclass(frozen=True)
class EvalView:
    """Everything the template of an evaluation prints."""

    headline: str
    is_alarm: bool
    sentences: list[str]
    facts: list[tuple[str, str]]
    gate: list[Promise]
    columns: list[str]
    standings: list[Standing]
    wins: list[Win]
    win_chart: Drawing | None
    changes: list[Change]
    lengths: Drawing | None
    frontier: list[FrontierRow]
    frontier_chart: Drawing | None
    frontier_said: list[str]
    best_of_chart: Drawing | None
    best_of_said: str
    human: list[tuple[str, Measure]]
    human_said: str
    all_measures: list[tuple[str, list[tuple[str, Measure]]]]
    not_taken: list[tuple[str, str]]
    names: list[str]
    shown: list[SharedPrompt]
    folded: list[SharedPrompt]
    prompts: int
    made: str


def write_eval_page(document: Mapping[str, Any], path: Path, *, made: str = "") -> Path:
    """Writes the page of an evaluation's document (``Evaluation.as_dict()``) to ``path``."""
    return write_page("eval.html", Path(path), page=view_evaluation(document, made))


def view_evaluation(document: Mapping[str, Any], made: str = "") -> EvalView:
    """The page's content; parts that were not measured are left out or said, never guessed."""
    models = [mapping(one) for one in document.get("models") or []]
    names = short_names(models)
    wins = wins_of(document, names)
    verdict = eval_verdict(document)
    standings = [_standing(one, names, document) for one in models]
    used = [place for place in range(len(_COLUMNS)) if any(one.figures[place] for one in standings)]
    first = next((one for one in models if one.get("role") == "model"), models[0] if models else {})
    frontier, curve = mapping(document.get("frontier")), mapping(document.get("best_of_n"))
    moves = sorted(mapping(first.get("changes")).items(), key=lambda one: not str(one[0]).startswith("reward"))
    changes = [_change(str(name), entry) for name, entry in moves]
    answers = [mapping(one) for one in islice(document.get("answers") or [], _SHOWN)]
    exchanges = [_exchange(one, list(names)) for one in answers]
    return EvalView(
        headline=verdict.headline,
        is_alarm=verdict.is_alarm,
        sentences=verdict.sentences,
        facts=_facts(document),
        gate=[_promise(mapping(one)) for one in document.get("gate") or []],
        columns=[_COLUMNS[place][1] for place in used],
        standings=[replace(one, figures=[one.figures[place] for place in used]) for one in standings],
        wins=wins,
        win_chart=win_rate_chart([(one.number, one.rate) for one in wins if one.rate is not None]),
        changes=[one for one in changes if one is not None],
        lengths=_lengths(models, first),
        frontier=list(_frontier_rows(frontier)),
        frontier_chart=_frontier_chart(frontier),
        frontier_said=[str(frontier[key]) for key in ("sentence", "note") if frontier.get(key)],
        best_of_chart=_best_of_chart(curve, first),
        best_of_said=str(curve.get("sentence") or ""),
        human=list(read_measures(mapping(document.get("human")).get("measures")).items()),
        human_said=str(mapping(document.get("human")).get("sentence") or ""),
        all_measures=[
            (
                names[str(one.get("name"))],
                [(found.title, found) for found in read_measures(one.get("measures")).values()],
            )
            for one in models
        ],
        not_taken=[(str(name), str(why)) for name, why in mapping(document.get("not_taken")).items()],
        names=list(names.values()),
        shown=exchanges[:_OPEN],
        folded=exchanges[_OPEN:],
        prompts=len(document.get("answers") or []),
        made=made,
    )


def _standing(model: Mapping[str, Any], names: Mapping[str, str], document: Mapping[str, Any]) -> Standing:
    measures = read_measures(model.get("measures"))
    name = str(model.get("name"))
    matches = [mapping(one) for one in document.get("win_rates") or []]
    won = next((one for one in matches if one.get("model") == name and one.get("key") == "start"), {})
    rate = read_measures(won.get("measures")).get("win_rate")
    found = (measures.get(key) for key, _ in _COLUMNS)
    figures = [one if one is None or one.is_share else replace(one, unit="") for one in found]  # it is in the heading
    return Standing(names[name], str(model.get("role") or ""), rate, figures, left_out(model))


def _facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("Data", str(document["data"]))] if document.get("data") else []
    for key, title in (("pairs", "Pairs"), ("prompts", "Prompts answered")):
        if count := finite(document.get(key)):
            facts.append((title, f"{count:,.0f}"))
    judging = mapping(document.get("judging"))
    if judging:
        cost = finite(judging.get("cost"))
        facts.append(("Judge", ", ".join(mapping(judging.get("judges")))))
        if cost is not None:
            facts.append(("Cost", f"{cost:.4g} US dollars"))
    return facts


def _promise(kept: Mapping[str, Any]) -> Promise:
    bound = "at least" if "at_least" in kept else "at most"
    figure = finite(kept.get("at_least", kept.get("at_most")))
    end = "its value" if kept.get("by") == "value" else f"the {kept.get('by')} end of its interval"
    said = f"{kept.get('measure')} {bound} {'?' if figure is None else f'{figure:g}'}, by {end}"
    return Promise(said, bool(kept.get("kept")), str(kept.get("why") or ""))


def _change(name: str, entry: Any) -> Change | None:
    measure = read_measure(name, entry)
    if measure is None:
        return None
    verdict, direction = "No measurable change.", "unchanged"
    if measure.low is None or measure.high is None:
        verdict, direction = "No interval, so no verdict.", "unknown"
    elif moved(measure):
        direction = "rose" if measure.value > 0 else "fell"
        worth = f", which is {worth}" if (worth := worth_of(name, measure)) else ""
        side = "above" if measure.value > 0 else "below"
        verdict = f"It {direction}{worth}: the whole interval is {side} zero."
    title = measure.title.removeprefix("Change of ")
    if not name.startswith("lm_eval/"):  # else it begins with a task's name
        title = title[:1].upper() + title[1:]
    return Change(title, show_difference(measure), show_difference_interval(measure), verdict, direction)


def _lengths(models: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> Drawing | None:
    start = next((one for one in models if one.get("role") == "start"), None)
    if start is None:
        return None
    before, after = ([float(n) for n in one.get("lengths") or [] if finite(n) is not None] for one in (start, first))
    return lengths_chart(before, after)


def _frontier_rows(frontier: Mapping[str, Any]) -> Iterator[FrontierRow]:
    for number, entry in enumerate(frontier.get("points") or [], start=1):
        point = mapping(entry)
        behind = read_measure("behind", point.get("behind_best"))
        said = "" if behind is None else f"{show_difference(behind)} ({show_difference_interval(behind)})"
        yield FrontierRow(
            number,
            str(point.get("name")),
            read_measure("reward", point.get("reward")),
            read_measure("kl", point.get("kl")),
            said,
            bool(point.get("is_best")),
        )


def _frontier_chart(frontier: Mapping[str, Any]) -> Drawing | None:
    points = [mapping(one) for one in frontier.get("points") or []]
    runs = list(dict.fromkeys(str(one.get("run")) for one in points))
    spots = []
    for number, point in enumerate(points, start=1):
        reward, kl = read_measure("reward", point.get("reward")), read_measure("kl", point.get("kl"))
        if reward is not None and kl is not None:
            spots.append(Spot(runs.index(str(point.get("run"))), number, reward, kl, bool(point.get("is_best"))))
    return frontier_chart(spots, runs)


def _best_of_chart(curve: Mapping[str, Any], first: Mapping[str, Any]) -> Drawing | None:
    points = [
        (int(n), reward)
        for one in curve.get("points") or []
        if (n := finite(mapping(one).get("n"))) and (reward := read_measure("reward", mapping(one).get("reward")))
    ]
    return best_of_chart(points, read_measures(first.get("measures")).get("reward"))


def _exchange(answer: Mapping[str, Any], names: Sequence[str]) -> SharedPrompt:
    given = mapping(answer.get("completions"))
    return SharedPrompt(as_text(answer.get("prompt")), [as_text(given.get(name)) for name in names], "")
