"""What spoils preference data, in doses: pure functions of a share of the rows, from 0 to 1, and a draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
Signs: TypeAlias = NDArray[np.float64]  # 1 where a label is as it was, -1 where it is turned
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Disturbed:
    """The rows that are trained on, by number, and the sign of each one's label."""

    rows: Ints
    signs: Signs


Disturb: TypeAlias = Callable[[Ints, Floats, float, np.random.Generator], Disturbed]


@dataclass(frozen=True)
class Axis:
    """A data problem: ``disturb(rows, longer, share, draw)``, and the shares it is tried at.

    ``longer`` is, of every row of the data, how much longer its chosen answer is. ``what`` says what a share does.
    """

    name: str
    what: str
    shares: tuple[float, ...]
    disturb: Disturb


def flip(rows: Ints, longer: Floats, share: float, draw: np.random.Generator) -> Disturbed:
    """The labels of a share of the rows turned."""
    signs = np.ones(len(rows))
    signs[draw.permutation(len(rows))[: round(share * len(rows))]] = -1
    return Disturbed(rows, signs)


def repeat(rows: Ints, longer: Floats, share: float, draw: np.random.Generator) -> Disturbed:
    """A share of the rows replaced by copies of the others, so that their number stays."""
    order = draw.permutation(len(rows))
    kept = order[: max(1, len(rows) - round(share * len(rows)))]
    copies = draw.choice(kept, len(rows) - len(kept))
    return Disturbed(rows[np.concatenate([kept, copies])], np.ones(len(rows)))


def prefer_longer(rows: Ints, longer: Floats, share: float, draw: np.random.Generator) -> Disturbed:
    """A share of the rows labelled by length alone: the longer answer is chosen, whatever was."""
    signs = np.ones(len(rows))
    hit = draw.permutation(len(rows))[: round(share * len(rows))]
    signs[hit] = np.where(longer[rows[hit]] < 0, -1.0, 1.0)
    return Disturbed(rows, signs)


def lose(rows: Ints, longer: Floats, share: float, draw: np.random.Generator) -> Disturbed:
    """A share of the rows gone."""
    kept = draw.permutation(len(rows))[: max(2, len(rows) - round(share * len(rows)))]
    return Disturbed(rows[np.sort(kept)], np.ones(len(kept)))


COMPARED: Final = 0.25  # the share of rows at which the problems are compared
AXES: Final[Mapping[str, Axis]] = {
    axis.name: axis
    for axis in (
        Axis("noise", "labels turned", (0.1, COMPARED, 0.4), flip),
        Axis("length bias", "labels given by length alone", (0.1, COMPARED, 0.5), prefer_longer),
        Axis("duplication", "rows replaced by copies of others", (COMPARED, 0.5, 0.75), repeat),
        Axis("less data", "rows gone", (COMPARED, 0.5, 0.75), lose),
    )
}
