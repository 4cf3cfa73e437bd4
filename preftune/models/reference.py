"""The frozen reference: where its log-probs come from, and the proof that it did not move."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from preftune.data.batches import by_length
from preftune.data.tokens import TokenPair, fingerprint_tokens
from preftune.durable import write_file
from preftune.errors import PreftuneError
from preftune.models.cache import cache_folder
from preftune.models.layout import Group
from preftune.models.logprobs import LogProbEngine, causal_model
from preftune.models.weights import all_parameters, fingerprint_weights, frozen_parameters

PairLogProbs = Float[Tensor, "pairs 2"]  # chosen, rejected: sums over completion tokens, in nats
SequenceLogProbs = Float[Tensor, "sequences"]


@dataclass(frozen=True)
class FrozenModel:
    """A policy that is not trained; ``kind`` says how.

    ``sums(groups)`` are its log-probs, ``fingerprint()`` hashes its weights, ``lend()`` gives the model itself to
    generate with, for as long as the block lasts.
    """

    kind: str
    sums: Callable[[Sequence[Group]], SequenceLogProbs]
    fingerprint: Callable[[], str]
    lend: Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Reference:
    """The log-probs of pairs under a frozen policy; ``fingerprint()`` hashes what they depend on."""

    kind: str
    log_probs: Callable[[Sequence[TokenPair]], PairLogProbs]
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


def pair_groups(pairs: Sequence[TokenPair]) -> list[Group]:
    """The pairs as groups of one prompt and two completions, chosen first."""
    return [Group(p.prompt.tolist(), (p.chosen.tolist(), p.rejected.tolist())) for p in pairs]


def adapter_off(engine: LogProbEngine) -> FrozenModel:
    """The policy with its adapter switched off: the frozen base weights."""

    @contextmanager
    def lend() -> Iterator[nn.Module]:
        with engine.model.disable_adapter():  # type: ignore[operator]
            yield engine.model

    def sums(groups: Sequence[Group]) -> SequenceLogProbs:
        with lend():
            return _sums(engine, groups)

    return FrozenModel("adapter switched off", sums, _fingerprint_of(engine, frozen_parameters), lend)


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
        lambda groups: _sums(engine, groups),
        _fingerprint_of(engine, all_parameters),
        lambda: nullcontext(engine.model),
    )


def live(model: FrozenModel) -> Reference:
    """``model`` asked anew for every batch."""
    return Reference(model.kind, lambda pairs: model.sums(pair_groups(pairs)).view(-1, 2), model.fingerprint)


def computed_once(
    model: FrozenModel,
    pairs: Sequence[TokenPair],
    *,
    batch_size: int,
    key: str,
    progress: Callable[[int], object] | None = None,
) -> Reference:
    """``model``'s log-probs of ``pairs``, computed now or read from the cache; the model is then not needed.

    The cache is keyed by every token of the pairs (so by data, tokenizer, template and truncation), the
    model's weights and ``key`` (precision and path). Asking for another pair is a ``KeyError``.
    """
    identity = "\n".join([fingerprint_tokens(pairs), model.fingerprint(), key])
    file = cache_folder("reference") / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"
    found = _read_table(file, len(pairs))
    table = pair_log_probs(model, pairs, batch_size, progress) if found is None else found
    if found is None:
        write_file(file, save({"log_probs": table}))
    elif progress is not None:
        progress(len(pairs))
    place = {_content(pair): number for number, pair in enumerate(pairs)}

    def log_probs(asked: Sequence[TokenPair]) -> PairLogProbs:
        return table[torch.tensor([place[_content(pair)] for pair in asked], dtype=torch.long)]

    return Reference(
        f"log-probs computed once, {model.kind}",
        log_probs,
        lambda: fingerprint_weights([("log_probs", table)]),
    )


def pair_log_probs(
    model: FrozenModel,
    pairs: Sequence[TokenPair],
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> PairLogProbs:
    """``model``'s log-probs of ``pairs``, in their order, on the CPU in float32; batches are of like length."""
    table = torch.empty(len(pairs), 2)
    for batch in by_length([pair.length for pair in pairs], batch_size):
        sums = model.sums(pair_groups([pairs[i] for i in batch]))
        table[torch.tensor(batch)] = sums.view(-1, 2).float().cpu()
        if progress is not None:
            progress(len(batch))
    return table


def _fingerprint_of(
    engine: LogProbEngine, tensors: Callable[[nn.Module], list[tuple[str, Tensor]]]
) -> Callable[[], str]:
    """A hash of what the log-probs depend on: weights as they then are, and settings such as a norm's epsilon."""
    config = causal_model(engine.model).config.to_dict()  # type: ignore[union-attr, operator]
    said = {name: value for name, value in config.items() if name not in ("_name_or_path", "transformers_version")}
    settings = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()
    return lambda: fingerprint_weights([(settings, torch.empty(0)), *tensors(engine.model)])


def _sums(engine: LogProbEngine, groups: Sequence[Group]) -> SequenceLogProbs:
    was_training = engine.training
    engine.eval()
    try:
        with torch.no_grad():
            return engine(groups).sums()
    finally:
        engine.train(was_training)


def _content(pair: TokenPair) -> tuple[bytes, bytes, bytes]:
    """What tells pairs apart: their ids may repeat in the data."""
    return pair.prompt.tobytes(), pair.chosen.tobytes(), pair.rejected.tobytes()


def _read_table(file: Path, n: int) -> PairLogProbs | None:
    try:
        table = load_file(file)["log_probs"]
    except (OSError, SafetensorError, KeyError):
        return None
    return table if table.shape == (n, 2) else None
