"""Tokens from logits: which may be drawn, how often, and with what log-prob."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from preftune.rollout.decoding import BLOCK, NUCLEUS, draw, truncated
from preftune.rollout.protocol import Sampling

LAST = 1 - 2.0**-53


def _logits(rows: int, vocab: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def _uniforms(rows: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _settings(**changes: Any) -> Sampling:
    return Sampling(max_new_tokens=1, **changes)


def _naive_set(probabilities: Tensor, sampling: Sampling) -> set[int]:
    """Token by token, as transformers' warpers take turns; no ties."""
    order = probabilities.argsort(descending=True).tolist()
    kept = order[: sampling.top_k] if sampling.top_k else order
    mass, nucleus = float(probabilities[kept].sum()), []
    for token in kept:
        if nucleus and float(probabilities[nucleus].sum()) >= sampling.top_p * mass:
            break
        nucleus.append(token)
    return {token for token in nucleus if probabilities[token] >= sampling.min_p * probabilities.max()}


@pytest.mark.parametrize("vocab", [1, 7, BLOCK, BLOCK + 1, 3 * BLOCK - 5])
def test_draw_is_where_the_cumulative_distribution_passes_the_number(vocab: int) -> None:
    logits, numbers = _logits(200, vocab), _uniforms(200)
    tokens, log_probs = draw(logits, _settings(), numbers)
    exact = logits.double().log_softmax(-1)
    running = exact.exp().cumsum(-1).numpy()
    expected = [
        int(np.searchsorted(row, u * row[-1], side="right")) for row, u in zip(running, numbers.tolist(), strict=True)
    ]
    assert tokens.tolist() == expected
    assert log_probs.dtype == torch.float32
    assert torch.allclose(log_probs.double(), exact.gather(1, tokens[:, None])[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    "sampling",
    [_settings(), _settings(temperature=0.5), _settings(top_k=3), _settings(top_p=0.7), _settings(min_p=0.2)],
)
def test_frequencies_are_those_of_the_distribution(sampling: Sampling) -> None:
    n, logits = 20_000, _logits(1, 6, seed=1, spread=1.0)
    tokens, _ = draw(logits.expand(n, -1), sampling, _uniforms(n))
    temperature = sampling.temperature
    exact = (logits[0].double() / temperature).softmax(-1)
    kept = sorted(_naive_set(exact, sampling))
    expected = exact[kept] / exact[kept].sum() * n
    counts = torch.bincount(tokens, minlength=6)
    assert counts.sum() == counts[kept].sum()
    chi_square = float(((counts[kept] - expected).square() / expected).sum())
    assert chi_square < (len(kept) - 1) + 4 * (2 * (len(kept) - 1)) ** 0.5


@given(
    seed=st.integers(0, 1000),
    top_k=st.sampled_from([0, 1, 2, 17, 5000]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    vocab=st.sampled_from([5, 300, 700]),
)
def test_truncation_keeps_the_sets_of_their_definitions(
    seed: int, top_k: int, top_p: float, min_p: float, vocab: int
) -> None:
    sampling = _settings(top_k=top_k, top_p=top_p, min_p=min_p)
    logits = _logits(3, vocab, seed, spread=1.0)
    probabilities = logits.double().softmax(-1)
    tokens, log_probs = draw(logits.double(), sampling, torch.tensor([0.0, 0.5, LAST], dtype=torch.float64))
    left = truncated(probabilities, sampling)
    for row, token, log_prob, kept in zip(probabilities, tokens.tolist(), log_probs, left, strict=True):
        allowed = _naive_set(row, sampling)
        assert set(kept.nonzero()[:, 0].tolist()) == allowed
        assert token in allowed
        assert float(log_prob) == pytest.approx(float((row[token] / row[sorted(allowed)].sum()).log()), abs=2e-6)


def test_nucleus_may_be_larger_than_the_first_look() -> None:
    """A flat row takes several looks, a sharp one beside it none the more."""
    vocab = 40 * NUCLEUS
    logits = torch.stack([_logits(1, vocab, spread=0.01)[0], _logits(1, vocab, spread=5.0)[0]]).double()
    probabilities = logits.softmax(-1)
    kept = truncated(probabilities, _settings(top_p=0.9))
    for row, left in zip(probabilities, kept, strict=True):
        size = int((row.sort(descending=True).values.cumsum(-1) < 0.9).sum()) + 1
        assert int((left > 0).sum()) == size
    assert int((kept[0] > 0).sum()) > 8 * NUCLEUS
    assert torch.equal(kept[1], truncated(probabilities[1:], _settings(top_p=0.9))[0])


@pytest.mark.parametrize("vocab", [9, BLOCK, 5 * BLOCK])
@pytest.mark.parametrize("number", [0.0, 0.5, LAST])
def test_tokens_without_probability_are_never_drawn(vocab: int, number: float) -> None:
    for only in (0, vocab // 2, vocab - 1):
        logits = torch.full((1, vocab), float("-inf"))
        logits[0, only] = 3.0
        tokens, log_probs = draw(logits, _settings(), torch.tensor([number], dtype=torch.float64))
        assert (tokens.tolist(), log_probs.tolist()) == ([only], [0.0])


def test_greedy_takes_the_likeliest_with_its_log_prob_at_temperature_one() -> None:
    logits = _logits(20, 50)
    tokens, log_probs = draw(logits, _settings(temperature=0.0, top_p=0.1), torch.zeros(20))
    assert torch.equal(tokens, logits.argmax(-1))
    assert torch.allclose(log_probs, logits.log_softmax(-1).amax(-1), atol=1e-6)


def test_log_probs_below_float32_are_those_of_the_logits_given() -> None:
    logits = _logits(50, 1000, spread=5.0).bfloat16()
    tokens, log_probs = draw(logits, _settings(temperature=0.7), _uniforms(50))
    exact = (logits.double() / 0.7).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    assert torch.allclose(log_probs.double(), exact, atol=1e-5)


@pytest.mark.parametrize("sampling", [_settings(), _settings(temperature=0.0), _settings(top_p=0.5)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_give_no_log_prob(sampling: Sampling, bad: float) -> None:
    logits = _logits(2, 30)
    logits[1, 4] = bad
    _, log_probs = draw(logits, sampling, _uniforms(2))
    assert log_probs.isnan().tolist() == [False, True]
