"""What is wrong with a run: every detector asked, what was found ranked, and what could not be told said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import CannotTell, Finding
from preftune.diagnose.series import RunLog
from preftune.diagnose.telling import verdict_of

_SEVERITIES: Final = ("error", "warning", "hint")
_CERTAINTIES: Final = ("certain", "likely", "hint")


@dataclass(frozen=True)
class Unknown:
    """A detector that could not tell, and why."""

    id: str
    name: str
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """What detectors say of a run. ``findings`` come the gravest and surest first.

    ``checked`` are the ids of those that could tell, whatever they said. Those meant for other methods are in neither.
    """

    findings: tuple[Finding, ...]
    cannot_tell: tuple[Unknown, ...]
    checked: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One sentence; a run of which little could be told is not called healthy."""
        told = [(one.severity, one.title) for one in self.findings]
        return verdict_of(told, len(self.checked), len(self.cannot_tell))

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON takes it."""
        return {
            "verdict": self.verdict,
            "findings": [one.as_dict() for one in self.findings],
            "cannot_tell": [vars(one) for one in self.cannot_tell],
            "checked": list(self.checked),
            "notes": list(self.notes),
        }


def diagnose(log: RunLog, *, only_live: bool = False, detectors: Sequence[Detector] | None = None) -> Diagnosis:
    """Asks every detector meant for the run's method; ``only_live`` leaves out those that look at whole runs.

    A detector that fails is told in ``notes``, and costs nobody the findings of the others. Of documents alone (an
    audit, say) it is not told that detectors of curves cannot tell.
    """
    if detectors is None:
        from preftune.diagnose.detectors import DETECTORS

        detectors = DETECTORS
    findings: list[Finding] = []
    unknown: list[Unknown] = []
    checked: list[Detector] = []
    notes: list[str] = []
    for detector in detectors:
        if not _is_meant(detector, log) or (only_live and not detector.is_live):
            continue
        try:
            outcome = _lacks(detector, log) or detector.detect(log)
        except Exception as error:
            notes.append(f"{detector.id} ({detector.name}) failed: {type(error).__name__}: {error}")
            unknown.append(Unknown(detector.id, detector.name, "The detector itself failed; see the notes."))
            continue
        if isinstance(outcome, CannotTell):
            if log.series or not log.documents or any(name in log.documents for name in detector.documents):
                unknown.append(Unknown(detector.id, detector.name, outcome.why))
            continue
        checked.append(detector)
        if isinstance(outcome, Finding):
            findings.append(outcome)
    if log.series and not findings and all(len(one) < 2 for one in log.series.values()):
        unknown += [Unknown(one.id, one.name, "A single logged step is no curve.") for one in checked]
        checked = []
    ids = tuple(one.id for one in checked)
    return Diagnosis(tuple(sorted(findings, key=_gravity)), tuple(unknown), ids, tuple(notes))


def _is_meant(detector: Detector, log: RunLog) -> bool:
    return not detector.methods or log.method is None or log.method in detector.methods


def _lacks(detector: Detector, log: RunLog) -> CannotTell | None:
    """Which series the detector would need, where one is not there."""
    for alternatives in detector.needs:
        if log.get(*alternatives) is None:
            return CannotTell(f"The log has no {' or '.join(alternatives)}.")
    return None


def _gravity(finding: Finding) -> tuple[int, int, int, str]:
    return (
        _SEVERITIES.index(finding.severity),
        _CERTAINTIES.index(finding.certainty),
        finding.first_step,
        finding.id,
    )
