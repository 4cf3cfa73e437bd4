"""A model behind an endpoint as a writer: calls within limits, each answer in the journal as it arrives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from preftune.collect.calls import NOT_ASKED, Answer, Budget, CallFault, Limits, Reply, Request, all_answers, in_loop
from preftune.collect.chat import fault_of, read_anthropic, read_openai
from preftune.collect.generation import Choice, Note, Progress, Prompt, Text, chat_of, chosen_reply
from preftune.collect.journal import Journal, request_key
from preftune.collect.prices import Price, estimated_tokens
from preftune.endpoints import Endpoint, connect_anthropic, connect_async
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampling

Provider: TypeAlias = Literal["openai", "anthropic"]

TOP: Final = 20  # alternatives of a token that are asked for
_FEW: Final = 10  # calls of which all may fail, where others succeeded before, without the endpoint being down
_FINISHED: Final = ("stop", "end_turn", "stop_sequence")
_CUT: Final = ("length", "max_tokens")
# What an endpoint may refuse to be told, and the words by which it says so.
_SETTINGS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "logprobs", "max_tokens")
_REFUSALS: Final = ("support", "unknown", "unrecognized", "unexpected", "not permitted", "not allowed", "deprecated")


@dataclass(frozen=True)
class Asked:
    """What one call asks: a text to continue or a chat to answer, and how."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    log_probs: bool = False


