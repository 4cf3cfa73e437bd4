from __future__ import annotations

from typing import Any

import numpy as np

from preftune.diagnose.findings import CannotTell, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from tests.diagnose.detectors.synthetic import N, ask, healthy, line, noisy, rising


def mislabelled(confident: Any, **others: Any) -> Outcome:
    return ask("D23", healthy("dpo", **{"eval_rewards__accuracies_confident": np.asarray(confident), **others}))


def test_wrong_labels_show_where_the_model_is_surest() -> None:
    found = mislabelled(np.array([0.5, 0.56, 0.6, 0.62, 0.6, 0.61, 0.6, 0.62, 0.6, 0.6]))
    assert isinstance(found, Finding)
    assert "40%" in found.what
    assert "--label_smoothing 0.4" in found.remedy


def test_hard_pairs_with_right_labels_are_left_in_peace() -> None:
    assert mislabelled(rising(0.6, 0.95, 10), eval_rewards__accuracies=np.full(10, 0.62)) == Nothing()


def test_a_model_that_knows_nothing_judges_nobody() -> None:
    assert isinstance(mislabelled(np.full(10, 0.5)), CannotTell)


def test_a_model_that_still_learns_is_waited_for() -> None:
    assert mislabelled(line(0.55, 0.8, 10)) == Nothing()


def test_far_wrong_margins_are_seen() -> None:
    found = ask("D23", healthy("dpo", eval_rewards__strongly_wrong=np.linspace(0, 0.3, 10)))
    assert isinstance(found, Finding)


def test_accuracy_that_climbs_by_rote_is_a_hint() -> None:
    found = ask(
        "D23",
        healthy(
            "dpo",
            rewards__accuracies=np.clip(noisy(line(0.5, 0.97), 0.03), 0, 1),
            eval_rewards__accuracies=np.full(10, 0.57),
        ),
    )
    assert isinstance(found, Finding)
    assert found.certainty == "hint"


def test_a_model_surest_of_nothing_may_still_have_learned_by_rote() -> None:
    found = mislabelled(
        np.full(10, 0.5),
        rewards__accuracies=np.clip(noisy(line(0.5, 0.8), 0.03), 0, 1),
        eval_rewards__accuracies=np.full(10, 0.52),
    )
    assert isinstance(found, Finding)
    assert found.certainty == "hint"


def test_what_an_audit_found_is_told_again() -> None:
    log = healthy("dpo")
    audit = {"findings": [{"id": "mislabelled-pairs", "what": "12 pairs look wrong.", "evidence": "of 300"}]}
    found = ask("D23", RunLog("run", "test", log.series, log.config, "dpo", (), {"audit": audit}))
    assert isinstance(found, Finding)
    assert "12 pairs" in found.what


def test_without_held_out_pairs_labels_cannot_be_judged() -> None:
    assert isinstance(ask("D23", healthy("dpo", eval_rewards__accuracies=None)), CannotTell)


def test_chosen_answers_that_sink_are_seen() -> None:
    chosen, rejected = line(0, -2.5), line(0, -3.5)
    found = ask(
        "D12",
        healthy("dpo", rewards__chosen=chosen, rewards__rejected=rejected, rewards__margins=chosen - rejected),
    )
    assert isinstance(found, Finding)
    assert found.severity == "error"  # 25 nats
    assert "rpo_alpha" in found.remedy


def test_a_fall_of_two_nats_is_usual() -> None:
    assert ask("D12", healthy("dpo", rewards__chosen=line(0, -0.2))) == Nothing()


def test_log_probs_that_vary_with_length_are_no_fall() -> None:
    assert ask("D12", healthy("dpo", logps__chosen=noisy(-300, 60.0))) == Nothing()


def test_pairs_learned_by_heart_are_seen() -> None:
    found = ask(
        "D39",
        healthy(
            "dpo",
            rewards__accuracies=np.concatenate([line(0.5, 1, 40), np.ones(80)]),
            rewards__margins=line(0, 8),
            eval_rewards__margins=np.full(10, 0.5),
            eval_loss=np.array([0.66, 0.62, 0.6, 0.62, 0.65, 0.7, 0.75, 0.8, 0.86, 0.9]),
        ),
    )
    assert isinstance(found, Finding)
    assert found.certainty == "likely"


def test_sure_and_right_is_no_fault() -> None:
    sure = {"rewards__accuracies": np.concatenate([line(0.5, 1, 40), np.ones(80)]), "rewards__margins": line(0, 8)}
    assert ask("D39", healthy("dpo", eval_rewards__margins=line(0.5, 7, 10), **sure)) == Nothing()


