"""``preftune compare``: what two models answer to the same prompts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show

Names = Annotated[list[str], Parameter(negative=())]


def compare(
    first: str,
    second: str,
    *,
    data: str | None = None,
    prompt: Names | None = None,
    split: str = "test",
    limit: int | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    num_samples: int = 8,
    temperature: float = 0.0,
    max_length: int = 1024,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    seed: int = 42,
    trust_remote_code: bool = False,
    reward: Names | None = None,
    judge: Names | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    max_cost: float | None = None,
    output: Path = Path("compare.html"),
) -> Outcome:
    """Two models side by side on the same prompts, in the terminal and as a page.

    With pairs, preference accuracy on them is measured too; with a reward or a judge, how often the second model's
    answer is the better one. `preftune eval SECOND --against FIRST` measures more.

    Example:
      preftune compare base-model out/model --data heldout.jsonl
      preftune compare base-model out/model --prompt "Why is the sky blue?"
      preftune compare base-model out/model --data heldout.jsonl --num-samples 100 --reward runs/reward/model

    Parameters
    ----------
    first: A model, as for eval.
    second: The other model.
    data: Pairs whose prompts are answered, or prompts.
    prompt: Prompts of your own, instead of data.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    tokenizer: Where the tokenizers lie, if not with the models.
    dtype: auto, float32 or bfloat16.
    num_samples: Prompts answered.
    temperature: 0 is greedy.
    max_length: Most tokens of prompt and completion together.
    max_new_tokens: Most tokens of an answer.
    batch_size: Pairs computed at once.
    seed: Seed of the answers.
    trust_remote_code: Run code that comes with the models.
    reward: Rewards that decide between two answers: reward model folders, functions by name or place.
    judge: Models that decide, in both orders, each MODEL, PROVIDER:MODEL or MODEL@URL.
    base_url: Address of the judges' endpoint.
    key_env: Environment variable with the key.
    max_cost: Stop asking judges when so many US dollars are spent.
    output: The page.
    """
    from preftune.errors import PreftuneError

    if bool(data) == bool(prompt):
        raise PreftuneError("compare needs prompts.", mend="Give either --data PAIRS or --prompt TEXT.")
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.eval_choices import judging, named_rewards, verdict_journal
    from preftune.cli.eval_screen import show_comparison
    from preftune.cli.open_models import model_config, open_policy, require_policy
    from preftune.evaluate.comparison import compare_models, own_prompts
    from preftune.evaluate.held_out import read_held_out
    from preftune.evaluate.plan import read_plan
    from preftune.report.compare_page import write_comparison

    configs = {name: model_config(name, tokenizer, dtype, trust_remote_code) for name in (first, second)}
    for name, config in configs.items():
        require_policy(name, config)
    decided: dict[str, Any] = {"reward": tuple(named_rewards(reward))} if reward else {}
    if judge:
        decided |= judging(judge, base_url=base_url, key_env=key_env, max_cost=max_cost)
        decided["journal"] = verdict_journal(None, [first, second], data)
    asked = own_prompts(prompt) if prompt else read_held_out(data, split=split, limit=limit, note=notify)
    decided |= {"num_completions": len(prompt) if prompt else num_samples, "seed": seed, "batch_size": batch_size}
    plan = read_plan(decided | {"max_length": max_length, "max_new_tokens": max_new_tokens})
    comparison = compare_models(
        lambda name: open_policy(configs[name]),
        (first, second),
        asked,
        plan,
        temperature=temperature,
        progress=progress,
        note=notify,
    )
    comparison["made"] = datetime.now(UTC).isoformat(timespec="seconds")
    page = write_comparison(comparison, output)
    show_comparison(comparison)
    show(f"The page is {page}.")
    return Outcome(comparison | {"page": str(page)})
