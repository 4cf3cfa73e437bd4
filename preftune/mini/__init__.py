"""The small world: preference optimisation that runs in seconds on any laptop, by the package's own losses and loop."""

from preftune.mini.data import HELD_OUT_DATA, PREFERENCE_DATA
from preftune.mini.dpo import dpo_train, evaluate_preference_accuracy
from preftune.mini.model import MiniGPT, RewardModel, copy_model_weights
from preftune.mini.ppo import ppo_training
from preftune.mini.reward import evaluate_reward_accuracy, score_answers, train_reward_model
from preftune.mini.sampling import generate, kl_from_reference
from preftune.mini.sft import sft_train
from preftune.mini.sweep import SweepPoint, beta_sweep, draw_beta_sweep
from preftune.mini.tokenizer import decode, encode

__all__ = [
    "HELD_OUT_DATA",
    "PREFERENCE_DATA",
    "MiniGPT",
    "RewardModel",
    "SweepPoint",
    "beta_sweep",
    "copy_model_weights",
    "decode",
    "dpo_train",
    "draw_beta_sweep",
    "encode",
    "evaluate_preference_accuracy",
    "evaluate_reward_accuracy",
    "generate",
    "kl_from_reference",
    "ppo_training",
    "score_answers",
    "sft_train",
    "train_reward_model",
]
