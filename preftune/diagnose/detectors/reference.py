"""D13: a reference that is not frozen, or is the policy itself.

A frozen reference gives the same answers the same log-probs at every evaluation, to rounding. They are logged
(``ref_logps``), or follow from what every tool logs: reference = logps - rewards / beta, side by side. Where only
training is logged, batches differ and that number is noisy; then a trend is looked for. An alias is seen at once:
rewards are exactly nothing while the policy moves.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import WITH_REFERENCE, beta_of, number, setting, span
from preftune.diagnose.findings import CannotTell, Certainty, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Series
from preftune.diagnose.statistics import LEAST_POINTS, part, trend

MOVED, MOVED_IN_16_BITS = 1e-3, 1e-2  # relative, of a log-prob
LEAST_EVALUATIONS: Final = 3
NOTHING: Final = 1e-6  # of a reward, in nats times beta
LEAST_OF_NOTHING: Final = 10
DRIFT, DRIFT_P = 0.02, 1e-3  # of the reference behind training batches
SIDES: Final = ("chosen", "rejected")
REMEDY: Final = (
    "Give the reference its own copy of the weights (copy.deepcopy, .eval(), .requires_grad_(False)) and keep them out "
    "of the optimiser; or let the log-probs be computed once: --precompute_ref_log_probs. Figures since the first "
    "step are void: start anew."
)


def detect(log: RunLog) -> Outcome:
    """Whether the reference moved, by the strongest evidence that the log has."""
    if setting(log, "sync_ref_model") in (True, "true", "True"):
        return CannotTell("sync_ref_model moves the reference on purpose.")
    found = [_hash_changed(log), _is_policy(log), _probe_moved(log), _moved_between_evaluations(log), _drifts(log)]
    findings = [one for one in found if isinstance(one, Finding)]
    if findings:
        return findings[0]
    if any(isinstance(one, Nothing) for one in found):
        return Nothing()
    whys = [one.why for one in found if isinstance(one, CannotTell)]
    return CannotTell(" ".join(dict.fromkeys(whys)))


def _hash_changed(log: RunLog) -> Outcome:
    """By the fingerprints that a run of ours takes of its reference."""
    document = log.documents.get("eval") or log.documents.get("eval.json")
    record: Any = document.get("reference") if isinstance(document, dict) else None
    said = (record.get("at_start"), record.get("at_end")) if isinstance(record, dict) else (None, None)
    if not all(isinstance(one, str) and one for one in said):
        return CannotTell("No fingerprints of the reference are kept.")
    if said[0] == said[1]:
        return Nothing()
    return _finding(log, "certain", "the fingerprint of its weights is another at the end than at the start", (), None)


def _is_policy(log: RunLog) -> Outcome:
    """Both rewards exactly nothing, step after step, and the policy moves: they are one object."""
    rewards = [log.get(f"rewards/{side}") for side in SIDES]
    if any(one is None or len(one.finite()) < LEAST_OF_NOTHING for one in rewards):
        return CannotTell("The log has too few rewards/chosen and rewards/rejected.")
    largest = max(float(np.abs(one.finite().values).max()) for one in rewards if one is not None)
    if largest > NOTHING:
        return CannotTell("")  # not this; the other looks decide
    moved = _policy_moved(log)
    if moved is None:
        return CannotTell("")
    evidence = (
        Evidence("rewards/chosen", "largest reward, beta times nats", largest, NOTHING),
        Evidence(moved[0], f"{moved[0]} moved by, nats", moved[1]),
    )
    what = "rewards are exactly nothing at every step although the policy moves: the reference is the policy itself"
    return _finding(log, "certain", what, evidence, rewards[0])


def _policy_moved(log: RunLog) -> tuple[str, float] | None:
    """By how much the policy's log-probs have changed, on the same answers where these are measured."""
    for side in SIDES:
        measured = log.get(f"eval_logps/{side}")
        if measured is not None and len(measured.finite()) > 1:
            values = measured.finite().values
            change = float(np.abs(values - values[0]).max())
            if change > MOVED * abs(values[0]):
                return measured.name, change
    chosen, rejected = (log.get(f"logps/{side}") for side in SIDES)
    if chosen is None or rejected is None or len(chosen) != len(rejected) or len(chosen) < LEAST_POINTS:
        return None
    apart = trend(Series("logps/chosen - logps/rejected", chosen.steps, chosen.values - rejected.values))
    return None if apart is None or apart.p > 1e-3 else ("logps/chosen - logps/rejected", abs(apart.change))


def _probe_moved(log: RunLog) -> Outcome:
    """By log-probs that the reference gave the same answers each time: they may not change at all."""
    probes = [log.get(f"ref_logps/{side}") for side in SIDES]
    there = [one.finite() for one in probes if one is not None and len(one.finite()) > 1]
    if not there:
        return CannotTell("The log has no ref_logps.")
    return _compared(log, there, "the same answers get other log-probs from it") or Nothing()


