"""Rewards: what says how good an answer is."""

from preftune.rewards.scoring import Calibration, Scorer, Scores, open_scorer, score, score_texts

__all__ = ["Calibration", "Scorer", "Scores", "open_scorer", "score", "score_texts"]
