"""From one raw row to a demonstration: an answer, a conversation, or plain text to learn from."""

from __future__ import annotations

from preftune.data.dialogues import is_transcript, turns_of
from preftune.data.label_shapes import prompt_and_completion
from preftune.data.records import Demonstration, opening_length
from preftune.data.row_parts import Content, Messages, Row, RowProblem, build, content, refuse_empty, row_of

_COLUMNS = "prompt and completion, messages, or text"


def demonstration_from_row(row: object) -> Demonstration:
    """The demonstration in a raw row, in the first of TRL's formats that it has a value for.

    These are ``prompt`` and ``completion`` as text, messages or transcripts, ``messages`` with a whole
    conversation, and ``text``, all of which is learned. Columns that are not read are kept in ``meta``. Raises
    RowProblem for everything else.
    """
    row = row_of(row, _COLUMNS)
    format_ = _format(row)
    if format_ == "completion":
        prompt, completion = _answer(row)
    elif format_ == "messages":
        prompt, completion = _conversation(row)
    else:
        prompt, completion = "", _text(row)
    columns = ("prompt", "completion") if format_ == "completion" else (format_,)
    return build(Demonstration, {"prompt": prompt, "completion": completion}, row, columns)


def refuse_unspoken(completion: Content, field: str) -> None:
    """RowProblem for messages among which no turn is the assistant's, so that nothing would be learned."""
    if not isinstance(completion, str) and not any(turn.role == "assistant" for turn in completion):
        raise RowProblem("no-answer", field, f"Give the turns to learn the role assistant; {_roles(completion)}.")


def _format(row: Row) -> str:
    """The first column with a value, else the first that is there to be complained of."""
    names = [name for name in ("completion", "messages", "text") if name in row]
    return next((name for name in names if row[name] is not None), names[0] if names else "completion")


def _answer(row: Row) -> tuple[Content, Content]:
    prompt, completion = prompt_and_completion(row, _COLUMNS, _before_first_answer)
    mend = "Give the row a prompt, or its text alone in a column named text."
    refuse_empty(prompt, mend, completion=completion)
    refuse_unspoken(completion, "completion")
    return prompt, completion


def _conversation(row: Row) -> tuple[Messages, Messages]:
    turns = content(row, "messages", _COLUMNS)
    if isinstance(turns, str):
        if not is_transcript(turns):
            raise RowProblem("wrong-type", "messages", "Make messages a list of messages; it is text.")
        turns = turns_of(turns)
    cut = _before_first_answer(turns, "messages")
    refuse_empty(turns[:cut], "Give the turns before the first answer some text.", messages=turns[cut:])
    return turns[:cut], turns[cut:]


def _text(row: Row) -> str:
    text = content(row, "text", _COLUMNS)
    if not isinstance(text, str):
        raise RowProblem("wrong-type", "text", "Make text a text, or name the column messages; it is a list.")
    if not text.strip():
        raise RowProblem("empty-completion", "text", "Give text some text or delete the row.")
    return text


def _before_first_answer(conversation: Messages, field: str) -> int:
    cut = opening_length(conversation)
    if cut is None:
        mend = f"Give the conversation an assistant's turn that answers another's; {_roles(conversation)}."
        raise RowProblem("no-answer", field, mend)
    return cut


def _roles(turns: Messages) -> str:
    roles = list(dict.fromkeys(turn.role[:40] for turn in turns))[:8]
    return f"its roles are {', '.join(roles)}" if roles else "it has no turn"
