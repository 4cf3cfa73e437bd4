"""A transformers model in this process as a chat model: what is asked at the same time is answered as one batch."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from preftune.collect.calls import CallFault, Reply
from preftune.collect.chat import Abilities, Chat


@dataclass
class LocalChat:
    """A transformers model in this process; what is asked at the same time is answered as one batch."""

    model: str
    abilities: Abilities = field(default_factory=lambda: Abilities("plain"))
    generator: Any = None
    _waiting: list[tuple[Chat, asyncio.Future[Reply]]] = field(default_factory=list)
    _worker: asyncio.Task[None] | None = None

    async def reach(self) -> None:
        from preftune.collect.generation import open_local
        from preftune.models.settings import ModelConfig

        if self.generator is None:
            self.generator = await asyncio.to_thread(open_local, ModelConfig(model=self.model))

    async def ask(self, chat: Chat, abilities: Abilities) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((chat, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._answer())
        return await future

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()

    async def _answer(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # whoever asks in this turn of the loop is in the batch
            batch, self._waiting = self._waiting, []
            try:
                replies = await asyncio.to_thread(self._replies, [chat for chat, _ in batch])
            except Exception as error:
                replies = [error] * len(batch)
            for (_, future), reply in zip(batch, replies, strict=True):
                if future.done():
                    continue
                if isinstance(reply, Exception):
                    future.set_exception(reply)
                else:
                    future.set_result(reply)

    def _replies(self, chats: Sequence[Chat]) -> list[Reply | Exception]:
        """By the probabilities of all replies there can be, where they are few, else as the model writes them."""
        replies: dict[int, Reply | Exception] = {}
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, chat in enumerate(chats):
            groups.setdefault((chat.options, chat.max_tokens, chat.temperature), []).append(number)
        for (options, max_tokens, temperature), numbers in groups.items():
            prompts = [
                [{"role": "system", "content": chats[n].system}, {"role": "user", "content": chats[n].user}]
                for n in numbers
            ]
            found = self._chosen(prompts, options) if options else self._written(prompts, max_tokens, temperature)
            replies |= dict(zip(numbers, found, strict=True))
        return [replies[number] for number in range(len(chats))]

    def _chosen(self, prompts: Sequence[Any], options: tuple[str, ...]) -> list[Reply | Exception]:
        replies: list[Reply | Exception] = []
        for choice in self.generator.choose(prompts, options):
            if choice is None:
                replies.append(CallFault("the model cannot take this prompt", lasting=True))
                continue
            best = max(range(len(options)), key=lambda n: choice.probabilities[n])
            mass = 1.0 if choice.mass is None else choice.mass
            logs = {
                option: math.log(probability * mass)
                for option, probability in zip(options, choice.probabilities, strict=True)
                if probability * mass > 0
            }
            replies.append(Reply(options[best], "stop", choices=logs or None))
        return replies

    def _written(self, prompts: Sequence[Any], max_tokens: int, temperature: float | None) -> list[Reply | Exception]:
        from preftune.rollout.protocol import Sampling

        sampling = Sampling(max_tokens, 1.0 if temperature is None else temperature)
        seed = time.time_ns() % 2**31 if sampling.temperature else 0
        texts = [one for (one,) in self.generator.generate(prompts, 1, sampling, seed)]
        return [
            CallFault(str(one.failure), lasting=True)
            if one.text is None
            else Reply(one.text, "stop" if one.finished else "length")
            for one in texts
        ]
