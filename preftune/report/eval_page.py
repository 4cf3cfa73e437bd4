"""The page of an evaluation: the verdict first, then who wins, what it cost, the frontier, best of n, and answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from preftune.report.answers import as_text
from preftune.report.compare_page import SharedPrompt
from preftune.report.drawing import Drawing
from preftune.report.eval_charts import Spot, best_of_chart, frontier_chart, lengths_chart, win_rate_chart
from preftune.report.measures import (
    Measure,
    read_measure,
    read_measures,
    show_difference,
    show_difference_interval,
    show_interval,
    show_number,
    show_value,
)
from preftune.report.rendering import write_page
from preftune.report.run_files import finite, mapping

_OPEN, _SHOWN = 4, 24
_COLUMNS = (
    ("reward", "Reward"),
    ("ranking_accuracy", "Preferred answer likelier"),
    ("accuracy", "Accuracy"),
    ("mean_length", "Length"),
    ("kl", "KL from the start"),
    ("retention_loss", "General text"),
)


@dataclass(frozen=True)
class Standing:
    """One who answered: a row of the table, with its win rate against the start where it was taken."""

    name: str
    role: str
    win_rate: Measure | None
    figures: list[Measure | None]


@dataclass(frozen=True)
class Win:
    """A comparison: its number in the picture, who and whom, the measures and what differences need."""

    number: int
    model: str
    against: str
    rate: Measure | None
    controlled: Measure | None
    why_not: str
    ties: Measure | None
    remark: str


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
    wins = list(_wins(document, names))
    standings = [_standing(one, names, document) for one in models]
    used = [place for place in range(len(_COLUMNS)) if any(one.figures[place] for one in standings)]
    first = next((one for one in models if one.get("role") == "model"), models[0] if models else {})
    frontier, curve = mapping(document.get("frontier")), mapping(document.get("best_of_n"))
    changes = [_change(name, entry) for name, entry in mapping(first.get("changes")).items()]
    answers = [mapping(one) for one in islice(document.get("answers") or [], _SHOWN)]
    exchanges = [_exchange(one, list(names)) for one in answers]
    return EvalView(
        headline=_headline(document, first, wins, names),
        sentences=[one for one in _sentences(document, first, wins) if one],
        facts=_facts(document),
        gate=[_promise(mapping(one)) for one in document.get("gate") or []],
        columns=[_COLUMNS[place][1] for place in used],
        standings=[
            Standing(one.name, one.role, one.win_rate, [one.figures[place] for place in used]) for one in standings
        ],
        wins=wins,
        win_chart=win_rate_chart([one.rate for one in wins if one.rate is not None]),
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


def short_names(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What the page calls each model: its folder, or what it is beside the first; names that would meet stay whole."""
    short: dict[str, str] = {}
    for one in models:
        name, role = str(one.get("name")), str(one.get("role") or "")
        parts = [part for part in name.split("/") if part and part != "model"]
        plain = parts[-1] if parts else name
        if role == "start":
            plain = "the start" if "the start" not in short.values() else f"the start {plain}"
        elif role == "prompted":
            plain = f"the start + {name.rpartition(' + ')[2]}"
        short[name] = plain if plain not in short.values() else name
    return short


def _standing(model: Mapping[str, Any], names: Mapping[str, str], document: Mapping[str, Any]) -> Standing:
    measures = read_measures(model.get("measures"))
    name = str(model.get("name"))
    won = next((one for one in _matches(document) if one.get("model") == name and one.get("key") == "start"), {})
    rate = read_measures(mapping(won).get("measures")).get("win_rate")
    return Standing(names[name], str(model.get("role") or ""), rate, [measures.get(key) for key, _ in _COLUMNS])


def _wins(document: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Win]:
    for number, match in enumerate(_matches(document), start=1):
        measures = read_measures(match.get("measures"))
        model, against = (str(match.get(key)) for key in ("model", "against"))
        missing = ", ".join(f"{reason} {count}" for reason, count in mapping(match.get("missing")).items())
        remark = str(match.get("sentence") or "")
        yield Win(
            number=number,
            model=names.get(model, model),
            against=names.get(against, against),
            rate=measures.get("win_rate"),
            controlled=measures.get("lc_win_rate"),
            why_not=str(mapping(match.get("not_taken")).get("lc_win_rate") or ""),
            ties=measures.get("ties"),
            remark=f"{remark[:1].upper()}{remark[1:]}." + (f" Without a verdict: {missing}." if missing else ""),
        )


