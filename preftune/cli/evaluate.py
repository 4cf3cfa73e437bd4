"""``preftune eval`` and ``preftune compare``: what models on disk are worth, and what they answer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show

Names = Annotated[list[str], Parameter(negative=())]


def evaluate(
    models: Annotated[list[str], Parameter(allow_leading_hyphen=False)],
    /,
    *,
    data: str,
    split: str = "test",
    limit: int | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    beta: float = 0.1,
    max_length: int = 1024,
    max_new_tokens: int = 128,
    num_completions: int = 32,
    batch_size: int = 8,
    seed: int = 42,
    trust_remote_code: bool = False,
    output: Path | None = None,
) -> Outcome:
    """What a model is worth on held-out pairs, with n and 95% intervals.

    Preference accuracy needs no reference; for an adapter, its base model is the reference, and the implicit
    reward and the KL from it are measured too. Several models are compared pair by pair with the first.

    Example:
      preftune eval out/model --data heldout.jsonl

    Parameters
    ----------
    models: Model folders, adapter folders, run folders, GGUF files or hub names; reward models too.
    data: Pairs that training never saw.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    tokenizer: Where the tokenizer lies, if not with the model.
    dtype: auto, float32 or bfloat16.
    beta: The beta of the implicit reward.
    max_length: Most tokens of prompt and completion together.
    max_new_tokens: Most tokens of an answer.
    num_completions: Prompts answered at temperature 1, for length and KL; 0 for none.
    batch_size: Pairs computed at once.
    seed: Seed of the answers.
    trust_remote_code: Run code that comes with the model.
    output: File for the result as JSON.
    """
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.summary import measures_table
    from preftune.data.read import read_pairs
    from preftune.evaluate.model import Examined, compare_examined

    reading = read_pairs(data, split=split, limit=limit)
    if reading.rejected:
        notify(f"{len(reading.rejected)} of {reading.read} rows left out: {reading.reasons()}")
    how = {
        "beta": beta,
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "num_completions": num_completions,
        "batch_size": batch_size,
        "seed": seed,
    }
    examined = [_examine(_config(name, tokenizer, dtype, trust_remote_code), reading.records, how) for name in models]
    policies = [one for one in examined if isinstance(one, Examined)]
    differences = {one.name: compare_examined(policies[0], one) for one in policies[1:]}
    for one in examined:
        show(measures_table(one.name, one.measures))
    for name, difference in differences.items():
        if difference is not None:
            show(measures_table(f"{name} against {policies[0].name}", {"difference": difference}))
    document = {
        "data": reading.source,
        "pairs": len(reading.records),
        "models": [
            {
                "name": one.name,
                "left_out": one.left_out,
                "measures": {key: measure.as_dict() for key, measure in one.measures.items()},
            }
            for one in examined
        ],
        "differences": {name: m.as_dict() for name, m in differences.items() if m is not None},
    }
    if output is not None:
        from preftune.durable import write_json

        write_json(output, document)
    return Outcome(document)


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
    from preftune.cli.summary import answers_table, measures_table
    from preftune.data.read import read_pairs
    from preftune.evaluate.comparison import compare_models, own_prompts
    from preftune.report.compare_page import write_comparison

    pairs = read_pairs(data, split=split, limit=limit).records if data else ()
    comparison = compare_models(
        lambda name: _open(_config(name, tokenizer, dtype, trust_remote_code)),
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


def _examine(config: Any, pairs: Any, how: dict[str, Any]) -> Any:
    """A policy's measures, or a reward model's."""
    from preftune.models.reward_models import is_reward_model

    if not is_reward_model(config):
        from preftune.evaluate.model import examine

        return examine(_open(config), pairs, progress=progress, **how)
    from preftune.evaluate.reward_model import examine_scorer
    from preftune.rewards.scoring import open_scorer

    with progress(f"loading {config.model}", None):
        scorer = open_scorer(config, notify)
    limits = {name: how[name] for name in ("max_length", "batch_size")}
    return examine_scorer(scorer, pairs, progress=progress, **limits)


def _config(name: str, tokenizer: str | None, dtype: str, trust_remote_code: bool) -> Any:
    from preftune.config import load_config
    from preftune.evaluate.model import model_folder
    from preftune.models.settings import ModelConfig

    values = {
        "model": model_folder(name),
        "tokenizer": tokenizer,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
    }
    return load_config(ModelConfig, file=None, values=values).config


def _open(config: Any) -> Any:
    from preftune.evaluate.model import open_model

    with progress(f"loading {config.model}", None):
        return open_model(config, notify)
