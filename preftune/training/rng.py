"""The state of every random number generator a run draws from: python, numpy, torch, CUDA devices."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Starts every generator from ``seed``."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits only
    torch.manual_seed(seed)  # CUDA devices included, also those not yet started


def capture() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The generators' states as (JSON values, tensors); ``restore`` of both goes on with the same numbers."""
    version, words, next_gauss = random.getstate()
    _, numpy_words, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    values = {
        "python": {"version": version, "words": list(words), "next_gauss": next_gauss},
        "numpy": {
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gauss": float(cached_gauss),
        },
    }
    tensors = {
        # safetensors and torch disagree on uint32 over versions; int64 holds it.
        "numpy": torch.from_numpy(np.asarray(numpy_words).astype(np.int64)),
        "torch": torch.get_rng_state(),
    }
    return values, tensors | _capture_cuda()


def restore(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Sets every generator to its captured state; a sentence for each device that is not here to be set."""
    python, numpy = values["python"], values["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["next_gauss"]))
    words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", words, numpy["position"], numpy["has_gauss"], numpy["cached_gauss"]))
    torch.set_rng_state(tensors["torch"])
    return _restore_cuda(tensors)


def _capture_cuda() -> dict[str, Tensor]:
    # A device nobody started has drawn nothing: its state is the seed, and asking would start it.
    if not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return {}
    return {f"cuda-{device}": state for device, state in enumerate(torch.cuda.get_rng_state_all())}


def _restore_cuda(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = []
    for name in sorted(name for name in tensors if name.startswith("cuda-")):
        device = int(name.removeprefix("cuda-"))
        if device < devices:
            torch.cuda.set_rng_state(tensors[name], device)
        else:
            missing.append(f"The random numbers of {name} cannot go on: there is no such device here.")
    return tuple(missing)
