"""The config of an advised run: settings that fit the data and the machine, as a file that the command accepts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from preftune.advise.data_facts import DataFacts
from preftune.advise.facts import EVAL_FRACTION, Wishes
from preftune.advise.machine_facts import MachineFacts
from preftune.advise.memory import MemoryEstimate, estimate_memory
from preftune.advise.model_facts import ModelFacts
from preftune.advise.workload import ONLINE, Workload, plan_workload
from preftune.methods.registry import METHODS
from preftune.yaml_file import dump

ROOM: Final = 0.8  # of the free memory that a run may take
STEPS: Final = 50  # an optimiser step is as large as leaves so many
SMALL_MODEL: Final = 5e8  # parameters, below which an adapter bears the demo's learning rate
FULL_FROM: Final = 20_000  # records, below which an adapter is enough
_ROUND: Final = 64  # tokens
_MOST_LENGTH: Final = 2_048


@dataclass(frozen=True)
class Stage:
    """A method with its settings."""

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """The stages of a run in order, the advised method last, and the shared settings behind them."""

    stages: tuple[Stage, ...]
    output: str
    model: str

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of the advised method."""
        return self.stages[-1].settings

    @property
    def command(self) -> str:
        """The command that takes the file: a method's name, or ``run`` for several stages."""
        return self.stages[0].method if len(self.stages) == 1 else "run"

    def as_yaml(self, why: str) -> str:
        """The file; ``why`` stands above it as a comment."""
        comment = "".join(f"# {line}\n" for line in _wrapped(why))
        if len(self.stages) == 1:
            return comment + dump({"output_dir": self.output, **self.settings})
        stages = [{stage.method: {k: v for k, v in stage.settings.items() if k != "model"}} for stage in self.stages]
        return comment + dump({"output_dir": self.output, "model": self.model, "stages": stages})

    def config(self) -> Any:
        """The advised method's config, checked."""
        cls = METHODS[self.stages[-1].method].config_class()
        return cls(**{"model": self.model, "output_dir": self.output, **_as_fields(self.settings)})

    def workload(self, data: DataFacts) -> Workload:
        """What the advised method computes."""
        return plan_workload(self.stages[-1].method, self.config(), data.lengths, data.records, data.prompts)


def make_recipe(
    method: str,
    before: tuple[str, ...],
    data: DataFacts,
    model: ModelFacts | None,
    machine: MachineFacts,
    wishes: Wishes,
    facts: Mapping[str, Any],
    from_rules: Mapping[str, Any],
    before_rules: Mapping[str, Any],
    output: str,
) -> Recipe:
    """The leanest step down from what is wanted that fits into ROOM of the free memory; else the leanest of all."""
    name = "MODEL" if model is None else model.name
    recipe = None
    for lean in _leaner(method, data, wishes):
        last = Stage(method, _settings(method, data, model, wishes, facts, from_rules, lean))
        earlier = (stage for stage in before if stage != method)
        stages = (Stage(stage, _settings(stage, data, model, wishes, facts, before_rules, lean)) for stage in earlier)
        recipe = Recipe((*stages, last), output, name)
        if model is None or _fits(recipe, data, model, machine):
            break
    assert recipe is not None
    return recipe


def memory_of(recipe: Recipe, data: DataFacts, model: ModelFacts, machine: MachineFacts) -> MemoryEstimate:
    """The peak of the advised method's training."""
    scorers = (float(model.sizes.parameters),) if "reward" in [stage.method for stage in recipe.stages] else ()
    return estimate_memory(
        recipe.workload(data),
        recipe.config(),
        model.sizes,
        has_bfloat16=machine.has_bfloat16,
        device=machine.device,
        reward_models=scorers,
    )


def _fits(recipe: Recipe, data: DataFacts, model: ModelFacts, machine: MachineFacts) -> bool:
    return memory_of(recipe, data, model, machine).peak <= ROOM * machine.available


def _leaner(method: str, data: DataFacts, wishes: Wishes) -> Iterator[dict[str, Any]]:
    """What memory is saved by, step after step: an adapter, smaller micro-batches, activations twice, four bits."""
    per_step = _items_a_step(method, data.records)
    if wishes.full or data.records >= FULL_FROM:
        for batch in _halves(per_step):
            yield {"use_peft": False, "per_device_train_batch_size": batch}
    for more in ({}, {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "load_in_4bit": True}):
        for batch in _halves(per_step):
            yield {"use_peft": True, "per_device_train_batch_size": batch, **more}


