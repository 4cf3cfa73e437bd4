"""Rows to columns: steps, resumes, several runs in one file, numbers written as anything."""

from __future__ import annotations

import math

import numpy as np
import pytest

from preftune.diagnose.readers.assemble import log_of_rows, make_log
from preftune.diagnose.readers.rows import columns_of, flattened, split_runs
from preftune.errors import PreftuneError


def rows_of(steps: list[int], name: str = "loss") -> list[dict[str, float]]:
    return [{"step": step, name: step / 10} for step in steps]


def test_one_run_stays_one_and_counts_by_its_steps() -> None:
    (run,) = split_runs(rows_of([10, 20, 30]))
    assert (run.label, list(run.steps), list(run.overlaps), list(run.notes)) == ("", [10, 20, 30], [], [])


def test_resume_falls_back_a_little_and_its_figures_count() -> None:
    rows = [*rows_of([10, 20, 30, 40]), {"step": 30, "loss": 7.0}, {"step": 40, "loss": 8.0}, {"step": 50, "loss": 9.0}]
    (run,) = split_runs(rows)
    log = log_of_rows("r", "jsonl", run)
    assert log.series["loss"].steps.tolist() == [10, 20, 30, 40, 50]
    assert log.series["loss"].values.tolist() == [1.0, 2.0, 7.0, 8.0, 9.0]
    assert log.documents["overlap"] == [
        {"name": "loss", "step": 30, "first": 3.0, "again": 7.0},
        {"name": "loss", "step": 40, "first": 4.0, "again": 8.0},
    ]
    assert any("Steps 30 to 40 were logged twice" in note for note in log.notes)


def test_runs_one_after_another_are_told_apart_where_steps_begin_anew() -> None:
    runs = split_runs([*rows_of([5, 10, 15]), *rows_of([5, 10]), *rows_of([1, 2])])
    assert [(run.label, list(run.steps)) for run in runs] == [("1", [5, 10, 15]), ("2", [5, 10]), ("3", [1, 2])]


def test_runs_side_by_side_are_told_apart_by_their_name() -> None:
    rows = [{"run": name, "step": step, "loss": 1.0} for step in (1, 2, 3) for name in ("a", "b")]
    assert [(run.label, list(run.steps)) for run in split_runs(rows)] == [("a", [1, 2, 3]), ("b", [1, 2, 3])]


def test_trainers_step_goes_before_the_trackers_counter() -> None:
    rows = [{"_step": i, "train/global_step": 100 * i, "train/loss": 1.0} for i in range(1, 4)]
    assert list(split_runs(rows)[0].steps) == [100, 200, 300]


def test_rows_without_a_step_are_counted_and_it_is_said() -> None:
    (run,) = split_runs([{"loss": 1.0}, {"loss": 0.5}])
    assert list(run.steps) == [1, 2]
    assert run.notes == ["The rows have no step: they are counted."]


def test_row_without_a_step_is_of_the_one_before() -> None:
    (run,) = split_runs([{"step": 4, "loss": 1.0}, {"eval_loss": 2.0}, {"step": 8, "loss": 0.5}])
    assert list(run.steps) == [4, 4, 8]


def test_numbers_in_every_spelling_and_no_others() -> None:
    rows = [
        {"loss": "0.5", "kl": None, "note": "fine", "grad_norm": 1},
        {"loss": "NaN", "kl": 2.0, "note": "odd", "grad_norm": float("inf")},
        {"loss": 0.25, "kl": "-inf", "note": "", "grad_norm": 3.5},
    ]
    columns = columns_of(rows, [1, 2, 3])
    assert columns.keys() == {"loss", "kl", "grad_norm"}
    np.testing.assert_array_equal(columns["loss"][1], [0.5, math.nan, 0.25])
    np.testing.assert_array_equal(columns["kl"][1], [math.nan, 2.0, -math.inf])
    np.testing.assert_array_equal(columns["grad_norm"][1], [1, math.inf, 3.5])


def test_rows_of_different_names_keep_their_order() -> None:
    rows = [{"a": 1.0}, {"a": 2.0, "b": 1.0}, {"a": 3.0}, {"b": 2.0, "a": 4.0}]
    columns = columns_of(rows, [1, 2, 3, 4])
    assert columns["a"][1].tolist() == [1, 2, 3, 4]
    assert (columns["b"][0].tolist(), columns["b"][1].tolist()) == ([2, 4], [1, 2])


def test_nested_values_get_a_slash_and_verls_data_none() -> None:
    assert flattened({"step": 3, "data": {"actor/lr": 1e-6}}) == {"step": 3, "actor/lr": 1e-6}
    assert flattened({"step": 3, "rewards": {"chosen": 1.0, "list": [1]}}) == {"step": 3, "rewards/chosen": 1.0}


def test_margins_are_made_where_a_tool_leaves_them_out() -> None:
    rows = [{"step": i, "chosen_reward": 2.0, "reject_reward": 0.5} for i in (1, 2)]
    log = log_of_rows("r", "jsonl", split_runs(rows)[0])
    assert log.series["rewards/margins"].values.tolist() == [1.5, 1.5]


def test_of_two_names_for_one_thing_ours_is_read_and_the_other_kept() -> None:
    rows = [{"step": i, "train/loss": 1.0, "actor/loss": 5.0} for i in (1, 2)]
    log = log_of_rows("r", "jsonl", split_runs(rows)[0])
    assert log.series["loss"].values.tolist() == [1.0, 1.0]
    assert log.series["actor/loss"].values.tolist() == [5.0, 5.0]


def test_unknown_names_are_told_with_the_nearest() -> None:
    rows = [{"step": i, "loss": 1.0, "rewards/chosn": 1.0} for i in (1, 2)]
    log = log_of_rows("r", "jsonl", split_runs(rows)[0])
    assert log.series["rewards/chosn"].values.tolist() == [1.0, 1.0]
    assert "Metrics that are not known and were left as they are: rewards/chosn (like rewards/chosen?)." in log.notes


def test_log_without_a_known_metric_is_refused() -> None:
    columns = columns_of([{"temprature": 1.0, "los": 2.0}], [1])
    with pytest.raises(PreftuneError, match=r"None of its metrics is known: los \(like loss\?\), temprature"):
        make_log("r", "jsonl", columns)


def test_log_without_a_finite_value_says_so() -> None:
    log = log_of_rows("r", "jsonl", split_runs([{"step": i, "loss": None} for i in (1, 2, 3)])[0])
    assert "Not one logged value is finite." in log.notes
    assert log.get("loss") is None
