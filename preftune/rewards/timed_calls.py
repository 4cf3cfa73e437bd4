"""Calls at the same time, each with a time-out, in threads that never hold up the end of the process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from enum import Enum
from functools import cache
from threading import Thread
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
Start: TypeAlias = Callable[[], Future[T]]


class Unfinished(Enum):
    """Why a call has no outcome."""

    LATE = "it took longer than its time-out"
    NOT_STARTED = "too many before it did"


def ended_calls(
    starts: Sequence[Start[T]], *, workers: int, timeout: float | None, patience: int | None = None
) -> list[Future[T] | Unfinished]:
    """Each call's finished future, in the order given, or that it took longer than ``timeout`` seconds.

    At most ``workers`` run at a time, and a call's time counts from its own start. A late one is left to itself: a
    thread cannot be ended from outside. After ``patience`` late ones the rest are not started.
    """
    outcomes: list[Future[T] | Unfinished] = [Unfinished.NOT_STARTED] * len(starts)
    waiting = deque(enumerate(starts))
    running: dict[Future[T], tuple[int, float]] = {}
    late = 0
    while running or (waiting and (patience is None or late < patience)):
        while waiting and len(running) < workers and (patience is None or late < patience):
            number, start = waiting.popleft()
            running[start()] = number, time.monotonic() + (timeout or float("inf"))
        wait(running, _remaining(running), FIRST_COMPLETED)
        now = time.monotonic()
        for future, (number, deadline) in list(running.items()):
            if future.done():
                outcomes[number] = future
            elif now >= deadline:
                future.cancel()
                outcomes[number] = Unfinished.LATE
                late += 1
            else:
                continue
            del running[future]
    return outcomes


def in_thread(call: Callable[[], T]) -> Future[T]:
    """The call under way in a daemon thread; those of ``concurrent.futures`` would hold up the exit."""
    future: Future[T] = Future()

    def work() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(call())
        except BaseException as error:  # SystemExit of a caller's function is its failure, not the end of the run
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def in_event_loop(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """The coroutine under way in the one event loop of the process; cancelling the future cancels it.

    One loop for all calls, since clients (HTTP sessions) that a function keeps belong to the loop they began in.
    """
    return asyncio.run_coroutine_threadsafe(coroutine, _event_loop())


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _remaining(running: dict[Future[Any], tuple[int, float]]) -> float | None:
    first = min(deadline for _, deadline in running.values())
    return None if first == float("inf") else max(0.0, first - time.monotonic())
