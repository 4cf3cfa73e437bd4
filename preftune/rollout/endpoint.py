"""Completions as text, from any endpoint that speaks OpenAI's protocol: for making data and for baselines.

No tokens and no log-probs come with them, so nothing can be trained on-policy from them; that is ``vllm_sampler``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from preftune.endpoints import KEY_ENV, Endpoint, all_at_once, connect
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampling

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message]

_FATAL = (401, 403, 404)  # of every request alike
_PLAIN = Sampling(1)


@dataclass(frozen=True)
class TextCompletion:
    """A completion as an endpoint gave it; ``finished`` is False where the length cut it.

    ``text`` is None where there is none, and ``failure`` then says why; it is never empty.
    """

    text: str | None
    finished: bool = False
    failure: str | None = None


@dataclass(frozen=True)
class TextSampler:
    """``model`` behind ``endpoint``; ``extra`` goes into every request, over what is there."""

    endpoint: Endpoint
    model: str
    concurrency: int
    extensions: bool
    extra: Mapping[str, Any] = field(default_factory=dict)

    def complete(
        self,
        prompts: Sequence[Prompt],
        n: int,
        sampling: Sampling,
        seed: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[TextCompletion]]:
        """``n`` completions of each prompt: a text is continued, a list of chat messages is answered.

        Each is a request of its own, since few endpoints give several or a seed to each. Seeds follow from ``seed``,
        the place of the prompt and the number of the completion; endpoints keep to them as well as they can. A request
        that fails after its tries, or whose reply holds no text, is a completion with a ``failure``. Raises
        ``PreftuneError`` where the endpoint refuses all alike (key, address, model) and where not one succeeded.
        """
        if sampling.max_new_tokens < 1 or n < 0:
            raise PreftuneError(
                f"{n} completions of {sampling.max_new_tokens} tokens are asked for.", mend="Ask for more."
            )
        asked = [(prompt, self._fields(sampling, seed, p, c)) for p, prompt in enumerate(prompts) for c in range(n)]
        tell = None if progress is None else partial(progress, 1)
        given = all_at_once(lambda one: self._one(*one), asked, self.concurrency, tell)
        if given and all(one.failure for one in given):
            raise PreftuneError(
                f"None of {len(given)} completions came ({_most_common(given)}).", where=self.endpoint.base_url
            )
        return [given[p * n : (p + 1) * n] for p in range(len(prompts))]

    def _one(self, prompt: Prompt, fields: Mapping[str, Any]) -> TextCompletion:
        client = self.endpoint.client
        try:
            if isinstance(prompt, str):
                reply = client.completions.create(model=self.model, prompt=prompt, **fields)
            else:
                reply = client.chat.completions.create(model=self.model, messages=list(prompt), **fields)
        except Exception as error:
            if getattr(error, "status_code", None) in _FATAL:
                raise self._refused(error) from None  # the error itself may carry the key
            return TextCompletion(None, failure=self.endpoint.explained(error))
        return _read(reply)

    def _fields(self, sampling: Sampling, seed: int | None, prompt: int, completion: int) -> dict[str, Any]:
        """Every setting said, so that no default of the endpoint's bends what is drawn."""
        fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        fields["max_completion_tokens" if self.endpoint.is_openai else "max_tokens"] = sampling.max_new_tokens
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        if seed is not None:
            fields["seed"] = _seed(seed, prompt, completion)
        if self.extensions:
            body = {"top_k": sampling.top_k, "min_p": sampling.min_p, "repetition_penalty": 1.0}
        elif (sampling.top_k, sampling.min_p) != (_PLAIN.top_k, _PLAIN.min_p):
            raise PreftuneError(
                "OpenAI's protocol has no top_k and no min_p.",
                where=self.endpoint.base_url,
                mend="Leave them out, or say extensions=True for an endpoint that takes them.",
            )
        else:
            body = {}
        return fields | {"extra_body": body | dict(self.extra)}

    def _refused(self, error: Exception) -> PreftuneError:
        return PreftuneError(
            f"The endpoint refuses {self.model} ({self.endpoint.explained(error)}).",
            where=self.endpoint.base_url,
            mend="Check the key in the environment, the address (it mostly ends in /v1) and the model's name.",
        )


def open_endpoint(
    base_url: str | None,
    model: str,
    *,
    key_env: str = KEY_ENV,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = 5,
    extensions: bool | None = None,
    extra: Mapping[str, Any] | None = None,
) -> TextSampler:
    """``model`` at ``base_url`` (else OPENAI_BASE_URL, else OpenAI's), which has answered once.

    ``timeout`` (seconds) is for one try, ``retries`` as ``endpoints.connect`` has them, ``concurrency`` how many
    requests are under way. ``extensions`` also sends top_k, min_p and repetition_penalty, which vLLM, llama.cpp and
    most others know; unset, to all but OpenAI itself. The key is read from the environment variable ``key_env`` and
    is in no message.
    """
    if concurrency < 1:
        raise PreftuneError(f"concurrency is {concurrency}.", mend="It must be 1 or more.")
    endpoint = connect(base_url, key_env=key_env, timeout=timeout, retries=retries, purpose="An endpoint")
    opened = TextSampler(
        endpoint, model, concurrency, not endpoint.is_openai if extensions is None else extensions, dict(extra or {})
    )
    try:
        endpoint.client.models.list()
    except Exception as error:
        status = getattr(error, "status_code", None)
        if status in (401, 403):
            raise opened._refused(error) from None
        if status is None:  # with another status it has answered; not every endpoint lists its models
            raise PreftuneError(
                f"The endpoint does not answer ({endpoint.explained(error)}).",
                where=endpoint.base_url,
                mend="Start it, or correct the address.",
            ) from None
    return opened


def failures(completions: Iterable[Iterable[TextCompletion]]) -> dict[str, int]:
    """How often each reason stands for a missing completion, the most frequent first."""
    return dict(Counter(one.failure for several in completions for one in several if one.failure).most_common())


def _read(reply: Any) -> TextCompletion:
    """The text of a reply of either kind; anything else is named."""
    choices = getattr(reply, "choices", None)
    if not isinstance(choices, list) or not choices:
        return TextCompletion(None, failure="the reply has no choices")
    choice = choices[0]
    message = getattr(choice, "message", None)
    text = getattr(choice, "text", None) if message is None else getattr(message, "content", None)
    reason = getattr(choice, "finish_reason", None)
    if not isinstance(text, str) or not text:
        return TextCompletion(None, failure=f"the reply has no text (finish_reason {reason})")
    if reason not in ("stop", "length"):
        return TextCompletion(None, failure=f"the completion was broken off (finish_reason {reason})")
    return TextCompletion(text, reason == "stop")


def _seed(seed: int, prompt: int, completion: int) -> int:
    """31 bits: llama.cpp takes 32, the largest of which mean chance."""
    words = np.random.SeedSequence([seed % 2**64, prompt, completion]).generate_state(1, np.uint32)
    return int(words[0] >> np.uint32(1))


def _most_common(given: Sequence[TextCompletion]) -> str:
    reason, count = Counter(one.failure for one in given).most_common(1)[0]
    return f"{reason}, {count} times"
