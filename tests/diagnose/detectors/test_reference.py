from __future__ import annotations

from typing import Any

import numpy as np

from preftune.diagnose.findings import CannotTell, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from tests.diagnose.detectors.synthetic import N, ask, healthy, line, noisy, pairs


def moving(change: float, **others: Any) -> RunLog:
    """Evaluations of DPO behind whose rewards the reference moves by so many nats."""
    evals, beta = np.linspace(0.1, 1, 10), 0.1
    chosen, rejected = -80 + evals, -85 - 5 * evals
    return healthy(
        "dpo",
        eval_logps__chosen=chosen,
        eval_logps__rejected=rejected,
        eval_rewards__chosen=beta * (chosen - (-80 + change * evals)),
        eval_rewards__rejected=beta * (rejected - (-85 + change * evals)),
        **others,
    )


def test_reference_that_follows_is_certain() -> None:
    found = ask("D13", moving(0.5))
    assert isinstance(found, Finding)
    assert (found.severity, found.certainty) == ("error", "certain")


def test_reference_that_stays_is_left_in_peace() -> None:
    assert ask("D13", moving(0.0)) == Nothing()


def test_rounding_in_16_bits_is_no_movement() -> None:
    assert ask("D13", moving(0.3, config={"dtype": "bfloat16"})) == Nothing()
    assert isinstance(ask("D13", moving(0.3)), Finding)


def test_evaluation_sets_drawn_anew_tell_nothing_of_the_reference() -> None:
    jumps = np.random.default_rng(0).normal(scale=3, size=(2, 10))
    chosen, rejected = -80 + jumps[0], -85 + jumps[1]
    log = healthy(
        "dpo",
        eval_logps__chosen=chosen,
        eval_logps__rejected=rejected,
        eval_rewards__chosen=np.linspace(0, 0.1, 10),
        eval_rewards__rejected=np.linspace(0, -0.1, 10),
        config={"beta": 0.1},
    )
    series = {name: one for name, one in log.series.items() if not name.startswith("logps/")}
    assert isinstance(ask("D13", RunLog("run", "test", series, log.config, "dpo")), CannotTell)


def test_reference_that_is_the_policy_is_certain() -> None:
    zero = np.zeros(N)
    found = ask(
        "D13",
        healthy(
            "dpo",
            loss=np.full(N, np.log(2)),
            rewards__chosen=zero,
            rewards__rejected=zero,
            rewards__margins=zero,
            rewards__accuracies=zero,
            eval_rewards__chosen=np.zeros(10),
            eval_rewards__rejected=np.zeros(10),
        ),
    )
    assert isinstance(found, Finding)
    assert "the policy itself" in found.what


def test_a_policy_that_does_not_move_is_no_alias() -> None:
    zero, still = np.zeros(N), np.full(10, -80.0)
    log = healthy(
        "dpo",
        rewards__chosen=zero,
        rewards__rejected=zero,
        eval_rewards__chosen=np.zeros(10),
        eval_rewards__rejected=np.zeros(10),
        eval_logps__chosen=still,
        eval_logps__rejected=still,
        logps__chosen=noisy(-80, 3.0),
        logps__rejected=noisy(-85, 3.0, seed=1),
    )
    assert ask("D13", log) == Nothing()


def test_probe_that_changes_is_certain() -> None:
    found = ask("D13", healthy("dpo", ref_logps__chosen=line(-18, -17.5, 8), ref_logps__rejected=np.full(8, -19.0)))
    assert isinstance(found, Finding)
    assert found.certainty == "certain"


def test_fingerprints_that_differ_are_certain() -> None:
    log = healthy("kto")
    document = {"reference": {"at_start": "ab", "at_end": "cd"}}
    found = ask("D13", RunLog("run", "test", log.series, log.config, "kto", (), {"eval": document}))
    assert isinstance(found, Finding)


def test_drift_is_seen_in_training_batches_where_nothing_is_evaluated() -> None:
    curves = {name: values for name, values in pairs().items() if not name.startswith("eval_")}
    beta, drift = 0.1, line(0, 12)
    curves["logps/chosen"] = noisy(-80 + drift, 1.0)
    curves["logps/rejected"] = noisy(-85 + drift, 1.0, seed=1)
    curves["rewards/chosen"] = beta * 0.1 * line(0, 1)
    curves["rewards/rejected"] = -beta * 0.1 * line(0, 1)
    steps = np.arange(1, N + 1)
    series = {name: Series(name, steps, values) for name, values in curves.items()}
    found = ask("D13", RunLog("run", "test", series, {"beta": beta}, "dpo"))
    assert isinstance(found, Finding)
    assert found.certainty == "likely"


def test_a_reference_synchronised_on_purpose_is_not_judged() -> None:
    assert isinstance(ask("D13", moving(0.5, config={"sync_ref_model": True})), CannotTell)


def test_without_beta_nothing_can_be_told() -> None:
    assert isinstance(ask("D13", moving(0.5, config={"beta": None})), CannotTell)


def started(chosen: float, rejected: float, every: int = 1, **others: Any) -> Outcome:
    log = healthy("dpo", **others)
    rest = {name: log.series[name] for name in ("loss",)}
    for name, value in (("rewards/chosen", chosen), ("rewards/rejected", rejected)):
        values = value + noisy(line(0, -0.1), 0.002)
        values[0] = value
        rest[name] = Series(name, every * np.arange(1, N + 1), values)
    return ask("D14", RunLog("run", "test", rest, log.config, "dpo"))


def test_rewards_that_are_not_zero_at_step_one_are_certain() -> None:
    found = started(1.4, 1.1)
    assert isinstance(found, Finding)
    assert (found.severity, found.certainty) == ("error", "certain")


def test_a_reference_named_by_the_user_is_a_warning() -> None:
    found = started(1.4, 1.1, config={"ref_model": "other"})
    assert isinstance(found, Finding)
    assert found.severity == "warning"
    assert "on purpose" in found.what


def test_loss_at_step_one_has_its_closed_form() -> None:
    found = started(0.0, 0.0, loss=noisy(0.9, 0.001))
    assert isinstance(found, Finding)
    assert "0.6931" in found.evidence[0].what


def test_rewards_that_grew_within_the_first_ten_steps_are_learning() -> None:
    log = healthy("dpo")
    steps = 10 * np.arange(1, N + 1)
    rest = {"rewards/chosen": 0.02 * (steps - 5.0), "rewards/rejected": -0.08 * (steps - 5.0)}
    series = {name: Series(name, steps, values) for name, values in rest.items()}
    assert ask("D14", RunLog("run", "test", series, log.config, "dpo")) == Nothing()


def test_another_start_is_seen_behind_ten_steps_too() -> None:
    assert isinstance(started(1.4, 1.2, every=10), Finding)


def test_a_log_that_begins_late_tells_nothing_of_the_start() -> None:
    series = {
        name: Series(name, np.arange(500, 500 + N), np.full(N, 2.0)) for name in ("rewards/chosen", "rewards/rejected")
    }
    assert isinstance(ask("D14", RunLog("run", "test", series, {"beta": 0.1}, "dpo")), CannotTell)
