"""Chunked log-probs, entropies and gradients of the LM head against one float64 log_softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from preftune.models import head as head_module
from preftune.models.head import CHUNK_TOKENS, CPU_FORWARD_TOKENS, Head, find_head
from tests.models import tiny_models

WIDTH, VOCAB = 16, 61
CHUNK_BORDERS = [0, 1, CPU_FORWARD_TOKENS, CPU_FORWARD_TOKENS + 1, CHUNK_TOKENS - 1, CHUNK_TOKENS, CHUNK_TOKENS + 1]
EXTRAS = pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.25, None), (1.0, 5.0), (3.0, 4.0)], ids=str)


@pytest.mark.parametrize("n", CHUNK_BORDERS)
@pytest.mark.parametrize("bias", [False, True])
@EXTRAS
def test_values_and_gradients_equal_autograds(n: int, bias: bool, scale: float, softcap: float | None) -> None:
    _check(n, bias, scale, softcap)


@pytest.mark.parametrize("n", [1, CHUNK_TOKENS + 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_probabilities_computed_again_give_the_same_gradients(
    n: int, bias: bool, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "SAVED_PROBABILITIES_BYTES", 0)
    _check(n, bias, scale, None)


@pytest.mark.parametrize("limit", [0, 2**28])
@pytest.mark.parametrize("temperature", [0.6, 2.5])
@EXTRAS
def test_a_temperature_divides_the_capped_logits(
    scale: float, softcap: float | None, temperature: float, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "SAVED_PROBABILITIES_BYTES", limit)
    _check(CPU_FORWARD_TOKENS + 1, True, scale, softcap, temperature)


def test_temperature_one_changes_no_bit() -> None:
    found = []
    for arguments in ((), (1.0,)):
        hidden, targets, head = _problem(9, bias=True)
        log_probs, entropy = Head(head.module, 0.25, 4.0).log_probs(hidden, targets, *arguments)
        log_probs.sum().backward()
        found.append((log_probs, entropy, hidden.grad, head.module.weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_without_a_cap_a_temperature_is_a_scale() -> None:
    hidden, targets, head = _problem(9, bias=False)
    cold, scaled = head.log_probs(hidden, targets, 0.5), Head(head.module, 2.0).log_probs(hidden, targets)
    assert all(torch.allclose(one, other, rtol=1e-6, atol=1e-6) for one, other in zip(cold, scaled, strict=True))


@pytest.mark.parametrize(("limit", "is_saved"), [(0, False), (2**28, True)])
def test_probabilities_are_saved_below_the_limit_only(
    limit: int, is_saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "SAVED_PROBABILITIES_BYTES", limit)
    assert ((7, VOCAB) in _saved_shapes(with_grad=True)) is is_saved


def test_nothing_of_vocabulary_size_is_saved_without_gradients() -> None:
    assert (7, VOCAB) not in _saved_shapes(with_grad=False)


def test_hidden_alone_gets_a_gradient_where_the_head_is_frozen() -> None:
    hidden, targets, head = _problem(9, bias=True)
    head.module.requires_grad_(False)
    log_probs, _ = head.log_probs(hidden, targets)
    log_probs.sum().backward()
    assert hidden.grad is not None and head.module.weight.grad is None and head.module.bias.grad is None


def test_entropy_carries_no_gradient() -> None:
    hidden, targets, head = _problem(3, bias=False)
    assert not head.log_probs(hidden, targets)[1].requires_grad


def test_huge_logits_stay_finite() -> None:
    hidden, targets, head = _problem(5, bias=False)
    log_probs, entropy = Head(head.module, scale=1e4).log_probs(hidden, targets)
    log_probs.sum().backward()
    assert torch.isfinite(log_probs).all() and torch.isfinite(entropy).all()
    assert hidden.grad is not None and torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_bfloat16_log_probs_are_better_than_a_softmax_of_bfloat16_logits(temperature: float) -> None:
    hidden, weight, targets = _spread_problem(400)
    module = nn.Linear(64, VOCAB, bias=False)
    module.weight = nn.Parameter(weight.bfloat16())
    hidden = hidden.bfloat16()
    truth = _reference(hidden.double(), module.weight.double(), None, targets, 1.0, None, temperature)[0]
    ours = Head(module).log_probs(hidden, targets, temperature)[0]
    naive = (module(hidden).float() / temperature).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert _rms(ours - truth) < (0.6 if temperature == 1.0 else 0.7) * _rms(naive - truth)
    assert _rms(ours - truth) < 0.03


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_bfloat16_log_probs_never_exceed_zero(temperature: float) -> None:
    hidden, weight, _ = _spread_problem(400)
    module = nn.Linear(64, VOCAB, bias=False)
    module.weight = nn.Parameter(weight.bfloat16() * 2)
    best = (hidden.bfloat16().float() @ module.weight.float().t()).argmax(-1)
    assert (Head(module).log_probs(hidden.bfloat16(), best, temperature)[0] <= 1e-6).all()


@pytest.mark.parametrize("limit", [0, 2**28])
@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_bfloat16_gradients_are_within_rounding(
    temperature: float, softcap: float | None, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "SAVED_PROBABILITIES_BYTES", limit)
    hidden, targets, head = _problem(CHUNK_TOKENS + 9, bias=True, dtype=torch.bfloat16)
    head = Head(head.module, 1.0, softcap)
    coefficients = torch.randn(len(targets), generator=torch.Generator().manual_seed(3))
    (head.log_probs(hidden, targets, temperature)[0] * coefficients).sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (hidden, head.module.weight, head.module.bias)]
    truth = _reference(wide[0], wide[1], wide[2], targets, 1.0, softcap, temperature)[0]
    (truth * coefficients).sum().backward()
    for ours, reference in zip((hidden, head.module.weight, head.module.bias), wide, strict=True):
        assert _relative(ours.grad, reference.grad) < 0.01


def test_autocast_gives_float32_gradients_within_rounding_of_bfloat16() -> None:
    hidden, targets, head = _problem(20, bias=True)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = head.log_probs(hidden, targets)
    log_probs.sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (hidden, head.module.weight, head.module.bias)]
    truth = _reference(*wide, targets, 1.0, None)[0]
    truth.sum().backward()
    assert log_probs.dtype == head.module.weight.grad.dtype == torch.float32  # type: ignore[union-attr]
    assert torch.allclose(log_probs.double(), truth, atol=0.05)
    for ours, reference in zip((hidden, head.module.weight, head.module.bias), wide, strict=True):
        assert _relative(ours.grad, reference.grad) < 0.02


def test_head_is_found_with_its_scale_and_cap() -> None:
    granite, cohere, gemma2 = (
        find_head(build()) for build in (tiny_models.granite, tiny_models.cohere, tiny_models.gemma2)
    )
    assert granite is not None and (granite.scale, granite.softcap) == (0.25, None)
    assert cohere is not None and (cohere.scale, cohere.softcap) == (0.25, None)
    assert gemma2 is not None and (gemma2.scale, gemma2.softcap) == (1.0, 5.0)


def test_a_head_that_is_more_than_a_matrix_is_not_found() -> None:
    model = tiny_models.llama()
    model.set_output_embeddings(nn.Sequential(nn.Linear(32, tiny_models.VOCAB)))  # type: ignore[operator]
    assert find_head(model) is None


def _check(n: int, bias: bool, scale: float, softcap: float | None, temperature: float = 1.0) -> None:
    hidden, targets, head = _problem(n, bias)
    head = Head(head.module, scale, softcap)
    coefficients = torch.randn(n, generator=torch.Generator().manual_seed(3))
    log_probs, entropy = head.log_probs(hidden, targets, temperature)
    (log_probs * coefficients).sum().backward()
    parameters = [hidden, head.module.weight, *([head.module.bias] if bias else [])]
    wide = [parameter.detach().double().requires_grad_() for parameter in parameters]
    truth, true_entropy = _reference(wide[0], wide[1], wide[2] if bias else None, targets, scale, softcap, temperature)
    (truth * coefficients).sum().backward()
    assert log_probs.dtype == entropy.dtype == torch.float32
    assert torch.allclose(log_probs.double(), truth, rtol=1e-5, atol=1e-6)
    assert torch.allclose(entropy.double(), true_entropy, rtol=1e-5, atol=5e-6)
    for ours, reference in zip(parameters, wide, strict=True):
        assert ours.grad is not None and ours.grad.shape == ours.shape
        assert _relative(ours.grad, reference.grad) < 5e-6


def _problem(n: int, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Head]:
    torch.manual_seed(n)
    module = nn.Linear(WIDTH, VOCAB, bias=bias)
    nn.init.normal_(module.weight)
    hidden = torch.randn(n, WIDTH, dtype=dtype, requires_grad=True)
    return hidden, torch.randint(VOCAB, (n,)), Head(module.to(dtype))


def _spread_problem(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with a standard deviation of 8, where bfloat16 rounds by up to 0.06."""
    draw = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn(n, 64, generator=draw), torch.randn(VOCAB, 64, generator=draw)
    logits = hidden @ weight.t()
    return hidden, weight, torch.multinomial(logits.softmax(-1), 1, generator=draw)[:, 0]


def _reference(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float | None,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    logits = scale * (hidden @ weight.t() + (0 if bias is None else bias))
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    every = (logits / temperature).log_softmax(-1)
    return every.gather(1, targets[:, None])[:, 0], -(every.exp() * every).sum(-1)


def _saved_shapes(with_grad: bool) -> list[tuple[int, ...]]:
    """Shapes of all that the forward pass allocates with ``new_empty`` or keeps for the backward pass."""
    hidden, targets, head = _problem(7, bias=False)
    shapes: list[tuple[int, ...]] = []
    original = Tensor.new_empty

    def spy(tensor: Tensor, *size: int, **options: object) -> Tensor:
        shapes.append(tuple(size))
        return original(tensor, *size, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, torch.set_grad_enabled(with_grad):
        patch.setattr(Tensor, "new_empty", spy)
        head.log_probs(hidden, targets)
    return shapes


def _rms(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


def _relative(ours: Tensor | None, truth: Tensor | None) -> float:
    assert ours is not None and truth is not None
    return ((ours.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item() if truth.norm() else 0.0
