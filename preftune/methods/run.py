"""A run on pairs from beginning to end: data, policy, reference, before, training, after, model folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from torch import nn

from preftune.config import dump_config
from preftune.data.batches import BatchPlan
from preftune.data.tokens import Tokenized, TokenPair, fingerprint_tokens
from preftune.durable import write_file, write_json
from preftune.errors import PreftuneError
from preftune.evaluate.preferences import PairScores, score_pairs
from preftune.methods.inputs import PairData, eval_prompts, read_data, to_tokens, write_audit
from preftune.methods.measuring import Examiner, HeldOut, Measured, as_document, describe_change
from preftune.methods.pairs import PairMethod, pair_step
from preftune.methods.reporting import SILENT, Reporter
from preftune.methods.settings import PairConfig
from preftune.models.adapters import add_adapter, has_adapter, save_model
from preftune.models.lean_modules import make_lean
from preftune.models.loading import load_model, load_tokenizer
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import (
    FrozenModel,
    PairLogProbs,
    Reference,
    ReferenceGuard,
    adapter_off,
    computed_once,
    live,
    separate_model,
    starting_weights,
)
from preftune.training.allocator import tune_allocator
from preftune.training.loop import TrainingResult, Watch, Work, train
from preftune.training.rng import seed_everything
from preftune.training.run_folder import open_run
from preftune.versions import installed_versions

LEARNING_RATE, LORA_LEARNING_RATE = 1e-6, 1e-5
AGREEMENT_PAIRS = 4


@dataclass(frozen=True)
class RunSummary:
    """What a run leaves: its folder, how training ended, and the measures of ``eval.json``."""

    folder: Path
    training: TrainingResult
    evaluation: Mapping[str, Any]
    audit: Mapping[str, Any]


@dataclass(frozen=True)
class _Policy:
    """The model being trained, as a log-prob engine, and its tokenizer; ``on_merged``: its start is saved nowhere."""

    engine: LogProbEngine
    tokenizer: Any
    on_merged: bool


@dataclass(frozen=True)
class _References:
    """Of the training batches; of the held-out pairs, as a table made when it is first asked for; the model behind."""

    training: Reference
    evaluation: Callable[[], PairLogProbs]
    model: FrozenModel


def run_pairs(config: PairConfig, method: PairMethod, reporter: Reporter = SILENT, command: str = "") -> RunSummary:
    """Trains on preference pairs into ``config.output_dir`` and measures what it changed.

    Raises ``PreftuneError`` for what the user can mend: data, model, settings, disk.
    """
    accelerator = _start(config)
    with _own_folder(config, accelerator) as folder:
        _start_trackers(config, accelerator)
        seed_everything(config.seed)
        data = read_data(config, config.seed, reporter.note)
        policy = _load_policy(config, accelerator.device, reporter)
        tokens = _tokenize(data, policy.tokenizer, config, reporter)
        references = _choose_references(config, policy.engine, tokens, reporter)
        _check_agreement(config, policy.engine, references.training, tokens.train.pairs, reporter)
        guard = ReferenceGuard(references.training)
        examiner = _examiner(config, method, policy, data, tokens, references, accelerator, reporter)
        audit: dict[str, Any] = {}
        if accelerator.is_main_process:
            audit = write_audit(data, {"train": tokens.train, "evaluation": tokens.evaluation}, folder)
            _write_config(config, method, data, guard, command, folder)
        result = _train(config, method, policy, references, tokens, examiner, guard, folder, accelerator, reporter)
        guard.check("the end")
        if result.stopped is not None:
            return RunSummary(folder, result, {}, audit)
        if accelerator.is_main_process:
            save_model(_model_to_save(policy), policy.tokenizer, folder / "model")
        before, after = _measure(config, policy.engine, references, examiner, result.steps)
        document = {
            "method": method.name,
            "steps": result.steps,
            "nan_steps": result.nan_steps,
            "seconds": result.seconds,
            "before": as_document(before.measures),
            "after": as_document(after.measures),
            "change": as_document(describe_change(before, after)),
            "reference": guard.record(),
        }
        if accelerator.is_main_process:
            write_json(folder / "eval.json", document)
        accelerator.end_training()
    return RunSummary(folder, result, document, audit)


def _start(config: PairConfig) -> Accelerator:
    tune_allocator()
    try:
        accelerator = Accelerator(log_with=list(config.report_to) or None, project_dir=config.output_dir)
    except ValueError as error:
        raise PreftuneError(
            f"A tracker is not known ({str(error).splitlines()[0]}).",
            where="--report_to",
            mend="Use tensorboard, wandb, trackio or another of accelerate's.",
        ) from error
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        raise PreftuneError(
            f"{accelerator.distributed_type.value} is not supported yet.",
            where="accelerate's configuration",
            mend="Launch with data parallelism (--multi_gpu), or in one process.",
        )
    return accelerator


def _start_trackers(config: PairConfig, accelerator: Accelerator) -> None:
    if not config.report_to:
        return
    if len(accelerator.log_with) < len(config.report_to):
        raise PreftuneError(
            f"Of the trackers {', '.join(config.report_to)} not all are installed.",
            where="--report_to",
            mend="Install them: pip install 'preftune[tracking]'.",
        )
    plain = {k: v for k, v in config.model_dump().items() if isinstance(v, str | int | float | bool)}
    named = {"wandb": {"name": config.run_name}} if config.run_name else {}
    accelerator.init_trackers("preftune", config=plain, init_kwargs=named)


@contextmanager
def _own_folder(config: PairConfig, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder; one process of a distributed run locks it for all."""
    folder = Path(config.output_dir)
    if not accelerator.is_main_process:
        yield folder
        return
    with open_run(folder, resume=config.resume):
        if config.resume and (folder / "eval.json").is_file():
            raise PreftuneError(
                "This run is finished: there is nothing to resume.",
                where=str(folder),
                mend="Read its report, or start anew with another --output.",
            )
        yield folder


