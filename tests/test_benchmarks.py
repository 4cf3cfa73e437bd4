from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import family, offline
from benchmarks.contenders import Job, our_settings, trl_settings
from benchmarks.dpo import RunFailed, contenders_of, rotated
from benchmarks.machine import machine_slug
from benchmarks.sequences import expected_sequences, our_sequences, receipt, trl_sequences
from benchmarks.table import (
    OURS,
    OURS_AS_TRL,
    Spread,
    between_markers,
    largest_loss_difference,
    needed_gflops,
    offline_tables,
    pairs_per_second,
    round_ratios,
    spread,
    tables,
    tokens_per_second,
)
from preftune.data.tokens import TokenPair
from preftune.methods.registry import find_method
from tests.tiny_world import World

CONTENDERS = contenders_of("bf16-full")

LENGTHS = [[10, 2, 3], [20, 4, 5], [30, 6, 7], [40, 8, 9]]


def sample(contender: str, number: int, seconds: float, setting: str = "fp32-full", **changes: Any) -> dict[str, Any]:
    """A run of two steps of batch 2, of which the second, which took ``seconds``, is timed."""
    return {
        "contender": contender,
        "setting": setting,
        "round": number,
        "step_seconds": [seconds],
        "losses": [0.5, 0.25],
        "peak_training_mib": 100.0 * seconds,
        "peak_process_mib": None,
        "import_seconds": 1.0,
        "preparation_seconds": 2.0,
        "first_step_seconds": 3.0,
        "start_to_first_step_seconds": 6.0,
        "cores_busy": 1.5,
        "tokens": 144,
        "fingerprint": "same",
    } | changes


def result(samples: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "machine": {"cpu": "Some CPU", "cores": 2, "date": "2026-01-02T03:04:05", "versions": {"python": "3.11"}},
        "options": {"batch_size": 2, "rounds": 2},
        "model": {"name": "tiny", "parameters": 12, "body_parameters": 10, "head_parameters": 2},
        "data": {"lengths": LENGTHS, "pairs": 4, "tokens": 144, "fingerprint": "same"},
        "matmul_gflops": [{"float32": 1e-6, "bfloat16": 2e-6}] * 2,
        "samples": samples,
        "commands": {"`preftune --help`": [0.3, 0.1, 0.2]},
    }


