"""A GPT small enough for any laptop, and the same body with one number for its head."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.mini.tokenizer import BYTES


class MiniGPT(nn.Module):
    """A decoder-only transformer with learned positions and norms before each part (Radford et al. 2019).

    ``forward(tokens)`` gives the logits of each next token. It has no dropout: a forward pass is a function of weights
    and tokens. Weights are drawn from ``seed``, whatever was drawn before. Raises ``PreftuneError`` for sizes that
    do not fit together.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 4,
        max_seq_len: int = 128,
        ff_dim: int = 512,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = Body(vocab_size, embed_dim, num_heads, num_layers, max_seq_len, ff_dim)
            self.head = _linear(embed_dim, vocab_size, 0.02)

    @property
    def max_seq_len(self) -> int:
        return self.body.max_seq_len

    def forward(self, tokens: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens vocab"]:
        return self.head(self.body(tokens))


class RewardModel(nn.Module):
    """MiniGPT's body with one number for its head: the score of a prompt with its answer.

    ``forward(tokens, lengths)`` reads the score at the last of each row's ``lengths`` tokens, the end token.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        embed_dim: int = 128,
        num_heads: int = 4,
        num_layers: int = 4,
        max_seq_len: int = 128,
        ff_dim: int = 512,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = Body(vocab_size, embed_dim, num_heads, num_layers, max_seq_len, ff_dim)
            self.score = _linear(embed_dim, 1, 1 / math.sqrt(embed_dim + 1))

    @property
    def max_seq_len(self) -> int:
        return self.body.max_seq_len

    def forward(self, tokens: Int[Tensor, "rows tokens"], lengths: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
        hidden = self.body(tokens)
        rows = torch.arange(len(tokens), device=tokens.device)
        return self.score(hidden[rows, lengths - 1]).squeeze(-1)


class Body(nn.Module):
    """Everything of the transformer but its head; ``forward(tokens)`` gives a vector for each token."""

    def __init__(
        self, vocab_size: int, embed_dim: int, num_heads: int, num_layers: int, max_seq_len: int, ff_dim: int
    ) -> None:
        super().__init__()
        _check_sizes(vocab_size, embed_dim, num_heads, num_layers, max_seq_len, ff_dim)
        self.max_seq_len = max_seq_len
        self.tokens = _embedding(vocab_size, embed_dim)
        self.positions = _embedding(max_seq_len, embed_dim)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, ff_dim, num_layers) for _ in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, tokens: Int[Tensor, "rows tokens"]) -> Float[Tensor, "rows tokens embed"]:
        length = tokens.shape[1]
        if length > self.max_seq_len:
            raise PreftuneError(
                f"A row of {length} tokens does not fit the model's {self.max_seq_len} positions.",
                where="max_seq_len",
                mend="Build the model with a larger max_seq_len, or cut the row.",
            )
        hidden = self.tokens(tokens) + self.positions.weight[:length]
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)


class Block(nn.Module):
    """Causal attention, then a feed-forward part, each added to what it reads."""

    def __init__(self, embed_dim: int, num_heads: int, ff_dim: int, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        at_start = 0.02 / math.sqrt(2 * num_layers)  # GPT-2's: the sum over all blocks keeps its variance
        self.attention_norm = nn.LayerNorm(embed_dim)
        self.queries_keys_values = _linear(embed_dim, 3 * embed_dim, 0.02)
        self.attention_out = _linear(embed_dim, embed_dim, at_start)
        self.ff_norm = nn.LayerNorm(embed_dim)
        self.ff_in = _linear(embed_dim, ff_dim, 0.02)
        self.ff_out = _linear(ff_dim, embed_dim, at_start)

    def forward(self, hidden: Float[Tensor, "rows tokens embed"]) -> Float[Tensor, "rows tokens embed"]:
        hidden = hidden + self._attend(self.attention_norm(hidden))
        return hidden + self.ff_out(F.gelu(self.ff_in(self.ff_norm(hidden))))

    def _attend(self, hidden: Float[Tensor, "rows tokens embed"]) -> Float[Tensor, "rows tokens embed"]:
        rows, length, width = hidden.shape
        split = self.queries_keys_values(hidden).view(rows, length, 3, self.num_heads, width // self.num_heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (rows, heads, tokens, width / heads)
        mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.attention_out(mixed.transpose(1, 2).reshape(rows, length, width))


def copy_model_weights(source: nn.Module, target: nn.Module) -> None:
    """Gives ``target`` the weights of ``source``; they share nothing afterwards.

    Raises ``PreftuneError``, before anything is copied, where their names or shapes differ.
    """
    given, wanted = source.state_dict(), target.state_dict()
    differing = [name for name in sorted(given.keys() | wanted.keys()) if _shape(given, name) != _shape(wanted, name)]
    if differing:
        raise PreftuneError(
            f"The two models differ in {len(differing)} weights, first in {differing[0]}: "
            f"{_shape(given, differing[0])} and {_shape(wanted, differing[0])}.",
            where="copy_model_weights",
            mend="Build both with the same sizes, or copy parts that agree, such as source.body and target.body.",
        )
    target.load_state_dict(given)


def refuse_shared_weights(policy: nn.Module, other: nn.Module, role: str) -> None:
    """Raises ``PreftuneError`` where ``other`` would move with every step of the policy."""
    shared = {p.data_ptr() for p in policy.parameters()} & {p.data_ptr() for p in other.parameters()}
    if not shared:
        return
    what = "are the same object" if policy is other else f"share {len(shared)} of their weights"
    raise PreftuneError(
        f"Policy and {role} {what}: the {role} would move with every step.",
        where=role,
        mend=f"Build the {role} by itself and give it the weights with copy_model_weights(source, target).",
    )


def _check_sizes(
    vocab_size: int, embed_dim: int, num_heads: int, num_layers: int, max_seq_len: int, ff_dim: int
) -> None:
    least = {"vocab_size": BYTES, "embed_dim": 1, "num_heads": 1, "num_layers": 1, "max_seq_len": 2, "ff_dim": 1}
    given = (vocab_size, embed_dim, num_heads, num_layers, max_seq_len, ff_dim)
    for (name, minimum), size in zip(least.items(), given, strict=True):
        if size < minimum:
            why = " (a token is a byte)" if name == "vocab_size" else ""
            raise PreftuneError(f"{name} is {size}.", where=name, mend=f"It must be at least {minimum}{why}.")
    if embed_dim % num_heads:
        raise PreftuneError(
            f"embed_dim {embed_dim} cannot be shared out among {num_heads} heads.",
            where="num_heads",
            mend="Choose an embed_dim that is a multiple of num_heads.",
        )


def _linear(inputs: int, outputs: int, deviation: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=deviation)
    nn.init.zeros_(layer.bias)
    return layer


def _embedding(count: int, width: int) -> nn.Embedding:
    layer = nn.Embedding(count, width)
    nn.init.normal_(layer.weight, std=0.02)
    return layer


def _shape(weights: dict[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
