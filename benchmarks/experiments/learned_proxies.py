"""How much can a learned reward be optimised before the true one falls? By its size, its labels and their noise.

    python -m benchmarks.experiments.learned_proxies [--seeds 0 1 ... 9] [--jobs 2] [--output FILE]

As Gao et al. 2022 (arXiv:2210.10760) in small: the gold score of a completion of the enumerable world is a fixed random
network; proxies of several sizes learn it from pairs that it has labelled, a share of the labels flipped. The policy
is then pushed along each proxy, by best-of-n and by the ideal of reinforcement learning, pi_ref exp(proxy / beta) / Z:
what a PPO that makes no mistake would end at. As the world can be counted, gold score and KL of both are exact for
every n and beta: all chance is in labels and proxies. Both of Gao's forms are fitted to the gold scores. Ensembles
score by their worst member (Coste et al. 2023, arXiv:2310.02743). A seed draws the policy, the gold network, the labels
and the proxies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks.experiments.best_of_n import Fit, best_of, fit_best_of_n, fit_rl
from benchmarks.experiments.enumerable_world import (
    LENGTH,
    N_COMPLETIONS,
    N_SYMBOLS,
    LogProbs,
    expected,
    kl,
    log_probs_of,
    make_policy,
    standardised,
    tilted,
)
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
from preftune.losses import bradley_terry

WIDTHS: Final = {"1k": 16, "20k": 128, "200k": 420}  # of two hidden layers, by the parameters they make
SEEDS = range(10)  # what a proxy gets wrong at its top is a matter of luck: five are too few
LABELS, NOISES = (200, 2000, 20000), (0.0, 0.25)
MEMBERS, ENSEMBLE_WIDTH, ENSEMBLE_LABELS = 5, "20k", 2000
STEPS, BATCH, RATE, PATIENCE, CHECKED_EVERY, HELD_OUT = 2000, 64, 1e-3, 5, 50, 0.1
BEST_OF_N, IDEAL = "best-of-n", "ideal RL"
GOLD_FREQUENCY = 1.0  # deviation of what the gold network's sines are taken of
KLS = tuple(np.linspace(0.25, 8.0, 32).tolist())  # nats, at which gold is measured
SETTINGS = {
    "widths": WIDTHS,
    "labels": LABELS,
    "noises": NOISES,
    "members": MEMBERS,
    "steps": STEPS,
    "batch_size": BATCH,
    "learning_rate": RATE,
    "held_out": HELD_OUT,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "learned-proxies", SETTINGS, runs_of, tuple(SEEDS))))


def runs_of(
    seed: int, widths: Sequence[str] = tuple(WIDTHS), labels: Sequence[int] = LABELS, noises: Sequence[float] = NOISES
) -> Iterator[Run]:
    """Every proxy of a seed, pushed along in both ways; where there is an ensemble, that too."""
    with torch.no_grad():
        reference = log_probs_of(make_policy(seed))
    inputs = one_hot()
    gold = standardised(_random_network(inputs, seed), reference)
    for n_labels in labels:
        for noise in noises:
            pairs = labelled(reference, gold, n_labels, noise, seed)
            for size in widths:
                members = MEMBERS if (size, n_labels) == (ENSEMBLE_WIDTH, ENSEMBLE_LABELS) else 1
                scores = [
                    standardised(learned(inputs, pairs, WIDTHS[size], [seed, member]), reference)
                    for member in range(members)
                ]
                told_apart = {"seed": seed, "labels": n_labels, "noise": noise}
                yield from _pushed(told_apart | {"size": size}, reference, gold, scores[0])
                if members > 1:
                    worst = torch.stack(scores).amin(0)
                    yield from _pushed(told_apart | {"size": _ensemble_name(size)}, reference, gold, worst)


def one_hot() -> Float[Tensor, "completions inputs"]:
    """Every completion as what symbol stands at which place."""
    digits = torch.from_numpy(np.indices((N_SYMBOLS,) * LENGTH).reshape(LENGTH, N_COMPLETIONS)).T
    return nn.functional.one_hot(digits, N_SYMBOLS).flatten(1).float()


def labelled(reference: LogProbs, gold: LogProbs, n: int, noise: float, seed: int) -> Int[Tensor, "pairs two"]:
    """``n`` pairs of completions drawn from the reference, the better one first; a share of ``noise`` is flipped.

    Fewer labels are the first ones of more, and what is flipped does not depend on their number.
    """
    draw = np.random.default_rng([seed, *b"labels"])
    chances = reference.exp().numpy()
    most = max(n, max(LABELS))
    pairs = torch.from_numpy(draw.choice(N_COMPLETIONS, size=(most, 2), p=chances / chances.sum()))
    is_flipped = torch.from_numpy(draw.random(most) < noise)
    turn = (gold[pairs[:, 0]] < gold[pairs[:, 1]]) ^ is_flipped
    return torch.where(turn[:, None], pairs.flip(1), pairs)[:n]


def learned(
    inputs: Float[Tensor, "completions inputs"], pairs: Int[Tensor, "pairs two"], width: int, seed: Sequence[int]
) -> LogProbs:
    """The scores of all completions by a network that has learned the pairs.

    A tenth of them is held out, and training ends when their loss has not fallen for a while; the best weights count.
    """
    draw = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    network = _network(width, draw)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    held_out, kept = pairs[: max(10, int(HELD_OUT * len(pairs)))], pairs[max(10, int(HELD_OUT * len(pairs))) :]

    def loss(of: Tensor) -> Tensor:
        scores = network(inputs[of.flatten()]).view(-1, 2)
        return bradley_terry(scores[:, 0], scores[:, 1]).mean()

    best, best_scores, waited = math.inf, inputs.new_zeros(len(inputs)), 0
    for step in range(STEPS):
        if step % CHECKED_EVERY == 0:
            with torch.no_grad():
                now = float(loss(held_out))
                waited += 1
                if now < best:
                    best, best_scores, waited = now, network(inputs)[:, 0], 0
            if waited > PATIENCE:
                break
        optimiser.zero_grad()
        loss(kept[torch.randint(len(kept), (BATCH,), generator=draw)]).backward()
        optimiser.step()
    return best_scores.double()


def pushed_along(reference: LogProbs, proxy: LogProbs, how: str) -> list[LogProbs]:
    """Policies ever further from the reference: best-of-n for growing n, or the proxy's optimum for falling beta."""
    if how == BEST_OF_N:
        return [best_of(reference, proxy, 2 ** (k / 2)) for k in range(1, 33)]
    return [tilted(reference, proxy, 1 / strength) for strength in np.geomspace(0.05, 30, 48).tolist()]


