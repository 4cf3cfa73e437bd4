"""AdamW with float32 master weights, so that a bfloat16 model learns as a float32 one does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from preftune.training.settings import TrainingConfig

# Gradients are turned into float32 in pieces that stay in the cache: a whole embedding matrix at once costs
# fresh pages from the system at every step (a third of the optimiser's time on two cores).
PIECE = 2**19


class MasterAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) whose state is float32 whatever the parameters' dtype.

    Parameters in a lower precision get a float32 master copy; the parameter is its stochastic rounding. Gradients are
    multiplied by the group's ``grad_scale`` on the way in, which saves a pass over them for clipping, and are
    freed as they are consumed.
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
        self._banked: dict[Tensor, Tensor] = {}

    def parameters(self) -> list[Tensor]:
        """Every parameter, in the order given."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def gradients(self) -> list[Tensor]:
        """The gradient of every parameter that has one: the banked sum where there is one."""
        return [g for p in self.parameters() if (g := self.gradient(p)) is not None]

    @contextmanager
    def banking(self, wanted: bool) -> Iterator[None]:
        """Inside, each gradient is added to a float32 sum as soon as it is there, and freed; float32 ones stay.

        So micro-batches sum up without loss, and gradients are never all held twice.
        """
        low = [p for p in self.parameters() if wanted and p.dtype != torch.float32]
        handles = [parameter.register_post_accumulate_grad_hook(self._bank) for parameter in low]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def step_with(self, learning_rate: float, grad_scale: float = 1.0) -> None:
        """One update with this learning rate, gradients multiplied by ``grad_scale``."""
        for group in self.param_groups:
            group["lr"], group["grad_scale"] = learning_rate, grad_scale
        self.step()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self.gradient(parameter)
                if gradient is not None:
                    self._update(parameter, gradient, group)
                    parameter.grad = None
                    self._banked.pop(parameter, None)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets all gradients, banked ones included."""
        super().zero_grad(set_to_none)
        self._banked.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a checkpoint."""
        return {
            f"{number}.{key}": value
            for number, parameter in enumerate(self.parameters())
            for key, value in self.state.get(parameter, {}).items()
        }

    @torch.no_grad()
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from what ``tensors`` gave."""
        parameters = self.parameters()
        self.state.clear()
        for name, value in tensors.items():
            number, key = name.split(".", 1)
            parameter = parameters[int(number)]
            self.state[parameter][key] = value.to(parameter.device)

    def gradient(self, parameter: Tensor) -> Tensor | None:
        return self._banked.get(parameter, parameter.grad)

    @torch.no_grad()
    def _bank(self, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        if parameter in self._banked:
            self._banked[parameter] += gradient
        else:
            self._banked[parameter] = gradient.float()

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """The fused kernel takes every tensor for contiguous: those that are not go through a copy."""
        state = self.state[parameter] or self._start(parameter)
        state["step"] += 1
        values = parameter.contiguous()
        master = state.get("master", values)
        scale = group["grad_scale"]
        tensors = (master, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"], values)
        for number, (weights, part, exp_avg, exp_avg_sq, rounded) in enumerate(_pieces(*tensors)):
            wide = part.to(torch.float32)
            torch._fused_adamw_(  # type: ignore[attr-defined]
                [weights],
                [wide if scale == 1.0 else wide * scale],
                [exp_avg],
                [exp_avg_sq],
                [],
                [state["step"]],
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )
            if master is not values:
                round_stochastically(weights, rounded, int(state["step"]), number)
        if values is not parameter:
            parameter.copy_(values)

    def _start(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        layout = torch.contiguous_format
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=layout)
        state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float32, memory_format=layout)
        if parameter.dtype != torch.float32:
            state["master"] = parameter.detach().to(torch.float32, memory_format=layout)
        return state


@torch.no_grad()
def round_stochastically(wide: Tensor, narrow: Tensor, step: int, place: int) -> None:
    """Writes float32 numbers into a bfloat16 tensor, up or down with the odds that make the mean exact.

    Rounded to the nearest, weights that lie on bfloat16's grid, as those of a loaded model do, would not move before
    many small updates add up to half its distance: at 1e-6 a weight of 0.05 not for 120 steps. The noise is a
    function of ``step`` and ``place`` alone, so that a resumed run rounds as one that was never stopped. Numbers on
    the grid, and tensors that are not bfloat16, are rounded to the nearest.
    """
    if narrow.dtype != torch.bfloat16:
        narrow.copy_(wide)
        return
    noise = _noise(wide.device)
    begin = (step * 0x9E3779B1 + place * 0x85EBCA77) % (len(noise) - PIECE)
    for part, target in zip(wide.view(-1).split(PIECE), narrow.view(-1).split(PIECE), strict=True):
        # A bfloat16 is the upper half of a float32: noise below it carries over as often as the lower half is large.
        bits = part.view(torch.int32) + noise[begin : begin + part.numel()]
        target.view(torch.int16).copy_(bits.bitwise_right_shift_(16))


@lru_cache(maxsize=8)
def _noise(device: torch.device) -> Tensor:
    """Numbers from 0 up to, not including, 2**16, from a fixed seed."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 2**16, (4 * PIECE,), dtype=torch.int32, generator=draw).to(device)


def build_optimizer(module: nn.Module, learning_rate: float, settings: TrainingConfig) -> MasterAdamW:
    """The optimiser of all trainable parameters; vectors (norms, biases) are not decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return MasterAdamW([g for g in groups if g["params"]], learning_rate, betas, settings.adam_epsilon)


@torch.no_grad()
def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, accumulated in float32."""
    # vector_norm with dtype=float32 on bfloat16 takes a slow path on CPU; converting first does not.
    norms = [piece.float().norm() for gradient in gradients for (piece,) in _pieces(gradient.contiguous())]
    return torch.stack(norms).norm() if norms else torch.zeros(())


def first_non_finite(module: nn.Module, optimizer: MasterAdamW) -> str:
    """The name of the first parameter whose gradient is not finite."""
    for name, parameter in module.named_parameters():
        gradient = optimizer.gradient(parameter)
        if gradient is not None and not torch.isfinite(gradient).all():
            return name
    return "all parameters together"


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching views of contiguous tensors of one shape, ``PIECE`` numbers at a time on CPU."""
    if tensors[0].device.type != "cpu":
        yield tensors
        return
    for begin in range(0, tensors[0].numel(), PIECE):
        yield tuple(tensor.view(-1)[begin : begin + PIECE] for tensor in tensors)
