"""From pairs to tokens: template, boundary between prompt and completion, one BOS, one EOS, truncation, receipt."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Int

from preftune.data.records import Message, Pair
from preftune.errors import PreftuneError

Tokenizer: TypeAlias = Any  # a transformers PreTrainedTokenizerBase; this package does not import transformers
TokenIds: TypeAlias = Int[np.ndarray, "tokens"]
TruncationMode: TypeAlias = Literal["keep_completion", "keep_start"]
_Texts: TypeAlias = tuple[str, str, str]  # prompt, prompt with chosen, prompt with rejected
_BLOCK = 512  # pairs tokenised at once


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids: ``chosen`` and ``rejected`` continue ``prompt`` and end with EOS unless cut."""

    id: str
    prompt: TokenIds
    chosen: TokenIds
    rejected: TokenIds

    @property
    def length(self) -> int:
        """Tokens of prompt, chosen and rejected together."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


class TemplateRefusal(PreftuneError):
    """A chat template that does not take these messages, such as two user turns in a row."""


@dataclass(frozen=True)
class Dropped:
    """A pair that training cannot use once it is tokens, and why."""

    id: str
    reason: str
    mend: str


@dataclass(frozen=True)
class Tokenized:
    """Pairs as tokens, those left out, and what truncation cut."""

    pairs: tuple[TokenPair, ...]
    dropped: tuple[Dropped, ...]
    prompts_cut: int
    completions_cut: int
    tokens_cut: int
    boundaries_moved: int

    def receipt(self) -> dict[str, Any]:
        """Counts for the audit: tokens a field, what was cut, what was left out."""
        fields = {name: [len(getattr(pair, name)) for pair in self.pairs] for name in ("prompt", "chosen", "rejected")}
        return {
            "pairs": len(self.pairs),
            "lengths": {name: _percentiles(lengths) for name, lengths in fields.items()},
            "total": sum(sum(lengths) for lengths in fields.values()),
            "prompts_cut": self.prompts_cut,
            "completions_cut": self.completions_cut,
            "tokens_cut": self.tokens_cut,
            "boundaries_moved": self.boundaries_moved,
            "left_out": dict(Counter(dropped.reason for dropped in self.dropped)),
        }


def tokenize_pairs(
    pairs: Sequence[Pair],
    tokenizer: Tokenizer,
    *,
    max_length: int | None = None,
    truncation_mode: TruncationMode = "keep_completion",
    progress: Callable[[int], object] | None = None,
) -> Tokenized:
    """The pairs as tokens.

    The boundary is the longest common token prefix of the prompt alone and the prompt with each completion,
    since a tokenizer may merge across it. ``max_length`` bounds prompt plus completion, in tokens:
    ``keep_completion`` cuts the prompt from the left, down to half of the room at most, and only then the
    completion's end; ``keep_start`` keeps the first ``max_length`` tokens, as TRL does.
    A pair whose turns the chat template refuses is left out. Raises ``PreftuneError`` where messages meet a
    tokenizer without chat template, or where no pair is left.
    """
    if max_length is not None and max_length < 2:
        raise PreftuneError(f"max_length is {max_length}.", mend="It must hold a prompt and a completion token.")
    kept: list[TokenPair] = []
    dropped: list[Dropped] = []
    prompts_cut = completions_cut = tokens_cut = moved = 0
    for outcome in _encode(pairs, tokenizer, progress):
        if isinstance(outcome, Dropped):
            dropped.append(outcome)
            continue
        raw, prompt_alone = outcome
        moved += len(raw.prompt) < prompt_alone
        pair = raw if max_length is None else _truncate(raw, max_length, truncation_mode, tokenizer.bos_token_id)
        reason = _unusable(pair)
        if reason is not None:
            dropped.append(Dropped(raw.id, *reason))
            continue
        kept.append(pair)
        prompts_cut += len(pair.prompt) < len(raw.prompt)
        completions_cut += len(pair.chosen) + len(pair.rejected) < len(raw.chosen) + len(raw.rejected)
        tokens_cut += raw.length - pair.length
    if pairs and not kept:
        raise PreftuneError(
            f"None of {len(pairs)} pairs can be used ({dropped[0].reason}).",
            where=f"pair {dropped[0].id}",
            mend=dropped[0].mend,
        )
    return Tokenized(tuple(kept), tuple(dropped), prompts_cut, completions_cut, tokens_cut, moved)


def fingerprint_tokens(pairs: Sequence[TokenPair]) -> str:
    """A hash of every token in order: it changes with data, tokenizer, template and truncation."""
    digest = hashlib.sha256()
    for pair in pairs:
        for ids in (pair.prompt, pair.chosen, pair.rejected):
            digest.update(len(ids).to_bytes(4, "little"))
            digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()


def render_prompt(pair: Pair, tokenizer: Tokenizer) -> str:
    """The prompt as the text a model is given to answer, template applied."""
    return pair.prompt if isinstance(pair.prompt, str) else _render(tokenizer, pair.prompt, is_prompt=True)


def encode_prompt(pair: Pair, tokenizer: Tokenizer) -> list[int]:
    """The prompt's token ids, with one BOS where the tokenizer has one."""
    text = render_prompt(pair, tokenizer)
    ids = list(tokenizer([text], add_special_tokens=not pair.is_conversational)["input_ids"][0])
    if not pair.is_conversational and _closes_texts(tokenizer):
        ids = ids[:-1]
    return _single_bos(ids, tokenizer.bos_token_id)


