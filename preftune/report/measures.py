"""Measured figures as text: a value with its unit, its 95% interval and its n.

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
        """True for a share between 0 and 1, or a difference of two; it is printed in percent."""
        return self.unit.lower() in _SHARE_UNITS or (self.unit.lower() in _NO_UNITS and names_a_share(self.name))

    @property
    def is_printable(self) -> bool:
        """False for a share that lacks n or interval."""
        return self.has_interval or not (self.is_share or self.unit.lower() in _PERCENT_UNITS)


def read_measure(name: str, raw: Any) -> Measure | None:
    """The measure in a mapping with ``value``, ``low``, ``high``, ``n``; None without a finite value."""
    if not isinstance(raw, Mapping):
        return None
    value, low, high, count = (finite(raw.get(key)) for key in ("value", "low", "high", "n"))
    if value is None:
        return None
    if low is None or high is None or low > high:
        low = high = None
    return Measure(
        name=name,
        title=cut(str(raw.get("title") or humanise(name)), 120),
        explanation=str(raw.get("explanation") or ""),
        unit=cut(str(raw.get("unit") or "").strip(), 40),
        value=value,
        low=low,
        high=high,
        n=int(count) if count is not None and count >= 1 else None,
    )


def read_measures(raw: Any) -> dict[str, Measure]:
    """Every readable measure of a mapping, by name, in the file's order."""
    if not isinstance(raw, Mapping):
        return {}
    found = ((str(name), read_measure(str(name), entry)) for name, entry in raw.items())
    return {name: measure for name, measure in found if measure is not None}


def show_value(measure: Measure | None) -> str:
    """The value with its unit, like "71.2%" or "1.38 nats"; a dash where it may not be printed."""
    if measure is None or not measure.is_printable:
        return "—"
    return _with_unit(measure, [measure.value])[0]


def show_interval(measure: Measure | None) -> str:
    """The interval and n, like "95% interval 66.6% to 75.4%, n = 400"; says so where they are missing."""
    if measure is None:
        return "not measured"
    if not measure.is_printable:
        return "not printed: n or interval is missing"
    count = _count(measure)
    if measure.low is None or measure.high is None:
        return f"no interval{count}"
    low, high = _with_unit(measure, [measure.low, measure.high], with_word=False)
    return f"95% interval {low} to {high}{count}"


def show_difference(measure: Measure) -> str:
    """A difference with its sign, like "+8.3 points" (for shares) or "−0.21 nats"; a dash as for values."""
    if not measure.is_printable:
        return "—"
    if measure.is_share:
        return f"{_signed(100 * measure.value)} points"
    return ("+" if measure.value > 0 else "") + show_value(measure)


def show_difference_interval(measure: Measure) -> str:
    """The interval and n of a difference, in percentage points for shares."""
    if not measure.is_share or measure.low is None or measure.high is None or measure.n is None:
        return show_interval(measure)
    return f"95% interval {_signed(100 * measure.low)} to {_signed(100 * measure.high)}{_count(measure)}"


def show_number(value: float, decimals: int | None = None) -> str:
    """A number for readers: sensible decimals, thousands separated, a true minus sign."""
    if decimals is None and value == int(value) and abs(value) < 1e15:
        return _true_minus(f"{int(value):,}")
    if decimals is None:
        decimals = _decimals([value])
    is_extreme = 0 < abs(value) < 0.001 or abs(value) >= 1e9
    return _true_minus(f"{value:.3g}" if is_extreme else f"{value:,.{decimals}f}")


def show_plain(value: Any) -> str:
    """Any value of a settings or audit file as short text; long text and deep containers are cut."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list) and len(value) <= 8 and all(isinstance(part, str | int | float) for part in value):
        return ", ".join(show_plain(part) for part in value)
    return cut(value if isinstance(value, str) else _SHORT.repr(value), 600)


def cut(text: str, longest: int) -> str:
    """The text, or its beginning and how much was left out."""
    if len(text) <= longest:
        return text
    return f"{text[:longest]} … ({len(text) - longest:,} more characters)"


def humanise(key: str) -> str:
    """A key of a file as a label: "truncated_prompts" becomes "Truncated prompts"."""
    words = re.sub(r"[_\s]+", " ", key).strip()
    return words[:1].upper() + words[1:]


def names_a_share(name: str) -> bool:
    """True for the name of an accuracy or rate, which must not be printed as a bare number."""
    return bool(_SHARE_NAME.search(name))


def _count(measure: Measure) -> str:
    return "" if measure.n is None else f", n\u00a0=\u00a0{measure.n:,}"


def _with_unit(measure: Measure, values: list[float], with_word: bool = True) -> list[str]:
    if measure.is_share:
        return [_true_minus(f"{100 * value:.1f}%") for value in values]
    ends = [end for end in (measure.value, measure.low, measure.high) if end is not None]
    shown = [show_number(value, _decimals(ends)) for value in values]
    unit = measure.unit
    if unit.lower() in _PERCENT_UNITS:
        return [f"{value}%" for value in shown]
    if unit.lower() in _NO_UNITS or not with_word:
        return shown
    return [f"{value} {unit}" for value in shown]


def _decimals(values: list[float]) -> int:
    largest = max(abs(value) for value in values)
    if largest >= 1000 or largest == 0:
        return 0
    if largest >= 100:
        return 1
    return 2 if largest >= 1 else 3


def _signed(value: float) -> str:
    return _true_minus(f"{value:+.1f}")


def _true_minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxlist, _SHORT.maxtuple = 3, 12, 24, 24
_SHORT.maxstring, _SHORT.maxother = 200, 200
