"""What the click rate would be if another policy had chosen what is shown, from the log of the one that did.

Inverse-propensity weighting: a shown answer counts as often as the other policy would have shown it, divided by the
logged propensity. The self-normalised form (Swaminathan and Joachims 2015) divides by the weights' sum; weights are
clipped (Ionides 2008), which trades a little bias for much variance.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from preftune.audit.findings import Share, share_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

BUCKETS: Final = 400  # of clusters, between which the bootstrap draws; bounds its memory whatever the log's length
_DRAWS: Final = 2_000


@dataclass(frozen=True)
class OffPolicyRate:
    """The naive click rate of the log, and the estimates of the other policy's, each with its interval.

    ``effective`` is Kish's sample size of the clipped weights; ``clipped`` the share of weights that were cut.
    """

    naive: Share
    weighted: Share
    self_normalised: Share
    n: int
    clicks: int
    effective: float
    clipped: float
    largest: float

    def as_dict(self) -> dict[str, Any]:
        """The figures as the report holds them."""
        return asdict(self)


def off_policy_rate(clicks: Floats, weights: Floats, *, clusters: Ints, clip: float, seed: int) -> OffPolicyRate:
    """The click rate under the policy that ``weights`` lead to: its probability over the logged one, a shown answer.

    ``clusters`` are small whole numbers; rows of one number are drawn together in the bootstrap. ``clip`` is the
    largest weight in mean weights.
    """
    import numpy as np

    limit = clip * float(weights.mean())
    cut = np.minimum(weights, limit)
    n, clicked = len(clicks), int(clicks.sum())
    sums = _sums(clicks, cut, clusters)
    draws = _resampled(sums, seed)
    return OffPolicyRate(
        naive=share_of(clicked, n, "Click rate of the log", "Clicks over shown answers, as the logging policy chose."),
        weighted=_estimate(
            sums[:, 1].sum() / n, draws[:, 1] / draws[:, 0], n, "Inverse-propensity click rate", "Mean weighted click."
        ),
        self_normalised=_estimate(
            sums[:, 1].sum() / sums[:, 2].sum(),
            draws[:, 1] / draws[:, 2],
            n,
            "Self-normalised click rate",
            "Weighted clicks over the sum of weights.",
        ),
        n=n,
        clicks=clicked,
        effective=effective_size(cut),
        clipped=float((weights > limit).mean()),
        largest=float(weights.max() / weights.mean()),
    )


def effective_size(weights: Floats) -> float:
    """Kish's effective sample size: how many equal weights would be as good."""
    return float(weights.sum() ** 2 / (weights @ weights)) if len(weights) else 0.0


def bucket_of(name: str | int) -> int:
    """The bootstrap bucket of a cluster's name."""
    return zlib.crc32(str(name).encode()) % BUCKETS


def _sums(clicks: Floats, weights: Floats, clusters: Ints) -> Floats:
    """Rows, weighted clicks and weights of each cluster, (clusters, 3)."""
    import numpy as np

    parts: Sequence[Any] = (np.ones(len(clicks)), weights * clicks, weights)
    sums = np.stack([np.bincount(clusters, part).astype(np.float64) for part in parts], axis=1)
    return sums[sums[:, 0] > 0]


def _resampled(sums: Floats, seed: int) -> Floats:
    """The sums of draws of clusters with replacement, (draws, 3)."""
    import numpy as np

    clusters = len(sums)
    counts = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=_DRAWS)
    draws: Floats = np.matmul(counts.astype(np.float64), sums)
    return draws


def _estimate(value: float, draws: Floats, n: int, title: str, explanation: str) -> Share:
    import numpy as np

    low, high = np.quantile(draws, [0.025, 0.975])
    return Share(float(value), float(low), float(high), n, title, f"{explanation} Interval: bootstrap over clusters.")
