"""Confident learning's estimate of the rate of wrong labels (Northcutt et al. 2021), by cleanlab."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preftune.audit.findings import Share
from preftune.audit.pair_features import Floats
from preftune.errors import PreftuneError

DRAWS = 200  # of the bootstrap
MOST_ROWS = 20_000  # drawn where there are more: cleanlab is asked DRAWS times


def confident_rate(probabilities: Floats, prompts: NDArray[np.int64], seed: int) -> Share:
    """The share of labels that confident learning calls wrong; the interval is of a bootstrap over prompts.

    ``probabilities`` are held-out ones of the given label. A pair is one row of class "first" and, swapped, one of
    class "second", so that no class is commoner.
    """
    joint = _cleanlab()
    draw = np.random.default_rng(seed)
    if len(probabilities) > MOST_ROWS:
        rows = draw.choice(len(probabilities), MOST_ROWS, replace=False)
        probabilities, prompts = probabilities[rows], prompts[rows]
    members = _rows_of_clusters(prompts)
    drawn = [
        _rate(
            joint,
            probabilities[np.concatenate([members[one] for one in draw.integers(len(members), size=len(members))])],
        )
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(drawn, [2.5, 97.5])
    what = "By confident learning, which takes what the models get wrong for wrong labels: an upper estimate."
    value = _rate(joint, probabilities)
    return Share(value, float(low), float(high), len(probabilities), "Wrong labels by confident learning", what)


def _cleanlab() -> Callable[..., Any]:
    try:
        from cleanlab.count import compute_confident_joint
    except ImportError as error:
        what = "Confident learning needs the package cleanlab."
        raise PreftuneError(what, mend="Install it: pip install 'preftune[audit]'.") from error
    return compute_confident_joint


def _rate(joint: Callable[..., Any], probabilities: Floats) -> float:
    rows = len(probabilities)
    labels = np.repeat([0, 1], rows)
    sides = np.column_stack([probabilities, 1 - probabilities])
    counts = joint(labels, np.concatenate([sides, sides[:, ::-1]]))
    return float(1 - np.trace(counts) / counts.sum())


def _rows_of_clusters(clusters: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    order = np.argsort(clusters, kind="stable")
    _, starts = np.unique(clusters[order], return_index=True)
    return np.split(order, starts[1:])
