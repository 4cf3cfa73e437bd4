"""Rewards of a batch of completions: every reward asked, every failure named by its sample."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from preftune.errors import PreftuneError
from preftune.rewards.timed_calls import Unfinished, ended_calls, in_event_loop, in_thread

Content: TypeAlias = str | list[dict[str, Any]]

# A function that hangs on every sample must not cost the time-out for each of them: so many, of each worker.
MAX_LATE = 3
MAX_REASON = 500


@dataclass(frozen=True)
class Asked:
    """A batch of completions to be judged; ``columns`` are the data set's other columns, a value for each of them."""

    ids: list[str]
    prompts: list[Content]
    completions: list[Content]
    completion_ids: list[list[int]]
    columns: dict[str, list[Any]]

    def one(self, number: int) -> Asked:
        """The batch that holds only this sample."""
        part = slice(number, number + 1)
        columns = {name: values[part] for name, values in self.columns.items()}
        return Asked(self.ids[part], self.prompts[part], self.completions[part], self.completion_ids[part], columns)


@dataclass(frozen=True)
class Failure:
    """A reward that could not be had: of which sample, which reward, and why."""

    sample: str
    reward: str
    reason: str


@dataclass(frozen=True)
class RewardTable:
    """A reward for each sample and name: NaN where it does not apply, and where it ``failed``."""

    names: tuple[str, ...]
    values: Float[np.ndarray, "samples rewards"]
    failed: Bool[np.ndarray, "samples rewards"]
    failures: tuple[Failure, ...]


class NoReward(Exception):
    """Raised by a reward for a sample that it cannot judge; the text is the whole reason."""


@dataclass(frozen=True)
class Problem:
    """Why a sample has no reward."""

    reason: str


Outcome: TypeAlias = float | Problem | None


@dataclass(frozen=True)
class Member:
    """One opened reward. What is in the caller's own thread (torch models, quick functions) has no time-out."""

    name: str
    ask: Callable[[Asked], list[Outcome]]
    own_thread: bool = True


@dataclass(frozen=True)
class Rewards:
    """Opened rewards with their weights; names are distinct."""

    members: tuple[Member, ...]
    weights: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which rewards are logged."""
        return tuple(member.name for member in self.members)

    def score(self, asked: Asked, proven: Collection[str] = ()) -> RewardTable:
        """Every reward of every sample; those with a thread of their own run while the others do.

        PreftuneError where a reward gives what are no rewards, or fails on all samples; unless its name is among the
        ``proven``, which have worked before.
        """
        _require_equal_lengths(asked)
        if not asked.ids:
            shape = (0, len(self.members))
            return RewardTable(self.names, np.zeros(shape), np.zeros(shape, bool), ())
        started = [in_thread(partial(m.ask, asked)) if m.own_thread else None for m in self.members]
        here = [None if m.own_thread else m.ask(asked) for m in self.members]
        outcomes = [a.result() if a else b or [] for a, b in zip(started, here, strict=True)]
        return _table(asked, self.names, outcomes, proven)


def function_member(name: str, function: Callable[..., Any], *, timeout: float | None) -> Member:
    """A function with TRL's signature as a reward, sync or async.

    One that raises on the batch, or takes longer than ``timeout`` seconds, is asked again one sample at a time, so
    that the sample is named and the others keep their reward. Without a time-out it runs in the caller's thread.
    """
    takes = _arguments_taken(name, function)
    call = partial(_call, name, function, takes)
    if _is_async(function):
        # All samples at once: waiting is what such a function is written for.
        return Member(name, partial(_ask, name, call, start=_start_async, timeout=timeout, workers=64))
    if timeout is None:
        return Member(name, partial(_ask, name, call, start=_start_here, timeout=None, workers=1), own_thread=False)
    return Member(name, partial(_ask, name, call, start=in_thread, timeout=timeout, workers=1))


def one_by_one_member(
    name: str, judge: Callable[[Asked], float | None], *, workers: int, timeout: float | None
) -> Member:
    """A reward that is asked for one sample at a time, ``workers`` at once; what it raises is that sample's failure."""

    def ask(asked: Asked) -> list[Outcome]:
        starts = [partial(in_thread, partial(judge, asked.one(number))) for number in range(len(asked.ids))]
        ended = ended_calls(starts, workers=workers, timeout=timeout, patience=MAX_LATE * workers)
        return [_unfinished(call, timeout) if isinstance(call, Unfinished) else _one_outcome(call) for call in ended]

    return Member(name, ask)


