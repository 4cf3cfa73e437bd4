"""Which frozen model a run compares with, and where its log-probs come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from preftune.errors import PreftuneError
from preftune.methods.context import Context
from preftune.methods.policy import load_reference, load_start
from preftune.methods.reporting import SILENT
from preftune.models.adapters import has_adapter
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import (
    FrozenModel,
    Item,
    ItemLogProbs,
    Reduction,
    Reference,
    adapter_off,
    computed_once,
    item_log_probs,
    live,
    separate_model,
    starting_weights,
    summed,
)

AGREEMENT_ITEMS = 4
PROBED_ITEMS = 8


@dataclass(frozen=True)
class References:
    """Of the training batches; of the held-out items, as a table made when it is first asked for; the model behind."""

    training: Reference
    evaluation: Callable[[], ItemLogProbs]
    model: FrozenModel


def choose_references(
    context: Context[Any],
    engine: LogProbEngine,
    train: Sequence[Item],
    held_out: Sequence[Item],
    reduce: Reduction = summed,
    reduction: str = "",
) -> References:
    """Held-out items always from a table, training items too unless an adapter for one epoch makes it no cheaper.

    ``reduction`` names ``reduce``, which makes training items' sums of their log-probs, where it is not the usual.
    """
    config = context.config
    if not context.reference_is_start:
        model = separate_model(load_reference(context))
    elif has_adapter(engine.model):
        model = adapter_off(engine)
    else:
        model = starting_weights(engine)
    computes_once = config.precompute_ref_log_probs
    if computes_once is None:
        computes_once = not has_adapter(engine.model) or config.num_train_epochs > 1
    key = f"{engine.path} {next(engine.parameters()).dtype}"

    def table(items: Sequence[Item], which: str, reduce: Reduction = summed, reduction: str = "") -> Reference:
        with context.reporter.progress(f"reference log-probs, {which}", len(items)) as bar:
            return computed_once(
                model,
                items,
                batch_size=config.per_device_eval_batch_size,
                key=f"{key} {reduction}".strip(),
                reduce=reduce,
                progress=bar.advance,
            )

    @cache
    def evaluation() -> ItemLogProbs:
        return table(held_out, "held-out").log_probs(held_out)

    is_start = not has_adapter(engine.model) and context.reference_is_start
    if is_start:
        evaluation()  # the starting weights are there now and no longer
    if computes_once:
        return References(table(train, "training", reduce, reduction), evaluation, model)
    if is_start:
        model = separate_model(load_start(context, context.reporter))
    return References(live(model, reduce), evaluation, model)


def start_model(context: Context[Any], engine: LogProbEngine) -> FrozenModel:
    """The policy as it was before its first step: without its adapter, or loaded once more."""
    if has_adapter(engine.model):
        return adapter_off(engine)
    return separate_model(load_start(context, SILENT))


def reference_probe(reference: Reference, items: Sequence[Item]) -> Callable[[], dict[str, float]]:
    """What the reference says of the same few pairs whenever it is asked: these figures may never change.

    From a table it is what training reads; of a model that is there it is asked anew.
    """
    some = sorted(items, key=lambda item: item.length)[:PROBED_ITEMS]

    def ask() -> dict[str, float]:
        chosen, rejected = reference.log_probs(some).double().mean(0).tolist()
        return {"ref_logps/chosen": chosen, "ref_logps/rejected": rejected}

    return ask if some else dict


def check_agreement(
    context: Context[Any], engine: LogProbEngine, reference: Reference, items: Sequence[Item], reduce: Reduction
) -> None:
    """Where policy and reference are one at the start, their log-probs must be too."""
    if not context.reference_is_start:
        return
    some = sorted(items, key=lambda item: item.length)[:AGREEMENT_ITEMS]  # the cheapest
    policy = item_log_probs(starting_weights(engine), some, len(some), reduce=reduce)
    frozen = reference.log_probs(some).float().cpu()
    largest = float((policy - frozen).abs().max())
    allowed = 1e-3 if next(engine.parameters()).dtype == torch.float32 else 2e-2
    if largest > allowed * float(frozen.abs().max() + 1):
        raise PreftuneError(
            f"Policy and reference should agree at the start and differ by {largest:.3g} nats.",
            where=reference.kind,
            mend="Clear the cache folder of preftune; if it stays, this is a defect worth a report.",
        )
    context.reporter.note(f"policy and reference agree at the start to {largest:.1g} nats ({len(some)} items)")
