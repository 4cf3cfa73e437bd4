"""The advice: which method, why, what it takes, what may go wrong, and a config ready to run."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.advise.data_facts import DataFacts, checkable, read_data
from preftune.advise.duration import DurationEstimate, Speed, estimate_duration, measure_speed
from preftune.advise.facts import Wishes, known_facts, plan_facts
from preftune.advise.machine_facts import MachineFacts, planned_gpu, read_machine
from preftune.advise.memory import MemoryEstimate, trained_parameters
from preftune.advise.model_facts import ModelFacts, read_model
from preftune.advise.recipe import Recipe, make_recipe, memory_of
from preftune.advise.rules import Held, Value, holding, settings_of
from preftune.advise.success import Success, measure_success
from preftune.data.read import read_prompts
from preftune.errors import PreftuneError

Progress = Callable[[str, float | None], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Estimates:
    """What the run takes; None where no model is given, or where nothing was to be timed."""

    memory: MemoryEstimate | None
    duration: DurationEstimate | None
    speed: Speed | None


@dataclass(frozen=True)
class Advice:
    """``method`` is None where nothing can be advised; ``decided`` are the rules behind it, the deciding one first.

    ``possible`` are rules that speak for other methods, ``risks`` those that warn. ``next_command`` is what to type.
    """

    method: str | None
    decided: tuple[Held, ...]
    possible: tuple[Held, ...]
    risks: tuple[Held, ...]
    refusals: tuple[Held, ...]
    recipe: Recipe | None
    estimates: Estimates
    data: DataFacts
    model: ModelFacts | None
    machine: MachineFacts
    success: Success | None
    facts: dict[str, Value]

    @property
    def stages(self) -> tuple[str, ...]:
        """The methods in their order."""
        return () if self.recipe is None else tuple(stage.method for stage in self.recipe.stages)

    def config_yaml(self) -> str:
        """The config file; PreftuneError where nothing is advised."""
        if self.recipe is None:
            raise PreftuneError(self.refusals[0].refuse, where=self.data.source, mend=self.refusals[0].remedy)
        why = "\n".join(f"{one.rule.id}: {one.why} ({one.rule.source})" for one in self.decided)
        return self.recipe.as_yaml(why)

    def next_command(self, config: str | None) -> str:
        """What to type next, with the config file where it was written."""
        if self.recipe is None:
            return shlex.join(["preftune", "audit", self.data.source])
        if self.recipe.command == "run":
            return shlex.join(["preftune", "run", config or "config.yaml"])
        return shlex.join(["preftune", self.recipe.command, "--config", config or "config.yaml"])

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        estimates = self.estimates
        return {
            "method": self.method,
            "stages": list(self.stages),
            "why": [one.as_dict() for one in self.decided],
            "possible": [one.as_dict() | {"method": one.rule.method} for one in self.possible],
            "risks": [one.as_dict() for one in self.risks],
            "refused": [one.as_dict() for one in self.refusals],
            "settings": {} if self.recipe is None else dict(self.recipe.settings),
            "memory": None if estimates.memory is None else estimates.memory.as_dict(),
            "duration": None if estimates.duration is None else estimates.duration.as_dict(),
            "speed": None if estimates.speed is None else estimates.speed.as_dict(),
            "data": self.data.as_dict(),
            "model": None if self.model is None else self.model.as_dict(),
            "machine": self.machine.as_dict(),
            "success": None if self.success is None else self.success.as_dict(),
            "facts": dict(self.facts),
        }


def advise(
    data: object,
    model: str | None = None,
    *,
    eval_data: object = None,
    objectives: int = 1,
    explore: bool = False,
    least_resources: bool = False,
    full: bool = False,
    rewards: Sequence[str] = (),
    epochs: float | None = None,
    taught: bool | None = None,
    probe: int = 0,
    timing: bool = True,
    gpu_memory: float | None = None,
    output: str = "out",
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Advice:
    """Which method these data, this model and this machine call for, and why.

    ``probe`` prompts are answered by the model where answers can be checked, to see how often it is right; ``timing``
    takes seconds to time layers of the model. ``gpu_memory`` plans for a GPU with so many GiB instead of this machine,
    and times nothing. ``taught`` says whether the model answers already, where its name and
    template mislead. Raises PreftuneError where nothing can be read; data that are no use give an Advice without a
    method.
    """
    show = progress or _no_progress
    wishes = Wishes(
        objectives,
        explore,
        least_resources,
        full,
        tuple(rewards),
        epochs,
        None if eval_data is None else str(eval_data),
    )
    found_model, tokenizer = None, None
    if model is not None:
        with show(f"looking at {model}", None):
            found_model, tokenizer = read_model(model, is_taught=taught), _tokenizer(model)
    with show("looking at the data", None):
        found = read_data(
            data, eval_data=eval_data, tokenizer=tokenizer, split=split, eval_split=eval_split, limit=limit, seed=seed
        )
    success = None
    if probe and model is not None and (found.checkable is not None or rewards):
        with show("asking the model", probe * 8) as bar:
            success = _probe(data, model, rewards, probe, split, seed, getattr(bar, "advance", None))
    machine = read_machine() if gpu_memory is None else planned_gpu(gpu_memory)
    facts = known_facts(found, found_model, wishes, success)
    held = holding(facts)
    choices = sorted((one for one in held if one.rule.method), key=lambda one: -one.rule.weight)
    refusals = tuple(one for one in held if one.rule.refuse)
    if refusals or not choices:
        risks = tuple(one for one in held if one.rule.warn)
        nothing = Estimates(None, None, None)
        return Advice(None, (), (), risks, refusals, None, nothing, found, found_model, machine, success, facts)
    method = choices[0].rule.method
    recipe = _recipe(method, held, facts, found, found_model, machine, wishes, output)
    with show("timing layers of the model", None):
        estimates = _estimates(recipe, found, found_model, machine, timing and gpu_memory is None)
    facts |= plan_facts(recipe, estimates, found, machine.available)
    held = holding(facts)
    decided = (choices[0], *(one for one in held if _speaks_of(one, method)))
    return Advice(
        method=method,
        decided=decided,
        possible=tuple(choices[1:]),
        risks=tuple(one for one in held if one.rule.warn),
        refusals=(),
        recipe=recipe,
        estimates=estimates,
        data=found,
        model=found_model,
        machine=machine,
        success=success,
        facts=facts,
    )


def _speaks_of(held: Held, method: str) -> bool:
    """True for a rule that gives settings of the method, or a stage before it."""
    rule = held.rule
    return bool(rule.settings or rule.settings_before or rule.before) and method in (rule.methods or (method,))


def _recipe(
    method: str,
    held: Sequence[Held],
    facts: dict[str, Value],
    data: DataFacts,
    model: ModelFacts | None,
    machine: MachineFacts,
    wishes: Wishes,
    output: str,
) -> Recipe:
    before = [one.rule.before for one in held if one.rule.before and _speaks_of(one, method)]
    if method in ("ppo", "online-dpo") and not wishes.rewards:
        before.append("reward")
    own, earlier = (settings_of(held, method, facts, before=is_before) for is_before in (False, True))
    return make_recipe(method, tuple(before), data, model, machine, wishes, facts, own, earlier, output)


def _estimates(
    recipe: Recipe, data: DataFacts, model: ModelFacts | None, machine: MachineFacts, timing: bool
) -> Estimates:
    if model is None:
        return Estimates(None, None, None)
    memory = memory_of(recipe, data, model, machine)
    if not timing:
        return Estimates(memory, None, None)
    workload, config = recipe.workload(data), recipe.config()
    speed = measure_speed(model.name, config, workload)
    duration = estimate_duration(workload, trained_parameters(config, model.sizes), speed)
    return Estimates(memory, duration, speed)


def _tokenizer(model: str) -> Any:
    from preftune.models.loading import load_tokenizer
    from preftune.models.settings import ModelConfig

    return load_tokenizer(ModelConfig(model=model))


def _probe(data: object, model: str, rewards: Sequence[str], n: int, split: str, seed: int, advance: Any) -> Success:
    """The success on ``n`` prompts drawn from those that can be checked."""
    import numpy as np

    records = read_prompts(data, split=split).records
    usable = [record for record in records if rewards or checkable(record)]
    chosen = np.random.default_rng(seed).permutation(len(usable))[:n]
    asked = [usable[i] for i in chosen.tolist()]
    return measure_success(model, asked, list(rewards) or ["accuracy"], max_new_tokens=256, seed=seed, progress=advance)


@contextmanager
def _no_progress(description: str, total: float | None) -> Iterator[None]:
    yield None


def write_config(advice: Advice, path: Path) -> Path:
    """Writes the config; PreftuneError where nothing is advised or the place cannot be written."""
    from preftune.durable import explained_errors, write_file

    text = advice.config_yaml()
    with explained_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, text)
    return path
