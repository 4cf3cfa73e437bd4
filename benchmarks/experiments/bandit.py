"""Does IPO end where its authors say, and DPO run away?

    python -m benchmarks.experiments.bandit [--seeds 0 1 2 3 4] [--output FILE]

Three arms, a softmax policy over them, a uniform reference, no context: the example of the IPO paper (Azar et al.
2023, arXiv:2310.12036). Where each of 1>2, 2>3 and 1>3 is seen equally often, IPO's scores end 1/(3 tau)
apart, whatever the start; DPO puts all on the first arm, whatever tau. Where only 1>2 is seen, IPO leaves the third
arm its weight. A seed draws the start of the scores; seed 0 starts from the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.experiments.findings import Result, Run, about, experiment, figures, markdown
from preftune import losses

TAUS = (0.1, 0.5, 1.0)
STEPS, RATE = 6000, 0.05
ORDERED, FIRST_ONLY = ((0, 1), (1, 2), (0, 2)), ((0, 1),)
LOSSES: Final[dict[str, Callable[..., Tensor]]] = {
    "IPO": losses.ipo,
    "DPO": losses.dpo,
    "cDPO(0.1)": lambda *four, beta: losses.dpo(*four, beta=beta, label_smoothing=0.1),
    "rDPO(0.1)": lambda *four, beta: losses.robust(*four, beta=beta, label_smoothing=0.1),
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "bandit", {"steps": STEPS, "learning_rate": RATE}, runs_of)))


def runs_of(seed: int, steps: int = STEPS) -> Iterator[Run]:
    """Every loss and tau from the seed's start; one comparison from the reference: its end depends on its start."""
    for tau in TAUS:
        for loss in ("IPO", "DPO"):
            yield _run(seed, "1>2, 2>3, 1>3", ORDERED, loss, tau, steps)
    if seed == 0:
        for loss in LOSSES:
            yield _run(seed, "1>2", FIRST_ONLY, loss, 1.0, steps)


def ended(loss: str, comparisons: Sequence[tuple[int, int]], tau: float, start: Tensor, steps: int = STEPS) -> Tensor:
    """The scores of the arms after ``steps`` of Adam with falling rate on the mean loss of the comparisons."""
    scores = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([scores], lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 1e-3, total_iters=steps)
    winners, losers = (torch.tensor(side) for side in zip(*comparisons, strict=True))
    reference = torch.full((3,), -math.log(3), dtype=start.dtype)
    for _ in range(steps):
        policy = scores.log_softmax(0)
        value = LOSSES[loss](policy[winners], policy[losers], reference[winners], reference[losers], beta=tau).mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    return scores.detach()


def published(tau: float) -> Tensor:
    """What IPO ends with where all three comparisons are seen: the softmax of scores 1/(3 tau) apart."""
    return torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64).div(3 * tau).softmax(0)


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs = result["runs"]
    return "\n\n".join([about(result, "bandit"), _ordered_table(runs), _first_only_table(runs)])


def _run(
    seed: int, seen: str, comparisons: Sequence[tuple[int, int]], loss: str, tau: float, steps: int
) -> dict[str, Any]:
    start = torch.zeros(3, dtype=torch.float64)
    if seed:
        start = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scores = ended(loss, comparisons, tau, start, steps)
    steps_apart = (scores[:-1] - scores[1:]).tolist()
    return {
        "seed": seed,
        "seen": seen,
        "loss": loss,
        "tau": tau,
        "score_differences": steps_apart,
        "probabilities": scores.softmax(0).tolist(),
    }


def _ordered_table(runs: Sequence[Run]) -> str:
    rows = []
    for tau in TAUS:
        of = {"seen": "1>2, 2>3, 1>3", "tau": tau}
        ends = figures(runs, "probabilities", loss="IPO", **of)
        apart = figures(runs, "score_differences", loss="IPO", **of)
        awry = max(abs(found - true) for end in ends for found, true in zip(end, published(tau).tolist(), strict=True))
        first = min(end[0] for end in figures(runs, "probabilities", loss="DPO", **of))
        rows.append(
            [
                f"{tau:g}",
                _numbers(published(tau).tolist()),
                _numbers(ends[0]),
                f"{awry:.0e}",
                f"{1 / (3 * tau):.4f}",
                f"{min(map(min, apart)):.4f} to {max(map(max, apart)):.4f}",
                f"{first:.4f}",
            ]
        )
    header = [
        "tau",
        "closed form",
        "IPO",
        "furthest off, any start",
        "1/(3 tau)",
        "IPO's scores apart",
        "DPO's first arm, least",
    ]
    return f"Seen: 1>2, 2>3, 1>3.\n\n{markdown(header, rows)}"


def _first_only_table(runs: Sequence[Run]) -> str:
    only = [run for run in runs if run["seen"] == "1>2"]
    rows = [[run["loss"], _numbers(run["probabilities"]), f"{run['score_differences'][0]:.2f}"] for run in only]
    header = ["loss", "ends at", "first above second, nats"]
    return f"Seen: 1>2 alone, tau 1, from the reference.\n\n{markdown(header, rows)}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


if __name__ == "__main__":
    main()
