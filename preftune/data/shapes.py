"""From one raw row to pairs: the shapes in which preference data is found, and what is wrong with a row.

A pair is text or messages, with the prompt given or as the common beginning of both sides, or transcripts with
"Human:" and "Assistant:". A group of ranked answers is a row with ``prompt``, ``completions`` and ``ranks`` (1 is
the best), or ``ranked: true`` where the completions stand best first; it gives a pair for every two of different
rank, with the id ``<id>/<better>-<worse>`` where the row has one, counting completions from 1.
"""

from __future__ import annotations

from itertools import combinations

from preftune.data.dialogues import (
    answer_turns,
    as_messages,
    asked_turns,
    awaits_answer,
    begins_with,
    common_length,
    comparable,
    is_transcript,
    same_turns,
    turns_of,
)
from preftune.data.records import Pair
from preftune.data.row_parts import (
    Content,
    Messages,
    Row,
    RowProblem,
    build,
    content,
    identifier,
    kind_of,
    number,
    present,
    refuse_empty,
    row_from_cells,
    row_from_texts,
    row_of,
    truth,
)

__all__ = ["RowProblem", "pair_from_row", "pairs_from_group", "row_from_cells", "row_from_texts"]

_COLUMNS = "prompt, chosen and rejected"
_GROUP_COLUMNS = "prompt, completions and ranks"


def pair_from_row(row: object) -> Pair:
    """The pair in a raw row of any known shape; columns that are not ours are kept in ``meta``.

    Raises RowProblem for everything else; column names are never guessed.
    """
    row = row_of(row, "chosen and rejected")
    chosen, rejected = (content(row, name, _COLUMNS) for name in ("chosen", "rejected"))
    prompt = content(row, "prompt", _COLUMNS) if "prompt" in row else None
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowProblem("wrong-type", "rejected", "Make chosen and rejected both text or both lists of messages.")
    _refuse_identical(chosen, rejected)
    given = chosen, rejected
    prompt, chosen, rejected = _split(prompt, chosen, rejected)
    mend = "Give the row a prompt; without one, both sides must begin with the same text or messages."
    refuse_empty(prompt, mend, chosen=chosen, rejected=rejected)
    if chosen is not given[0] or rejected is not given[1]:
        _refuse_identical(chosen, rejected)
    columns = ("prompt", "chosen", "rejected")
    return build(Pair, {"prompt": prompt, "chosen": chosen, "rejected": rejected}, row, columns)


def pairs_from_group(row: Row) -> tuple[Pair, ...]:
    """A pair for every two answers of different rank in a group of ranked answers."""
    prompt = present(row, "prompt", _GROUP_COLUMNS)
    completions = present(row, "completions", _GROUP_COLUMNS)
    if not isinstance(completions, list | tuple) or len(completions) < 2:
        raise RowProblem("wrong-type", "completions", f"Make it a list of two or more; it is {kind_of(completions)}.")
    ranks = _ranks(row, len(completions))
    name = identifier(row.get("id"), "id")
    shared = {key: value for key, value in row.items() if key not in ("id", "completions", "ranks", "ranked")}
    found: list[Pair] = []
    for first, second in combinations(range(len(completions)), 2):
        if ranks[first] == ranks[second]:
            continue
        better, worse = (first, second) if ranks[first] < ranks[second] else (second, first)
        sides = {"prompt": prompt, "chosen": completions[better], "rejected": completions[worse]}
        place = f"{better + 1}-{worse + 1}"
        try:
            found.append(pair_from_row({**shared, **sides, "id": name and f"{name}/{place}"}))
        except RowProblem as problem:
            field = "completions" if problem.field in ("chosen", "rejected") else problem.field
            raise RowProblem(problem.reason, field, f"In completions {place}: {problem.mend}") from None
    if not found:
        raise RowProblem("no-preference", "ranks", "All answers have the same rank; give the better ones a lower one.")
    return tuple(found)


