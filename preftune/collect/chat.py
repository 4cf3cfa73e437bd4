"""One question to a chat model, whoever serves it: OpenAI's protocol, Anthropic's, or a model in this process.

What an endpoint can do (a reply by JSON schema or tool, token probabilities, a temperature) is found out by its first
call: what it refuses is left away, one thing after the other.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Protocol, TypeAlias

from preftune.collect.calls import CallFault, Reply, Request
from preftune.endpoints import Endpoint, connect_anthropic, connect_async
from preftune.errors import PreftuneError

Structure: TypeAlias = Literal["schema", "tool", "plain"]
Provider: TypeAlias = Literal["openai", "anthropic", "local"]

TOP: Final = 20  # tokens whose log-probs are asked for; OpenAI gives no more
_NAME: Final = "reply"


@dataclass(frozen=True)
class Chat:
    """A question; ``schema`` is what the reply must be as JSON, where the endpoint can hold a model to it.

    ``marker`` is a pattern in the reply behind which the token stands whose alternatives are of interest. ``options``
    are all replies there can be, where they are so few.
    """

    system: str
    user: str
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 1024
    temperature: float | None = None
    marker: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Abilities:
    """What an endpoint takes. ``max_tokens`` is the name it has for the longest reply."""

    structure: Structure = "schema"
    log_probs: bool = True
    temperature: bool = True
    max_tokens: str = "max_tokens"


class ChatModel(Protocol):
    """A model that can be asked."""

    abilities: Abilities

    async def reach(self) -> None:
        """Asks for nothing but a sign of life; PreftuneError where the endpoint is down or refuses the key."""
        ...

    async def ask(self, chat: Chat, abilities: Abilities) -> Reply:
        """The reply; CallFault where there is none, PreftuneError where every call would meet the same."""
        ...

    async def close(self) -> None:
        """Closes its connections."""
        ...


def open_chat(
    provider: Provider,
    model: str,
    base_url: str | None = None,
    *,
    key_env: str | None = None,
    timeout: float | None = 120.0,
    extra: Mapping[str, Any] | None = None,
) -> ChatModel:
    """The model at its endpoint, to be asked within one event loop; nothing is sent yet.

    ``extra`` goes into every request as it is, such as {"reasoning_effort": "low"}.
    """
    purpose, key = f"The model {model}", {} if key_env is None else {"key_env": key_env}
    if provider == "openai":
        endpoint = connect_async(base_url, timeout=timeout, purpose=purpose, **key)
        return OpenAIChat(endpoint, model, dict(extra or {}))
    if provider == "anthropic":
        endpoint = connect_anthropic(base_url, timeout=timeout, purpose=purpose, **key)
        return AnthropicChat(endpoint, model, dict(extra or {}))
    from preftune.collect.chat_local import LocalChat

    return LocalChat(model)


@dataclass
class Probed:
    """A model's abilities, unknown until its first call has succeeded."""

    model: ChatModel
    abilities: Abilities | None = None

    async def call(self, request: Request[Chat]) -> Reply:
        """Asks, and at first leaves away what is refused until nothing is."""
        if self.abilities is not None:
            return await self.model.ask(request.body, self.abilities)
        tried = self.model.abilities
        while True:
            try:
                reply = await self.model.ask(request.body, tried)
            except CallFault as fault:
                less = _less(tried, request.body, fault)
                if less is None:
                    raise
                tried = less
                continue
            # Some ignore what they do not know: nothing is asked for that does not come.
            self.abilities = replace(tried, log_probs=tried.log_probs and reply.choices is not None)
            return reply


def _less(abilities: Abilities, chat: Chat, fault: CallFault) -> Abilities | None:
    """Without what the endpoint seems to refuse: what its words name, else the most unusual; None at the end."""
    if not fault.lasting:
        return None
    text = fault.text.lower()
    steps: list[tuple[bool, tuple[str, ...], Abilities]] = [
        (abilities.log_probs, ("logprob",), replace(abilities, log_probs=False)),
        (
            abilities.structure == "schema" and chat.schema is not None,
            ("response_format", "schema", "output_config", "output_format", "grammar", "structured"),
            replace(abilities, structure="tool"),
        ),
        (abilities.structure == "tool", ("tool", "function"), replace(abilities, structure="plain")),
        (
            abilities.temperature and chat.temperature is not None,
            ("temperature", "sampling"),
            replace(abilities, temperature=False),
        ),
        (
            abilities.max_tokens == "max_tokens",
            ("max_tokens", "max_completion_tokens"),
            replace(abilities, max_tokens="max_completion_tokens"),
        ),
    ]
    possible = [(words, less) for is_used, words, less in steps if is_used]
    named = [less for words, less in possible if any(word in text for word in words)]
    return next(iter(named or [less for _, less in possible]), None)


