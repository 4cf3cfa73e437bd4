"""D20, D21, D24 to D26: what was found by looking at data or scores, told again beside the run.

Curves cannot show these. They are read from what the audit (audit.json) and the evaluation (eval.json) have left in
the run's folder, or from an audit that is named with the run; without it they cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.readers.documents import AUDIT
from preftune.diagnose.series import RunLog

AUDITS: Final = ("audit", AUDIT)  # the run's own, and one that was given with it
UNCALIBRATED, BADLY = 0.1, 0.2  # expected calibration error
LEAST_PAIRS: Final = 100
NO_BETTER: Final = 0.02  # above what the longer answer's winning gives
SEVERITIES: Final[Mapping[str, Severity]] = {"error": "error", "warning": "warning", "info": "hint"}


@dataclass(frozen=True)
class Topic:
    """A detector that retells an audit's findings: their ids, and what an audit that looked for them has left."""

    id: str
    title: str
    ids: tuple[str, ...]
    command: str
    marks: tuple[str, ...]
    severity: Severity | None = None


TOPICS: Final = (
    Topic(
        "D24", "Training data leaks into the evaluation", ("leaked-prompts", "near-leaked-prompts", "leaked-answers"),
        "preftune audit DATA --eval-data EVAL --json > audit.json", ("leakage", "leaked_prompts"), "error",
    ),
    Topic(
        "D25", "Duplicate, identical, empty or contradictory pairs",
        ("duplicates", "contradictions", "near-duplicates", "near-contradictions", "identical", "one-sided-labels"),
        "preftune audit DATA --json > audit.json", ("duplicates",),
    ),
    Topic(
        "D26", "Tokenizer or template do not fit",
        ("doubled-bos", "template-doubles-bos", "no-end-token", "early-end-token", "unknown-tokens", "no-pair-left"),
        "preftune audit DATA --tokenizer MODEL --json > audit.json", ("truncation",),
    ),
)  # fmt: skip


def detect_recorded(topic: Topic, log: RunLog) -> Outcome:
    """What an audit that was kept has found on the topic, the gravest first."""
    audits = [log.documents[name] for name in AUDITS if isinstance(log.documents.get(name), Mapping)]
    found = [one for audit in audits for one in _findings(audit) if one.get("id") in topic.ids]
    if found:
        return _retold(topic, log, found)
    if any(_looked(audit, topic) for audit in audits):
        return Nothing()
    return CannotTell(f"Curves do not show it: `{topic.command}`, and name that with the run.")


def _findings(audit: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    listed = audit.get("findings")
    return [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []


def _looked(audit: Mapping[str, Any], topic: Topic) -> bool:
    """Whether the audit was of that: it says so even where it found nothing; without held-out rows nothing leaks."""
    has_looked = isinstance(audit.get("findings"), list) and any(audit.get(mark) is not None for mark in topic.marks)
    return has_looked and not ("leakage" in topic.marks and audit.get("evaluation") == 0)


def _retold(topic: Topic, log: RunLog, found: Sequence[Mapping[str, Any]]) -> Finding:
    order = list(SEVERITIES)
    found = sorted(found, key=lambda one: order.index(said) if (said := str(one.get("severity"))) in order else 1)
    first = found[0]
    told = [
        f"{one.get('title', one.get('id'))}: {one.get('what', '')} {one.get('evidence', '')}".strip() for one in found
    ]
    severity = SEVERITIES.get(str(first.get("severity")), "warning")
    return Finding(
        id=topic.id,
        severity=topic.severity or severity,
        certainty="certain",
        title=topic.title,
        what=" ".join(told),
        why="Found in the data itself.",
        remedy=str(first.get("remedy") or f"See `{topic.command}`."),
        first_step=0,
        last_step=log.last_step,
        evidence=tuple(figure for one in found for figure in _figures(one)),
        source="the audit kept with the run",
    )


def _figures(finding: Mapping[str, Any]) -> Iterator[Evidence]:
    """The share that the finding is about, where it has one."""
    share = finding.get("share")
    if not isinstance(share, Mapping):
        return
    value, n = _number(share.get("value")), _number(share.get("n"))
    if value is not None and n:
        yield Evidence("audit", f"{str(share.get('title') or finding.get('id')).lower()} (of {n:,.0f})", value)


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
        "epoch, --label_smoothing 0.1.",
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
        "how much length predicts.",
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
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < 1e300 else None  # false for NaN too


_REWARD: Final = frozenset({"reward"})
CALIBRATION = Detector("D20", "reward model miscalibrated", detect_calibration, methods=_REWARD, is_live=False)
SHORTCUT = Detector("D21", "reward model shortcut", detect_shortcut, methods=_REWARD, is_live=False)
RECORDED: Final = tuple(
    Detector(one.id, one.title.lower(), partial(detect_recorded, one), documents=AUDITS, is_live=False)
    for one in TOPICS
)
