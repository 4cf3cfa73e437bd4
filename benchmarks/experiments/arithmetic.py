"""Does GRPO teach a small model to add, and does it teach nothing where the rewards are shuffled?

    python -m benchmarks.experiments.arithmetic [--seeds 0 1 2 3 4] [--jobs 2] [--output FILE]

A Llama of 1.3 million parameters learns sums of two numbers of two digits from the first character on: by SFT in short
rounds until it gets 40% of the held-out sums right, then by GRPO with a reward of 1 for the right answer and 0
for any other. The control is the same run with each batch's rewards handed to its completions at random. The share of
groups that teach nothing is compared with p^8 + (1 - p)^8, p being each prompt's rate of right answers. A seed draws
the model, the sums that are held out, the order and the completions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from scipy.special import comb
from torch import nn

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
from benchmarks.experiments.plots import Curve, Panel
from benchmarks.experiments.small_models import NOTHING_BESIDE
from benchmarks.experiments.sums import (
    LAYERS,
    LONGEST_ANSWER,
    WIDTH,
    Sum,
    is_right,
    make_policy,
    make_tokenizer,
    rightness,
    rows_of,
    shuffled,
    split_sums,
)

HELD_OUT = 500
ENOUGH = 0.4  # of the held-out sums, to end SFT
SFT_ROUND, SFT_BATCH, SFT_RATE, MOST_ROUNDS = 25, 64, 1e-3, 80
GROUP, PROMPTS_A_STEP, STEPS, RATE = 8, 16, 1400, 2e-4
LOGGED_EVERY = 10
PROBED, PROBES = 200, 64  # training sums whose rate of right answers is measured, and answers to each
GRPO, CONTROL = "GRPO", "GRPO, rewards shuffled"
GOOD, NOTHING = 0.9, 0.03
SETTINGS = {
    "width": WIDTH,
    "layers": LAYERS,
    "held_out": HELD_OUT,
    "sft_batch_size": SFT_BATCH,
    "sft_learning_rate": SFT_RATE,
    "num_generations": GROUP,
    "prompts_a_step": PROMPTS_A_STEP,
    "steps": STEPS,
    "learning_rate": RATE,
}
REWARDS: Final[dict[str, Callable[[int], Callable[..., list[float]]]]] = {
    GRPO: lambda seed: is_right,
    CONTROL: lambda seed: shuffled(is_right, seed),
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "arithmetic", SETTINGS, runs_of)))


def runs_of(seed: int, steps: int = STEPS) -> Iterator[Run]:
    """A model taught the half of it, then GRPO and its control from the same start."""
    learned_from, held_out = split_sums(seed, HELD_OUT)
    start, sft_steps = taught(seed, learned_from, held_out)
    before = _measured(start, learned_from, held_out, seed)
    for contender, reward in REWARDS.items():
        model, log = trained(start, learned_from, reward(seed), seed, steps)
        after = _measured(model, learned_from, held_out, seed)
        seen = [row["frac_reward_zero_std"] for row in log if "frac_reward_zero_std" in row]
        yield {
            "seed": seed,
            "contender": contender,
            "sft_steps": sft_steps,
            "tied_first": seen[0],
            "tied_last": seen[-1],
            "rewards": [[row["step"], row["reward"]] for row in log if "reward" in row],
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
        }


def taught(
    seed: int, sums: Sequence[Sum], held_out: Sequence[Sum], enough: float = ENOUGH, rounds: int = MOST_ROUNDS
) -> tuple[nn.Module, int]:
    """A model after as many rounds of SFT as it needs to get ``enough`` of the held-out sums right, and their steps."""
    from preftune import SFTConfig, SFTTrainer

    model, tokenizer = make_policy(seed), make_tokenizer()
    order = np.random.default_rng([seed, *b"demonstrations"])
    steps = 0
    while steps < rounds * SFT_ROUND:
        chosen = [sums[i] for i in order.integers(len(sums), size=SFT_ROUND * SFT_BATCH)]
        with TemporaryDirectory(prefix="arithmetic-") as folder:
            config = SFTConfig(
                output_dir=f"{folder}/run",
                learning_rate=SFT_RATE,
                lr_scheduler_type="constant",
                per_device_train_batch_size=SFT_BATCH,
                seed=seed,
                **NOTHING_BESIDE,
            )
            SFTTrainer(model=model, args=config, train_dataset=rows_of(chosen), processing_class=tokenizer).train()
        steps += SFT_ROUND
        if rightness(model, held_out).mean() >= enough:
            break
    return model, steps


def trained(
    start: nn.Module, sums: Sequence[Sum], reward: Callable[..., list[float]], seed: int, steps: int = STEPS
) -> tuple[nn.Module, Sequence[Mapping[str, Any]]]:
    """A copy of ``start`` after GRPO, and the log."""
    from preftune import GRPOConfig, GRPOTrainer

    with TemporaryDirectory(prefix="arithmetic-") as folder:
        config = GRPOConfig(
            output_dir=f"{folder}/run",
            num_generations=GROUP,
            per_device_train_batch_size=GROUP * PROMPTS_A_STEP,
            gradient_accumulation_steps=1,
            max_completion_length=LONGEST_ANSWER,
            temperature=1.0,
            beta=0.0,
            learning_rate=RATE,
            max_steps=steps,
            seed=seed,
            logging_steps=LOGGED_EVERY,
            **NOTHING_BESIDE,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(start),
            args=config,
            reward_funcs=[reward],
            train_dataset=[{"prompt": row["prompt"], "answer": row["answer"]} for row in rows_of(sums)],
            processing_class=make_tokenizer(),
        )
        trainer.train()
        return trainer.model, trainer.state.log_history


def expected_ties(right: np.ndarray, group: int = GROUP) -> float:
    """The share of groups all right or all wrong, from more answers than a group has to each of some prompts: unbiased.

    Of the groups that can be chosen from a prompt's answers, those that are all of one kind.
    """
    hits, n = right.sum(1), right.shape[1]
    return float(((comb(hits, group) + comb(n - hits, group)) / comb(n, group)).mean())


def claims(runs: Sequence[Run]) -> list[Claim]:
    """More than 90% right, from less than 60; less than three points for shuffled rewards; ties as many as expected."""

    def of(figure: str, contender: str = GRPO) -> list[float]:
        return figures(runs, figure, contender=contender)

    n = len(of("greedy_after"))
    return [
        claim_above("GRPO: more than 90% of held-out sums right", of("greedy_after"), [GOOD] * n),
        claim_above(
            "GRPO: sampled answers are right more often than before", of("sampled_after"), of("sampled_before")
        ),
        claim_within(
            "shuffled rewards: less than 3 points won",
            of("greedy_before", CONTROL),
            of("greedy_after", CONTROL),
            NOTHING,
        ),
    ]


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    parts = [
        about(result, "arithmetic"),
        f"{settings['steps']} steps of {settings['prompts_a_step']} prompts with {settings['num_generations']} "
        f"completions each; {settings['held_out']} held-out sums a seed; means over {len(result['seeds'])} seeds with "
        "95% intervals.",
        _accuracy_table(runs),
        claims_table(claims(runs), 1, 100, "points"),
        "**Groups that teach nothing**, %: expected of the rates of right answers at that time; logged in the first "
        f"and the last {LOGGED_EVERY} steps.",
        _ties_table(runs),
    ]
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """The share of right answers among those drawn in training."""
    curves = []
    for colour, contender in enumerate(REWARDS):
        rows = figures(result["runs"], "rewards", contender=contender)
        steps = [step for step, _ in rows[0]]
        measured = [over_seeds([row[i][1] for row in rows]) for i in range(len(steps))]
        values, lows, highs = ([getattr(one, name) for one in measured] for name in ("value", "low", "high"))
        curves.append(Curve(contender, steps, values, lows, highs, colour))
    return [Panel("Answers drawn in training", "step", "share of right answers", curves, bottom=0.0)]


def _measured(model: nn.Module, learned_from: Sequence[Sum], held_out: Sequence[Sum], seed: int) -> dict[str, float]:
    probes = rightness(model, learned_from[:PROBED], temperature=1.0, samples=PROBES, seed=seed)
    return {
        "greedy": float(rightness(model, held_out).mean()),
        "sampled": float(rightness(model, held_out, temperature=1.0, samples=4, seed=seed).mean()),
        "ties_expected": expected_ties(probes),
    }


def _accuracy_table(runs: Sequence[Run]) -> str:
    rows = []
    for contender in REWARDS:
        cells = [
            told(over_seeds(figures(runs, f"{kind}_{when}", contender=contender)))
            for kind in ("greedy", "sampled")
            for when in ("before", "after")
        ]
        rows.append([contender, *cells])
    return markdown(["right, %", "greedy, before", "greedy, after", "sampled, before", "sampled, after"], rows)


def _ties_table(runs: Sequence[Run]) -> str:
    names = ("ties_expected_before", "tied_first", "ties_expected_after", "tied_last")
    rows = [
        [contender, *(told(over_seeds(figures(runs, name, contender=contender))) for name in names)]
        for contender in REWARDS
    ]
    return markdown(["", "expected, before", "logged, first", "expected, after", "logged, last"], rows)


if __name__ == "__main__":
    main()
