"""The frozen reference: where its log-probs come from, and the proof that it did not move."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.data.tokens import TokenIds, fingerprint_tokens
from preftune.durable import write_file
from preftune.errors import PreftuneError
from preftune.models.cache import cache_folder
from preftune.models.layout import Group
from preftune.models.logprobs import CompletionLogProbs, LogProbEngine, causal_model
from preftune.models.weights import all_parameters, fingerprint_weights, frozen_parameters

SequenceLogProbs = Float[Tensor, "sequences"]
ItemLogProbs = Float[Tensor, "items completions"]  # sums over completion tokens, in nats
PairLogProbs = Float[Tensor, "pairs 2"]  # the same of pairs: chosen, rejected


class Item(Protocol):
    """A prompt with the completions that are scored, as tokens; such as a pair."""

    @property
    def id(self) -> str: ...

    @property
    def prompt(self) -> TokenIds: ...

    @property
    def completions(self) -> tuple[TokenIds, ...]: ...

    @property
    def length(self) -> int: ...


Reduction: TypeAlias = Callable[[CompletionLogProbs, Sequence[Any]], SequenceLogProbs]


def summed(scores: CompletionLogProbs, items: Sequence[Any]) -> SequenceLogProbs:
    """The usual reduction: log p(completion | prompt), every token counting once."""
    return scores.sums()


@dataclass(frozen=True)
class FrozenModel:
    """A policy that is not trained; ``kind`` says how.

    ``log_probs(groups)`` are its log-probs, ``fingerprint()`` hashes its weights, ``lend()`` gives the model itself
    to generate with, for as long as the block lasts.
    """

    kind: str
    log_probs: Callable[[Sequence[Group]], CompletionLogProbs]
    fingerprint: Callable[[], str]
    lend: Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Reference:
    """The log-probs of items under a frozen policy; ``fingerprint()`` hashes what they depend on."""

    kind: str
    log_probs: Callable[[Sequence[Any]], ItemLogProbs]
    fingerprint: Callable[[], str]


class ReferenceGuard:
    """Takes the reference's fingerprint at the start, and stops the run if it ever differs."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.at_start = self.latest = reference.fingerprint()
        self.checks = 1

    def check(self, moment: str) -> None:
        """Raises ``PreftuneError`` if the reference moved since the start."""
        self.checks += 1
        self.latest = self._reference.fingerprint()
        if self.latest != self.at_start:
            raise PreftuneError(
                f"The reference has moved: at {moment} it is not what it was at the start.",
                where=f"reference ({self._reference.kind})",
                mend="Something outside changed it; every figure since the last check is void. Start anew.",
            )

    def record(self) -> dict[str, Any]:
        """What was checked, for the files of the run."""
        return {
            "kind": self._reference.kind,
            "at_start": self.at_start,
            "at_end": self.latest,
            "checks": self.checks,
        }


def groups_of(items: Sequence[Item]) -> list[Group]:
    """The items as the engine takes them."""
    return [Group(item.prompt.tolist(), tuple(one.tolist() for one in item.completions)) for item in items]


def adapter_off(engine: LogProbEngine) -> FrozenModel:
    """The policy with its adapter switched off: the frozen base weights."""

    @contextmanager
    def lend() -> Iterator[nn.Module]:
        with engine.model.disable_adapter():  # type: ignore[operator]
            yield engine.model

    def log_probs(groups: Sequence[Group]) -> CompletionLogProbs:
        with lend():
            return _without_gradient(engine, groups)

    return FrozenModel("adapter switched off", log_probs, _fingerprint_of(engine, frozen_parameters), lend)


def separate_model(engine: LogProbEngine) -> FrozenModel:
    """A second model, frozen here."""
    engine.requires_grad_(False).eval()
    return _as_it_is("separate model", engine)


def starting_weights(engine: LogProbEngine) -> FrozenModel:
    """The policy itself, to be asked before its first step only."""
    return _as_it_is("starting weights", engine)