def _load_policy(config: PairConfig, device: torch.device, reporter: Reporter) -> _Policy:
    with reporter.progress(f"loading {config.model}", None):
        tokenizer = load_tokenizer(config)
        model = load_model(config, device)
        on_merged = has_adapter(model)
        if on_merged:
            # A new adapter on top of an old one would need both to load: the old one becomes part of the weights.
            model = model.merge_and_unload()  # type: ignore[operator]
            reporter.note("the adapter the model came with is merged into its weights")
        model.requires_grad_(not config.use_peft)
        if config.use_peft:
            model = add_adapter(model, config)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]
        make_lean(model)
        engine = LogProbEngine(model, note=reporter.note)
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    whole = sum(p.numel() for p in model.parameters())
    reporter.note(
        f"training {n / 1e6:,.1f} of {whole / 1e6:,.1f} million parameters in "
        f"{str(next(model.parameters()).dtype).removeprefix('torch.')} on {device.type}"
    )
    return _Policy(engine, tokenizer, on_merged)


def _model_to_save(policy: _Policy) -> nn.Module:
    """The policy as it is; an adapter whose base weights are saved nowhere is merged into a copy of them."""
    model = policy.engine.model
    return copy.deepcopy(model).merge_and_unload() if policy.on_merged and has_adapter(model) else model  # type: ignore[operator]


@dataclass(frozen=True)
class _Tokens:
    train: Tokenized
    evaluation: Tokenized


def _tokenize(data: PairData, tokenizer: Any, config: PairConfig, reporter: Reporter) -> _Tokens:
    with reporter.progress("tokenising", len(data.train) + len(data.evaluation)) as bar:
        tokens = _Tokens(
            to_tokens(data.train, tokenizer, config, bar.advance),
            to_tokens(data.evaluation, tokenizer, config, bar.advance),
        )
    left_out = len(tokens.train.dropped) + len(tokens.evaluation.dropped)
    if left_out:
        reporter.note(f"{left_out} pairs left out as tokens, the first for {_first_reason(tokens)}; see rejected.jsonl")
    cut = tokens.train.prompts_cut + tokens.evaluation.prompts_cut
    ends = tokens.train.completions_cut + tokens.evaluation.completions_cut
    if cut or ends:
        reporter.note(f"max_length {config.max_length} cut the prompt of {cut} pairs and an answer's end of {ends}")
    return tokens


def _first_reason(tokens: _Tokens) -> str:
    return (tokens.train.dropped + tokens.evaluation.dropped)[0].reason


def _choose_references(config: PairConfig, engine: LogProbEngine, tokens: _Tokens, reporter: Reporter) -> _References:
    """Held-out pairs always from a table, training pairs too unless an adapter for one epoch makes it no cheaper."""
    if config.ref_model is not None:
        model = separate_model(_load_engine(config.model_copy(update={"model": config.ref_model}), engine, reporter))
    elif has_adapter(engine.model):
        model = adapter_off(engine)
    else:
        model = starting_weights(engine)
    computes_once = config.precompute_ref_log_probs
    if computes_once is None:
        computes_once = not has_adapter(engine.model) or config.num_train_epochs > 1
    key = f"{engine.path} {next(engine.parameters()).dtype}"

    def table(pairs: tuple[TokenPair, ...], which: str) -> Reference:
        with reporter.progress(f"reference log-probs, {which}", len(pairs)) as bar:
            size = config.per_device_eval_batch_size
            return computed_once(model, pairs, batch_size=size, key=key, progress=bar.advance)

    @cache
    def evaluation() -> PairLogProbs:
        return table(tokens.evaluation.pairs, "held-out").log_probs(tokens.evaluation.pairs)

    if not has_adapter(engine.model) and config.ref_model is None:
        evaluation()  # the starting weights are there now and no longer
    if computes_once:
        return _References(table(tokens.train.pairs, "training"), evaluation, model)
    if not has_adapter(engine.model) and config.ref_model is None:
        model = separate_model(_load_engine(config, engine, reporter))
    return _References(live(model), evaluation, model)


def _load_engine(config: PairConfig, policy: LogProbEngine, reporter: Reporter) -> LogProbEngine:
    """A second model beside the policy, for inference only."""
    device = next(policy.parameters()).device
    model = load_model(config, device)
    make_lean(model)
    return LogProbEngine(model, note=reporter.note)


