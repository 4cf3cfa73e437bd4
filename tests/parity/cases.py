"""What is compared with TRL 1.16: the cases that agree, and those that differ by design."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from preftune.data.tokens import TokenLabel
from preftune.methods.labels import LabelItem
from tests.parity.side_by_side import BATCH, Case

# A micro-batch of one: where TRL averages over the tokens of a micro-batch and ours over each pair's, they then agree.
ONE_BY_ONE: Final = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": BATCH}
# In TRL's ORPO and CPO the mean a token where the loss is of means; ours are sums whatever the loss.
LOGPS: Final = frozenset({"logps/chosen", "logps/rejected"})
REWARDS: Final = frozenset({"rewards/chosen", "rewards/rejected", "rewards/margins"})
# TRL averages the means of micro-batches, ours is the mean over all tokens of the step.
ENTROPY: Final = frozenset({"entropy"})


def rotated_mismatches() -> AbstractContextManager[Any]:
    """KTO's mismatches as TRL makes them: each answer moves on by one within fixed batches."""

    def rotate(labels: Sequence[TokenLabel], seed: int) -> list[LabelItem]:
        batches = [labels[first : first + BATCH] for first in range(0, len(labels), BATCH)]
        return [
            LabelItem(one.id, one.prompt, one.completion, batch[number - 1].completion, one.label)
            for batch in batches
            for number, one in enumerate(batch)
        ]

    return patch("preftune.methods.kto.mismatched", rotate)


def _dpo(name: str, note: str = "", aside: frozenset[str] = frozenset(), **settings: Any) -> Case:
    """A loss_type of TRL's DPOTrainer; where its value is large beta brings it near 1."""
    return Case(f"dpo {name}", "dpo", {"loss_type": [name], "beta": 0.1} | settings, aside=aside, note=note)


PRINCIPAL: Final[tuple[Case, ...]] = (
    Case("sft", "sft", {"completion_only_loss": True}, shape="demonstrations"),
    Case("reward", "reward", ours={"group_by_prompt": False}, note="`group_by_prompt: false`"),
    _dpo("sigmoid"),
    Case(
        "kto",
        "kto",
        {"beta": 0.1, "desirable_weight": 1.2},
        shape="labels",
        replaces=rotated_mismatches,
        note="mismatched answers made as TRL makes them",
    ),
    Case(
        "orpo",
        "orpo",
        {"beta": 0.1} | ONE_BY_ONE,
        {"nll_of": "sequence"},
        aside=LOGPS,
        note="`nll_of: sequence`; micro-batches of 1",
    ),
    Case(
        "simpo",
        "simpo",
        {"beta": 2.0, "simpo_gamma": 1.0, "loss_type": "simpo", "cpo_alpha": 0.0},
        trainer="cpo",
        aside=LOGPS,
        note="TRL's CPO with `loss_type: simpo`, `cpo_alpha: 0`",
    ),
)

VARIANTS: Final[tuple[Case, ...]] = (
    Case(
        "sft, accumulation",
        "sft",
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        shape="demonstrations",
        aside=ENTROPY,
    ),
    Case("sft, prompts too", "sft", {"completion_only_loss": False}, shape="demonstrations"),
    Case(
        "reward, margins and centring",
        "reward",
        {"center_rewards_coefficient": 0.01},
        {"group_by_prompt": False},
        shape="pairs with margins",
        note="`group_by_prompt: false`",
    ),
    _dpo("hinge"),
    _dpo("ipo", beta=0.5),
    _dpo("exo_pair", label_smoothing=1e-3),
    _dpo("nca_pair"),
    _dpo("robust", label_smoothing=0.1),
    Case(
        "dpo bco_pair",
        "dpo",
        {"loss_type": ["bco_pair"], "beta": 0.1},
        {"bco_delta": "none"},
        note="`bco_delta: none`",
    ),
    _dpo("sppo_hard", beta=1.0, learning_rate=1e-4),
    _dpo("aot", label_smoothing=0.1),
    _dpo("aot_unpaired", label_smoothing=0.1),
    _dpo("apo_zero"),
    _dpo("apo_down"),
    _dpo("discopop"),
    _dpo("sft", "micro-batches of 1", ENTROPY, **ONE_BY_ONE),
    _dpo("sigmoid_norm", beta=2.0),
    Case(
        "dpo sigmoid + nca_pair + sft, weighted",
        "dpo",
        {"loss_type": ["sigmoid", "nca_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0], "beta": 0.1} | ONE_BY_ONE,
        aside=ENTROPY,
        note="micro-batches of 1",
    ),
    Case("dpo, ld_alpha 0.3", "dpo", {"ld_alpha": 0.3, "beta": 0.1}),
    Case("dpo, forward_kl", "dpo", {"f_divergence_type": "forward_kl", "beta": 0.1}),
    Case(
        "dpo hinge, js_divergence",
        "dpo",
        {"f_divergence_type": "js_divergence", "loss_type": ["hinge"], "beta": 0.1},
    ),
    Case(
        "dpo, alpha_divergence 0.3",
        "dpo",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3, "beta": 0.1},
    ),
    Case(
        "cpo sigmoid",
        "simpo",
        {"loss_type": "sigmoid", "cpo_alpha": 1.0, "beta": 0.1, "label_smoothing": 0.1} | ONE_BY_ONE,
        trainer="cpo",
        note="micro-batches of 1",
    ),
    Case("cpo hinge", "simpo", {"loss_type": "hinge", "cpo_alpha": 0.0, "beta": 0.1}, trainer="cpo"),
    Case("cpo ipo", "simpo", {"loss_type": "ipo", "cpo_alpha": 0.0, "beta": 0.5}, trainer="cpo", aside=LOGPS),
    Case(
        "alphapo",
        "simpo",
        {"loss_type": "alphapo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0, "alpha": 0.25},
        trainer="cpo",
        aside=LOGPS | REWARDS,
    ),
)

# The defaults of both sides, or as near as they come; the note says what TRL does and why ours does not.
DIFFERENT: Final[tuple[Case, ...]] = (
    _dpo("sft", "mean over the tokens of the micro-batch, so long answers weigh more"),
    _dpo("bco_pair", "no delta in TRL"),
    Case(
        "dpo sigmoid, label_smoothing 0.1",
        "dpo",
        {"label_smoothing": 0.1, "beta": 0.1},
        note="TRL leaves it out of this loss",
    ),
    Case(
        "dpo, micro-batches of 4 and 2 in a step",
        "dpo",
        {"beta": 0.1, "gradient_accumulation_steps": 2},
        rows=62,
        note="TRL averages micro-batches, so pairs of a short one weigh more",
    ),
    Case(
        "kto",
        "kto",
        {"beta": 0.1},
        shape="labels",
        note="TRL's mismatched answers are a batch's own, moved on by one",
    ),
    Case(
        "orpo", "orpo", {"beta": 0.1}, aside=LOGPS, note="likelihood of prompt and answer, over a micro-batch's tokens"
    ),
    Case(
        "cpo sigmoid",
        "simpo",
        {"loss_type": "sigmoid", "cpo_alpha": 1.0, "beta": 0.1},
        trainer="cpo",
        note="likelihood over a micro-batch's tokens",
    ),
)
