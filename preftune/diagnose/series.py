"""What a run has left to be looked at: its curves, settings and samples, whichever tool wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Series:
    """One metric: ``steps`` ascend, ``values`` may hold NaN and infinities where they were logged; equal lengths.

    ``logged_as`` is the name it had in the log it was read from.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    logged_as: str = ""

    def __len__(self) -> int:
        return len(self.steps)

    def finite(self) -> Series:
        """The same without the points that are not finite."""
        kept = np.isfinite(self.values)
        return self if kept.all() else Series(self.name, self.steps[kept], self.values[kept], self.logged_as)


@dataclass(frozen=True)
class Sample:
    """A completion that was kept, with what is known of it; ``prompt_id`` tells samples of one prompt."""

    step: int
    prompt_id: str
    text: str
    tokens: int | None = None
    reward: float | None = None
    finished: bool | None = None


@dataclass(frozen=True)
class RunLog:
    """A run as detectors see it.

    ``series`` are by canonical name (preftune's, which are TRL's); evaluation ones begin with ``eval_``. ``config``
    holds the settings by TRL's names, as far as the log has them. ``method`` is sft, reward, dpo, ipo, kto, orpo,
    simpo, ppo, grpo, rloo or online-dpo, None where it cannot be told. ``notes`` say what could not be read.
    """

    name: str
    tool: str
    series: Mapping[str, Series]
    config: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    samples: Sequence[Sample] = ()
    documents: Mapping[str, Any] = field(default_factory=dict)  # eval.json, audit.json and the like, by name
    notes: Sequence[str] = ()

    def get(self, *names: str) -> Series | None:
        """The first of these series that has a finite point."""
        for name in names:
            series = self.series.get(name)
            if series is not None and np.isfinite(series.values).any():
                return series
        return None

    @property
    def last_step(self) -> int:
        """The last step of any series; 0 where there is none."""
        return max((int(series.steps[-1]) for series in self.series.values() if len(series)), default=0)