def _ranks(row: Row, n: int) -> list[float]:
    ranks = row.get("ranks")
    if ranks is None:
        if not truth(present(row, "ranked", _GROUP_COLUMNS), "ranked"):
            raise RowProblem("missing-field", "ranks", "Give each completion a rank, 1 for the best.")
        return [float(place) for place in range(n)]
    if not isinstance(ranks, list | tuple) or len(ranks) != n:
        raise RowProblem("wrong-type", "ranks", f"Give one rank for each of the {n} completions, 1 for the best.")
    found = [number(rank, f"ranks[{place}]") for place, rank in enumerate(ranks)]
    if any(rank is None for rank in found):
        raise RowProblem("null-field", "ranks", "Give every completion a rank, 1 for the best.")
    return [rank for rank in found if rank is not None]


def _refuse_identical(chosen: Content, rejected: Content) -> None:
    if comparable(chosen) == comparable(rejected):
        raise RowProblem("identical-sides", "rejected", "Chosen and rejected say the same; delete the row.")


def _split(prompt: Content | None, chosen: Content, rejected: Content) -> tuple[Content, Content, Content]:
    """Prompt and completions of one kind, the prompt taken out of the sides where they hold it."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return _split_texts(chosen, rejected)
        return _split_given(prompt, chosen, rejected)
    assert not isinstance(chosen, str) and not isinstance(rejected, str)
    if prompt is None:
        return _split_messages(chosen, rejected)
    return _strip_prompt(as_messages(prompt, "user"), chosen, rejected)


def _split_texts(chosen: str, rejected: str) -> tuple[Content, Content, Content]:
    if is_transcript(chosen) and is_transcript(rejected):
        return _split_messages(turns_of(chosen), turns_of(rejected))
    cut = _word_boundary(chosen, common_length(chosen, rejected))
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _split_given(prompt: Content, chosen: str, rejected: str) -> tuple[Content, Content, Content]:
    if not isinstance(prompt, str):
        return prompt, as_messages(chosen, "assistant"), as_messages(rejected, "assistant")
    if awaits_answer(prompt):
        return _strip_prompt(asked_turns(prompt), answer_turns(chosen), answer_turns(rejected))
    asked = as_messages(prompt, "user")
    if is_transcript(chosen) and is_transcript(rejected):
        dialogues = turns_of(chosen), turns_of(rejected)
        # Both must repeat the prompt; otherwise the transcript is itself the answer ("write a dialogue ...").
        if all(begins_with(dialogue, asked) for dialogue in dialogues):
            return _strip_prompt(asked, *dialogues)
    return prompt, chosen, rejected


def _split_messages(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The common leading messages as the prompt, cut so that both completions begin with an assistant's turn.

    Where the dialogues part at another's turn, or one ends where the other goes on, the cut moves back to
    before the last assistant's turn they share: no completion is empty and none begins with the user's words.
    """
    cut = common_length(chosen, rejected)
    at_cut = [side[cut].role if cut < len(side) else "" for side in (chosen, rejected)]
    if at_cut != ["assistant", "assistant"]:
        shared = [place for place in range(cut) if chosen[place].role == "assistant"]
        cut = shared[-1] if shared else cut
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _strip_prompt(prompt: Messages, chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """The sides without the prompt's messages; a system message that only the sides hold joins the prompt."""
    if not prompt:
        return prompt, chosen, rejected
    shared = _split_messages(chosen, rejected)[0]
    if len(shared) > len(prompt) and same_turns(shared[-len(prompt) :], prompt):
        return shared, chosen[len(shared) :], rejected[len(shared) :]
    cuts = [len(prompt) if begins_with(side, prompt) else 0 for side in (chosen, rejected)]
    return prompt, chosen[cuts[0] :], rejected[cuts[1] :]


def _word_boundary(text: str, end: int) -> int:
    """The last place in ``text[:end]`` that splits no word: after a line break, before a space.

    A space stays with the completion, as tokenisers join it to the word that follows.
    """
    while end and not text[end - 1].isspace():
        end -= 1
    while end and text[end - 1].isspace() and text[end - 1] not in "\n\r":
        end -= 1
    return end