def test_spread_is_least_middle_and_most():
    assert spread([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
    assert spread([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0–3.0)"
    assert spread([1234.5]).text(0) == "1,234"


def test_ratios_pair_runs_of_the_same_round():
    # The machine halves its speed in round 1: each ratio is 4, though that of the medians would not show it.
    samples = [sample("preftune", 0, 1.0), sample("trl-best", 1, 8.0), sample("trl-best", 0, 4.0)]
    samples += [sample("preftune", 1, 2.0), sample("preftune", 2, 1.0)]
    ratios = round_ratios(samples, lambda one: pairs_per_second(one, 2), "preftune", "trl-best")
    assert ratios == [4.0, 4.0]


def test_ratio_without_a_figure_on_either_side_is_left_out():
    samples = [sample("preftune", 0, 1.0), sample("trl-best", 0, 2.0)]
    assert round_ratios(samples, lambda one: one["peak_process_mib"], "preftune", "trl-best") == []


def test_rates_count_the_timed_pairs_only():
    one = sample("preftune", 0, 0.5)
    assert pairs_per_second(one, 2) == 4.0
    assert tokens_per_second(one, LENGTHS, 2) == (60 + 13 + 80 + 17) / 0.5


@pytest.mark.parametrize(("setting", "factor"), [("fp32-full", 6), ("bf16-lora", 4)])
def test_arithmetic_counts_prompts_once_and_last_tokens_as_no_input(setting: str, factor: int):
    positions, targets = (30 + 5 + 6) + (40 + 7 + 8), (6 + 7) + (8 + 9)
    expected = factor * (10 * positions + 2 * targets) / 0.5 / 1e9
    one = sample("preftune", 0, 0.5, setting)
    assert needed_gflops(one, result([one])) == pytest.approx(expected, rel=1e-12)


def test_largest_loss_difference_is_over_steps_and_rounds():
    ours, best, default = (("fp32-full", name) for name in CONTENDERS)
    samples = [sample("preftune", 0, 1.0), sample("preftune", 1, 1.0), sample("trl-best", 0, 1.0)]
    assert largest_loss_difference(samples, ours, best) == 0.0
    samples.append(sample("trl-best", 1, 1.0, losses=[0.5, 0.125]))
    assert largest_loss_difference(samples, ours, best) == 0.125
    assert largest_loss_difference(samples, ours, default) is None


def test_bfloat16_losses_are_also_held_against_float32():
    samples = [sample("preftune", 0, 1.0), sample("preftune", 0, 1.0, "bf16-full", losses=[0.5, 0.5])]
    text = tables(result(samples))
    assert text.count("Largest difference") == 1
    assert "from preftune's in float32: preftune 2.5e-01." in text


def test_runs_of_unequal_length_are_not_compared():
    samples = [sample("preftune", 0, 1.0), sample("trl-best", 0, 1.0, losses=[0.5])]
    with pytest.raises(ValueError, match="shorter"):
        largest_loss_difference(samples, ("fp32-full", "preftune"), ("fp32-full", "trl-best"))


def test_tables_say_which_target_is_met_and_which_missed():
    fast = [sample("preftune", n, 1.0) for n in (0, 1)] + [sample("trl-best", n, 4.0) for n in (0, 1)]
    assert "| TRL, best CPU settings | 4.00 | ≥ 3.2: met | 0.25 |  |" in tables(result(fast))
    slow = [one | {"step_seconds": [2.0]} if one["contender"] == "preftune" else one for one in fast]
    assert "≥ 3.2: missed" in tables(result(slow))


def test_tables_of_a_run_have_no_ragged_row():
    lines = [line for line in tables(result([sample("preftune", 0, 1.0)])).splitlines() if line.startswith("|")]
    columns = {line.count("|") for line in lines[:3]}
    assert len(columns) == 1
    assert lines[-1] == "| `preftune --help` | 0.20 (0.10–0.30) | 3 |"


def test_tables_tell_when_tokens_differ():
    assert "the same on every side" in tables(result([sample("preftune", 0, 1.0)]))
    assert "**not the same on every side**" in tables(result([sample("preftune", 0, 1.0, tokens=143)]))
    assert "**not the same on every side**" in tables(result([sample("trl-best", 0, 1.0, fingerprint="other")]))


def test_text_between_markers_is_replaced_and_the_rest_kept():
    text = "head\n<!-- dpo: begin -->\nold\n<!-- dpo: end -->\ntail\n"
    once = between_markers(text, "dpo", "new")
    assert once == "head\n<!-- dpo: begin -->\n\nnew\n\n<!-- dpo: end -->\ntail\n"
    assert between_markers(once, "dpo", "new") == once


@pytest.mark.parametrize("text", ["", "<!-- dpo: begin -->", "<!-- dpo: end --><!-- dpo: begin -->"])
def test_missing_or_swapped_markers_are_refused(text: str):
    with pytest.raises(ValueError, match="markers"):
        between_markers(text, "dpo", "new")


def test_every_contender_takes_every_place_of_a_round():
    orders = [rotated(CONTENDERS, by) for by in range(len(CONTENDERS))]
    assert all(sorted(order) == sorted(CONTENDERS) for order in orders)
    assert all(len(set(place)) == len(CONTENDERS) for place in zip(*orders, strict=True))


def token_pair(number: int) -> TokenPair:
    """The prompt [number], the answers [number, 1] and [number, 0, 0]."""
    ids = ([number], [number, 1], [number, 0, 0])
    return TokenPair(str(number), *(np.array(one, dtype=np.int32) for one in ids))


def test_sequences_of_pairs_are_what_a_method_makes_of_them():
    pairs = [token_pair(5), token_pair(6), token_pair(7)]
    chosen, rejected = ([(1, [n, n, *end]) for n in (5, 6, 7)] for end in ([1], [0, 0]))
    assert expected_sequences("sft", pairs, 2) == chosen
    assert expected_sequences("kto", pairs, 2) == [*chosen[:2], *rejected[:2], chosen[2], rejected[2]]
    assert expected_sequences("dpo", pairs, 2)[:3] == [chosen[0], rejected[0], chosen[1]]
    assert expected_sequences("reward", pairs[:1], 2) == [(0, [5, 5, 1]), (0, [5, 5, 0, 0])]


def test_both_sides_sequences_are_found_in_their_own_forms():
    pair = token_pair(5)
    label = SimpleNamespace(prompt=pair.prompt, completion=pair.chosen, completions=(pair.chosen, pair.rejected))
    ignored = -100
    rows: dict[str, Any] = {
        "dpo": {"prompt_ids": [5], "chosen_ids": [5, 1], "rejected_ids": [5, 0, 0]},
        "kto": {"prompt_ids": [5], "completion_ids": [5, 1]},
        "orpo": {
            "chosen_input_ids": [5, 5, 1],
            "chosen_labels": [ignored, 5, 1],
            "rejected_input_ids": [5, 5, 0, 0],
            "rejected_labels": [ignored, 5, 0, 0],
        },
        "reward": {"chosen_ids": [5, 5, 1], "rejected_ids": [5, 5, 0, 0]},
        "sft": {"input_ids": [5, 5, 1], "labels": [ignored, 5, 1]},
    }
    items = {
        "kto": label,
        "sft": SimpleNamespace(members=(SimpleNamespace(prompt=pair.prompt, completions=(pair.chosen,)),)),
    }
    for method, row in rows.items():
        expected = expected_sequences(method, [pair], 1)[: 1 if method == "kto" else 2]
        assert trl_sequences(method, [row]) == expected, method
        assert our_sequences(method, [items.get(method, pair)]) == expected, method


@pytest.mark.parametrize("changed", [[(2, [7, 8, 9])], [(1, [7, 8, 0])], [(1, [7, 8]), (1, [9])], []])
def test_receipt_tells_tokens_order_and_boundary_apart(changed: list[Any]):
    assert receipt([(1, [7, 8, 9])]) == receipt([(1, [7, 8, 9])])
    assert receipt(changed)["fingerprint"] != receipt([(1, [7, 8, 9])])["fingerprint"]
    assert receipt([(1, [7, 8]), (0, [9])])["tokens"] == 3


def test_labels_moved_by_one_within_a_batch_never_meet_their_own_prompt(tmp_path: Path):
    """TRL's KL estimate moves completions so; eight labels are four pairs."""
    rows = [{"prompt": f"p{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    offline.lay_out(tmp_path)
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["completion"] for answer in answers] == [f"good {n}" for n in range(8)]
    assert sorted(label["completion"] for label in labels) == sorted(
        f"{k} {n}" for k in ("good", "bad") for n in range(8)
    )
    assert all(label["label"] == label["completion"].startswith("good") for label in labels)
    for batch in (labels[:8], labels[8:]):
        assert len({label["prompt"] for label in batch}) == 4
        moved = [batch[-1], *batch[:-1]]
        assert all(one["prompt"] != other["prompt"] for one, other in zip(batch, moved, strict=True))


def job(method: str, contender: str = OURS, setting: str = "bf16-full") -> Job:
    return Job(contender, setting, "model", "data", "folder", 0.0, method)


@pytest.mark.parametrize("entry", [entry for part in offline.PARTS.values() for entry in part], ids=str)
def test_every_contender_of_ours_has_settings_that_its_method_takes(entry: offline.Entry):
    one = job(entry.method, entry.contender, entry.setting)
    if entry.contender not in (OURS, OURS_AS_TRL):
        return
    config = find_method(entry.method).config_class()(**one.shared, **our_settings(one))
    assert (config.use_peft, config.load_in_4bit) == (one.uses_lora, entry.setting == "bf16-qlora")
    assert config.per_device_train_batch_size == (8 if entry.method == "kto" else 4)
    assert getattr(config, "nll_of", None) == {OURS_AS_TRL: "sequence"}.get(
        entry.contender, "completion" if entry.method == "orpo" else None
    )


def test_trl_computes_references_first_where_there_are_any():
    assert trl_settings(job("dpo", "trl-default")) == {}
    assert trl_settings(job("sft", "trl-best")) == {"gradient_checkpointing": False}
    for method in ("dpo", "kto"):
        assert trl_settings(job(method, "trl-best"))["precompute_ref_log_probs"] is True
    assert trl_settings(job("orpo", "trl-best"))["model_init_kwargs"]["dtype"] == "float32"


def offline_sample(method: str, contender: str, seconds: float, setting: str = "bf16-full", **changes: Any):
    return sample(contender, 0, seconds, setting, method=method, **changes)


def offline_result(samples: list[dict[str, Any]]) -> dict[str, Any]:
    drawn = {"tokens": 144, "fingerprint": "same"}
    found = result(samples) | {"failures": []}
    return found | {
        "data": found["data"] | {"by_method": dict.fromkeys(("sft", "reward", "kto", "orpo", "dpo"), drawn)}
    }


def test_each_of_our_runs_of_a_method_is_held_against_trls():
    samples = [offline_sample("orpo", name, seconds) for name, seconds in ((OURS, 1.0), (OURS_AS_TRL, 2.0))]
    text = offline_tables(offline_result([*samples, offline_sample("orpo", "trl-best", 2.0, losses=[0.5, 0.125])]))
    assert "| preftune | 2.00 | ≥ 1.5: met | 0.50 | ≤ 0.6: met |" in text
    assert "| preftune, likelihood of the prompt too | 1.00 | ≥ 1.5: missed | 1.00 | ≤ 0.6: missed |" in text
    assert "likelihood of the prompt too: TRL, best CPU settings 1.2e-01." in text
    assert text.count("Largest difference") == 1


def test_methods_without_reference_and_quantised_weights_are_held_against_dpo():
    samples = [offline_sample("dpo", OURS, 4.0), offline_sample("simpo", OURS, 2.0)]
    samples += [offline_sample("dpo", OURS, 4.0, "bf16-lora"), offline_sample("dpo", OURS, 8.0, "bf16-qlora")]
    text = offline_tables(offline_result(samples))
    assert "| SimPO | 2.00 |  | 0.50 |  |" in text
    assert "| QLoRA, 4 bits | 0.50 |  | 2.00 |  |" in text
    assert "| ORPO |" not in text
    assert "#### SFT" not in text


def test_tokens_of_a_method_are_compared_with_its_own():
    assert "**not" not in offline_tables(offline_result([offline_sample("sft", OURS, 1.0)]))
    assert "**not" in offline_tables(offline_result([offline_sample("sft", OURS, 1.0, fingerprint="other")]))
    assert "**not" in offline_tables(offline_result([offline_sample("kto", OURS, 1.0, tokens=143)]))


def test_sft_counts_the_tokens_of_chosen_answers_only():
    assert tokens_per_second(offline_sample("sft", OURS, 0.5), LENGTHS, 2) == (30 + 6 + 40 + 8) / 0.5


def test_run_that_fails_is_noted_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def spawn(one: Job, folder: Path) -> dict[str, Any]:
        if one.contender == "trl-best":
            raise RunFailed("sft by trl-best in bf16-full ended with 1:\nno memory")
        return offline_sample(one.method, one.contender, 1.0, one.setting)

    monkeypatch.setattr(offline, "spawn", spawn)
    monkeypatch.setattr(offline, "measure_matmul", lambda: {"float32": 1.0, "bfloat16": 1.0})
    found = offline_result([]) | {"matmul_gflops": []}
    options = SimpleNamespace(methods=["sft", "qlora"], rounds=2, model="model")
    offline._run_round(found, 1, options, tmp_path, tmp_path / "out.json")  # type: ignore[arg-type]
    assert [one["setting"] for one in found["samples"]] == ["bf16-full", "bf16-qlora", "bf16-lora"]
    assert "- round 2: sft by trl-best in bf16-full ended with 1:" in offline_tables(found)
    assert json.loads((tmp_path / "out.json").read_text()) == found


def measure(value: float, unit: str = "share") -> dict[str, Any]:
    return {"value": value, "low": value - 0.125, "high": value + 0.125, "n": 12, "unit": unit}


def family_run(method: str, **moments: Any) -> dict[str, Any]:
    machine = result([])["machine"]
    choice = family.RATES[method]
    evaluation = {"before": {}, "after": {}, "change": {}} | moments
    return {
        "settings": choice.settings,
        "why": choice.why,
        "seconds": 9.6,
        "machine": machine,
        "evaluation": evaluation,
    }


def test_family_table_has_the_first_measure_a_method_knows():
    names = ("preference_accuracy", "ranking_accuracy")
    dpo = {moment: dict.fromkeys(names, measure(0.5)) for moment in ("before", "after", "change")}
    dpo["after"] |= {"kl": measure(2.0, "nats"), "mean_length": measure(60.0, "tokens")}
    sft = {moment: {"loss_per_token": measure(1.5, "nats a token")} for moment in ("before", "after", "change")}
    methods = {"sft": family_run("sft", **sft), "dpo": family_run("dpo", **dpo)}
    text = family.section({"model": "m", "settings": family.common_settings(None, None), "methods": methods})
    half = "50.0% (37.5 to 62.5)"
    assert f"| dpo | 0.0003 | preference accuracy | 12 | {half} | {half} | +50.0% (+37.5 to +62.5) | 12 |" in text
    assert "| - | 60.0 (59.9 to 60.1) | - | 2.00 (1.88 to 2.12) | 10 |" in text
    assert "| sft | 0.0002 | loss, nats a token | 12 | 1.50 (1.38 to 1.62) |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_family_without_runs_says_so():
    assert family.section({"model": "m", "settings": {}, "methods": {}}) == "No method has run yet."


@pytest.mark.parametrize("method", family.RATES)
def test_family_settings_are_those_of_the_method(method: str):
    settings = family.common_settings(None, None) | family.RATES[method].settings
    config = find_method(method).config_class()(**settings, model="m")
    assert config.learning_rate == family.RATES[method].learning_rate
    assert (config.max_steps, config.use_peft) == (52, True)


def test_stopped_family_is_taken_up_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ran: list[str] = []

    def run_method(method: str, *rest: Any) -> dict[str, Any]:
        ran.append(method)
        if method == "kto" and ran.count("kto") == 1:
            raise family.MethodFailed("no memory")
        return family_run(method)

    monkeypatch.setattr(family, "run_method", run_method)
    command = ["--model", "m", "--methods", "dpo,kto,sft", "--output", str(tmp_path / "family.json")]
    assert family.main(command) == 1
    assert family.main(command) == 0
    assert ran == ["dpo", "kto", "sft", "kto"]
    monkeypatch.setitem(family.RATES, "sft", family.Choice(1e-4, "another"))
    assert family.main(command) == 0
    assert ran[4:] == ["sft"]
    assert family.main([*command, "--again"]) == 0
    assert ran[5:] == ["dpo", "kto", "sft"]
    with pytest.raises(SystemExit, match="another"):
        family.main([*command, "--steps", "3"])


@pytest.mark.slow
def test_offline_benchmark_runs_on_the_tiny_world(world: World, tmp_path: Path):
    """A minute: SFT on both sides."""
    pytest.importorskip("trl")
    output = tmp_path / "offline.json"
    places = ["--model", str(world.model), "--data", str(world.conversational), "--output", str(output)]
    assert offline.main([*places, "--methods", "sft", "--rounds", "1", "--pairs", "4"]) == 0
    found = json.loads(output.read_text())
    assert [(one["method"], one["contender"]) for one in found["samples"]] == [("sft", OURS), ("sft", "trl-best")]
    assert "**not" not in offline_tables(found)
    assert largest_loss_difference(found["samples"], ("bf16-full", OURS), ("bf16-full", "trl-best")) < 0.05


@pytest.mark.slow
def test_family_runs_on_the_tiny_world(world: World, tmp_path: Path):
    """Half a minute: the commands of two methods."""
    output = tmp_path / "family.json"
    places = ["--model", str(world.model), "--data", str(world.conversational), "--output", str(output)]
    assert family.main([*places, "--methods", "reward,simpo", "--steps", "2"]) == 0
    methods = json.loads(output.read_text())["methods"]
    assert methods["reward"]["evaluation"]["after"]["accuracy"]["n"] == 12
    assert methods["simpo"]["evaluation"]["after"]["preference_accuracy"]["n"] == 12


def test_machine_names_a_file():
    assert machine_slug({"cpu": "AMD EPYC(TM) 9004", "cores": 2}) == "amd-epyc-tm-9004-2-cores"
