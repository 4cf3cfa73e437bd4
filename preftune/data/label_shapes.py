"""From one raw row to a label: an answer to a prompt, and whether it is a desirable one."""

from __future__ import annotations

from collections.abc import Callable

from preftune.data.dialogues import (
    answer_turns,
    as_messages,
    asked_turns,
    awaits_answer,
    begins_with,
    is_transcript,
    turns_of,
)
from preftune.data.records import Label
from preftune.data.row_parts import (
    Content,
    Messages,
    Row,
    RowProblem,
    build,
    content,
    present,
    refuse_empty,
    row_of,
    truth,
)

_COLUMNS = "prompt, completion and label"


def label_from_row(row: object) -> Label:
    """The label in a raw row: TRL's unpaired format, as text, messages or transcripts.

    ``label`` is true or false, 1 or 0, or 1 or -1, also as text. A dialogue without a prompt of its own is judged
    by its last answer. Columns that are not ours are kept in ``meta``; raises RowProblem for everything else.
    """
    row = row_of(row, _COLUMNS)
    prompt, completion = prompt_and_completion(row, _COLUMNS, _before_last_answer)
    refuse_empty(prompt, "Give the row a prompt.", completion=completion)
    label = present(row, "label", _COLUMNS)
    fields = {"prompt": prompt, "completion": completion, "label": truth(label, "label")}
    return build(Label, fields, row, ("prompt", "completion", "label"))


def prompt_and_completion(row: Row, columns: str, opening: Callable[[Messages, str], int]) -> tuple[Content, Content]:
    """Prompt and completion of one kind, the prompt taken out of the completion where it holds it.

    ``opening`` tells how many messages of a whole conversation are its prompt.
    """
    completion = content(row, "completion", columns)
    if "prompt" in row:
        return _after_prompt(content(row, "prompt", columns), completion)
    if isinstance(completion, str):
        if not is_transcript(completion):
            present(row, "prompt", columns)
        completion = turns_of(completion)
    cut = opening(completion, "completion")
    return completion[:cut], completion[cut:]


def _after_prompt(prompt: Content, completion: Content) -> tuple[Content, Content]:
    if not isinstance(completion, str):
        return _strip_prompt(as_messages(prompt, "user"), completion)
    if not isinstance(prompt, str):
        return prompt, as_messages(completion, "assistant")
    if awaits_answer(prompt):
        return _strip_prompt(asked_turns(prompt), answer_turns(completion))
    asked = as_messages(prompt, "user")
    if is_transcript(completion) and begins_with(turns_of(completion), asked):
        return _strip_prompt(asked, turns_of(completion))
    return prompt, completion


def _strip_prompt(prompt: Messages, completion: Messages) -> tuple[Messages, Messages]:
    """The completion without the prompt, which it may repeat, perhaps after a system message of its own."""
    for begin, turn in enumerate(completion):
        if prompt and begins_with(completion[begin:], prompt):
            end = begin + len(prompt)
            return completion[:end], completion[end:]
        if turn.role != "system":
            break
    return prompt, completion


def _before_last_answer(conversation: Messages, field: str) -> int:
    if not conversation or conversation[-1].role != "assistant":
        raise RowProblem("no-answer", field, "End the conversation with the assistant's turn that the label judges.")
    return len(conversation) - 1
