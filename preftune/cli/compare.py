"""``preftune compare``: what two models answer to the same prompts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import progress, show

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
    output: Path = Path("compare.html"),
) -> Outcome:
    """Two models side by side on the same prompts, in the terminal and as a page.

    With pairs, preference accuracy on them is measured too.

    Example:
      preftune compare base-model out/model --data heldout.jsonl
      preftune compare base-model out/model --prompt "Why is the sky blue?"

    Parameters
    ----------
    first: A model, as for eval.
    second: The other model.
    data: Pairs whose prompts are answered.
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
    output: The page.
    """
    from preftune.errors import PreftuneError

    if bool(data) == bool(prompt):
        raise PreftuneError("compare needs prompts.", mend="Give either --data PAIRS or --prompt TEXT.")
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.open_models import model_config, open_policy
    from preftune.cli.summary import answers_table, measures_table
    from preftune.data.read import read_pairs
    from preftune.evaluate.comparison import compare_models, own_prompts
    from preftune.report.compare_page import write_comparison

    pairs = read_pairs(data, split=split, limit=limit).records if data else ()
    comparison = compare_models(
        lambda name: open_policy(model_config(name, tokenizer, dtype, trust_remote_code)),
        (first, second),
        pairs,
        own_prompts(prompt or []),
        num_samples=num_samples,
        temperature=temperature,
        max_length=max_length,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
    comparison["made"] = datetime.now(UTC).isoformat(timespec="seconds")
    page = write_comparison(comparison, output)
    for entry, measures in zip(comparison["models"], comparison["measures"], strict=True):
        if measures:
            show(measures_table(entry["name"], measures))
    for answer in comparison["answers"]:
        show(answers_table(answer["prompt"], [m["name"] for m in comparison["models"]], answer["completions"]))
    show(f"The page is {page}.")
    return Outcome(comparison | {"page": str(page)})
