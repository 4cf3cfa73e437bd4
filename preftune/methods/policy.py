"""The model being trained: loaded, given its adapter, made lean, and saved at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from preftune.methods.context import Context
from preftune.methods.reporting import Reporter
from preftune.methods.settings import RunConfig
from preftune.models.adapters import add_adapter, has_adapter, save_model
from preftune.models.lean_modules import make_lean
from preftune.models.loading import disable_dropout, load_model, load_tokenizer
from preftune.models.logprobs import LogProbEngine
from preftune.models.merging import Base, Load, load_base, merge_adapter, merged_copy
from preftune.models.weights import count_weights

Engine = TypeVar("Engine", bound=nn.Module)


@dataclass(frozen=True)
class Trainee(Generic[Engine]):
    """A model in its engine, ready to train, and its tokenizer; ``unsaved``: why its start lies nowhere that lasts."""

    engine: Engine
    model: nn.Module
    tokenizer: Any
    unsaved: str | None

    def save(self, folder: Path) -> None:
        """Saves the model as it is; an adapter whose base would not be found again is saved merged into it."""
        model = merged_copy(self.model) if self.unsaved and has_adapter(self.model) else self.model
        save_model(model, self.tokenizer, folder)


def load_policy(context: Context[Any]) -> Trainee[LogProbEngine]:
    """The policy of the config, with a new adapter where one is asked for."""
    return load_trainee(context, load_model, _engine(context))


def _engine(context: Context[Any]) -> Callable[..., LogProbEngine]:
    """Log-probs at the temperature that completions are drawn at, where they are drawn."""
    return partial(LogProbEngine, temperature=getattr(context.config, "temperature", 1.0))


def load_trainee(
    context: Context[Any], load: Load, engine_of: Callable[..., Engine], **adapter: Any
) -> Trainee[Engine]:
    """What ``load`` gives, or what was given in Python, with what is trained marked as such, in its engine.

    ``adapter`` are further arguments of ``add_adapter``.
    """
    config: RunConfig = context.config
    with context.reporter.progress(f"loading {config.model}", None):
        tokenizer = context.given.tokenizer or load_tokenizer(config)
        base = _base(context, load)
        model = base.model.requires_grad_(not config.use_peft)
        if config.use_peft:
            model = add_adapter(model, config, **adapter)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        make_lean(model)
        engine = engine_of(model, note=context.reporter.note)
    if base.unsaved:
        context.reporter.note(f"{base.unsaved}{'; the model is saved whole' if config.use_peft else ''}")
    _note_size(model, context)
    return Trainee(engine, model, tokenizer, base.unsaved)


def _base(context: Context[Any], load: Load) -> Base:
    given = given_model(context, context.given.model)
    if given is None:
        return load_base(context.config, context.device, load)
    if not has_adapter(given):
        return Base(given, None)
    return Base(merge_adapter(given).to(context.device), "the adapter the model came with is merged into its weights")


def load_start(context: Context[Any], reporter: Reporter) -> LogProbEngine:
    """The policy as it was before its first step, beside the one that is trained, for inference only."""
    return _beside(context, context.given.start, context.config.model, reporter)


def load_reference(context: Context[Any]) -> LogProbEngine:
    """The reference that is not the policy's start."""
    return _beside(context, context.given.ref_model, context.config.ref_model, context.reporter)


def _beside(context: Context[Any], given: nn.Module | None, source: str | None, reporter: Reporter) -> LogProbEngine:
    model = given_model(context, given)
    if model is None:
        model = load_model(context.config.model_copy(update={"model": source}), context.device)
    make_lean(model)
    return _engine(context)(model, note=reporter.note)


def given_model(context: Context[Any], model: nn.Module | None) -> nn.Module | None:
    """A model given in Python, as a loaded one would be: on the device, in evaluation mode, dropout off."""
    if model is None:
        return None
    if context.config.disable_dropout:
        disable_dropout(model)
    return model.to(context.device).eval()


def _note_size(model: nn.Module, context: Context[Any]) -> None:
    trained, whole = count_weights(model)
    context.reporter.note(
        f"training {trained / 1e6:,.1f} of {whole / 1e6:,.1f} million parameters in "
        f"{str(next(model.parameters()).dtype).removeprefix('torch.')} on {context.device.type}"
    )
