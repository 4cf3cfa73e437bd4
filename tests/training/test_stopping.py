"""A first signal is a request; a second one acts as it always does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from preftune.training.stopping import StopRequest


def test_first_signal_is_noted_and_the_second_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert (stop.requested, stop.name) == (True, "SIGINT")
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal went unheard")


def test_handlers_are_put_back_whether_or_not_a_signal_came() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    with StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_other_threads_may_train_without_handlers() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
