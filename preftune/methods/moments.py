"""The measures of a run: before its first step, after its last, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preftune.evaluate.measures import Measure


@dataclass(frozen=True)
class Moments:
    """Measures before the first step and after the last one, and what changed between them."""

    before: Mapping[str, Measure]
    after: Mapping[str, Measure]
    change: Mapping[str, Measure]

    def __or__(self, other: Moments) -> Moments:
        return Moments(self.before | other.before, self.after | other.after, self.change | other.change)  # type: ignore[operator]

    def as_document(self) -> dict[str, dict[str, Any]]:
        """The moments as ``eval.json`` holds them."""
        parts = {"before": self.before, "after": self.after, "change": self.change}
        return {name: {key: measure.as_dict() for key, measure in part.items()} for name, part in parts.items()}
