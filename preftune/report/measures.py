"""Measured figures as text: a value with its unit, its 95% interval and n, and what a change amounts to.

A share (accuracy, rate) without n or interval is never printed.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preftune.report.run_files import finite

_SHARE_NAME = re.compile(r"accurac|(^|[_/ ])(rate|share|fraction|frac|wins)($|[_/ ])", re.IGNORECASE)
_SHARE_UNITS = {"share", "fraction", "rate", "proportion", "probability", "accuracy"}
_PERCENT_UNITS = {"%", "percent"}
_NO_UNITS = {"", "none", "ratio", "1"}


@dataclass(frozen=True)
class Measure:
    """One measured figure; ``low`` and ``high`` bound its 95% interval, ``n`` is what it was counted over."""

    name: str
    title: str
    explanation: str
    unit: str
    value: float
    low: float | None
    high: float | None
    n: int | None

    @property
    def has_interval(self) -> bool:
        return self.low is not None and self.high is not None and self.n is not None

    @property
    def is_share(self) -> bool:
        """True for a share between 0 and 1, which is printed in percent."""
        if self.unit.lower() in _SHARE_UNITS:
            return True
        ends = [end for end in (self.value, self.low, self.high) if end is not None]
        within = all(-1 <= end <= 1 for end in ends)
        unit_allows = self.unit.lower() in _NO_UNITS | _PERCENT_UNITS
        return within and unit_allows and bool(_SHARE_NAME.search(self.name))


def read_measure(name: str, raw: Any) -> Measure | None:
    """The measure in a mapping with ``value``, ``low``, ``high``, ``n``; None where it has no finite value."""
    if not isinstance(raw, Mapping):
        return None
    value = finite(raw.get("value"))
    if value is None:
        return None
    count = finite(raw.get("n"))
    return Measure(
        name=name,
        title=str(raw.get("title") or humanise(name)),
        explanation=str(raw.get("explanation") or ""),
        unit=str(raw.get("unit") or ""),
        value=value,
        low=finite(raw.get("low")),
        high=finite(raw.get("high")),
        n=None if count is None else int(count),
    )


def show_value(measure: Measure | None) -> str:
    """The value with its unit, like "71.2%" or "1.38 nats"; a dash where it is missing or may not be printed."""
    if measure is None or _is_bare_share(measure):
        return "—"
    return _with_unit(measure, [measure.value])[0]


def show_difference(measure: Measure) -> str:
    """A difference with its sign; for shares in percentage points."""
    if measure.is_share:
        return f"{_signed(100 * measure.value, 1)} points"
    sign = "+" if measure.value > 0 else ""
    return sign + show_value(measure)


def show_interval(measure: Measure | None) -> str:
    """The interval and n, like "95% interval 66.6% to 75.4%, n = 400"; says so where they are missing."""
    if measure is None:
        return "not measured"
    if _is_bare_share(measure):
        return "not printed: n or interval is missing"
    count = "" if measure.n is None else f"n = {measure.n:,}"
    if measure.low is None or measure.high is None:
        return f"no interval, {count}" if count else "no interval"
    low, high = _with_unit(measure, [measure.low, measure.high], with_word=False)
    return f"95% interval {low} to {high}" + (f", {count}" if count else "")


def describe_change(before: Measure | None, after: Measure | None) -> str:
    """One sentence: does ``after`` lie outside the interval of ``before``, and do the intervals overlap?"""
    if before is None or after is None:
        return ""
    if not before.has_interval or not after.has_interval:
        return "No verdict: an interval is missing."
    direction = compare(before, after)
    if direction == "same":
        return "Inside the interval of before: no measurable change."
    word = "Above" if direction.endswith("higher") else "Below"
    if direction.startswith("clearly"):
        return f"{word} the interval of before; the two intervals do not overlap."
    return f"{word} the interval of before, but the two intervals overlap."


def compare(before: Measure, after: Measure) -> str:
    """"clearly higher", "higher", "same", "lower" or "clearly lower"; clearly: the intervals do not overlap."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return "same"
    if after.value > before.high:
        return "clearly higher" if after.low > before.high else "higher"
    if after.value < before.low:
        return "clearly lower" if after.high < before.low else "lower"
    return "same"


def show_number(value: float, decimals: int | None = None) -> str:
    """A number for readers: sensible decimals, thousands separated, a true minus sign."""
    if value == int(value) and decimals is None and abs(value) < 1e15:
        return _signed_text(f"{int(value):,}")
    if decimals is None:
        decimals = _decimals([value])
    text = f"{value:.3g}" if 0 < abs(value) < 0.001 or abs(value) >= 1e9 else f"{value:,.{decimals}f}"
    return _signed_text(text)


def show_plain(value: Any) -> str:
    """Any value of a settings or audit file as short text; containers are cut at a sane depth and length."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.10g}" if isinstance(value, float) else str(value)
    return value if isinstance(value, str) else _SHORT.repr(value)


def humanise(key: str) -> str:
    """A key of a file as a label: "truncated_prompts" becomes "Truncated prompts"."""
    percentile = re.fullmatch(r"p(\d{1,2})", key)
    if percentile:
        return f"{_ordinal(int(percentile[1]))} percentile"
    words = re.sub(r"[_\s]+", " ", key).strip()
    return words[:1].upper() + words[1:]


def _ordinal(number: int) -> str:
    ending = "th" if number in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def names_a_share(name: str) -> bool:
    """True for the name of an accuracy or rate, which must not be printed as a bare number."""
    return bool(_SHARE_NAME.search(name))


def _is_bare_share(measure: Measure) -> bool:
    is_percent = measure.unit.lower() in _PERCENT_UNITS
    return (measure.is_share or is_percent) and not measure.has_interval


def _with_unit(measure: Measure, values: list[float], with_word: bool = True) -> list[str]:
    if measure.is_share:
        return [f"{_signed(100 * value, 1, plus=False)}%" for value in values]
    unit = measure.unit.strip()
    decimals = _decimals([end for end in (measure.value, measure.low, measure.high) if end is not None])
    shown = [show_number(value, decimals) for value in values]
    if unit.lower() in _PERCENT_UNITS:
        return [f"{value}%" for value in shown]
    if unit.lower() in _NO_UNITS or not with_word:
        return shown
    return [f"{value} {unit}" for value in shown]


def _decimals(values: list[float]) -> int:
    largest = max(abs(value) for value in values)
    if largest >= 1000:
        return 0
    if largest >= 100:
        return 1
    return 2 if largest >= 10 else 3


def _signed(value: float, decimals: int, plus: bool = True) -> str:
    return _signed_text(f"{value:+.{decimals}f}" if plus else f"{value:.{decimals}f}")


def _signed_text(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 3, 12, 24, 24
_SHORT.maxstring, _SHORT.maxother = 200, 200
