"""Do PPO, GRPO, RLOO and online DPO end at the optimum of what they say they maximise?

    python -m benchmarks.experiments.enumerable [--seeds 0 1 2 3 4] [--jobs 2] [--output FILE]

In a world of 46,656 completions (`enumerable_world`) the optimum of E[r] - beta KL(pi || pi_ref) is known exactly, and
so is how far a policy is from it. Each method is trained by its trainer, on rewards of sampled completions alone, and
is to end less than 0.05 nats from the optimum with a reward within 2% of the optimum's. A method gets there only with
the settings that make it unbiased for this objective; each contender names them. Those that keep a bias are run too,
and are compared with where theory says that they end (`fixed_points`). First comes the exact gradient of the
objective, which shows that the model can get there at all. A seed draws the world, the policy and the completions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch
from torch import nn

from benchmarks.experiments.enumerable_world import (
    DISTANCE,
    LENGTH,
    PROMPT,
    World,
    acts_like_beta,
    exact_log_probs,
    kl,
    log_probs_of,
    make_tokenizer,
    make_world,
    objective,
    reward_function,
    standing,
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
from benchmarks.experiments.fixed_points import Penalty, fixed_point
from benchmarks.experiments.plots import Curve, Panel
from benchmarks.experiments.small_models import NOTHING_BESIDE

NEAR, WITHIN = 0.05, 0.02  # nats from the optimum; of its reward
GROUP, PROMPTS_A_STEP, RATE = 8, 32, 4e-3
ASCENT_STEPS, ASCENT_RATE = 300, 5e-3
RECORDED_EVERY = 50
EXACT = "exact gradient"
MEAN_BASELINE = (GROUP - 1) / GROUP  # the mean of the group holds the completion itself, which shrinks its advantage


@dataclass(frozen=True)
class Contender:
    """A trainer with the ``settings(beta)`` that set it to the objective, and where theory says that it ends.

    ``pays_kl`` tells the reward function to take the KL off itself.
    """

    trainer: str
    settings: Callable[[float], Mapping[str, Any]]
    steps: int
    ends: Penalty | None
    pays_kl: bool = False

    @property
    def is_unbiased(self) -> bool:
        """True where its fixed point is the optimum."""
        return self.ends == "sequence"


def _grpo(beta: float, /, **changes: Any) -> dict[str, Any]:
    right = {"scale_rewards": "none", "use_bias_correction_kl": True, "beta": beta * MEAN_BASELINE}
    return {"loss_type": "dr_grpo", **right, **changes}


def _ppo(beta: float) -> dict[str, Any]:
    """With lambda 1 advantages do not lean on the value model, which is only what they are compared with."""
    return {"kl_coef": beta, "lam": 1.0, "gamma": 1.0, "num_generations": 1}


def _online_dpo(beta: float) -> dict[str, Any]:
    """Pairs of two draws; labels that say how much better one is, or the policy would run away from ties."""
    return {
        "beta": beta,
        "labels": "soft",
        "num_generations": 2,
        "per_device_train_batch_size": GROUP * PROMPTS_A_STEP // 2,
    }


CONTENDERS: Final[dict[str, Contender]] = {
    "PPO": Contender("PPO", _ppo, 400, "sequence"),
    "RLOO": Contender("RLOO", lambda beta: {"beta": beta}, 300, "sequence"),
    "online DPO": Contender("OnlineDPO", _online_dpo, 300, "sequence"),
    "GRPO, KL in the reward": Contender("GRPO", lambda beta: _grpo(beta, beta=0.0), 300, "sequence", pays_kl=True),
    "GRPO, KL in the loss": Contender("GRPO", _grpo, 400, "reverse"),
    "GRPO, k3's own gradient": Contender(
        "GRPO", lambda beta: _grpo(beta, use_bias_correction_kl=False), 400, "forward"
    ),
    "GRPO, scaled by the group": Contender(
        "GRPO", lambda beta: _grpo(beta, scale_rewards="group", beta=beta), 300, None
    ),
}
SETTINGS = {
    "distance": DISTANCE,
    "num_generations": GROUP,
    "prompts_a_step": PROMPTS_A_STEP,
    "steps": {name: contender.steps for name, contender in CONTENDERS.items()},
    "learning_rate": RATE,
    "exact_steps": ASCENT_STEPS,
    "exact_learning_rate": ASCENT_RATE,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "enumerable", SETTINGS, runs_of)))


def runs_of(seed: int, names: Sequence[str] = (EXACT, *CONTENDERS), steps: int | None = None) -> Iterator[Run]:
    """Every contender of a seed, from the same reference."""
    world = make_world(seed)
    for name in names:
        path: list[dict[str, float]] = []
        if name == EXACT:
            policy, ends = log_probs_of(ascended(world)).detach(), world.optimum
        else:
            contender = CONTENDERS[name]
            policy = exact_log_probs(trained(world, contender, steps, path))
            ends = fixed_point(world.reference, world.rewards, world.beta, contender.ends) if contender.ends else None
        yield {
            "seed": seed,
            "contender": name,
            "beta": world.beta,
            "acts_like_beta": acts_like_beta(world, policy),
            "kl_to_fixed_point": None if ends is None else kl(policy, ends),
            "fixed_point_to_optimum": None if ends is None else kl(ends, world.optimum),
            "path": path,
            **asdict(standing(world, policy)),
        }


def ascended(world: World, steps: int = ASCENT_STEPS, rate: float = ASCENT_RATE) -> nn.Module:
    """The reference after ``steps`` of Adam on the exact objective, every completion counted, the rate falling to 0."""
    model = copy.deepcopy(world.start)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 1e-2, total_iters=steps)
    for _ in range(steps):
        loss = -objective(world, log_probs_of(model))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model


def trained(
    world: World, contender: Contender, steps: int | None = None, path: list[dict[str, float]] | None = None
) -> nn.Module:
    """The reference as the contender's trainer leaves it; where it stands on the way is put into ``path``."""
    import preftune

    def live() -> nn.Module:
        return trainer.model

    reward = reward_less_kl(world, live) if contender.pays_kl else reward_function(world.rewards)
    with TemporaryDirectory(prefix="enumerable-") as folder:
        settings = {
            **settings_of(world, steps or contender.steps),
            **contender.settings(world.beta),
            "output_dir": f"{folder}/run",
        }
        if contender.trainer == "PPO":
            settings["value_model"] = save_value_model(world, f"{folder}/value")
        config = getattr(preftune, f"{contender.trainer}Config")(**settings)
        trainer = getattr(preftune, f"{contender.trainer}Trainer")(
            model=copy.deepcopy(world.start),
            args=config,
            reward_funcs=[reward],
            train_dataset=[{"prompt": PROMPT} for _ in range(PROMPTS_A_STEP)],
            processing_class=make_tokenizer(),
            callbacks=[_recorder(world, path, live)] if path is not None else None,
        )
        trainer.train()
        return trainer.model


