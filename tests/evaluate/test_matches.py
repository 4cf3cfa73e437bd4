"""Answers compared by judges and by rewards: points, ties, what has no verdict, and nothing paid twice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preftune.collect.judge import How, Judge
from preftune.data.records import Message, PromptRecord
from preftune.evaluate.matches import (
    Contest,
    Verdicts,
    contest_of,
    judge_by_models,
    judge_by_scores,
    paired_scores,
    result_of,
    scores_of,
)
from tests.collect.judge_server import KEY, JudgeServer, running


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    pytest.importorskip("openai")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(JudgeServer()) as one:
        yield one


def answers(*texts: tuple[str, ...]) -> Any:
    return SimpleNamespace(texts=texts)


def judged(server: JudgeServer, contests: list[Contest], prompts: list[Any], journal: Path | None = None) -> Any:
    judges = [Judge("m", "openai", server.url)]
    return judge_by_models(contests, prompts, judges, How(), journal=journal, progress=None, note=lambda text: None)


def test_answers_meet_in_order_where_both_have_some() -> None:
    found = contest_of("x", answers(("a", "b"), (), ("c",)), answers(("d", "e"), ("f",), ("g", "h")))
    assert found.texts == (("a", "d"), ("b", "e"), ("c", "g"))
    assert found.prompts == (0, 0, 2)
    assert found.lengths().tolist() == [[1, 1]] * 3


def test_judges_are_asked_in_both_orders_and_once_only(server: JudgeServer, tmp_path: Path) -> None:
    prompts = [PromptRecord(prompt=f"fine question {n}") for n in range(4)]
    contest = Contest("x", (0, 1, 2, 3), (("is 3", "is 1"), ("is 1", "is 2"), ("is 5", "is  5"), ("", "is 1")))
    journal = tmp_path / "journal"
    (first,), document = judged(server, [contest], prompts, journal)
    assert first.points.tolist() == [1.0, 0.0, 0.5, 0.0]  # alike: a tie; an empty answer loses unasked
    assert document["calls"]["made"] == 4
    (again,), document = judged(server, [contest], prompts, journal)
    assert (document["calls"]["made"], document["calls"]["kept"]) == (0, 4)
    assert np.array_equal(first.points, again.points)


def test_what_is_no_verdict_is_counted_and_no_win(server: JudgeServer) -> None:
    kinds = ("fine", "says", "refuses", "fine")
    prompts = [PromptRecord(prompt=(Message(role="user", content=f"{kind} q {n}"),)) for n, kind in enumerate(kinds)]
    contests = [
        Contest("one", (0, 1, 2), (("is 3", "is 1"),) * 3),
        Contest("two", (3,), (("is 1", "is 1 "),)),
    ]
    (one, two), _ = judged(server, contests, prompts)
    assert one.points[0] == 1.0 and np.isnan(one.points[1:]).all()
    assert one.missing == {"invalid": 1, "refusal": 1}
    assert two.points.tolist() == [0.5]


def test_a_judge_that_goes_by_the_place_only_gives_ties(server: JudgeServer) -> None:
    server.always = '{"reason": "so", "verdict": "A"}'
    prompts = [PromptRecord(prompt=f"fine question {n}") for n in range(3)]
    (found,), _ = judged(server, [Contest("x", (0, 1, 2), (("is 3", "is 1"),) * 3)], prompts)
    assert found.points.tolist() == [0.5] * 3


def test_the_higher_reward_wins_and_none_is_no_verdict() -> None:
    found = judge_by_scores(np.array([1.0, 2.0, 3.0, math.nan]), np.array([1.0, 3.0, 2.0, 0.0]))
    assert found.points[:3].tolist() == [0.5, 0.0, 1.0] and math.isnan(found.points[3])
    assert found.missing == {"no-reward": 1}
    assert scores_of(np.array([1.0, 2.0, 3.0]), answers(("a",), (), ("b", "c"))) == [[1.0], [], [2.0, 3.0]]
    first, second = paired_scores([[1.0, 2.0], [3.0]], [[4.0], [5.0]])
    assert (first.tolist(), second.tolist()) == ([1.0, 3.0], [4.0, 5.0])


def test_a_result_says_what_it_could_not_tell() -> None:
    contest = Contest("x", tuple(range(30)), (("a", "b"),) * 30)
    found = result_of(contest, Verdicts(np.array([1.0, 0.0] * 15)), "a coin", seed=0)
    assert set(found.measures) == {"win_rate", "ties"}
    assert "differ by the same" in found.not_taken["lc_win_rate"]
    assert found.as_dict()["sentence"].startswith("to tell 55% from 50% you need 783 prompts")
    assert "a coin" in found.measures["win_rate"].explanation


def test_without_one_verdict_there_is_no_win_rate_and_why_is_said() -> None:
    contest = Contest("a against b", (0, 1), (("x", "y"), ("z", "w")))
    found = result_of(contest, Verdicts(np.full(2, np.nan), {"refusal": 2}), "a judge", seed=0)
    assert found.measures == {}
    assert found.not_taken["win_rate"] == "None of 2 comparisons has a verdict: 2 refusal."
