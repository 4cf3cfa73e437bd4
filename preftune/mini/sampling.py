"""Answers drawn from a small model, token by token, and how far its distribution is from another's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure, mean
from preftune.mini.log_probs import device_of, next_token_log_probs, pad
from preftune.mini.model import MiniGPT
from preftune.mini.tokenizer import ANSWER, END, Example, decode, encode

ROWS = 64  # drawn at once


def generate(
    model: MiniGPT,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    *,
    seed: int = 0,
) -> list[str]:
    """An answer to each prompt; ``temperature`` 0 takes the likeliest byte each time, else ``seed`` draws."""
    return [decode(example.answer) for example in draw_answers(model, prompts, max_new_tokens, temperature, seed=seed)]


@torch.no_grad()
def draw_answers(
    model: MiniGPT,
    prompts: Sequence[str],
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    *,
    seed: int = 0,
) -> list[Example]:
    """As ``generate``, as tokens: each answer has its end token unless it was still going after ``max_new_tokens``.

    A prompt too long for ``max_seq_len`` loses its beginning. Raises ``PreftuneError`` where no prompt would fit.
    """
    if not 0 < max_new_tokens < model.max_seq_len:
        raise PreftuneError(
            f"max_new_tokens is {max_new_tokens}, max_seq_len {model.max_seq_len}.",
            where="max_new_tokens",
            mend=f"Choose it from 1 to {model.max_seq_len - 1}.",
        )
    room = model.max_seq_len - max_new_tokens
    starts = [(*tokens[max(0, len(tokens) + 1 - room) :], ANSWER) for tokens in map(encode, prompts)]
    draw = torch.Generator().manual_seed(seed)
    found: list[Example] = []
    for begin in range(0, len(starts), ROWS):
        found += _continue(model, starts[begin : begin + ROWS], max_new_tokens, temperature, draw)
    return found


def kl_from_reference(
    policy: MiniGPT, reference: MiniGPT, prompts: Sequence[str], max_new_tokens: int = 64, *, seed: int = 0
) -> Measure:
    """KL(policy || reference) of whole answers of at most ``max_new_tokens`` tokens, in nats an answer.

    Answers are drawn from the policy; at each of their places the divergence of the two next-token distributions is
    summed over the vocabulary. By the chain rule its sum over places has the answers' KL for its mean, with less
    noise than log pi / pi_ref of what was drawn; and it is never below zero.
    """
    answers = draw_answers(policy, prompts, max_new_tokens, seed=seed)
    sums: list[float] = []
    for begin in range(0, len(answers), ROWS):
        sums += _divergences(policy, reference, answers[begin : begin + ROWS])
    what = "How far the policy's answers are from the reference's: the sum over an answer's tokens, mean over prompts."
    return mean(sums, "nats", "KL from the reference", what, prompts)


@torch.no_grad()
def _divergences(policy: MiniGPT, reference: MiniGPT, answers: Sequence[Example]) -> list[float]:
    batch = pad(answers, device_of(policy))
    ours, theirs = (next_token_log_probs(model, batch) for model in (policy, reference))
    by_place = (ours.exp() * (ours - theirs)).sum(-1)  # (rows, tokens - 1)
    return torch.where(batch.is_answer[:, 1:], by_place, 0.0).double().sum(1).tolist()


def _continue(
    model: MiniGPT, starts: Sequence[tuple[int, ...]], most: int, temperature: float, draw: torch.Generator
) -> list[Example]:
    """Each start with its answer; rows that ended drop out. Keys are computed again for each token: rows are short."""
    rows = [Example(start, len(start)) for start in starts]
    going = list(range(len(rows)))
    for _ in range(most):
        going = [i for i in going if rows[i].tokens[-1] != END]
        if not going:
            break
        batch = pad([rows[i] for i in going], device_of(model))
        logits = (
            model(batch.tokens)[torch.arange(len(going), device=batch.lengths.device), batch.lengths - 1].float().cpu()
        )  # (going, vocab)
        for i, token in zip(going, _choose(logits, temperature, draw).tolist(), strict=True):
            rows[i] = Example((*rows[i].tokens, token), rows[i].start)
    return rows


def _choose(logits: Tensor, temperature: float, draw: torch.Generator) -> Int[Tensor, "rows"]:
    if temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw).squeeze(-1)
