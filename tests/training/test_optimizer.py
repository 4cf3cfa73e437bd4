"""MasterAdamW against torch's AdamW, and gradient norms and clipping against torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from preftune.training import optimizer as optimizer_module
from preftune.training.optimizer import MasterAdamW, gradient_norm, round_stochastically

SETTINGS = {"lr": 3e-3, "betas": (0.9, 0.95), "eps": 1e-8}
STEPS = 20


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("piece", "within"), [(7, 2e-6), (2**19, 1e-7)], ids=["pieces", "whole"])
def test_float32_trajectory_is_torchs(
    weight_decay: float, piece: int, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tensors take torch's own kernel; pieces end in its scalar tail, which rounds otherwise."""
    monkeypatch.setattr(optimizer_module, "PIECE", piece)
    ours, theirs = _model(), _model()
    mine = MasterAdamW(ours.parameters(), weight_decay=weight_decay, **SETTINGS)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=weight_decay, fused=True, **SETTINGS)
    for step in range(STEPS):
        _backward(ours, step)
        _backward(theirs, step)
        mine.step()
        reference.step()
        reference.zero_grad()
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=within, atol=within / 100)


def test_groups_keep_their_own_learning_rate_and_decay() -> None:
    ours, theirs = _model(), _model()
    mine = MasterAdamW(_groups(ours), **SETTINGS)
    reference = torch.optim.AdamW(_groups(theirs), fused=True, **SETTINGS)
    for step in range(STEPS):
        _backward(ours, step)
        _backward(theirs, step)
        mine.step()
        reference.step()
        reference.zero_grad()
    assert _distance(ours, theirs) < 1e-7


def test_bfloat16_parameters_follow_the_float32_trajectory() -> None:
    """Same gradients for both: the masters are float32's parameters, the model one of the two numbers beside them."""
    narrow = _model().bfloat16()
    wide = copy.deepcopy(narrow).float()
    mine = MasterAdamW(narrow.parameters(), lr=1e-4)
    reference = torch.optim.AdamW(wide.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    for step in range(STEPS):
        for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
            one.grad = _draw(one, step).bfloat16()
            other.grad = one.grad.float()
        mine.step()
        reference.step()
    for one, other in zip(narrow.parameters(), wide.parameters(), strict=True):
        assert torch.allclose(mine.state[one]["master"], other, rtol=1e-7, atol=1e-9)
        master = mine.state[one]["master"]
        assert ((one.detach().float() - master).abs() <= 2**-7 * master.abs()).all()


def test_steps_too_small_for_bfloat16_add_up() -> None:
    """100 steps of 1e-5 lead from 1.0 to 0.999 in the master; bfloat16's next number below is 0.996."""
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    mine = MasterAdamW([parameter], lr=1e-5)
    for _ in range(100):
        parameter.grad = torch.ones_like(parameter)
        mine.step()
    assert torch.allclose(mine.state[parameter]["master"], torch.full((3,), 0.999), atol=1e-6)
    assert set(parameter.tolist()) <= {1.0, 0.99609375}
    for _ in range(400):
        parameter.grad = torch.ones_like(parameter)
        mine.step()
    assert (parameter < 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_is_float32(dtype: torch.dtype) -> None:
    model = _model().to(dtype)
    mine = MasterAdamW(model.parameters(), lr=1e-3)
    _backward(model, 0)
    mine.step()
    for state in mine.state.values():
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
        assert ("master" in state) is (dtype == torch.bfloat16)


@pytest.mark.parametrize("limit", [0.01, 1e6])
def test_grad_scale_equals_clipping(limit: float) -> None:
    ours, theirs = _model(), _model()
    mine = MasterAdamW(ours.parameters(), **SETTINGS)
    reference = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0, fused=True, **SETTINGS)
    for step in range(STEPS):
        _backward(ours, step)
        _backward(theirs, step)
        norm = gradient_norm([p.grad for p in ours.parameters() if p.grad is not None])
        scale = min(1.0, limit / (norm.item() + 1e-6))
        for group in mine.param_groups:
            group["grad_scale"] = scale
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), limit)
        mine.step()
        reference.step()
        reference.zero_grad()
    assert _distance(ours, theirs) < 1e-6


def test_gradients_are_freed_and_parameters_without_one_stay() -> None:
    model = _model()
    mine = MasterAdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    first, *others = model.parameters()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    first.grad = torch.ones_like(first)
    mine.step()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.equal(first, before[0])
    assert all(torch.equal(now, then) for now, then in zip(others, before[1:], strict=True))
    assert set(mine.state) == {first}


