"""A DPO run from data to model folder: it learns, and what it leaves is whole and loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

from preftune.config import load_config
from preftune.errors import PreftuneError
from preftune.methods import run as run_module
from preftune.methods.dpo import DPOConfig
from tests.methods.tiny_runs import FULL, LORA, WAYS, config_of, curves, listener, losses, run, saved_weights
from tests.tiny_world import CHAT_TEMPLATE, World, make_tokenizer, pair_rows, read_rows, write_rows

IDS = torch.tensor([[1, 80, 90, 100, 110, 120], [1, 50, 60, 70, 80, 90]])
TRAINING_METRICS = {
    "loss", "grad_norm", "learning_rate", "rewards/chosen", "rewards/rejected", "rewards/margins",
    "rewards/accuracies", "logps/chosen", "logps/rejected", "entropy", "nan_steps",
}  # fmt: skip
EVAL_METRICS = {"eval_loss", "eval_rewards/margins", "eval_rewards/accuracies", "eval_ranking_accuracy"}


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fills with the policies of the runs."""
    found: list[Any] = []
    train = run_module.train

    def keep(work: Any, *arguments: Any) -> Any:
        found.append(work.module)
        return train(work, *arguments)

    monkeypatch.setattr(run_module, "train", keep)
    return found


# --- it learns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_falls_and_held_out_pairs_are_ranked_right(way: str, seed: int, world: World, tmp_path: Path) -> None:
    summary = run(world, tmp_path / "run", **WAYS[way], seed=seed, num_train_epochs=3, num_completions=15)
    found = losses(tmp_path / "run")
    assert found[0] == pytest.approx(0.6931, abs=1e-4)
    assert found[-1] < 0.25
    before, after, change = (summary.evaluation[name] for name in ("before", "after", "change"))
    assert after["ranking_accuracy"]["value"] - before["ranking_accuracy"]["value"] > 0.4
    assert change["ranking_accuracy"]["low"] > 0.2
    assert after["preference_accuracy"]["low"] > 0.7
    assert after["reward_margin"]["low"] > 1.0
    assert after["kl"]["high"] > 0
    assert {measure["n"] for measure in (before["ranking_accuracy"], after["preference_accuracy"])} == {15}


def test_conversational_data_is_learnt_too(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", **FULL, data=str(world.conversational), num_train_epochs=3)
    assert losses(tmp_path / "run")[-1] < 0.25


def test_same_seed_gives_the_same_bits_and_another_one_other_ones(world: World, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(world, tmp_path / name, **FULL, seed=seed, num_train_epochs=1)
    assert curves(tmp_path / "one") == curves(tmp_path / "two")
    assert (tmp_path / "one/samples.jsonl").read_bytes() == (tmp_path / "two/samples.jsonl").read_bytes()
    first, second, third = (saved_weights(tmp_path / name) for name in ("one", "two", "three"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4)])
def test_cutting_a_step_into_micro_batches_changes_nothing(
    way: str, batch: int, accumulation: int, world: World, tmp_path: Path
) -> None:
    """At a learning rate at which Adam does not blow up the last bits of small gradients."""
    settings = WAYS[way] | {"learning_rate": 1e-4}
    run(world, tmp_path / "whole", **settings)
    shape = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    run(world, tmp_path / "cut", **settings | shape)
    whole, cut = saved_weights(tmp_path / "whole"), saved_weights(tmp_path / "cut")
    assert max(float((whole[name] - cut[name]).abs().max()) for name in whole) < 1e-6
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "cut"), abs=1e-6)


def test_cutting_a_step_in_bfloat16_changes_little(world: World, tmp_path: Path) -> None:
    """Log-probs of whole sequences carry about 0.05 nats of rounding, at beta 0.1 some 0.005 of loss."""
    run(world, tmp_path / "whole", **FULL, dtype="bfloat16")
    shape = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    run(world, tmp_path / "cut", **FULL, dtype="bfloat16", **shape)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "cut"), abs=0.02)
    assert losses(tmp_path / "cut")[-1] < 0.4


@pytest.mark.parametrize("way", WAYS)
def test_gradient_checkpointing_gives_the_same_losses(way: str, world: World, tmp_path: Path) -> None:
    for name, on in (("plain", False), ("checkpointed", True)):
        run(world, tmp_path / name, **WAYS[way], gradient_checkpointing=on)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "checkpointed"), abs=1e-5)


# --- what it leaves -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_files_of_the_run_are_all_there(way: str, world: World, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = run(world, folder, **WAYS[way])
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock", "audit.json", "config.yaml", "eval.json", "findings.json", "metrics.jsonl", "model", "samples.jsonl",
    }  # fmt: skip
    assert summary.folder == folder
    rows = curves(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 13))
    assert all(row.keys() >= TRAINING_METRICS for row in rows if "loss" in row)
    assert [row["step"] for row in rows if "eval_loss" in row] == [3, 6, 9, 12]
    assert all(row.keys() >= EVAL_METRICS for row in rows if "eval_loss" in row)
    evaluation = json.loads((folder / "eval.json").read_text())
    assert evaluation["steps"] == 12
    assert evaluation["nan_steps"] == 0
    assert evaluation["reference"]["at_start"] == evaluation["reference"]["at_end"]
    assert evaluation["reference"]["checks"] == 6  # at the start, four evaluations, the end
    for moment in ("before", "after", "change"):
        assert all(m["low"] <= m["value"] <= m["high"] and m["n"] > 0 for m in evaluation[moment].values())


