"""Endpoints that speak OpenAI's protocol or Anthropic's: the client, the key that never shows, many calls at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from preftune.errors import PreftuneError

T = TypeVar("T")
R = TypeVar("R")

KEY_ENV = "OPENAI_API_KEY"
OPENAI = "https://api.openai.com/v1"
ANTHROPIC_KEY_ENV = "ANTHROPIC_API_KEY"
ANTHROPIC = "https://api.anthropic.com"


@dataclass(frozen=True)
class Endpoint:
    """An open one. ``client`` is the openai or anthropic package's; ``base_url`` is where it sends to.

    The key came from the environment variable ``key_env``.
    """

    client: Any
    base_url: str
    key: str | None = field(default=None, repr=False)
    key_env: str = KEY_ENV

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own, which refuses fields that it does not know."""
        return self.base_url.rstrip("/").startswith(OPENAI.removesuffix("/v1"))

    def explained(self, error: BaseException) -> str:
        """What the error says, in one line, without the key."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        text = text.replace(self.key, "***") if self.key else text
        return text if len(text) <= 300 else f"{text[:300]}..."


def connect(
    base_url: str | None, *, key_env: str = KEY_ENV, timeout: float | None, retries: int, purpose: str
) -> Endpoint:
    """The endpoint at ``base_url``, else at OPENAI_BASE_URL, else OpenAI's; nothing is sent yet.

    The key comes from the environment variable ``key_env``. A call that meets a refused connection, a time-out, 408,
    409, 429 or a server's error is made again up to ``retries`` times, after pauses that double, with jitter, or
    that the server asks for in Retry-After. ``timeout`` (seconds) is for one try. ``purpose`` begins the sentence
    when the package openai is missing.
    """
    base, key = _address(base_url, "OPENAI_BASE_URL", key_env, purpose)
    openai = _package("openai", purpose)
    client = openai.OpenAI(base_url=base or OPENAI, api_key=key or "none", timeout=timeout, max_retries=retries)
    return Endpoint(client, base or OPENAI, key, key_env)


def connect_async(base_url: str | None, *, key_env: str = KEY_ENV, timeout: float | None, purpose: str) -> Endpoint:
    """``connect`` with the asynchronous client, which tries nothing again: that is left to the caller."""
    base, key = _address(base_url, "OPENAI_BASE_URL", key_env, purpose)
    openai = _package("openai", purpose)
    client = openai.AsyncOpenAI(base_url=base or OPENAI, api_key=key or "none", timeout=timeout, max_retries=0)
    return Endpoint(client, base or OPENAI, key, key_env)


def connect_anthropic(
    base_url: str | None, *, key_env: str = ANTHROPIC_KEY_ENV, timeout: float | None, purpose: str
) -> Endpoint:
    """An endpoint of Anthropic's protocol by the rules of ``connect_async``: else ANTHROPIC_BASE_URL or Anthropic's."""
    base, key = _address(base_url, "ANTHROPIC_BASE_URL", key_env, purpose)
    anthropic = _package("anthropic", purpose)
    client = anthropic.AsyncAnthropic(base_url=base or ANTHROPIC, api_key=key or "none", timeout=timeout, max_retries=0)
    return Endpoint(client, base or ANTHROPIC, key, key_env)


def _address(base_url: str | None, base_env: str, key_env: str, purpose: str) -> tuple[str | None, str | None]:
    """The base, None for the provider's own, and the key; the provider's own needs one."""
    base = base_url or os.environ.get(base_env) or None
    key = os.environ.get(key_env) or None
    if key is None and base is None:
        raise PreftuneError(
            f"{purpose} needs a key, and the environment has no {key_env}.",
            mend="Set it, or name another endpoint, such as http://localhost:8000/v1.",
        )
    return base, key


def _package(name: str, purpose: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise PreftuneError(f"{purpose} needs the package {name}.", mend='pip install "preftune[judge]"') from error


def all_at_once(
    call: Callable[[T], R], items: Sequence[T], workers: int, done: Callable[[], object] | None = None
) -> list[R]:
    """``call`` of each item, in their order, at most ``workers`` at a time; ``done`` is told, here, as each ends.

    The first error that a call raises is raised, and what has not begun is left. Threads are daemons: unlike those of
    ``concurrent.futures``, a request that hangs does not hold up the end of the process.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    ended: SimpleQueue[tuple[int, R | None, BaseException | None]] = SimpleQueue()
    for number in range(len(items)):
        waiting.put(number)

    def work() -> None:
        while True:
            try:
                number = waiting.get_nowait()
            except Empty:
                return
            try:
                ended.put((number, call(items[number]), None))
            except BaseException as error:
                _empty(waiting)
                ended.put((number, None, error))

    for _ in range(min(workers, len(items))):
        Thread(target=work, daemon=True).start()
    results: dict[int, Any] = {}
    try:
        while len(results) < len(items):
            number, result, error = ended.get()
            if error is not None:
                raise error
            results[number] = result
            if done is not None:
                done()
    finally:
        _empty(waiting)
    return [results[number] for number in range(len(items))]


def _empty(queue: SimpleQueue[int]) -> None:
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
