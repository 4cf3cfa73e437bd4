"""What writes texts when data are made: a model on this machine or one behind an endpoint, behind one protocol."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from preftune.collect.writing import FAILED
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampler, Sampling

if TYPE_CHECKING:
    from preftune.models.settings import ModelConfig

Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message]
Progress: TypeAlias = Callable[[int], object]
Note: TypeAlias = Callable[[str], object]

_CHOICES = 8  # prompts whose options are weighed at once


@dataclass(frozen=True)
class Text:
    """A completion; ``finished`` is False where the length cut it.

    ``text`` is None where there is none, and ``failure`` then says why; asking again helps unless it ``is_lasting``.
    ``tokens`` are known of a local model.
    """

    text: str | None
    finished: bool = False
    failure: str | None = None
    is_lasting: bool = False
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Choice:
    """The probability of each option, which add up to 1, and the ``mass`` the model gave them all together.

    Where only the reply itself is known, it is certain and the mass is None.
    """

    probabilities: tuple[float, ...]
    mass: float | None = None


class Generator(Protocol):
    """A model that writes."""

    @property
    def name(self) -> str:
        """The model as records name it."""
        ...

    @property
    def cost(self) -> float | None:
        """US dollars spent so far; None where prices are not known, or where there are none."""
        ...

    def generate(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[list[Text]]:
        """``n`` completions of each prompt: a text is continued, chat messages are answered.

        Draws follow from ``seed``, the place of the prompt and the number of the completion. ``progress`` is told how
        many are done. PreftuneError where nothing can come of any prompt.
        """
        ...

    def choose(
        self, prompts: Sequence[Prompt], options: Sequence[str], progress: Progress | None = None
    ) -> list[Choice | None]:
        """Which of the ``options`` answers each prompt; None where the reply is none of them."""
        ...


def open_local(config: ModelConfig, note: Note | None = None) -> LocalModel:
    """The model of ``config`` on this machine, ready to write."""
    import torch

    from preftune.models.lean_modules import make_lean
    from preftune.models.loading import load_model, load_tokenizer
    from preftune.rollout.engine import open_sampler
    from preftune.rollout.sample import padding_and_stops

    tokenizer = load_tokenizer(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(config, device).requires_grad_(False)
    make_lean(model)
    sampler = open_sampler(model, tokenizer, **padding_and_stops(model, tokenizer), note=note)
    return LocalModel(config.model, model, tokenizer, sampler, note or (lambda _: None))


@dataclass(frozen=True)
class LocalModel:
    """A model in this process, drawn from by the built-in sampler (or another of its kind)."""

    name: str
    model: Any
    tokenizer: Any
    sampler: Sampler
    note: Note = field(default=lambda _: None, repr=False)
    cost: float | None = None

    def generate(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, seed: int, progress: Progress | None = None
    ) -> list[list[Text]]:
        """As ``Generator`` has it; a prompt that the template refuses, or that is too long, is a failure of its own."""
        found = [self._encoded(prompt) for prompt in prompts]
        fit = {number: ids for number, ids in enumerate(found) if isinstance(ids, list)}
        drawn = dict(zip(fit, self.sampler.sample(list(fit.values()), n, sampling, seed, progress), strict=True))
        return [
            [Text(None, failure=ids, is_lasting=True)] * n
            if isinstance(ids, str)
            else [self._text(one) for one in drawn[number]]
            for number, ids in enumerate(found)
        ]

    def choose(
        self, prompts: Sequence[Prompt], options: Sequence[str], progress: Progress | None = None
    ) -> list[Choice | None]:
        """By the log-probs that the model gives the options as the beginning of its answer."""
        encoded = {number: self._encoded(prompt, options) for number, prompt in enumerate(prompts)}
        fit = {number: ids for number, ids in encoded.items() if not isinstance(ids, str)}
        order = sorted(fit, key=lambda number: len(fit[number][0]))
        choices: dict[int, Choice] = {}
        for begin in range(0, len(order), _CHOICES):
            members = order[begin : begin + _CHOICES]
            choices |= dict(zip(members, self._choices([fit[number] for number in members]), strict=True))
            if progress is not None:
                progress(len(members))
        return [choices.get(number) for number in range(len(prompts))]

    def _choices(self, encoded: Sequence[list[list[int]]]) -> list[Choice]:
        """Of prompts encoded alone and with each option, the choices."""
        import torch

        from preftune.data.encoding import common_prefix
        from preftune.models.layout import Group

        groups: list[Group] = []
        for prompt, *answered in encoded:
            boundary = min(common_prefix(prompt, whole) for whole in answered)
            groups.append(Group(prompt[:boundary], tuple(tuple(whole[boundary:]) for whole in answered)))
        with torch.no_grad():
            sums = self._engine(groups).sums().double().cpu().numpy().reshape(len(groups), -1)
        totals = np.logaddexp.reduce(sums, axis=1)
        shares = np.exp(sums - totals[:, None])
        return [Choice(tuple(row.tolist()), math.exp(total)) for row, total in zip(shares, totals, strict=True)]

    @cached_property
    def _engine(self) -> Any:
        from preftune.models.logprobs import LogProbEngine

        return LogProbEngine(self.model, note=self.note).eval()

    def _encoded(self, prompt: Prompt, options: Sequence[str] = ()) -> Any:
        """The prompt's tokens; with ``options`` those of the prompt alone and with each; a text says why not."""
        from preftune.data.encoding import TemplateRefusal, encode_prompts, render_prompt
        from preftune.data.records import PromptRecord

        record = PromptRecord.model_validate({"prompt": prompt})
        try:
            text = render_prompt(record, self.tokenizer)
        except TemplateRefusal as refusal:
            return f"the chat template refuses it: {refusal.what}"
        texts = [text, *(f"{text}{option}" for option in options)]
        encoded = encode_prompts(texts, self.tokenizer, is_chat=record.is_conversational)
        longest, positions = max(map(len, encoded)), self._positions
        if not encoded[0]:
            return "the prompt has no tokens"
        if positions is not None and longest > positions:
            return f"the prompt has {longest:,} tokens, and the model has {positions:,} positions"
        return encoded if options else encoded[0]

    @cached_property
    def _positions(self) -> int | None:
        from preftune.models.paths import causal_model

        config: Any = causal_model(self.model).config
        config = config.get_text_config() if hasattr(config, "get_text_config") else config
        return getattr(config, "max_position_embeddings", None)

    def _text(self, drawn: Any) -> Text:
        text = self.tokenizer.decode(drawn.tokens, skip_special_tokens=True)
        return Text(text, drawn.finished, tokens=tuple(drawn.tokens))


