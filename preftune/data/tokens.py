"""From records to tokens: template, boundary between prompt and completion, one BOS, one EOS, truncation, receipt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from preftune.data.encoding import (
    TemplateRefusal,
    TokenIds,
    Tokenizer,
    answer_texts,
    encode_answers,
    encode_prompt,
    encode_prompts,
    render_prompt,
)
from preftune.data.learned_turns import LearnedTurns, RewrittenTurn, learned_turns, plain_answers, whole_chats
from preftune.data.records import Demonstration, Label, Pair, PromptRecord, Record, content_row
from preftune.data.token_records import (
    Dropped,
    TokenDemonstration,
    Tokenized,
    TokenLabel,
    TokenPair,
    TokenPrompt,
    TokenRecord,
    fingerprint_tokens,
)
from preftune.errors import PreftuneError

__all__ = [
    "Dropped",
    "TemplateRefusal",
    "TokenDemonstration",
    "TokenLabel",
    "TokenPair",
    "TokenPrompt",
    "TokenRecord",
    "Tokenized",
    "Tokenizer",
    "TruncationMode",
    "encode_prompt",
    "fingerprint_tokens",
    "render_prompt",
    "tokenize_demonstrations",
    "tokenize_labels",
    "tokenize_pairs",
    "tokenize_prompts",
]

TruncationMode: TypeAlias = Literal["keep_completion", "keep_start"]
Progress: TypeAlias = Callable[[int], object]
_BLOCK = 512  # records tokenised at once

R = TypeVar("R", bound=Record)
T = TypeVar("T", TokenPair, TokenLabel, TokenDemonstration)
S = TypeVar("S")


def tokenize_pairs(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation_mode: TruncationMode = "keep_completion",
    progress: Progress | None = None,
) -> Tokenized[TokenPair]:
    """The pairs as tokens.

    The boundary is the longest common token prefix of the prompt alone and the prompt with each completion,
    since a tokenizer may merge across it. ``max_length`` bounds prompt plus completion, in tokens:
    ``keep_completion`` cuts the prompt from the left, down to half of the room at most, and only then the
    completion's end; ``keep_start`` keeps the first ``max_length`` tokens, as TRL does.
    A pair whose turns the chat template refuses is left out. Raises ``PreftuneError`` where messages meet a
    tokenizer without chat template, or where no pair is left.
    """
    encoded = _encode(pairs, partial(_encode_pairs, tokenizer=tokenizer), progress)
    return _tokenized(TokenPair, encoded, len(pairs), max_length, truncation_mode, tokenizer.bos_token_id)


def tokenize_labels(
    labels: Sequence[Label],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation_mode: TruncationMode = "keep_completion",
    progress: Progress | None = None,
) -> Tokenized[TokenLabel]:
    """The judged answers as tokens; boundary, truncation and errors are those of ``tokenize_pairs``."""
    encoded = _encode(labels, partial(_encode_labels, tokenizer=tokenizer), progress)
    return _tokenized(TokenLabel, encoded, len(labels), max_length, truncation_mode, tokenizer.bos_token_id)


def tokenize_demonstrations(
    demonstrations: Sequence[Demonstration],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation_mode: TruncationMode = "keep_completion",
    completion_only_loss: bool = True,
    progress: Progress | None = None,
) -> Tokenized[TokenDemonstration]:
    """The demonstrations as tokens; truncation and errors are those of ``tokenize_pairs``.

    The prompt is what stands before the first learned token. Of a conversation every assistant's turn in the
    completion is learned, with the token that ends it; with ``completion_only_loss`` off, and of plain text
    always, everything after the first token is. A demonstration whose turns cannot be found again in the whole
    conversation, because the template rewrites what came before, is left out.
    """
    encode = partial(_encode_demonstrations, tokenizer=tokenizer, completion_only_loss=completion_only_loss)
    encoded = _encode(demonstrations, encode, progress)
    return _tokenized(
        TokenDemonstration, encoded, len(demonstrations), max_length, truncation_mode, tokenizer.bos_token_id
    )


def tokenize_prompts(
    prompts: Sequence[PromptRecord],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> Tokenized[TokenPrompt]:
    """The prompts as tokens, as a model is given them to answer.

    A chat template opens the assistant's turn, or leaves it open where the prompt ends with one. A prompt is never
    cut: one of more than ``max_length`` tokens is left out, as is one that the template refuses. Errors are those
    of ``tokenize_pairs``.
    """
    if max_length is not None and max_length < 1:
        raise PreftuneError(f"max_length is {max_length}.", mend="It must hold a prompt token.")
    encode = partial(_encode_prompts, tokenizer=tokenizer, max_length=max_length)
    kept: list[TokenPrompt] = []
    dropped: list[Dropped] = []
    for outcome in _encode(prompts, encode, progress):
        if isinstance(outcome, Dropped):
            dropped.append(outcome)
        else:
            kept.append(outcome)
    if dropped and not kept:
        raise _none_left(TokenPrompt, dropped)
    return Tokenized(TokenPrompt, tuple(kept), tuple(dropped), 0, 0, 0, 0)


_Encoded: TypeAlias = tuple[T, int]  # a record untruncated, with the number of tokens its prompt has alone


def _encode(
    records: Sequence[R],
    encode_block: Callable[[Sequence[R]], list[S | Dropped]],
    progress: Progress | None,
) -> Iterator[S | Dropped]:
    for begin in range(0, len(records), _BLOCK):
        block = records[begin : begin + _BLOCK]
        yield from encode_block(block)
        if progress is not None:
            progress(len(block))


def _encode_pairs(pairs: Sequence[Pair], tokenizer: Tokenizer) -> list[_Encoded[TokenPair] | Dropped]:
    found: list[_Encoded[TokenPair] | Dropped] = []
    for pair, outcome in zip(pairs, _encode_answers(pairs, tokenizer), strict=True):
        if isinstance(outcome, Dropped):
            found.append(outcome)
            continue
        (prompt, chosen, rejected), prompt_alone = outcome
        found.append((TokenPair(pair.id, prompt, chosen, rejected, pair.margin, pair.confidence), prompt_alone))
    return found


def _encode_labels(labels: Sequence[Label], tokenizer: Tokenizer) -> list[_Encoded[TokenLabel] | Dropped]:
    found: list[_Encoded[TokenLabel] | Dropped] = []
    for label, outcome in zip(labels, _encode_answers(labels, tokenizer), strict=True):
        if isinstance(outcome, Dropped):
            found.append(outcome)
            continue
        (prompt, completion), prompt_alone = outcome
        found.append((TokenLabel(label.id, prompt, completion, label.label), prompt_alone))
    return found


def _encode_answers(
    records: Sequence[Pair] | Sequence[Label], tokenizer: Tokenizer
) -> list[tuple[list[TokenIds], int] | Dropped]:
    """Prompt and completions of each record, with the length of the prompt alone; or why it cannot be rendered."""
    texts, refused = _rendered(records, partial(answer_texts, tokenizer=tokenizer))
    found: dict[int, tuple[list[TokenIds], int] | Dropped] = {**refused}
    for is_chat in (False, True):
        members = [i for i in texts if records[i].is_conversational is is_chat]
        outcomes = encode_answers([texts[i] for i in members], tokenizer, is_chat=is_chat)
        for i, (parts, prompt_alone) in zip(members, outcomes, strict=True):
            found[i] = [_ids(part) for part in parts], prompt_alone
    return [found[i] for i in range(len(records))]


def _encode_prompts(
    records: Sequence[PromptRecord], tokenizer: Tokenizer, max_length: int | None
) -> list[TokenPrompt | Dropped]:
    texts, refused = _rendered(records, partial(render_prompt, tokenizer=tokenizer))
    found: dict[int, TokenPrompt | Dropped] = {**refused}
    for is_chat in (False, True):
        members = [i for i in texts if records[i].is_conversational is is_chat]
        encoded = encode_prompts([texts[i] for i in members], tokenizer, is_chat=is_chat)
        for i, ids in zip(members, encoded, strict=True):
            found[i] = _prompt(records[i], ids, max_length)
    return [found[i] for i in range(len(records))]


def _prompt(record: PromptRecord, ids: Sequence[int], max_length: int | None) -> TokenPrompt | Dropped:
    if not ids:
        return Dropped(record.id, "no-prompt-token", "Nothing predicts the answer's first token: give a prompt or BOS.")
    if max_length is not None and len(ids) > max_length:
        mend = f"It has {len(ids):,} tokens, {max_length:,} are allowed: raise --max_length or shorten it."
        return Dropped(record.id, "prompt-too-long", mend)
    return TokenPrompt(record.id, _ids(ids), record.columns, content_row(record)["prompt"])


def _rendered(records: Sequence[R], render: Callable[[R], S]) -> tuple[dict[int, S], dict[int, Dropped]]:
    """What ``render`` makes of each record, and those the chat template refuses, by their numbers."""
    texts: dict[int, S] = {}
    refused: dict[int, Dropped] = {}
    for i, record in enumerate(records):
        try:
            texts[i] = render(record)
        except TemplateRefusal as refusal:
            refused[i] = _refused(record, refusal)
    return texts, refused


def _encode_demonstrations(
    block: Sequence[Demonstration], tokenizer: Tokenizer, completion_only_loss: bool
) -> list[_Encoded[TokenDemonstration] | Dropped]:
    chats = learned_turns if completion_only_loss else whole_chats
    texts = plain_answers([each for each in block if not each.is_conversational], tokenizer)
    turns = chats([each for each in block if each.is_conversational], tokenizer)
    return [
        _demonstration(each, next(turns if each.is_conversational else texts), completion_only_loss) for each in block
    ]


def _demonstration(
    record: Demonstration, found: LearnedTurns | TemplateRefusal | RewrittenTurn, completion_only_loss: bool
) -> _Encoded[TokenDemonstration] | Dropped:
    if isinstance(found, TemplateRefusal):
        return _refused(record, found)
    if isinstance(found, RewrittenTurn):
        return Dropped(record.id, "template-rewrites-turns", str(found))
    if record.is_plain_text or not completion_only_loss:
        return TokenDemonstration(record.id, _ids(found.ids[:1]), _ids(found.ids[1:])), 0
    if not found.spans:
        mend = "No token of the completion is the assistant's: give its turn some text."
        return Dropped(record.id, "nothing-learned", mend)
    mask = np.zeros(len(found.ids), dtype=bool)
    for first, end in found.spans:
        mask[first:end] = True
    begin = found.spans[0][0]
    prompt, completion, learned = _ids(found.ids[:begin]), _ids(found.ids[begin:]), mask[begin:]
    return TokenDemonstration(record.id, prompt, completion, None if learned.all() else learned), found.prompt_alone


def _refused(record: Record, refusal: TemplateRefusal) -> Dropped:
    return Dropped(record.id, "template-refuses", f"{refusal.what} {refusal.mend}")


def _ids(ids: Sequence[int]) -> TokenIds:
    return np.asarray(ids, dtype=np.int32)


def _tokenized(
    kind: type[T],
    encoded: Iterator[_Encoded[T] | Dropped],
    n: int,
    max_length: int | None,
    mode: TruncationMode,
    bos: int | None,
) -> Tokenized[T]:
    if max_length is not None and max_length < 2:
        raise PreftuneError(f"max_length is {max_length}.", mend="It must hold a prompt and a completion token.")
    kept: list[T] = []
    dropped: list[Dropped] = []
    prompts_cut = completions_cut = tokens_cut = moved = 0
    for outcome in encoded:
        if isinstance(outcome, Dropped):
            dropped.append(outcome)
            continue
        raw, prompt_alone = outcome
        moved += len(raw.prompt) < prompt_alone
        record = raw if max_length is None else _truncate(raw, max_length, mode, bos)
        reason = _unusable(record, raw)
        if reason is not None:
            dropped.append(Dropped(raw.id, *reason))
            continue
        kept.append(record)
        prompts_cut += len(record.prompt) < len(raw.prompt)
        completions_cut += sum(map(len, record.completions)) < sum(map(len, raw.completions))
        tokens_cut += raw.length - record.length
    if n and not kept:
        raise _none_left(kind, dropped)
    return Tokenized(kind, tuple(kept), tuple(dropped), prompts_cut, completions_cut, tokens_cut, moved)


def _none_left(kind: type[TokenRecord], dropped: Sequence[Dropped]) -> PreftuneError:
    first = dropped[0]
    what = f"None of {len(dropped)} {kind.NOUN}s can be used ({first.reason})."
    return PreftuneError(what, where=f"{kind.NOUN} {first.id}", mend=first.mend)


def _truncate(record: T, max_length: int, mode: TruncationMode, bos: int | None) -> T:
    longest = max(len(completion) for completion in record.completions)
    if len(record.prompt) + longest <= max_length:
        return record
    if mode == "keep_start":
        return record.cut(record.prompt[:max_length], max(max_length - len(record.prompt), 0))
    room = min(longest, max(max_length - len(record.prompt), max_length // 2))
    return record.cut(_keep_end(record.prompt, max_length - room, bos), room)


def _keep_end(prompt: TokenIds, room: int, bos: int | None) -> TokenIds:
    if len(prompt) <= room:
        return prompt
    if bos is not None and prompt[0] == bos and room > 1:
        return np.concatenate([prompt[:1], prompt[-(room - 1) :]])
    return prompt[-room:]


def _unusable(record: T, raw: T) -> tuple[str, str] | None:
    if len(record.prompt) == 0:
        return "no-prompt-token", "Nothing predicts the first completion token: give a prompt or a BOS token."
    if not all(len(completion) for completion in raw.completions):
        return "no-completion-token", "A completion has no token of its own: give it more text."
    if not all(len(completion) for completion in record.completions):
        return "prompt-too-long", "The prompt fills max_length: raise --max_length or use keep_completion."
    if isinstance(record, TokenPair) and np.array_equal(record.chosen, record.rejected):
        return "identical-after-truncation", "The sides differ only beyond max_length: raise --max_length."
    if isinstance(record, TokenDemonstration) and not record.learned:
        return "nothing-learned", "No token of the assistant is within max_length: raise --max_length."
    return None
