"""What the policy answers to held-out prompts: written to be read, and drawn to be measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from preftune.durable import write_file
from preftune.evaluate.answers import KL, answer_lengths, kl_from_reference
from preftune.evaluate.measures import paired_change
from preftune.methods.context import Context
from preftune.methods.inputs import EvalPrompt
from preftune.methods.moments import Moments, spread_of
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import FrozenModel
from preftune.rollout.sample import Completion, padding_and_stops, sample

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class Answers:
    """Draws answers of the policy in ``engine``, or of a model lent, to ``prompts``."""

    context: Context[Any]
    engine: LogProbEngine
    tokenizer: Any
    prompts: Sequence[EvalPrompt]

    def write(self, model: nn.Module, step: int, stage: str) -> None:
        """Greedy answers to the first held-out prompts, into ``samples.jsonl``."""
        prompts = self.prompts[: self.context.config.num_samples]
        completions = self._sample(model, prompts, f"writing answers {stage}", temperature=0.0)
        rows = [
            {
                "step": step,
                "stage": stage,
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "completion": self.tokenizer.decode(completion.tokens, skip_special_tokens=True),
                "tokens": len(completion.tokens),
                "finished": completion.finished,
            }
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        if rows and self.context.owned_folder is not None:
            _put_rows(self.context.folder / SAMPLES, rows, step, stage)

    def compare(self, step: int, start: FrozenModel, reference: FrozenModel) -> Moments:
        """How long the answers of ``start`` and of the policy are, and how far the policy is from ``reference``."""
        with start.lend() as model:
            first = self._draw(model, 0, "before")
        last = self._draw(self.engine.model, step, "after")
        if not first:
            return Moments({}, {}, {})
        was, now = ([len(completion.tokens) for completion in drawn] for drawn in (first, last))
        size = self.context.config.per_device_eval_batch_size
        kl = kl_from_reference(self.engine, reference.log_probs, last, size)
        change = {"mean_length": paired_change(was, now, "tokens", "Change of answer length")}
        spreads = {"length": spread_of(was, now)}
        return Moments(answer_lengths(first), {**answer_lengths(last), KL: kl}, change, spreads)

    def _draw(self, model: nn.Module, step: int, stage: str) -> list[Completion]:
        """Answers at temperature 1, for figures; those for reading are written on the way."""
        self.write(model, step, stage)
        prompts = self.prompts[: self.context.config.num_completions]
        return self._sample(model, prompts, f"answers {stage}", temperature=1.0)

    def _sample(
        self, model: nn.Module, prompts: Sequence[EvalPrompt], description: str, temperature: float
    ) -> list[Completion]:
        if not prompts:
            return []
        config = self.context.config
        with self.context.reporter.progress(description, len(prompts)) as bar:
            return sample(
                model,
                [prompt.tokens for prompt in prompts],
                **padding_and_stops(self.engine.model, self.tokenizer),
                max_new_tokens=getattr(config, "max_completion_length", config.max_new_tokens),
                temperature=temperature,
                seed=config.seed,
                progress=bar.advance,
            )


def _put_rows(path: Path, rows: Sequence[Mapping[str, Any]], step: int, stage: str) -> None:
    """Adds rows in the order of steps; those of the same moment, which a resumed run writes again, are replaced."""
    earlier = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = [
        row for line in earlier if (row := _read_row(line)) and (row.get("step"), row.get("stage")) != (step, stage)
    ]
    ordered = sorted([*kept, *rows], key=lambda row: row.get("step", 0))
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ordered))


def _read_row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