def _encode(
    pairs: Sequence[Pair], tokenizer: Tokenizer, progress: Callable[[int], object] | None
) -> Iterator[tuple[TokenPair, int] | Dropped]:
    """Each pair untruncated, with the number of tokens its prompt has alone; or why it cannot be rendered."""
    for begin in range(0, len(pairs), _BLOCK):
        block = pairs[begin : begin + _BLOCK]
        encoded: dict[int, tuple[TokenPair, int] | Dropped] = {}
        texts: dict[int, _Texts] = {}
        for i, pair in enumerate(block):
            try:
                texts[i] = _texts(pair, tokenizer)
            except TemplateRefusal as refusal:
                encoded[i] = Dropped(pair.id, "template-refuses", f"{refusal.what} {refusal.mend}")
        for is_chat in (False, True):
            members = [i for i in texts if block[i].is_conversational is is_chat]
            outcomes = _encode_texts([texts[i] for i in members], is_chat, tokenizer)
            for i, (arrays, prompt_alone) in zip(members, outcomes, strict=True):
                encoded[i] = TokenPair(block[i].id, *arrays), prompt_alone
        yield from (encoded[i] for i in range(len(block)))
        if progress is not None:
            progress(len(block))


def _encode_texts(
    texts: Sequence[_Texts], is_chat: bool, tokenizer: Tokenizer
) -> Iterator[tuple[tuple[TokenIds, TokenIds, TokenIds], int]]:
    """Prompt and completions of each triple as tokens, with the number of tokens the prompt has alone."""
    if not texts:
        return
    encoded = tokenizer([text for triple in texts for text in triple], add_special_tokens=not is_chat)["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ends = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if getattr(token, "special", False)
    }
    closes = not is_chat and _closes_texts(tokenizer)
    for number in range(0, len(encoded), 3):
        prompt, chosen, rejected = (_single_bos(ids, bos) for ids in encoded[number : number + 3])
        prompt = prompt[:-1] if closes else prompt
        if is_chat:
            chosen, rejected = (_end_turn(ids, tokenizer, ends, eos) for ids in (chosen, rejected))
        else:
            chosen, rejected = (_end_text(ids, eos) for ids in (chosen, rejected))
        boundary = min(_common_prefix(prompt, chosen), _common_prefix(prompt, rejected))
        parts = (prompt[:boundary], chosen[boundary:], rejected[boundary:])
        first, second, third = (np.asarray(ids, dtype=np.int32) for ids in parts)
        yield (first, second, third), len(prompt)


def _closes_texts(tokenizer: Tokenizer) -> bool:
    """True for a tokenizer that puts EOS after every text by itself, so after a prompt too."""
    eos = tokenizer.eos_token_id
    return eos is not None and tokenizer("a")["input_ids"][-1] == eos


