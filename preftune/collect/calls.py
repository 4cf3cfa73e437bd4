"""Many calls at once: within limits, tried again where a fault passes, each answer kept as it arrives.

    answers = run_calls(requests, call, Limits(concurrency=32), journal, progress)

``call`` is any coroutine function from a request to a Reply; those of ``chat`` ask endpoints and models. It raises
CallFault for a call that failed and PreftuneError for what every call would meet. An answer that the journal has is
not asked for again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Generic, TypeVar

from preftune.collect.journal import Journal
from preftune.collect.prices import Price
from preftune.errors import PreftuneError

B = TypeVar("B")
T = TypeVar("T")

NOT_ASKED: Final = "not asked: the cost cap was reached"
_FIRST_FAILURES: Final = 10
_INSTALL: Final = 'pip install "preftune[judge]"'


@dataclass(frozen=True)
class Request(Generic[B]):
    """A call to make: ``key`` names it in the journal, ``body`` is for the one who makes it.

    ``input_tokens`` and ``output_tokens`` are estimates, for the limit on tokens and for the cap on costs.
    """

    key: str
    body: B
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back. ``refused`` where the model would not; ``finish`` is the endpoint's word for why it ended.

    ``choices`` are the log-probs (nats) of the tokens that could have stood where the answer begins, where known.
    Token counts are None where the endpoint tells none.
    """

    text: str
    finish: str | None = None
    refused: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    choices: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Answer:
    """The end of a request: a ``reply``, or the ``failure`` that says why there is none.

    ``cost`` is in US dollars, None where the price is not known; ``seconds`` are those of the try that succeeded.
    ``kept`` is True for an answer of an earlier run, which cost nothing now.
    """

    key: str
    reply: Reply | None
    failure: str | None = None
    tries: int = 1
    cost: float | None = None
    seconds: float = 0.0
    kept: bool = False


class CallFault(Exception):
    """A call that failed. A ``lasting`` one is not tried again; ``retry_after`` are seconds the server asks for."""

    def __init__(self, text: str, *, lasting: bool = False, retry_after: float | None = None) -> None:
        super().__init__(text)
        self.text, self.lasting, self.retry_after = text, lasting, retry_after


