"""D03 and D04: answers that grow without end, and answers that are cut."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import number
from preftune.diagnose.findings import Certainty, Evidence, Finding, Nothing, Outcome, Severity
from preftune.diagnose.series import RunLog
from preftune.diagnose.statistics import head, is_enough, last_two, noise, rises, start, tail, too_few

LONGER: Final = 1.5
STEPPED: Final = 6.0  # deviations of a line above the start: a growth that was over at once is no trend
NEAR_MOST: Final = 0.9  # of the room there is
BY_LENGTH: Final = 0.3
CUT, MORE_CUT, ALL_CUT = 0.2, 0.15, 0.95


def detect_growth(log: RunLog) -> Outcome:
    """Whether answers are half again as long as at first, and still grow or stand against the limit."""
    lengths = log.get("completions/mean_length")
    assert lengths is not None
    if not is_enough(lengths):
        return too_few(lengths)
    first, ends = min(start(lengths), head(lengths).location), last_two(lengths)
    ratio = min(one.location for one in ends) / max(first, 1e-9)
    stepped = min(one.location for one in ends) - first > STEPPED * noise(lengths)
    if ratio <= LONGER or not (rises(lengths) or stepped):
        return Nothing()
    most = number(log, "max_completion_length", "response_length", "max_new_tokens")
    is_full = most is not None and ends[1].location > NEAR_MOST * most
    by_length = log.get("reward_len_corr")
    pays = by_length is not None and tail(by_length).location > BY_LENGTH
    severity: Severity = "error" if is_full else "warning"
    certainty: Certainty = "certain" if is_full else "likely" if pays else "hint"
    evidence = [Evidence(lengths.name, "length at the end over that at first", ratio, LONGER)]
    evidence.append(Evidence(lengths.name, "tokens at the end", ends[1].location, most and NEAR_MOST * most))
    if by_length is not None:
        evidence.append(Evidence(by_length.name, "correlation of reward and length", tail(by_length).location))
    return Finding(
        id="D03",
        severity=severity,
        certainty=certainty,
        title="Answers grow without end",
        what=f"Answers went from {first:.0f} to {ends[1].location:.0f} tokens"
        + (", to the end of the room they have." if is_full else "."),
        why="The reward pays for length, or losses divided by each answer's own length charge long wrong ones too "
        "little. Where answers must reason, growth with a rising true score is as it should be.",
        remedy="Charge for length in the reward or hold it by --reward_constraints; for GRPO --loss_type dr_grpo or "
        "dapo; for DPO --loss_type sigmoid_norm or length_regularised, or --ld_alpha 0.5.",
        first_step=int(lengths.steps[0]),
        last_step=log.last_step,
        evidence=tuple(evidence),
        source="Liu et al. 2025 (arXiv:2503.20783); Singhal et al. 2023 (arXiv:2310.03716)",
    )


def detect_truncation(log: RunLog) -> Outcome:
    """Whether many answers are cut at the limit, or more and more."""
    cut = log.get("completions/clipped_ratio")
    assert cut is not None
    if not is_enough(cut):
        return too_few(cut)
    first, ends = min(start(cut), head(cut).location), last_two(cut)
    share = min(one.location for one in ends)
    if share <= CUT and share - first <= MORE_CUT:
        return Nothing()
    always = first > ALL_CUT and share > ALL_CUT
    why = (
        "No answer has ever ended by itself: the EOS is masked (pad token = EOS), or the template never shows one."
        if always
        else "The limit is too short for these answers, they grow, or the policy forgets to end them."
    )
    return Finding(
        id="D04",
        severity="error" if always else "warning",
        certainty="certain",
        title="Answers are cut",
        what=f"{tail(cut).location:.0%} of the answers do not end but are cut; {first:.0%} at first.",
        why=why,
        remedy="Raise --max_completion_length, charge for missing ends (--missing_eos_penalty 1), leave cut answers "
        "out "
        "(--mask_truncated_completions true); where all are cut, give the tokenizer a pad token of its own and train "
        "SFT with its EOS first.",
        first_step=int(cut.steps[0]) if first > CUT else ends[0].first_step,
        last_step=log.last_step,
        evidence=(
            Evidence(cut.name, "share of answers cut at the end", share, CUT),
            Evidence(cut.name, "share of answers cut at first", first),
        ),
        source="Huang et al. 2024 (arXiv:2403.17031)",
    )


LENGTH = Detector("D03", "length explosion", detect_growth, (("completions/mean_length",),))
TRUNCATION = Detector("D04", "truncation", detect_truncation, (("completions/clipped_ratio",),))
