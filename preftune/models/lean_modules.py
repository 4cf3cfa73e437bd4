"""Two small modules of transformers' models with leaner backward passes: RMSNorm and the gated MLP.

Each keeps its input and a few statistics instead of every intermediate tensor, and computes the rest again.
A module is replaced only where its own forward pass gives the same numbers on random input; weights, names
and saved files stay as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def make_lean(model: nn.Module) -> int:
    """Replaces what can be replaced in ``model``; the number of modules replaced."""
    replaced = 0
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for module in model.modules():
        lean = _lean_forward(module, dtype)
        if lean is not None:
            module.forward = lean  # type: ignore[method-assign]
            replaced += 1
    return replaced


def _lean_forward(module: nn.Module, dtype: torch.dtype) -> Any:
    """The leaner forward pass, or None; ``dtype`` is the input's where all of the module's weights are quantised."""
    if "forward" in vars(module):
        return None
    if type(module).__name__.endswith("RMSNorm") and set(dict(module.named_parameters())) == {"weight"}:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        lean = partial(_rms_norm, module, eps) if isinstance(eps, float) else None
        width = module.weight.shape[0]  # type: ignore[union-attr, index]
    elif {"gate_proj", "up_proj", "down_proj"} == set(dict(module.named_children())) - {"act_fn"}:
        lean = partial(_gated_mlp, module) if _is_silu(getattr(module, "act_fn", None)) else None
        width = getattr(module.gate_proj, "in_features", 0)
    else:
        return None
    return lean if lean is not None and width and _agrees(module, lean, width, dtype) else None


def _is_silu(function: Any) -> bool:
    return isinstance(function, nn.SiLU) or function is F.silu or type(function).__name__ == "SiLUActivation"


@torch.no_grad()
def _agrees(module: nn.Module, lean: Any, width: Any, dtype: torch.dtype) -> bool:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), dtype)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, width, generator=draw).to(device=next(module.parameters()).device, dtype=dtype)
    try:
        return torch.allclose(lean(x), module.forward(x), rtol=1e-5, atol=1e-6)
    except (RuntimeError, TypeError):
        return False


def _rms_norm(module: nn.Module, eps: float, hidden_states: Tensor) -> Tensor:
    return _RMSNorm.apply(hidden_states, module.weight, eps)  # type: ignore[return-value]


def _gated_mlp(module: Any, x: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
    if type(down) is nn.Linear and down.bias is None and not torch.is_autocast_enabled(x.device.type):
        return _GatedProduct.apply(gate, up, down.weight)  # type: ignore[return-value]
    return down(_GatedSiLU.apply(gate, up))


class _RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps), statistics in float32 (Zhang & Sennrich 2019, arXiv:1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(torch.linalg.vecdot(wide, wide)[..., None] / x.shape[-1] + eps)
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, scale = ctx.saved_tensors
        normed, wide_grad = x.float().mul_(scale), grad.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            rows = x.shape[-1]
            grad_weight = (wide_grad * normed).reshape(-1, rows).sum(0).to(weight.dtype)
        inner = wide_grad * weight.float()
        along = torch.linalg.vecdot(inner, normed)[..., None] / x.shape[-1]
        return inner.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), grad_weight, None


class _GatedSiLU(torch.autograd.Function):
    """silu(gate) * up, keeping its two inputs only."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)


class _GatedProduct(torch.autograd.Function):
    """(silu(gate) * up) weight^T, keeping gate and up only: the matrix product's input is computed again."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return F.linear(F.silu(gate).mul_(up), weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gate, up, weight = ctx.saved_tensors
        silu = F.silu(gate)
        grad_weight = None
        if ctx.needs_input_grad[2]:
            grad_weight = grad.reshape(-1, grad.shape[-1]).t() @ (silu * up).reshape(-1, up.shape[-1])
        grad = grad @ weight
        return torch.ops.aten.silu_backward(grad * up, gate), silu.mul_(grad), grad_weight
