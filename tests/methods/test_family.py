"""Every method of the offline family on the tiny world: it learns, and its run is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from preftune.errors import PreftuneError
from preftune.methods.dpo import LOSSES, DPOConfig, LossType
from preftune.methods.registry import METHODS
from tests.methods.tiny_runs import FULL, LORA, WAYS, curves, listener, losses, run
from tests.tiny_world import World, make_model, make_tokenizer, pair_rows, write_rows

QUIET: dict[str, Any] = {"num_samples": 0, "num_completions": 0, "eval_strategy": "no"}
FILES = {"audit.json", "config.yaml", "eval.json", "metrics.jsonl", "model"}
OFFLINE = [name for name in METHODS if name not in ("ppo", "grpo", "rloo", "online-dpo")]
ACCURACY = {"sft": "loss_per_token", "reward": "accuracy"}
# At 3e-3 the tiny model learns each within three epochs; SimPO's scale is 20 times DPO's.
SETTINGS: dict[str, dict[str, Any]] = {"ipo": {"beta": 0.5}, "simpo": {"beta": 2.0}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", OFFLINE)
def test_every_method_learns_and_leaves_a_whole_run(method: str, way: str, world: World, tmp_path: Path) -> None:
    settings = WAYS[way] | SETTINGS.get(method, {}) | {"num_train_epochs": 3}
    summary = run(world, tmp_path / "run", method=method, **settings)
    found = losses(tmp_path / "run")
    assert sum(found[-4:]) < sum(found[:4])
    assert {path.name for path in (tmp_path / "run").iterdir()} >= FILES
    document = json.loads((tmp_path / "run/eval.json").read_text())
    assert document["method"] == method
    name = ACCURACY.get(method, "preference_accuracy")
    change = document["change"][name]
    if method == "sft":
        assert change["high"] < -0.3
    else:
        assert change["low"] > 0
        assert document["after"][name]["low"] > 0.6
    assert all(m["low"] <= m["value"] <= m["high"] and m["n"] > 0 for m in document["after"].values() if m["value"])
    assert (document["reference"] is None) == (method in ("sft", "reward", "orpo", "simpo"))
    assert summary.audit["read"] == 60


@pytest.mark.parametrize("method", OFFLINE)
def test_stopped_and_resumed_is_the_same_as_never_stopped(method: str, world: World, tmp_path: Path) -> None:
    from tests.methods.tiny_runs import stopping_at

    settings = FULL | QUIET | SETTINGS.get(method, {}) | {"num_train_epochs": 1}
    run(world, tmp_path / "whole", method=method, **settings)
    assert run(world, tmp_path / "cut", stopping_at(3), method=method, **settings).training.stopped == "SIGTERM"
    run(world, tmp_path / "cut", method=method, resume=True, **settings)
    assert curves(tmp_path / "whole") == curves(tmp_path / "cut")


@pytest.mark.parametrize("method", ["sft", "kto", "reward"])
def test_cutting_a_step_into_micro_batches_changes_nothing(method: str, world: World, tmp_path: Path) -> None:
    """KTO's KL estimate is of a micro-batch: with its answers held at zero weight nothing else may change."""
    settings = FULL | QUIET | {"learning_rate": 1e-4, "num_train_epochs": 1}
    if method == "kto":
        settings |= {"beta": 1e-6}
    run(world, tmp_path / "whole", method=method, **settings)
    shape = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    run(world, tmp_path / "cut", method=method, **settings | shape)
    assert losses(tmp_path / "whole") == pytest.approx(losses(tmp_path / "cut"), abs=1e-6)


# --- DPO's variants -------------------------------------------------------------------------------------


def test_every_loss_type_has_its_loss() -> None:
    assert set(LOSSES) == set(get_args(LossType))


AT_START = {
    "sigmoid": 0.6931, "robust": 0.6931, "hinge": 1.0, "ipo": 25.0, "sigmoid_norm": 0.6931, "dpop": 0.6931,
    "nca_pair": 1.3863, "bco_pair": 1.3863, "sppo_hard": 50.0, "aot": 0.6931, "aot_unpaired": 0.6931,
    "apo_zero": 1.0, "apo_down": 1.0, "discopop": 0.8466,
}  # fmt: skip


@pytest.mark.parametrize("name", get_args(LossType))
def test_variants_begin_where_their_equations_say_and_learn(name: str, world: World, tmp_path: Path) -> None:
    settings = {"learning_rate": 1e-3, "loss_type": (name,), "num_train_epochs": 2}
    run(world, tmp_path / "run", **settings | QUIET)
    rows = curves(tmp_path / "run")
    if name in AT_START:
        assert rows[0]["loss"] == pytest.approx(AT_START[name], abs=2e-4)
    assert rows[-2]["loss"] < rows[0]["loss"]
    if name != "sft":
        assert rows[-2]["rewards/margins"] > 0.02


