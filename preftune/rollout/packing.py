"""Linear layers whose weights lie as oneDNN multiplies them, for as long as the weights do not change.

Left to itself oneDNN lays a weight out anew at every product, which for the few rows of a decoding step costs as much
as the product: on one core of a Zen 5, a 1536 x 576 layer in bfloat16 takes 240 us for 16 rows, packed 154 us; 140 and
73 us for one row. In float32 torch would use another library, half as fast there (564 us for 16 rows, packed 249 us).
Packing takes about 1.5 ns a weight, once a window. In bfloat16 the numbers are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Packed weights are a second copy while they are used; what is beyond this stays as it is.
PACKED_BYTES = 2 * 2**30
# Layers that take the same input in transformers' models; together they are one product.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


@contextmanager
def packed_linears(model: nn.Module, rows: int) -> Iterator[None]:
    """Inside, the plain linear layers of ``model`` on the CPU multiply packed weights; made for so many rows."""
    room, packed = PACKED_BYTES, []
    try:
        for layers in _joined(model):
            size = sum(layer.weight.nbytes for layer in layers)
            if size > room:
                continue
            room -= size
            product = _product(layers, rows)
            for number, layer in enumerate(layers):
                layer.forward = product if len(layers) == 1 else partial(product, number)
                packed.append(layer)
        yield
    finally:
        for layer in packed:
            del layer.forward


def _joined(model: nn.Module) -> list[list[Any]]:
    """The layers that can be packed, each once, siblings together."""
    groups: dict[int, list[Any]] = {}
    for module in model.modules():
        children: dict[str, Any] = dict(module.named_children())
        for names in SIBLINGS:
            siblings = [children[name] for name in names if name in children]
            if len(siblings) == len(names) and all(map(_can_be_packed, siblings)) and _are_alike(siblings):
                groups |= {id(layer): siblings for layer in siblings}
    alone = ([module] for module in model.modules() if _can_be_packed(module) and id(module) not in groups)
    return [*{id(layers): layers for layers in groups.values()}.values(), *alone]


def _can_be_packed(module: Any) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module) or module.weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    dtype = module.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _are_alike(layers: Sequence[nn.Linear]) -> bool:
    return len({(layer.in_features, layer.weight.dtype, layer.bias is None) for layer in layers}) == 1


def _product(layers: Sequence[nn.Linear], rows: int) -> Any:
    weight, bias = layers[0].weight.detach(), layers[0].bias
    if len(layers) > 1:
        weight = torch.cat([layer.weight.detach() for layer in layers])
        bias = None if bias is None else torch.cat([layer.bias.detach() for layer in layers])
    alone = partial(_multiply, torch.ops.mkldnn._reorder_linear_weight(weight, rows), bias)
    return alone if len(layers) == 1 else _Joint(alone, [layer.out_features for layer in layers])


def _multiply(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")


class _Joint:
    """Multiplies when the first of several layers is asked, and hands the others their part of it."""

    def __init__(self, product: Any, widths: Sequence[int]) -> None:
        self._product, self._widths = product, list(widths)
        self._input: Tensor | None = None
        self._parts: list[Tensor | None] = []

    def __call__(self, number: int, x: Tensor) -> Tensor:
        # The same tensor asked about again is another pass over it, and may have been written to.
        if x is not self._input or self._parts[number] is None:
            self._input, self._parts = x, list(self._product(x).split(self._widths, -1))
        part, self._parts[number] = self._parts[number], None
        if not any(left is not None for left in self._parts):
            self._input = None
        return part  # type: ignore[return-value]
