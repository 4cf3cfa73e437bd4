"""D34: completions that were not drawn from the policy whose log-probs are trained."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import ONLINE
from preftune.diagnose.findings import Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import LEAST_IN_WINDOW, head, is_enough, last_two, too_few

MEAN, LARGEST = "sampling/sampling_logp_difference/mean", "sampling/sampling_logp_difference/max"
KL: Final = ("rollout_corr/kl", "rollout_corr/k3_kl")
RATIO, EFFECTIVE = "sampling/importance_sampling_ratio/mean", "rollout_is_eff_sample_size"
APART, FAR_APART = 0.05, 5.0  # nats a token: on average, and the largest
RATIO_LOW, RATIO_HIGH, LEAST_EFFECTIVE = 0.9, 1.1, 0.5
READ: Final = (MEAN, *KL, RATIO, EFFECTIVE)


def detect(log: RunLog) -> Outcome:
    """Whether the sampler's log-probs are other than the trainer's."""
    evidence = []
    for names, low, high in (
        ((MEAN,), None, APART),
        ((LARGEST,), None, FAR_APART),
        (KL, None, APART),
        ((RATIO,), RATIO_LOW, RATIO_HIGH),
        ((EFFECTIVE,), LEAST_EFFECTIVE, None),
    ):
        series = log.get(*names)
        if series is None or not is_enough(series, LEAST_IN_WINDOW):
            continue
        ends = [one.location for one in last_two(series)]
        if high is not None and min(ends) > high:
            evidence.append(Evidence(series.name, f"{series.name} at the end", min(ends), high))
        elif low is not None and max(ends) < low:
            evidence.append(Evidence(series.name, f"{series.name} at the end", max(ends), low))
    first = log.get(*READ)
    assert first is not None
    if not evidence:
        return Nothing() if is_enough(first, LEAST_IN_WINDOW) else too_few(first, LEAST_IN_WINDOW)
    return Finding(
        id="D34",
        severity="warning",
        certainty="certain" if len(evidence) > 1 else "likely",
        title="The sampler draws from another policy than is trained",
        what="The log-probs of the same tokens differ between what drew them and what learns from them, from "
        + ("the start." if head(first).location > APART else "some step on."),
        why="Temperature, top-p, top-k or penalties that training does not know of, other kernels or precision, int8 "
        "weights, or weights that were not handed over.",
        remedy="Draw with --temperature as trained and without --top_p, --top_k, --min_p; give the sampler the same "
        "--dtype; make up for the rest by --sampler_correction token_truncate --sampler_correction_cap 2.",
        first_step=int(first.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="truncated importance sampling of the sampler's mismatch, as in TRL and verl",
    )


SAMPLER = Detector("D34", "sampler and trainer differ", detect, (READ,), ONLINE)
