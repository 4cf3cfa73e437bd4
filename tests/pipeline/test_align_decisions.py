"""The turns of the whole way, as functions of figures; and the record that remembers them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preftune.errors import PreftuneError
from preftune.pipeline.align_candidates import Candidate
from preftune.pipeline.align_decisions import decide_judge, decide_pays, decide_plateau, decide_try
from preftune.pipeline.align_means import Means, decide_means
from preftune.pipeline.align_options import AlignOptions
from preftune.pipeline.align_record import Decided, open_story

OPTIONS = AlignOptions("model", "data", Path("out"))
PROMPTS = [bytes([i % 256, i // 256]) for i in range(600)]


def candidate(name: str, rate: float, reward: float, seed: int, n: int = 600) -> Candidate:
    draw = np.random.default_rng(seed)
    right = (draw.random(n) < rate).astype(float)
    return Candidate(name, PROMPTS[:n], right, draw.normal(reward, 1.0, 100), 20.0)


def test_a_judge_must_surely_beat_a_coin() -> None:
    sure = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90}
    assert decide_judge(sure).choice == "judge"
    assert decide_judge(sure | {"low": 0.5}).choice == "none"
    assert decide_judge({}).choice == "none"


def test_the_surely_better_candidate_goes_on_and_else_the_first_stays() -> None:
    early = candidate("early", 0.6, 0.0, 0)
    better = decide_plateau("early", [early, candidate("a", 0.6, 0.0, 1), candidate("b", 0.8, 0.0, 2)], "a", OPTIONS)
    assert (better.choice, better.figures["verdict"]) == ("b", "rising")
    same = decide_plateau("early", [early, candidate("a", 0.6, 0.0, 3)], "a", OPTIONS)
    assert (same.choice, same.figures["verdict"]) == ("a", "cannot tell")
    worse = decide_plateau("early", [early, candidate("a", 0.3, 0.0, 4)], "a", OPTIONS)
    assert (worse.choice, worse.figures["verdict"]) == ("early", "falling")


def test_the_judge_s_reward_alone_can_show_that_more_helps() -> None:
    found = [candidate("early", 0.6, 0.0, 0), candidate("a", 0.6, 2.0, 1)]
    decided = decide_plateau("early", found, "early", OPTIONS)
    assert decided.choice == "a" and decided.figures["reward"]["verdict"] == "rising"


def test_what_the_judge_alone_likes_does_not_go_on_against_people_s_pairs() -> None:
    found = [candidate("early", 0.9, 0.0, 0), candidate("a", 0.5, 2.0, 1)]
    decided = decide_plateau("early", found, "a", OPTIONS)
    assert (decided.choice, decided.figures["verdict"]) == ("early", "falling")


def test_two_tests_share_the_chance_of_error() -> None:
    rising = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        found = [
            Candidate(name, PROMPTS[:80], (draw.random(80) < 0.6).astype(float), draw.normal(0.0, 1.0, 80), 20.0)
            for name in ("early", "a", "b")
        ]
        rising += decide_plateau("early", found, "a", OPTIONS).figures["verdict"] == "rising"
    assert rising / 400 < 0.045  # 0.025 expected; each at the full level would have 0.05, seen as 0.055 here


def test_rlhf_is_tried_only_where_dpo_has_nothing_more_to_give() -> None:
    assert decide_try("auto", True, "plateau", 1.0, None).choice == "yes"
    assert decide_try("auto", True, "cannot tell", 1.0, None).choice == "yes"
    assert decide_try("auto", True, "rising", 1.0, None).choice == "no"
    assert decide_try("ppo", True, "rising", 1.0, None).choice == "yes"
    assert decide_try("ppo", False, "plateau", 1.0, None).choice == "no"
    assert decide_try("auto", True, "plateau", 10.0, 10.0).choice == "no"


def test_the_first_method_that_fits_into_memory_and_time_is_taken() -> None:
    sure = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90}
    takes = {"ppo": (900.0, 5.0), "online-dpo": (500.0, 2.0)}
    both = ("ppo", "online-dpo")
    assert decide_means(sure, both, Means(1000.0, None), takes.__getitem__).choice == "ppo"
    assert decide_means(sure, both, Means(600.0, None), takes.__getitem__).choice == "online-dpo"
    neither = decide_means(sure, both, Means(1000.0, 1.0), takes.__getitem__)
    assert neither.choice == "no" and "5 minutes of 1 left" in neither.why
    assert decide_means(sure | {"low": 0.49}, both, Means(1000.0, None), takes.__getitem__).choice == "no"


def test_an_online_method_is_kept_only_where_the_judge_is_sure_and_people_do_not_disagree() -> None:
    was = candidate("dpo", 0.7, 0.0, 0)
    assert decide_pays(was, candidate("ppo", 0.72, 2.0, 1)).choice == "yes"
    assert decide_pays(was, candidate("ppo", 0.72, 0.0, 2)).choice == "no"
    hacked = decide_pays(was, candidate("ppo", 0.4, 2.0, 3))
    assert hacked.choice == "no" and "hacked" in hacked.why


def test_a_decision_is_made_once_and_again_where_it_rests_on_something_else(tmp_path: Path) -> None:
    made = []

    def make() -> Decided:
        made.append(1)
        return Decided("yes", "because", {"n": 1})

    for budget, expected in ((1, 1), (1, 1), (2, 2)):
        story = open_story(tmp_path, {"model": "m", "online": "auto"})
        story.decide("worth", "Is it?", {"budget": budget}, make)
        assert len(made) == expected
    record = json.loads((tmp_path / "align.json").read_text())
    assert [one["choice"] for one in record["decisions"]] == ["yes"]


def test_turns_that_are_not_taken_any_more_are_forgotten_at_the_end(tmp_path: Path) -> None:
    first = open_story(tmp_path, {"online": "auto"})
    for name in ("plateau", "pays"):
        first.decide(name, name, {}, lambda: Decided("yes", "", {}))
    first.finish()
    second = open_story(tmp_path, {"online": "never"})
    second.decide("plateau", "plateau", {}, lambda: pytest.fail("it is known"))
    second.write()
    assert set(open_story(tmp_path, {"online": "never"}).decisions) == {"plateau", "pays"}
    second.finish()
    assert set(open_story(tmp_path, {"online": "never"}).decisions) == {"plateau"}


def test_another_model_is_another_way_and_another_online_method_is_not(tmp_path: Path) -> None:
    open_story(tmp_path, {"model": "m", "online": "auto"}).write()
    assert open_story(tmp_path, {"model": "m", "online": "never"}).options["online"] == "never"
    with pytest.raises(PreftuneError, match="model was 'm', is 'other'"):
        open_story(tmp_path, {"model": "other", "online": "auto"})


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "align.json").write_text('{"decisions": [')
    with pytest.raises(PreftuneError, match="cannot be read"):
        open_story(tmp_path, {})
