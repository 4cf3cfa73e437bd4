"""Promises on measures, for CI: a YAML file of bounds, and which of them are broken.

win_rate: {at_least: 0.55}              # the low end of the interval must be 0.55 or more
change/retention_loss: {at_most: 0.02}  # the high end must be 0.02 or less
mean_length: {at_most: 300, by: value}  # the measured value itself
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from preftune.config import one_error
from preftune.errors import PreftuneError
from preftune.evaluate.measure_names import MEASURES, is_measure, nearest_measure
from preftune.evaluate.measures import Measure
from preftune.yaml_file import construct, line_of, read_mapping

By = Literal["value", "low", "high"]
_ENDS: Final = ("value", "low", "high")
_FORM: Final = "Write NAME: {at_least: 0.55} or NAME: {at_most: 0.1}, with by: low, value or high if wanted."


@dataclass(frozen=True)
class Promise:
    """A bound on a measure. ``by`` is the end that must hold it; ``where`` its place in the file."""

    measure: str
    bound: float
    is_lower: bool
    by: By
    where: str

    def sentence(self) -> str:
        """Like "win_rate at least 0.55 by the low end of its interval"."""
        end = "its value" if self.by == "value" else f"the {self.by} end of its interval"
        return f"{self.measure} {'at least' if self.is_lower else 'at most'} {self.bound:g} by {end}"


@dataclass(frozen=True)
class Kept:
    """What became of a promise: ``found`` is the figure that was held against the bound."""

    promise: Promise
    is_kept: bool
    found: float | None
    why: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        one = self.promise
        bound = {"at_least" if one.is_lower else "at_most": one.bound}
        return {
            "measure": one.measure,
            **bound,
            "by": one.by,
            "found": self.found,
            "kept": self.is_kept,
            "why": self.why,
        }


def read_gate(path: str | Path) -> tuple[Promise, ...]:
    """The promises of a file; PreftuneError tells all that is wrong with it, each with its line."""
    file = Path(path)
    document = read_mapping(file)
    if document.root is None:
        raise PreftuneError("The gate promises nothing.", where=str(file), mend=_FORM)
    problems = list(document.problems)
    promises: list[Promise] = []
    for key, node in document.root.value:
        where = f"{file}:{line_of(key)}"
        try:
            promises += _promises(str(construct(key, str)), node, where)
        except PreftuneError as problem:
            problems.append(problem)
    if problems:
        raise one_error(problems)
    return tuple(promises)


def check_gate(
    promises: Sequence[Promise], measures: Mapping[str, Measure], not_taken: Mapping[str, str]
) -> tuple[Kept, ...]:
    """Each promise held against its measure; one on a measure that was not taken is broken."""
    return tuple(_checked(one, measures, not_taken) for one in promises)


def _promises(name: str, node: yaml.Node, where: str) -> list[Promise]:
    if not is_measure(name):
        near = nearest_measure(name)
        mend = f"Did you mean {near}?" if near else f"There are: {', '.join(MEASURES)}."
        raise PreftuneError(f"There is no measure {name}.", where=where, mend=mend)
    asked = construct(node)
    if not isinstance(asked, dict):
        raise PreftuneError(f"The promise on {name} is no mapping.", where=where, mend=_FORM)
    if unknown := [key for key in asked if key not in ("at_least", "at_most", "by")]:
        raise PreftuneError(f"{unknown[0]} of {name} is not known.", where=where, mend=_FORM)
    by = asked.get("by")
    if by is not None and by not in _ENDS:
        raise PreftuneError(f"by of {name} is {by!r}.", where=where, mend="It is low, value or high.")
    bounds = [(key, asked[key]) for key in ("at_least", "at_most") if key in asked]
    if not bounds:
        raise PreftuneError(f"The promise on {name} has no bound.", where=where, mend=_FORM)
    return [_promise(name, key, bound, by, where) for key, bound in bounds]


def _promise(name: str, key: str, bound: Any, by: Any, where: str) -> Promise:
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
        raise PreftuneError(f"{key} of {name} is {bound!r}.", where=where, mend="It must be a number.")
    is_lower = key == "at_least"
    return Promise(name, float(bound), is_lower, by or ("low" if is_lower else "high"), where)


def _checked(promise: Promise, measures: Mapping[str, Measure], not_taken: Mapping[str, str]) -> Kept:
    measure = measures.get(promise.measure)
    if measure is None or not math.isfinite(measure.value):
        reason = not_taken.get(promise.measure) or not_taken.get(promise.measure.partition("/")[0])
        return Kept(promise, False, None, reason or _not_asked(promise.measure, measures))
    found = float(getattr(measure, promise.by))
    if not math.isfinite(found):
        return Kept(promise, False, None, f"It has no interval: n is {measure.n}.")
    is_kept = found >= promise.bound if promise.is_lower else found <= promise.bound
    return Kept(promise, is_kept, found, str(measure))


def _not_asked(name: str, measures: Mapping[str, Measure]) -> str:
    family = name.rpartition("/")[0] if name.startswith("lm_eval/") else name.partition("/")[0]
    for prefix in (family, family.partition("/")[0]):
        if beside := [other for other in measures if "/" in name and other.startswith(f"{prefix}/")]:
            return f"It was not measured, but {', '.join(beside[:4])}."
    for start, flag in _FLAGS.items():
        if name.removeprefix("change/").startswith(start):
            return f"It was not measured: it needs {flag}."
    return "It was not measured."


_FLAGS: Final = {
    "win_rate": "a start or --against, and --judge or --reward",
    "lc_win_rate": "a start or --against, and --judge or --reward",
    "ties": "a start or --against, and --judge or --reward",
    "rewards/": "--reward",
    "reward_margin": "an adapter, or a start",
    "reward": "--reward",
    "retention": "--retention",
    "lm_eval": "--lm-eval TASK",
    "worth_best_of": "--best-of-n N and --reward",
    "frontier": "--frontier and --reward",
    "human": "--human-result FILE",
    "kl": "an adapter, or a start, and --num-completions above 0",
    "preference_accuracy": "an adapter, or a start",
}