def _matches(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [mapping(one) for one in document.get("win_rates") or []]


def _headline(
    document: Mapping[str, Any], first: Mapping[str, Any], wins: Sequence[Win], names: Mapping[str, str]
) -> str:
    own = names.get(str(first.get("name")), "")
    known = [one for one in wins if one.model == own and one.rate is not None]
    if known and (rate := known[0].rate) is not None:
        said = f"wins {show_value(rate)} against {known[0].against}"
        return f"{own} {said}" if _is_clear(rate) else f"{own} {said}: no measurable difference"
    for key in ("reward", "ranking_accuracy"):
        change = read_measure(key, mapping(first.get("changes")).get(key))
        if change is not None:
            return f"{change.title}: {show_difference(change)}{'' if _moved(change) else ', not measurable'}"
    measures = read_measures(first.get("measures"))
    for key in ("preference_accuracy", "ranking_accuracy", "accuracy"):
        if key in measures:
            return f"{measures[key].title}: {show_value(measures[key])}"
    if said := mapping(document.get("human")).get("sentence"):
        return str(said)
    return "Nothing was measured, so nothing is claimed"


def _sentences(document: Mapping[str, Any], first: Mapping[str, Any], wins: Sequence[Win]) -> Iterator[str]:
    """The verdict's ground: intervals, what prompting gives, what was forgotten, what training is worth, the gate."""
    for one in wins[:1]:
        yield f"Win rate {show_value(one.rate)} ({show_interval(one.rate)}). {one.remark}"
        if one.controlled is not None:
            yield f"At equal lengths it would be {show_value(one.controlled)} ({show_interval(one.controlled)})."
    yield _on_prompting(wins)
    forgotten = read_measure("retention_loss", mapping(first.get("changes")).get("retention_loss"))
    if forgotten is not None:
        grown = "general text became less likely" if (forgotten.low or 0) > 0 else "no measurable loss on general text"
        grown = "general text became likelier" if (forgotten.high or 0) < 0 else grown
        yield f"Retention: {grown}, {show_difference(forgotten)} ({show_difference_interval(forgotten)})."
    yield str(mapping(document.get("best_of_n")).get("sentence") or "")
    yield str(mapping(document.get("human")).get("sentence") or "")
    gate = [mapping(one) for one in document.get("gate") or []]
    if gate:
        broken = sum(not one.get("kept") for one in gate)
        yield "All promises of the gate are kept." if not broken else f"{broken} of {len(gate)} promises are broken."


def _on_prompting(wins: Sequence[Win]) -> str:
    """Is training better than prompting? By the direct comparisons."""
    against = [one for one in wins if one.against.startswith("the start + ") and one.rate is not None]
    if not against:
        return ""
    better = [one for one in against if one.rate is not None and (one.rate.low or 0.0) > 0.5]
    worse = [one for one in against if one.rate is not None and (one.rate.high or 1.0) < 0.5]
    if len(better) == len(against):
        return "Training is better than prompting: it wins against each way of prompting the start."
    if worse:
        return f"Prompting alone does better: {', '.join(one.against for one in worse)} wins."
    return "Whether training is better than prompting cannot be told from these prompts."


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
            facts.append(("Cost", f"{cost:.4f} US dollars"))
    return facts


def _promise(kept: Mapping[str, Any]) -> Promise:
    bound = "at least" if "at_least" in kept else "at most"
    figure = finite(kept.get("at_least", kept.get("at_most")))
    end = "its value" if kept.get("by") == "value" else f"the {kept.get('by')} end of its interval"
    said = f"{kept.get('measure')} {bound} {show_number(figure) if figure is not None else '?'}, by {end}"
    return Promise(said, bool(kept.get("kept")), str(kept.get("why") or ""))


def _change(name: str, entry: Any) -> Change | None:
    measure = read_measure(name, entry)
    if measure is None:
        return None
    verdict, direction = "No measurable change.", "unchanged"
    if measure.low is None or measure.high is None:
        verdict, direction = "No interval, so no verdict.", "unknown"
    elif _moved(measure):
        direction = "rose" if measure.value > 0 else "fell"
        verdict = f"It {direction}: the whole interval is {'above' if measure.value > 0 else 'below'} zero."
    title = measure.title.removeprefix("Change of ")
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


def _is_clear(rate: Measure) -> bool:
    return rate.low is not None and rate.high is not None and not rate.low <= 0.5 <= rate.high


def _moved(change: Measure) -> bool:
    return change.low is not None and change.high is not None and not change.low <= 0 <= change.high
