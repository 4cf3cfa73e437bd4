"""Comparisons of two answers with the votes of several annotators: from a raw row, and to pairs by a stated rule."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from preftune.data.dialogues import as_messages
from preftune.data.records import Choice, Comparison, Pair, Vote, content_row
from preftune.data.row_parts import (
    SIDES,
    Content,
    Row,
    RowProblem,
    build,
    content,
    kind_of,
    present,
    refuse_empty,
    row_of,
)
from preftune.data.shapes import pair_from_row

Verdict: TypeAlias = tuple[Choice, float | None]  # the choice, and the probability that it is right where it is known

NOVOTES, TIE, NO_MAJORITY, NO_VERDICT = "no-votes", "tie", "no-majority", "no-verdict"
UNDECIDED = (NOVOTES, TIE, NO_MAJORITY, NO_VERDICT)  # the reasons of comparisons that give no pair

_COLUMNS = "prompt, response_1 and response_2"
VOTES = ("annotators", "votes", "winner", "preference")  # one list, or one vote
_ANNOTATOR, _CHOICE = ("id", "annotator"), ("choice", "vote", "value")  # keys of one vote
_CODES: dict[float, Choice] = {0: "tie", 1: "first", 2: "second"}
_SPELLINGS: dict[str, Choice] = {
    **dict.fromkeys(("first", "1", "a"), "first"),
    **dict.fromkeys(("second", "2", "b"), "second"),
    **dict.fromkeys(("tie", "0", "equal", "same", "draw"), "tie"),
    **dict.fromkeys(("both bad", "bothbad", "tie bothbad", "neither"), "both_bad"),
}
_SIDE_NOUN = re.compile(r"(response|completion|answer|output|model|assistant) ")


def sides_of(row: Row) -> tuple[str, str] | None:
    """The columns of the two answers, where the row is a comparison.

    ``answer_a`` and ``answer_b`` without votes may be the options of a question, and make no comparison.
    """
    found = next((names for names in SIDES if names[0] in row and names[1] in row), None)
    if found and (found[0].startswith(("response", "completion")) or any(name in row for name in VOTES)):
        return found
    return None


def comparison_from_row(row: object) -> Comparison:
    """The comparison in a raw row: a prompt, two answers (``response_1``, ``answer_b``, see SIDES), and votes.

    Votes are a list under ``annotators`` or ``votes``, or one under ``winner`` or ``preference``: objects with id,
    choice and seconds, or plain choices, whose annotators are then called by their places "1", "2" and so on. A
    choice is first, second, tie or both_bad, also as 1, 2, 0, as A, B, or by the column's name; a null is no vote.
    An answer that was written as a JSON number or truth is read as its text. Columns that are not ours are kept in
    ``meta``. Raises RowProblem for everything else.
    """
    row = row_of(row, _COLUMNS)
    names = sides_of(row) or ("response_1", "response_2")
    prompt = content(row, "prompt", _COLUMNS)
    first, second = (_answer(row, name) for name in names)
    refuse_empty(prompt, "Give the row a prompt.")
    if not all(isinstance(part, str) for part in (prompt, first, second)):
        prompt = as_messages(prompt, "user")
        first, second = as_messages(first, "assistant"), as_messages(second, "assistant")
    column = next((name for name in VOTES if row.get(name) is not None), "annotators")
    voted = {**row, "annotators": _votes(row.get(column), column)}
    fields = {"prompt": prompt, "response_1": first, "response_2": second}
    return build(Comparison, fields, voted, ("prompt", *names, column))


def majority(votes: Iterable[Vote]) -> Choice | None:
    """The choice that more annotators made than any other; None where there is none."""
    ranked = Counter[Choice](vote.choice for vote in votes).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def pair_of_comparison(comparison: Comparison) -> Pair:
    """The pair that most annotators see in a comparison; RowProblem where they see none.

    ``confidence`` is the share of votes for the chosen answer, ties counted half, and None of a single vote, which
    tells nothing of its own reliability.
    """
    votes = comparison.annotators
    if not votes:
        raise RowProblem(NOVOTES, "annotators", "Have it judged, by people or a judge, or delete the row.")
    choice = majority(votes)
    if choice is None:
        mend = "No choice has the most votes; ask one annotator more, or infer the truth from all votes."
        raise RowProblem(NO_MAJORITY, "annotators", mend)
    return _decided(comparison, (choice, _vote_share(votes, choice)), "majority")


@dataclass(frozen=True)
class Decided:
    """Comparisons made pairs: ``left_out`` gives the ids of those that are none, by reason."""

    pairs: tuple[Pair, ...]
    left_out: dict[str, tuple[str, ...]]


def pairs_of_comparisons(
    comparisons: Iterable[Comparison], rule: Literal["majority"] | Mapping[str, Verdict] = "majority"
) -> Decided:
    """The pairs of comparisons, by the majority of votes or by a given choice and confidence for each id.

    A pair keeps the votes as they were given; ``meta["order"]`` names the side they call first. Ties, undecided
    comparisons and those that are no pair (identical answers, an empty one) are left out and counted.
    """
    pairs: list[Pair] = []
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    for comparison in comparisons:
        try:
            pair = pair_of_comparison(comparison) if rule == "majority" else _pair_by(comparison, rule)
        except RowProblem as problem:
            left_out[problem.reason].append(comparison.id)
            continue
        pairs.append(pair)
    return Decided(tuple(pairs), {reason: tuple(ids) for reason, ids in left_out.items()})


def _answer(row: Row, name: str) -> Content:
    value = present(row, name, _COLUMNS)
    if isinstance(value, float) and not math.isfinite(value):  # how tables write that there is nothing
        raise RowProblem("null-field", name, f"Give {name} a value or delete the row.")
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return content(row, name, _COLUMNS)


def _votes(value: object, field: str) -> list[dict[str, Any]]:
    """The votes in our form, of which ``build`` still checks ids and seconds."""
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        return [_vote(value, "1", field)]
    votes = ((vote, str(place + 1), f"{field}[{place}]") for place, vote in enumerate(value))
    return [_vote(*vote) for vote in votes if not _is_no_vote(vote[0])]


def _is_no_vote(vote: object) -> bool:
    return vote is None or (isinstance(vote, float) and math.isnan(vote))


def _vote(vote: object, place: str, field: str) -> dict[str, Any]:
    if not isinstance(vote, Mapping):
        return {"id": place, "choice": _choice(vote, field)}
    who, what = (next((name for name in names if vote.get(name) is not None), None) for names in (_ANNOTATOR, _CHOICE))
    if what is None:
        raise RowProblem("missing-field", f"{field}.choice", "Give the vote a choice: first, second, tie or both_bad.")
    rest = {name: value for name, value in vote.items() if name not in (who, what)}
    return {**rest, "id": place if who is None else vote[who], "choice": _choice(vote[what], f"{field}.{what}")}


def _choice(value: object, field: str) -> Choice:
    if isinstance(value, str):
        words = " ".join(re.sub(r"[\s_()-]+", " ", value.casefold()).split())
        found = _SPELLINGS.get(_SIDE_NOUN.sub("", words))
    else:
        found = _CODES.get(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
    if found is None:
        shown = f'"{value[:40]}"' if isinstance(value, str) else kind_of(value)
        raise RowProblem("bad-value", field, f"Make it first, second, tie or both_bad (or 1, 2, 0); it is {shown}.")
    return found


def _vote_share(votes: tuple[Vote, ...], choice: Choice) -> float | None:
    if len(votes) < 2:
        return None
    points = {choice: 1.0, "tie": 0.5, "both_bad": 0.5}
    return sum(points.get(vote.choice, 0.0) for vote in votes) / len(votes)


def _pair_by(comparison: Comparison, verdicts: Mapping[str, Verdict]) -> Pair:
    if comparison.id not in verdicts:
        raise RowProblem(NO_VERDICT, None, "Give its id a choice and a confidence.")
    return _decided(comparison, verdicts[comparison.id], "given")


def _decided(comparison: Comparison, verdict: Verdict, rule: str) -> Pair:
    choice, confidence = verdict
    if choice not in ("first", "second"):
        raise RowProblem(TIE, "annotators", "Neither answer is preferred; nothing can be learned from it as a pair.")
    sides = content_row(comparison)
    answers = ("response_1", "response_2") if choice == "first" else ("response_2", "response_1")
    row = {
        "prompt": sides["prompt"],
        "chosen": sides[answers[0]],
        "rejected": sides[answers[1]],
        "id": comparison.id,
        "source": _source(comparison, rule),
        "annotators": [vote.as_row() for vote in comparison.annotators] or None,
        "confidence": confidence,
        "meta": comparison.meta | {"order": "chosen" if choice == "first" else "rejected"},
    }
    try:
        return pair_from_row(row)
    except RowProblem as problem:
        field = {"chosen": answers[0], "rejected": answers[1]}.get(problem.field or "", problem.field)
        raise RowProblem(problem.reason, field, problem.mend) from None


def _source(comparison: Comparison, rule: str) -> dict[str, Any]:
    given = comparison.source
    if given is None:
        return {"rule": rule}
    return (given if isinstance(given, dict) else {"source": given}) | {"rule": rule}
