"""D20, D21, D24-D26, D31-D33: what was found by looking at data, judge or scores, told again beside the run.

Curves cannot show these. They are read from what the audit (audit.json), the judge's audit (judge.json) and the
evaluation (eval.json) have left in the run's folder; without it they cannot be told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog

AUDITS: Final = ("audit", "judge", "audit.json", "judge.json", "judge_audit.json")
UNCALIBRATED, BADLY = 0.1, 0.2  # expected calibration error
LEAST_PAIRS: Final = 100
NO_BETTER: Final = 0.02  # above what the longer answer's winning gives
_SEVERITIES: Final[Mapping[str, Severity]] = {"error": "error", "warning": "warning", "info": "hint"}


@dataclass(frozen=True)
class Topic:
    """A detector that retells an audit's findings: their ids, and what an audit that looked for them has left."""

    id: str
    title: str
    ids: tuple[str, ...]
    command: str
    marks: tuple[str, ...] = ()
    severity: Severity | None = None


TOPICS: Final = {
    "leakage": Topic(
        "D24", "Training data leaks into the evaluation", ("leaked-prompts", "near-leaked-prompts", "leaked-answers"),
        "preftune audit DATA --eval-data EVAL", ("leakage", "leaked", "evaluation"), "error",
    ),
    "doubles": Topic(
        "D25", "Duplicate, identical, empty or contradictory pairs",
        ("duplicates", "contradictions", "near-duplicates", "near-contradictions", "identical", "one-sided-labels"),
        "preftune audit DATA", ("duplicates", "pairs", "read"),
    ),
    "template": Topic(
        "D26", "Tokenizer or template do not fit",
        ("doubled-bos", "template-doubles-bos", "no-end-token", "early-end-token", "unknown-tokens", "no-pair-left"),
        "preftune audit DATA --model MODEL", ("truncation",),
    ),
    "position": Topic(
        "D31", "The judge goes by position", ("judge-position", "judge-place", "judge-one-answer"),
        "preftune make judge", ("consistency", "verdicts"),
    ),
    "judge length": Topic(
        "D32", "The judge goes by length", ("judge-length",), "preftune make judge", ("consistency", "verdicts")
    ),
    "judge replies": Topic(
        "D33", "The judge's replies are malformed or injected",
        ("judge-invalid", "judge-refusals", "judge-injection"), "preftune make judge", ("consistency", "verdicts"),
    ),
}  # fmt: skip


def detect_recorded(topic: Topic, log: RunLog) -> Outcome:
    """The first of the topic's findings in an audit that was kept; all of them are named."""
    audits = [log.documents[name] for name in AUDITS if isinstance(log.documents.get(name), Mapping)]
    found = [one for audit in audits for one in _findings(audit) if one.get("id") in topic.ids]
    if found:
        return _retold(topic, log, found)
    if any(_looked(audit, topic) for audit in audits):
        return Nothing()
    return CannotTell(f"Curves do not show it: run `{topic.command}`.")


