"""What do flipped labels do to DPO, conservative DPO, robust DPO and IPO?

    python -m benchmarks.experiments.label_noise [--seeds 0 1 2 3 4] [--output FILE]

(a) A table instead of a model: an answer is better with probability 0.9, a share of labels is flipped; where the
losses end against the closed forms, and how widely robust DPO scatters over draws of labels. (b) A small policy on
pairs of a world whose truth is known; a share of the training labels is flipped, the held-out labels never are.
Conservative and robust DPO are told the true share. A seed draws the world, the policy, the pairs and the flips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import torch
from scipy.stats import f as f_distribution
from torch import Tensor

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
    spread,
    told,
)
from benchmarks.experiments.policies import BATCH, BETA, EPOCHS, RATE, outcome, trained_on_pairs, tuned_policy
from benchmarks.experiments.world import draw_pairs, flipped, make_world
from preftune import losses
from preftune.methods.dpo import DPOConfig, IPOConfig

FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4)
MOST = FLIPS[-1]
PAIRS, HELD_OUT = 1000, 500
TRUTH = 0.9
LABELS, DRAWS = 4000, 2000
FARTHEST = 30.0  # a margin, times beta, that is as good as infinite
CONFIGS: Final[dict[str, Callable[[float], DPOConfig]]] = {
    "DPO": lambda share: DPOConfig(beta=BETA),
    "cDPO": lambda share: DPOConfig(beta=BETA, label_smoothing=share),
    "rDPO": lambda share: DPOConfig(beta=BETA, loss_type=("robust",), label_smoothing=share),
    "IPO": lambda share: IPOConfig(beta=BETA, ipo_normalize="none"),
}
TABULAR: Final[dict[str, Callable[..., Tensor]]] = {"DPO": losses.dpo, "cDPO": losses.dpo, "rDPO": losses.robust}
SETTINGS = {
    "pairs": PAIRS,
    "held_out": HELD_OUT,
    "beta": BETA,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "learning_rate": RATE,
    "labels": LABELS,
    "draws": DRAWS,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "label-noise", SETTINGS, runs_of)))


def runs_of(
    seed: int, flips: Sequence[float] = FLIPS, n_pairs: int = PAIRS, n_held_out: int = HELD_OUT
) -> Iterator[Run]:
    """Table and policies of a seed; without flips conservative and robust DPO are DPO, and are not run again."""
    yield from tabular_runs(seed, flips)
    world = make_world(seed)
    pairs, held_out = draw_pairs(world, n_pairs, "pair"), draw_pairs(world, n_held_out, "held-out")
    start = tuned_policy(world)
    for share in flips:
        noisy = flipped(pairs, share, seed)
        for loss in CONFIGS if share else ("DPO", "IPO"):
            policy = trained_on_pairs(start, noisy, CONFIGS[loss](share), seed)
            found = asdict(outcome(world, policy, start, held_out))
            yield {"part": "policy", "seed": seed, "flips": share, "loss": loss} | found


def tabular_runs(seed: int, flips: Sequence[float] = FLIPS, draws: int = DRAWS) -> Iterator[Run]:
    """Where each loss ends when the seen share is exact, and how that scatters when it is drawn."""
    draw = np.random.default_rng([seed, 4])
    for share in flips:
        seen = seen_share(share)
        drawn = torch.from_numpy(draw.binomial(LABELS, seen, size=draws) / LABELS)
        for loss in TABULAR:
            exact = float(optimal_margins(loss, torch.tensor([seen], dtype=torch.float64), share))
            ends = optimal_margins(loss, drawn, share)
            yield {
                "part": "table",
                "seed": seed,
                "flips": share,
                "loss": loss,
                "optimum": exact,
                "closed_form": closed_form(loss, share),
                "deviation": float(ends.sigmoid().std()),
                "unbounded": float((ends.abs() > FARTHEST - 1).double().mean()),
            }


def seen_share(flips: float) -> float:
    """How often the better answer is labelled so."""
    return TRUTH * (1 - flips) + (1 - TRUTH) * flips


def optimal_margins(loss: str, seen: Tensor, flips: float) -> Tensor:
    """beta h that minimises the mean loss for each share of labels ``seen`` for the better answer, by bisection."""
    told_share = 0.0 if loss == "DPO" else flips
    low, high = torch.full_like(seen, -FARTHEST), torch.full_like(seen, FARTHEST)
    nothing = torch.zeros_like(seen)
    for _ in range(60):
        middle = ((low + high) / 2).requires_grad_()
        for_it, against = (
            TABULAR[loss](margin, nothing, nothing, nothing, beta=1.0, label_smoothing=told_share)
            for margin in (middle, -middle)
        )
        (slope,) = torch.autograd.grad((seen * for_it + (1 - seen) * against).sum(), middle)
        low, high = torch.where(slope > 0, low, middle.detach()), torch.where(slope > 0, middle.detach(), high)
    return (low + high) / 2


def closed_form(loss: str, flips: float) -> float:
    """beta h at the optimum: the logit of the share seen (DPO), of that smoothed (cDPO), of the truth (rDPO)."""
    seen = seen_share(flips)
    share = {"DPO": seen, "cDPO": seen * (1 - flips) + (1 - seen) * flips, "rDPO": TRUTH}[loss]
    return float(np.log(share / (1 - share)))


def margin_claims(runs: Sequence[Run]) -> list[Claim]:
    """Margins: robust above plain above conservative, at every share of flips."""
    found = []
    for share in FLIPS[1:]:
        robust, plain, conservative = (_of(runs, "margin", share, loss) for loss in ("rDPO", "DPO", "cDPO"))
        found.append(claim_above(f"{share:.0%} flips: rDPO above DPO", robust, plain))
        found.append(claim_above(f"{share:.0%} flips: DPO above cDPO", plain, conservative))
    return found


def drop_claims(runs: Sequence[Run], figure: str) -> list[Claim]:
    """What is lost from clean labels to the largest share of flips: most by plain, least by robust DPO."""
    lost = {
        loss: [
            before - after
            for before, after in zip(
                _of(runs, figure, 0.0, "IPO" if loss == "IPO" else "DPO"), _of(runs, figure, MOST, loss), strict=True
            )
        ]
        for loss in CONFIGS
    }
    others = [(f"DPO loses more than {loss}", lost["DPO"], lost[loss]) for loss in ("cDPO", "rDPO", "IPO")]
    return [claim_above(*one) for one in [*others, ("cDPO loses more than rDPO", lost["cDPO"], lost["rDPO"])]]


def spread_ratio(noisy: Sequence[float], calm: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two standard deviations with its 95% interval (F distribution; the figures taken as normal)."""
    ratio = spread(noisy) / spread(calm)
    half = float(f_distribution.ppf(0.975, len(noisy) - 1, len(calm) - 1)) ** 0.5
    return ratio, ratio / half, ratio * half


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs = result["runs"]
    policies = [run for run in runs if run["part"] == "policy"]
    settings = result["settings"]
    parts = [
        about(result, "label_noise"),
        f"**Table.** Truth {TRUTH:g}; beta h where each loss ends, and its closed form. *Deviation* is that of the "
        f"preference sigmoid(beta h) over {settings['draws']:,} draws of {settings['labels']:,} labels a seed, and "
        "*unbounded* the share of draws whose loss has no finite optimum; means over seeds.",
        _tabular_table(runs),
        f"**Policy.** {settings['pairs']} training pairs, {settings['held_out']} clean held-out pairs a seed; means "
        f"over {len(result['seeds'])} seeds with 95% intervals. Without flips cDPO and rDPO are DPO.",
        "Held-out accuracy, %:\n\n" + _policy_table(policies, "accuracy", 1, 100),
        "Held-out margin, beta times nats (IPO's target is 0.5):\n\n" + _policy_table(policies, "margin", 2, 1),
        "True worth of the policy's own answers, -1 to 1:\n\n" + _policy_table(policies, "worth", 3, 1),
        "**Expected orders of margins**, differences seed for seed:\n\n"
        + claims_table(margin_claims(policies), 2, unit="beta times nats"),
        f"**Expected orders of what is lost between no and {MOST:.0%} flips**, differences seed for seed:\n\n"
        + "Accuracy:\n\n"
        + claims_table(drop_claims(policies, "accuracy"), 1, 100, "points")
        + "\n\nWorth of own answers:\n\n"
        + claims_table(drop_claims(policies, "worth"), 3),
        _spreads(policies),
    ]
    return "\n\n".join(parts)


