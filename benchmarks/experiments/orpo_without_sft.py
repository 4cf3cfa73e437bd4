"""Does ORPO need no SFT before it?

    python -m benchmarks.experiments.orpo_without_sft [--seeds 0 1 2 3 4] [--output FILE]

The start is a base model: it has read words, but never an answer. On the same pairs it is trained with ORPO (Hong et
al. 2024, arXiv:2403.07691) at two weights of its odds term, with its likelihood term alone, and with DPO; for the
paper's five epochs, and for twice as many. Expected: ORPO's loss is the likelihood and a small odds term; it learns
to answer, which DPO cannot, since both sides of a pair have an answer's form; and the better answer has the higher
odds in more than 80% of held-out pairs. A seed draws the world, the model and the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
import torch

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
from benchmarks.experiments.policies import (
    BATCH,
    BETA,
    RATE,
    SCORED_AT_ONCE,
    base_policy,
    outcome,
    trained_on_pairs,
)
from benchmarks.experiments.world import draw_pairs, make_world
from preftune import losses
from preftune.data.token_records import TokenPair
from preftune.evaluate.preferences import score_pairs
from preftune.methods.dpo import DPOConfig
from preftune.methods.orpo import ORPOConfig
from preftune.models.logprobs import LogProbEngine

PAIRS, HELD_OUT = 1000, 500
EPOCHS = (5, 10)
LAMBDA, LARGER = 0.1, 1.0
ENOUGH = 0.8
START, ORPO, ORPO_LARGER, LIKELIHOOD, DPO = "base model", "ORPO", "ORPO, odds term x 10", "likelihood alone", "DPO"
CONFIGS: Final = {
    ORPO: ORPOConfig(beta=LAMBDA),
    ORPO_LARGER: ORPOConfig(beta=LARGER),
    LIKELIHOOD: ORPOConfig(beta=0),
    DPO: DPOConfig(beta=BETA),
}
SETTINGS = {
    "pairs": PAIRS,
    "held_out": HELD_OUT,
    "lambda": LAMBDA,
    "beta": BETA,
    "epochs": EPOCHS,
    "batch_size": BATCH,
    "learning_rate": RATE,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "orpo-without-sft", SETTINGS, runs_of)))


def runs_of(
    seed: int, epochs: Sequence[int] = EPOCHS, n_pairs: int = PAIRS, n_held_out: int = HELD_OUT
) -> Iterator[Run]:
    """The base model of a seed, after 0 epochs, and what each contender makes of it."""
    world = make_world(seed)
    pairs, held_out = draw_pairs(world, n_pairs, "pair"), draw_pairs(world, n_held_out, "held-out")
    start = base_policy(world)

    def measured(name: str, passes: int, policy: LogProbEngine) -> Run:
        found = {**asdict(outcome(world, policy, start, held_out)), **loss_parts(policy, pairs)}
        return {"seed": seed, "contender": name, "epochs": passes} | found

    yield measured(START, 0, start)
    for passes in epochs:
        for name, config in CONFIGS.items():
            yield measured(name, passes, trained_on_pairs(start, pairs, config, seed, passes))


def loss_parts(policy: LogProbEngine, pairs: Sequence[TokenPair]) -> Mapping[str, float]:
    """ORPO's loss on training pairs in its parts: likelihood, and the odds term with its weight."""
    scores = score_pairs(policy, pairs, SCORED_AT_ONCE)
    chosen, rejected = torch.from_numpy(scores.log_probs / scores.lengths).unbind(1)
    likelihood = losses.orpo(chosen, rejected, lam=0.0)
    whole = losses.orpo(chosen, rejected, lam=LAMBDA)
    return {"likelihood_term": float(likelihood.mean()), "odds_term": float((whole - likelihood).mean())}


def claims(runs: Sequence[Run], epochs: int) -> list[Claim]:
    """What is expected of ORPO from a base model after so many epochs; shares."""
    odds, formed = (
        {name: figures(runs, figure, contender=name, epochs=epochs) for name in CONFIGS}
        for figure in ("likelier", "formed")
    )
    when = f"{epochs} epochs: "
    enough = [ENOUGH] * len(odds[ORPO])
    return [
        claim_above(f"{when}ORPO has higher odds for the better answer in more than {ENOUGH:.0%}", odds[ORPO], enough),
        claim_above(f"{when}so it has with an odds term x 10", odds[ORPO_LARGER], enough),
        claim_above(f"{when}ORPO's odds are right more often than by likelihood alone", odds[ORPO], odds[LIKELIHOOD]),
        claim_above(f"{when}so they are with an odds term x 10", odds[ORPO_LARGER], odds[LIKELIHOOD]),
        claim_above(f"{when}ORPO's answers have the form more often than DPO's", formed[ORPO], formed[DPO]),
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    places = [(START, 0), *((name, epochs) for epochs in EPOCHS for name in CONFIGS)]
    header = [
        "",
        "epochs",
        "higher odds, %",
        "-log p a token of the better",
        "answers in the form, %",
        "worth of answers",
    ]
    return "\n\n".join(
        [
            about(result, "orpo_without_sft"),
            f"{settings['pairs']} pairs, {settings['held_out']} held-out pairs a seed, lambda {settings['lambda']:g}; "
            f"means over {len(result['seeds'])} seeds with 95% intervals.",
            markdown(header, [_row(runs, *place) for place in places]),
            _parts_line(runs),
            "Differences seed for seed:",
            claims_table([one for epochs in EPOCHS for one in claims(runs, epochs)], 1, 100, "points"),
        ]
    )


def _row(runs: Sequence[Run], name: str, epochs: int) -> list[str]:
    shown = (("likelier", 1, 100), ("nll", 3, 1), ("formed", 1, 100), ("worth", 3, 1))
    of = {"contender": name, "epochs": epochs}
    return [name, str(epochs), *(told(over_seeds(figures(runs, what, **of)), digits, by) for what, digits, by in shown)]


def _parts_line(runs: Sequence[Run]) -> str:
    """ORPO's loss in its parts, before and after; means over seeds."""
    before, after = (
        [np.mean(figures(runs, part, contender=name, epochs=epochs)) for part in ("likelihood_term", "odds_term")]
        for name, epochs in ((START, 0), (ORPO, EPOCHS[0]))
    )
    return (
        f"ORPO's loss on its training pairs is {before[0]:.3f} likelihood + {before[1]:.3f} odds term before "
        f"(lambda ln 2 is {LAMBDA * math.log(2):.3f}) and {after[0]:.3f} + {after[1]:.3f} after {EPOCHS[0]} epochs."
    )


if __name__ == "__main__":
    main()
