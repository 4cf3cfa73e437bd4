"""The kinds of runs: healthy ones of several methods, and one kind for each failure, with who should notice it.

Healthy runs differ: a seed also draws the learning rate, the schedule, beta, how much is wrong in the labels and how
often is logged. A broken run is a healthy one with one thing changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from benchmarks.doctor import broken
from benchmarks.doctor.letters import (
    LETTERS,
    generator,
    learned_proxy,
    letters_of,
    near_twins,
    pairs_of,
    prompts_of,
)
from benchmarks.doctor.running import Plan, with_figures

STEPS, BATCH = 70, 32
WINDOWS, PROMPTS, GROUP = 44, 8, 8
RATES: Final = {"dpo": 1.5e-3, "ipo": 1e-3, "simpo": 5e-4, "kto": 1.5e-3, "reward": 1.5e-3, "ppo": 1e-3, "grpo": 2e-3}
HELD_OUT = 100
LONGEST_DRAWN = 24


@dataclass(frozen=True)
class Kind:
    """``plan(seed)`` makes a run; ``caught_by`` are the detectors of which one must fire, none for a healthy kind.

    ``asked`` is False for what is shown beside the promise: failures too mild to promise anything.
    """

    name: str
    plan: Callable[[int], Plan]
    caught_by: tuple[str, ...] = ()
    said: str = ""
    asked: bool = True

    @property
    def is_healthy(self) -> bool:
        return not self.caught_by


def on_pairs(
    method: str, seed: int, /, n: int = 1200, wrong: float | None = None, held_out: int = HELD_OUT, **settings: Any
) -> Plan:
    """A healthy run on pairs: about two epochs at most, one of a reward model, few labels wrong."""
    draw, world = generator(seed, f"vary {method}"), letters_of(seed)
    drawn = {
        "learning_rate": RATES[method] * 2 ** draw.uniform(-1, 1),
        "lr_scheduler_type": str(draw.choice(["linear", "cosine", "constant_with_warmup"])),
        "warmup_steps": int(draw.choice([0, 10])),
        "logging_steps": int(draw.choice([1, 1, 2])),
        "per_device_train_batch_size": BATCH,
    }
    beta = float(draw.choice([0.05, 0.1, 0.2]))
    noise = float(draw.choice([0.0, 0.03, 0.06])) if wrong is None else wrong
    if method == "simpo":
        drawn |= {"beta": 2.0}
    elif method == "ipo":
        drawn |= {"beta": 2 * beta}
    elif method == "reward":
        drawn |= {"group_by_prompt": False}
    else:
        drawn |= {"beta": beta}
    return Plan(
        method,
        {"max_steps": STEPS, **drawn, **settings},
        pairs_of(world, n, "pairs", noise),
        pairs_of(world, held_out, "held out", noise),
        prepare=_with_figures(method),
    )


def by_reward(method: str, seed: int, /, windows: int = WINDOWS, **settings: Any) -> Plan:
    """A healthy run on rewards: the reward is the gold score, and the KL from the start has a price."""
    draw, world = generator(seed, f"vary {method}"), letters_of(seed)
    drawn: dict[str, Any] = {
        "learning_rate": RATES.get(method, RATES["grpo"]) * 2 ** draw.uniform(-1, 1),
        "lr_scheduler_type": str(draw.choice(["linear", "cosine", "constant"])),
        "logging_steps": 1,
        "per_device_train_batch_size": PROMPTS * GROUP // 2,  # in halves: they are compared for grad_snr
        "per_device_eval_batch_size": PROMPTS * GROUP,
        "gradient_accumulation_steps": 2,
        "max_completion_length": LONGEST_DRAWN,
        "max_steps": windows,
    }
    price = float(draw.choice([0.05, 0.1, 0.2]))
    if method == "ppo":
        drawn |= {"kl_coef": price, "num_ppo_epochs": 2, "max_steps": 2 * windows, "logging_steps": 2}
    else:
        drawn |= {"num_generations": GROUP, "beta": price}
    return Plan(
        method,
        {**drawn, **settings},
        [{"prompt": prompt} for prompt in prompts_of(seed, 400, "asked")],
        reward=lambda prompt, answer: world.gold(answer),
        gold=world.gold,
    )


def _with_figures(method: str) -> Callable[..., Any] | None:
    """What prepares a method on pairs with a figure more."""
    if method not in ("dpo", "ipo", "simpo"):
        return None

    def prepare(context: Any) -> Any:
        from preftune.methods.dpo import dpo_method
        from preftune.methods.pair_run import prepare_pairs
        from preftune.methods.simpo import cpo_method

        of = cpo_method if method == "simpo" else dpo_method
        return prepare_pairs(context, with_figures(of(context.config)))

    return prepare


def _solved(seed: int) -> Plan:
    """A task that can be solved: the right answer starts with a vowel; in the end every answer is right."""
    plan = by_reward("grpo", seed, beta=0.1)  # without a price all else in the answers would be free to degenerate
    return replace(plan, reward=lambda prompt, answer: float(answer[:1] in tuple("aeiou")), gold=None)


def _hacked(method: str, seed: int, hides: frozenset[str] = frozenset()) -> Plan:
    free = {"kl_coef": 0.0} if method == "ppo" else {"beta": 1e-6}
    plan = by_reward(method, seed, learning_rate=2e-3, **free)
    proxy = learned_proxy(letters_of(seed), 200)
    return replace(plan, reward=lambda prompt, answer: proxy(answer), hides=hides)


def _paid_by_length(seed: int) -> Plan:
    plan, world = by_reward("grpo", seed, beta=0.01), letters_of(seed)
    return replace(plan, reward=lambda prompt, answer: world.gold(answer) + 0.2 * len(answer))


def _one_phrase(seed: int) -> Plan:
    plan, world = by_reward("grpo", seed, beta=0.0, learning_rate=3e-3), letters_of(seed)
    phrase = "".join(generator(seed, "phrase").choice(list(LETTERS), size=2))
    return replace(plan, reward=lambda prompt, answer: world.gold(answer) + 2.0 * answer.count(phrase[0]))


def _polarised(seed: int) -> Plan:
    """Half of the prompts cannot be answered wrongly, the others not rightly."""
    plan = by_reward("grpo", seed)
    return replace(plan, reward=lambda prompt, answer: float(prompt[0] in "ABCD"), gold=None)


def _rare(seed: int) -> Plan:
    """A reward that one answer in ten gets, and two completions of four prompts to find it."""
    plan, world = by_reward("grpo", seed, num_generations=2, per_device_train_batch_size=4), letters_of(seed)
    return replace(plan, reward=lambda prompt, answer: float(world.gold(answer) > 0.25), gold=None)


def _collapsed(seed: int) -> Plan:
    """A word to be spelled, five times the learning rate, and nothing that holds: the first near miss stays."""
    plan = by_reward("grpo", seed, windows=70, beta=0.0, learning_rate=1e-2, lr_scheduler_type="constant")
    word = "".join(generator(seed, "word").choice(list(LETTERS), size=6))

    def spelled(prompt: str, answer: str) -> float:
        right = sum(one == other for one, other in zip(answer, word, strict=False))
        return right / 8 - 0.1 * abs(len(answer) - len(word))

    return replace(plan, reward=spelled, gold=None)


def _mislabelled(share: float, seed: int) -> Plan:
    """So many pairs that a model learns of them in spite of their labels: one that knows nothing cannot tell."""
    return on_pairs("dpo", seed, n=4800, wrong=share, held_out=400, max_steps=4 * STEPS)


def _around(plan: Plan, around: broken.Around) -> Plan:
    return replace(plan, around=around)


def _twins(seed: int) -> Plan:
    plan, world = on_pairs("dpo", seed, learning_rate=3e-3, beta=0.1), letters_of(seed)
    return replace(plan, train=near_twins(world, 1200, "pairs"), evaluation=near_twins(world, HELD_OUT, "held out"))


def _other_reference(method: str, seed: int) -> Plan:
    plan = by_reward(method, seed) if method in ("ppo", "grpo") else on_pairs(method, seed, logging_steps=1)
    return replace(plan, ref_epochs=0.0 if method in ("ppo", "grpo") else 1.0)


def _colder(seed: int) -> Plan:
    return replace(by_reward("grpo", seed), within=partial(broken.drawn_colder, 0.5))


HEALTHY: Final = (
    *(
        Kind(f"healthy-{method}", partial(on_pairs, method), said=f"{method}, pairs mostly right")
        for method in ("dpo", "ipo", "kto")
    ),
    Kind("healthy-reward", partial(on_pairs, "reward", n=STEPS * BATCH), said="reward, pairs mostly right, one epoch"),
    *(
        Kind(f"healthy-{method}", partial(by_reward, method), said=f"{method}, the reward is gold")
        for method in ("grpo", "ppo")
    ),
)
TRAPS: Final = (
    Kind("healthy-simpo", partial(on_pairs, "simpo"), said="simpo: rewards without a reference", asked=False),
    Kind("healthy-rloo", partial(by_reward, "rloo"), said="rloo: its KL may be below zero", asked=False),
    Kind("healthy-solved", _solved, said="grpo, every answer right in the end", asked=False),
)
BROKEN: Final = (
    Kind("hacked-grpo", partial(_hacked, "grpo"), ("D01",), "a proxy of 200 pairs, no price on the KL"),
    Kind("hacked-ppo", partial(_hacked, "ppo"), ("D01",), "the same with PPO"),
    Kind("hacked-blind", partial(_hacked, "grpo", hides=frozenset({"gold/score"})), ("D02",), "no gold score logged"),
    Kind("paid-by-length", _paid_by_length, ("D03",), "longer answers earn more"),
    Kind("cut-short", lambda seed: by_reward("grpo", seed, max_completion_length=4), ("D04",), "room for half"),
    Kind("one-letter", _one_phrase, ("D05",), "a reward for one letter"),
    Kind("collapsed", _collapsed, ("D06",), "learning rate x5, nothing that holds"),
    Kind(
        "wrong-sign",
        lambda seed: _around(by_reward("grpo", seed, beta=0.0), broken.turned_round),
        ("D07", "D27"),
        "the loss has the wrong sign",
    ),
    Kind(
        "kl-ppo",
        lambda seed: by_reward("ppo", seed, kl_coef=0.0, learning_rate=3e-2, lr_scheduler_type="constant"),
        ("D08",),
        "free KL, rate x30, never falling",
    ),
    Kind("other-reference-ppo", partial(_other_reference, "ppo"), ("D09", "D14"), "the reference is an untaught model"),
    Kind(
        "many-epochs-ppo",
        lambda seed: by_reward(
            "ppo", seed, num_ppo_epochs=16, max_steps=320, learning_rate=1e-2, lr_scheduler_type="constant"
        ),
        ("D10",),
        "16 passes, rate x10, never falling",
    ),
    Kind(
        "blind-critic", lambda seed: _around(by_reward("ppo", seed), broken.blind_critic), ("D11",), "a critic of noise"
    ),
    Kind("twins", _twins, ("D12",), "sides that differ in a letter"),
    Kind(
        "reference-is-policy",
        lambda seed: _around(on_pairs("dpo", seed), broken.with_reference(broken.aliased)),
        ("D13",),
        "policy and reference are one object",
    ),
    Kind(
        "reference-follows",
        lambda seed: _around(on_pairs("dpo", seed), broken.with_reference(broken.averaged)),
        ("D13",),
        "a moving average of the policy",
    ),
    Kind(
        "reference-learns",
        lambda seed: _around(on_pairs("dpo", seed), broken.with_reference(broken.trained)),
        ("D13",),
        "its weights are in an optimiser too",
    ),
    Kind("other-reference", partial(_other_reference, "dpo"), ("D14",), "the reference has read a third"),
    Kind("polarised", _polarised, ("D15",), "half always right, half never"),
    Kind("group-of-two", _rare, ("D16",), "two completions of four prompts, a rare reward"),
    Kind(
        "shuffled",
        lambda seed: replace(by_reward("grpo", seed), within=partial(broken.grouped_anyhow, seed)),
        ("D17",),
        "completions are shuffled before they are grouped",
    ),
    Kind(
        "reward-of-nothing",
        lambda seed: replace(by_reward("grpo", seed), reward=lambda prompt, answer: 0.0),
        ("D18",),
        "the reward is always 0",
    ),
    Kind(
        "reward-by-heart", lambda seed: on_pairs("reward", seed, n=100, max_steps=120), ("D19",), "100 pairs, 38 times"
    ),
    Kind("mislabelled-40", partial(_mislabelled, 0.4), ("D23",), "40% of the labels flipped, 400 pairs held out"),
    Kind("mislabelled-25", partial(_mislabelled, 0.25), ("D23",), "25% flipped", asked=False),
    Kind(
        "rate-x1000",
        lambda seed: on_pairs("dpo", seed, learning_rate=1000 * RATES["dpo"], lr_scheduler_type="constant_with_warmup"),
        ("D27",),
        "learning rate x1000, for models this small still learn at x30",
    ),
    Kind(
        "rate-x100-grpo",
        lambda seed: by_reward("grpo", seed, learning_rate=100 * RATES["grpo"]),
        ("D27", "D06", "D08"),
        "rate x100, for models this small still learn at x30",
    ),
    Kind("rate-of-nothing", lambda seed: on_pairs("dpo", seed, learning_rate=1e-12), ("D28",), "learning rate 1e-12"),
    Kind("not-finite", lambda seed: _around(on_pairs("dpo", seed), broken.poisoned(0.1, 0.3)), ("D29",), "some rows"),
    Kind("always-clipped", lambda seed: on_pairs("dpo", seed, max_grad_norm=1e-3), ("D30",), "clipped to 0.001"),
    Kind("drawn-colder", _colder, ("D34",), "drawn at temperature 0.5"),
    Kind(
        "stale",
        lambda seed: by_reward(
            "grpo", seed, num_iterations=8, max_steps=256, learning_rate=1e-2, lr_scheduler_type="constant"
        ),
        ("D35",),
        "8 passes over what was drawn, rate x5, never falling",
    ),
    Kind(
        "leaking",
        lambda seed: _around(on_pairs("dpo", seed, n=4000, max_steps=250), broken.leaking),
        ("D36",),
        "a MiB a step",
    ),
    Kind("kto-far", lambda seed: on_pairs("kto", seed, learning_rate=3e-2, beta=1.0), ("D38",), "rate x30, beta 1"),
    Kind(
        "dpo-by-heart",
        lambda seed: on_pairs("dpo", seed, n=100, wrong=0.1, max_steps=120, learning_rate=2 * RATES["dpo"]),
        ("D39",),
        "100 pairs, 38 times, rate x2, 10% flipped",
    ),
)
ALL: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (*HEALTHY, *TRAPS, *BROKEN)}
