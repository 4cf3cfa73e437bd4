"""Log-probs of given tokens from hidden states, without ever holding the full matrix of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CHUNK_TOKENS = 512
# The forward pass holds several float32 matrices a chunk: on a CPU smaller ones are met again in the cache.
CPU_FORWARD_TOKENS = 128
# Saved probabilities spare the backward pass a matrix product; above this they are computed again instead.
SAVED_PROBABILITIES_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Head:
    """An LM head that is one matrix: ``logits = softcap(scale * (hidden @ weight.T + bias))``."""

    module: nn.Linear
    scale: float = 1.0
    softcap: float | None = None

    def log_probs(
        self, hidden: Float[Tensor, "targets width"], targets: Int[Tensor, "targets"], temperature: float = 1.0
    ) -> tuple[Float[Tensor, "targets"], Float[Tensor, "targets"]]:
        """log p(target) in nats, with gradients, and each distribution's entropy, without; both float32.

        They are of the distribution that is drawn from at ``temperature``: the softmax of logits / temperature.
        """
        weight, bias, device = self.module.weight, self.module.bias, hidden.device.type
        if torch.is_autocast_enabled(device):
            weight = weight.to(torch.get_autocast_dtype(device))
        with torch.autocast(device, enabled=False):
            return _ChunkedLogProbs.apply(  # type: ignore[return-value]
                hidden, weight, bias, targets, self.scale, self.softcap, temperature, torch.is_grad_enabled()
            )


def find_head(model: nn.Module) -> Head | None:
    """The model's head where it is a plain matrix with the known extras; None for anything else."""
    module = in_effect(model.get_output_embeddings())  # type: ignore[operator]
    if type(module) is not nn.Linear:
        return None
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    return Head(module, float(scale) / float(divisor), getattr(config, "final_logit_softcapping", None))


def in_effect(module: Any) -> Any:
    """Of a module that peft trains whole (``modules_to_save``) its copy, or the original while adapters are off."""
    if not hasattr(module, "modules_to_save") or not hasattr(module, "original_module"):
        return module
    is_off = module.disable_adapters or not module.active_adapters
    return module.original_module if is_off else module.modules_to_save[module.active_adapters[0]]


class _ChunkedLogProbs(torch.autograd.Function):
    """Chunks of rows go through the head one after the other; softmax statistics are float32.

    In bfloat16 the target's logit is computed again in float32 from the hidden state: rounded near 20 it
    would be off by 0.06 nats. The normaliser takes the same value, or a sure token's log-prob would exceed 0.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        temperature: float,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden = hidden.to(weight.dtype)
        n, vocab = hidden.shape[0], weight.shape[0]
        log_probs = hidden.new_empty(n, dtype=torch.float32)
        entropy, log_normaliser = torch.empty_like(log_probs), torch.empty_like(log_probs)
        # Under no_grad needs_input_grad still says True for every parameter.
        needs_grad = with_grad and any(ctx.needs_input_grad)
        save = needs_grad and softcap is None and n * vocab * weight.element_size() <= SAVED_PROBABILITIES_BYTES
        saved = hidden.new_empty(n, vocab) if save else None
        for rows in _chunks(n, CPU_FORWARD_TOKENS if hidden.device.type == "cpu" else CHUNK_TOKENS):
            logits = _logits(hidden[rows], weight, bias, targets[rows], scale, softcap, temperature)
            chosen = logits.gather(1, targets[rows, None])[:, 0]
            normaliser = torch.logsumexp(logits, -1)
            log_probs[rows], log_normaliser[rows] = chosen - normaliser, normaliser
            logits.sub_(normaliser[:, None])
            probabilities = logits.exp()
            entropy[rows] = -torch.linalg.vecdot(probabilities, logits)
            if saved is not None:
                saved[rows] = probabilities
        ctx.save_for_backward(hidden, weight, bias, targets, log_normaliser, saved)
        ctx.scale, ctx.softcap, ctx.temperature = scale, softcap, temperature
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, bias, targets, log_normaliser, saved = ctx.saved_tensors
        scale, softcap, temperature = ctx.scale, ctx.softcap, ctx.temperature
        grad_hidden = torch.empty_like(hidden)
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(hidden.shape[0], CHUNK_TOKENS):
            inner = None  # d softcap / d logit
            if saved is not None:
                grad_logits = saved[rows] * (-grad[rows, None]).to(hidden.dtype)
            else:
                logits = _logits(hidden[rows], weight, bias, targets[rows], scale, softcap, temperature)
                if softcap is not None:
                    inner = 1 - (logits / (softcap / temperature)).square()
                probabilities = logits.sub_(log_normaliser[rows, None]).exp_()
                grad_logits = probabilities.mul_(-grad[rows, None]).to(hidden.dtype)
            each = torch.arange(grad_logits.shape[0], device=hidden.device)
            grad_logits[each, targets[rows]] += grad[rows].to(hidden.dtype)
            if inner is not None:
                grad_logits *= inner.to(hidden.dtype)
            if scale != temperature:
                grad_logits *= scale / temperature
            torch.mm(grad_logits, weight, out=grad_hidden[rows])
            if ctx.needs_input_grad[1]:
                grad_weight = _add_product(grad_weight, grad_logits.t(), hidden[rows])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        if grad_weight is None and ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)  # no target at all
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None


def _add_product(total: Tensor | None, left: Tensor, right: Tensor) -> Tensor:
    return torch.mm(left, right) if total is None else total.addmm_(left, right)


def _chunks(n: int, size: int) -> list[slice]:
    return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float | None,
    temperature: float,
) -> Tensor:
    logits = torch.mm(hidden, weight.t()).float()
    if weight.dtype != torch.float32:
        exact = torch.linalg.vecdot(hidden.float(), weight[targets].float())
        logits.scatter_(1, targets[:, None], exact[:, None])
    if bias is not None:
        logits += bias
    logits = _cap(logits * scale if scale != 1.0 else logits, softcap)
    return logits.div_(temperature) if temperature != 1.0 else logits


def _cap(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap
