"""What a run on pairs reads: the data split by prompt, audited, and as tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preftune.audit.basics import audit_basics
from preftune.data.read import Reading, fingerprint, read_pairs
from preftune.data.records import Pair, readable_text
from preftune.data.settings import DataConfig
from preftune.data.split import prompt_key, split_by_prompt
from preftune.data.tokens import Dropped, TemplateRefusal, Tokenized, encode_prompt, tokenize_pairs
from preftune.durable import write_json
from preftune.errors import PreftuneError


@dataclass(frozen=True)
class PairData:
    """Training and held-out pairs, as read."""

    reading: Reading
    train: tuple[Pair, ...]
    evaluation: tuple[Pair, ...]
    fingerprint: str


@dataclass(frozen=True)
class EvalPrompt:
    """A held-out prompt as text and tokens."""

    id: str
    text: str
    tokens: list[int]


def read_data(config: DataConfig, seed: int, note: Callable[[str], object]) -> PairData:
    """The pairs of ``config``; rows that cannot be used are noted, by count and commonest reason."""
    reading = read_pairs(config.data, split=config.split, limit=config.limit)
    _note_rejected(reading, note)
    if config.eval_data is None:
        train, evaluation = split_by_prompt(reading.records, config.eval_fraction, seed)
    else:
        held_out = read_pairs(config.eval_data, split=config.eval_split)
        _note_rejected(held_out, note)
        train, evaluation = reading.records, held_out.records
        reading = Reading(reading.records + held_out.records, reading.rejected + held_out.rejected, reading.source)
    if not train:
        raise PreftuneError("No pair is left to train on.", where=config.data, mend="Lower --eval_fraction.")
    return PairData(reading, train, evaluation, fingerprint((*train, *evaluation)))


def write_audit(data: PairData, tokens: dict[str, Tokenized], folder: Path) -> dict[str, Any]:
    """Writes ``audit.json`` and, where rows were left out, ``rejected.jsonl``; gives the audit."""
    audit = audit_basics(Reading(data.train, data.reading.rejected, data.reading.source), data.evaluation).as_dict()
    audit |= {"read": data.reading.read, "train": len(data.train), "evaluation": len(data.evaluation)}
    audit["tokens"] = {name: tokenized.receipt() for name, tokenized in tokens.items()}
    dropped = [one for tokenized in tokens.values() for one in tokenized.dropped]
    reasons = dict(audit["rejected"])
    for one in dropped:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    audit["rejected"] = reasons
    audit["used"] = data.reading.read - sum(reasons.values())
    write_json(folder / "audit.json", audit)
    if reasons:
        _write_rejected(data.reading, dropped, folder / "rejected.jsonl")
    return audit


def to_tokens(
    pairs: tuple[Pair, ...],
    tokenizer: Any,
    config: DataConfig,
    progress: Callable[[int], object] | None = None,
) -> Tokenized:
    """The pairs as tokens, by the config's limits."""
    return tokenize_pairs(
        pairs,
        tokenizer,
        max_length=config.max_length,
        truncation_mode=config.truncation_mode,
        progress=progress,
    )


def eval_prompts(pairs: tuple[Pair, ...], tokenizer: Any, limit: int, longest: int | None) -> list[EvalPrompt]:
    """The first ``limit`` different held-out prompts of at most ``longest`` tokens."""
    found: dict[str, EvalPrompt] = {}
    for pair in pairs:
        key = prompt_key(pair)
        if len(found) == limit:
            break
        if key in found:
            continue
        try:
            tokens = encode_prompt(pair, tokenizer)
        except TemplateRefusal:  # counted where the pairs became tokens
            continue
        if tokens and (longest is None or len(tokens) <= longest):
            found[key] = EvalPrompt(pair.id, readable_text(pair.prompt), tokens)
    return list(found.values())


def _note_rejected(reading: Reading, note: Callable[[str], object]) -> None:
    if reading.rejected:
        reasons = ", ".join(f"{count} {reason}" for reason, count in reading.reasons().items())
        first = reading.rejected[0]
        note(
            f"{len(reading.rejected)} of {reading.read} rows of {reading.source} left out ({reasons}); "
            f"the first is {first.where}. {first.mend}"
        )


def _write_rejected(reading: Reading, dropped: list[Dropped], path: Path) -> None:
    reading.write_rejected(path)
    if dropped:
        import json

        with path.open("a", encoding="utf-8") as file:
            for one in dropped:
                row = {
                    "where": f"pair {one.id}",
                    "field": None,
                    "reason": one.reason,
                    "mend": one.mend,
                    "raw": "",
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
