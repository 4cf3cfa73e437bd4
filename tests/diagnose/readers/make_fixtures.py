"""Makes ``fixtures/trl-dpo``: what TRL's DPOTrainer leaves of twelve steps, TensorBoard's file included.

python -m tests.diagnose.readers.make_fixtures
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from tests.tiny_world import make_world, pair_rows

FIXTURES = Path(__file__).resolve().parent / "fixtures"


def main() -> None:
    """Trains, and keeps the newest checkpoint's state and the event file."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in pair_rows()]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the files hold the paths as they are given
        make_world(Path("world"))
        arguments = DPOConfig(
            output_dir="out",
            max_steps=12,
            logging_steps=1,
            eval_strategy="steps",
            eval_steps=6,
            save_steps=6,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            report_to=["tensorboard"],
            use_cpu=True,
        )
        data = Dataset.from_list(rows)
        trainer = DPOTrainer(
            model="world/model",
            args=arguments,
            train_dataset=data,
            eval_dataset=data,
        )
        trainer.train()
        target = FIXTURES / "trl-dpo"
        shutil.rmtree(target, ignore_errors=True)
        for state in Path("out").glob("checkpoint-*/trainer_state.json"):
            (target / state.parent.name).mkdir(parents=True)
            shutil.copy(state, target / state.parent.name)
        events = next(Path("out").rglob("*tfevents*"))
        (target / "runs" / "first").mkdir(parents=True)
        shutil.copy(events, target / "runs" / "first" / "events.out.tfevents.1.host.1.0")


if __name__ == "__main__":
    main()
