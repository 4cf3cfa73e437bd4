"""All detectors, those that people lose weeks to first. To add one: a file here, its line in the table, a test."""

from __future__ import annotations

from typing import Final

from preftune.diagnose.detector import Detector
from preftune.diagnose.detectors.advantages import ADVANTAGES
from preftune.diagnose.detectors.clipping import CLIPPING
from preftune.diagnose.detectors.critic import CRITIC
from preftune.diagnose.detectors.entropy import COLLAPSE, EXPLOSION
from preftune.diagnose.detectors.groups import SMALL_GROUPS, TIED_GROUPS
from preftune.diagnose.detectors.hacking_signs import HACKING_SIGNS
from preftune.diagnose.detectors.judge import JUDGES
from preftune.diagnose.detectors.kl import KL_EXPLOSION, KL_IMPOSSIBLE
from preftune.diagnose.detectors.kto import KTO
from preftune.diagnose.detectors.learning_rate import TOO_HIGH, TOO_LOW
from preftune.diagnose.detectors.length import LENGTH, TRUNCATION
from preftune.diagnose.detectors.likelihood import LIKELIHOOD
from preftune.diagnose.detectors.memory import MEMORY
from preftune.diagnose.detectors.mislabelled import MISLABELLED
from preftune.diagnose.detectors.non_finite import NON_FINITE
from preftune.diagnose.detectors.over_confidence import OVER_CONFIDENCE
from preftune.diagnose.detectors.policy_step import POLICY_STEP, STALENESS
from preftune.diagnose.detectors.recorded import CALIBRATION, RECORDED, SHORTCUT
from preftune.diagnose.detectors.reference import REFERENCE
from preftune.diagnose.detectors.reference_start import REFERENCE_START
from preftune.diagnose.detectors.repetition import REPETITION
from preftune.diagnose.detectors.resume import RESUME
from preftune.diagnose.detectors.reward_hacking import REWARD_HACKING
from preftune.diagnose.detectors.reward_model import DRIFT, OVERFIT
from preftune.diagnose.detectors.rewards import REWARDS
from preftune.diagnose.detectors.sampler import SAMPLER

DETECTORS: Final[tuple[Detector, ...]] = (
    *(REWARD_HACKING, HACKING_SIGNS, LENGTH, TRUNCATION, REPETITION),
    *(MISLABELLED, REFERENCE, REFERENCE_START),
    *(TIED_GROUPS, SMALL_GROUPS, ADVANTAGES, REWARDS),
    *(COLLAPSE, EXPLOSION, KL_EXPLOSION, KL_IMPOSSIBLE, POLICY_STEP, CRITIC, STALENESS, SAMPLER),
    *(LIKELIHOOD, OVER_CONFIDENCE, KTO, OVERFIT, DRIFT, CALIBRATION, SHORTCUT),
    *(TOO_HIGH, TOO_LOW, NON_FINITE, CLIPPING, MEMORY, RESUME),
    *RECORDED,
    *JUDGES,
)
