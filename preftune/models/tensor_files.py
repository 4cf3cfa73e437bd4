"""safetensors files read and written a tensor at a time: whatever the model's size, one tensor is in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from preftune.errors import PreftuneError

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """Its values, on the CPU."""
        with safe_open(self.file, "pt") as file:
            return file.get_tensor(self.name)


StoredTensors: TypeAlias = dict[str, Stored]


def stored_tensors(folder: Path, only: str | None = None) -> StoredTensors:
    """The tensors in the folder's safetensors files, or in that one file, by name in the files' order.

    Raises PreftuneError where there is no such file, where one is damaged, and where an index names a file that is
    not there.
    """
    files = [folder / only] if only else sorted(folder.glob("*.safetensors"))
    files = [file for file in files if file.is_file() and (only or not file.name.startswith("adapter_"))]
    if not files:
        raise PreftuneError(
            "There are no weights here as safetensors.",
            where=str(folder),
            mend="Save the model again with save_pretrained.",
        )
    _require_whole(folder, {file.name for file in files})
    found: StoredTensors = {}
    for file in files:
        for stored in _tensors_of(file):
            if stored.name in found:
                what = f"{stored.name} is in {found[stored.name].file.name} and in {file.name}."
                raise PreftuneError(what, where=str(folder), mend="Leave the files of one model only.")
            found[stored.name] = stored
    return found


def write_tensors(file: Path, layout: Mapping[str, Stored], tensor_of: Callable[[str], Tensor]) -> None:
    """Writes a safetensors file of ``layout``'s names, shapes and dtypes; ``tensor_of`` is asked for one at a time."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, stored in layout.items():
        begin, end = end, end + int(np.prod(stored.shape, dtype=np.int64)) * stored.dtype.itemsize
        header[name] = {"dtype": _NAMES[stored.dtype], "shape": list(stored.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, stored in layout.items():
            tensor = tensor_of(name)
            if tuple(tensor.shape) != stored.shape or tensor.dtype != stored.dtype:
                raise ValueError(f"{name} is {tensor.dtype} of {tuple(tensor.shape)}, not as the layout says")
            out.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        out.flush()
        os.fsync(out.fileno())


def _tensors_of(file: Path) -> list[Stored]:
    try:
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            slices = [(name, opened.get_slice(name)) for name in names]
            kinds = [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in slices]
    except (SafetensorError, OSError) as error:
        raise PreftuneError(f"The weights cannot be read ({error}).", where=str(file)) from error
    for name, kind, _ in kinds:
        if kind not in _DTYPES:
            raise PreftuneError(f"{name} is stored as {kind}, which is not known here.", where=str(file))
    return [Stored(file, name, shape, _DTYPES[kind]) for name, kind, shape in kinds]


def _require_whole(folder: Path, present: set[str]) -> None:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise PreftuneError(f"The index of the weights cannot be read ({error}).", where=str(index)) from error
    if lacking := sorted(named - present):
        raise PreftuneError(f"{lacking[0]} is not there, and the index names it.", where=str(folder))
