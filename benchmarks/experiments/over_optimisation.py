"""When does more of a proxy become less of what is wanted? Best-of-n with two kinds of noise, and the closed form.

    python -m benchmarks.experiments.over_optimisation [--seeds 0 1 2 3 4] [--output FILE]

Completions have a true worth from a standard normal, and a proxy score that adds noise to it. Where the noise is
normal, the best of n by the proxy is better the larger n is; where its tails are heavy (Student's t with three degrees
of freedom), the best of many is the luckiest noise. A seed draws ``SAMPLES`` completions for each of ``PROMPTS``
prompts; the order-statistic estimator makes every n of the same samples, without bias. Both forms of Gao et al. 2022
(arXiv:2210.10760) are fitted to the measured gold scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from scipy.stats import norm, t

from benchmarks.experiments.best_of_n import Fit, chances_of_best, fit_best_of_n, fit_rl, kl_of_best
from benchmarks.experiments.findings import (
    Claim,
    Result,
    Run,
    about,
    claim_above,
    claims_table,
    experiment,
    figures,
    markdown,
    over_seeds,
    told,
)
from benchmarks.experiments.plots import Curve, Panel

PROMPTS, SAMPLES, PROMPTS_AT_ONCE = 1000, 16384, 100
SIZES = tuple(2**k for k in range(14))  # of best-of-n
SHOWN = (1, 4, 16, 64, 256, 1024, 8192)
DEGREES = 3
NOISES: Final[dict[str, Any]] = {"Gaussian": norm(), f"Student-t({DEGREES})": t(DEGREES)}
HEAVY = f"Student-t({DEGREES})"
SETTINGS = {"prompts": PROMPTS, "samples": SAMPLES, "degrees_of_freedom": DEGREES}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "over-optimisation", SETTINGS, runs_of)))


def runs_of(seed: int, prompts: int = PROMPTS, samples: int = SAMPLES) -> Iterator[Run]:
    """Gold and proxy score of best-of-n, every n and noise of a seed."""
    for noise, law in NOISES.items():
        draw = np.random.default_rng([seed, *noise.encode()])
        sizes = [n for n in SIZES if n <= samples]
        chances = np.stack([chances_of_best(n, samples) for n in sizes], axis=1)
        parts = []
        for begin in range(0, prompts, PROMPTS_AT_ONCE):
            shape = (min(PROMPTS_AT_ONCE, prompts - begin), samples)
            gold = draw.normal(size=shape)
            proxy = gold + law.rvs(size=shape, random_state=draw)
            order = proxy.argsort(axis=1)
            ranked = (np.take_along_axis(values, order, axis=1) for values in (gold, proxy))
            parts.append([values @ chances for values in ranked])
        golds, proxies = (np.concatenate([part[kind] for part in parts]).mean(0) for kind in (0, 1))
        for n, gold_mean, proxy_mean in zip(sizes, golds.tolist(), proxies.tolist(), strict=True):
            yield {"seed": seed, "noise": noise, "n": n, "kl": kl_of_best(n), "gold": gold_mean, "proxy": proxy_mean}


def exact(noise: str, sizes: Sequence[int] = SIZES) -> Float[np.ndarray, "sizes 2"]:
    """Gold and proxy score of best-of-n, by quadrature.

    The best of n has the proxy score z with the density of F(z)^n, F being the distribution of proxy scores, and then
    the gold score E[g | z]. Both come from an integral over g at each z of a grid that is dense in the middle.
    """
    law = NOISES[noise]
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    z = np.sinh(np.linspace(np.arcsinh(-200.0), np.arcsinh(1e5), 12001))
    apart = z[:, None] - nodes
    density, above = law.pdf(apart), law.sf(apart) @ weights
    gold = (density @ (weights * nodes)) / np.maximum(density @ weights, 1e-300)
    middle, gold_between = (z[1:] + z[:-1]) / 2, (gold[1:] + gold[:-1]) / 2
    found = []
    for n in sizes:
        mass = np.diff(np.exp(n * np.log1p(-np.minimum(above, 1 - 1e-16))))
        found.append([mass @ gold_between / mass.sum(), mass @ middle / mass.sum()])
    return np.array(found)


def fits(runs: Sequence[Run], noise: str, fit: Callable[[Sequence[float], Sequence[float]], Fit]) -> list[Fit]:
    """The fit of each seed's gold scores from n = 2 on; at n = 1 both forms are 0."""
    seeds = sorted({run["seed"] for run in runs})
    found = []
    for seed in seeds:
        own = [run for run in runs if run["seed"] == seed and run["noise"] == noise and run["n"] > 1]
        found.append(fit([run["kl"] for run in own], [run["gold"] for run in own]))
    return found


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Heavy tails: a peak at 16 and most of it lost at the end; normal noise: never less."""

    def gold(noise: str, n: int) -> list[float]:
        return figures(runs, "gold", noise=noise, n=n)

    peak = gold(HEAVY, 16)
    return [
        claim_above("Student-t: gold at n = 16 above n = 4", peak, gold(HEAVY, 4)),
        claim_above("Student-t: gold at n = 16 above n = 64", peak, gold(HEAVY, 64)),
        claim_above(
            "Student-t: at n = 8192 more than half of the peak is lost", [one / 2 for one in peak], gold(HEAVY, 8192)
        ),
        claim_above(
            "Student-t: the proxy still rises from n = 1024 to 8192",
            *(figures(runs, "proxy", noise=HEAVY, n=n) for n in (8192, 1024)),
        ),
        claim_above("Gaussian: gold still rises from n = 1024 to 8192", gold("Gaussian", 8192), gold("Gaussian", 1024)),
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    parts = [
        about(result, "over_optimisation"),
        f"{settings['prompts']:,} prompts and {settings['samples']:,} samples each a seed: exact; measured, mean over "
        f"{len(result['seeds'])} seeds with its 95% interval.",
        _score_table(runs),
        claims_table(claims(runs), 2),
        "**Forms of Gao et al.**, fitted to each seed's gold scores from n = 2 on; means over seeds.",
        _fit_table(runs),
    ]
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """Gold and proxy by KL, a panel a noise."""
    panels = []
    for noise in NOISES:
        kls = [kl_of_best(n) for n in SIZES]
        true = exact(noise)
        curves = [
            Curve("gold, exact", kls, true[:, 0].tolist()),
            Curve("gold, measured", kls, _means(result["runs"], noise, "gold"), dots=True),
            Curve("proxy / 10, exact", kls, (true[:, 1] / 10).tolist(), colour=1, dashed=True),
        ]
        panels.append(Panel(f"{noise} noise", "KL of best-of-n (nats)", "score", curves, level=0.0))
    return panels


def _means(runs: Sequence[Run], noise: str, figure: str) -> list[float]:
    return [over_seeds(figures(runs, figure, noise=noise, n=n)).value for n in SIZES]


def _score_table(runs: Sequence[Run]) -> str:
    rows = []
    for noise in NOISES:
        true = exact(noise, SHOWN)
        for column, figure in enumerate(("gold", "proxy")):
            cells = [
                f"{true[i, column] + 0.0:.2f}; {told(over_seeds(figures(runs, figure, noise=noise, n=n)), 2, 1)}"
                for i, n in enumerate(SHOWN)
            ]
            rows.append([f"{figure}, {noise} noise", *cells])
    return markdown(["n (KL, nats)", *(f"{n} ({kl_of_best(n):.2f})" for n in SHOWN)], rows)


def _fit_table(runs: Sequence[Run]) -> str:
    rows = []
    for noise in NOISES:
        for name, fit in (("d (alpha - beta d)", fit_best_of_n), ("d (alpha - beta log d)", fit_rl)):
            found = fits(runs, noise, fit)
            peaks = [one.peak for one in found]
            peak = told(over_seeds(peaks), 2, 1) if all(np.isfinite(peaks)) and max(peaks) < 100 else "none"
            cells = [
                told(over_seeds([getattr(one, name) for one in found]), 3, 1) for name in ("alpha", "beta", "r_squared")
            ]
            rows.append([f"{noise} noise, {name}", *cells, peak])
    return markdown(["", "alpha", "beta", "R²", "peak, nats"], rows)


if __name__ == "__main__":
    main()
