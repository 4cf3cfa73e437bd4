"""D37: a run that goes on elsewhere than it stopped: learning rate, epoch or figures leap where it was resumed."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import setting
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import LEAST_IN_WINDOW

LEAP: Final = 0.01  # of the peak learning rate
TIMES: Final = 10.0  # the usual change
RESTARTS: Final = ("cosine_with_restarts", "cosine_with_min_lr_restarts", "reduce_lr_on_plateau", "cyclic")
OVERLAP: Final = ("overlap", "overlap.json")  # [{"name", "step", "first", "again"}], steps that were logged twice


def detect(log: RunLog) -> Outcome:
    """Whether the log has a place where a run that simply went on could not have been."""
    rate, epoch, again = log.get("learning_rate"), log.get("epoch"), _overlap(log)
    looked, evidence, steps = False, [], []
    if again:
        looked = True
        differ = [one for one in again if not _same(one)]
        if differ:
            steps.append(int(differ[0].get("step", 0)))
            what = "lines that were logged twice and are not the same"
            evidence.append(Evidence(str(differ[0].get("name", "loss")), what, float(len(differ))))
    if rate is not None and len(rate.finite()) >= LEAST_IN_WINDOW and setting(log, "lr_scheduler_type") not in RESTARTS:
        looked = True
        if (found := _leap(rate.finite())) is not None:
            evidence.append(found[0])
            steps.append(found[1])
    if epoch is not None and len(epoch.finite()) >= LEAST_IN_WINDOW:
        looked = True
        if (found := _epoch_breaks(epoch.finite())) is not None:
            evidence.append(found[0])
            steps.append(found[1])
    if not looked:
        return CannotTell("It needs ten lines of learning_rate or epoch, or steps that were logged twice.")
    if not evidence:
        return Nothing()
    return Finding(
        id="D37",
        severity="warning",
        certainty="likely",
        title="The run did not go on where it was stopped",
        what=f"Near step {min(steps)} the log leaps as no unbroken run does.",
        why="Schedule, place in the data, or random generators were not restored when the run was resumed.",
        remedy="Resume with the same settings and data (--resume keeps all three here); what was trained since has "
        "seen "
        "some rows twice or not at all.",
        first_step=min(steps),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="accelerate #4071, ms-swift #10050",
    )


def _overlap(log: RunLog) -> list[dict[str, Any]]:
    found = next((log.documents[name] for name in OVERLAP if name in log.documents), None)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _same(one: dict[str, Any]) -> bool:
    first, again = one.get("first"), one.get("again")
    if not isinstance(first, int | float) or not isinstance(again, int | float):
        return True
    return bool(np.isclose(first, again, rtol=1e-6, atol=1e-9, equal_nan=True))


def _leap(rate: Series) -> tuple[Evidence, int] | None:
    """A change against those before and after it: a schedule bends, but does not leap there and back to its course."""
    steps, values = rate.steps.astype(float), rate.values
    slopes = np.diff(values) / np.maximum(np.diff(steps), 1)
    peak = float(np.abs(values).max())
    if peak <= 0 or len(slopes) < LEAST_IN_WINDOW - 1:
        return None
    inner, around = (
        slopes[2:-2],
        np.maximum(
            np.maximum(np.abs(slopes[:-4]), np.abs(slopes[1:-3])), np.maximum(np.abs(slopes[3:-1]), np.abs(slopes[4:]))
        ),
    )
    jumps = np.abs(np.diff(values)[2:-2])
    leaps = (np.abs(inner) > TIMES * np.maximum(around, 1e-12 * peak)) & (jumps > LEAP * peak)
    if leaps.sum() == 0 or leaps.sum() > 3:  # a schedule of stairs leaps often, and means it
        return None
    place = int(np.argmax(leaps)) + 2
    return Evidence(rate.name, "leap of the learning rate, of its peak", float(jumps[place - 2] / peak), LEAP), int(
        steps[place + 1]
    )


def _epoch_breaks(epoch: Series) -> tuple[Evidence, int] | None:
    steps, values = epoch.steps.astype(float), epoch.values
    pace = np.diff(values) / np.maximum(np.diff(steps), 1)
    usual = float(np.median(pace))
    if usual <= 0:
        return None
    wrong = (pace < -0.5 * usual) | (pace > TIMES * usual)
    if not wrong.any():
        return None
    place = int(np.argmax(wrong))
    return Evidence(epoch.name, "epochs a step, over the usual", float(pace[place] / usual), TIMES), int(
        steps[place + 1]
    )


RESUME = Detector("D37", "resume discontinuity", detect, is_live=False)
