"""Detectors while a run goes on: looked now and then, each finding told once, the run ended where that is wished."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

import preftune.diagnose.detectors  # noqa: F401  # now, so that the first look does not pay for it
from preftune.diagnose.doctor import diagnose
from preftune.diagnose.findings import Finding
from preftune.diagnose.readers.own_run import METRICS, read_own_run
from preftune.diagnose.readers.rows import as_number
from preftune.diagnose.readers.text import read_json_lines
from preftune.diagnose.record import findings_document, read_known, write_findings
from preftune.diagnose.series import RunLog, Series
from preftune.errors import PreftuneError

StopOn: TypeAlias = Literal["never", "error", "warning"]

SHARE: Final = 0.01  # of the time since the first line that looking may take
LINES: Final = 5  # logged between two looks, and a twentieth of all there are
_FIRST_COST: Final = 0.02  # seconds, until a look has been timed
_DEARER: Final = 2.0  # what a look may cost, times the one before: the log is longer, and more detectors can tell
_GRAVE: Final[Mapping[StopOn, tuple[str, ...]]] = {"never": (), "error": ("error",), "warning": ("error", "warning")}
_KL: Final = ("objective/kl", "kl")  # of a completion, where both are logged


@dataclass
class LiveDoctor:
    """Watches the run in ``folder``; ``note`` takes one line. ``kl_cap`` is in nats a completion."""

    folder: Path
    method: str
    config: Mapping[str, Any]
    note: Callable[[str], object]
    stop_on: StopOn = "never"
    kl_cap: float | None = None
    resumes: bool = False
    clock: Callable[[], float] = time.monotonic
    _columns: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)
    _lines: int = 0
    _lines_looked: int = 0
    _spent: float = 0.0
    _cost: float = _FIRST_COST
    _begun: float | None = None
    _is_broken: bool = False

    def __post_init__(self) -> None:
        import scipy.stats  # noqa: F401  # takes a second, which no step is to pay

        if self.resumes:
            self._told = read_known(self.folder)

    def on_log(self, step: int, values: Mapping[str, float]) -> str | None:
        """Takes what is logged; a reason to end the run, where there is one.

        What a resumed run was told of before neither ends it again nor is it told again.
        """
        if self._begun is None:
            self._begun = self.clock()
        begun = time.perf_counter()
        if self.resumes and not self._lines:
            self._read_earlier(step)
        self._add(step, values)
        reason = self._over_cap(step, values) or self._look()
        self._spent += time.perf_counter() - begun
        return reason

    def conclude(self) -> dict[str, Any]:
        """Every detector on the files of the run; writes ``findings.json`` and tells what is new.

        Nothing where nothing was logged, or where a detector failed, which is told.
        """
        try:
            log = read_own_run(self.folder)[0]
            diagnosis = diagnose(log)
        except PreftuneError:  # nothing was logged
            return {}
        except Exception as error:
            self._broke(error)
            return {}
        document = findings_document(log, diagnosis)
        self._write(document)
        self._tell(diagnosis.findings)
        return document

    def _look(self) -> str | None:
        if not self._is_due():
            return None
        begun = time.perf_counter()
        log = self._log()
        try:
            diagnosis = diagnose(log, only_live=True)
        except Exception as error:  # a detector's mistake must not cost anybody a run
            self._broke(error)
            return None
        new = self._tell(diagnosis.findings)
        if new:
            self._write(findings_document(log, diagnosis))
        self._cost = time.perf_counter() - begun
        self._lines_looked = self._lines
        grave = [one for one in new if one.severity in _GRAVE[self.stop_on]]
        return f"{grave[0].id}, {grave[0].title} (--stop_on {self.stop_on})" if grave else None

    def _is_due(self) -> bool:
        if self._is_broken or self._lines - self._lines_looked < max(LINES, self._lines // 20):
            return False
        expected = self._spent + _DEARER * self._cost
        return self._begun is not None and expected <= SHARE * (self.clock() - self._begun)

    def _write(self, document: dict[str, Any]) -> None:
        try:
            write_findings(self.folder, document)
        except PreftuneError as error:  # what was found is told all the same
            self.note(f"the findings were not written: {error}")

    def _tell(self, findings: Any) -> list[Finding]:
        new = [one for one in findings if one.id not in self._told]
        for one in new:
            self._told.add(one.id)
            self.note(told(one))
        return new

    def _add(self, step: int, values: Mapping[str, float]) -> None:
        self._lines += 1
        for name, value in values.items():
            steps, numbers = self._columns.setdefault(name, (array("q"), array("d")))
            if steps and steps[-1] == step:
                numbers[-1] = float(value)
            else:
                steps.append(step)
                numbers.append(float(value))

    def _read_earlier(self, step: int) -> None:
        path = self.folder / METRICS
        rows = read_json_lines(path)[0] if path.is_file() else []
        for row in rows:
            at = as_number(row.get("step"))
            if at is not None and at < step:
                numbers = {k: math.nan if v is None else as_number(v) for k, v in row.items() if k != "step"}
                self._add(int(at), {name: number for name, number in numbers.items() if number is not None})

    def _over_cap(self, step: int, values: Mapping[str, float]) -> str | None:
        name = next((name for name in _KL if name in values), None)
        if self.kl_cap is None or name is None or not values[name] > self.kl_cap:
            return None
        return f"{name} is {values[name]:.4g} nats at step {step}, above --kl_cap {self.kl_cap:g}"

    def _log(self) -> RunLog:
        series = {
            name: Series(name, np.array(steps, dtype=np.int64), np.array(numbers), name)
            for name, (steps, numbers) in self._columns.items()
        }
        return RunLog(self.folder.name, "preftune", series, dict(self.config), self.method)

    def _broke(self, error: Exception) -> None:
        if not self._is_broken:
            self._is_broken = True
            self.note(f"the diagnosis failed ({type(error).__name__}: {error}); the run goes on without it")


def told(finding: Finding) -> str:
    """A finding in one line."""
    steps = f"step {finding.first_step}"
    if finding.last_step > finding.first_step:
        steps = f"steps {finding.first_step} to {finding.last_step}"
    return f"{finding.severity}, {finding.certainty}: {finding.title} ({finding.id}, {steps}). {finding.remedy}"
