from __future__ import annotations

from typing import Any

import pytest

from benchmarks.dpo import contenders_of, rotated
from benchmarks.machine import machine_slug
from benchmarks.table import (
    Spread,
    between_markers,
    largest_loss_difference,
    needed_gflops,
    pairs_per_second,
    round_ratios,
    spread,
    tables,
    tokens_per_second,
)

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


def test_machine_names_a_file():
    assert machine_slug({"cpu": "AMD EPYC(TM) 9004", "cores": 2}) == "amd-epyc-tm-9004-2-cores"
