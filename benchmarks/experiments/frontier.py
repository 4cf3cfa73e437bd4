"""What does a policy earn for each nat it moves: DPO, PPO and the best there is, on one set of preferences.

    python -m benchmarks.experiments.frontier [--seeds 0 1 2 3 4] [--jobs 2] [--output FILE]

As figure 2 of the DPO paper (Rafailov et al. 2023, arXiv:2305.18290) in small: in the enumerable world pairs drawn from
the reference are labelled by their true rewards (Bradley-Terry). DPO learns from the pairs; PPO from a reward model
that has learned them, and from the true reward; fine-tuning on the chosen answers is the least one can do. Each is run
for several beta. True reward and KL are exact, and so is the best reward at every KL: that of the optimum at the beta
that lies there. A seed draws the world, the pairs and the completions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.experiments.enumerable import CONTENDERS, trained
from benchmarks.experiments.enumerable_world import (
    ASK,
    N_COMPLETIONS,
    LogProbs,
    World,
    beta_at,
    exact_log_probs,
    expected,
    kl,
    make_world,
    standardised,
    standing,
    tilted,
    tokens_of,
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
from benchmarks.experiments.learned_proxies import learned, one_hot
from benchmarks.experiments.plots import Curve, Panel
from benchmarks.experiments.policies import trained_on_pairs
from preftune.data.token_records import TokenPair
from preftune.methods.dpo import DPOConfig
from preftune.models.logprobs import LogProbEngine

PAIRS, SHARPNESS = 5000, 2.0  # Bradley-Terry of so many times the standardised reward
REWARD_MODEL_WIDTH = 128
EPOCHS = 2
STEPS = 300
BETAS: Final[dict[str, Sequence[float]]] = {
    "DPO": (0.05, 0.1, 0.3, 1.0, 3.0),
    "PPO, learned reward": (0.1, 0.3, 0.8),
    "PPO, true reward": (0.1, 0.3, 0.8),
    "SFT on the chosen": (0.0,),
}
KLS = (0.5, 1.0, 1.5, 2.0, 3.0)  # nats, at which the contenders are compared
SETTINGS = {"pairs": PAIRS, "sharpness": SHARPNESS, "epochs": EPOCHS, "steps": STEPS}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "frontier", SETTINGS, runs_of)))


def runs_of(seed: int, betas: dict[str, Sequence[float]] = BETAS, n_pairs: int = PAIRS) -> Iterator[Run]:
    """Every contender of a seed at every beta, and the true frontier."""
    world = make_world(seed)
    pairs = preferred(world, n_pairs)
    scores = learned(one_hot(), pairs, REWARD_MODEL_WIDTH, [seed])
    proxy = standardised(scores, world.reference)
    for name, several in betas.items():
        for beta in several:
            policy = _policy(name, beta, world, proxy, pairs)
            now = standing(world, policy)
            best = tilted(world.reference, world.rewards, beta_at(now.kl_to_reference, world.reference, world.rewards))
            yield {
                "seed": seed,
                "contender": name,
                "beta": beta,
                "kl": now.kl_to_reference,
                "reward": now.reward,
                "best_reward": expected(best, world.rewards),
                "proxy_reward": expected(policy, proxy),
            }
    for distance in KLS:
        best = tilted(world.reference, world.rewards, beta_at(distance, world.reference, world.rewards))
        along_proxy = tilted(world.reference, proxy, beta_at(distance, world.reference, proxy))
        for name, policy in (("best there is", best), ("ideal PPO, learned reward", along_proxy)):
            reward = expected(policy, world.rewards)
            yield {
                "seed": seed,
                "contender": name,
                "beta": None,
                "kl": kl(policy, world.reference),
                "reward": reward,
                "best_reward": expected(best, world.rewards),
                "proxy_reward": expected(policy, proxy),
            }


def preferred(world: World, n: int) -> Int[Tensor, "pairs two"]:
    """``n`` pairs from the reference, the preferred one first, drawn by sigma of the difference of their rewards."""
    draw = np.random.default_rng([world.seed, *b"preferences"])
    chances = world.reference.exp().numpy()
    pairs = torch.from_numpy(draw.choice(N_COMPLETIONS, size=(n, 2), p=chances / chances.sum()))
    rewards = SHARPNESS * world.rewards[pairs]
    is_first = torch.from_numpy(draw.random(n)) < torch.sigmoid(rewards[:, 0] - rewards[:, 1])
    return torch.where(is_first[:, None], pairs, pairs.flip(1))


def _policy(name: str, beta: float, world: World, proxy: LogProbs, pairs: Int[Tensor, "pairs two"]) -> LogProbs:
    if name.startswith("PPO"):
        rewards = world.rewards if "true" in name else proxy
        return exact_log_probs(trained(replace(world, rewards=rewards, beta=beta), CONTENDERS["PPO"], STEPS))
    config = DPOConfig(beta=beta) if beta else DPOConfig(loss_type=("sft",))
    start = LogProbEngine(copy.deepcopy(world.start), path="masked")
    return exact_log_probs(trained_on_pairs(start, _token_pairs(pairs), config, world.seed, EPOCHS).model)


def _token_pairs(pairs: Int[Tensor, "pairs two"]) -> list[TokenPair]:
    prompt = np.array([ASK], np.int32)
    return [
        TokenPair(f"pair-{number}", prompt, *(np.array(tokens_of(one), np.int32) for one in pair))
        for number, pair in enumerate(pairs.tolist())
    ]


def reward_at(runs: Sequence[Run], distance: float) -> float:
    """The reward of a contender at a KL, between its runs; NaN beyond them."""
    points = sorted([(0.0, 0.0), *((run["kl"], run["reward"]) for run in runs)])
    kls, rewards = zip(*points, strict=True)
    return float(np.interp(distance, kls, rewards)) if distance <= kls[-1] else float("nan")


def area(runs: Sequence[Run], upto: float = KLS[-1]) -> float:
    """The area under a contender's frontier from 0 to ``upto`` nats; NaN if it did not go so far."""
    kls = np.linspace(0, upto - 1e-6, 61)  # the best's own last point lies there but for rounding
    rewards = [reward_at(runs, distance) for distance in kls]
    return float(np.trapezoid(rewards, kls))