def _of(runs: Sequence[Run], figure: str, flips: float, loss: str) -> list[float]:
    return figures(runs, figure, flips=flips, loss=loss)


def _tabular_table(runs: Sequence[Run]) -> str:
    table = [run for run in runs if run["part"] == "table"]
    rows = []
    for share in FLIPS:
        cells = [f"{share:.0%}"]
        for loss in TABULAR:
            optimum = _of(table, "optimum", share, loss)[0]
            cells.append(f"{optimum:.3f} ({_of(table, 'closed_form', share, loss)[0]:.3f})")
        for loss in ("DPO", "rDPO"):
            cells.append(f"{np.mean(_of(table, 'deviation', share, loss)):.4f}")
        cells.append(f"{100 * np.mean(_of(table, 'unbounded', share, 'rDPO')):.1f}%")
        rows.append(cells)
    header = ["flips", *TABULAR, "deviation, DPO", "deviation, rDPO", "unbounded, rDPO"]
    return markdown(header, rows)


def _policy_table(runs: Sequence[Run], figure: str, digits: int, scale: float) -> str:
    rows = []
    for share in FLIPS:
        cells = [_of(runs, figure, share, loss) for loss in CONFIGS]
        rows.append([f"{share:.0%}", *(told(over_seeds(cell), digits, scale) if cell else "as DPO" for cell in cells)])
    return markdown(["flips", *CONFIGS], rows)


def _spreads(runs: Sequence[Run]) -> str:
    """How far the seeds lie apart under robust and plain DPO."""
    rows: list[list[Any]] = []
    for share in FLIPS[1:]:
        cells = [f"{share:.0%}"]
        for figure, scale in (("margin", 1), ("accuracy", 100)):
            robust, plain = (_of(runs, figure, share, loss) for loss in ("rDPO", "DPO"))
            ratio, low, high = spread_ratio(robust, plain)
            cells += [
                f"{scale * spread(robust):.2f}",
                f"{scale * spread(plain):.2f}",
                f"{ratio:.1f} ({low:.1f} to {high:.1f})",
            ]
        rows.append(cells)
    header = ["flips", "margin, rDPO", "margin, DPO", "ratio", "accuracy, rDPO", "accuracy, DPO", "ratio"]
    title = "**Spread over seeds** (standard deviations, and their ratio with its 95% interval):"
    return f"{title}\n\n{markdown(header, rows)}"


if __name__ == "__main__":
    main()