def test_several_losses_are_summed_with_their_weights(world: World, tmp_path: Path) -> None:
    mixed = {"loss_type": ("sigmoid", "hinge"), "loss_weights": (2.0, 0.5)}
    run(world, tmp_path / "run", **FULL | QUIET | mixed)
    assert losses(tmp_path / "run")[0] == pytest.approx(2 * 0.693147 + 0.5, abs=1e-4)


def test_length_desensitised_sums_with_full_weight_are_plain_sums(world: World, tmp_path: Path) -> None:
    for name, settings in (("plain", {}), ("whole", {"ld_alpha": 1.0}), ("half", {"ld_alpha": 0.5})):
        run(world, tmp_path / name, **FULL | QUIET | settings)
    assert losses(tmp_path / "plain") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    assert losses(tmp_path / "plain")[-1] != pytest.approx(losses(tmp_path / "half")[-1], abs=1e-4)


def test_added_likelihood_is_the_mean_over_the_chosen_tokens(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", **FULL | QUIET, rpo_alpha=0.7)
    row = curves(tmp_path / "run")[0]
    assert row["loss"] == pytest.approx(0.693147 + 0.7 * row["nll_loss"], abs=1e-4)


@pytest.mark.parametrize("divergence", ["forward_kl", "js_divergence", "alpha_divergence"])
def test_other_divergences_begin_alike_and_part(divergence: str, world: World, tmp_path: Path) -> None:
    for name, kind in (("plain", "reverse_kl"), ("other", divergence)):
        run(world, tmp_path / name, **FULL | QUIET, f_divergence_type=kind)
    plain, other = losses(tmp_path / "plain"), losses(tmp_path / "other")
    assert other[0] == pytest.approx(plain[0], abs=1e-6)
    assert other[-1] < other[0]
    assert other[3] != pytest.approx(plain[3], abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_weights": (1.0, 2.0)}, "give one each"),
        ({"loss_type": ("apo_zero",), "f_divergence_type": "forward_kl"}, "does not go with"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DPOConfig(model="m", data="d", output_dir="o", **settings)


def test_ipo_says_its_target_margin(world: World, tmp_path: Path) -> None:
    notes: list[str] = []
    run(world, tmp_path / "run", listener(notes), method="ipo", **FULL | QUIET, beta=0.25)
    assert any("towards 2 nats a token" in note for note in notes)


# --- without a reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_no_reference_is_asked_in_training(
    method: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preftune.methods import pair_run

    def never(*arguments: Any) -> Any:
        raise AssertionError("a reference was made")

    monkeypatch.setattr(pair_run, "choose_references", never)
    run(world, tmp_path / "run", method=method, **FULL)


def test_orpo_counts_the_prompt_in_its_likelihood_where_told(world: World, tmp_path: Path) -> None:
    for of in ("completion", "sequence"):
        run(world, tmp_path / of, method="orpo", **FULL | QUIET, nll_of=of)
    ours, trls = (curves(tmp_path / of)[0] for of in ("completion", "sequence"))
    assert ours["logps/chosen"] == pytest.approx(trls["logps/chosen"], rel=1e-5)
    assert ours["log_odds_chosen"] == pytest.approx(trls["log_odds_chosen"], abs=1e-4)
    assert abs(ours["nll_loss"] - trls["nll_loss"]) > 1e-2


def test_sequence_likelihood_is_the_models_own_loss_on_prompt_and_answer(world: World, tmp_path: Path) -> None:
    settings = FULL | QUIET | {"eval_fraction": 0.0, "train_sampling_strategy": "sequential"}
    run(world, tmp_path / "run", method="orpo", **settings, nll_of="sequence", per_device_train_batch_size=1)
    row = pair_rows()[0]
    ids = make_tokenizer()(row["prompt"] + row["chosen"], return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[2]])], 1)
    with torch.no_grad():
        expected = make_model(len(make_tokenizer()))(ids, labels=ids).loss
    assert curves(tmp_path / "run")[0]["nll_loss"] == pytest.approx(float(expected), abs=1e-4)


# --- labels ---------------------------------------------------------------------------------------------


def _label_rows(n: int = 60) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for number, row in enumerate(pair_rows(n))
        for side in (("chosen", "rejected")[number % 2],)
    ]


def test_unpaired_labels_are_learnt(world: World, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "labels.jsonl", _label_rows(120))
    settings = FULL | {"num_train_epochs": 3, "eval_fraction": 0.3}
    summary = run(world, tmp_path / "run", method="kto", data=str(data), **settings)
    assert losses(tmp_path / "run")[0] == pytest.approx(0.5, abs=1e-4)
    assert summary.evaluation["before"]["label_separation"]["value"] == 0.5
    assert summary.evaluation["after"]["label_separation"]["low"] > 0.7
    assert "preference_accuracy" not in summary.evaluation["after"]  # no prompt has both


def test_pairs_become_labels_and_it_is_said(world: World, tmp_path: Path) -> None:
    notes: list[str] = []
    run(world, tmp_path / "run", listener(notes), method="kto", **FULL | QUIET)
    assert any("60 pairs" in note and "120 labels" in note for note in notes)