def claims(runs: Sequence[Run]) -> list[Claim]:
    """As the paper found: DPO earns at least what PPO on a learned reward does; fine-tuning earns least."""
    found = []
    for distance in KLS:
        one, other = (_at(runs, name, distance) for name in ("DPO", "PPO, learned reward"))
        if not np.isnan([*one, *other]).any():
            found.append(claim_above(f"{distance:g} nats: DPO above PPO on the learned reward", one, other))
    areas = [_areas(runs, name) for name in ("DPO", "PPO, learned reward")]
    if not np.isnan(areas).any():
        found.append(claim_above("area under the frontier: DPO above PPO on the learned reward", *areas))
    tuned = figures(runs, "reward", contender="SFT on the chosen")
    most = [max(run["reward"] for run in runs if run["seed"] == s and run["contender"] == "DPO") for s in _seeds(runs)]
    return [*found, claim_above("DPO at its best above SFT on the chosen", most, tuned)]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    parts = [
        about(result, "frontier"),
        f"{settings['pairs']:,} pairs a seed. True reward, in deviations of the reference's, by KL from the reference; "
        f"means over {len(result['seeds'])} seeds with 95% intervals; empty where a contender did not go so far on "
        "every seed.",
        _frontier_table(runs),
        claims_table(claims(runs), 3),
        "**Every run**",
        _runs_table(runs),
    ]
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """True reward by KL."""
    runs = result["runs"]
    names = list(dict.fromkeys(run["contender"] for run in runs))
    curves = []
    for colour, name in enumerate(names):
        own = [run for run in runs if run["contender"] == name]
        is_line = name in ("best there is", "ideal PPO, learned reward")
        if is_line:
            rewards = [over_seeds(_at(runs, name, distance)).value for distance in KLS]
            curves.append(Curve(name, [0.0, *KLS], [0.0, *rewards], colour=colour, dashed=name != "best there is"))
        else:
            xs, ys = ([run[what] for run in own] for what in ("kl", "reward"))
            curves.append(Curve(name, xs, ys, colour=colour, dots=True))
    return [Panel("What a policy earns for each nat", "KL(policy || reference), nats", "true reward", curves)]


def _at(runs: Sequence[Run], name: str, distance: float) -> list[float]:
    of = [[run for run in runs if run["seed"] == seed and run["contender"] == name] for seed in _seeds(runs)]
    return [reward_at(own, distance + (-1e-9 if distance else 0)) for own in of]


def _areas(runs: Sequence[Run], name: str) -> list[float]:
    return [area([one for one in runs if (one["seed"], one["contender"]) == (seed, name)]) for seed in _seeds(runs)]


def _seeds(runs: Sequence[Run]) -> list[int]:
    return sorted({run["seed"] for run in runs})


def _frontier_table(runs: Sequence[Run]) -> str:
    rows = []
    for name in ("best there is", "ideal PPO, learned reward", *BETAS):
        found = [_at(runs, name, distance) for distance in KLS]
        cells = ["" if np.isnan(rewards).any() else told(over_seeds(rewards), 2, 1) for rewards in found]
        if name != "SFT on the chosen":
            areas = _areas(runs, name)
            rows.append([name, *cells, "" if np.isnan(areas).any() else told(over_seeds(areas), 2, 1)])
    header = ["nats from the reference", *(f"{distance:g}" for distance in KLS), f"area, 0 to {KLS[-1]:g}"]
    return markdown(header, rows)


def _runs_table(runs: Sequence[Run]) -> str:
    rows: list[list[Any]] = []
    for name, betas in BETAS.items():
        for beta in betas:
            of = {"contender": name, "beta": beta}
            kls, rewards, best = (figures(runs, figure, **of) for figure in ("kl", "reward", "best_reward"))
            if kls:
                shares = over_seeds([one / most for one, most in zip(rewards, best, strict=True)])
                cells = [*(told(over_seeds(one), 2, 1) for one in (kls, rewards)), told(shares, 1)]
                rows.append([f"{name}{f', beta {beta:g}' if beta else ''}", *cells])
    return markdown(["", "KL, nats", "true reward", "of the best at that KL, %"], rows)


if __name__ == "__main__":
    main()
