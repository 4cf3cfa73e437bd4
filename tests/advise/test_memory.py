"""What a run takes, held against closed forms and against runs that were measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from preftune.advise.machine_facts import MIB
from preftune.advise.memory import PROCESS_MIB, estimate_memory, trained_parameters
from preftune.advise.model_facts import Sizes
from preftune.advise.workload import plan_workload, shape_of
from preftune.methods.registry import METHODS

# SmolLM2-135M: what `read_model` gives.
SMOL = Sizes(134515008, 106203456, 28311552, 30, 576, 9, 3, 64, 1536, True, 49152, 305280)
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def config(method: str, **settings: object):
    return METHODS[method].config_class()(model="m", data="d", output_dir="o", **{"eval_fraction": 0.0} | settings)


def test_a_shape_counts_the_prompt_once_and_no_last_token() -> None:
    shape = shape_of([(10, 4, 6)])
    assert (shape.positions, shape.targets, shape.scores) == (10 + 3 + 5, 10, 18**2)
    kept = shape_of([(10, 4, 6)], keep_last=True)
    assert (kept.positions, kept.targets) == (20, 2)


def test_long_segments_and_many_completions_keep_no_attention_scores() -> None:
    assert shape_of([(2000, 10)]).scores == 0
    assert shape_of([(100, *([101] * 8))]).scores == 0
    assert shape_of([(100, 101)]).scores == 200**2


def test_trained_numbers_cost_twelve_bytes_in_bfloat16_and_eight_in_float32() -> None:
    for bf16, bytes_each in ((True, 12), (False, 8)):
        found = config("dpo", bf16=bf16)
        work = plan_workload("dpo", found, [(10, 5, 5)], 8)
        parts = estimate_memory(work, found, SMOL, has_bfloat16=True).parts
        assert parts["optimiser"] == pytest.approx(bytes_each * SMOL.parameters / MIB)
        assert parts["weights"] == pytest.approx((2 if bf16 else 4) * SMOL.parameters / MIB)
        assert parts["process"] == PROCESS_MIB


def test_an_adapter_of_rank_r_has_r_numbers_for_each_input_and_output() -> None:
    assert trained_parameters(config("dpo", use_peft=True, lora_r=8), SMOL) == 8 * SMOL.linear
    assert trained_parameters(config("dpo"), SMOL) == SMOL.parameters


def test_what_saves_memory_is_estimated_to_save_it() -> None:
    def peak(**settings: object) -> float:
        found = config("dpo", bf16=True, per_device_train_batch_size=8, **settings)
        work = plan_workload("dpo", found, [(200, 100, 100)] * 16, 16)
        return estimate_memory(work, found, SMOL, has_bfloat16=True).peak

    whole = peak()
    adapter = peak(use_peft=True)
    checkpointed = peak(use_peft=True, gradient_checkpointing=True)
    assert whole > adapter > checkpointed > peak(use_peft=True, gradient_checkpointing=True, load_in_4bit=True)


@pytest.mark.parametrize("name", ["dpo", "offline"])
def test_estimates_are_within_a_quarter_of_committed_measurements(name: str) -> None:
    document = json.loads((RESULTS / f"{name}-amd-epyc-2-cores.json").read_text())
    longest = max((tuple(one) for one in document["data"]["lengths"]), key=sum)
    seen = 0
    for sample in document["samples"]:
        method = sample.get("method", "dpo")
        if sample["contender"] != "preftune" or method == "kto":  # whose batch has other rows than the longest pair
            continue
        how = sample["setting"]
        settings: dict[str, object] = {"bf16": how.startswith("bf16"), "use_peft": "lora" in how, "max_length": 512}
        settings |= {"load_in_4bit": True} if "qlora" in how else {}
        settings |= {"group_by_prompt": False} if method == "reward" else {}
        found = config(method, **settings)
        work = plan_workload(method, found, [longest] * 4, 4)
        peak = estimate_memory(work, found, SMOL, has_bfloat16=True).peak
        assert peak == pytest.approx(sample["peak_training_mib"], rel=0.25), (method, how)
        seen += 1
    assert seen >= 9
