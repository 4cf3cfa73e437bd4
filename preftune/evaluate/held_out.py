"""What is measured on: the data named, or what a run held out of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from preftune.data.read import read_pairs, read_prompts
from preftune.data.records import Pair, PromptRecord
from preftune.data.split import prompt_key, split_by_prompt
from preftune.errors import PreftuneError
from preftune.evaluate.entrants import run_config


@dataclass(frozen=True)
class HeldOut:
    """Pairs (none of data without) and different prompts, with the data's other columns; and where they come from."""

    pairs: tuple[Pair, ...]
    prompts: tuple[PromptRecord, ...]
    source: str


def read_held_out(
    data: object,
    models: Sequence[str] = (),
    *,
    split: str = "test",
    limit: int | None = None,
    note: Callable[[str], object] = lambda _: None,
) -> HeldOut:
    """The rows of ``data``; without it, what the run that the first model belongs to held out.

    PreftuneError where there is neither, and where nothing can be read.
    """
    if data is not None:
        return _read(data, split, limit, note)
    config = next((found for model in models if (found := run_config(str(model)))), {})
    if not config.get("data"):
        raise PreftuneError("There is nothing to measure on.", mend="Give --data PAIRS that training never saw.")
    if config.get("eval_data"):
        found = _read(config["eval_data"], config.get("eval_split", "test"), limit, note)
    else:
        whole = _read(config["data"], config.get("split", "train"), config.get("limit"), note)
        found = _held_out(whole, float(config.get("eval_fraction", 0.1)), int(config.get("seed", 42)), limit)
    note(f"measured on what the run held out: {len(found.pairs) or len(found.prompts)} rows of {found.source}")
    return found


def different_prompts(prompts: Sequence[PromptRecord], limit: int) -> list[PromptRecord]:
    """The first ``limit`` prompts that are different, with something asked."""
    found: dict[str, PromptRecord] = {}
    for record in prompts:
        if len(found) == limit:
            break
        if record.prompt:
            found.setdefault(prompt_key(record), record)
    return list(found.values())


def _read(source: object, split: str, limit: int | None, note: Callable[[str], object]) -> HeldOut:
    """Pairs where it has them; of anything else, prompts."""
    rows = source if isinstance(source, str) or not hasattr(source, "__iter__") else list(source)  # type: ignore[call-overload]
    try:
        pairs = read_pairs(rows, split=split, limit=limit)
    except PreftuneError as no_pairs:
        try:
            prompts = read_prompts(rows, split=split, limit=limit)
        except PreftuneError:
            raise no_pairs from None
        note(f"{prompts.source} has no pairs: no preference accuracy is measured ({no_pairs.what})")
        return HeldOut((), prompts.records, prompts.source)
    if pairs.rejected:
        note(f"{len(pairs.rejected)} of {pairs.read} rows left out: {pairs.reasons()}")
    return HeldOut(pairs.records, read_prompts(rows, split=split, limit=limit).records, pairs.source)


def _held_out(whole: HeldOut, fraction: float, seed: int, limit: int | None) -> HeldOut:
    """The side that training did not see, by the same draw as the run's."""
    if fraction == 0:
        raise PreftuneError(
            "The run held nothing out (eval_fraction is 0).", where=whole.source, mend="Give --data that it never saw."
        )
    if not whole.pairs:
        return HeldOut((), split_by_prompt(whole.prompts, fraction, seed)[1][:limit], whole.source)
    pairs = split_by_prompt(whole.pairs, fraction, seed)[1][:limit]
    kept = {prompt_key(pair) for pair in pairs}
    return HeldOut(pairs, tuple(one for one in whole.prompts if prompt_key(one) in kept), whole.source)
