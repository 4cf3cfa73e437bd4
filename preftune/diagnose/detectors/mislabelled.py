"""D23: labels that say the opposite of what they should, seen from training.

A model that has learned something is surest where the pattern it learned is plainest. Held-out pairs of which it is
surest are then nearly all right, if their labels are; what is missing is the share of wrong labels, however hard the
other pairs are. So the surest quarter is looked at (``eval_rewards/accuracies_confident``), or the pairs whose margin
is far on the wrong side (``rewards/strongly_wrong``). Where neither is logged, there is only the sign that training
accuracy climbs by rote while held-out accuracy stays low, which is a hint: few pairs can do that too.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import LEAST_EVALUATIONS, ON_PAIRS, evaluated, number
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import LEAST_POINTS, last_two, part, rises
from preftune.intervals import wilson

CONFIDENT: Final = ("eval_rewards/accuracies_confident", "eval_accuracy_confident")
STRONGLY_WRONG: Final = "eval_rewards/strongly_wrong"
ACCURACY: Final = ("eval_rewards/accuracies", "eval_accuracy")
TRAINED: Final = ("rewards/accuracies", "accuracy")
LEARNED: Final = 0.55  # where the model is surest it must be right more often than this, or it knows nothing
LEARNS: Final = 0.04  # accuracy where it is surest that the last third of the evaluations still wins
WRONG: Final = 0.15  # of the surest quarter
SURELY_WRONG: Final = 0.12  # the lower end of that share's interval
FAR: Final = 0.12  # of all held-out pairs, with a margin below -2
FEW_HELD_OUT: Final = 100  # where the log does not say how many there are
BY_ROTE: Final = 0.08  # training above held-out accuracy
LOW: Final = 0.68
FROM_AUDIT: Final = ("wrong-labels-by-person", "mislabelled-pairs", "low-agreement")


def detect(log: RunLog) -> Outcome:
    """Whether the labels seem wrong, by the strongest evidence that the log has."""
    if (audited := _of_audit(log)) is not None:
        return audited
    unsure: CannotTell | None = None
    if log.method not in ("simpo", "orpo"):  # their margins are mostly what the start held for likely
        if (confident := evaluated(log, *CONFIDENT)) is not None:
            outcome = _by_the_surest(log, confident)
            if not isinstance(outcome, CannotTell):
                return outcome
            unsure = outcome
        if (far := evaluated(log, STRONGLY_WRONG)) is not None and (found := _by_the_far(log, far)):
            return found
    accuracy, trained = log.get(*ACCURACY), log.get(*TRAINED)
    if accuracy is None or trained is None:
        return unsure or CannotTell("It needs held-out pairs: eval_rewards/accuracies beside rewards/accuracies.")
    known = evaluated(log, *ACCURACY)
    if known is None or len(trained.finite()) < LEAST_POINTS:
        return unsure or CannotTell(f"It needs {LEAST_EVALUATIONS} evaluations and {LEAST_POINTS} logged steps.")
    return _by_rote(log, known, trained) or unsure or Nothing()


def _by_the_surest(log: RunLog, confident: Series) -> Outcome:
    n = _surest(log)
    ends = confident.values[-2:]
    if ends.max() < LEARNED or confident.values.max() > ends.max() + 0.12:
        return CannotTell("The model is right by chance only where it is surest: it has learned too little to judge.")
    if confident.values[-1] > confident.values[:-2].max() + 0.02 or _won_lately(confident) > LEARNS:
        return Nothing()  # still learning
    wrong = 1 - float(ends.mean())
    low, high = wilson(wrong, n)
    if not (ends.max() <= 1 - WRONG and low > SURELY_WRONG):
        return Nothing()
    what = (
        f"Of the quarter of held-out pairs that the model is surest of, {wrong:.0%} are labelled the other way "
        f"({low:.0%} to {high:.0%}, n = {n})."
    )
    evidence = (Evidence(confident.name, "share labelled against the model where it is surest", wrong, WRONG),)
    return _finding(log, "likely", what, wrong, evidence, confident)


def _won_lately(confident: Series) -> float:
    """What the last third of the evaluations has over the middle one."""
    third = len(confident) // 3
    middle, late = confident.values[-2 * third : -third], confident.values[-third:]
    return float(late.mean() - middle.mean()) if third else 0.0


def _by_the_far(log: RunLog, far: Series) -> Finding | None:
    ends = far.values[-2:]
    if ends.min() <= FAR:
        return None
    share = float(ends.mean())
    what = f"{share:.0%} of the held-out pairs have a margin below -2: the model holds the other side for better."
    evidence = (Evidence(far.name, "share of held-out pairs with a margin below -2", share, FAR),)
    return _finding(log, "likely", what, share, evidence, far)


def _by_rote(log: RunLog, accuracy: Series, trained: Series) -> Finding | None:
    known = float(np.median(accuracy.values[-2:]))
    before, after = last_two(trained)
    above = min(before.location, after.location) - known
    peak = float(accuracy.values.max())
    if not (above > BY_ROTE and peak < LOW and rises(trained)):
        return None
    what = (
        f"Training accuracy climbs to {after.location:.0%} while held-out accuracy never passed {peak:.0%}: pairs are "
        "learned by heart, not by what they have in common."
    )
    evidence = (
        Evidence(trained.name, "training accuracy at the end", after.location),
        Evidence(accuracy.name, "best held-out accuracy", peak, LOW),
    )
    return _finding(log, "hint", what, None, evidence, trained)


def _of_audit(log: RunLog) -> Finding | None:
    """What an audit of the data has said already."""
    for name in ("person", "audit", "person.json", "audit.json"):
        document: Any = log.documents.get(name)
        findings = document.get("findings") if isinstance(document, dict) else None
        for one in findings if isinstance(findings, list) else ():
            if isinstance(one, dict) and one.get("id") in FROM_AUDIT:
                what, told = str(one.get("what", "")), str(one.get("evidence", ""))
                certainty: Certainty = "certain" if one["id"] == FROM_AUDIT[0] else "likely"
                return _finding(log, certainty, f"{what} {told}".strip(), None, (), None)
    return None


def _surest(log: RunLog) -> int:
    """How many pairs the surest quarter has."""
    counted = log.get("eval_num_pairs", "eval_n")
    n = float(counted.finite().values[-1]) if counted is not None else number(log, "eval_num_pairs") or FEW_HELD_OUT
    return max(int(n / 4), 1)


def _finding(
    log: RunLog,
    certainty: Certainty,
    what: str,
    share: float | None,
    evidence: tuple[Evidence, ...],
    where: Series | None,
) -> Finding:
    rate = 0.1 if share is None else min(max(round(share, 2), 0.05), 0.45)
    late = None if where is None else part(where, len(where) // 2, None)
    return Finding(
        id="D23",
        severity="warning",
        certainty=certainty,
        title="Pairs seem mislabelled",
        what=what,
        why="Annotators who disagree or err, sides swapped when the data was put together, or a judge that was fooled.",
        remedy="Look at the rows that `preftune audit` names and turn or drop them (`preftune clean`); with the rest, "
        f"train on with --loss_type robust --label_smoothing {rate:g} (unbiased where the rate is right) or, gentler, "
        "sigmoid with --label_smoothing 0.1.",
        first_step=0 if late is None else int(late.steps[0]),
        last_step=log.last_step,
        evidence=evidence,
        source="Chowdhury et al. 2024 (arXiv:2403.00409)",
    )


MISLABELLED = Detector("D23", "mislabelled pairs", detect, methods=ON_PAIRS | {"reward"})
