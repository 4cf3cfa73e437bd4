"""Rewards by name. Each maker here returns a function with TRL's signature.

    f(prompts, completions, completion_ids, **columns) -> list[float | None]

``prompts`` and ``completions`` are text or chat messages, ``columns`` the other columns of the data, a list each; None
is for a row to which the reward does not apply. What a maker takes is what stands in brackets behind a name:
``length(max=256,cache=64)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Field, validate_call

from preftune.errors import PreftuneError
from preftune.rewards.answers_in_text import is_right

RewardFunction: TypeAlias = Callable[..., list[float | None]]

ANSWER_COLUMNS: Final = ("answer", "solution", "ground_truth", "target")
LAYOUT: Final = "<think>{}</think><answer>{}</answer>"

Share: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


@validate_call
def accuracy(tolerance: Share = 1e-6, announced_only: bool = False, column: str | None = None) -> RewardFunction:
    """1 where the completion's final answer is the row's, else 0; None for a row without an answer.

    The row's answer is ``column``, or else the first of answer, solution, ground_truth and target that it has; several
    acceptable answers are a list. ``answers_in_text.is_right`` says how a final answer is found and compared.
    ``announced_only`` leaves out answers that no final form announces.
    """
    names = ANSWER_COLUMNS if column is None else (column,)
    within = Fraction(Decimal(repr(tolerance)))

    def accuracy(
        prompts: Any, completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float | None]:
        return [
            _judged(text_of(completion), answers, within, announced_only)
            for completion, answers in zip(completions, _answers(columns, names, len(completions)), strict=True)
        ]

    return accuracy


@validate_call
def format(template: str = LAYOUT) -> RewardFunction:
    """1 where the completion has the layout, else 0.

    ``template`` is text with holes {}: each piece of text must occur once and in this order, the first at the
    beginning and the last at the end; what fills a hole is not blank; white space between is free.
    """
    holes = template.count("{}")
    pieces = [piece.strip() for piece in template.split("{}")]
    if not holes or not all(pieces[1:-1]) or not any(pieces):
        raise PreftuneError(
            f"The layout {template!r} has no text around its holes.", mend=f"Write one like {LAYOUT!r}."
        )
    # Where two pieces of the template touch, as in </think><answer>, white space may come between the tags.
    marks = [mark for piece in pieces for mark in _touching_tags(piece)]

    def format(prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        return [float(_has_layout(text_of(completion), pieces, marks)) for completion in completions]

    return format


@validate_call
def think_format() -> RewardFunction:
    """TRL's layout: 1 where the completion opens with <think>, opens it once, and closes it; else 0."""

    def think_format(prompts: Any, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        texts = [text_of(completion) for completion in completions]
        return [
            float(text.startswith("<think>") and text.count("<think>") == 1 and "</think>" in text) for text in texts
        ]

    return think_format


@validate_call
def length(max: Count, cache: Annotated[int, Field(ge=0)] | None = None) -> RewardFunction:
    """DAPO's soft penalty on overlong completions (2503.14476, eq. 13), in tokens.

    0 up to ``max`` - ``cache`` tokens, from there falling in a line to -1 at ``max``, and -1 beyond. ``cache`` is a
    fifth of ``max`` where it is not given, as in the paper (4,096 of 20,480).
    """
    soft = max // 5 if cache is None else cache
    if soft > max:
        raise PreftuneError(f"cache is {soft}, more than max, {max}.", where="length")

    def length(prompts: Any, completions: Any, completion_ids: Sequence[Any], **columns: Any) -> list[float | None]:
        return [_overlong(len(ids), max, soft) for ids in completion_ids]

    return length


@validate_call
def target_length(target: Count, width: Count | None = None) -> RewardFunction:
    """0 at ``target`` tokens, falling in a line on both sides to -1 at ``width`` tokens (or ``target``) away."""
    reach = target if width is None else width

    def target_length(
        prompts: Any, completions: Any, completion_ids: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        return [-min(1.0, abs(len(ids) - target) / reach) for ids in completion_ids]

    return target_length


@validate_call
def repetition(n: Count = 3, worst: Annotated[Finite, Field(le=0)] = -1.0) -> RewardFunction:
    """``worst`` times the share of repeated n-grams of tokens, 1 - distinct / all (2502.03373, appendix C.2)."""

    def repetition(prompts: Any, completions: Any, completion_ids: Sequence[Any], **columns: Any) -> list[float | None]:
        return [worst * _repeated_share(list(ids), n) for ids in completion_ids]

    return repetition


@validate_call
def cosine(
    max: Count,
    right_short: Finite = 1.0,
    right_long: Finite = 0.5,
    wrong_short: Finite = -1.0,
    wrong_long: Finite = -0.5,
    tolerance: Share = 1e-6,
) -> RewardFunction:
    """Accuracy that counts length (2502.03373, appendix C.1), along a half cosine from 0 to ``max`` tokens.

    A right answer earns from ``right_short`` to ``right_long``, a wrong one from ``wrong_short`` to ``wrong_long``:
    by default a longer wrong answer costs less, since it tried.
    """
    is_accurate = accuracy(tolerance=tolerance)

    def cosine(
        prompts: Any, completions: Sequence[Any], completion_ids: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        rewards: list[float | None] = []
        for right, ids in zip(is_accurate(prompts, completions, **columns), completion_ids, strict=True):
            short, long = (right_short, right_long) if right else (wrong_short, wrong_long)
            passed = (1 - math.cos(math.pi * min(1.0, len(ids) / max))) / 2
            rewards.append(None if right is None else short + (long - short) * passed)
        return rewards

    return cosine


FUNCTIONS: Final[Mapping[str, Callable[..., RewardFunction]]] = {
    "accuracy": accuracy,
    "cosine": cosine,
    "format": format,
    "length": length,
    "repetition": repetition,
    "target_length": target_length,
    "think_format": think_format,
}
# TRL's names. Its accuracy leaves reasoning in or takes it out; here it is always out.
TRL_NAMES: Final[Mapping[str, str]] = {
    "accuracy_reward": "accuracy",
    "reasoning_accuracy_reward": "accuracy",
    "cosine_scaled_reward": "cosine",
    "repetition_penalty_reward": "repetition",
    "soft_overlong_punishment": "length",
    "soft_overlong_punishment_reward": "length",
    "think_format_reward": "think_format",
}


def text_of(completion: Any) -> str:
    """A completion's words: the text, or what the assistant said last."""
    if isinstance(completion, str):
        return completion
    said = [message for message in completion if message.get("role", "assistant") == "assistant"]
    content = said[-1].get("content") if said else None
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content or ""


def _judged(text: str, answers: Sequence[str], tolerance: Fraction, announced_only: bool) -> float | None:
    if not answers:
        return None
    return float(any(is_right(text, answer, tolerance, announced_only=announced_only) for answer in answers))


def _answers(columns: Mapping[str, Any], names: Sequence[str], rows: int) -> list[list[str]]:
    """The acceptable answers of each row, as text."""
    present = [columns[name] for name in names if name in columns]
    if not present:
        listed = ", ".join(sorted(columns)) or "none"
        raise PreftuneError(
            f"accuracy finds no column {' or '.join(names)} in the data (its other columns: {listed}).",
            mend="Name the column with the right answers: accuracy(column=NAME).",
        )
    return [next((found for column in present if (found := _as_texts(column[row]))), []) for row in range(rows)]


def _as_texts(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [text for one in value for text in _as_texts(one)]
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return []
    text = str(value)  # of a float the shortest decimal that is it: 0.1, not 0.1000000000000000055
    return [text] if text.strip() else []


def _touching_tags(piece: str) -> list[str]:
    return [mark for mark in piece.replace("><", ">\0<").split("\0") if mark]


def _has_layout(text: str, pieces: Sequence[str], marks: Sequence[str]) -> bool:
    """The marks in order, each once, nothing before, between touching ones or after, and no hole blank."""
    if any(text.count(mark) != marks.count(mark) for mark in marks):
        return False
    rest = text.strip()
    for number, piece in enumerate(pieces):
        for touching, mark in enumerate(_touching_tags(piece)):
            before, found, rest = rest.partition(mark)
            is_hole = touching == 0 and number > 0
            if not found or bool(before.strip()) != is_hole:
                return False
    return bool(rest.strip()) != bool(pieces[-1])


def _overlong(tokens: int, longest: int, soft: int) -> float:
    if tokens <= longest - soft:
        return 0.0
    return (longest - soft - tokens) / soft if tokens <= longest else -1.0


def _repeated_share(ids: Sequence[int], n: int) -> float:
    grams = [tuple(ids[start : start + n]) for start in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