def test_accuracy_in_steps_of_an_eighth_is_no_certainty() -> None:
    eighths = np.round(8 * np.clip(noisy(0.8, 0.1), 0, 1)) / 8
    assert ask("D39", healthy("dpo", rewards__accuracies=eighths)) == Nothing()


def test_pairs_known_by_heart_are_told_by_accuracies_alone() -> None:
    """Margins and loss of held-out pairs may still win a little, by growing on those that were right before."""
    series = {
        "rewards__accuracies": np.ones(N),
        "rewards__margins": noisy(line(0, 5), 0.05),
        "eval_loss": np.linspace(0.6, 0.5, 10),
        "eval_rewards__margins": np.linspace(0.1, 2.5, 10),
    }
    found = ask("D39", healthy("dpo", eval_rewards__accuracies=np.full(10, 0.72), **series))
    assert isinstance(found, Finding) and found.certainty == "hint"
    assert ask("D39", healthy("dpo", eval_rewards__accuracies=np.linspace(0.6, 0.95, 10), **series)) == Nothing()
    assert ask("D39", healthy("dpo", eval_rewards__accuracies=np.linspace(0.5, 0.75, 10), **series)) == Nothing()


def test_kto_beyond_its_sigmoid_is_seen() -> None:
    found = ask("D38", healthy("kto", rewards__chosen=line(0, 12), rewards__rejected=line(0, -12), kl=np.zeros(N)))
    assert isinstance(found, Finding)


def test_z0_of_nothing_at_first_is_usual() -> None:
    assert ask("D38", healthy("kto", kl=np.zeros(N))) == Nothing()


def test_reward_model_that_learns_by_heart_is_seen() -> None:
    found = ask(
        "D19",
        healthy(
            "reward",
            loss=noisy(rising(0.69, 0.05)),
            accuracy=np.clip(noisy(rising(0.5, 0.99), 0.01), 0, 1),
            eval_loss=np.array([0.66, 0.62, 0.6, 0.62, 0.65, 0.7, 0.75, 0.8, 0.86, 0.9]),
        ),
    )
    assert isinstance(found, Finding)
    assert found.certainty == "certain"
    assert found.first_step == 36


def test_held_out_loss_that_wavers_in_a_single_pass_is_no_learning_by_heart() -> None:
    """Training loss is then of pairs never seen before, as the held-out one is: it is no lower."""
    wavering = np.array([0.62, 0.55, 0.5, 0.46, 0.49, 0.5, 0.51, 0.5, 0.52, 0.5])
    assert ask("D19", healthy("reward", eval_loss=wavering)) == Nothing()


def test_scores_that_drift_together_are_seen() -> None:
    assert isinstance(ask("D22", healthy("reward", mean_reward=noisy(line(0, 12), 0.1))), Finding)
    assert ask("D22", healthy("reward")) == Nothing()


def test_calibration_is_read_from_the_evaluation() -> None:
    log = healthy("reward")

    def of(error: float, low: float) -> Outcome:
        after = {"calibration_error": {"value": error, "low": low, "high": 1.0, "n": 400}}
        return ask("D20", RunLog("run", "test", log.series, {}, "reward", (), {"eval": {"after": after}}))

    assert isinstance(of(0.25, 0.21), Finding)
    assert of(0.12, 0.06) == Nothing()
    assert isinstance(ask("D20", log), CannotTell)


def test_a_score_that_length_alone_would_give_is_seen() -> None:
    log = healthy("reward")

    def of(accuracy: float, longer: float) -> Outcome:
        after = {"accuracy": {"value": accuracy, "n": 500}, "longer_wins": {"value": longer, "n": 500}}
        return ask("D21", RunLog("run", "test", log.series, {}, "reward", (), {"eval": {"after": after}}))

    assert isinstance(of(0.71, 0.70), Finding)
    assert of(0.71, 0.6) == Nothing()


def test_audits_are_told_again() -> None:
    log = healthy("dpo")
    leaked = {
        "id": "leaked-prompts",
        "severity": "error",
        "title": "Prompts leak",
        "what": "3 of 10",
        "remedy": "Split",
    }

    def of(*findings: Any) -> RunLog:
        audit = {"findings": list(findings), "leaked_prompts": 0, "duplicates": 0, "read": 10}
        return RunLog("run", "test", log.series, {}, "dpo", (), {"audit": audit})

    found = ask("D24", of(leaked))
    assert isinstance(found, Finding)
    assert (found.severity, found.remedy) == ("error", "Split")
    assert ask("D25", of(leaked)) == Nothing()
    assert isinstance(ask("D31", of(leaked)), CannotTell)
    assert isinstance(ask("D24", log), CannotTell)
