"""The turns of the whole way, as functions of figures; and the record that remembers them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from preftune.errors import PreftuneError
from preftune.pipeline.align_candidates import Candidate
from preftune.pipeline.align_decisions import decide_judge, decide_pays, decide_plateau
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


def test_another_model_is_another_way_and_another_online_method_is_not(tmp_path: Path) -> None:
    open_story(tmp_path, {"model": "m", "online": "auto"}).write()
    assert open_story(tmp_path, {"model": "m", "online": "never"}).options["online"] == "never"
    with pytest.raises(PreftuneError, match="model was 'm', is 'other'"):
        open_story(tmp_path, {"model": "other", "online": "auto"})


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "align.json").write_text('{"decisions": [')
    with pytest.raises(PreftuneError, match="cannot be read"):
        open_story(tmp_path, {})
