"""The built-in sampler: a static cache, every prompt computed once for all its completions, rows that come and go.

Two paths draw the same completions; which one a model allows is found out by numbers when the sampler is opened:

``cached``    prompts held once, LM head on the last position only, rows leave and join as completions end
``generate``  transformers' own, a row a completion, padded prompts, everyone waiting for the longest
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.head import find_head
from preftune.models.layout import Group
from preftune.models.logprobs import completion_log_probs
from preftune.models.paths import causal_model, cheapest_path, probe_groups, refuse_unfit, sliding_window
from preftune.rollout import attending
from preftune.rollout.batching import Choose, Request, grow_all
from preftune.rollout.cache import KeyValueCache
from preftune.rollout.decoder import Decoder
from preftune.rollout.decoding import draw
from preftune.rollout.draws import uniforms
from preftune.rollout.growing import Growing
from preftune.rollout.packing import packed_linears
from preftune.rollout.protocol import Drawn, Sampler, Sampling
from preftune.rollout.stops import StopText
from preftune.training.allocator import give_back_freed

Path = Literal["cached", "generate"]
PATHS: tuple[Path, ...] = ("cached", "generate")

ROWS = 64
CACHE_BYTES = 4 * 2**30


def open_sampler(
    model: nn.Module,
    tokenizer: Any,
    *,
    stop_ids: Sequence[int],
    note: Callable[[str], object] | None = None,
    rows: int = ROWS,
    cache_bytes: int = CACHE_BYTES,
    pad_id: int = 0,
) -> Sampler:
    """A sampler of ``model`` as it is at each call, adapters in effect; weights are shared with it.

    ``tokenizer`` is needed for stop strings only. At most ``rows`` completions are drawn beside each other, fewer
    where their keys and values would take more than ``cache_bytes``. ``note`` is told in one line when the cheaper
    path cannot be used, and why. ``pad_id`` fills rows on the other one.
    """
    refuse_unfit(model)
    cache = KeyValueCache()
    path = _choose_path(model, cache, note or (lambda _: None))
    bytes_per_token = cache.bytes_per_token()
    cache.clear()
    rows_at_once = RowsAtOnce(rows, cache_bytes // max(bytes_per_token, 1))
    return BuiltInSampler(model, tokenizer, frozenset(stop_ids), path, rows_at_once, pad_id, cache)


@dataclass(frozen=True)
class RowsAtOnce:
    """How many completions are drawn beside each other: at most ``rows``, and ``tokens`` of them together."""

    rows: int
    tokens: int

    def within(self, longest: int) -> int:
        """So many completions that take ``longest`` tokens each, the prompt included."""
        return max(1, min(self.rows, self.tokens // max(longest, 1)))


@dataclass(frozen=True)
class BuiltInSampler:
    """Draws with the model itself, by ``path``; what a call took is given back at its end."""

    model: nn.Module
    tokenizer: Any
    stop_ids: Collection[int]
    path: Path
    rows_at_once: RowsAtOnce
    pad_id: int
    cache: KeyValueCache

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[Drawn]]:
        """As ``protocol.Sampler`` has it.

        Raises ``PreftuneError`` for a prompt that is empty or longer than the model's positions; completions
        end, unfinished, where these end.
        """
        _refuse_unfit_settings(sampling, n, has_tokenizer=self.tokenizer is not None)
        limits = _limits(causal_model(self.model), prompts, sampling.max_new_tokens)
        growing = [
            [self._begin(limit, sampling, seed, number, completion) for completion in range(n)]
            for number, limit in enumerate(limits)
        ]
        # Neighbours of alike length waste least; the longest first, so that memory does not grow on the way.
        order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
        requests = [Request(prompts[number], growing[number]) for number in order]

        def choose(logits: Tensor, rows: Sequence[Growing]) -> tuple[Tensor, Tensor]:
            numbers = torch.tensor([row.uniform for row in rows], dtype=torch.float64)
            return draw(logits, sampling, numbers.to(logits.device))

        rows = self.rows_at_once.within(max(map(len, prompts), default=0) + max(limits, default=0))
        with torch.no_grad(), _evaluating(self.model):
            if self.path == "generate":
                from preftune.rollout.generated import grow_by_generate

                grow_by_generate(causal_model(self.model), requests, rows, choose, self.pad_id, progress)
            else:
                self._grow_cached(requests, rows, choose, progress)
        return [[one.drawn() for one in completions] for completions in growing]

    def sync(self) -> None:
        """Nothing to do: the weights are the policy's own."""

    def _begin(self, limit: int, sampling: Sampling, seed: int, prompt: int, completion: int) -> Growing:
        numbers = uniforms(seed, prompt, completion, limit) if sampling.temperature > 0 else None
        stop_text = StopText(self.tokenizer, sampling.stop) if sampling.stop else None
        return Growing(limit, self.stop_ids, stop_text, numbers)

    def _grow_cached(
        self, requests: Sequence[Request], rows: int, choose: Choose, progress: Callable[[int], object] | None
    ) -> None:
        try:
            with _decoding(self.model, self.cache) as decoder, packed_linears(self.model, rows):
                grow_all(decoder, requests, rows, choose, progress)
        finally:
            self.cache.clear()  # training needs the room, and what a broken pass left there could reach the next
            if next(self.model.parameters()).device.type == "cpu":
                give_back_freed()


