"""What a detector is: a pure function of a run, and for which runs it is meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preftune.diagnose.findings import Outcome
from preftune.diagnose.series import RunLog


@dataclass(frozen=True)
class Detector:
    """``detect`` looks for one failure; ``needs`` are alternatives of series, one of each group must be there.

    ``methods`` empty means every method; ``documents`` are those it can tell from without curves. ``is_live`` says
    whether it may run while the training goes.
    """

    id: str
    name: str
    detect: Callable[[RunLog], Outcome]
    needs: Sequence[Sequence[str]] = ()
    methods: frozenset[str] = frozenset()
    documents: Sequence[str] = ()
    is_live: bool = True
