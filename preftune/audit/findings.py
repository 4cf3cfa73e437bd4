"""What an audit says: a share with its interval, and a finding with its rows and the mend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from preftune.intervals import wilson


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval, as the report prints it; None where nothing was counted."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    title: str
    explanation: str
    unit: str = "share"


@dataclass(frozen=True)
class Finding:
    """Something the user should know or mend; ``rows`` are the ids, or places, of the rows it is about.

    ``share`` says how often, and ``examples`` show a few of the rows, their texts cut.
    """

    id: str
    severity: Literal["error", "warning", "info"]
    title: str
    what: str
    evidence: str
    rows: tuple[str, ...]
    remedy: str
    share: Share | None = None
    examples: tuple[Mapping[str, str], ...] = ()


def share_of(count: int, n: int, title: str, explanation: str) -> Share:
    """``count`` of ``n`` with Wilson's 95% interval; without figures where ``n`` is 0."""
    if not n:
        return Share(None, None, None, 0, title, explanation)
    low, high = wilson(count / n, n)
    return Share(count / n, float(low), float(high), n, title, explanation)


def count_of(number: int, noun: str) -> str:
    """The number with its noun: "1 pair", "1,200 pairs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
