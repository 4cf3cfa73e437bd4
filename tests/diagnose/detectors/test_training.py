from __future__ import annotations

from typing import Any

import numpy as np

from preftune.diagnose.findings import CannotTell, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from tests.diagnose.detectors.synthetic import N, ask, healthy, line, noisy, rising, run


def dpo(name: str, **changes: Any) -> Outcome:
    return ask(name, healthy("dpo", **changes))


def test_a_loss_that_ends_above_its_start_is_found() -> None:
    found = dpo("D27", loss=noisy(rising(0.69, 1.6), 0.1))
    assert isinstance(found, Finding)
    assert "--learning_rate" in found.remedy


def test_gradients_that_grew_tenfold_are_found() -> None:
    assert isinstance(dpo("D27", grad_norm=np.exp(noisy(line(0, 4), 0.1))), Finding)


def test_spikes_of_loss_and_gradient_are_found() -> None:
    loss, norm = noisy(rising(0.69, 0.3)), noisy(2.0, 0.1)
    loss[[30, 50, 70, 90, 110]] = 4.0
    norm[[30, 50, 70, 90, 110]] = 60.0
    assert isinstance(dpo("D27", loss=loss, grad_norm=norm), Finding)


def test_a_hard_row_now_and_then_is_no_spike() -> None:
    loss = noisy(rising(0.69, 0.3))
    loss[[30, 90]] = 2.0
    assert dpo("D27", loss=loss) == Nothing()


def test_a_cosine_that_ends_at_zero_is_no_fault() -> None:
    rate = 1e-6 * (1 + np.cos(np.linspace(0, np.pi, N))) / 2
    log = healthy("dpo", learning_rate=rate)
    assert [ask(name, log) for name in ("D27", "D28", "D37")] == [Nothing()] * 3


def test_margins_that_stay_are_found() -> None:
    still = {"rewards__margins": noisy(0.0, 0.01), "rewards__accuracies": np.clip(noisy(0.5, 0.1), 0, 1)}
    assert isinstance(dpo("D28", **still), Finding)


def test_gradients_of_zero_are_an_error() -> None:
    found = dpo("D28", grad_norm=np.zeros(N))
    assert isinstance(found, Finding)
    assert (found.severity, found.certainty) == ("error", "certain")


def test_a_nan_names_its_first_step() -> None:
    loss = noisy(rising(0.69, 0.4))
    loss[40:43] = np.nan
    found = dpo("D29", loss=loss)
    assert isinstance(found, Finding)
    assert found.first_step == 41


def test_steps_left_out_are_found() -> None:
    skipped = np.concatenate([np.zeros(60), np.full(60, 2.0)])
    found = dpo("D29", nan_steps=skipped)
    assert isinstance(found, Finding)
    assert found.first_step == 61


def test_a_loss_hidden_by_the_logger_is_found() -> None:
    loss, norm = noisy(rising(0.69, 0.4)), noisy(2.0, 0.1)
    loss[60:70], norm[60:70] = loss[59], 0.0
    assert isinstance(dpo("D29", loss=loss, grad_norm=norm), Finding)


def test_a_side_that_a_batch_of_kto_lacks_is_no_fault() -> None:
    log_probs = noisy(-80, 3.0)
    log_probs[5] = np.nan
    assert ask("D29", healthy("kto", logps__chosen=log_probs)) == Nothing()


def test_a_limit_that_cuts_everything_short_is_a_hint() -> None:
    found = dpo("D30", config={"max_grad_norm": 1e-3})
    assert isinstance(found, Finding)
    assert found.severity == "hint"
    assert dpo("D30") == Nothing()  # twice the limit is usual


def test_memory_that_climbs_on_is_found() -> None:
    def of(values: np.ndarray) -> Outcome:
        series = {"memory/rss_mib": Series("memory/rss_mib", 10 * np.arange(1, len(values) + 1), values)}
        return ask("D36", RunLog("run", "test", series, {}, "dpo"))

    assert isinstance(of(noisy(line(4000, 6000), 5.0)), Finding)
    assert of(noisy(rising(3000, 4000), 5.0)) == Nothing()
    assert isinstance(of(np.full(5, 4000.0)), CannotTell)


def test_a_rate_that_leaps_back_is_found() -> None:
    rate = line(1e-6, 0)
    rate[60:] = line(1e-6, 0)[: N - 60]
    found = dpo("D37", learning_rate=rate)
    assert isinstance(found, Finding)
    assert found.first_step == 61


def test_warm_up_and_stairs_are_schedules() -> None:
    warm = np.concatenate([line(0, 1e-6, 12), line(1e-6, 0, N - 12)])
    stairs = 1e-6 * 0.5 ** (np.arange(N) // 20)
    assert dpo("D37", learning_rate=warm) == Nothing()
    assert dpo("D37", learning_rate=stairs) == Nothing()


def test_an_epoch_that_begins_again_is_found() -> None:
    epoch = np.concatenate([line(0, 1, 60), line(0.2, 1.2, 60)])
    assert isinstance(dpo("D37", epoch=epoch), Finding)


def test_lines_logged_twice_must_be_the_same() -> None:
    log = healthy("dpo")

    def of(again: float) -> Outcome:
        overlap = [{"name": "loss", "step": 40, "first": 0.5, "again": again}]
        return ask("D37", RunLog("run", "test", log.series, log.config, "dpo", (), {"overlap": overlap}))

    assert isinstance(of(0.52), Finding)
    assert of(0.5) == Nothing()


def test_fine_tuning_that_stands_still_is_seen() -> None:
    flat, falling = noisy(2.0, 0.1), noisy(rising(2.5, 2.0), 0.1)
    assert isinstance(ask("D28", run("sft", {"loss": flat, "grad_norm": noisy(1.0, 0.1)})), Finding)
    assert ask("D28", run("sft", {"loss": falling, "grad_norm": noisy(1.0, 0.1)})) == Nothing()


def test_repetition_names_a_reward_only_where_there_is_one() -> None:
    series = {"rep/distinct3": noisy(line(0.9, 0.2), 0.02)}
    tuned, rewarded = (ask("D05", run(method, series)) for method in ("sft", "grpo"))
    assert isinstance(tuned, Finding) and isinstance(rewarded, Finding)
    assert "reward" not in tuned.why and "reward" in rewarded.why
