"""What a tokenizer makes of prompts and answers: template applied, boundary found, one BOS, one EOS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int

from preftune.data.records import Label, Message, Pair, Record
from preftune.errors import PreftuneError

Tokenizer: TypeAlias = Any  # a transformers PreTrainedTokenizerBase; this package does not import transformers
TokenIds: TypeAlias = Int[np.ndarray, "tokens"]


class TemplateRefusal(PreftuneError):
    """A chat template that does not take these messages, such as two user turns in a row."""


def render_prompt(record: Record, tokenizer: Tokenizer) -> str:
    """The prompt as the text a model is given to answer, template applied."""
    if isinstance(record.prompt, str):
        return record.prompt
    continues = record.prompt[-1].role == "assistant"
    return render(tokenizer, record.prompt, opens_turn=not continues, continues_turn=continues)


def encode_prompt(record: Record, tokenizer: Tokenizer) -> list[int]:
    """The prompt's token ids, with one BOS where the tokenizer has one."""
    (ids,) = encode_prompts([render_prompt(record, tokenizer)], tokenizer, is_chat=record.is_conversational)
    return ids


def encode_prompts(texts: Sequence[str], tokenizer: Tokenizer, *, is_chat: bool) -> list[list[int]]:
    """Rendered prompts as token ids: with one BOS, and without the EOS that some tokenizers put after every text."""
    encoded = encode_texts(texts, tokenizer, is_chat=is_chat)
    return [ids[:-1] for ids in encoded] if not is_chat and closes_texts(tokenizer) else encoded


def answer_texts(record: Pair | Label, tokenizer: Tokenizer) -> tuple[str, ...]:
    """The prompt, and the prompt with each of its answers, as the text that is tokenised."""
    answers = (record.chosen, record.rejected) if isinstance(record, Pair) else (record.completion,)
    if isinstance(record.prompt, str):
        return record.prompt, *(f"{record.prompt}{answer}" for answer in answers)
    wholes = [(*record.prompt, *answer) for answer in answers if not isinstance(answer, str)]
    return render_prompt(record, tokenizer), *(render(tokenizer, whole) for whole in wholes)


def encode_answers(
    texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, *, is_chat: bool
) -> Iterator[tuple[list[list[int]], int]]:
    """Prompt and answers of each of ``texts`` as tokens, with the number of tokens the prompt has alone.

    The boundary is the longest token prefix that the prompt alone shares with the prompt and every answer.
    """
    if not texts:
        return
    encoded = iter(encode_texts([text for group in texts for text in group], tokenizer, is_chat=is_chat))
    closes = not is_chat and closes_texts(tokenizer)
    special = special_ids(tokenizer)
    for group in texts:
        prompt, *wholes = (next(encoded) for _ in group)
        prompt = prompt[:-1] if closes else prompt
        wholes = [end_turn(ids, tokenizer, special) if is_chat else _end_text(ids, tokenizer) for ids in wholes]
        boundary = min(common_prefix(prompt, ids) for ids in wholes)
        yield [prompt[:boundary], *(ids[boundary:] for ids in wholes)], len(prompt)


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer, *, is_chat: bool) -> list[list[int]]:
    """Token ids of each text; a chat template writes its own special tokens, so none are added to a chat."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=not is_chat)["input_ids"]
    return [_single_bos(ids, tokenizer.bos_token_id) for ids in encoded]


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, opens_turn: bool = False, continues_turn: bool = False
) -> str:
    """The messages as text; with ``opens_turn`` the assistant's next turn is opened, with ``continues_turn`` the
    last one is left open. Raises ``PreftuneError`` without a template and ``TemplateRefusal`` where it fails."""
    if not getattr(tokenizer, "chat_template", None):
        raise PreftuneError(
            "The data holds chat messages, but the tokenizer has no chat template.",
            where=str(getattr(tokenizer, "name_or_path", "") or "tokenizer"),
            mend="Name a file with one by --chat_template_path, or give the data as plain text.",
        )
    try:
        return tokenizer.apply_chat_template(
            [message.as_row() for message in messages],
            tokenize=False,
            add_generation_prompt=opens_turn,
            continue_final_message=continues_turn,
        )
    except Exception as error:  # a template is a program of its own and may raise anything
        roles = ", ".join(message.role for message in messages)
        raise TemplateRefusal(
            f"The chat template refuses these messages: {error}.",
            where=f"roles {roles}",
            mend="Reorder the turns, or name another template by --chat_template_path.",
        ) from error


def closes_texts(tokenizer: Tokenizer) -> bool:
    """True for a tokenizer that puts EOS after every text by itself, so after a prompt too."""
    eos = tokenizer.eos_token_id
    return eos is not None and tokenizer("a")["input_ids"][-1] == eos


def end_turn(ids: list[int], tokenizer: Tokenizer, special: set[int]) -> list[int]:
    """The chat up to the special token that closes its last turn, or with EOS where the template closes with none."""
    last = closing_place(ids, tokenizer, special)
    return _end_text(ids, tokenizer) if last is None else ids[:last]


def closing_place(ids: Sequence[int], tokenizer: Tokenizer, special: set[int]) -> int | None:
    """The place after the special token that closes the last turn; None where the template closes with none."""
    last = len(ids)
    while last > 0 and ids[last - 1] not in special and is_blank_token(ids[last - 1], tokenizer):
        last -= 1
    return last if last > 0 and ids[last - 1] in special else None


def is_blank_token(token: int, tokenizer: Tokenizer) -> bool:
    """True for a token that is white space only."""
    return not tokenizer.decode([token]).strip()


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """The ids of all special tokens, those among the added ones included."""
    added = tokenizer.added_tokens_decoder.items()
    return set(tokenizer.all_special_ids) | {i for i, token in added if getattr(token, "special", False)}


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many leading items are equal."""
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return number
    return min(len(left), len(right))


def _single_bos(ids: list[int], bos: int | None) -> list[int]:
    """A template that writes BOS and a tokenizer that adds it double it."""
    return ids[1:] if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos else ids


def _end_text(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Exactly one EOS: texts that end with it written out meet tokenizers that add it."""
    eos = tokenizer.eos_token_id
    if eos is None:
        return ids
    while ids and ids[-1] == eos:
        ids = ids[:-1]
    return [*ids, eos]
