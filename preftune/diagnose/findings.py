"""What a detector says: something is wrong, nothing is, or there is too little to tell."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "hint"]
Certainty: TypeAlias = Literal["certain", "likely", "hint"]


@dataclass(frozen=True)
class Evidence:
    """A figure that led to a finding, beside the bound it broke; ``series`` is the metric it was taken from."""

    series: str
    what: str
    value: float
    bound: float | None = None


@dataclass(frozen=True)
class Finding:
    """Something wrong with a run, the steps it shows on, and the mend.

    ``what`` is one sentence that a reader understands without the code; ``why`` is its likely cause;
    ``source`` names the paper or experiment behind the rule.
    """

    id: str
    severity: Severity
    certainty: Certainty
    title: str
    what: str
    why: str
    remedy: str
    first_step: int
    last_step: int
    evidence: tuple[Evidence, ...] = ()
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON takes it; ``evidence`` is told in words too, as reports print it."""
        document = asdict(self)
        document["figures"] = document.pop("evidence")
        document["evidence"] = "; ".join(_told(one) for one in self.evidence)
        document["rows"] = []
        return document


@dataclass(frozen=True)
class Nothing:
    """The detector had what it needs, and nothing is wrong."""


@dataclass(frozen=True)
class CannotTell:
    """The detector lacks something; ``why`` says what. Never to be read as healthy."""

    why: str


Outcome: TypeAlias = Finding | Nothing | CannotTell


def _told(evidence: Evidence) -> str:
    bound = "" if evidence.bound is None else f" (bound {evidence.bound:.4g})"
    return f"{evidence.what} {evidence.value:.4g}{bound}"
