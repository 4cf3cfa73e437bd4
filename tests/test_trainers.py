"""Code in TRL's style, with the import changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

import preftune
from preftune import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, PreftuneError, RewardConfig, RewardTrainer
from tests.methods.tiny_runs import curves
from tests.methods.tiny_runs import run as run_as_command
from tests.tiny_world import World, make_model, make_tokenizer, pair_rows

SMALL: dict[str, Any] = {
    "learning_rate": 3e-3, "per_device_train_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1,
    "dtype": "float32", "num_samples": 0, "num_completions": 0, "save_strategy": "no", "report_to": "none",
    "eval_fraction": 0.25,
}  # fmt: skip


def _loaded(world: World) -> Any:
    return AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)


@pytest.mark.parametrize("source", ["path", "dataset", "rows"])
@pytest.mark.parametrize("loaded", [True, False])
def test_trainer_gives_the_curves_of_the_command(source: str, loaded: bool, world: World, tmp_path: Path) -> None:
    settings = {name: value for name, value in SMALL.items() if name != "report_to"}
    run_as_command(world, tmp_path / "command", **settings)
    rows = pair_rows()
    data = {"path": str(world.standard), "dataset": Dataset.from_list(rows), "rows": rows}[source]
    trainer = DPOTrainer(
        model=_loaded(world) if loaded else str(world.model),
        ref_model=None,
        args=DPOConfig(output_dir=str(tmp_path / "run"), beta=0.1, **SMALL),
        train_dataset=data,
        processing_class=make_tokenizer(),
    )
    result = trainer.train()
    assert curves(tmp_path / "run") == curves(tmp_path / "command")
    assert result.global_step == 6
    assert result.training_loss < 0.69
    assert trainer.state.global_step == 6
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert trainer.evaluate()["eval_loss"] < 0.69
    assert (tmp_path / "run/report.html").is_file()


def test_loaded_model_is_trained_in_place_against_its_start(world: World, tmp_path: Path) -> None:
    model = _loaded(world)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = DPOTrainer(
        model, args=DPOConfig(output_dir=str(tmp_path / "run"), **SMALL), train_dataset=pair_rows(),
        tokenizer=make_tokenizer(),
    )  # fmt: skip
    trainer.train()
    assert trainer.model is model
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert curves(tmp_path / "run")[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    trainer.save_model(str(tmp_path / "copy"))
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.float32).state_dict()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_peft_config_makes_an_adapter(world: World, tmp_path: Path) -> None:
    trainer = DPOTrainer(
        model=str(world.model),
        args=DPOConfig(output_dir=str(tmp_path / "run"), **SMALL),
        train_dataset=str(world.standard),
        peft_config=LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    assert (trainer.args.use_peft, trainer.args.lora_r, trainer.args.lora_target_modules) == (True, 4, ("q_proj",))
    trainer.train()
    assert (tmp_path / "run/model/adapter_config.json").is_file()


def test_other_reference_is_the_one_that_is_asked(world: World, tmp_path: Path) -> None:
    other = make_model(len(make_tokenizer()), seed=5)
    args = DPOConfig(output_dir=str(tmp_path / "run"), **SMALL)
    DPOTrainer(_loaded(world), other, args, train_dataset=pair_rows(), processing_class=make_tokenizer()).train()
    assert curves(tmp_path / "run")[0]["rewards/chosen"] != pytest.approx(0.0, abs=0.05)


def test_model_as_its_own_reference_is_refused(world: World, tmp_path: Path) -> None:
    model = _loaded(world)
    with pytest.raises(PreftuneError, match="which training moves"):
        DPOTrainer(model, model, DPOConfig(output_dir=str(tmp_path)), train_dataset=pair_rows())


def test_callbacks_hear_of_every_step(world: World, tmp_path: Path) -> None:
    heard: list[tuple[int, float]] = []
    DPOTrainer(
        str(world.model), args=DPOConfig(output_dir=str(tmp_path / "run"), **SMALL), train_dataset=pair_rows(),
        callbacks=[lambda step, figures: heard.append((step, figures["loss"]))],
    ).train()  # fmt: skip
    assert [step for step, _ in heard] == [1, 2, 3, 4, 5, 6]


def test_training_goes_on_from_a_checkpoint(world: World, tmp_path: Path) -> None:
    def trainer(name: str) -> DPOTrainer:
        args = DPOConfig(output_dir=str(tmp_path / name), **SMALL | {"save_strategy": "steps", "save_steps": 2})
        return DPOTrainer(str(world.model), args=args, train_dataset=pair_rows())

    trainer("whole").train()
    stopping = trainer("cut")
    stopping.callbacks = (lambda step, figures: (_ for _ in ()).throw(KeyboardInterrupt) if step == 5 else None,)
    with pytest.raises(KeyboardInterrupt):
        stopping.train()
    trainer("cut").train(resume_from_checkpoint=True)
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")


def test_reward_and_kto_trainers_run(world: World, tmp_path: Path) -> None:
    RewardTrainer(str(world.model), args=RewardConfig(output_dir=str(tmp_path / "r"), **SMALL), train_dataset=pair_rows()).train()  # fmt: skip # noqa: E501
    labels = [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row in pair_rows() for side in ("chosen", "rejected")]  # fmt: skip # noqa: E501
    KTOTrainer(str(world.model), args=KTOConfig(output_dir=str(tmp_path / "k"), **SMALL), train_dataset=labels).train()
    assert curves(tmp_path / "k")[0]["loss"] == pytest.approx(0.5, abs=1e-3)


# --- what is not supported says so ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["compute_metrics", "data_collator", "preprocess_logits_for_metrics"])
def test_arguments_that_are_not_supported_are_refused_when_constructed(name: str, world: World) -> None:
    with pytest.raises(PreftuneError, match=name):
        DPOTrainer(str(world.model), train_dataset=pair_rows(), **{name: lambda x: x})


def test_what_asks_for_nothing_is_taken(world: World) -> None:
    DPOTrainer(str(world.model), train_dataset=pair_rows(), data_collator=None, optimizers=(None, None))


def test_trls_names_are_understood_in_configs(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="max_prompt_length has no effect"):
        config = DPOConfig(output_dir=str(tmp_path), loss_type="hinge", report_to="none", max_prompt_length=512)
    assert config.loss_type == ("hinge",)
    assert config.report_to == ()
    with pytest.raises(PreftuneError, match="Did you mean beta"):
        DPOConfig(output_dir=str(tmp_path), betta=0.1)
    with pytest.raises(PreftuneError, match="deepspeed is not supported"):
        DPOConfig(output_dir=str(tmp_path), deepspeed="zero3.json")


def test_wrong_config_and_missing_data_are_said_when_constructed(world: World, tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="should be a DPOConfig, not KTOConfig"):
        DPOTrainer(str(world.model), args=KTOConfig(output_dir=str(tmp_path)), train_dataset=pair_rows())
    with pytest.raises(PreftuneError, match="train_dataset is not given"):
        DPOTrainer(str(world.model), args=DPOConfig(output_dir=str(tmp_path)))
    with pytest.raises(PreftuneError, match="has no reference"):
        preftune.ORPOTrainer(str(world.model), str(world.model), train_dataset=pair_rows())


def test_every_name_that_is_promised_is_there() -> None:
    assert all(getattr(preftune, name) is not None for name in preftune.__all__)
    with pytest.raises(AttributeError):
        preftune.NoSuchTrainer  # noqa: B018


@pytest.mark.parametrize("name", ["PPO", "GRPO"])
def test_an_online_trainer_takes_functions_and_a_loaded_model(name: str, world: World, tmp_path: Path) -> None:
    def even(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]

    settings = {"max_steps": 3, "max_completion_length": 4, "eval_fraction": 0.0, "dtype": "float32"}
    config = getattr(preftune, f"{name}Config")(output_dir=str(tmp_path), gradient_accumulation_steps=1, **settings)
    trainer = getattr(preftune, f"{name}Trainer")(
        model=AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32),
        reward_funcs=[even],
        args=config,
        train_dataset=[{"prompt": f"say {word}"} for word in ("one", "two", "three")],
        processing_class=make_tokenizer(),
    )
    assert trainer.train().global_step == 3
    assert (tmp_path / "value_model/config.json").is_file() == (name == "PPO")
    with pytest.raises(PreftuneError, match="There is no reward"):
        getattr(preftune, f"{name}Trainer")(model=str(world.model), args=config, train_dataset=[{"prompt": "a"}])