def _texts(pair: Pair, tokenizer: Tokenizer) -> _Texts:
    if isinstance(pair.prompt, str):
        return pair.prompt, pair.prompt + str(pair.chosen), pair.prompt + str(pair.rejected)
    return (
        _render(tokenizer, pair.prompt, is_prompt=True),
        _render(tokenizer, pair.prompt + tuple(pair.chosen), is_prompt=False),  # type: ignore[arg-type]
        _render(tokenizer, pair.prompt + tuple(pair.rejected), is_prompt=False),  # type: ignore[arg-type]
    )


def _render(tokenizer: Tokenizer, messages: Sequence[Message], *, is_prompt: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise PreftuneError(
            "The data holds chat messages, but the tokenizer has no chat template.",
            where=str(getattr(tokenizer, "name_or_path", "") or "tokenizer"),
            mend="Name a file with one by --chat_template_path, or give the pairs as plain text.",
        )
    opens_turn = is_prompt and messages[-1].role != "assistant"
    try:
        return tokenizer.apply_chat_template(
            [message.as_row() for message in messages],
            tokenize=False,
            add_generation_prompt=opens_turn,
            continue_final_message=is_prompt and not opens_turn,
        )
    except Exception as error:  # a template is a program of its own and may raise anything
        roles = ", ".join(message.role for message in messages)
        raise TemplateRefusal(
            f"The chat template refuses these messages: {error}.",
            where=f"roles {roles}",
            mend="Reorder the turns, or name another template by --chat_template_path.",
        ) from error


def _single_bos(ids: list[int], bos: int | None) -> list[int]:
    """A template that writes BOS and a tokenizer that adds it double it."""
    return ids[1:] if bos is not None and len(ids) > 1 and ids[0] == ids[1] == bos else ids


def _end_text(ids: list[int], eos: int | None) -> list[int]:
    """Exactly one EOS: texts that end with it written out meet tokenizers that add it."""
    if eos is None:
        return ids
    while ids and ids[-1] == eos:
        ids = ids[:-1]
    return [*ids, eos]


def _end_turn(ids: list[int], tokenizer: Tokenizer, ends: set[int], eos: int | None) -> list[int]:
    """Cut after the special token that closes the turn; EOS appended where the template closes with none."""
    last = len(ids)
    while last > 0 and ids[last - 1] not in ends and not tokenizer.decode([ids[last - 1]]).strip():
        last -= 1
    if last > 0 and ids[last - 1] in ends:
        return ids[:last]
    return _end_text(ids, eos)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return number
    return min(len(left), len(right))


def _truncate(pair: TokenPair, max_length: int, mode: TruncationMode, bos: int | None) -> TokenPair:
    longest = max(len(pair.chosen), len(pair.rejected))
    if len(pair.prompt) + longest <= max_length:
        return pair
    if mode == "keep_start":
        room = max(max_length - len(pair.prompt), 0)
        return TokenPair(pair.id, pair.prompt[:max_length], pair.chosen[:room], pair.rejected[:room])
    room = min(longest, max(max_length - len(pair.prompt), max_length // 2))
    prompt = _keep_end(pair.prompt, max_length - room, bos)
    return TokenPair(pair.id, prompt, pair.chosen[:room], pair.rejected[:room])


def _keep_end(prompt: TokenIds, room: int, bos: int | None) -> TokenIds:
    if len(prompt) <= room:
        return prompt
    if bos is not None and prompt[0] == bos and room > 1:
        return np.concatenate([prompt[:1], prompt[-(room - 1) :]])
    return prompt[-room:]


def _unusable(pair: TokenPair) -> tuple[str, str] | None:
    if len(pair.prompt) == 0:
        return "no-prompt-token", "Nothing predicts the first completion token: give a prompt or a BOS token."
    if len(pair.chosen) == 0 or len(pair.rejected) == 0:
        return "prompt-too-long", "The prompt fills max_length: raise --max_length or use keep_completion."
    if np.array_equal(pair.chosen, pair.rejected):
        return "identical-after-truncation", "The sides differ only beyond max_length: raise --max_length."
    return None


def _percentiles(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {"n": 0}
    low, median, high = np.percentile(lengths, [5, 50, 95])
    return {
        "n": len(lengths),
        "min": min(lengths),
        "p5": float(low),
        "median": float(median),
        "p95": float(high),
        "max": max(lengths),
    }