def test_samples_are_the_same_prompts_before_during_and_after(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", **FULL)
    rows = read_rows(tmp_path / "run" / "samples.jsonl")
    stages = [("before", 0), ("during", 3), ("during", 6), ("during", 9), ("after", 12)]
    assert [(row["stage"], row["step"]) for row in rows] == [stage for stage in stages for _ in range(2)]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in rows[:2]] * 5
    assert {row["prompt_id"] for row in rows} <= {row["id"] for row in pair_rows()}
    assert all(0 < row["tokens"] <= 4 for row in rows)


@pytest.mark.parametrize(("way", "loader"), [("full", AutoModelForCausalLM), ("lora", AutoPeftModelForCausalLM)])
def test_model_folder_loads_and_is_the_trained_model(
    way: str, loader: Any, world: World, tmp_path: Path, engines: list[Any]
) -> None:
    run(world, tmp_path / "run", **WAYS[way])
    loaded = loader.from_pretrained(tmp_path / "run" / "model", dtype=torch.float32).eval()
    trained = engines[0].model.eval()
    assert loaded.config._attn_implementation != trained.config._attn_implementation
    assert torch.allclose(loaded(IDS).logits, trained(IDS).logits, rtol=1e-6, atol=1e-6)
    start = AutoModelForCausalLM.from_pretrained(world.model)
    assert not torch.allclose(loaded(IDS).logits, start(IDS).logits, atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model").chat_template == CHAT_TEMPLATE


def test_new_adapter_on_a_model_that_came_with_one_is_saved_with_what_it_rests_on(
    world: World, tmp_path: Path, engines: list[Any]
) -> None:
    """Its base weights, the old adapter merged in, are in no folder the new one could name."""
    run(world, tmp_path / "first", **LORA)
    first = str(tmp_path / "first" / "model")
    notes: list[str] = []
    second = run(world, tmp_path / "second", listener(notes), **LORA | {"model": first})
    assert any("merged" in note for note in notes)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "second" / "model")
    assert torch.allclose(loaded(IDS).logits, engines[1].model(IDS).logits, rtol=1e-4, atol=1e-4)
    assert second.evaluation["reference"]["kind"].endswith("adapter switched off")
    run(world, tmp_path / "third", **FULL, model=first)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "third" / "model")
    assert torch.allclose(loaded(IDS).logits, engines[2].model(IDS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_config_file_gives_the_same_config_again(way: str, world: World, tmp_path: Path) -> None:
    settings = WAYS[way] | {"run_name": "12", "max_length": None, "lora_target_modules": ("q_proj", "v_proj")}
    run(world, tmp_path / "run", **settings)
    loaded = load_config(DPOConfig, file=tmp_path / "run" / "config.yaml", values={})
    assert loaded.config == config_of(world, tmp_path / "run", **settings)
    assert loaded.notes == ()


def test_every_row_read_is_used_or_reported(world: World, tmp_path: Path) -> None:
    """Rows that are no JSON, lack a field, say the same twice, or are refused by the template."""
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + CHAT_TEMPLATE
    )
    good = pair_rows(conversational=True)
    opening = {"role": "system", "content": "be kind"}
    refused = [row | {"id": f"refused-{i}", "prompt": [opening, *row["prompt"]]} for i, row in enumerate(good[:3])]
    same = dict(good[0], chosen=good[0]["rejected"])
    bad = ["{half a row", {"prompt": "p", "chosen": "c"}, {"prompt": "p", "chosen": "", "rejected": "r"}, same]
    data = write_rows(tmp_path / "data.jsonl", [*good[:30], *bad, *refused, *good[30:]])
    notes: list[str] = []
    folder = tmp_path / "run"
    run(world, folder, listener(notes), **FULL, data=str(data), chat_template_path=str(template))
    audit = json.loads((folder / "audit.json").read_text())
    assert (audit["read"], audit["used"]) == (67, 60)
    assert audit["read"] == audit["used"] + sum(audit["rejected"].values())
    assert audit["rejected"]["template-refuses"] == 3
    assert audit["tokens"]["train"]["pairs"] + audit["tokens"]["evaluation"]["pairs"] == 60
    rejected = read_rows(folder / "rejected.jsonl")
    assert len(rejected) == 7
    assert all(row["reason"] and row["mend"] for row in rejected)
    assert sorted(row["where"] for row in rejected if row["where"].startswith("row")) == [
        "row refused-0",
        "row refused-1",
        "row refused-2",
    ]
    assert any("4 of 67 rows" in note for note in notes)
    assert any("3 rows left out as tokens" in note for note in notes)


def test_clean_data_leaves_no_file_of_rejected_rows(world: World, tmp_path: Path) -> None:
    summary = run(world, tmp_path / "run", **FULL)
    assert summary.audit["read"] == summary.audit["used"] == 60
    assert summary.audit["rejected"] == {}
    assert not (tmp_path / "run" / "rejected.jsonl").exists()


# --- settings -------------------------------------------------------------------------------------------


def test_eval_data_is_held_out_as_given(world: World, tmp_path: Path) -> None:
    held_out = write_rows(tmp_path / "eval.jsonl", [*pair_rows(12, seed=7), {"prompt": "p"}])
    summary = run(world, tmp_path / "run", **FULL, eval_data=str(held_out))
    assert (summary.audit["train"], summary.audit["evaluation"]) == (60, 12)
    assert (summary.audit["read"], summary.audit["used"]) == (73, 72)
    assert summary.evaluation["after"]["ranking_accuracy"]["n"] == 12
    assert len(losses(tmp_path / "run")) == 2 * 8


def test_without_held_out_pairs_training_goes_on_unmeasured(world: World, tmp_path: Path) -> None:
    summary = run(world, tmp_path / "run", **FULL, eval_fraction=0)
    assert summary.evaluation["before"] == summary.evaluation["after"] == summary.evaluation["change"] == {}
    assert losses(tmp_path / "run")[-1] < 0.5
    assert not any("eval_loss" in row for row in curves(tmp_path / "run"))
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_without_completions_there_are_no_measures_of_them(world: World, tmp_path: Path) -> None:
    summary = run(world, tmp_path / "run", **FULL, num_completions=0, num_samples=0)
    assert not {"mean_length", "finished", "kl"} & set(summary.evaluation["after"])
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_tiny_max_length_cuts_and_says_so(world: World, tmp_path: Path) -> None:
    notes: list[str] = []
    summary = run(world, tmp_path / "run", listener(notes), **FULL, max_length=6)
    assert summary.audit["tokens"]["train"]["prompts_cut"] == 45
    assert summary.audit["read"] == summary.audit["used"] + sum(summary.audit["rejected"].values())
    assert any("max_length 6 cut the prompt of" in note for note in notes)


def test_kept_start_at_a_tiny_max_length_leaves_no_pair_and_says_so(world: World, tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match=r"None of 45 pairs can be used \(prompt-too-long\).*--max_length"):
        run(world, tmp_path / "run", **FULL, max_length=6, truncation_mode="keep_start")


def test_unlimited_length_cuts_nothing(world: World, tmp_path: Path) -> None:
    summary = run(world, tmp_path / "run", **FULL, max_length=None)
    assert summary.audit["tokens"]["train"]["tokens_cut"] == 0


def test_tracker_gets_what_the_file_gets(world: World, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(world, tmp_path / "run", **FULL, report_to=("tensorboard",), run_name="tiny", num_train_epochs=1)
    assert list((tmp_path / "run").rglob("events.out.tfevents*"))


# --- what is refused ------------------------------------------------------------------------------------


def test_finished_run_is_not_resumed_and_not_overwritten(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", **FULL)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(PreftuneError, match=r"This run is finished.*--output"):
        run(world, tmp_path / "run", **FULL, resume=True)
    with pytest.raises(PreftuneError, match=r"already holds a run"):
        run(world, tmp_path / "run", **FULL)
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before


def test_model_that_does_not_continue_text_is_refused(world: World, tmp_path: Path) -> None:
    shape = {"vocab_size": 340, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    make_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(PreftuneError, match="not a causal language model"):
        run(world, tmp_path / "run", **FULL, model=str(tmp_path / "t5"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "/no/such/model"}, "no such model folder"),
        ({"model": "/no/such/model.gguf"}, "no such GGUF file"),
        ({"data": "/no/such/data.jsonl"}, "data.jsonl"),
        ({"ref_model": "/no/such/reference"}, "no such model folder"),
        ({"lr_scheduler_type": "no_such_schedule"}, "--lr_scheduler_type"),
    ],
)
def test_what_is_not_there_is_named(settings: dict[str, Any], words: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match=words):
        run(world, tmp_path / "run", **FULL | settings)


def test_chat_data_without_a_template_is_refused(world: World, tmp_path: Path) -> None:
    make_tokenizer(chat_template=None).save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(PreftuneError, match=r"no chat template.*--chat_template_path"):
        run(world, tmp_path / "run", **FULL, data=str(world.conversational), tokenizer=str(tmp_path / "tokenizer"))


def test_trackers_get_what_the_metrics_file_gets(world: World, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(world, tmp_path / "run", **FULL, report_to=("tensorboard",))
    (events,) = (tmp_path / "run" / "preftune").glob("events.out.tfevents.*")
    seen = EventAccumulator(str(events))
    seen.Reload()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    logged = [row["rewards/margins"] for row in rows if "rewards/margins" in row]
    assert [event.value for event in seen.Scalars("rewards/margins")] == pytest.approx(logged)


def test_unknown_tracker_is_named_before_anything_is_written(world: World, tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="report_to"):
        run(world, tmp_path / "run", **FULL, report_to=("nonsense",))
    assert not (tmp_path / "run").exists()