def _as_it_is(kind: str, engine: LogProbEngine) -> FrozenModel:
    return FrozenModel(
        kind,
        lambda groups: _without_gradient(engine, groups),
        _fingerprint_of(engine, all_parameters),
        lambda: nullcontext(engine.model),
    )


def live(model: FrozenModel, reduce: Reduction = summed) -> Reference:
    """``model`` asked anew for every batch."""
    return Reference(model.kind, lambda items: _of_items(model, items, reduce), model.fingerprint)


def computed_once(
    model: FrozenModel,
    items: Sequence[Item],
    *,
    batch_size: int,
    key: str,
    reduce: Reduction = summed,
    progress: Callable[[int], object] | None = None,
) -> Reference:
    """``model``'s log-probs of ``items``, computed now or read from the cache; the model is then not needed.

    The cache is keyed by every token of the items (so by data, tokenizer, template and truncation), the model's
    weights and ``key`` (precision, path, reduction). Asking for another item is a ``KeyError``.
    """
    identity = "\n".join([fingerprint_tokens(items), model.fingerprint(), key])  # type: ignore[arg-type]
    file = cache_folder("reference") / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
    found = _read_table(file, len(items))
    table = item_log_probs(model, items, batch_size, progress, reduce) if found is None else found
    if found is None:
        write_file(file, save({"log_probs": table}))
    elif progress is not None:
        progress(len(items))
    place = {_content(item): number for number, item in enumerate(items)}

    def log_probs(asked: Sequence[Item]) -> ItemLogProbs:
        return table[torch.tensor([place[_content(item)] for item in asked], dtype=torch.long)]

    return Reference(
        f"log-probs computed once, {model.kind}",
        log_probs,
        lambda: fingerprint_weights([("log_probs", table)]),
    )


def item_log_probs(
    model: FrozenModel,
    items: Sequence[Item],
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    reduce: Reduction = summed,
) -> ItemLogProbs:
    """``model``'s log-probs of ``items``, in their order, on the CPU in float32; batches are of like length."""
    table = torch.empty(len(items), len(items[0].completions) if items else 2)
    for batch in by_length([item.length for item in items], batch_size):
        table[torch.tensor(batch)] = _of_items(model, [items[i] for i in batch], reduce).float().cpu()
        if progress is not None:
            progress(len(batch))
    return table


def _of_items(model: FrozenModel, items: Sequence[Item], reduce: Reduction) -> ItemLogProbs:
    return reduce(model.log_probs(groups_of(items)), items).view(len(items), -1)


def _fingerprint_of(
    engine: LogProbEngine, tensors: Callable[[nn.Module], list[tuple[str, Tensor]]]
) -> Callable[[], str]:
    """A hash of what the log-probs depend on: weights as they then are, and settings such as a norm's epsilon."""
    config = causal_model(engine.model).config.to_dict()  # type: ignore[union-attr, operator]
    said = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    said |= {} if engine.temperature == 1.0 else {"drawn_at_temperature": engine.temperature}
    settings = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    return lambda: fingerprint_weights([(settings, torch.empty(0)), *tensors(engine.model)])


def _without_gradient(engine: LogProbEngine, groups: Sequence[Group]) -> CompletionLogProbs:
    was_training = engine.training
    engine.eval()
    try:
        with torch.no_grad():
            return engine(groups)
    finally:
        engine.train(was_training)


def _content(item: Item) -> tuple[bytes, ...]:
    """What tells items apart: their ids may repeat in the data."""
    return (item.prompt.tobytes(), *(one.tobytes() for one in item.completions))


def _read_table(file: Path, n: int) -> ItemLogProbs | None:
    try:
        table = load_file(file)["log_probs"]
    except (OSError, SafetensorError, KeyError):
        return None
    return table if table.ndim == 2 and len(table) == n else None
