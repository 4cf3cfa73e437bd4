"""What may be asked of the whole way from preferences to a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

BETAS: Final = (0.1, 0.3, 0.03)
OnlineChoice: TypeAlias = Literal["auto", "never", "ppo", "online-dpo"]


@dataclass(frozen=True)
class AlignOptions:
    """What the user asks for; ``given`` are settings for every stage that knows them.

    ``sft`` None: where the model was not taught to answer. ``budget_minutes`` is for all calls together. ``matters``
    is the gain of accuracy that would be worth more training.
    """

    model: str
    data: str
    output: Path
    betas: tuple[float, ...] = BETAS
    sft: bool | None = None
    sft_data: str | None = None
    online: OnlineChoice = "auto"
    budget_minutes: float | None = None
    gate: Path | None = None
    matters: float = 0.02
    prompts: int = 64
    max_new_tokens: int = 128
    seed: int = 42
    given: Mapping[str, Any] | None = None

    def told(self) -> dict[str, Any]:
        """As the record keeps them."""
        plain = {**vars(self), "output": None, "gate": None if self.gate is None else str(self.gate)}
        return {name: value for name, value in plain.items() if name != "output"}
