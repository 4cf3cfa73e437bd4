"""Records as tokens, one class a kind: a prompt, and the completions that continue it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool

from preftune.data.encoding import TokenIds

LearnedMask: TypeAlias = Bool[np.ndarray, "tokens"]


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids: ``chosen`` and ``rejected`` continue ``prompt`` and end with EOS unless cut.

    ``margin`` and ``confidence`` are the pair's, which no token depends on.
    """

    NOUN: ClassVar = "pair"
    FIELDS: ClassVar = ("prompt", "chosen", "rejected")  # those that are tokens

    id: str
    prompt: TokenIds
    chosen: TokenIds
    rejected: TokenIds
    margin: float | None = None
    confidence: float | None = None

    @property
    def completions(self) -> tuple[TokenIds, ...]:
        """Chosen, then rejected."""
        return self.chosen, self.rejected

    @property
    def length(self) -> int:
        """Tokens of prompt, chosen and rejected together."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)

    def cut(self, prompt: TokenIds, room: int) -> TokenPair:
        """The pair with this prompt and at most ``room`` tokens a completion."""
        return replace(self, prompt=prompt, chosen=self.chosen[:room], rejected=self.rejected[:room])


@dataclass(frozen=True)
class TokenLabel:
    """A judged answer as token ids: ``completion`` continues ``prompt`` and ends with EOS unless cut."""

    NOUN: ClassVar = "label"
    FIELDS: ClassVar = ("prompt", "completion")  # those that are tokens

    id: str
    prompt: TokenIds
    completion: TokenIds
    label: bool

    @property
    def completions(self) -> tuple[TokenIds, ...]:
        """The one completion."""
        return (self.completion,)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    def cut(self, prompt: TokenIds, room: int) -> TokenLabel:
        """The label with this prompt and at most ``room`` tokens of completion."""
        return replace(self, prompt=prompt, completion=self.completion[:room])


@dataclass(frozen=True)
class TokenDemonstration:
    """An answer to learn from as token ids: ``completion`` continues ``prompt`` and ends with EOS unless cut.

    ``mask`` is True for the tokens of ``completion`` that are learned; None where all of them are.
    """

    NOUN: ClassVar = "demonstration"
    FIELDS: ClassVar = ("prompt", "completion")  # those that are tokens

    id: str
    prompt: TokenIds
    completion: TokenIds
    mask: LearnedMask | None = None

    @property
    def completions(self) -> tuple[TokenIds, ...]:
        """The one completion."""
        return (self.completion,)

    @property
    def length(self) -> int:
        """Tokens of prompt and completion together."""
        return len(self.prompt) + len(self.completion)

    @property
    def learned(self) -> int:
        """The number of tokens that are learned."""
        return len(self.completion) if self.mask is None else int(self.mask.sum())

    def cut(self, prompt: TokenIds, room: int) -> TokenDemonstration:
        """The demonstration with this prompt and at most ``room`` tokens of completion."""
        mask = None if self.mask is None or self.mask[:room].all() else self.mask[:room]
        return replace(self, prompt=prompt, completion=self.completion[:room], mask=mask)


@dataclass(frozen=True)
class TokenPrompt:
    """A prompt to answer as token ids, the assistant's turn opened in a chat.

    ``content`` is the prompt as it was given, text or messages, and ``columns`` what else its row said: reward
    functions get both.
    """

    NOUN: ClassVar = "prompt"
    FIELDS: ClassVar = ("prompt",)  # those that are tokens

    id: str
    prompt: TokenIds
    columns: dict[str, Any] = field(default_factory=dict)
    content: str | list[dict[str, Any]] = ""

    @property
    def completions(self) -> tuple[TokenIds, ...]:
        """None: they are still to be sampled."""
        return ()

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)


TokenRecord: TypeAlias = TokenPair | TokenLabel | TokenDemonstration | TokenPrompt
T = TypeVar("T", bound=TokenRecord)


@dataclass(frozen=True)
class Dropped:
    """A record that training cannot use once it is tokens, and why."""

    id: str
    reason: str
    mend: str


@dataclass(frozen=True)
class Tokenized(Generic[T]):
    """Records of one kind as tokens, those left out, and what truncation cut."""

    kind: type[T]
    records: tuple[T, ...]
    dropped: tuple[Dropped, ...]
    prompts_cut: int
    completions_cut: int
    tokens_cut: int
    boundaries_moved: int

    @property
    def pairs(self) -> tuple[T, ...]:
        """The records, by the name that suits pairs."""
        return self.records

    def receipt(self) -> dict[str, Any]:
        """Counts for the audit: tokens a field, what was cut, what was left out."""
        fields = {name: [len(getattr(record, name)) for record in self.records] for name in self.kind.FIELDS}
        learned = [record.learned for record in self.records if isinstance(record, TokenDemonstration)]
        return {
            f"{self.kind.NOUN}s": len(self.records),
            "lengths": {name: _percentiles(lengths) for name, lengths in fields.items()},
            "total": sum(sum(lengths) for lengths in fields.values()),
            **({"learned": sum(learned)} if self.kind is TokenDemonstration else {}),
            "prompts_cut": self.prompts_cut,
            "completions_cut": self.completions_cut,
            "tokens_cut": self.tokens_cut,
            "boundaries_moved": self.boundaries_moved,
            "left_out": dict(Counter(dropped.reason for dropped in self.dropped)),
        }


def fingerprint_tokens(records: Sequence[TokenRecord]) -> str:
    """A hash of every token in order, of what is learned and of what prompts are rewarded by.

    Data, tokenizer, template and truncation change it.
    """
    digest = hashlib.sha256()
    for record in records:
        for ids in (record.prompt, *record.completions):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.astype("<i4").tobytes())
        if isinstance(record, TokenLabel):
            digest.update(b"+" if record.label else b"-")
        if isinstance(record, TokenDemonstration):
            digest.update(b"all" if record.mask is None else record.mask.astype(np.uint8).tobytes())
        if isinstance(record, TokenPrompt):
            beside = json.dumps([record.content, record.columns], sort_keys=True, default=str).encode()
            digest.update(len(beside).to_bytes(8, "little") + beside)
    return digest.hexdigest()


def _percentiles(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {"n": 0}
    low, median, high = np.percentile(lengths, [5, 50, 95])
    return {
        "n": len(lengths),
        "min": min(lengths),
        "p5": float(low),
        "median": float(median),
        "p95": float(high),
        "max": max(lengths),
    }