# --- OpenAI's protocol ----------------------------------------------------------------------------------


@dataclass
class OpenAIChat:
    """A chat model behind OpenAI's protocol: OpenAI, vLLM, llama.cpp, Ollama and most others."""

    endpoint: Endpoint
    model: str
    extra: Mapping[str, Any]
    abilities: Abilities = field(init=False)

    def __post_init__(self) -> None:
        name = "max_completion_tokens" if self.endpoint.is_openai else "max_tokens"
        self.abilities = Abilities(max_tokens=name)

    async def reach(self) -> None:
        await _reach(self.endpoint, self.model)

    async def ask(self, chat: Chat, abilities: Abilities) -> Reply:
        fields: dict[str, Any] = {abilities.max_tokens: chat.max_tokens}
        if abilities.temperature and chat.temperature is not None:
            fields["temperature"] = chat.temperature
        if abilities.log_probs and chat.marker is not None:
            fields |= {"logprobs": True, "top_logprobs": TOP}
        if chat.schema is not None and abilities.structure == "schema":
            described = {"name": _NAME, "strict": True, "schema": chat.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": described}
        elif chat.schema is not None and abilities.structure == "tool":
            described = {"name": _NAME, "strict": True, "parameters": chat.schema}
            fields["tools"] = [{"type": "function", "function": described}]
            fields["tool_choice"] = {"type": "function", "function": {"name": _NAME}}
        messages = [{"role": "system", "content": chat.system}, {"role": "user", "content": chat.user}]
        body = {"model": self.model, "messages": messages, **fields, **self.extra}
        try:
            reply = await completed(self.endpoint.client, body)
        except Exception as error:
            raise fault_of(self.endpoint, self.model, error) from None  # the error itself may carry the key
        return read_openai(reply, chat.marker)

    async def close(self) -> None:
        await self.endpoint.client.close()


async def completed(client: Any, body: Mapping[str, Any]) -> Any:
    """OpenAI's chat completion of this body.

    ``chat.completions.create`` walks through every field of a body in search of what to rename, which is a quarter of
    the client's work in a call.
    """
    from openai.types.chat import ChatCompletion

    return await client.post("/chat/completions", cast_to=ChatCompletion, body=dict(body))


def read_openai(reply: Any, marker: str | None) -> Reply:
    choices = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if not isinstance(choices, list) or message is None:
        raise CallFault("the reply has another shape than OpenAI's protocol says: it has no choices")
    calls = getattr(message, "tool_calls", None)
    called = calls[0].function.arguments if calls and getattr(calls[0], "function", None) else None
    text = called or getattr(message, "content", None)
    finish = getattr(choices[0], "finish_reason", None)
    refusal = getattr(message, "refusal", None)
    is_refused = bool(refusal) or finish == "content_filter"
    if text is None and not is_refused and finish is None:
        raise CallFault("the reply has another shape than OpenAI's protocol says: it has no text")
    shown = str(refusal or text or "")
    usage = getattr(reply, "usage", None)
    return Reply(
        shown,
        finish,
        is_refused,
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        _alternatives(getattr(choices[0], "logprobs", None), shown, marker),
    )


def _alternatives(log_probs: Any, text: str, marker: str | None) -> dict[str, float] | None:
    """The log-probs of the tokens that could have stood behind the marker; None where they are not told."""
    tokens = getattr(log_probs, "content", None)
    found = None if marker is None else re.search(marker, text)
    if not tokens or found is None:
        return None
    position = 0
    for token in tokens:
        written = str(getattr(token, "token", ""))
        position += len(written)
        if position > found.end():
            return _options(token, len(written) - (position - found.end()))
    return None


def _options(token: Any, before: int) -> dict[str, float] | None:
    """The token's alternatives without their first ``before`` characters, which belong to the marker."""
    options: dict[str, float] = {}
    for one in [*(getattr(token, "top_logprobs", None) or []), token]:
        written, log_prob = getattr(one, "token", None), getattr(one, "logprob", None)
        if not isinstance(written, str) or not isinstance(log_prob, int | float) or math.isnan(log_prob):
            continue
        if written[:before] == token.token[:before]:
            options[written[before:]] = max(float(log_prob), options.get(written[before:], -math.inf))
    return {written: log_prob for written, log_prob in options.items() if math.isfinite(log_prob)} or None


# --- Anthropic's protocol -------------------------------------------------------------------------------


@dataclass
class AnthropicChat:
    """A model behind Anthropic's Messages; it tells no token probabilities."""

    endpoint: Endpoint
    model: str
    extra: Mapping[str, Any]
    abilities: Abilities = field(default_factory=lambda: Abilities(log_probs=False, max_tokens="-"))

    async def reach(self) -> None:
        await _reach(self.endpoint, self.model)

    async def ask(self, chat: Chat, abilities: Abilities) -> Reply:
        fields: dict[str, Any] = {"max_tokens": chat.max_tokens}
        extra = dict(self.extra)  # the library's call knows no temperature, the protocol does
        if abilities.temperature and chat.temperature is not None:
            extra = {"temperature": chat.temperature, **extra}
        if chat.schema is not None and abilities.structure == "schema":
            fields["output_config"] = {"format": {"type": "json_schema", "schema": chat.schema}}
        elif chat.schema is not None and abilities.structure == "tool":
            fields["tools"] = [{"name": _NAME, "input_schema": chat.schema}]
            fields["tool_choice"] = {"type": "tool", "name": _NAME}
        messages = [{"role": "user", "content": chat.user}]
        try:
            reply = await self.endpoint.client.messages.create(
                model=self.model, system=chat.system, messages=messages, extra_body=extra or None, **fields
            )
        except Exception as error:
            raise fault_of(self.endpoint, self.model, error) from None
        return read_anthropic(reply)

    async def close(self) -> None:
        await self.endpoint.client.close()


def read_anthropic(reply: Any) -> Reply:
    blocks, finish = getattr(reply, "content", None), getattr(reply, "stop_reason", None)
    if not isinstance(blocks, list):
        raise CallFault("the reply has another shape than Anthropic's protocol says: it has no content")
    called = [json.dumps(block.input) for block in blocks if getattr(block, "type", None) == "tool_use"]
    texts = [str(block.text) for block in blocks if getattr(block, "type", None) == "text"]
    usage = getattr(reply, "usage", None)
    tokens = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    return Reply(called[0] if called else "".join(texts), finish, finish == "refusal", *tokens)


# --- faults ---------------------------------------------------------------------------------------------


async def _reach(endpoint: Endpoint, model: str) -> None:
    """One listing of models: not every endpoint has one, but any that is up answers."""
    try:
        await endpoint.client.models.list()
    except Exception as error:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            raise fault_of(endpoint, model, error) from None
        if status is None:
            raise PreftuneError(
                f"The endpoint does not answer ({endpoint.explained(error)}).",
                where=endpoint.base_url,
                mend="Start it, or correct the address.",
            ) from None


def fault_of(endpoint: Endpoint, model: str, error: Exception) -> Exception:
    """What a failed call means: for this call (CallFault), or for all of them (PreftuneError)."""
    if isinstance(error, CallFault | PreftuneError | TypeError | AttributeError):
        return error
    status, text = getattr(error, "status_code", None), endpoint.explained(error)
    if status in (401, 403):
        what = "does not accept the key" if status == 401 else "forbids the request"
        key = "holds none" if endpoint.key is None else "holds the one that was sent"
        mend = f"Check the environment variable {endpoint.key_env}, which {key}, and what the key may do."
        return PreftuneError(f"The endpoint {what} ({text}).", where=endpoint.base_url, mend=mend)
    if status == 404:
        mend = "Check the model's name and the address; that of OpenAI's protocol mostly ends in /v1."
        return PreftuneError(f"The endpoint does not know {model} ({text}).", where=endpoint.base_url, mend=mend)
    if status == 402 or "insufficient_quota" in text or "credit balance" in text:
        mend = "Top it up, then run the same command again."
        return PreftuneError(f"The account has no credit left ({text}).", where=endpoint.base_url, mend=mend)
    is_passing = status is None or status in (200, 408, 409, 425, 429) or status >= 500
    return CallFault(text, lasting=not is_passing, retry_after=_retry_after(error))


def _retry_after(error: Exception) -> float | None:
    """The seconds that the server asks to wait: a number, or a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name) or "") / unit
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    date = email.utils.parsedate_tz(headers.get("retry-after") or "")
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _count(usage: Any, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
