"""The reward model (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155): a score that ranks answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import Field

from preftune import losses
from preftune.data.read import read_pairs
from preftune.data.tokens import TokenPair, fingerprint_tokens, tokenize_pairs
from preftune.durable import write_json
from preftune.evaluate.calibration import (
    accuracy_by_length,
    expected_calibration_error,
    fit_temperature,
    longer_wins,
    margin_histogram,
    reliability_table,
)
from preftune.evaluate.measures import Measure, mean, paired_change, share_of
from preftune.methods.inputs import pair_audit, read_data, to_tokens, write_audit
from preftune.methods.job import Context, Job
from preftune.methods.moments import Moments
from preftune.methods.policy import given_model, load_trainee
from preftune.methods.rankings import Margins, PairScores, rank, ranking_step
from preftune.methods.settings import RunConfig
from preftune.models.adapters import has_adapter
from preftune.models.lean_modules import make_lean
from preftune.models.reward_models import load_scorer
from preftune.models.scores import ScoreEngine, score_items
from preftune.rewards.scoring import CALIBRATION_FILE

ACCURACY = "accuracy"
CALIBRATION_PAIRS = 100  # fewer held-out pairs say nothing of calibration


class RewardConfig(RunConfig):
    """Train a reward model: a score for each answer, higher for the preferred one."""

    learning_rates: ClassVar[tuple[float, float]] = (1e-5, 1e-4)

    center_rewards_coefficient: float = Field(
        default=0.0,
        ge=0,
        description="Weight of (r_chosen + r_rejected)^2, which keeps scores near zero; 0.01 is usual.",
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="Believed share of flipped labels.")
    group_by_prompt: bool = Field(
        default=True, description="All pairs of a prompt are one item of a batch; false: each pair is, as in TRL."
    )


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of the reward model."""
    config: RewardConfig = context.config
    data = read_data(context, read_pairs)
    scorer = load_trainee(context, load_scorer, ScoreEngine, task="SEQ_CLS")
    train, held_out = to_tokens(context, data, scorer.tokenizer, tokenize_pairs)
    examiner = RewardExaminer(context, scorer.engine, held_out.records)

    def pair_losses(scores: PairScores, margins: Margins) -> Margins:
        return losses.bradley_terry(
            *scores.unbind(1),
            margin=margins,
            label_smoothing=config.label_smoothing,
            center_rewards_coefficient=config.center_rewards_coefficient,
        )

    return Job(
        method="reward",
        engine=scorer.engine,
        items=rank(train.records, together=config.group_by_prompt),
        compute=ranking_step(pair_losses),
        fingerprint=fingerprint_tokens(train.records),
        data_fingerprint=data.fingerprint,
        during=examiner.during,
        answer=lambda step: None,
        measure=examiner.measure,
        write_audit=lambda folder: write_audit(data, train, held_out, folder, pair_audit(data)),
        save=scorer.save,
    )


@dataclass(frozen=True)
class RewardExaminer:
    """Measures the scores of pairs that training never sees, and writes the calibration beside the model."""

    context: Context[Any]
    engine: ScoreEngine
    pairs: Sequence[TokenPair]
    _scored: dict[int, np.ndarray] = field(default_factory=dict)  # the latest step's

    def during(self, step: int) -> dict[str, float]:
        """Loss, accuracy and margin on the held-out pairs, for the metrics log."""
        if not self.pairs:
            return {}
        margins = _margins(self._scores(step))
        return {
            "eval_loss": float(np.logaddexp(0.0, -margins).mean()),
            "eval_accuracy": float(_right(margins).mean()),
            "eval_margin": float(margins.mean()),
        }

    def measure(self, step: int) -> Moments:
        """Accuracy before and after, calibration, and what looking at length alone would give."""
        if not self.pairs:
            return Moments({}, {}, {})
        was, now = self._start_scores(), self._scores(step)
        prompts = [pair.prompt.tobytes() for pair in self.pairs]
        after = _measures(now, prompts)
        longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in self.pairs])
        after |= {"longer_wins": longer_wins(longer, prompts)}
        right = _right(_margins(was)), _right(_margins(now))
        change = {ACCURACY: paired_change(*right, "share", "Change of held-out accuracy", prompts)}
        if self.context.owned_folder is not None:
            self._write_calibration(now, longer, prompts, after)
        return Moments({ACCURACY: _accuracy(_margins(was), prompts)}, after, change)

    def _scores(self, step: int) -> Float[np.ndarray, "pairs 2"]:
        if step not in self._scored:
            self._scored.clear()
            self._scored[step] = self._ask(self.engine, "scoring held-out pairs")
        return self._scored[step]

    def _start_scores(self) -> Float[np.ndarray, "pairs 2"]:
        """Of the model as it was: a new head is drawn from the seed alone, so loading again gives the same one."""
        description = "scoring held-out pairs with the start"
        if has_adapter(self.engine.model):
            with self.engine.model.disable_adapter():  # type: ignore[operator]
                return self._ask(self.engine, description)
        model = given_model(self.context, self.context.given.start)
        model = model or load_scorer(self.context.config, self.context.device)
        make_lean(model)
        return self._ask(ScoreEngine(model.requires_grad_(False)), description)

    def _ask(self, engine: ScoreEngine, description: str) -> Float[np.ndarray, "pairs 2"]:
        with self.context.reporter.progress(description, len(self.pairs)) as bar:
            size = self.context.config.per_device_eval_batch_size
            return score_items(engine, self.pairs, size, bar.advance)

    def _write_calibration(
        self, scores: np.ndarray, longer: np.ndarray, prompts: Sequence[bytes], after: dict[str, Measure]
    ) -> None:
        """``model/reward.json``, which scoring reads, and ``calibration.json`` with the tables behind it."""
        margins, folder = _margins(scores), Path(self.context.folder)
        temperature = after["temperature"].value if "temperature" in after else 1.0
        document = {"mean": float(scores.mean()), "temperature": temperature if np.isfinite(temperature) else 1.0}
        write_json(folder / "model" / CALIBRATION_FILE, document)
        buckets = accuracy_by_length(margins, longer, prompts)
        tables = {
            "reliability": reliability_table(margins, prompts),
            "by_length_difference": [
                {"from": one.shortest, "to": one.longest} | one.accuracy.as_dict() for one in buckets
            ],
            "margins": margin_histogram(margins),
        }
        write_json(folder / "calibration.json", tables)


def _margins(scores: np.ndarray) -> np.ndarray:
    return scores[:, 0] - scores[:, 1]


def _right(margins: np.ndarray) -> np.ndarray:
    return (np.sign(margins) + 1) / 2


def _accuracy(margins: np.ndarray, prompts: Sequence[bytes]) -> Measure:
    what = "How often the model scores the answer people preferred higher; a new head, before training, is a coin."
    return share_of(_right(margins), prompts, "Held-out accuracy", what)


def _measures(scores: np.ndarray, prompts: Sequence[bytes]) -> dict[str, Measure]:
    margins = _margins(scores)
    measures = {
        ACCURACY: _accuracy(margins, prompts),
        "margin": mean(margins, "", "Score margin", "Mean of chosen minus rejected score.", prompts),
        "mean_reward": mean(scores.mean(1), "", "Mean score", "Over both sides; scoring takes it off.", prompts),
    }
    if len(margins) < CALIBRATION_PAIRS:
        return measures
    return measures | {
        "calibration_error": expected_calibration_error(margins, prompts),
        "temperature": fit_temperature(margins, prompts),
    }
