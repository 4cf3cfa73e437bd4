"""What all processes of a data-parallel run know together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from jaxtyping import Float

V = TypeVar("V")


def gathered(accelerator: Accelerator, own: Sequence[V]) -> list[V]:
    """The values of all processes, the first's first; every process must ask."""
    return gather_object(list(own)) if accelerator.num_processes > 1 else list(own)


def over_all(
    accelerator: Accelerator,
    own: Float[np.ndarray, "samples"],
    compute: Callable[[Float[np.ndarray, "all"]], Float[np.ndarray, "all"]],
) -> Float[np.ndarray, "samples"]:
    """This process's part of what ``compute`` makes of the values of all."""
    everyone = np.array(gathered(accelerator, own.tolist()), dtype=np.float64)
    before = sum(gathered(accelerator, [len(own)])[: accelerator.process_index])
    return compute(everyone)[before : before + len(own)]