def _findings(audit: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The findings of an audit, or of the audits it holds."""
    own = audit.get("findings")
    inner = [value for value in audit.values() if isinstance(value, Mapping)]
    listed = own if isinstance(own, list) else []
    nested = [one for value in inner for one in value.get("findings", ()) if isinstance(value.get("findings"), list)]
    return [one for one in (*listed, *nested) if isinstance(one, Mapping)]


def _looked(audit: Mapping[str, Any], topic: Topic) -> bool:
    return isinstance(audit.get("findings"), list) and any(mark in audit for mark in topic.marks)


def _retold(topic: Topic, log: RunLog, found: Sequence[Mapping[str, Any]]) -> Finding:
    first = found[0]
    said = [
        f"{one.get('title', one.get('id'))}: {one.get('what', '')} {one.get('evidence', '')}".strip() for one in found
    ]
    severity = _SEVERITIES.get(str(first.get("severity")), "warning")
    return Finding(
        id=topic.id,
        severity=topic.severity or severity,
        certainty="certain",
        title=topic.title,
        what=" ".join(said),
        why="Found in the data itself.",
        remedy=str(first.get("remedy") or f"See `{topic.command}`."),
        first_step=0,
        last_step=log.last_step,
        evidence=(Evidence("audit", "findings of the audit on it", float(len(found))),),
        source="the audit kept with the run",
    )


def detect_calibration(log: RunLog) -> Outcome:
    """Whether the reward model's margins say a wrong probability."""
    measured = _measure(log, "calibration_error")
    if measured is None:
        return CannotTell(f"It needs eval.json of a reward model with {LEAST_PAIRS} held-out pairs.")
    error, low, n = (_number(measured.get(name)) for name in ("value", "low", "n"))
    if error is None or n is None or n < LEAST_PAIRS:
        return CannotTell(f"Calibration needs {LEAST_PAIRS} held-out pairs.")
    if (error if low is None else low) <= UNCALIBRATED:
        return Nothing()
    return Finding(
        id="D20",
        severity="error" if (error if low is None else low) > BADLY else "warning",
        certainty="likely",
        title="The reward model is miscalibrated",
        what=f"The probabilities that its margins say are off by {error:.2f} on average ({n:.0f} held-out pairs).",
        why="It was trained too long on too few pairs, and is surer than it is right.",
        remedy="Divide its scores by the temperature in model/reward.json (done when it is used here), train one "
        "epoch, "
        "--label_smoothing 0.1.",
        first_step=0,
        last_step=log.last_step,
        evidence=(Evidence("calibration_error", "expected calibration error", error, UNCALIBRATED),),
        source="Huang et al. 2024 (arXiv:2403.17031)",
    )


def detect_shortcut(log: RunLog) -> Outcome:
    """Whether looking at length alone would rank held-out pairs as well as the reward model."""
    accuracy, longer = _measure(log, "accuracy"), _measure(log, "longer_wins")
    if accuracy is None or longer is None:
        return CannotTell("It needs eval.json of a reward model, with accuracy and longer_wins.")
    right, by_length, n = _number(accuracy.get("value")), _number(longer.get("value")), _number(accuracy.get("n"))
    if right is None or by_length is None or n is None or n < LEAST_PAIRS:
        return CannotTell(f"It needs {LEAST_PAIRS} held-out pairs.")
    best = max(by_length, 1 - by_length)
    if best < right - NO_BETTER or best < 0.55:
        return Nothing()
    return Finding(
        id="D21",
        severity="warning",
        certainty="likely",
        title="The reward model may go by length alone",
        what=f"It ranks {right:.0%} of the held-out pairs right; looking at length alone gives {best:.0%}.",
        why="In these pairs the longer answer mostly wins (or loses), which is easier to learn than what makes it "
        "better.",
        remedy="Balance the pairs by length, or train on those whose sides are of like length; `preftune audit` says "
        "how "
        "much length predicts.",
        first_step=0,
        last_step=log.last_step,
        evidence=(Evidence("longer_wins", "accuracy of length alone", best, right - NO_BETTER),),
        source="Singhal et al. 2023 (arXiv:2310.03716)",
    )


def _measure(log: RunLog, name: str) -> Mapping[str, Any] | None:
    document = log.documents.get("eval") or log.documents.get("eval.json")
    after = document.get("after") if isinstance(document, Mapping) else None
    found = after.get(name) if isinstance(after, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None


def _detector(name: str) -> Detector:
    topic = TOPICS[name]
    return Detector(topic.id, topic.title.lower(), partial(detect_recorded, topic), is_live=False)


_REWARD: Final = frozenset({"reward"})
CALIBRATION = Detector("D20", "reward model miscalibrated", detect_calibration, methods=_REWARD, is_live=False)
SHORTCUT = Detector("D21", "reward model shortcut", detect_shortcut, methods=_REWARD, is_live=False)
RECORDED: Final = tuple(_detector(name) for name in TOPICS)
