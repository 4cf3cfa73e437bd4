"""A real reward model in place of the audit's fast one: trained on some pairs, it scores others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preftune.cli.screen import notify, progress
from preftune.data.records import Pair

Margins = Callable[[Sequence[Pair]], NDArray[np.float64]]


def fit_reward_model(model: str, seed: int, **settings: Any) -> Callable[[Sequence[Pair]], Margins]:
    """What ``audit_mislabelled`` takes as ``fit``: reward models trained one epoch from ``model`` with LoRA.

    ``settings`` are those of RewardConfig. A pair that cannot be scored, its prompt being too long, has the margin 0.
    """
    from preftune.models.settings import ModelConfig
    from preftune.rewards.scoring import open_scorer, score_texts
    from preftune.trainers import RewardConfig, RewardTrainer

    fold = 0

    def fit(pairs: Sequence[Pair]) -> Margins:
        nonlocal fold
        fold += 1
        notify(f"training a reward model on fold {fold}: {len(pairs):,} pairs")
        with TemporaryDirectory(prefix="preftune-audit-") as folder:
            options = {"num_train_epochs": 1, "use_peft": True, "eval_fraction": 0.0, "seed": seed, **settings}
            args = RewardConfig(output_dir=folder, **options)
            RewardTrainer(model, args=args, train_dataset=[pair.as_row() for pair in pairs]).train()
            scorer = open_scorer(ModelConfig.model_validate({"model": str(Path(folder) / "model")}))

        def margins(others: Sequence[Pair]) -> NDArray[np.float64]:
            prompts = [_plain(pair.prompt) for pair in others for _ in range(2)]
            sides = [_plain(side) for pair in others for side in (pair.chosen, pair.rejected)]
            with progress(f"scoring {len(others):,} pairs", len(sides)) as bar:
                scores = score_texts(scorer, prompts, sides, max_length=args.max_length, progress=bar.advance).values
            found = scores.reshape(-1, 2)
            return np.nan_to_num(found[:, 0] - found[:, 1], nan=0.0)

        return margins

    return fit


def _plain(content: Any) -> Any:
    return content if isinstance(content, str) else list(content)
