"""AdamW with float32 master weights, so that a bfloat16 model learns as a float32 one does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) whose state is float32 whatever the parameters' dtype.

    Parameters in a lower precision get a float32 master copy; the parameter is its rounding. Gradients are
    multiplied by the group's ``grad_scale`` on the way in, which saves a pass over them for clipping, and are
    freed as they are consumed, so that at most one is held in float32.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "grad_scale": 1.0}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
                    parameter.grad = None

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter] or self._start(parameter)
        master = state.get("master", parameter)
        gradient = parameter.grad.to(torch.float32)  # type: ignore[union-attr]
        torch._fused_adamw_(
            [master],
            [gradient.mul_(group["grad_scale"]) if group["grad_scale"] != 1.0 else gradient],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"].add_(1)],
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        if master is not parameter:
            parameter.copy_(master)

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32)
        state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32)
        if parameter.dtype != torch.float32:
            state["master"] = parameter.detach().to(torch.float32)
        return state


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, accumulated in float32."""
    # vector_norm with dtype=float32 on bfloat16 takes a slow path on CPU; converting first does not.
    norms = [p.grad.float().norm() for p in parameters if p.grad is not None]
    return torch.stack(norms).norm() if norms else torch.zeros(())