def choose_by_reply(
    generator: Generator, prompts: Sequence[Prompt], options: Sequence[str], progress: Progress | None = None
) -> list[Choice | None]:
    """The choices of a generator of which no probabilities are known, by its greedy replies."""
    given = generator.generate(prompts, 1, Sampling(16, temperature=0.0), 0, progress)
    return [chosen_reply(texts[0].text, options) for texts in given]


def chat_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The prompt as chat messages: a text is what a user says."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [dict(message) for message in prompt]


def no_text(text: Text, what: str = "text") -> tuple[str, str]:
    """The reason, with its mend, why there is no text: FAILED where asking again may help."""
    if text.is_lasting:
        return "cannot-be-asked", f"No {what} came ({text.failure}); shorten the prompt, or use another model."
    return FAILED, f"No {what} came ({text.failure}); run the same again."


def seed_of(seed: int, *place: int) -> int:
    """A seed for one step of the work, so that no two steps draw the same numbers."""
    return int(np.random.SeedSequence([seed % 2**64, *place]).generate_state(1)[0])


def require_sampling(sampling: Sampling) -> None:
    """PreftuneError for settings that no generator can draw with."""
    if sampling.max_new_tokens < 1 or not sampling.temperature >= 0 or not 0 < sampling.top_p <= 1:
        shown = json.dumps({name: getattr(sampling, name) for name in ("max_new_tokens", "temperature", "top_p")})
        mend = "At least 1 new token, a temperature of 0 or more, top_p above 0 and at most 1."
        raise PreftuneError(f"Completions cannot be drawn with {shown}.", mend=mend)


def chosen_reply(reply: str | None, options: Sequence[str]) -> Choice | None:
    """The option that a reply is, up to quotes, brackets and a full stop."""
    said = (reply or "").strip().strip("\"'()[]*.").strip()
    return Choice(tuple(float(option == said) for option in options)) if said in options else None
