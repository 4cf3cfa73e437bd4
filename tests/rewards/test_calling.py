"""Rewards of a batch: failures named, never a zero; time-outs; what a function is called with."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from preftune.errors import PreftuneError
from preftune.rewards.calling import Asked, Failure, Rewards, RewardTable, function_member, one_by_one_member

TEXTS = ["one", "three", "five", "seven"]


def asked(texts: list[str] = TEXTS, **columns: list[Any]) -> Asked:
    ids = [f"row-{number}" for number in range(len(texts))]
    prompts: list[Any] = [f"say {text}" for text in texts]
    return Asked(ids, prompts, list(texts), [[1] * len(text) for text in texts], columns)


def ask(function: Any, given: Asked | None = None, timeout: float | None = 30.0) -> RewardTable:
    rewards = Rewards((function_member("f", function, timeout=timeout),), (1.0,))
    return rewards.score(given if given is not None else asked())


BOTH_WAYS = pytest.mark.parametrize("timeout", [None, 30.0], ids=["here", "in a thread"])


# --- what a function is given and gives ------------------------------------------------------------------


@BOTH_WAYS
def test_a_function_is_called_with_what_it_takes(timeout: float | None) -> None:
    given = asked(answer=[1, 2, 3, 4], source=list("abcd"))

    def all_of_it(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        assert (prompts[0], completions[0], completion_ids[0]) == ("say one", "one", [1, 1, 1])
        assert columns == {"answer": [1, 2, 3, 4], "source": list("abcd")}
        return [1.0] * len(prompts)

    def by_name(answer: Any, *, completions: Any, absent: Any = None) -> list[float]:
        assert absent is None
        return [float(number) for number in answer]

    class Judge:
        def __call__(self, completions: Any) -> list[float]:
            return [float(len(text)) for text in completions]

    assert ask(all_of_it, given, timeout).values[:, 0].tolist() == [1, 1, 1, 1]
    assert ask(by_name, given, timeout).values[:, 0].tolist() == [1, 2, 3, 4]
    assert ask(Judge(), given, timeout).values[:, 0].tolist() == [3, 5, 4, 5]
    assert ask(lambda completions: [0] * 4, given, timeout).values[:, 0].tolist() == [0, 0, 0, 0]


def test_arguments_already_set_are_not_taken_from_the_data() -> None:
    def scaled(answer: list[float], scale: float) -> list[float]:
        return [scale * number for number in answer]

    found = ask(partial(scaled, scale=10.0), asked(answer=[1, 2, 3, 4], scale=[7, 7, 7, 7]))
    assert found.values[:, 0].tolist() == [10, 20, 30, 40]


def test_a_column_that_the_data_lacks_is_named() -> None:
    def needs(completions: Any, solution: Any) -> list[float]:
        return [0.0]

    with pytest.raises(PreftuneError, match=r"f takes `solution`.*`answer`, `completion_ids`"):
        ask(needs, asked(answer=[1, 2, 3, 4]))


def test_arguments_by_position_only_are_refused() -> None:
    def positional(completions: Any, /) -> list[float]:
        return [0.0]

    with pytest.raises(PreftuneError, match="by position only"):
        function_member("f", positional, timeout=1)


def test_what_a_function_does_to_its_lists_reaches_nobody_else() -> None:
    def spoils(completions: list[str], answer: list[int]) -> list[float]:
        answer.clear()
        completions.clear()
        return [1.0] * 4

    given = asked(answer=[1, 2, 3, 4])
    ask(spoils, given)
    assert given == asked(answer=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("result", "values"),
    [
        ([1, 0.5, True, None], [1, 0.5, 1, math.nan]),
        ((1, 2, 3, 4), [1, 2, 3, 4]),
        (np.array([1, 2, 3, 4], dtype=np.float32), [1, 2, 3, 4]),
        (torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.bfloat16), [1, 2, 3, 4]),
        ([torch.tensor(1.0), np.float64(2), Fraction(1, 2), np.bool_(True)], [1, 2, 0.5, 1]),
    ],
)
def test_numbers_come_in_many_kinds(result: Any, values: list[float]) -> None:
    found = ask(lambda completions: result)
    assert np.array_equal(found.values[:, 0], values, equal_nan=True)
    assert not found.failed.any() and not found.failures


@pytest.mark.parametrize(
    "result",
    [
        [1.0],
        [1.0] * 5,
        [],
        None,
        1.0,
        "1234",
        {"a": 1},
        [1, 2, 3, "4"],
        [1, 2, 3, [4]],
        [1, 2, 3, 4j],
        [Decimal(1)] * 4,
        np.zeros((4, 2)),
        [torch.zeros(2)] * 4,
    ],
    ids=repr,
)
@BOTH_WAYS
def test_what_is_no_list_of_rewards_is_refused_by_name(result: Any, timeout: float | None) -> None:
    with pytest.raises(PreftuneError, match=r"The reward f gave .*list of 4 numbers"):
        ask(lambda completions: result, timeout=timeout)


# --- failures -------------------------------------------------------------------------------------------


@BOTH_WAYS
def test_a_function_that_raises_costs_only_the_sample_it_raises_on(timeout: float | None) -> None:
    def picky(completions: list[str]) -> list[float]:
        if "five" in completions:
            raise ValueError("no fives\nplease")
        return [float(len(text)) for text in completions]

    found = ask(picky, timeout=timeout)
    assert np.array_equal(found.values[:, 0], [3, 5, math.nan, 5], equal_nan=True)
    assert found.failed[:, 0].tolist() == [False, False, True, False]
    assert found.failures == (Failure("row-2", "f", "ValueError: no fives please"),)


def test_an_async_function_that_raises_costs_only_its_sample() -> None:
    async def picky(completions: list[str]) -> list[float]:
        await asyncio.sleep(0)
        if "five" in completions:
            raise KeyError("five")
        return [1.0] * len(completions)

    for timeout in (None, 30.0):
        found = ask(picky, timeout=timeout)
        assert found.failures == (Failure("row-2", "f", "KeyError: 'five'"),)
        assert np.nansum(found.values) == 3


def test_a_number_that_is_none_is_a_failure_of_its_sample() -> None:
    found = ask(lambda completions: [1.0, math.nan, -math.inf, 10**400])
    assert found.failed[:, 0].tolist() == [False, True, True, True]
    assert [failure.reason for failure in found.failures] == [
        "the reward is nan",
        "the reward is -inf",
        "the reward is too large a number",
    ]


def test_what_does_not_apply_did_not_fail() -> None:
    found = ask(lambda completions: [None, None, None, None])
    assert np.isnan(found.values).all() and not found.failed.any() and not found.failures


@BOTH_WAYS
def test_a_reward_that_fails_on_every_sample_ends_the_run_with_its_first_reason(timeout: float | None) -> None:
    def broken(completions: list[str]) -> list[float]:
        raise RuntimeError(f"cannot open the dictionary for {completions[0]}")

    with pytest.raises(PreftuneError, match=r"f failed on all 4 .*row-0: RuntimeError: cannot open .* for one"):
        ask(broken, timeout=timeout)


def test_a_function_that_ends_the_process_is_a_failure() -> None:
    def leaves(completions: list[str]) -> list[float]:
        if "five" in completions:
            sys.exit("bye")
        return [1.0] * len(completions)

    assert ask(leaves).failures == (Failure("row-2", "f", "SystemExit: bye"),)


def test_a_mistake_of_the_settings_ends_the_run() -> None:
    def complains(completions: list[str]) -> list[float]:
        raise PreftuneError("set me up first")

    for timeout in (None, 30.0):
        with pytest.raises(PreftuneError, match="set me up first"):
            ask(complains, timeout=timeout)


# --- time ---------------------------------------------------------------------------------------------


def test_a_function_that_hangs_on_one_sample_costs_only_that() -> None:
    release = threading.Event()

    def hangs(completions: list[str]) -> list[float]:
        if "three" in completions:
            release.wait(60)
        return [1.0] * len(completions)

    found = ask(hangs, timeout=0.5)
    release.set()
    assert found.failures == (Failure("row-1", "f", "no reward within the time-out of 0.5 s"),)
    assert np.nansum(found.values) == 3


def test_a_function_that_hangs_on_all_is_not_waited_for_on_each() -> None:
    release = threading.Event()
    calls: list[int] = []

    def hangs(completions: list[str]) -> list[float]:
        calls.append(len(completions))
        release.wait(60)
        return [1.0] * len(completions)

    with pytest.raises(PreftuneError, match=r"failed on all 20 .*no reward within the time-out of 0\.1 s"):
        ask(hangs, asked(["x"] * 20), timeout=0.1)
    release.set()
    assert calls == [20, 1, 1, 1]


def test_an_async_function_that_is_late_is_cancelled() -> None:
    cancelled = threading.Event()

    async def hangs(completions: list[str]) -> list[float]:
        try:
            await asyncio.sleep(60 if "three" in completions else 0)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return [1.0] * len(completions)

    found = ask(hangs, timeout=0.5)
    assert [failure.sample for failure in found.failures] == ["row-1"]
    assert cancelled.wait(10)


def test_slow_rewards_run_at_the_same_time() -> None:
    """Each waits for the other: one after the other they would never end."""
    meeting = threading.Barrier(3, timeout=60)

    def meets(completions: list[str]) -> list[float]:
        meeting.wait()
        return [1.0] * len(completions)

    async def meets_async(completions: list[str]) -> list[float]:
        await asyncio.get_running_loop().run_in_executor(None, meeting.wait)
        return [2.0] * len(completions)

    members = (
        function_member("a", meets, timeout=50),
        function_member("b", meets_async, timeout=50),
        function_member("c", meets, timeout=50),
    )
    found = Rewards(members, (1.0, 1.0, 1.0)).score(asked())
    assert found.names == ("a", "b", "c")
    assert found.values.tolist() == [[1, 2, 1]] * 4


def test_async_calls_share_one_event_loop() -> None:
    loops: list[Any] = []

    async def remembers(completions: list[str]) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [1.0] * len(completions)

    for timeout in (None, 30.0):
        ask(remembers, timeout=timeout)
    assert loops[0] is loops[1]


def test_a_judge_is_asked_for_several_samples_at_once_and_its_failures_are_named() -> None:
    meeting = threading.Barrier(4, timeout=60)

    def judge(one: Asked) -> float | None:
        assert len(one.ids) == 1 and one.columns["answer"] == [one.ids[0]]
        meeting.wait()
        if one.ids == ["row-2"]:
            raise ValueError("cannot judge")
        return None if one.ids == ["row-3"] else float(len(one.completions[0]))

    given = asked(answer=[f"row-{number}" for number in range(4)])
    found = Rewards((one_by_one_member("j", judge, workers=4, timeout=50),), (1.0,)).score(given)
    assert np.array_equal(found.values[:, 0], [3, 5, math.nan, math.nan], equal_nan=True)
    assert found.failures == (Failure("row-2", "j", "ValueError: cannot judge"),)


def test_a_judge_never_has_more_calls_than_workers() -> None:
    lock, running, most = threading.Lock(), [0], [0]
    pause = threading.Event()

    def judge(one: Asked) -> float:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        pause.wait(0.01)
        with lock:
            running[0] -= 1
        return 1.0

    Rewards((one_by_one_member("j", judge, workers=3, timeout=50),), (1.0,)).score(asked(["x"] * 12))
    assert 1 <= most[0] <= 3


def test_a_stuck_function_does_not_hold_up_the_end_of_the_process() -> None:
    code = """