def _moved_between_evaluations(log: RunLog) -> Outcome:
    """By logps - rewards / beta at the evaluations, if these are of one set."""
    behind = [_behind(log, side, "eval_") for side in SIDES]
    there = [one for one in behind if one is not None]
    if len(there) < 2 or len(there[0]) < LEAST_EVALUATIONS:
        return CannotTell(
            f"It needs beta and {LEAST_EVALUATIONS} evaluations with eval_logps and eval_rewards of both sides."
        )
    if _set_changes(log):
        return CannotTell("The evaluations are of different sets.")
    found = _compared(log, there, "logps - rewards / beta of one evaluation set is to stay, and does not")
    if found is None:
        return Nothing()
    if len(there[0]) > LEAST_EVALUATIONS and not any(_goes_one_way(one) for one in there):
        return CannotTell("Log-probs of the reference jump between evaluations: these seem to be of different sets.")
    return found


def _drifts(log: RunLog) -> Outcome:
    """By the trend of the same number over training batches."""
    behind = [_behind(log, side, "") for side in SIDES]
    there = [one for one in behind if one is not None]
    if len(there) < 2 or len(there[0]) < LEAST_POINTS:
        return CannotTell(f"Its log-probs cannot be had from {LEAST_POINTS} logged steps: beta, logps and rewards.")
    found = []
    for series in there:
        drift = trend(series)
        level = abs(float(np.median(series.values)))
        if drift is None or drift.p > DRIFT_P or abs(drift.change) <= DRIFT * level:
            return Nothing()
        what = f"log-prob behind training batches ({series.name}) drifts by, nats"
        found.append(Evidence(series.name, what, drift.change, DRIFT * level))
    said = "its log-probs of training batches drift, which no order of the data should make them do"
    return _finding(log, "likely", said, tuple(found), there[0])


def _compared(log: RunLog, there: list[Series], said: str) -> Finding | None:
    allowed = MOVED_IN_16_BITS if _in_16_bits(log) else MOVED
    evidence, is_moved, moved_at = [], False, None
    for series in there:
        with np.errstate(over="ignore"):
            apart = np.abs(series.values - series.values[0]) / max(abs(float(series.values[0])), 1e-9)
        evidence.append(Evidence(series.name, f"largest relative change of {series.name}", float(apart.max()), allowed))
        if apart.max() > allowed:
            is_moved = True
            first = int(np.argmax(apart > allowed))
            moved_at = part(series, first, None) if moved_at is None else moved_at
    if not is_moved:
        return None
    certainty: Certainty = "certain" if max(len(one) for one in there) > LEAST_EVALUATIONS else "likely"
    return _finding(log, certainty, said, tuple(evidence), moved_at)


def _behind(log: RunLog, side: str, prefix: str) -> Series | None:
    """logps - rewards / beta of a side."""
    beta = beta_of(log)
    log_probs, rewards = log.get(f"{prefix}logps/{side}"), log.get(f"{prefix}rewards/{side}")
    if beta is None or log_probs is None or rewards is None:
        return None
    steps, ours, theirs = np.intersect1d(log_probs.steps, rewards.steps, return_indices=True)
    values = log_probs.values[ours] - rewards.values[theirs] / beta
    return Series(f"{prefix}logps/{side} - {prefix}rewards/{side} / beta", steps, values).finite()


def _goes_one_way(series: Series) -> bool:
    """True where nearly all changes have one sign: sets drawn anew would have both."""
    changes = np.diff(series.values)
    changes = changes[np.abs(changes) > 1e-6 * np.abs(series.values[1:])]
    return len(changes) > 0 and abs(float(np.sign(changes).sum())) >= 0.6 * len(changes)


def _set_changes(log: RunLog) -> bool:
    fingerprint = log.get("eval_data/fingerprint", "eval_num_samples", "eval_samples")
    return fingerprint is not None and float(np.ptp(fingerprint.finite().values)) > 0


def _in_16_bits(log: RunLog) -> bool:
    said = str(setting(log, "dtype", "torch_dtype") or "")
    return "16" in said or said == "auto" or bool(setting(log, "bf16", "fp16")) or number(log, "beta") is None


def _finding(
    log: RunLog, certainty: Certainty, said: str, evidence: tuple[Evidence, ...], where: Series | None
) -> Finding:
    first, last = span(where) if where is not None else (0, log.last_step)
    return Finding(
        id="D13",
        severity="error",
        certainty=certainty,
        title="The reference is not frozen",
        what=f"The reference is to stay as it was at the start, but {said}.",
        why="Policy and reference share their weights, the reference's weights are in the optimiser or follow the "
        "policy's, or cached log-probs are of another model or data.",
        remedy=REMEDY,
        first_step=first,
        last_step=max(last, log.last_step),
        evidence=evidence,
        source="Rafailov et al. 2023 (arXiv:2305.18290), section 4",
    )


REFERENCE = Detector("D13", "reference not frozen", detect, methods=WITH_REFERENCE | {"online-dpo"})
