"""D29: figures that are no numbers, and the quiet that stands for them.

transformers' Trainer by default writes the running mean in the place of a loss that is not finite, so a gradient of 0
or none beside a loss that stands still is looked for too.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series

LOOKED_AT: Final = ("loss", "grad_norm", "entropy", "logps/chosen", "logps/rejected", "eval_loss")
BY_SIDE: Final = frozenset({"logps/chosen", "logps/rejected"})  # nothing where a batch of KTO has no such label
FLAT: Final = 3  # lines of the same loss


def detect(log: RunLog) -> Outcome:
    """Whether any figure that is always a number was none, or steps were left out for it."""
    left_out = {"kto": BY_SIDE}.get(log.method or "", frozenset())
    there = [log.series[name] for name in LOOKED_AT if name in log.series and name not in left_out]
    skipped = log.series.get("nan_steps")
    if not there and skipped is None:
        return CannotTell("The log has neither loss nor grad_norm.")
    if not any(len(one) for one in there) and (skipped is None or not len(skipped)):
        return CannotTell("Nothing is logged yet.")
    evidence, steps = [], []
    if skipped is not None and len(skipped.finite()) and (most := float(skipped.finite().values.max())) > 0:
        evidence.append(Evidence("nan_steps", "steps left out because their gradient was not finite", most))
        steps.append(int(skipped.finite().steps[int(np.argmax(skipped.finite().values > 0))]))
    for series in there:
        bad = ~np.isfinite(series.values.astype(float))
        if bad.any():
            evidence.append(Evidence(series.name, f"lines whose {series.name} is no number", float(bad.sum())))
            steps.append(int(series.steps[int(np.argmax(bad))]))
    if not evidence:
        hidden = _hidden(log)
        return Nothing() if hidden is None else _finding(log, hidden[1], (hidden[0],))
    return _finding(log, min(steps), tuple(evidence))


def _hidden(log: RunLog) -> tuple[Evidence, int] | None:
    """A loss repeated to the last digit, while the gradient is 0 or missing."""
    loss, norm = log.series.get("loss"), log.series.get("grad_norm")
    if loss is None or norm is None or len(loss) != len(norm) or len(loss) <= FLAT or log.method not in ("sft", "dpo"):
        return None
    same = _runs_of_equals(loss)
    quiet = (norm.values == 0) & same & (loss.values != 0)
    if quiet.sum() < FLAT or bool((norm.values == 0).all()):
        return None
    what = "lines with one and the same loss and a gradient of 0"
    return Evidence("grad_norm", what, float(quiet.sum())), int(loss.steps[int(np.argmax(quiet))])


def _runs_of_equals(series: Series) -> np.ndarray:
    equal = np.zeros(len(series), dtype=bool)
    equal[1:] = np.diff(series.values) == 0
    return equal


def _finding(log: RunLog, first: int, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding(
        id="D29",
        severity="error",
        certainty="certain",
        title="Figures are not finite",
        what=f"From step {first} on there are figures that are no numbers; steps with them teach nothing or break all.",
        why="A row with an empty or endless answer, precision that overflows, a logarithm of 0, or a learning rate "
        "that "
        "has broken the model.",
        remedy="Look at the rows named in the run's notes; use --dtype float32 or bfloat16, not float16; lower "
        "--learning_rate. Steps that are not finite are left out here; other tools need their own guard.",
        first_step=first,
        last_step=log.last_step,
        evidence=evidence,
        source="transformers: logging_nan_inf_filter hides such losses by default",
    )


NON_FINITE = Detector("D29", "NaN or inf", detect)
