"""Frozen weights in 4 or 8 bits under a trained adapter (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

Numbers are those of the weights alone: a quantised matrix is turned back into the model's precision for each
product, so a sequence's log-prob depends on no other sequence, and not on whether the model is training. The
LM head, embeddings and norms are not quantised. bitsandbytes does the work; it is an optional dependency.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.settings import ModelConfig

_CLASSES = ("Linear4bit", "Linear8bitLt")


def asks_for_quantised(config: ModelConfig) -> bool:
    """Whether the frozen weights are to be quantised."""
    return config.load_in_4bit or config.load_in_8bit


def is_quantised(model: nn.Module) -> bool:
    """Whether any matrix of ``model`` is quantised by bitsandbytes."""
    return any(_is_quantised_linear(module) for module in model.modules())


def quantisation_arguments(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that quantise on ``device`` and multiply in ``dtype``; none if not asked for.

    What it loads still has to go through ``settle``.
    """
    if not asks_for_quantised(config):
        return {}
    _bitsandbytes()
    from transformers import BitsAndBytesConfig

    chosen = BitsAndBytesConfig(
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        llm_int8_threshold=0.0,  # which would compute columns with outliers apart: see ``_multiply_in_8_bits``
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=config.use_bnb_nested_quant,
    )
    return {"quantization_config": chosen, "device_map": {"": device}}


def settle(model: nn.Module) -> nn.Module:
    """``model`` with every quantised matrix computing the same in training and evaluation; others stay as they are.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit matrix in place when it is first used without
    gradients; used so, it has no backward pass, and its bytes are others than before.
    """
    for module in filter(_is_quantised_linear, model.modules()):
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        else:
            module.forward = partial(_multiply_in_8_bits, module)  # type: ignore[method-assign]
    # It names one device; peft and transformers take a model that has it for one that is partly on disk.
    vars(model).pop("hf_device_map", None)
    return model


def quantise(model: nn.Module, config: ModelConfig, device: torch.device) -> nn.Module:
    """``model``, in memory in full precision, quantised matrix by matrix but for its head, and moved to ``device``."""
    body: Any = model.base_model
    dtype = _precision(model)
    for name, module in list(body.named_modules()):
        if type(module) is nn.Linear:
            body.set_submodule(name, _quantised_linear(module, config, device, dtype))
    for module in model.modules():
        if not _is_quantised_linear(module):
            _move_own_tensors(module, device)
    model.is_loaded_in_4bit = config.load_in_4bit  # type: ignore[assignment]  # peft asks for these
    model.is_loaded_in_8bit = config.load_in_8bit  # type: ignore[assignment]
    return settle(model)


def dequantise(model: nn.Module) -> nn.Module:
    """``model`` on the CPU, its quantised matrices turned into ordinary ones with the same values, for good."""
    from peft.utils.integrations import dequantize_module_weight

    dtype, cpu = _precision(model), torch.device("cpu")
    for name, module in list(model.named_modules()):
        if not _is_quantised_linear(module):
            continue
        if getattr(module, "source_cls", nn.Linear) is not nn.Linear:  # GPT-2's matrices lie the other way round
            raise PreftuneError(
                "The quantised weights of this architecture cannot be turned back.",
                where=type(model).__name__,
                mend="Leave out load_in_4bit and load_in_8bit.",
            )
        plain = nn.Linear(1, 1, bias=False, device="meta")
        plain.in_features, plain.out_features = module.in_features, module.out_features  # type: ignore[assignment]
        plain.weight = nn.Parameter(dequantize_module_weight(module).to(cpu, dtype), requires_grad=False)
        plain.bias = module.bias  # type: ignore[assignment]
        model.set_submodule(name, plain)
    for module in model.modules():
        _move_own_tensors(module, cpu)
    _forget_quantisation(model)
    return model


def match_precision(adapted: nn.Module) -> nn.Module:
    """``adapted`` with its LoRA weights in the precision of what is not quantised.

    On 8-bit matrices peft leaves them in float32, and every product with the adapter would be one in float32.
    """
    if is_quantised(adapted):
        dtype = _precision(adapted)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.to(dtype)
    return adapted


def require_whole_weights(stored: Any, config: ModelConfig) -> None:
    """Raises where all weights of a model are to be trained that is ``stored`` (its config) quantised."""
    if getattr(stored, "quantization_config", None) is not None and not config.use_peft:
        raise PreftuneError(
            "This model is stored quantised, and quantised weights cannot be trained whole.",
            where=config.model,
            mend="Add --use_peft, or start from the model it was made of.",
        )


def _bitsandbytes() -> Any:
    # At its import it says on some CPUs that an optional kernel could not be downloaded.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise PreftuneError(
            "Quantised weights need bitsandbytes, which is not installed.",
            where="load_in_4bit or load_in_8bit",
            mend="Install it: pip install 'preftune[quantised]'.",
        ) from error
    return bitsandbytes


def _is_quantised_linear(module: nn.Module) -> bool:
    """Not peft's module of the same name, which has one inside."""
    return type(module).__name__ in _CLASSES and not hasattr(module, "base_layer")


def _quantised_linear(module: nn.Linear, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> nn.Module:
    bnb = _bitsandbytes()
    weight, shape = module.weight.detach(), (module.in_features, module.out_features)
    if config.load_in_8bit:
        made = bnb.nn.Linear8bitLt(*shape, bias=False, has_fp16_weights=False, device="meta")
        made.weight = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False).to(device)
    else:
        made = bnb.nn.Linear4bit(*shape, bias=False, compute_dtype=dtype, device="meta")
        made.weight = bnb.nn.Params4bit(
            weight,
            requires_grad=False,
            compress_statistics=config.use_bnb_nested_quant,
            quant_type=config.bnb_4bit_quant_type,
            module=made,
        ).to(device)
    made.bias = None if module.bias is None else nn.Parameter(module.bias.detach().to(device), requires_grad=False)
    return made


def _move_own_tensors(module: nn.Module, device: torch.device) -> None:
    """By their data, so that tied parameters stay one."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    for name, buffer in module.named_buffers(recurse=False):
        setattr(module, name, buffer.to(device))


def _multiply_in_8_bits(module: Any, x: Tensor) -> Tensor:
    """Weights alone are rounded.

    bitsandbytes' own product rounds the inputs to 8 bits too, in evaluation always and in training on some
    devices, so that policy and reference would differ where nothing was learnt.
    """
    scales = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
    product = _Int8Product.apply(x, module.weight.data, scales)
    return product if module.bias is None else product + module.bias.to(product.dtype)  # type: ignore[operator]


class _Int8Product(torch.autograd.Function):
    """x @ W.T for a frozen W = values * scales / 127, which is kept for the backward pass in its 8 bits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(values, scales)
        return x @ _from_8_bits(values, scales, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        values, scales = ctx.saved_tensors
        return grad @ _from_8_bits(values, scales, grad.dtype), None, None


def _from_8_bits(values: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    return values.to(dtype).mul_(scales[:, None] / 127)


def _precision(model: nn.Module) -> torch.dtype:
    """What the model computes in: the type of its embeddings."""
    return model.get_input_embeddings().weight.dtype  # type: ignore[operator, union-attr, return-value]


def _forget_quantisation(model: Any) -> None:
    """Else the model would be saved, and loaded again, as a quantised one."""
    vars(model.config).pop("quantization_config", None)
    for name in ("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        vars(model).pop(name, None)
