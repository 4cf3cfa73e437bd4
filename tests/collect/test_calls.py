"""Many calls at once: order, limits, tries, costs, and an end where there is no hope."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from preftune.collect.calls import NOT_ASKED, Answer, Budget, CallFault, Limits, Reply, Request, run_calls
from preftune.collect.journal import open_journal
from preftune.collect.prices import Price
from preftune.errors import PreftuneError

pytest.importorskip("tenacity")

QUICK = Limits(concurrency=4, retries=3, first_pause=0.001, longest_pause=0.01)


def requests_of(n: int) -> list[Request[int]]:
    return [Request(f"key-{number}", number, 100, 10) for number in range(n)]


async def squared(request: Request[int]) -> Reply:
    await asyncio.sleep(0.001 * (request.body % 3))
    return Reply(str(request.body**2))


def test_answers_keep_the_order_of_the_requests() -> None:
    told: list[Answer] = []
    answers = run_calls(requests_of(50), squared, QUICK, progress=told.append)
    assert [answer.reply.text for answer in answers if answer.reply] == [str(n**2) for n in range(50)]
    assert len(told) == 50 and {answer.tries for answer in answers} == {1}
    assert run_calls([], squared) == []


def test_requests_with_one_key_are_one_call() -> None:
    made: list[int] = []

    async def call(request: Request[int]) -> Reply:
        made.append(request.body)
        return Reply("x")

    answers = run_calls([Request("same", 1), Request("other", 2), Request("same", 3)], call, QUICK)
    assert len(made) == 2 and len(answers) == 3 and answers[0] == answers[2]


def test_the_allowed_concurrency_is_used_and_never_passed() -> None:
    under_way = most = 0
    busy = 0.0

    async def call(request: Request[int]) -> Reply:
        nonlocal under_way, most, busy
        under_way += 1
        most = max(most, under_way)
        began = time.perf_counter()
        await asyncio.sleep(0.05)
        busy += time.perf_counter() - began
        under_way -= 1
        return Reply("x")

    began = time.perf_counter()
    run_calls(requests_of(160), call, Limits(concurrency=8))
    assert most == 8
    assert busy / (8 * (time.perf_counter() - began)) > 0.5  # 0.95 and more on a quiet machine; benchmarks/data.py


def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_not() -> None:
    tries: dict[int, int] = {}

    async def call(request: Request[int]) -> Reply:
        tries[request.body] = tries.get(request.body, 0) + 1
        if request.body % 3 == 1 and tries[request.body] < 3:
            raise CallFault("busy")
        if request.body % 3 == 2:
            raise CallFault("too long", lasting=True)
        return Reply("x")

    answers = run_calls(requests_of(12), call, QUICK)
    assert [answer.tries for answer in answers[:3]] == [1, 3, 1]
    assert [answer.failure for answer in answers[:3]] == [None, None, "too long"]
    assert tries[1] == 3 and tries[2] == 1


def test_tries_come_to_an_end() -> None:
    async def call(request: Request[int]) -> Reply:
        if request.body:
            raise CallFault("busy")
        return Reply("x")

    answers = run_calls(requests_of(3), call, QUICK)
    assert [(answer.failure, answer.tries) for answer in answers] == [(None, 1), ("busy", 4), ("busy", 4)]


def test_what_the_server_asks_to_wait_is_waited() -> None:
    times: list[float] = []

    async def call(request: Request[int]) -> Reply:
        times.append(time.monotonic())
        if len(times) == 1:
            raise CallFault("429", retry_after=0.3)
        return Reply("x")

    run_calls(requests_of(1), call, QUICK)
    assert times[1] - times[0] >= 0.3


def test_a_wait_that_is_too_long_ends_the_job() -> None:
    async def call(request: Request[int]) -> Reply:
        raise CallFault("429 quota", retry_after=3600)

    with pytest.raises(PreftuneError, match=r"asks to wait 3,600 s \(429 quota\)"):
        run_calls(requests_of(5), call, QUICK)


def test_a_call_that_hangs_is_given_up_and_tried_again() -> None:
    tries = 0

    async def call(request: Request[int]) -> Reply:
        nonlocal tries
        tries += 1
        await asyncio.sleep(60 if tries == 1 else 0)
        return Reply("x")

    (answer,) = run_calls(requests_of(1), call, Limits(timeout=0.1, first_pause=0.001))
    assert answer.reply == Reply("x") and answer.tries == 2


def test_the_job_ends_early_where_nothing_succeeds() -> None:
    made = 0

    async def call(request: Request[int]) -> Reply:
        nonlocal made
        made += 1
        raise CallFault("no such shape", lasting=True)

    with pytest.raises(PreftuneError, match=r"10 calls in a row failed, and none succeeded before: no such shape"):
        run_calls(requests_of(5000), call, QUICK)
    assert made < 30
    with pytest.raises(PreftuneError, match=r"The only call failed: no such shape"):
        run_calls(requests_of(1), call, QUICK)


def test_the_job_ends_where_the_endpoint_goes_down(tmp_path: Path) -> None:
    async def call(request: Request[int]) -> Reply:
        if request.body >= 20:
            raise CallFault("refused", lasting=True)
        return Reply("x")

    limits = Limits(concurrency=4, failures_in_a_row=15)
    with (
        open_journal(tmp_path / "j") as journal,
        pytest.raises(PreftuneError, match=r"15 calls in a row failed: refused.*is kept"),
    ):
        run_calls(requests_of(5000), call, limits, journal)
    with open_journal(tmp_path / "j") as journal:
        assert len(journal) == 20


def test_an_error_of_all_calls_ends_the_job_at_once() -> None:
    made = 0

    async def call(request: Request[int]) -> Reply:
        nonlocal made
        made += 1
        await asyncio.sleep(0.001)
        raise PreftuneError("The endpoint does not accept the key.")

    with pytest.raises(PreftuneError, match="does not accept"):
        run_calls(requests_of(5000), call, QUICK)
    assert made <= 8


def test_a_mistake_in_the_call_is_not_taken_for_a_fault() -> None:
    async def call(request: Request[int]) -> Reply:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        run_calls(requests_of(5), call, QUICK)


def test_what_the_journal_has_is_not_asked_again(tmp_path: Path) -> None:
    made: list[int] = []

    async def call(request: Request[int]) -> Reply:
        made.append(request.body)
        if request.body == 3 and len(made) < 6:
            raise CallFault("not now", lasting=True)
        return Reply(f"{request.body}", "stop", False, 7, 3, {"A": -0.5})

    price = Price(1.0, 10.0)
    with open_journal(tmp_path / "j") as journal:
        first = run_calls(requests_of(5), call, QUICK, journal, price=price)
    with open_journal(tmp_path / "j") as journal:
        again = run_calls(requests_of(5), call, QUICK, journal, price=price)
    assert sorted(made) == [0, 1, 2, 3, 3, 4]
    assert [answer.kept for answer in again] == [True, True, True, False, True]
    assert first[0].reply == again[0].reply and again[0].cost == first[0].cost == pytest.approx(37e-6)


def test_the_cap_on_costs_holds_with_calls_under_way() -> None:
    async def call(request: Request[int]) -> Reply:
        await asyncio.sleep(0.001)
        return Reply("x", input_tokens=100, output_tokens=10)

    budget = Budget(limit=0.0105)
    answers = run_calls(requests_of(50), call, QUICK, budget=budget, price=Price(1.0, 90.0))  # 0.001 each
    asked = [answer for answer in answers if answer.reply]
    assert len(asked) == 10 and budget.spent == pytest.approx(0.01) and budget.set_aside == pytest.approx(0)
    assert {answer.failure for answer in answers if not answer.reply} == {NOT_ASKED}


def test_tokens_that_are_not_told_cost_the_estimate() -> None:
    (answer,) = run_calls(requests_of(1), squared, QUICK, price=Price(1.0, 10.0))
    assert answer.cost == pytest.approx(200e-6)
    (answer,) = run_calls(requests_of(1), squared, QUICK)
    assert answer.cost is None


def test_requests_a_minute_are_kept_to() -> None:
    pytest.importorskip("aiolimiter")
    began = time.monotonic()
    run_calls(requests_of(7), squared, Limits(requests_per_minute=60 * 20))  # 20 a second, no burst of a minute's
    assert time.monotonic() - began < 5
    began = time.monotonic()
    run_calls(requests_of(4), squared, Limits(requests_per_minute=60 * 5))
    assert time.monotonic() - began >= 0  # within the first second's five
    began = time.monotonic()
    run_calls(requests_of(8), squared, Limits(requests_per_minute=60 * 5))
    assert time.monotonic() - began >= 0.55
    began = time.monotonic()
    run_calls(requests_of(4), squared, Limits(tokens_per_minute=60 * 220))  # 110 tokens each, 2,200 at once
    assert time.monotonic() - began < 5


def test_it_runs_where_a_loop_runs_already() -> None:
    async def notebook() -> list[Answer]:
        return run_calls(requests_of(3), squared, QUICK)

    assert len(asyncio.run(notebook())) == 3


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(PreftuneError, match="concurrency is 0"):
        Limits(concurrency=0)
    with pytest.raises(PreftuneError, match="requests_per_minute is -1"):
        Limits(requests_per_minute=-1)