def described(error: BaseException) -> str:
    """An exception as a failure's reason: its kind and its text, on one line, of bounded length."""
    text = " ".join(str(error).split())
    if isinstance(error, NoReward) and text:
        return text[:MAX_REASON]
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


# --- functions ------------------------------------------------------------------------------------------


def _ask(
    name: str,
    call: Callable[[Asked], Any],
    asked: Asked,
    *,
    start: Callable[[Callable[[], Any]], Future[Any]],
    timeout: float | None,
    workers: int,
) -> list[Outcome]:
    """The function on the whole batch, and where that does not end well on each sample alone."""
    (whole,) = ended_calls([partial(start, partial(call, asked))], workers=1, timeout=timeout)
    outcomes = _of_batch(name, whole, len(asked.ids), timeout)
    if not isinstance(outcomes, Problem):
        return outcomes
    if len(asked.ids) == 1:
        return [outcomes]
    starts = [partial(start, partial(call, asked.one(number))) for number in range(len(asked.ids))]
    ended = ended_calls(starts, workers=workers, timeout=timeout, patience=MAX_LATE)
    alone = [_of_batch(name, one, 1, timeout) for one in ended]
    return [one if isinstance(one, Problem) else one[0] for one in alone]


def _of_batch(name: str, ended: Future[Any] | Unfinished, n: int, timeout: float | None) -> list[Outcome] | Problem:
    if isinstance(ended, Unfinished):
        return _unfinished(ended, timeout)
    error = ended.exception()
    return _outcomes(name, ended.result(), n) if error is None else _problem(error)


def _call(name: str, function: Callable[..., Any], takes: _Taken, asked: Asked) -> Any:
    """The function's result; lists are its own, so that what it does to them reaches nobody else."""
    given: dict[str, list[Any]] = {key: list(values) for key, values in asked.columns.items()}
    given |= {
        "prompts": list(asked.prompts),
        "completions": list(asked.completions),
        "completion_ids": [list(ids) for ids in asked.completion_ids],
    }
    missing = takes.needed - set(given)
    if missing:
        raise PreftuneError(
            f"The reward {name} takes {_listed(missing)}, which the data does not have.",
            mend=f"It can take {_listed(given)}: columns of the data, a list each.",
        )
    return function(**{key: value for key, value in given.items() if takes(key)})


@dataclass(frozen=True)
class _Taken:
    """The names of a function's arguments: those it needs, those it may have, those that are already set."""

    needed: frozenset[str]
    optional: frozenset[str]
    bound: frozenset[str]
    any_other: bool

    def __call__(self, name: str) -> bool:
        if name in self.bound:
            return False
        return self.any_other or name in self.needed or name in self.optional


def _arguments_taken(name: str, function: Callable[..., Any]) -> _Taken:
    bound = frozenset(function.keywords) if isinstance(function, partial) else frozenset[str]()
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):  # written in C: it says nothing of its arguments
        return _Taken(frozenset(), frozenset(), bound, any_other=True)
    if any(p.kind is p.POSITIONAL_ONLY and p.default is p.empty for p in parameters):
        raise PreftuneError(
            f"The reward {name} takes arguments by position only.",
            mend="Rewards are called by name: f(prompts, completions, completion_ids, **columns).",
        )
    by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in bound]
    needed = frozenset(p.name for p in by_name if p.default is p.empty)
    any_other = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return _Taken(needed, frozenset(p.name for p in by_name) - needed, bound, any_other)


