"""Rules hold where their facts do, and each says where it is from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preftune.advise.data_facts import DataFacts
from preftune.advise.facts import Wishes, known_facts
from preftune.advise.rules import Rule, all_rules, fill, holding, holds, names_in
from preftune.advise.success import success_of
from preftune.audit.findings import Share
from preftune.methods.registry import METHODS

ROOT = Path(__file__).parents[2]
# Facts of a plan, which known_facts cannot know yet.
OF_PLANS = {"peak_share", "peak_gib", "available_gib", "hours", "cut", "max_length"}
OF_MODELS = {"taught", "why_taught", "has_template", "experts", "parameters_millions", "model_known"}
OF_PROBES = {"success", "success_low", "success_high", "group", "dead", "dead_of_two", "success_known"}


def share(value: float, low: float, high: float) -> Share:
    return Share(value, low, high, 100, "title", "what")


def data(**changes: object) -> DataFacts:
    known = {
        "source": "d",
        "kind": "pair",
        "read": 1000,
        "rejected": {},
        "records": 1000,
        "prompts": 1000,
        "conversational": 0.0,
        "lengths": ((10, 5, 5),),
        "counted": True,
        "duplicates": 0.0,
        "contradictions": 0.0,
        "leaked_prompts": None,
        "held_out": None,
        "undecided": 0.0,
        "has_confidence": False,
        "findings": (),
        "notes": (),
    }
    unknown = dict.fromkeys(("noise", "evidence", "agreement", "longer_wins", "desirable", "checkable"))
    return DataFacts(**known | unknown | changes)


def decided(facts_of: DataFacts, **wishes: object) -> str | None:
    facts = known_facts(facts_of, None, Wishes(**wishes))
    held = holding(facts)
    if any(one.rule.refuse for one in held):
        return None
    return max((one for one in held if one.rule.method), key=lambda one: one.rule.weight).rule.method


@pytest.mark.parametrize(
    ("condition", "facts", "expected"),
    [
        ("x", {"x": True}, True),
        ("x", {"x": None}, False),
        ("not x", {"x": False}, True),
        ("not x", {}, False),
        ("n > 3", {"n": 4}, True),
        ("n > 3", {"n": None}, False),
        ("n <= 0.5", {"n": 0.5}, True),
    ],
)
def test_a_condition_on_what_is_not_known_does_not_hold(condition: str, facts: dict, expected: bool) -> None:
    assert holds(condition, facts) is expected


def test_a_condition_of_no_form_is_a_fault() -> None:
    with pytest.raises(ValueError, match="no condition"):
        holds("x is 3", {"x": 3})


def test_every_rule_has_a_source_a_known_method_and_facts_that_exist() -> None:
    known = set(known_facts(data(), None, Wishes())) | OF_PLANS | OF_MODELS | OF_PROBES
    for rule in all_rules():
        assert rule.source, rule.id
        assert not rule.method or (rule.method in METHODS and rule.why), rule.id
        assert names_in(rule) <= known, (rule.id, names_in(rule) - known)
        assert bool(rule.method) + bool(rule.warn) + bool(rule.refuse) + bool(rule.before) <= 1, rule.id
        for method in rule.methods:
            assert set(rule.settings) <= set(METHODS[method].config_class().model_fields), (rule.id, method)
    assert len({rule.id for rule in all_rules()}) == len(all_rules())


def test_every_file_that_a_rule_names_as_its_source_is_there() -> None:
    for rule in all_rules():
        for file in re.findall(r"[\w/.-]+\.(?:json|md|py)\b", rule.source):
            assert (ROOT / file).exists() or (ROOT / "preftune" / file).exists(), (rule.id, file)


def test_texts_say_what_is_not_known() -> None:
    assert fill("{a:.0%} of {b}", {"a": 0.5}) == "50% of ?"


@pytest.mark.parametrize(
    ("facts", "wishes", "method"),
    [
        ({}, {}, "dpo"),
        ({"records": 60}, {}, "ipo"),
        ({}, {"epochs": 3.0}, "ipo"),
        ({"noise": share(0.2, 0.1, 0.3)}, {"epochs": 3.0}, "dpo"),
        ({"kind": "label"}, {}, "kto"),
        ({"kind": "demonstration"}, {}, "sft"),
        ({"kind": "prompt", "checkable": share(0.98, 0.9, 1.0)}, {}, "grpo"),
        ({"kind": "demonstration", "checkable": share(0.98, 0.9, 1.0)}, {}, "grpo"),
        ({"kind": "prompt"}, {"rewards": ("length",)}, "grpo"),
        ({"kind": "prompt"}, {}, None),
        ({"records": 5000}, {"objectives": 2}, "ppo"),
        ({"kind": "label", "desirable": share(1.0, 0.99, 1.0)}, {}, None),
        ({"kind": "label", "desirable": share(0.0, 0.0, 0.01)}, {}, None),
        ({"records": 1000}, {"explores": True}, "dpo"),
        ({"longer_wins": share(0.7, 0.65, 0.75)}, {"least_resources": True}, "simpo"),
        ({"records": 20}, {}, None),
    ],
)
def test_the_method_follows_from_the_facts(facts: dict, wishes: dict, method: str | None) -> None:
    assert decided(data(**facts), **wishes) == method


def test_noise_sets_the_robust_loss_with_the_estimated_share() -> None:
    from preftune.advise.rules import settings_of

    facts = known_facts(data(noise=share(0.2, 0.1, 0.3)), None, Wishes())
    assert settings_of(holding(facts), "dpo", facts) == {"loss_type": ["robust"], "label_smoothing": 0.2}
    facts = known_facts(data(noise=share(0.04, 0.0, 0.1)), None, Wishes())
    assert settings_of(holding(facts), "dpo", facts) == {}


def test_kto_weighs_the_rarer_kind_up() -> None:
    from preftune.advise.rules import settings_of

    facts = known_facts(data(kind="label", desirable=share(0.8, 0.7, 0.9)), None, Wishes())
    assert settings_of(holding(facts), "kto", facts) == {"undesirable_weight": 4.0}


def test_the_group_size_is_the_smallest_that_leaves_a_quarter_dead() -> None:
    half = success_of([4] * 20, 8)
    rare = success_of([0] * 18 + [1] * 2, 8)
    assert half.facts()["group"] == 4 and rare.facts()["group"] == 16
    facts = known_facts(data(kind="prompt", checkable=share(1.0, 0.9, 1.0)), None, Wishes(), half)
    (size,) = [one for one in holding(facts) if one.rule.id == "group-size"]
    assert "50%" in size.why


def risks(facts_of: DataFacts, **wishes: object) -> set[str]:
    return {one.rule.id for one in holding(known_facts(facts_of, None, Wishes(**wishes))) if one.rule.warn}


def test_noise_is_never_passed_over_in_silence() -> None:
    assert "noisy-labels" in risks(data(noise=share(0.2, 0.1, 0.3)))
    assert "noise-possible" in risks(data(noise=share(0.11, 0.01, 0.21)))
    assert "noise-unknown" in risks(data())
    assert not {"noisy-labels", "noise-possible", "noise-unknown"} & risks(data(noise=share(0.01, 0.0, 0.03)))


def test_rows_without_use_are_told() -> None:
    assert {"ties", "unusable-rows"} <= risks(data(undecided=0.9, rejected={"missing-field": 600}))
    assert not {"ties", "unusable-rows"} & risks(data(undecided=0.1, rejected={"missing-field": 6}))


def test_labels_that_nothing_predicts_are_told() -> None:
    assert "labels-like-coins" in risks(data(evidence=share(0.51, 0.47, 0.55)))
    assert "labels-like-coins" not in risks(data(evidence=share(0.6, 0.55, 0.65)))


def test_evaluation_data_count_as_held_out() -> None:
    assert "wide-interval" in risks(data(records=50_000, held_out=40), eval_data="eval.jsonl")
    assert "wide-interval" not in risks(data(records=50_000, held_out=4_000), eval_data="eval.jsonl")


def test_a_reward_model_of_noisy_pairs_is_smoothed_at_every_share() -> None:
    from preftune.advise.rules import settings_of

    for value in (0.2, 0.35):
        facts = known_facts(data(noise=share(value, value - 0.1, value + 0.1), records=5000), None, Wishes())
        assert settings_of(holding(facts), "reward", facts) == {"label_smoothing": value}
        assert settings_of(holding(facts), "ppo", facts, before=True) == {"label_smoothing": value}


def test_a_base_model_may_explore_after_sft() -> None:
    facts = known_facts(data(records=5000), None, Wishes(explores=True)) | {"taught": False}
    assert "rlhf" in {one.rule.id for one in holding(facts)}


def test_a_rule_of_its_own_can_be_held_against_facts() -> None:
    rule = Rule("own", ("paired", "records > 10"), "here", warn="{records} pairs")
    assert [one.warn for one in holding(known_facts(data(), None, Wishes()), [rule])] == ["1000 pairs"]