@dataclass(frozen=True)
class Limits:
    """How hard an endpoint is asked. Times are in seconds; None is no limit.

    A try has ``timeout`` seconds, and a failed one is repeated up to ``retries`` times, after ``first_pause`` that
    doubles up to ``longest_pause``, with jitter, or after what the server asks for up to ``longest_wait``. After
    ``failures_in_a_row`` calls (of the very first, 10) that all came to nothing the job ends.
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float | None = 120.0
    retries: int = 6
    first_pause: float = 0.5
    longest_pause: float = 30.0
    longest_wait: float = 300.0
    failures_in_a_row: int = 50

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise PreftuneError(f"concurrency is {self.concurrency}.", mend="It must be 1 or more.")
        for name in ("requests_per_minute", "tokens_per_minute", "timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PreftuneError(f"{name} is {value}.", mend="It must be above 0.")


@dataclass
class Budget:
    """US dollars of a job: what was spent, and what is set aside for calls under way."""

    limit: float | None = None
    spent: float = 0.0
    set_aside: float = 0.0
    under_way: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    async def reserve(self, cost: float) -> bool:
        """Sets ``cost`` aside; False where the limit would be passed, whatever the calls under way will cost."""
        while self.limit is not None and self.spent + self.set_aside + cost > self.limit:
            if not self.under_way or self.spent + cost > self.limit:
                return False
            self._settled.clear()
            await self._settled.wait()  # it may turn out to be less than was set aside
        self.set_aside += cost
        self.under_way += 1
        return True

    def settle(self, reserved: float, cost: float) -> None:
        """Gives back what was set aside and books what was paid."""
        self.set_aside -= reserved
        self.spent += cost
        self.under_way -= 1
        self._settled.set()


def run_calls(
    requests: Sequence[Request[B]],
    call: Callable[[Request[B]], Awaitable[Reply]],
    limits: Limits | None = None,
    journal: Journal | None = None,
    progress: Callable[[Answer], object] | None = None,
    *,
    budget: Budget | None = None,
    price: Price | None = None,
) -> list[Answer]:
    """An answer to each request, in their order, once all have ended; ``progress`` is told of each as it ends.

    Requests with one key are one call. Raises PreftuneError where every call would fail; what was answered until then
    is in the journal.
    """
    return in_loop(all_answers(requests, call, limits, journal, progress, budget=budget, price=price))


async def all_answers(
    requests: Sequence[Request[B]],
    call: Callable[[Request[B]], Awaitable[Reply]],
    limits: Limits | None = None,
    journal: Journal | None = None,
    progress: Callable[[Answer], object] | None = None,
    *,
    budget: Budget | None = None,
    price: Price | None = None,
) -> list[Answer]:
    """``run_calls`` for those who have an event loop of their own."""
    desk = _Desk(call, limits or Limits(), journal, progress or (lambda _: None), budget or Budget(), price)
    distinct = {request.key: request for request in requests}
    waiting = [request for request in distinct.values() if not desk.take_kept(request.key)]
    most = max((r.input_tokens + r.output_tokens for r in waiting), default=0)
    gates = _gates(desk.limits, most)
    slots = asyncio.Semaphore(desk.limits.concurrency)
    queue = iter(waiting)
    # Twice as many as may be under way: while one waits to try again, another takes its place.
    workers = [_work(queue, desk, gates, slots) for _ in range(min(2 * desk.limits.concurrency, len(waiting)))]
    await together(workers)
    if desk.in_a_row and not desk.has_succeeded:
        raise desk.hopeless()
    return [desk.answers[request.key] for request in requests]


def in_loop(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result; in a thread of its own where this one has a running loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@dataclass
class _Desk:
    """Where calls end: the answers, what they cost, and how many failures there were in a row."""

    call: Callable[[Any], Awaitable[Reply]]
    limits: Limits
    journal: Journal | None
    progress: Callable[[Answer], object]
    budget: Budget
    price: Price | None
    answers: dict[str, Answer] = field(default_factory=dict)
    in_a_row: int = 0
    has_succeeded: bool = False
    end_of_hope: PreftuneError | None = None

    def take_kept(self, key: str) -> bool:
        """Takes the answer of an earlier run, where there is one."""
        kept = None if self.journal is None else self.journal.answer(key)
        answer = None if kept is None else _restored(key, kept)
        if answer is None:
            return False
        self.answers[key] = answer
        self.has_succeeded = True
        self.progress(answer)
        return True

    def end(self, answer: Answer) -> None:
        """Keeps the answer; PreftuneError after too many failures in a row."""
        if self.journal is not None and answer.reply is not None:
            self.journal.keep(answer.key, _stored(answer))
        self.answers[answer.key] = answer
        self.progress(answer)
        if answer.reply is not None:
            self.in_a_row, self.has_succeeded = 0, True
        elif answer.failure != NOT_ASKED:
            self.in_a_row += 1
            if self.in_a_row >= (self.limits.failures_in_a_row if self.has_succeeded else _FIRST_FAILURES):
                self.end_of_hope = self.end_of_hope or self.hopeless()
                raise self.end_of_hope

    def hopeless(self) -> PreftuneError:
        """The error where nothing more is to be hoped for."""
        failures = Counter(one.failure for one in self.answers.values() if one.failure)
        reason = failures.most_common(1)[0][0]
        calls = "The only call" if self.in_a_row == 1 else f"{self.in_a_row} calls in a row"
        none = "" if self.has_succeeded or self.in_a_row == 1 else ", and none succeeded before"
        kept = " What was answered is kept; the same command goes on from there." if self.journal else ""
        return PreftuneError(
            f"{calls} failed{none}: {str(reason).rstrip('.')}.",
            mend=f"Check that the endpoint works and speaks the protocol asked for.{kept}",
        )


async def _work(queue: Iterator[Request[Any]], desk: _Desk, gates: _Gates, slots: asyncio.Semaphore) -> None:
    for request in queue:
        reserved = desk.price.cost(request.input_tokens, request.output_tokens) if desk.price else 0.0
        if not await desk.budget.reserve(reserved):
            desk.end(Answer(request.key, None, NOT_ASKED, 0))
            continue
        answer = Answer(request.key, None, "broken off", 0)
        try:
            answer = await _answered(request, desk, gates, slots)
        finally:
            desk.budget.settle(reserved, answer.cost or 0.0)
        desk.end(answer)


async def _answered(request: Request[Any], desk: _Desk, gates: _Gates, slots: asyncio.Semaphore) -> Answer:
    """The request's answer after as many tries as it takes."""
    tenacity = _tenacity()
    limits = desk.limits
    began, tries = time.monotonic(), 0

    async def attempt() -> Reply:
        nonlocal began, tries
        await gates.passed(request)
        async with slots:
            began, tries = time.monotonic(), tries + 1
            try:
                async with asyncio.timeout(limits.timeout):
                    return await desk.call(request)
            except TimeoutError:
                raise CallFault(f"no answer within {limits.timeout or 0:g} s") from None

    doubling = tenacity.wait_exponential(multiplier=limits.first_pause, max=limits.longest_pause)
    backoff = doubling + tenacity.wait_random(0, limits.first_pause)

    def pause(state: Any) -> float:
        fault = state.outcome.exception()
        asked = fault.retry_after if isinstance(fault, CallFault) else None
        # A little later than asked, each by another while: all at once they would meet the same refusal.
        return backoff(state) if asked is None else asked + limits.first_pause * tenacity.wait_random(0, 0.5)(state)

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(lambda error: _may_pass(error, limits)),
        wait=pause,
        stop=tenacity.stop_after_attempt(limits.retries + 1),
        sleep=asyncio.sleep,
        reraise=True,
    )
    try:
        reply = await retrying(attempt)
    except CallFault as fault:
        return Answer(request.key, None, fault.text, tries, seconds=time.monotonic() - began)
    return Answer(request.key, reply, None, tries, _cost(request, reply, desk.price), time.monotonic() - began)