def _pushed(told_apart: dict[str, Any], reference: LogProbs, gold: LogProbs, proxy: LogProbs) -> Iterator[Run]:
    for how in (BEST_OF_N, IDEAL):
        policies = pushed_along(reference, proxy, how)
        kls = [kl(policy, reference) for policy in policies]
        golds = np.interp(KLS, [0.0, *kls], [0.0, *(expected(policy, gold) for policy in policies)]).tolist()
        peak = int(np.argmax(golds))
        fits = {"best_of_n": fit_best_of_n(KLS, golds), "rl": fit_rl(KLS, golds)}
        yield told_apart | {
            "pushed_by": how,
            "correlation": expected(reference, gold * proxy) / expected(reference, proxy.square()) ** 0.5,
            "gold": [round(one, 4) for one in golds],
            "peak_kl": KLS[peak],
            "peak_gold": golds[peak],
            "lost": golds[peak] - golds[-1],
            **{f"fit_{name}": _as_dict(fit) for name, fit in fits.items()},
        }


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Larger proxies and more labels stand more pushing; noise makes them stand less, a worst case of five more."""

    def of(figure: str, **which: Any) -> list[float]:
        return figures(runs, figure, pushed_by=BEST_OF_N, **which)

    small, large = next(iter(WIDTHS)), list(WIDTHS)[-1]
    fewest, most = min(LABELS), max(LABELS)
    noisy = {"noise": max(NOISES)}
    middle = {"labels": ENSEMBLE_LABELS, **noisy}
    pairs = [
        ("more labels", {"size": large, "labels": most, **noisy}, {"size": large, "labels": fewest, **noisy}),
        ("a larger proxy", {"size": large, "labels": most, **noisy}, {"size": small, "labels": most, **noisy}),
        ("no noise", {"size": large, "labels": fewest, "noise": 0.0}, {"size": large, "labels": fewest, **noisy}),
        ("the worst of five", {"size": _ensemble_name(ENSEMBLE_WIDTH), **middle}, {"size": ENSEMBLE_WIDTH, **middle}),
    ]
    return [
        claim_above(f"{name}: {what}", of(figure, **more), of(figure, **less))
        for name, more, less in pairs
        for figure, what in (("peak_kl", "gold peaks at a higher KL"), ("peak_gold", "gold peaks higher"))
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs = result["runs"]
    parts = [
        about(result, "learned_proxies"),
        f"Gold in deviations of the reference's; measured up to {KLS[-1]:g} nats, so a peak there is none. R² is that "
        f"of the form of its kind. Means over {len(result['seeds'])} seeds with 95% intervals.",
    ]
    for how in (BEST_OF_N, IDEAL):
        parts.append(f"**Pushed by {how}**\n\n{_table([run for run in runs if run['pushed_by'] == how], how)}")
    parts.append(f"Best-of-n, differences seed for seed:\n\n{claims_table(claims(runs), 2)}")
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """Gold by the root of the KL, by labels and by size, with noise."""
    runs = [run for run in result["runs"] if run["noise"] == max(NOISES)]
    largest = list(WIDTHS)[-1]
    panels = []
    for how in (BEST_OF_N, IDEAL):
        by_labels = [(f"{n:,} labels", {"size": largest, "labels": n}) for n in LABELS]
        curves = [
            _curve(label, figures(runs, "gold", pushed_by=how, **which), colour)
            for colour, (label, which) in enumerate(by_labels)
        ]
        title = f"{how}, proxies of {largest}, {max(NOISES):.0%} of labels flipped"
        panels.append(Panel(title, "sqrt(KL), sqrt(nats)", "gold score", curves, level=0.0))
    return panels


def _curve(label: str, golds: Sequence[Sequence[float]], colour: int) -> Curve:
    measured = [over_seeds([gold[i] for gold in golds]) for i in range(len(KLS))]
    values, lows, highs = ([getattr(one, name) for one in measured] for name in ("value", "low", "high"))
    return Curve(label, [k**0.5 for k in KLS], values, lows, highs, colour)


def _table(runs: Sequence[Run], how: str) -> str:
    form = "fit_best_of_n" if how == BEST_OF_N else "fit_rl"
    rows = []
    for labels in LABELS:
        for noise in NOISES:
            for size in dict.fromkeys(run["size"] for run in runs if (run["labels"], run["noise"]) == (labels, noise)):
                which = {"labels": labels, "noise": noise, "size": size}
                shown = (("correlation", 2), ("peak_kl", 1), ("peak_gold", 2), ("lost", 2))
                cells = [told(over_seeds(figures(runs, name, **which)), digits, 1) for name, digits in shown]
                squares = [fit["r_squared"] for fit in figures(runs, form, **which)]
                rows.append([f"{labels:,}, {noise:.0%} flipped, {size}", *cells, told(over_seeds(squares), 2, 1)])
    header = ["labels, noise, proxy", "correlation with gold", "peak, nats", "gold there", "lost after it", "R²"]
    return markdown(header, rows)


def _as_dict(fit: Fit) -> dict[str, float | None]:
    return {
        "alpha": fit.alpha,
        "beta": fit.beta,
        "r_squared": fit.r_squared,
        "peak": fit.peak if math.isfinite(fit.peak) else None,
    }


def _ensemble_name(size: str) -> str:
    return f"{MEMBERS} x {size}, the worst"


def _random_network(inputs: Float[Tensor, "completions inputs"], seed: int) -> LogProbs:
    """The gold score: a network of sines, smooth enough to be learned from many labels, and not from few."""
    draw = np.random.default_rng([seed, *b"gold"])
    hidden = inputs.double().numpy()
    for width, active in ((64, LENGTH), (64, 64)):
        weights = draw.normal(size=(hidden.shape[1], width)) * GOLD_FREQUENCY / active**0.5
        hidden = np.sin(hidden @ weights)
    return torch.from_numpy(hidden @ draw.normal(size=hidden.shape[1]))


def _network(width: int, draw: torch.Generator) -> nn.Sequential:
    sizes = (LENGTH * N_SYMBOLS, width, width, 1)
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layer = nn.Linear(inner, outer)
        nn.init.normal_(layer.weight, std=(2 / inner) ** 0.5, generator=draw)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


if __name__ == "__main__":
    main()