@dataclass
class EndpointModel:
    """``name`` at an endpoint of OpenAI's protocol or Anthropic's, as ``generation.Generator``.

    With a ``journal`` no answer is paid for twice. ``extra`` goes into every request. What the endpoint refuses to be
    told (a temperature, a seed ...) is left away from then on, and ``note`` says so.
    """

    name: str
    provider: Provider = "openai"
    base_url: str | None = None
    key_env: str | None = None
    limits: Limits = field(default_factory=Limits)
    journal: Journal | None = None
    budget: Budget = field(default_factory=Budget)
    price: Price | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    note: Note = lambda _: None
    left_away: set[str] = field(default_factory=set)
    has_answered: bool = False

    @property
    def cost(self) -> float | None:
        """US dollars spent so far in this run; None where the price is not known."""
        return self.budget.spent if self.price is not None else None

    def generate(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[list[Text]]:
        """As ``Generator`` has it; a call that fails after its tries, or is refused, is a failure of its own.

        PreftuneError where the endpoint is down or refuses all alike, and where the budget is spent.
        """
        asked = [Asked(p, sampling, _seed(seed, place, c)) for place, p in enumerate(prompts) for c in range(n)]
        texts = [_text(answer) for answer in self._answers(asked, progress)]
        return [texts[place * n : (place + 1) * n] for place in range(len(prompts))]

    def choose(
        self, prompts: Sequence[Prompt], options: Sequence[str], progress: Progress | None = None
    ) -> list[Choice | None]:
        """By the probabilities of the reply's first token where the endpoint tells them, else by the reply."""
        sampling = Sampling(16, temperature=0.0)
        answers = self._answers([Asked(p, sampling, 0, log_probs=True) for p in prompts], progress)
        return [_choice(answer.reply, options) for answer in answers]

    def _answers(self, asked: Sequence[Asked], progress: Progress | None) -> list[Answer]:
        requests = [self._request(one) for one in asked]
        try:
            answers = in_loop(self._all(requests, progress))
        except PreftuneError as error:
            if not self.has_answered or len(requests) > _FEW:
                raise
            answers = [Answer(request.key, None, error.what) for request in requests]
        if any(answer.failure == NOT_ASKED for answer in answers):
            mend = "Raise --max-cost and run the same command again: what was answered is not asked again."
            raise PreftuneError(f"The cap of {self.budget.limit:,.2f} US dollars is reached.", mend=mend)
        self.has_answered = self.has_answered or any(answer.reply is not None for answer in answers)
        return answers

    def _request(self, asked: Asked) -> Request[Asked]:
        about = {"provider": self.provider, "model": self.name, "extra": dict(self.extra)}
        contents = [asked.prompt] if isinstance(asked.prompt, str) else [str(m.get("content")) for m in asked.prompt]
        # Where it is asked is no part of the key: a server that moved to another port gives the same answers.
        return Request(
            request_key({**about, **asdict(asked)}), asked, estimated_tokens(*contents), asked.sampling.max_new_tokens
        )

    async def _all(self, requests: Sequence[Request[Asked]], progress: Progress | None) -> list[Answer]:
        """In a loop of its own, for which a client is opened and closed."""
        tell = None if progress is None else lambda _: progress(1)
        endpoint = self._connected()
        try:
            call = partial(self._call, endpoint)
            return await all_answers(
                requests, call, self.limits, self.journal, tell, budget=self.budget, price=self.price
            )
        finally:
            await endpoint.client.close()

    def _connected(self) -> Endpoint:
        connect = connect_anthropic if self.provider == "anthropic" else connect_async
        key = {} if self.key_env is None else {"key_env": self.key_env}
        return connect(self.base_url, timeout=self.limits.timeout, purpose=f"The model {self.name}", **key)

    async def _call(self, endpoint: Endpoint, request: Request[Asked]) -> Reply:
        """One reply, without what the endpoint turns out not to take."""
        while True:
            try:
                return await self._ask(endpoint, request.body)
            except CallFault as fault:
                refused = _refused_setting(fault)
                if refused is None or refused in self.left_away:
                    raise
                self.left_away.add(refused)
                self.note(f"{self.name} takes no {refused}: it is left away ({fault.text})")

    async def _ask(self, endpoint: Endpoint, asked: Asked) -> Reply:
        client = endpoint.client
        try:
            if self.provider == "anthropic":
                return read_anthropic(await client.messages.create(**self._anthropic_fields(asked)))
            fields = self._openai_fields(asked, endpoint.is_openai)
            if isinstance(asked.prompt, str):
                return _read_continuation(await client.completions.create(prompt=asked.prompt, **fields))
            reply = await client.chat.completions.create(messages=list(asked.prompt), **fields)
        except Exception as error:
            raise fault_of(endpoint, self.name, error) from None  # the error itself may carry the key
        return read_openai(reply, r"\A\s*" if asked.log_probs else None)

    def _openai_fields(self, asked: Asked, is_openai: bool) -> dict[str, Any]:
        """Every setting said, so that no default of the endpoint's bends what is drawn."""
        sampling = asked.sampling
        fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": asked.seed}
        if asked.log_probs and not isinstance(asked.prompt, str):
            fields |= {"logprobs": True, "top_logprobs": TOP}
        beside = {"top_k": sampling.top_k, "min_p": sampling.min_p, "repetition_penalty": 1.0}
        beside = {} if is_openai else {name: beside[name] for name in beside if name not in self.left_away}
        if is_openai and (sampling.top_k, sampling.min_p) != (0, 0.0):
            raise PreftuneError("OpenAI's protocol has no top_k and no min_p.", mend="Leave them out.")
        fields = {name: value for name, value in fields.items() if name not in self.left_away}
        if "logprobs" in self.left_away:
            fields.pop("top_logprobs", None)
        longest = "max_completion_tokens" if is_openai or "max_tokens" in self.left_away else "max_tokens"
        stop = {"stop": list(sampling.stop)} if sampling.stop else {}
        body = {"extra_body": beside | dict(self.extra)}
        return {"model": self.name, longest: sampling.max_new_tokens, **stop, **fields, **body}

    def _anthropic_fields(self, asked: Asked) -> dict[str, Any]:
        if isinstance(asked.prompt, str):
            mend = "Give the prompts as chats (--chat)."
            raise PreftuneError("Anthropic's protocol answers chats; it continues no text.", mend=mend)
        chat = chat_of(asked.prompt)
        system = "\n\n".join(str(turn["content"]) for turn in chat if turn["role"] == "system")
        # It takes one of the two, and its client knows neither any more: what a model still takes goes in the body.
        heat = {"top_p": asked.sampling.top_p} if asked.sampling.top_p < 1 else None
        heat = heat or {"temperature": min(asked.sampling.temperature, 1.0)}
        body = {name: value for name, value in heat.items() if name not in self.left_away} | dict(self.extra)
        return {
            "model": self.name,
            "max_tokens": asked.sampling.max_new_tokens,
            "messages": [turn for turn in chat if turn["role"] != "system"],
            **({"system": system} if system else {}),
            **({"stop_sequences": list(asked.sampling.stop)} if asked.sampling.stop else {}),
            "extra_body": body or None,
        }


def _text(answer: Answer) -> Text:
    """The answer as a completion; half of a surrogate pair, which JSON can carry, becomes a question mark."""
    reply = answer.reply
    if reply is None:
        return Text(None, failure=answer.failure)
    if reply.refused:
        return Text(None, failure="the model refused to answer")
    if reply.finish not in (*_FINISHED, *_CUT):
        return Text(None, failure=f"the completion was broken off (finish_reason {reply.finish})")
    return Text(reply.text.encode("utf-8", "replace").decode(), reply.finish in _FINISHED)


def _choice(reply: Reply | None, options: Sequence[str]) -> Choice | None:
    if reply is None or reply.refused:
        return None
    if reply.choices is None:
        return chosen_reply(reply.text, options)
    masses = [sum(math.exp(p) for token, p in reply.choices.items() if token.strip() == one) for one in options]
    total = sum(masses)
    return Choice(tuple(mass / total for mass in masses), min(total, 1.0)) if total > 0 else None


def _read_continuation(reply: Any) -> Reply:
    """The text of a reply that continues a prompt."""
    choices, usage = getattr(reply, "choices", None), getattr(reply, "usage", None)
    text = getattr(choices[0], "text", None) if isinstance(choices, list) and choices else None
    if not isinstance(choices, list) or not isinstance(text, str):
        raise CallFault("the reply has another shape than OpenAI's protocol says: it has no text")
    read, written = (getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(text, choices[0].finish_reason, input_tokens=read, output_tokens=written)


def _refused_setting(fault: CallFault) -> str | None:
    """The setting that a lasting fault is about, by its words."""
    said = fault.text.lower()
    if not fault.lasting or not any(word in said for word in _REFUSALS):
        return None
    return next((name for name in _SETTINGS if name in said), None)


def _seed(seed: int, prompt: int, completion: int) -> int:
    """31 bits: llama.cpp takes 32, the largest of which mean chance."""
    words = np.random.SeedSequence([seed % 2**64, prompt, completion]).generate_state(1, np.uint32)
    return int(words[0] >> np.uint32(1))
