"""What an evaluation comes to, in words: the sentence it begins with, and the ground it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from preftune.report.measures import (
    Measure,
    read_measure,
    read_measures,
    show_difference,
    show_difference_interval,
    show_interval,
    show_value,
)
from preftune.report.run_files import mapping

FEW: Final = 30  # comparisons below which an open verdict is put down to their number
# Of these a rise is good, or bad; of the others neither.
_HIGHER_IS_BETTER: Final = ("reward", "ranking_accuracy", "preference_accuracy", "accuracy")
_LOWER_IS_BETTER: Final = ("retention_loss", "repetition")


@dataclass(frozen=True)
class Win:
    """A comparison: its number in the picture, who and whom, the measures and what differences need."""

    number: int
    model: str
    against: str
    is_prompted: bool
    rate: Measure | None
    controlled: Measure | None
    why_not: str
    ties: Measure | None
    remark: str


@dataclass(frozen=True)
class EvalVerdict:
    """The headline, whether it is an alarm, and the sentences under it."""

    headline: str
    is_alarm: bool
    sentences: list[str]


def eval_verdict(document: Mapping[str, Any]) -> EvalVerdict:
    """The verdict of an evaluation's document: a broken gate before who wins, that before what changed."""
    models = [mapping(one) for one in document.get("models") or []]
    names = short_names(models)
    first = next((one for one in models if one.get("role") == "model"), models[0] if models else {})
    wins = wins_of(document, names)
    own = [one for one in wins if one.model == names.get(str(first.get("name"))) and one.rate is not None]
    gate = [mapping(one) for one in document.get("gate") or []]
    broken = sum(not one.get("kept") for one in gate)
    found = _headline(document, first, own)
    sentences = [one for one in _sentences(document, first, own) if one and one.rstrip(".") != found]
    if not gate:
        return EvalVerdict(found, False, sentences)
    promises = f"{len(gate)} promise{'' if len(gate) == 1 else 's'}"
    if not broken:
        return EvalVerdict(found, False, [f"The gate is passed: {promises} kept.", *sentences])
    headline = f"The gate is not passed: {broken} of {promises} {'is' if broken == 1 else 'are'} broken"
    return EvalVerdict(headline, True, [f"{found}.", *sentences])


def short_names(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each model is called: its folder, or what it is beside the first; names that would meet stay whole."""
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


def wins_of(document: Mapping[str, Any], names: Mapping[str, str]) -> list[Win]:
    """The comparisons, numbered in the document's order."""
    prompted = {str(one.get("name")) for one in document.get("models") or [] if mapping(one).get("role") == "prompted"}
    found = []
    for number, match in enumerate(map(mapping, document.get("win_rates") or []), start=1):
        measures = read_measures(match.get("measures"))
        model, against = (str(match.get(key)) for key in ("model", "against"))
        reasons = mapping(match.get("not_taken"))
        found.append(
            Win(
                number=number,
                model=names.get(model, model),
                against=names.get(against, against),
                is_prompted=against in prompted,
                rate=measures.get("win_rate"),
                controlled=measures.get("lc_win_rate"),
                why_not=str(reasons.get("lc_win_rate") or ""),
                ties=measures.get("ties"),
                remark=_remark(match, measures.get("win_rate")),
            )
        )
    return found


def who_won(model: str, against: str, rate: Measure) -> str:
    """Like "out is better than the start: it wins 63.2% of 150 comparisons"."""
    count = rate.n or 0
    figure = f"wins {show_value(rate)} of {count:,} comparison{'' if count == 1 else 's'}"
    if rate.low is not None and rate.low > 0.5:
        return f"{model} is better than {against}: it {figure}"
    if rate.high is not None and rate.high < 0.5:
        return f"{model} is worse than {against}: it {figure}"
    if count < FEW:
        return f"Too few comparisons to tell {model} from {against}: it {figure}"
    return f"No measurable difference between {model} and {against}: it {figure}"


def moved(change: Measure) -> bool:
    """Whether the whole interval is on one side of zero."""
    return change.low is not None and change.high is not None and not change.low <= 0 <= change.high


def worth_of(name: str, change: Measure) -> str:
    """Better or worse, where the measure's direction says so and it moved; else nothing."""
    if not moved(change) or name not in (*_HIGHER_IS_BETTER, *_LOWER_IS_BETTER):
        return ""
    return "better" if (change.value > 0) == (name in _HIGHER_IS_BETTER) else "worse"


def _remark(match: Mapping[str, Any], rate: Measure | None) -> str:
    missing = ", ".join(f"{reason} {count}" for reason, count in mapping(match.get("missing")).items())
    if rate is None:
        return str(mapping(match.get("not_taken")).get("win_rate") or "There is no verdict.")
    said = str(match.get("sentence") or "")
    return f"{said[:1].upper()}{said[1:]}." + (f" Without a verdict: {missing}." if missing else "")


def _headline(document: Mapping[str, Any], first: Mapping[str, Any], own: Sequence[Win]) -> str:
    if own and own[0].rate is not None:
        return who_won(own[0].model, own[0].against, own[0].rate)
    for key in ("reward", "ranking_accuracy"):
        change = read_measure(key, mapping(first.get("changes")).get(key))
        if change is not None:
            verdict = worth_of(key, change) or "no measurable change"
            return f"{change.title}: {show_difference(change)}, {verdict} ({show_difference_interval(change)})"
    measures = read_measures(first.get("measures"))
    for key in ("preference_accuracy", "ranking_accuracy", "accuracy"):
        if key in measures:
            return f"{measures[key].title}: {show_value(measures[key])} ({show_interval(measures[key])})"
    if said := mapping(document.get("human")).get("sentence"):
        return str(said).removesuffix(".")
    return "Nothing was measured, so nothing is claimed"


def _sentences(document: Mapping[str, Any], first: Mapping[str, Any], own: Sequence[Win]) -> Iterator[str]:
    """The ground: intervals, what prompting gives, what was forgotten, what training is worth, what a person says."""
    if own and own[0].rate is not None:
        rate, controlled = own[0].rate, own[0].controlled
        yield f"Win rate {show_value(rate)} ({show_interval(rate)}). {rate.explanation} {own[0].remark}"
        if controlled is not None:
            yield f"At equal lengths it would be {show_value(controlled)} ({show_interval(controlled)})."
    yield _on_prompting(own)
    forgotten = read_measure("retention_loss", mapping(first.get("changes")).get("retention_loss"))
    if forgotten is not None:
        grown = "general text became less likely" if forgotten.value > 0 else "general text became likelier"
        grown = grown if moved(forgotten) else "no measurable change on general text"
        yield f"Retention: {grown}, {show_difference(forgotten)} ({show_difference_interval(forgotten)})."
    yield str(mapping(document.get("best_of_n")).get("sentence") or "")
    yield str(mapping(document.get("human")).get("sentence") or "")


def _on_prompting(own: Sequence[Win]) -> str:
    """Is training better than prompting? By the direct comparisons of the first model."""
    against = [(one.against, one.rate) for one in own if one.is_prompted and one.rate is not None]
    if not against:
        return ""
    said = ", ".join(f"{show_value(rate)} against {name} ({show_interval(rate)})" for name, rate in against)
    if all((rate.low or 0.0) > 0.5 for _, rate in against):
        return f"Training is better than prompting: it wins {said}."
    if any((1.0 if rate.high is None else rate.high) < 0.5 for _, rate in against):
        return f"Prompting alone does better than training, which wins {said}."
    return f"Whether training is better than prompting cannot be told from these prompts: it wins {said}."
