"""How the commands that compare models read what decides between two answers: rewards, and judges."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def named_rewards(given: Sequence[str]) -> list[str]:
    """Rewards as words of their own or with commas between."""
    from preftune.rewards.specs import split_specs

    return [one for text in given for one in ([text] if Path(text).is_dir() else split_specs(text))]


def judging(
    names: Sequence[str],
    *,
    rubric: Path | None = None,
    reason: bool = True,
    base_url: str | None,
    key_env: str | None,
    concurrency: int = 16,
    max_cost: float | None,
    prices: tuple[float | None, float | None] = (None, None),
) -> dict[str, Any]:
    """The judges and how they are asked, as an evaluation's plan has them; ``prices`` are of a million tokens."""
    from preftune.collect.calls import Limits
    from preftune.collect.judge import How, judge_named
    from preftune.collect.judge_prompts import load_rubric
    from preftune.collect.prices import find_price

    judges = tuple(
        judge_named(
            name,
            base_url=base_url,
            key_env=key_env,
            price=lambda model, is_free: find_price(model, *prices, is_free=is_free),
        )
        for name in names
    )
    how = How(rubric=load_rubric(rubric), reason=reason, limits=Limits(concurrency), max_cost=max_cost)
    return {"judge": judges, "judging": how}


def verdict_journal(output: Path | None, models: Sequence[str], data: str | None) -> Path:
    """Beside the output; without one, in the cache under a name of what is evaluated."""
    if output is not None:
        return output.with_name(f"{output.name}.journal")
    from preftune.models.cache import cache_folder

    name = hashlib.sha256("\n".join([*models, str(data)]).encode()).hexdigest()[:16]
    return cache_folder("eval-journals") / f"{name}.journal"