def _refuse_unfit_settings(sampling: Sampling, n: int, has_tokenizer: bool) -> None:
    allowed = {
        "n": n >= 0,
        "max_new_tokens": sampling.max_new_tokens >= 1,
        "temperature": sampling.temperature >= 0,
        "top_p": 0 < sampling.top_p <= 1,
        "top_k": sampling.top_k >= 0,
        "min_p": 0 <= sampling.min_p <= 1,
        "stop": has_tokenizer or not sampling.stop,
    }
    for name, is_allowed in allowed.items():
        if not is_allowed:
            value = n if name == "n" else getattr(sampling, name)
            raise PreftuneError(f"{value!r} is out of range.", where=name, mend="See preftune.rollout.protocol.")


def _limits(inner: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[int]:
    """How many tokens each prompt's completions may have; the last one is no input and needs no position."""
    config: Any = inner.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(config, "max_position_embeddings", None)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise PreftuneError(
                "The prompt has no tokens.", where=f"prompt {number}", mend="Begin prompts with a BOS token."
            )
        if positions is not None and len(prompt) > positions:
            raise PreftuneError(
                f"The prompt has {len(prompt)} tokens, and the model has {positions} positions.",
                where=f"prompt {number}",
                mend="Leave long prompts out (max_prompt_length), or use a model with more positions.",
            )
    return [max_new_tokens if positions is None else min(max_new_tokens, positions - len(p) + 1) for p in prompts]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _decoding(model: nn.Module, cache: KeyValueCache) -> Iterator[Decoder]:
    """The model as a decoder; its own attention comes back afterwards."""
    inner: Any = causal_model(model)
    head = find_head(inner)
    if head is None:
        raise NotImplementedError("the LM head is more than one matrix")
    if not inner._can_set_attn_implementation():
        raise NotImplementedError("attention cannot be exchanged")
    attending.register()
    before = inner.config._attn_implementation
    try:
        inner.set_attn_implementation(attending.NAME)
        yield Decoder(inner, head, cache)
    finally:
        inner.set_attn_implementation(before)


# --- the choice -----------------------------------------------------------------------------------------


def _choose_path(model: nn.Module, cache: KeyValueCache, note: Callable[[str], object]) -> Path:
    """The cached path where its log-probs of given completions are those of the model's full logits."""
    inner = causal_model(model)
    probe = probe_groups(inner)

    def numbers(path: Path) -> Tensor:
        if path == "generate":
            return completion_log_probs(model, probe, "logits").per_token
        with _decoding(model, cache) as decoder, packed_linears(model, len(probe)):
            return _log_probs_of(probe, decoder)

    return cheapest_path(model, PATHS, numbers, what="completions", note=note, obstacle=_obstacle(inner))


def _obstacle(inner: Any) -> str | None:
    """What numbers on a few tokens may not show."""
    if find_head(inner) is None:
        return "the LM head is more than one matrix"
    return "attention has a sliding window" if sliding_window(inner) else None


def _log_probs_of(groups: Sequence[Group], decoder: Decoder) -> Tensor:
    """Of each token of the completions, drawn as if chance had chosen them."""
    growing = [[Growing(len(tokens)) for tokens in group.completions] for group in groups]
    wanted = {
        id(one): tokens
        for group, ones in zip(groups, growing, strict=True)
        for one, tokens in zip(ones, group.completions, strict=True)
    }

    def choose(logits: Tensor, rows: Sequence[Growing]) -> tuple[Tensor, Tensor]:
        tokens = torch.tensor([wanted[id(row)][len(row.tokens)] for row in rows], device=logits.device)
        return tokens, logits.float().log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    requests = [Request(group.prompt, ones) for group, ones in zip(groups, growing, strict=True)]
    grow_all(decoder, requests, 3, choose)  # fewer rows than completions: one has to wait
    return torch.cat([torch.from_numpy(one.drawn().log_probs) for ones in growing for one in ones])
