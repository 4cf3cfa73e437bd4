"""Several things a checkpoint keeps, as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from preftune.training.state import Carried


@dataclass(frozen=True)
class Together:
    """What each of the ``parts`` keeps, by its name."""

    parts: Mapping[str, Carried]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The states of all."""
        states = {name: part.state() for name, part in self.parts.items()}
        tensors = {f"{name}.{key}": tensor for name, (own, _) in states.items() for key, tensor in own.items()}
        return tensors, {name: values for name, (_, values) in states.items()}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Gives each its own back."""
        for name, part in self.parts.items():
            part.load_state(with_prefix(tensors, f"{name}."), values[name])


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, by what follows."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
