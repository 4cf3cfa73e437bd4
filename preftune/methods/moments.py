"""The measures of a run: before its first step, after its last, and what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftune.evaluate.measures import Measure


@dataclass(frozen=True)
class Moments:
    """Measures before the first step and after the last one, and what changed between them.

    ``spreads`` are the single values, ``before`` and ``after``, of what a mean alone would hide.
    """

    before: Mapping[str, Measure]
    after: Mapping[str, Measure]
    change: Mapping[str, Measure]
    spreads: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    def __or__(self, other: Moments) -> Moments:
        return Moments(
            {**self.before, **other.before},
            {**self.after, **other.after},
            {**self.change, **other.change},
            {**self.spreads, **other.spreads},
        )

    def as_document(self) -> dict[str, dict[str, Any]]:
        """The moments as ``eval.json`` holds them; ``spreads`` only where there are some."""
        parts = {"before": self.before, "after": self.after, "change": self.change}
        told = {name: {key: measure.as_dict() for key, measure in part.items()} for name, part in parts.items()}
        return told | ({"spreads": dict(self.spreads)} if self.spreads else {})


def spread_of(before: Sequence[float], after: Sequence[float]) -> dict[str, list[float]]:
    """Single values of both moments, as ``Moments`` keeps them; those that are not finite are left out."""
    return {
        name: [float(value) for value in values if math.isfinite(value)]
        for name, values in (("before", before), ("after", after))
    }
