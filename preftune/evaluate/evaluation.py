"""What an evaluation found: everyone who answered, who won, what it cost, and the promises kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from preftune.evaluate.best_of import BestOfCurve
from preftune.evaluate.frontier import Frontier
from preftune.evaluate.gate import Kept
from preftune.evaluate.human_check import HumanCheck, HumanResult
from preftune.evaluate.matches import MatchResult
from preftune.evaluate.measures import Measure


@dataclass(frozen=True)
class ModelResult:
    """One who answered, or a reward model that scored, with its measures and how they changed from its start.

    ``left_out`` are pairs and ``unasked`` prompts that it could not use; ``lengths`` its answers' tokens.
    """

    name: str
    role: str
    measures: Mapping[str, Measure]
    changes: Mapping[str, Measure] = field(default_factory=dict)
    left_out: int = 0
    unasked: int = 0
    lengths: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "role": self.role,
            "left_out": self.left_out,
            "unasked": self.unasked,
            "measures": _plain(self.measures),
            "changes": _plain(self.changes),
            "lengths": list(self.lengths),
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was measured. ``measures`` are the first model's by the names that a gate uses.

    ``not_taken`` says of measures that were asked for why there is none. ``check`` is a blind check to be written.
    """

    source: str
    pairs: int
    prompts: int
    models: tuple[ModelResult, ...]
    differences: Mapping[str, Measure]
    matches: tuple[tuple[str, str, str, MatchResult], ...]
    judging: Mapping[str, Any]
    frontier: Frontier | None
    best_of: BestOfCurve | None
    human: HumanResult | None
    check: HumanCheck | None
    measures: Mapping[str, Measure]
    not_taken: Mapping[str, str]
    gate: tuple[Kept, ...]
    answers: tuple[Mapping[str, Any], ...]

    @property
    def broken(self) -> tuple[Kept, ...]:
        """The promises of the gate that do not hold."""
        return tuple(one for one in self.gate if not one.is_kept)

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as JSON can hold it."""
        return {
            "data": self.source,
            "pairs": self.pairs,
            "prompts": self.prompts,
            "models": [one.as_dict() for one in self.models],
            "differences": _plain(self.differences),
            "win_rates": [
                {"model": subject, "against": opponent, "key": key, **result.as_dict()}
                for subject, opponent, key, result in self.matches
            ],
            "judging": dict(self.judging),
            "frontier": None if self.frontier is None else self.frontier.as_dict(),
            "best_of_n": None if self.best_of is None else self.best_of.as_dict(),
            "human": None if self.human is None else self.human.as_dict(),
            "measures": _plain(self.measures),
            "not_taken": dict(self.not_taken),
            "gate": [one.as_dict() for one in self.gate],
            "answers": [dict(one) for one in self.answers],
        }


def _plain(measures: Mapping[str, Measure]) -> dict[str, Any]:
    return {name: measure.as_dict() for name, measure in measures.items()}