def _may_pass(error: BaseException, limits: Limits) -> bool:
    if not isinstance(error, CallFault) or error.lasting:
        return False
    if error.retry_after is not None and error.retry_after > limits.longest_wait:
        raise PreftuneError(
            f"The endpoint asks to wait {error.retry_after:,.0f} s ({error.text}).",
            mend="Run the same command again then; what was answered is kept in the journal.",
        )
    return True


def _cost(request: Request[Any], reply: Reply, price: Price | None) -> float | None:
    """What the call cost; the estimate stands in for counts that the endpoint does not tell."""
    if price is None:
        return None
    input_tokens = request.input_tokens if reply.input_tokens is None else reply.input_tokens
    output_tokens = request.output_tokens if reply.output_tokens is None else reply.output_tokens
    return price.cost(input_tokens, output_tokens)


async def together(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of them to their end; the first error ends the others and is raised."""
    if not workers:
        return
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- rates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Gates:
    """The limits a minute; a try passes both before it begins."""

    requests: Any = None
    tokens: Any = None

    async def passed(self, request: Request[Any]) -> None:
        """Returns once the request may go."""
        if self.requests is not None:
            await self.requests.acquire()
        if self.tokens is not None:
            await self.tokens.acquire(request.input_tokens + request.output_tokens)


def _gates(limits: Limits, largest: int) -> _Gates:
    """Leaky buckets that never let more through than a second's requests, or ten seconds' tokens, at once."""
    if limits.requests_per_minute is None and limits.tokens_per_minute is None:
        return _Gates()
    try:
        from aiolimiter import AsyncLimiter
    except ImportError as error:
        raise PreftuneError("Limits a minute need the package aiolimiter.", mend=_INSTALL) from error

    def bucket(per_minute: float | None, at_once: float) -> Any:
        return None if per_minute is None else AsyncLimiter(at_once, 60 * at_once / per_minute)

    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return _Gates(bucket(requests, max(1.0, (requests or 0) / 60)), bucket(tokens, max(largest, (tokens or 0) / 6)))


def _tenacity() -> Any:
    try:
        import tenacity
    except ImportError as error:
        raise PreftuneError("Calls need the package tenacity.", mend=_INSTALL) from error
    return tenacity


# --- the journal ----------------------------------------------------------------------------------------


def _stored(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in asdict(answer).items() if name not in ("key", "kept", "failure")}


def _restored(key: str, stored: Mapping[str, Any]) -> Answer | None:
    """The answer as it was kept; None where what was kept is none, so that it is asked for again."""
    reply = stored.get("reply")
    try:
        return Answer(
            key,
            Reply(**reply),  # pyright: ignore[reportCallIssue]
            None,
            int(stored["tries"]),
            stored["cost"],
            float(stored["seconds"]),
            kept=True,
        )
    except (TypeError, KeyError, ValueError):
        return None
