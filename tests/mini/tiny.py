"""Models and pairs so small that a training of them is no wait."""

from __future__ import annotations

from typing import Any

from preftune.mini import MiniGPT, RewardModel, copy_model_weights

SIZES = {"embed_dim": 16, "num_heads": 2, "num_layers": 2, "max_seq_len": 48, "ff_dim": 32}
PAIRS = [
    {"prompt": "Say yes.", "preferred": "yes", "rejected": "no"},
    {"prompt": "Say it kindly.", "preferred": "yes, gladly", "rejected": "no way"},
    {"prompt": "And now?", "chosen": "yes indeed", "rejected": "no, never"},
    {"prompt": "", "preferred": "yes", "rejected": "no no"},
]


def gpt(seed: int = 0, **sizes: Any) -> MiniGPT:
    """A MiniGPT of about 10,000 weights."""
    return MiniGPT(**SIZES | sizes, seed=seed)


def reward_model(seed: int = 0, **sizes: Any) -> RewardModel:
    """The reward model of the same sizes."""
    return RewardModel(**SIZES | sizes, seed=seed)


def policy_and_reference() -> tuple[MiniGPT, MiniGPT]:
    """Two models of equal weights."""
    policy, reference = gpt(1), gpt(2)
    copy_model_weights(policy, reference)
    return policy, reference
