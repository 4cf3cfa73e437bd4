"""How often a model is right now, and how many completions of a prompt then teach something."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any, Final

import numpy as np

from preftune.advise.rules import Value
from preftune.data.records import PromptRecord

SIZES: Final = (2, 4, 8, 16, 32)
DEAD: Final = 0.25  # at most so many groups without a signal are wanted
COMPLETIONS: Final = 8


@dataclass(frozen=True)
class Success:
    """Right answers of each prompt's ``n`` completions; ``low`` and ``high`` are the rate's 95% interval."""

    right: tuple[int, ...]
    n: int
    rate: float
    low: float
    high: float

    def facts(self) -> dict[str, Value]:
        """For the rules: the rate, the group size that follows, and what it leaves dead."""
        group = advised_group(self)
        return {
            "success_known": True,
            "success": self.rate,
            "success_low": self.low,
            "success_high": self.high,
            "group": group,
            "dead": dead_share(self, group),
            "dead_of_two": dead_share(self, 2),
        }

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it, with the share of dead groups by their size."""
        dead = {str(size): dead_share(self, size) for size in SIZES}
        return {**vars(self), "prompts": len(self.right), "dead_groups": dead}


def dead_share(success: Success, group: int) -> float:
    """The share of groups of that size whose completions are all right or all wrong.

    Up to ``n`` completions it is counted, without bias: of all ways to take ``group`` of a prompt's ``n``. Beyond,
    the prompts' rates are taken for what they were found to be, each a little nearer to one half (Jeffreys).
    """
    n = success.n
    if group <= n:
        return float(np.mean([(comb(k, group) + comb(n - k, group)) / comb(n, group) for k in success.right]))
    rates = (np.array(success.right) + 0.5) / (n + 1)
    return float(np.mean(rates**group + (1 - rates) ** group))


def advised_group(success: Success) -> int:
    """The smallest group that leaves at most a quarter of the groups dead; of those up to 16, else 16."""
    return next((size for size in SIZES[1:4] if dead_share(success, size) <= DEAD), 16)


def success_of(right: Sequence[int], n: int) -> Success:
    """The success of prompts with ``right`` of ``n`` right answers each; the interval is clustered by prompt."""
    from preftune.evaluate.measures import share_of

    flags = [hit < k for k in right for hit in range(n)]
    prompts = [number for number in range(len(right)) for _ in range(n)]
    measure = share_of(flags, prompts, "Right answers", "")
    return Success(tuple(right), n, measure.value, measure.low, measure.high)


def measure_success(
    model: str,
    prompts: Sequence[PromptRecord],
    rewards: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Success:
    """Draws COMPLETIONS answers to each prompt and has them judged; a reward above one half is right."""
    from preftune.data.records import content_row
    from preftune.data.tokens import encode_prompt
    from preftune.evaluate.model import open_model
    from preftune.models.settings import ModelConfig
    from preftune.rewards.calling import Asked
    from preftune.rewards.naming import open_rewards
    from preftune.rollout.engine import open_sampler
    from preftune.rollout.protocol import Sampling
    from preftune.rollout.sample import stop_token_ids

    opened = open_model(ModelConfig(model=model), lambda text: None)
    network = opened.engine.model
    sampler = open_sampler(network, opened.tokenizer, stop_ids=stop_token_ids(network, opened.tokenizer))
    tokens = [encode_prompt(prompt, opened.tokenizer) for prompt in prompts]
    drawn = sampler.sample(
        tokens, COMPLETIONS, Sampling(max_new_tokens, temperature), seed, progress or (lambda n: None)
    )
    repeated = [prompt for prompt in prompts for _ in range(COMPLETIONS)]
    texts = [opened.tokenizer.decode(one.tokens, skip_special_tokens=True) for group in drawn for one in group]
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    table = open_rewards(list(rewards)).score(
        Asked(
            ids=[f"{prompt.id}#{number}" for number, prompt in enumerate(repeated)],
            prompts=[content_row(prompt)["prompt"] for prompt in repeated],
            completions=[
                [{"role": "assistant", "content": text}] if prompt.is_conversational else text
                for prompt, text in zip(repeated, texts, strict=True)
            ],
            completion_ids=[list(one.tokens) for group in drawn for one in group],
            columns={name: [prompt.columns.get(name) for prompt in repeated] for name in names},
        )
    )
    is_right = (np.nan_to_num(table.values[:, 0]) > 0.5).reshape(len(prompts), COMPLETIONS)
    return success_of(is_right.sum(1).tolist(), COMPLETIONS)