def _measure(
    config: PairConfig, engine: LogProbEngine, references: _References, examiner: Examiner, step: int
) -> tuple[Measured, Measured]:
    """Before and after: the start is the model without its adapter, or is loaded once more."""
    if not examiner.held_out.pairs:
        nothing = Measured({}, PairScores.of([], np.empty((0, 2))), np.empty((0, 2)), [])
        return nothing, nothing
    start = adapter_off(engine) if has_adapter(engine.model) else separate_model(_load_engine(config, engine, SILENT))
    reference = start if config.ref_model is None else references.model
    return examiner.before(start), examiner.after(step, reference)


def _check_agreement(
    config: PairConfig,
    engine: LogProbEngine,
    reference: Reference,
    pairs: tuple[TokenPair, ...],
    reporter: Reporter,
) -> None:
    """Where policy and reference are one at the start, their log-probs must be too."""
    if config.ref_model is not None:
        return
    some = sorted(pairs, key=lambda pair: pair.length)[:AGREEMENT_PAIRS]  # the cheapest
    policy = score_pairs(engine, some, len(some)).log_probs
    frozen = reference.log_probs(some).double().cpu().numpy()
    largest = float(np.abs(policy - frozen).max())
    allowed = 1e-3 if next(engine.parameters()).dtype == torch.float32 else 2e-2
    if largest > allowed * float(np.abs(frozen).max() + 1):
        raise PreftuneError(
            f"Policy and reference should agree at the start and differ by {largest:.3g} nats.",
            where=reference.kind,
            mend="Clear the cache folder of preftune; if it stays, this is a defect worth a report.",
        )
    reporter.note(f"policy and reference agree at the start to {largest:.1g} nats ({len(some)} pairs)")


def _examiner(
    config: PairConfig,
    method: PairMethod,
    policy: _Policy,
    data: PairData,
    tokens: _Tokens,
    references: _References,
    accelerator: Accelerator,
    reporter: Reporter,
) -> Examiner:
    pairs = tokens.evaluation.pairs
    wanted = max(config.num_samples, config.num_completions)
    held_out = HeldOut(
        pairs=pairs,
        prompts=eval_prompts(data.evaluation, policy.tokenizer, wanted, config.max_length),
        reference=references.evaluation,
    )
    folder = Path(config.output_dir) if accelerator.is_main_process else None
    return Examiner(config, method, policy.engine, policy.tokenizer, held_out, folder, reporter)


def _write_config(
    config: PairConfig, method: PairMethod, data: PairData, guard: ReferenceGuard, command: str, folder: Path
) -> None:
    extra = {
        "method": method.name,
        "command": command,
        "data_fingerprint": data.fingerprint,
        "reference": guard.record(),
        "versions": installed_versions(),
    }
    write_file(folder / "config.yaml", dump_config(config, extra))


def _train(
    config: PairConfig,
    method: PairMethod,
    policy: _Policy,
    references: _References,
    tokens: _Tokens,
    examiner: Examiner,
    guard: ReferenceGuard,
    folder: Path,
    accelerator: Accelerator,
    reporter: Reporter,
) -> TrainingResult:
    pairs = tokens.train.pairs
    plan = BatchPlan(
        lengths=tuple(pair.length for pair in pairs),
        batch_size=config.per_device_train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        processes=accelerator.num_processes,
        seed=config.seed,
        strategy=config.train_sampling_strategy,
    )

    def evaluate(step: int) -> Mapping[str, float]:
        guard.check(f"step {step}")
        if step < total:
            examiner.write_answers(policy.engine.model, step, "during")
        return examiner.during(step)

    peak = config.learning_rate or (LORA_LEARNING_RATE if config.use_peft else LEARNING_RATE)
    total = config.total_steps(plan.steps_per_epoch)
    largest = plan.largest(accelerator.process_index, steps=total)
    work = Work(
        module=policy.engine,
        micro_batches=lambda step: [
            [pairs[i] for i in part] for part in plan.micro_batches(step, accelerator.process_index)
        ],
        items=lambda step: len(plan.members(step)),
        compute=pair_step(method, references.training),
        name=lambda batch: ", ".join(pair.id for pair in batch),
        evaluate=evaluate,
        steps_per_epoch=plan.steps_per_epoch,
        identity={
            "tokens": fingerprint_tokens(pairs),
            "pairs_per_step": plan.per_step,
            "steps": total,
            "seed": config.seed,
            "learning_rate": peak,
            "lr_scheduler_type": config.lr_scheduler_type,
            "reference": guard.at_start,
        },
        largest=None if largest is None else [pairs[i] for i in largest],
    )
    policy.engine.train()
    with reporter.progress("training", total) as bar:
        reached = 0

        def on_step(step: int, figures: Mapping[str, float]) -> None:
            nonlocal reached
            bar.advance(step - reached, **figures)
            reached = step

        return train(work, config, peak, folder, accelerator, Watch(on_step, reporter.note))