import threading
from preftune.rewards.calling import Asked, Rewards, function_member
def hangs(completions):
    if "b" in completions:
        threading.Event().wait(1000)
    return [1.0] * len(completions)
rewards = Rewards((function_member("f", hangs, timeout=0.5),), (1.0,))
print(rewards.score(Asked(["1", "2"], ["p", "p"], ["a", "b"], [[1], [1]], {})).failures[0].sample)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "2", "")


# --- tables -------------------------------------------------------------------------------------------


def test_failures_come_in_the_order_of_rewards_and_samples() -> None:
    members = (
        function_member("a", lambda completions: [math.nan, 1, 1, math.nan], timeout=None),
        function_member("b", lambda completions: [1, math.nan, 1, 1], timeout=30),
    )
    found = Rewards(members, (1.0, 1.0)).score(asked())
    assert [(failure.reward, failure.sample) for failure in found.failures] == [
        ("a", "row-0"),
        ("a", "row-3"),
        ("b", "row-1"),
    ]


def test_no_samples_are_no_error() -> None:
    found = ask(lambda completions: 1 / 0, asked([]))
    assert found.values.shape == found.failed.shape == (0, 1)


def test_columns_of_another_length_are_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="4 samples are asked for with 3 answer"):
        ask(lambda completions: [0] * 4, asked(answer=[1, 2, 3]))
