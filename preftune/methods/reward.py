"""The reward model (Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155): a score that ranks answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    margin_histogram,
    reliability_table,
)
from preftune.evaluate.measures import Measure, paired_change
from preftune.evaluate.reward_model import (
    ACCURACY,
    TEMPERATURE,
    length_differences,
    margins,
    right,
    score_accuracy,
    score_measures,
)
from preftune.methods.context import Context
from preftune.methods.inputs import pair_audit, read_data, to_tokens, write_audit
from preftune.methods.job import Job
from preftune.methods.moments import Moments
from preftune.methods.pairs import confident_accuracy
from preftune.methods.policy import given_model, load_trainee
from preftune.methods.rankings import STRONGLY_WRONG, Margins, PairScores, rank, ranking_step
from preftune.methods.settings import PairConfig
from preftune.methods.supply import dealt_out
from preftune.models.adapters import has_adapter
from preftune.models.lean_modules import make_lean
from preftune.models.reward_models import load_scorer
from preftune.models.scores import ScoreEngine, score_items
from preftune.rewards.scoring import CALIBRATION_FILE


class RewardConfig(PairConfig):
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

    def pair_losses(scores: PairScores, wanted: Margins) -> Margins:
        return losses.bradley_terry(
            *scores.unbind(1),
            margin=wanted,
            label_smoothing=config.label_smoothing,
            center_rewards_coefficient=config.center_rewards_coefficient,
        )

    return Job(
        method="reward",
        engine=scorer.engine,
        supply=dealt_out(
            context,
            rank(train.records, together=config.group_by_prompt),
            size=lambda ranking: len(ranking.completions) / 2,  # a prompt's ten answers cost what five pairs do
        ),
        compute=ranking_step(pair_losses, use_confidence=config.use_confidence),
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
        scores = self._scores(step)
        return {
            "eval_loss": float(np.logaddexp(0.0, -margins(scores)).mean()),
            "eval_accuracy": float(right(scores).mean()),
            "eval_margin": float(margins(scores).mean()),
            "eval_rewards/strongly_wrong": float((margins(scores) < STRONGLY_WRONG).mean()),
            "eval_accuracy_confident": confident_accuracy(margins(scores)),
            "eval_num_pairs": float(len(scores)),
        }

    def measure(self, step: int) -> Moments:
        """Accuracy before and after, calibration, and what looking at length alone would give."""
        if not self.pairs:
            return Moments({}, {}, {})
        was, now = self._start_scores(), self._scores(step)
        after = score_measures(now, self.pairs)
        prompts = [pair.prompt.tobytes() for pair in self.pairs]
        change = paired_change(right(was), right(now), "share", "Change of held-out accuracy", prompts)
        if self.context.owned_folder is not None:
            self._write_calibration(now, prompts, after)
        return Moments({ACCURACY: score_accuracy(was, self.pairs)}, after, {ACCURACY: change})

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

    def _write_calibration(self, scores: np.ndarray, prompts: Sequence[bytes], after: dict[str, Measure]) -> None:
        """``model/reward.json``, which scoring reads, and ``calibration.json`` with the tables behind it."""
        folder = self.context.folder
        temperature = after[TEMPERATURE].value if TEMPERATURE in after else 1.0
        document = {"mean": float(scores.mean()), "temperature": temperature if np.isfinite(temperature) else 1.0}
        write_json(folder / "model" / CALIBRATION_FILE, document)
        buckets = accuracy_by_length(margins(scores), length_differences(self.pairs), prompts)
        tables: dict[str, Any] = {
            "reliability": reliability_table(margins(scores), prompts),
            "by_length_difference": [
                {"from": one.shortest, "to": one.longest} | one.accuracy.as_dict() for one in buckets
            ],
            "margins": margin_histogram(margins(scores)),
        }
        if TEMPERATURE in after and np.isfinite(temperature):
            error = expected_calibration_error(margins(scores), prompts, temperature=temperature)
            tables["reliability_at_temperature"] = reliability_table(margins(scores), prompts, temperature=temperature)
            tables["error_at_temperature"] = error.as_dict()
        write_json(folder / "calibration.json", tables)
