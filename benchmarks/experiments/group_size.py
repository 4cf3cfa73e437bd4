"""How many completions a prompt should have: the signal-to-noise ratio of the policy gradient by group size.

    python -m benchmarks.experiments.group_size [--seeds 0 1 2 3 4] [--output FILE]

A policy with one parameter, the logit of its success rate p, and a reward that is 1 or 0: a group of completions
estimates the gradient p (1 - p) by the mean of A_i (r_i - p). Exact by `losses.gradient_snr`, summed over all outcomes
of a group; beside it what `losses.group_advantages` and `losses.leave_one_out` give for drawn rewards. A seed draws the
rewards of ``DRAWS`` optimiser steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from benchmarks.experiments.findings import Result, Run, about, experiment, figures, markdown, over_seeds, told
from benchmarks.experiments.plots import Curve, Panel
from preftune.losses.advantages import (
    frac_zero_variance,
    gradient_snr,
    group_advantages,
    leave_one_out,
    zero_variance_probability,
)

GROUPS = (2, 4, 8, 16, 32)
SUCCESS_RATES = (0.02, 0.1, 0.3, 0.5)
ROLLOUTS, PROMPTS = 64, 8
DRAWS = 4000
ESTIMATORS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"normalised": group_advantages, "RLOO": leave_one_out}
BUDGETS: Final[dict[str, Callable[[int], int]]] = {
    f"{ROLLOUTS} rollouts": lambda group: ROLLOUTS // group,
    f"{PROMPTS} prompts": lambda group: PROMPTS,
}
SETTINGS = {"draws": DRAWS, "rollouts": ROLLOUTS, "prompts": PROMPTS}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "group-size", SETTINGS, runs_of)))


def runs_of(seed: int, draws: int = DRAWS) -> Iterator[Run]:
    """Every budget, success rate, group size and estimator, measured on drawn rewards."""
    generator = torch.Generator().manual_seed(seed)
    for budget, groups_of in BUDGETS.items():
        for rate in SUCCESS_RATES:
            for size in GROUPS:
                rewards = (torch.rand(draws * groups_of(size), size, generator=generator) < rate).double()
                for estimator, advantages in ESTIMATORS.items():
                    estimates = (advantages(rewards) * (rewards - rate)).mean(1).view(draws, -1).mean(1)
                    yield {
                        "seed": seed,
                        "budget": budget,
                        "success_rate": rate,
                        "group": size,
                        "estimator": estimator,
                        "mean": float(estimates.mean()),
                        "snr": float(estimates.mean() / estimates.std()) if estimates.any() else 0.0,
                        "tied": float(frac_zero_variance(rewards)),
                    }


def exact_mean(rate: float, size: int, advantages: Callable[[Tensor], Tensor]) -> float:
    """The mean of a group's estimate; the gradient is ``rate (1 - rate)``."""
    successes = torch.arange(size + 1)
    rewards = (torch.arange(size) < successes[:, None]).double()
    chances = torch.distributions.Binomial(size, torch.tensor(rate, dtype=torch.float64)).log_prob(successes).exp()
    return float((chances * (advantages(rewards) * (rewards - rate)).mean(1)).sum())


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, draws = result["runs"], result["settings"]["draws"]
    parts = [
        about(result, "group_size"),
        f"**Signal-to-noise ratio** of one step's gradient: exact; measured over {draws:,} steps a seed, mean over "
        f"{len(result['seeds'])} seeds with its 95% interval.",
        _snr_table(runs),
        "**Mean of the estimate** against the gradient p (1 - p), exact; measured.",
        _mean_table(runs),
        "**Share of groups that teach nothing**, %: p^G + (1 - p)^G; measured.",
        _tied_table(runs),
    ]
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """The exact ratio by group size, and what was measured."""
    panels = []
    for budget, groups_of in BUDGETS.items():
        curves = []
        for colour, rate in enumerate(SUCCESS_RATES):
            for estimator, advantages in ESTIMATORS.items():
                exact = [gradient_snr(rate, size, groups_of(size), advantages) for size in GROUPS]
                label = f"p = {rate:g}, {estimator}"
                curves.append(Curve(label, GROUPS, exact, colour=colour, dashed=estimator == "RLOO"))
                measured = [over_seeds(_of(result["runs"], "snr", budget, rate, size, estimator)) for size in GROUPS]
                curves.append(Curve("", GROUPS, [one.value for one in measured], colour=colour, dots=True))
        panels.append(Panel(f"{budget} a step", "group size G", "signal-to-noise ratio", curves, log_x=True))
    return panels


def _snr_table(runs: Sequence[Run]) -> str:
    rows = []
    for budget, groups_of in BUDGETS.items():
        for rate in SUCCESS_RATES:
            for estimator, advantages in ESTIMATORS.items():
                cells = [
                    f"{gradient_snr(rate, size, groups_of(size), advantages):.2f}; "
                    f"{told(over_seeds(_of(runs, 'snr', budget, rate, size, estimator)), 2, 1)}"
                    for size in GROUPS
                ]
                rows.append([f"{budget}, p = {rate:g}, {estimator}", *cells])
    return markdown(["a step", *(f"G = {size}" for size in GROUPS)], rows)


def _mean_table(runs: Sequence[Run]) -> str:
    budget = next(iter(BUDGETS))
    rows = []
    for rate in SUCCESS_RATES:
        for estimator, advantages in ESTIMATORS.items():
            cells = [
                f"{exact_mean(rate, size, advantages):.3f}; "
                f"{told(over_seeds(_of(runs, 'mean', budget, rate, size, estimator)), 3, 1)}"
                for size in GROUPS
            ]
            rows.append([f"p = {rate:g}, {estimator}", f"{rate * (1 - rate):.3f}", *cells])
    return markdown(["", "p (1 - p)", *(f"G = {size}" for size in GROUPS)], rows)


def _tied_table(runs: Sequence[Run]) -> str:
    budget, estimator = next(iter(BUDGETS)), next(iter(ESTIMATORS))
    rows = [
        [
            f"p = {rate:g}",
            *(
                f"{100 * zero_variance_probability(rate, size):.1f}; "
                f"{told(over_seeds(_of(runs, 'tied', budget, rate, size, estimator)))}"
                for size in GROUPS
            ),
        ]
        for rate in SUCCESS_RATES
    ]
    return markdown(["", *(f"G = {size}" for size in GROUPS)], rows)


def _of(runs: Sequence[Run], figure: str, budget: str, rate: float, size: int, estimator: str) -> list[float]:
    return figures(runs, figure, budget=budget, success_rate=rate, group=size, estimator=estimator)


if __name__ == "__main__":
    main()
