"""What a run reads: the data split by prompt, and as tokens; what was left out, on file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from preftune.audit.basics import audit_basics
from preftune.data.read import Reading, fingerprint, joined
from preftune.data.records import Demonstration, Label, Pair, PromptRecord, readable_text
from preftune.data.split import prompt_key, split_by_prompt
from preftune.data.tokens import (
    Dropped,
    TemplateRefusal,
    TokenDemonstration,
    Tokenized,
    TokenLabel,
    TokenPair,
    encode_prompt,
)
from preftune.durable import write_json
from preftune.errors import PreftuneError
from preftune.methods.context import Context
from preftune.methods.settings import RunConfig

R = TypeVar("R", Pair, Label, Demonstration, PromptRecord)
T = TypeVar("T", TokenPair, TokenLabel, TokenDemonstration)
Read: TypeAlias = Callable[..., "Reading[R]"]


@dataclass(frozen=True)
class Data(Generic[R]):
    """Training and held-out records, as read."""

    reading: Reading[R]
    train: tuple[R, ...]
    evaluation: tuple[R, ...]
    fingerprint: str


@dataclass(frozen=True)
class EvalPrompt:
    """A held-out prompt as text and tokens."""

    id: str
    text: str
    tokens: list[int]


def read_data(context: Context[Any], read: Read[R]) -> Data[R]:
    """The records of the config; rows that cannot be used are noted, by count and commonest reason."""
    config, note = context.config, context.reporter.note
    given = context.given
    reading = read(config.data if given.train is None else given.train, split=config.split, limit=config.limit)
    _tell(reading, note)
    evaluation_source = config.eval_data if given.evaluation is None else given.evaluation
    if evaluation_source is None:
        train, evaluation = split_by_prompt(reading.records, config.eval_fraction, config.seed)
    else:
        held_out = read(evaluation_source, split=config.eval_split)
        _tell(held_out, note)
        train, evaluation = reading.records, held_out.records
        reading = joined((reading, held_out))
    if not train:
        raise PreftuneError("No row is left to train on.", where=config.data, mend="Lower --eval_fraction.")
    return Data(reading, train, evaluation, fingerprint((*train, *evaluation)))


def to_tokens(
    context: Context[Any], data: Data[R], tokenizer: Any, tokenize: Callable[..., Tokenized[T]]
) -> tuple[Tokenized[T], Tokenized[T]]:
    """Training and held-out records as tokens, by the config's limits; what was cut or left out is noted."""
    config, note = context.config, context.reporter.note
    with context.reporter.progress("tokenising", len(data.train) + len(data.evaluation)) as bar:
        both = [
            tokenize(
                records,
                tokenizer,
                max_length=config.max_length,
                truncation_mode=config.truncation_mode,
                progress=bar.advance,
            )
            for records in (data.train, data.evaluation)
        ]
    dropped = [one for tokens in both for one in tokens.dropped]
    if dropped:
        note(f"{len(dropped)} rows left out as tokens, the first for {dropped[0].reason}; see rejected.jsonl")
    prompts, ends = (sum(getattr(tokens, name) for tokens in both) for name in ("prompts_cut", "completions_cut"))
    if prompts or ends:
        note(f"max_length {config.max_length} cut the prompt of {prompts} rows and an answer's end of {ends}")
    return both[0], both[1]


def eval_prompts(records: Sequence[Any], tokenizer: Any, config: RunConfig) -> list[EvalPrompt]:
    """The first different held-out prompts that leave room, as many as the config measures or shows."""
    found: dict[str, EvalPrompt] = {}
    for record in records:
        key = prompt_key(record)
        if len(found) == max(config.num_samples, config.num_completions):
            break
        if key in found or not record.prompt:  # plain text asks nothing
            continue
        try:
            tokens = encode_prompt(record, tokenizer)
        except TemplateRefusal:  # counted where the records became tokens
            continue
        if tokens and (config.max_length is None or len(tokens) <= config.max_length):
            found[key] = EvalPrompt(record.id, readable_text(record.prompt), tokens)
    return list(found.values())


def write_audit(
    data: Data[Any], train: Tokenized[Any], held_out: Tokenized[Any], folder: Path, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes ``audit.json`` and, where rows were left out, ``rejected.jsonl``; gives the audit.

    ``figures`` are those of the data's kind; rows read, used and left out are counted here.
    """
    tokens = {"train": train, "evaluation": held_out}
    audit = dict(figures)
    audit |= {"read": data.reading.read, "train": len(data.train), "evaluation": len(data.evaluation)}
    audit["tokens"] = {name: tokenized.receipt() for name, tokenized in tokens.items()}
    dropped = [one for tokenized in tokens.values() for one in tokenized.dropped]
    reasons = data.reading.reasons()
    for one in dropped:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    audit["rejected"] = reasons
    audit["used"] = data.reading.read - sum(reasons.values())
    write_json(folder / "audit.json", audit)
    if reasons:
        _write_rejected(data.reading, dropped, folder / "rejected.jsonl")
    return audit


def pair_audit(data: Data[Pair]) -> dict[str, Any]:
    """The audit of the pairs that are trained on."""
    reading = replace(data.reading, records=data.train)
    return audit_basics(reading, data.evaluation).as_dict()


def _tell(reading: Reading[Any], note: Callable[[str], object]) -> None:
    for text in reading.notes:
        note(text)
    if reading.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in reading.reasons().items())
        first = reading.rejected[0]
        note(
            f"{len(reading.rejected)} of {reading.read} rows of {reading.source} left out ({reasons}); "
            f"the first is {first.where}. {first.mend}"
        )


def _write_rejected(reading: Reading[Any], dropped: list[Dropped], path: Path) -> None:
    reading.write_rejected(path)
    if dropped:
        with path.open("a", encoding="utf-8") as file:
            for one in dropped:
                row = {
                    "where": f"row {one.id}",
                    "field": None,
                    "reason": one.reason,
                    "mend": one.mend,
                    "raw": "",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
