"""Does KTO stand the loss of nine in ten of its good answers, and do the suggested weights make up for it?

    python -m benchmarks.experiments.kto_imbalance [--seeds 0 1 2 3 4] [--output FILE]

Pairs of a world whose truth is known, read as two labels each. Of the good answers one in ten is kept, as in KTO's
own experiment (Ethayarajh et al. 2024, arXiv:2402.01306), with equal weights and with those of
`losses.suggested_kto_weights`. Beside it DPO, on all pairs and on those that still have both answers. Two sizes of
data tell whether what is lost is the balance or the good answers themselves: every contender of either size takes
the same number of steps. All are measured on clean held-out pairs. A seed draws the world, the policy, the pairs and
what is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from benchmarks.experiments.findings import (
    Claim,
    Result,
    Run,
    about,
    claim_above,
    claim_within,
    claims_table,
    experiment,
    figures,
    markdown,
    over_seeds,
    told,
)
from benchmarks.experiments.policies import (
    BATCH,
    BETA,
    RATE,
    outcome,
    trained_on_labels,
    trained_on_pairs,
    tuned_policy,
)
from benchmarks.experiments.world import draw_pairs, labels_of, make_world
from preftune.data.token_records import TokenLabel, TokenPair
from preftune.losses import suggested_kto_weights
from preftune.methods.dpo import DPOConfig
from preftune.methods.kto import KTOConfig
from preftune.models.logprobs import LogProbEngine

SIZES, HELD_OUT = (600, 3000), 500
STEPS = 95  # 5 epochs of the smaller set, one of the larger
KEPT = 0.1  # of the good answers
WITHIN = 0.02
KTO_ALL, KTO_EQUAL, KTO_WEIGHTED = "KTO, all labels", "KTO, few good, equal weights", "KTO, few good, weighted"
DPO_ALL, DPO_WHOLE = "DPO, all pairs", "DPO, pairs still whole"
CONTENDERS: Final = (DPO_ALL, DPO_WHOLE, KTO_ALL, KTO_EQUAL, KTO_WEIGHTED)
SETTINGS = {
    "pairs": SIZES,
    "held_out": HELD_OUT,
    "kept": KEPT,
    "beta": BETA,
    "steps": STEPS,
    "pairs_a_step": BATCH,
    "learning_rate": RATE,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "kto-imbalance", SETTINGS, runs_of)))


def runs_of(seed: int, sizes: Sequence[int] = SIZES, n_held_out: int = HELD_OUT, steps: int = STEPS) -> Iterator[Run]:
    """Every contender of a seed at every size."""
    world = make_world(seed)
    start, held_out = tuned_policy(world), draw_pairs(world, n_held_out, "held-out")
    for size in sizes:
        pairs = draw_pairs(world, size, "pair")
        for name, (answers, weights, train) in contenders(start, pairs, seed, steps).items():
            found = asdict(outcome(world, train(), start, held_out))
            good, bad = answers
            yield {"seed": seed, "pairs": size, "contender": name, "good": good, "bad": bad, "weights": weights} | found


def contenders(
    start: LogProbEngine, pairs: Sequence[TokenPair], seed: int, steps: int
) -> dict[str, tuple[tuple[int, int], tuple[float, float], Callable[[], LogProbEngine]]]:
    """By name: good and bad answers it has, its weights, and what trains it."""
    whole = still_whole(pairs, seed)
    kept = {f"{pair.id}-good" for pair in whole}
    every = labels_of(pairs)
    few = [label for label in every if not label.label or label.id in kept]
    both, scarce = (len(pairs), len(pairs)), (len(kept), len(few) - len(kept))

    def dpo(chosen: Sequence[TokenPair]) -> LogProbEngine:
        return trained_on_pairs(start, chosen, DPOConfig(beta=BETA), seed, epochs(chosen, BATCH, steps))

    def kto(labels: Sequence[TokenLabel], good: float, bad: float) -> LogProbEngine:
        config = KTOConfig(beta=BETA, desirable_weight=good, undesirable_weight=bad)
        return trained_on_labels(start, labels, config, seed, epochs(labels, 2 * BATCH, steps))

    equal, suggested = (1.0, 1.0), suggested_kto_weights(*scarce)
    return {
        DPO_ALL: (both, equal, lambda: dpo(pairs)),
        DPO_WHOLE: ((len(whole), len(whole)), equal, lambda: dpo(whole)),
        KTO_ALL: (both, equal, lambda: kto(every, *equal)),
        KTO_EQUAL: (scarce, equal, lambda: kto(few, *equal)),
        KTO_WEIGHTED: (scarce, suggested, lambda: kto(few, *suggested)),
    }


def still_whole(pairs: Sequence[TokenPair], seed: int) -> list[TokenPair]:
    """The pairs that keep their good answer: a share ``KEPT``, drawn."""
    drawn = np.random.default_rng([seed, 9]).permutation(len(pairs))[: round(KEPT * len(pairs))]
    return [pairs[i] for i in sorted(drawn)]


def epochs(items: Sequence[Any], per_step: int, steps: int) -> int:
    """Passes over the items that make about so many steps."""
    return round(steps / math.ceil(len(items) / per_step))


def claims(runs: Sequence[Run], size: int) -> list[Claim]:
    """What the paper leads one to expect, of held-out accuracy."""
    of = {name: figures(runs, "accuracy", contender=name, pairs=size) for name in CONTENDERS}
    return [
        claim_within(
            f"{size} pairs: weighted, KTO loses less than 2 points to all labels",
            of[KTO_WEIGHTED],
            of[KTO_ALL],
            WITHIN,
        ),
        claim_above(f"{size} pairs: with equal weights it loses more", of[KTO_WEIGHTED], of[KTO_EQUAL]),
        claim_above(f"{size} pairs: DPO is above KTO where nothing is dropped", of[DPO_ALL], of[KTO_ALL]),
        claim_above(f"{size} pairs: weighted KTO is above DPO on pairs still whole", of[KTO_WEIGHTED], of[DPO_WHOLE]),
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    header = [
        "",
        "good / bad",
        "weights",
        "accuracy, %",
        "margin, beta nats",
        "answers in the form, %",
        "worth of answers",
    ]
    return "\n\n".join(
        [
            about(result, "kto_imbalance"),
            f"{settings['held_out']} clean held-out pairs a seed, {settings['steps']} steps each; means over "
            f"{len(result['seeds'])} seeds with 95% intervals.",
            markdown(header, [_row(runs, name, size) for size in SIZES for name in CONTENDERS]),
            "Accuracy, differences seed for seed:",
            claims_table([one for size in SIZES for one in claims(runs, size)], 1, 100, "points"),
        ]
    )


def _row(runs: Sequence[Run], name: str, size: int) -> list[str]:
    of = {"contender": name, "pairs": size}
    one = next(run for run in runs if run["contender"] == name and run["pairs"] == size)
    shown = (("accuracy", 1, 100), ("margin", 2, 1), ("formed", 1, 100), ("worth", 3, 1))
    return [
        name,
        f"{one['good']} / {one['bad']}",
        " / ".join(f"{weight:g}" for weight in one["weights"]),
        *(told(over_seeds(figures(runs, figure, **of)), digits, scale) for figure, digits, scale in shown),
    ]


if __name__ == "__main__":
    main()