@pytest.mark.parametrize("make", [lambda w: w.t(), lambda w: w[:, ::2]], ids=["transposed", "strided"])
def test_parameters_that_are_not_contiguous_are_updated_too(make: Callable[[Tensor], Tensor]) -> None:
    weight = make(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    assert not weight.is_contiguous()
    _check_layouts(weight, lambda gradient: gradient)


def test_gradients_that_are_not_contiguous_go_to_the_right_elements() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    _check_layouts(weight, lambda gradient: gradient.t().contiguous().t())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [7, 2**19], ids=["pieces", "whole"])
def test_gradient_norm_is_torchs(dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizer_module, "PIECE", piece)
    gradients = [_draw(parameter, 0).to(dtype) for parameter in _model().parameters()]
    truth = torch.nn.utils.get_total_norm([gradient.double() for gradient in gradients])
    assert gradient_norm(gradients).item() == pytest.approx(truth.item(), rel=1e-6)
    assert gradient_norm(gradients).dtype == torch.float32


def test_gradient_norm_of_nothing_is_zero_and_of_nan_is_nan() -> None:
    assert gradient_norm([]).item() == 0.0
    assert gradient_norm([torch.ones(3), torch.tensor([float("nan")])]).isnan()
    assert gradient_norm([torch.tensor([float("inf")])]).isinf()


def _check_layouts(weight: Tensor, lay: Callable[[Tensor], Tensor]) -> None:
    parameter, twin = nn.Parameter(weight), nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    mine, reference = MasterAdamW([parameter], lr=1e-2), torch.optim.AdamW([twin], lr=1e-2, weight_decay=0.0)
    for step in range(3):
        twin.grad = _draw(twin, step)
        parameter.grad = lay(twin.grad.clone())
        mine.step()
        reference.step()
    assert torch.allclose(parameter, twin, rtol=1e-6, atol=1e-6)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3))


def _groups(model: nn.Module) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return [
        {"params": matrices, "weight_decay": 0.1, "lr": 1e-2},
        {"params": vectors, "weight_decay": 0.0, "lr": 1e-3},
    ]


def _backward(model: nn.Module, step: int) -> None:
    parameter = next(model.parameters())
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).to(parameter.dtype)
    model(inputs).square().sum().backward()


def _draw(parameter: Tensor, step: int) -> Tensor:
    return torch.randn(parameter.shape, generator=torch.Generator().manual_seed(100 + step))


def _distance(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


def test_stochastic_rounding_is_right_in_the_mean_and_keeps_what_is_exact() -> None:
    wide = torch.tensor([0.05, -0.05, 1.0, 3e-8, 0.0, -7.25]).repeat(20_000)
    total = torch.zeros(6, dtype=torch.float64)
    narrow = torch.empty_like(wide, dtype=torch.bfloat16)
    for step in range(5):
        round_stochastically(wide, narrow, step, 3)
        total += narrow.double().view(-1, 6).mean(0) / 5
        neighbours = torch.nextafter(wide.bfloat16(), torch.tensor(torch.inf, dtype=torch.bfloat16))
        assert ((narrow.float() - wide).abs() <= 2 * (neighbours.float() - wide.bfloat16().float()).abs()).all()
    assert total.float() == pytest.approx(wide[:6], rel=1e-4)
    exact = torch.tensor([1.0, -7.25, 0.0])
    round_stochastically(exact, found := torch.empty(3, dtype=torch.bfloat16), 1, 0)
    assert torch.equal(found.float(), exact)


def test_stochastic_rounding_follows_step_and_place_alone() -> None:
    wide = torch.linspace(-1, 1, 10_001)
    one, again, other = (torch.empty_like(wide, dtype=torch.bfloat16) for _ in range(3))
    for narrow, step in ((one, 4), (again, 4), (other, 5)):
        round_stochastically(wide, narrow, step, 0)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_small_updates_move_a_bfloat16_weight_as_far_as_a_float32_one() -> None:
    """Rounded to the nearest, weights of 0.05 would stay where they are for 120 such steps."""
    weights = {dtype: torch.nn.Parameter(torch.full((4096,), 0.05).bfloat16().to(dtype)) for dtype in DTYPES}
    for parameter in weights.values():
        optimizer = MasterAdamW([parameter], lr=1e-6)
        for _ in range(30):
            parameter.grad = torch.ones_like(parameter)
            optimizer.step_with(1e-6, 1.0)
    start = torch.tensor(0.05).bfloat16().float()
    moved = {dtype: float(parameter.detach().float().mean() - start) for dtype, parameter in weights.items()}
    assert moved[torch.float32] == pytest.approx(-3e-5, rel=1e-2)
    assert moved[torch.bfloat16] == pytest.approx(-3e-5, rel=0.15)


DTYPES = (torch.float32, torch.bfloat16)
