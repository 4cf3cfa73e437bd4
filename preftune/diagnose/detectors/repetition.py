"""D05: answers that repeat themselves, or that all begin alike; by the kept samples, or by what is logged of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.reading import ONLINE
from preftune.diagnose.findings import CannotTell, Evidence, Finding, Nothing, Outcome
from preftune.diagnose.series import RunLog, Sample
from preftune.diagnose.statistics import falls, head, is_enough, last_two

REPETITIVE, OFTEN = 0.5, 0.2  # different stretches of three of all, and of how many samples
STOCK, TIMES = 0.5, 3.0  # share of one opening, and against the first samples
OPENING, STRETCH = 5, 3  # pieces
FEW_SAMPLES: Final = 8
FELL: Final = 0.5  # of the different stretches at first
SPARSE: Final = 0.5
OF_A_REWARD: Final = (
    "The reward pays for a phrase, or the learning rate has broken the model.",
    "Take what is repeated off the reward (reward `repetition`), lower --learning_rate, hold the policy by --beta or "
    "--kl_coef.",
)
OF_DATA: Final = (
    "The learning rate has broken the model, it has seen its rows too often, or the answers it learns from are alike.",
    "Lower --learning_rate, make fewer passes (--num_train_epochs 1), look for stock phrases in the data "
    "(`preftune audit`).",
)
_WORDS = re.compile(r"\w+|[^\w\s]")
_SPACE = re.compile(r"\s")


def detect(log: RunLog) -> Outcome:
    """Whether answers became repetitive or formulaic."""
    signs = [one for one in (_repeats(log), stock_phrases(log), _fewer_stretches(log)) if one is not None]
    if signs:
        return _finding(log, tuple(signs))
    different = log.get("rep/distinct3")
    if (different is None or not is_enough(different)) and len(_late(log)) < FEW_SAMPLES:
        return CannotTell(f"It needs rep/distinct3, or {FEW_SAMPLES} samples of the end of the run.")
    return Nothing()


def stock_phrases(log: RunLog) -> Evidence | None:
    """One opening that most late samples share, and few early ones; None where there is none."""
    late, early = _late(log), _early(log)
    if len(late) < FEW_SAMPLES or len(early) < FEW_SAMPLES:
        return None
    common, share = _commonest(late)
    before = sum(_opening(sample.text) == common for sample in early) / len(early)
    if share <= STOCK or share < TIMES * max(before, 1 / len(early)):
        return None
    return Evidence("samples", f'share of answers that begin "{" ".join(common)[:40]}"', share, STOCK)


def _repeats(log: RunLog) -> Evidence | None:
    """Samples most of whose stretches of three came before in them; more of them than at first."""
    late, early = _late(log), _early(log)
    if len(late) < FEW_SAMPLES:
        return None
    share = float(np.mean([_variety(sample.text) < REPETITIVE for sample in late]))
    before = float(np.mean([_variety(sample.text) < REPETITIVE for sample in early])) if early else 0.0
    if share <= OFTEN or share <= 1.5 * before:
        return None
    return Evidence("samples", "share of answers that mostly repeat themselves", share, OFTEN)


def _fewer_stretches(log: RunLog) -> Evidence | None:
    """Different three-token stretches among all that are drawn, halved since the start."""
    different = log.get("rep/distinct3")
    if different is None or not is_enough(different) or not falls(different):
        return None
    ends = max(one.location for one in last_two(different))
    if ends >= SPARSE or ends > FELL * head(different).location:
        return None
    return Evidence(different.name, "different three-token stretches of all", ends, SPARSE)


def _pieces(text: str) -> Sequence[str]:
    """Words and marks; the letters of a text that has no spaces."""
    return _WORDS.findall(text) if _SPACE.search(text.strip()) else list(text.strip())


def _variety(text: str) -> float:
    """Different stretches of three pieces over all; 1 for texts too short to have two."""
    pieces = _pieces(text)
    stretches = [tuple(pieces[i : i + STRETCH]) for i in range(len(pieces) - STRETCH + 1)]
    return len(set(stretches)) / len(stretches) if len(stretches) > 1 else 1.0


def _opening(text: str) -> tuple[str, ...]:
    return tuple(_pieces(text)[:OPENING])


def _commonest(samples: Sequence[Sample]) -> tuple[tuple[str, ...], float]:
    openings = Counter(opening for sample in samples if len(opening := _opening(sample.text)) == OPENING)
    if not openings:
        return (), 0.0
    common, count = openings.most_common(1)[0]
    return common, count / len(samples)


def _late(log: RunLog) -> list[Sample]:
    """Those of the last quarter of the run."""
    return [sample for sample in log.samples if sample.step >= 0.75 * log.last_step and sample.step > 0]


def _early(log: RunLog) -> list[Sample]:
    return [sample for sample in log.samples if sample.step <= 0.25 * log.last_step]


def _finding(log: RunLog, evidence: tuple[Evidence, ...]) -> Finding:
    why, mend = OF_A_REWARD if log.method in ONLINE or log.method is None else OF_DATA
    return Finding(
        id="D05",
        severity="warning",
        certainty="likely",
        title="Answers repeat themselves or each other",
        what="Completions of the end of the run are repetitive or formulaic, those of its beginning were not.",
        why=why,
        remedy=f"Read the samples. {mend}",
        first_step=int(0.75 * log.last_step),
        last_step=log.last_step,
        evidence=evidence,
        source="repetition as 1 - different stretches / all, as in TRL's reward of that name",
    )


REPETITION = Detector("D05", "repetition", detect)