def test_labels_of_one_kind_are_refused(world: World, tmp_path: Path) -> None:
    rows = [row | {"label": True} for row in _label_rows()]
    data = write_rows(tmp_path / "labels.jsonl", rows)
    with pytest.raises(PreftuneError):
        run(world, tmp_path / "run", method="kto", data=str(data), **FULL)


def test_imbalance_is_told_with_the_weights_that_mend_it(world: World, tmp_path: Path) -> None:
    rows = [row for row in _label_rows(90) if row["label"] or int(row["prompt"].split()[-1][:-1]) % 6 == 1]
    data = write_rows(tmp_path / "labels.jsonl", rows)
    notes: list[str] = []
    run(world, tmp_path / "run", listener(notes), method="kto", data=str(data), **FULL | QUIET)
    (told,) = [note for note in notes if "--undesirable_weight" in note]
    assert "45 good and 15 bad" not in told or "--undesirable_weight 3" in told


# --- demonstrations -------------------------------------------------------------------------------------


def test_packing_gives_fewer_steps_and_counts_every_token_once(world: World, tmp_path: Path) -> None:
    settings = FULL | QUIET | {"num_train_epochs": 1, "max_length": 64, "per_device_train_batch_size": 1}
    run(world, tmp_path / "apart", method="sft", **settings)
    run(world, tmp_path / "packed", method="sft", **settings, packing=True)
    assert len(losses(tmp_path / "packed")) < len(losses(tmp_path / "apart"))
    batch = settings | {"per_device_train_batch_size": 60, "max_steps": 1}
    run(world, tmp_path / "one", method="sft", **batch)
    run(world, tmp_path / "other", method="sft", **batch, packing=True)
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "other"), abs=1e-6)


def test_only_assistant_turns_of_a_conversation_are_learnt(world: World, tmp_path: Path) -> None:
    rows = [
        {"messages": [*row["prompt"], *row["chosen"], {"role": "user", "content": "And?"}, *row["rejected"]]}
        for row in pair_rows(conversational=True)
    ]
    data = write_rows(tmp_path / "chats.jsonl", rows)
    for name, only in (("answers", True), ("all", False)):
        settings = FULL | QUIET | {"completion_only_loss": only, "eval_fraction": 0.25}
        run(world, tmp_path / name, method="sft", data=str(data), **settings)
    learned = [
        json.loads((tmp_path / name / "audit.json").read_text())["tokens"]["train"]["learned"]
        for name in ("answers", "all")
    ]
    assert learned[0] < learned[1]


# --- the reward model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_reward_model_folder_gives_the_trained_scores(way: str, world: World, tmp_path: Path) -> None:
    from preftune.rewards import score

    run(world, tmp_path / "run", method="reward", **WAYS[way] | {"num_train_epochs": 3})
    rows = pair_rows(20, seed=7)
    chosen, rejected = (
        score(tmp_path / "run/model", [row["prompt"] for row in rows], [row[side] for row in rows])
        for side in ("chosen", "rejected")
    )
    assert (chosen > rejected).mean() > 0.9
    assert json.loads((tmp_path / "run/model/reward.json").read_text()).keys() == {"mean", "temperature"}
    assert json.loads((tmp_path / "run/calibration.json").read_text())["by_length_difference"]
    if way == "full":
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/model")


def test_reward_model_given_as_a_policy_is_refused(world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "reward", method="reward", **FULL | QUIET)
    with pytest.raises(PreftuneError, match="reward model"):
        run(world, tmp_path / "run", model=str(tmp_path / "reward/model"), **FULL)


def test_pairs_of_a_prompt_are_one_item_with_each_answer_scored_once(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": f"{row['rejected']} {extra}"}
        for row in pair_rows(30)
        for extra in ("now", "then")
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    settings = FULL | QUIET | {"num_train_epochs": 1, "per_device_train_batch_size": 1, "eval_fraction": 0.2}
    run(world, tmp_path / "together", method="reward", data=str(data), **settings)
    run(world, tmp_path / "apart", method="reward", data=str(data), **settings, group_by_prompt=False)
    assert len(losses(tmp_path / "together")) == 24
    assert len(losses(tmp_path / "apart")) == 48


def test_margin_column_asks_for_more(world: World, tmp_path: Path) -> None:
    for name, margin in (("plain", None), ("wide", 2.0)):
        rows = [row | ({} if margin is None else {"margin": margin}) for row in pair_rows()]
        data = write_rows(tmp_path / f"{name}.jsonl", rows)
        run(world, tmp_path / name, method="reward", data=str(data), **FULL | QUIET)
    plain, wide = losses(tmp_path / "plain")[0], losses(tmp_path / "wide")[0]
    assert wide > plain + 1.0


# --- loading --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sft", "orpo", "kto"])
def test_model_folder_loads_with_transformers(method: str, world: World, tmp_path: Path) -> None:
    run(world, tmp_path / "run", method=method, **FULL | QUIET)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run/model")


def test_demonstrations_are_refused_by_dpo_with_the_command_that_helps(world: World, tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pair_rows()]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(PreftuneError, match="preftune sft"):
        run(world, tmp_path / "run", data=str(data), **LORA)
