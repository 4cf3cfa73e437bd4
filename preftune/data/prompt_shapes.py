"""From one raw row to a prompt: of prompt-only rows, and of rows that hold answers too."""

from __future__ import annotations

from preftune.data.dialogues import asked_turns, awaits_answer
from preftune.data.records import PromptRecord
from preftune.data.row_parts import Content, Row, build, content, plain_value, refuse_empty, row_of

_OWN = tuple(PromptRecord.model_fields)
# What pairs, labels, groups and demonstrations say of their answers, which is nothing about the prompt.
_ABOUT_ANSWERS = ("chosen", "rejected", "completion", "completions", "label", "ranks", "ranked", "messages")
_ABOUT_JUDGEMENTS = ("annotators", "confidence", "margin")


def prompt_from_row(row: object) -> PromptRecord:
    """The prompt in a raw row of TRL's prompt-only format; its other columns are kept for reward functions.

    The prompt is text, messages, or a transcript that awaits an answer. Messages that end with the assistant's turn
    are a beginning for the model to continue. Raises RowProblem for everything else.
    """
    row = row_of(row, "prompt")
    prompt = content(row, "prompt", "prompt (the others may stay)")
    if isinstance(prompt, str) and awaits_answer(prompt):
        prompt = asked_turns(prompt)
    return _record(prompt, row, _OWN)


def prompt_beside_answers(prompt: Content, row: Row) -> PromptRecord:
    """The prompt that was found in a row with answers; what the row says of those is left out."""
    return _record(prompt, row, (*_OWN, *_ABOUT_ANSWERS, *_ABOUT_JUDGEMENTS))


def _record(prompt: Content, row: Row, read: tuple[str, ...]) -> PromptRecord:
    refuse_empty(prompt, "Give the row a prompt.")
    others = {str(name): value for name, value in row.items() if name not in read and value is not None}
    columns = {name: plain_value(value, name) for name, value in others.items()}
    return build(PromptRecord, {"prompt": prompt, "columns": columns}, row, tuple(row))