def _is_async(function: Callable[..., Any]) -> bool:
    """True for an async function, and for an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _start_here(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


def _start_async(call: Callable[[], Any]) -> Future[Any]:
    async def run() -> Any:
        return await call()

    return in_event_loop(run())


# --- results --------------------------------------------------------------------------------------------


def _outcomes(name: str, result: Any, n: int) -> list[Outcome]:
    """What a function returned as outcomes; PreftuneError for what is not one number or None a sample."""
    values = result.tolist() if hasattr(result, "tolist") else result
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Sequence):
        raise _no_rewards(name, f"a {type(result).__name__}", n)
    if len(values) != n:
        raise _no_rewards(name, f"{len(values)} rewards for {n} answers", n)
    return [_outcome(name, value, n) for value in values]


def _outcome(name: str, value: Any, n: int) -> Outcome:
    if value is None:
        return None
    try:
        number = value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # a tensor of several
        number = value
    if not isinstance(number, Real):
        raise _no_rewards(name, f"{str(number)[:40]!r} among its rewards", n)
    return _finite(number)


def _one_outcome(future: Future[float | None]) -> Outcome:
    error = future.exception()
    if error is not None:
        return _problem(error)
    value = future.result()
    return None if value is None else _finite(value)


def _finite(number: Real | float) -> Outcome:
    try:
        value = float(number)
    except OverflowError:
        return Problem("the reward is too large a number")
    return value if math.isfinite(value) else Problem(f"the reward is {value}")


def _no_rewards(name: str, found: str, n: int) -> PreftuneError:
    return PreftuneError(
        f"The reward {name} gave {found}.",
        mend=f"It must return a list of {n} numbers, or None where it does not apply.",
    )


def _problem(error: BaseException) -> Problem:
    """An exception as a sample's failure; a mistake of the settings ends the run, and so does Ctrl-C."""
    if isinstance(error, PreftuneError | KeyboardInterrupt):
        raise error
    return Problem(described(error))


def _unfinished(call: Unfinished, timeout: float | None) -> Problem:
    if call is Unfinished.NOT_STARTED:
        return Problem(f"not asked, after too many others took longer than the time-out of {timeout:g} s")
    return Problem(f"no reward within the time-out of {timeout:g} s")


def _table(
    asked: Asked, names: tuple[str, ...], outcomes: Sequence[list[Outcome]], proven: Collection[str]
) -> RewardTable:
    failures: list[Failure] = []
    values = np.full((len(asked.ids), len(names)), np.nan)
    failed = np.zeros(values.shape, bool)
    for column, (name, row) in enumerate(zip(names, outcomes, strict=True)):
        for number, outcome in enumerate(row):
            if isinstance(outcome, Problem):
                failed[number, column] = True
                failures.append(Failure(asked.ids[number], name, outcome.reason))
            elif outcome is not None:
                values[number, column] = outcome
        if failed[:, column].all() and name not in proven:
            raise _all_failed(name, failures[-len(asked.ids)], len(asked.ids))
    return RewardTable(names, values, failed, tuple(failures))


def _all_failed(name: str, first: Failure, n: int) -> PreftuneError:
    is_late = "time-out" in first.reason
    return PreftuneError(
        f"The reward {name} failed on all {n} answers, first on {first.sample}: {first.reason.rstrip('.')}.",
        mend="Raise the time-out if it is only slow." if is_late else "Try it on that row of the data.",
    )


def _require_equal_lengths(asked: Asked) -> None:
    lengths = {
        "prompts": len(asked.prompts),
        "completions": len(asked.completions),
        "completion_ids": len(asked.completion_ids),
        **{name: len(values) for name, values in asked.columns.items()},
    }
    wrong = [f"{n} {name}" for name, n in lengths.items() if n != len(asked.ids)]
    if wrong:
        raise ValueError(f"{len(asked.ids)} samples are asked for with {', '.join(wrong)}")


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
