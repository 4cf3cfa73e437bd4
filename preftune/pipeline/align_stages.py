"""The stages that the whole way may take, each with its config; which of them are run is decided on the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preftune.advise.data_facts import DataFacts, read_data
from preftune.advise.facts import Wishes, known_facts
from preftune.advise.machine_facts import MachineFacts, read_machine
from preftune.advise.model_facts import ModelFacts, read_model
from preftune.advise.recipe import make_recipe
from preftune.advise.rules import holding, settings_of
from preftune.config import translate
from preftune.data.read import read_pairs
from preftune.data.records import Pair
from preftune.data.split import split_by_prompt
from preftune.durable import write_file
from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS
from preftune.models.loading import load_tokenizer
from preftune.models.settings import ModelConfig
from preftune.pipeline.plan import Plan, Stage

TRAIN, VALIDATION, TEST = "train.jsonl", "validation.jsonl", "test.jsonl"
VALIDATION_SHARE, TEST_SHARE, FEWEST = 0.2, 0.15, 40
SFT, JUDGING, LONGER, REWARD, ONLINE = "sft", "judge", "dpo-longer", "reward", "online"
# What users of a single run read at its end is measured here once, for the model that is chosen.
_QUICK = {"num_samples": 4, "num_completions": 0, "save_total_limit": None}


@dataclass(frozen=True)
class Ground:
    """What every stage stands on: the split data, and what is known of data, model and machine.

    ``given`` are the user's settings, for every stage that knows them. ``machine`` has the memory that was free when
    the way was begun, or a stage would get other settings when it goes on.
    """

    folder: Path
    model: str
    data: DataFacts
    about: ModelFacts
    machine: MachineFacts
    wishes: Wishes
    given: Mapping[str, Any]

    def file(self, name: str) -> str:
        """A part of the split data."""
        return str(self.folder / "data" / name)


def lay_ground(
    data: str, model: str, folder: Path, given: Mapping[str, Any], seed: int, free: float | None = None
) -> tuple[Ground, dict[str, int]]:
    """The data split by prompt into files under ``folder/data``, and the facts; with the sizes of the parts.

    Stages train on the first, decisions are made on the second, which the judge learns from too, and the third is
    looked at once, at the end. ``free`` are the MiB that were free when the way was begun.
    """
    pairs = read_pairs(data).records
    if len(pairs) < FEWEST:
        what = f"{len(pairs)} pairs are too few: {VALIDATION_SHARE + TEST_SHARE:.0%} of them are held out."
        raise PreftuneError(what, where=data, mend=f"Give {FEWEST} or more; `preftune dpo` trains on any number.")
    rest, held_out = split_by_prompt(pairs, VALIDATION_SHARE + TEST_SHARE, seed)
    validation, test = split_by_prompt(held_out, TEST_SHARE / (VALIDATION_SHARE + TEST_SHARE), seed + 1)
    parts = {TRAIN: rest, VALIDATION: validation, TEST: test}
    for name, records in parts.items():
        _write(folder / "data" / name, records)
    tokenizer = load_tokenizer(ModelConfig(model=model))
    facts = read_data(str(folder / "data" / TRAIN), tokenizer=tokenizer, seed=seed)
    wishes = Wishes(eval_data=str(folder / "data" / VALIDATION))
    machine = read_machine()
    machine = machine if free is None else replace(machine, available=free)
    ground = Ground(folder, model, facts, read_model(model), machine, wishes, given)
    return ground, {name: len(records) for name, records in parts.items()}


def stage_plan(names: Sequence[tuple[str, str]], ground: Ground) -> Plan:
    """All stages that may be, in their order, as (name, method); none has its own settings yet."""
    stages = tuple(
        Stage(number, name, method, _placeholder(method, ground.folder / f"{number:02d}-{name}"), {}, frozenset())
        for number, (name, method) in enumerate(names, start=1)
    )
    return Plan(ground.folder / "align.json", ground.folder, stages, ())


def decided(
    plan: Plan,
    name: str,
    ground: Ground,
    *,
    start: Stage | Path | str,
    more: Mapping[str, Any],
    method: str | None = None,
) -> Plan:
    """The plan with the settings of one stage: those advised for these data, over them ``more``, over them the user's.

    ``start`` is what it starts from: a stage, a folder, or a model's name.
    """
    stage = plan.stage(name)
    method = method or stage.method
    uses = {str(start.model): start.name} if isinstance(start, Stage) else {}
    settings = settings_for(method, ground, str(start.model) if isinstance(start, Stage) else str(start), more)
    for used in plan.stages:
        if str(used.model) in settings.get("reward_funcs", ()):
            uses[str(used.model)] = used.name
    config = METHODS[method].config_class()(**settings, output_dir=str(stage.folder))
    made = Stage(stage.number, name, method, config, uses, frozenset(settings))
    return Plan(plan.file, plan.output, tuple(made if one.name == name else one for one in plan.stages), plan.notes)


def settings_for(method: str, ground: Ground, start: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method on the ground, as its config takes them."""
    cls = METHODS[method].config_class()
    facts = known_facts(ground.data, ground.about, ground.wishes)
    held = holding(facts)
    rules = settings_of(held, method, facts)
    recipe = make_recipe(
        method, (), ground.data, ground.about, ground.machine, ground.wishes, facts, rules, {}, str(ground.folder)
    )
    found = {**recipe.settings, "data": ground.file(TRAIN), **_QUICK, **more, "model": start}
    found |= translate(cls, {name: value for name, value in ground.given.items() if name in cls.model_fields})
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if name in cls.model_fields
    }


def halfway(stage: Stage, records: int) -> int:
    """The step at which half of a stage on pairs is done."""
    config = stage.config
    per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps
    return max(1, config.total_steps(math.ceil(records / per_step)) // 2)


def _placeholder(method: str, folder: Path) -> Any:
    return METHODS[method].config_class()(model="-", data="-", output_dir=str(folder), **_needed(method))


def _needed(method: str) -> dict[str, Any]:
    return {"reward_funcs": ("length",)} if method in ("ppo", "online-dpo") else {}


def _write(file: Path, records: Sequence[Pair]) -> None:
    import json

    text = "".join(json.dumps(record.as_row(), ensure_ascii=False) + "\n" for record in records)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, text)
