"""What every detector must do: stay calm on healthy runs and on nothing, and never raise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors import DETECTORS
from preftune.diagnose.doctor import diagnose
from preftune.diagnose.series import RunLog, Series
from tests.diagnose.detectors.synthetic import healthy, kto, online, pairs, reward_model

NAMES = sorted({*pairs(), *kto(), *reward_model(), *online(), "gold/score", "eval_reward", "epoch", "human/rate"})
NAMES += ["eval_rewards/accuracies_confident", "eval_rewards/strongly_wrong", "ref_logps/chosen", "rewards/a/std"]
METHODS = (None, "sft", "dpo", "ipo", "kto", "reward", "simpo", "orpo", "ppo", "grpo", "rloo", "online-dpo")


def test_ids_are_those_of_the_table_once_each() -> None:
    assert sorted(one.id for one in DETECTORS) == [f"D{number:02}" for number in range(1, 40)]


@pytest.mark.parametrize("method", ["dpo", "ipo", "kto", "reward", "simpo", "grpo", "rloo", "ppo"])
def test_healthy_runs_are_left_in_peace(method: str) -> None:
    found = diagnose(healthy(method))
    assert found.findings == ()
    assert found.notes == ()
    assert len(found.checked) >= 6


@pytest.mark.parametrize("detector", DETECTORS, ids=lambda one: one.id)
def test_an_empty_log_tells_nothing(detector: Detector) -> None:
    found = diagnose(RunLog("empty", "test", {}), detectors=[detector])
    assert found.findings == ()
    assert found.checked == ()
    assert [one.id for one in found.cannot_tell] == [detector.id]
    assert found.cannot_tell[0].why


@pytest.mark.parametrize("method", ["dpo", "kto", "reward", "grpo", "ppo"])
def test_one_point_of_each_curve_is_too_little(method: str) -> None:
    log = healthy(method)
    short = {name: Series(name, one.steps[:1], one.values[:1]) for name, one in log.series.items()}
    found = diagnose(RunLog("short", "test", short, log.config, method))
    assert found.findings == ()
    assert found.checked == ()
    assert found.verdict.startswith("Nothing can be told")


def test_where_nothing_can_be_told_the_verdict_says_so() -> None:
    assert diagnose(RunLog("empty", "test", {})).verdict.startswith("Nothing can be told")


def test_a_detector_that_fails_is_told_and_stops_no_other() -> None:
    def fails(log: RunLog) -> Any:
        raise ZeroDivisionError("by design")

    found = diagnose(healthy("dpo"), detectors=[Detector("D99", "broken", fails), *DETECTORS])
    assert found.notes == ("D99 (broken) failed: ZeroDivisionError: by design",)
    assert [one.id for one in found.cannot_tell if one.id == "D99"]
    assert "D27" in found.checked


def test_findings_come_gravest_first() -> None:
    log = healthy("grpo", reward=np.zeros(120), reward_std=np.zeros(120), loss=np.full(120, np.nan))
    found = diagnose(log).findings
    assert found[0].id == "D29"
    order = ["error", "warning", "hint"]
    assert [order.index(one.severity) for one in found] == sorted(order.index(one.severity) for one in found)


def test_detectors_for_other_methods_are_not_asked() -> None:
    found = diagnose(healthy("dpo"))
    assert not {"D10", "D15", "D38"} & {*found.checked, *(one.id for one in found.cannot_tell)}


def test_live_looks_leave_out_what_needs_the_whole_run() -> None:
    found = diagnose(healthy("dpo"), only_live=True)
    assert "D37" not in {*found.checked, *(one.id for one in found.cannot_tell)}


def test_a_diagnosis_is_json() -> None:
    import json

    document = diagnose(healthy("dpo", loss=np.full(120, np.nan))).as_dict()
    assert json.loads(json.dumps(document))["findings"][0]["id"] == "D29"


VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e-300, 0.6931]),
)


@st.composite
def logs(draw: Any) -> RunLog:
    chosen = draw(st.lists(st.sampled_from(NAMES), max_size=10, unique=True))
    series = {}
    for name in chosen:
        values = draw(st.lists(VALUES, max_size=6))
        repeated = np.tile(np.array(values, dtype=float), draw(st.sampled_from([1, 1, 8, 30])))
        series[name] = Series(name, np.arange(1, len(repeated) + 1), repeated)
    config = draw(
        st.dictionaries(
            st.sampled_from(["beta", "num_generations", "learning_rate", "loss_type", "max_grad_norm", "ref_model"]),
            st.sampled_from([0, -1, 0.1, 8, "word", None, math.nan, [], ["sigmoid"], True]),
            max_size=4,
        )
    )
    documents = draw(
        st.sampled_from([{}, {"eval": []}, {"audit": {"findings": [1, {"id": "duplicates"}]}}, {"eval": 3}])
    )
    return RunLog("random", "test", series, config, draw(st.sampled_from(METHODS)), (), documents)


@settings(max_examples=150, deadline=None)
@given(logs())
def test_no_detector_ever_raises(log: RunLog) -> None:
    for detector in DETECTORS:
        found = diagnose(log, detectors=[detector])
        assert found.notes == ()