def settings_of(world: World, steps: int) -> dict[str, Any]:
    """What all trainers are told: draws from the whole distribution, one update a draw, nothing held out or saved."""
    return {
        "num_generations": GROUP,
        "per_device_train_batch_size": GROUP * PROMPTS_A_STEP,
        "per_device_eval_batch_size": GROUP * PROMPTS_A_STEP,
        "gradient_accumulation_steps": 1,
        "max_completion_length": LENGTH,
        "temperature": 1.0,
        "learning_rate": RATE,
        "max_steps": steps,
        "seed": world.seed,
        "logging_steps": RECORDED_EVERY,
        **NOTHING_BESIDE,
        "eval_prompts": 0,
        "dtype": "float32",
    }


def reward_less_kl(world: World, policy: Callable[[], nn.Module]) -> Callable[..., list[float]]:
    """The rewards less the price of the KL: what PPO and RLOO do by themselves."""

    def reward(**batch: Any) -> list[float]:
        now = exact_log_probs(policy())
        return reward_function(world.rewards - world.beta * (now - world.reference))(**batch)

    return reward


def save_value_model(world: World, folder: str) -> str:
    """The reference's body with a head that says 0, as a folder; gives the folder."""
    from transformers import LlamaForSequenceClassification

    start: Any = world.start
    config = copy.deepcopy(start.config)
    config.num_labels = 1
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(start.model.state_dict())
    nn.init.zeros_(model.score.weight)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    parts = [
        about(result, "enumerable"),
        f"{settings['prompts_a_step'] * settings['num_generations']} completions a step (PPO: every fourth), learning "
        f"rate {settings['learning_rate']:g} falling to 0; the optimum lies {settings['distance']:g} nats from the "
        f"reference, whose reward is 0. Means over {len(result['seeds'])} seeds with 95% intervals. *Must end* is the "
        "distance from the optimum of the contender's own fixed point, and *missed* the policy's distance from that.",
        _standing_table(runs),
        claims_table(claims(runs), 3),
    ]
    return "\n\n".join(parts)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Unbiased contenders are near enough, and so are their rewards; others end at their own fixed points."""
    found = []
    for name, contender in CONTENDERS.items():
        distances = figures(runs, "kl_to_optimum", contender=name)
        if not distances:
            continue
        if contender.is_unbiased:
            rewards = [abs(1 - share) for share in figures(runs, "reward_share", contender=name)]
            found.append(claim_above(f"{name}: nearer than {NEAR:g} nats", [NEAR] * len(distances), distances))
            found.append(claim_above(f"{name}: reward within {WITHIN:.0%}", [WITHIN] * len(rewards), rewards))
        elif contender.ends:
            missed = figures(runs, "kl_to_fixed_point", contender=name)
            found.append(claim_above(f"{name}: nearer to its fixed point than to the optimum", distances, missed))
    return found


def plot(result: Result) -> Sequence[Panel]:
    """How far from the optimum each contender is on its way, and reward against KL where it ends."""
    runs = result["runs"]
    names = [name for name in CONTENDERS if figures(runs, "path", contender=name)]
    ways = []
    for colour, name in enumerate(names):
        paths = figures(runs, "path", contender=name)
        steps = [point["step"] for point in paths[0]]
        measured = [over_seeds([path[i]["kl_to_optimum"] for path in paths]) for i in range(len(steps))]
        ways.append(Curve(name, steps, [one.value for one in measured], colour=colour))
    ends = [
        Curve(
            name,
            *(figures(runs, figure, contender=name) for figure in ("kl_to_reference", "reward_share")),
            colour=i,
            dots=True,
        )
        for i, name in enumerate(names)
    ]
    return [
        Panel("Distance from the optimum", "step", "KL(policy || optimum), nats", ways, log_y=True, level=NEAR),
        Panel("Where they end", "KL(policy || reference), nats", "reward, of the optimum's", ends, level=1.0),
    ]


def _recorder(
    world: World, path: list[dict[str, float]], model: Callable[[], nn.Module]
) -> Callable[[int, Mapping[str, float]], None]:
    def record(step: int, _: Mapping[str, float]) -> None:
        if step % RECORDED_EVERY == 0:
            now = standing(world, exact_log_probs(model()))
            path.append({"step": step, "kl_to_optimum": now.kl_to_optimum, "reward_share": now.reward_share})

    return record


def _standing_table(runs: Sequence[Run]) -> str:
    rows = []
    for name in (EXACT, *CONTENDERS):
        distances = figures(runs, "kl_to_optimum", contender=name)
        if not distances:
            continue
        shares = figures(runs, "reward_share", contender=name)
        passed = sum(d < NEAR and abs(1 - s) <= WITHIN for d, s in zip(distances, shares, strict=True))
        theory = figures(runs, "fixed_point_to_optimum", contender=name)
        missed = figures(runs, "kl_to_fixed_point", contender=name)
        acts = [
            like / beta
            for like, beta in zip(*(figures(runs, f, contender=name) for f in ("acts_like_beta", "beta")), strict=True)
        ]
        rows.append(
            [
                name,
                str(CONTENDERS[name].steps if name in CONTENDERS else ASCENT_STEPS),
                told(over_seeds(distances), 4, 1),
                told(over_seeds(shares), 1),
                f"{passed} of {len(distances)}",
                "" if theory[0] is None else told(over_seeds(theory), 4, 1),
                "" if missed[0] is None else told(over_seeds(missed), 4, 1),
                told(over_seeds(acts), 2, 1),
            ]
        )
    header = [
        "",
        "steps",
        "from the optimum, nats",
        "reward, % of the optimum's",
        "both near enough",
        "must end",
        "missed",
        "acts like beta x",
    ]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
