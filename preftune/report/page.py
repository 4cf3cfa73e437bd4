"""The page of a run: ``report.html``, written from whatever the run folder holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from preftune.report.answers import Answers, view_answers
from preftune.report.audit_view import SEVERITIES, AuditView, Finding, show_row, view_audit, view_findings
from preftune.report.calibration_view import CalibrationView, view_calibration
from preftune.report.charts import training_charts
from preftune.report.drawing import Drawing
from preftune.report.measures import show_number
from preftune.report.outcome import Outcome, view_outcome
from preftune.report.provenance import (
    ReferenceCheck,
    Settings,
    loading_code,
    view_reference,
    view_settings,
)
from preftune.report.rendering import write_page
from preftune.report.run_files import RunFiles, finite, read_run
from preftune.report.spreads import view_spreads
from preftune.report.verdict import Verdict, marks_of, view_verdict

_REJECTED_SHOWN, _NAMES_SHOWN = 8, 6


@dataclass(frozen=True)
class RunView:
    """Everything the template of a run prints, already in words."""

    title: str
    made: str
    facts: list[tuple[str, str]]
    verdict: Verdict
    outcome: Outcome
    spreads: list[Drawing]
    calibration: CalibrationView | None
    answers: Answers
    charts: list[Drawing]
    training: list[str]
    audit: AuditView | None
    rejected: list[str]
    rejected_total: int
    findings: list[Finding]
    reference: ReferenceCheck
    settings: Settings
    loading: str
    model_kind: str | None
    checkpoints: list[int]
    missing: list[str]


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into the run folder and gives its path.

    Files that are absent or damaged are named on the page; PreftuneError where the folder is no run at all
    or the page cannot be written.
    """
    run = Path(run)
    return write_page("run.html", run / "report.html", page=view_run(read_run(run)))


def view_run(files: RunFiles) -> RunView:
    """The page's content from the files of the run."""
    audit = view_audit(files.audit)
    findings = view_findings(files.findings)
    reference = view_reference(files.config, files.evaluation)
    outcome = view_outcome(files.evaluation)
    return RunView(
        title=_title(files),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        facts=_facts(files, audit, findings, reference),
        verdict=view_verdict(outcome, findings, files.diagnosis),
        outcome=outcome,
        spreads=view_spreads(files.evaluation, files.samples),
        calibration=view_calibration(files.calibration, files.evaluation),
        answers=view_answers(files.samples),
        charts=training_charts(files.metrics, marks_of(findings)),
        training=_training(files.metrics),
        audit=audit,
        rejected=[show_row(row) for row in files.rejected[:_REJECTED_SHOWN]],
        rejected_total=len(files.rejected),
        findings=findings,
        reference=reference,
        settings=view_settings(files.config),
        loading=loading_code(files),
        model_kind=files.model_kind,
        checkpoints=files.checkpoints,
        missing=_missing(files),
    )


def _title(files: RunFiles) -> str:
    return files.folder.resolve().name or "run"


def _facts(
    files: RunFiles, audit: AuditView | None, findings: Sequence[Finding], reference: ReferenceCheck
) -> list[tuple[str, str]]:
    """The few facts under the headline; what is not known is left out."""
    facts = []
    if method := files.config.get("method"):
        facts.append(("Method", str(method)))
    if audit and audit.used is not None and audit.read is not None:
        facts.append(("Rows used", f"{audit.used} of {audit.read} read"))
    if files.metrics:
        facts.append(("Steps", show_number(files.metrics[-1]["step"])))
    facts.append(("Reference", {True: "unmoved", False: "moved", None: "not checked"}[reference.is_same]))
    if noticed := [*findings, *(audit.findings if audit else [])]:
        counts = Counter(finding.severity for finding in noticed)
        facts.append(("Findings", ", ".join(_counted(counts[kind], kind) for kind in SEVERITIES if counts[kind])))
    if files.problems:
        facts.append(("Missing or damaged", _counted(len(files.problems), "file")))
    return facts


def _counted(count: int, kind: str) -> str:
    noun = {"info": "note"}.get(kind, kind)
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _training(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """Sentences on length, speed and steps left out."""
    if not metrics:
        return []
    last = metrics[-1]
    epoch = _last(metrics, "epoch")
    told = [
        f"{show_number(last['step'])} steps"
        + ("" if epoch is None else f", to epoch {epoch:.3g}")
        + _duration(metrics)
        + "."
    ]
    speeds = (("pairs_per_second", "pairs"), ("tokens_per_second", "tokens"))
    rates = [
        f"{float(f'{median(found):.3g}'):,.10g} {noun}" for key, noun in speeds if (found := _column(metrics, key))
    ]
    if rates:
        told.append(f"Median speed: {' and '.join(rates)} a second.")
    if never := _never_finite(metrics):
        shown = ", ".join(never[:_NAMES_SHOWN]) + (" and others" if len(never) > _NAMES_SHOWN else "")
        told.append(f"Logged, and at no step finite: {shown}.")
    if skipped := _last(metrics, "nan_steps"):
        told.append(f"{_counted(int(skipped), 'step')} left out because the loss or gradient was not finite.")
    return told


def _never_finite(metrics: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics that no chart can show, for null stands at every one of their steps."""
    names = dict.fromkeys(name for row in metrics for name, value in row.items() if value is None)
    return [name for name in names if not _column(metrics, name)]


def _duration(metrics: Sequence[dict[str, Any]]) -> str:
    times = _column(metrics, "time")
    if len(times) < 2 or times[-1] <= times[0]:
        return ""
    seconds = round(times[-1] - times[0])
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f", {hours} h {minutes} min from first to last log line"
    clock = f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
    return f", {clock} from first to last log line"


def _column(metrics: Sequence[dict[str, Any]], key: str) -> list[float]:
    return [value for row in metrics if (value := finite(row.get(key))) is not None]


def _last(metrics: Sequence[dict[str, Any]], key: str) -> float | None:
    return (_column(metrics, key) or [None])[-1]


def _missing(files: RunFiles) -> list[str]:
    """What a reader looks for and will not find on the page."""
    lines = list(files.problems)
    if files.evaluation and not files.evaluation.get("change"):
        lines.append("eval.json holds no paired differences: the intervals of before and after are compared.")
    if files.findings is None:
        lines.append("findings.json is not there: nobody has looked for trouble in the curves of this run.")
    if files.model_kind is None:
        lines.append("model/ holds no model: the run has not reached its end, or the model was moved.")
    return lines