def _halves(number: int) -> Iterator[int]:
    while number > 1:
        yield number
        number //= 2
    yield 1


def _items_a_step(method: str, records: int) -> int:
    """A power of two up to 64, of which the data have STEPS; completions of online methods by eights of prompts."""
    if method in ONLINE:
        return 8
    return 2 ** min(6, max(2, int(math.log2(max(4, records / STEPS)))))


def _settings(
    method: str,
    data: DataFacts,
    model: ModelFacts | None,
    wishes: Wishes,
    facts: Mapping[str, Any],
    from_rules: Mapping[str, Any],
    lean: Mapping[str, Any],
) -> dict[str, Any]:
    """All that is to be said beyond the method's defaults; the micro-batch of ``lean`` may be that of a later stage."""
    fields = METHODS[method].config_class().model_fields
    per_step = _items_a_step(method, data.records)
    batch = min(per_step, int(lean["per_device_train_batch_size"]))
    settings: dict[str, Any] = {
        "model": "MODEL" if model is None else model.name,
        "data": data.source,
        **({"eval_data": wishes.eval_data} if wishes.eval_data else {"eval_fraction": EVAL_FRACTION}),
        "max_length": _max_length(data, model),
        **lean,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": max(1, per_step // batch),
        "num_train_epochs": float(facts.get("epochs") or 1.0),
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "seed": 42,
    }
    if method in ONLINE:
        settings |= _online(method, data, wishes, batch, from_rules)
    else:
        held_out = settings.get("eval_fraction", 0.0)
        steps = math.ceil(data.records * (1 - held_out) / per_step * settings["num_train_epochs"])
        settings |= {"learning_rate": _learning_rate(method, bool(lean["use_peft"]), steps, model)}
        settings |= {"save_steps": max(10, min(500, steps // 3))}
    settings |= from_rules
    return {name: value for name, value in settings.items() if name in fields and value is not None}


def _online(method: str, data: DataFacts, wishes: Wishes, batch: int, from_rules: Mapping[str, Any]) -> dict[str, Any]:
    """Eight prompts' completions a step, in micro-batches of whole groups where a group fits."""
    group = int(from_rules.get("num_generations") or {"ppo": 1, "online-dpo": 2}.get(method, 8))
    unit = 1 if method == "online-dpo" else group
    micro = max(batch, unit) if method != "ppo" else batch
    rewards = list(wishes.rewards) or (["reward"] if method in ("ppo", "online-dpo") else ["accuracy"])
    answers = [length for one in data.lengths for length in one[1:]]
    room = 256 if not answers else min(512, _rounded(sorted(answers)[int(0.95 * (len(answers) - 1))]))
    return {
        "reward_funcs": rewards,
        "num_generations": group,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, 8 * unit // micro),
        "max_completion_length": room,
        "max_length": _rounded(max(one[0] for one in data.lengths)) + room,
        "save_steps": 20,
        **({"missing_eos_penalty": 1.0} if method == "ppo" else {}),
        **({"beta": 0.01} if method == "grpo" else {}),
    }


def _max_length(data: DataFacts, model: ModelFacts | None) -> int:
    """What 99 in 100 rows need, in steps of 64 tokens."""
    together = data.length_percentiles().get("together", {"99": 1024.0})
    limits = [_MOST_LENGTH] + ([model.positions] if model is not None and model.positions else [])
    spare = 1.0 if data.counted else 1.3  # characters only estimate
    return min(*limits, max(_ROUND, _rounded(spare * together["99"])))


def _rounded(tokens: float) -> int:
    return _ROUND * math.ceil(tokens / _ROUND)


def _learning_rate(method: str, lora: bool, steps: int, model: ModelFacts | None) -> float | None:
    """The method's own peak, but for adapters on short runs, which would hardly move.

    On 52 steps the demo's 3e-4 taught SmolLM2-135M (benchmarks/results/family.json); larger models bear less.
    """
    if not lora or steps > 500 or method not in ("dpo", "ipo", "simpo", "orpo", "reward", "kto"):
        return None
    return 3e-4 if model is not None and model.sizes.parameters < SMALL_MODEL else 1e-4


def _as_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}


def _wrapped(text: str) -> list[str]:
    import textwrap

    return [line for part in text.splitlines() for line in (textwrap.wrap(part, 110) or [""])]


Note = Callable[[str], object]
