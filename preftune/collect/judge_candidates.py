"""What is to be judged: a prompt with two answers or more, from rows of any shape that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, islice
from os import PathLike
from typing import Any, Final, Literal, TypeAlias

from preftune.audit.votes import names_second_side
from preftune.data.comparisons import comparison_from_row
from preftune.data.dialogues import as_messages
from preftune.data.kinds import kind_of_row
from preftune.data.records import Comparison, Pair, Prompt, character_count, normal_text
from preftune.data.row_parts import RowProblem, content, identifier, kind_of, present, refuse_empty, row_of
from preftune.data.shapes import pair_from_row
from preftune.data.sources import RawRow, numbered_rows, open_place
from preftune.errors import PreftuneError

Match: TypeAlias = Literal["all", "first", "ranking"]

MOST_ANSWERS: Final = 26  # they are named by letters
_TURNED: Final = {"first": "second", "second": "first"}
_COLUMNS = "prompt, response_1 and response_2 (or completions)"


@dataclass(frozen=True)
class Candidates:
    """The answers to a prompt. ``votes`` are people's choices between the first two, by the people's names.

    ``writer`` says what wrote the answers, where the row tells; ``meta`` is kept.
    """

    id: str
    prompt: Prompt
    answers: tuple[Prompt, ...]
    votes: Mapping[str, str] = field(default_factory=dict)
    writer: Any = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def lengths(self) -> tuple[int, ...]:
        """The answers' characters."""
        return tuple(character_count(answer) for answer in self.answers)

    def comparison_id(self, pair: tuple[int, int]) -> str:
        """The name of a comparison of two answers: the row's own where it has two only."""
        return self.id if len(self.answers) == 2 else f"{self.id}/{pair[0] + 1}-{pair[1] + 1}"


@dataclass(frozen=True)
class Reading:
    """The candidates of a source, and the rows that hold none, as (place, reason, mend)."""

    candidates: tuple[Candidates, ...]
    rejected: tuple[tuple[str, str, str], ...]
    source: str

    @property
    def read(self) -> int:
        """The number of rows."""
        return len(self.candidates) + len(self.rejected)


def read_candidates(source: object, *, split: str = "train", limit: int | None = None) -> Reading:
    """Every row's candidates: ``response_1`` and ``response_2`` (see data.comparisons), ``completions`` (a list), or a
    pair, which is judged again.

    A pair's answers are put in an order that its text decides, so that nothing tells which was chosen; its label
    counts as a vote of "label". Of rows with one id the later ones have a number behind it. PreftuneError where no
    row can be used.
    """
    name = str(source) if isinstance(source, str | PathLike) else f"{type(source).__name__} in memory"
    found: list[Candidates] = []
    rejected: list[tuple[str, str, str]] = []
    ids: dict[str, int] = {}
    for raw in islice(_rows(source, split), limit):
        try:
            if raw.problem is not None:
                raise raw.problem
            one = candidates_of_row(raw.value)
        except RowProblem as problem:
            rejected.append((raw.where, problem.reason, problem.mend))
            continue
        ids[one.id] = ids.get(one.id, 0) + 1
        found.append(one if ids[one.id] == 1 else replace(one, id=f"{one.id}#{ids[one.id]}"))
    if not found:
        first = f"; the first, at {rejected[0][0]}, for {rejected[0][1]}" if rejected else ""
        mend = rejected[0][2] if rejected else "Give rows with a prompt and two answers."
        raise PreftuneError(f"No row of {len(rejected):,} can be judged{first}.", where=name, mend=mend)
    return Reading(tuple(found), tuple(rejected), name)


def candidates_of_row(row: object) -> Candidates:
    """The candidates of a raw row or record; RowProblem where it holds none."""
    kind = kind_of_row(row)
    if kind == "pair":
        return _of_pair(row if isinstance(row, Pair) else pair_from_row(row))
    if kind == "comparison":
        return _of_comparison(row if isinstance(row, Comparison) else comparison_from_row(row))
    return _of_list(row)


def comparisons_of(candidates: Candidates, match: Match) -> list[tuple[int, int]]:
    """The two places of each comparison to make: all of two answers, or each with the first."""
    n = len(candidates.answers)
    return [(0, other) for other in range(1, n)] if match == "first" else list(combinations(range(n), 2))


def are_alike(candidates: Candidates, pair: tuple[int, int]) -> bool:
    """Whether the two answers say the same, so that there is nothing to judge."""
    return normal_text(candidates.answers[pair[0]]) == normal_text(candidates.answers[pair[1]])


def _rows(source: object, split: str) -> Iterable[RawRow]:
    if isinstance(source, str | PathLike):
        return open_place(source, split)
    if isinstance(source, Iterable) and not isinstance(source, Mapping | bytes):
        return numbered_rows(source)
    raise PreftuneError(f"Candidates cannot be read from {type(source).__name__}.", mend="Give a file or rows.")


def _of_pair(pair: Pair) -> Candidates:
    digest = hashlib.sha256(f"{pair.id}\n{normal_text(pair.chosen)}".encode("utf-8", "replace")).digest()
    is_turned = bool(digest[0] & 1)
    sides = (pair.rejected, pair.chosen) if is_turned else (pair.chosen, pair.rejected)
    votes = _votes(pair) or {"label": "first"}
    placed = {who: _TURNED.get(choice, choice) if is_turned else choice for who, choice in votes.items()}
    return Candidates(pair.id, pair.prompt, sides, placed, pair.source, pair.meta)


def _of_comparison(comparison: Comparison) -> Candidates:
    answers = (comparison.response_1, comparison.response_2)
    for number, answer in enumerate(answers, 1):
        refuse_empty(comparison.prompt, "Give the row a prompt.", **{f"response_{number}": answer})
    writer = comparison.source or comparison.meta.get("models")
    return Candidates(comparison.id, comparison.prompt, answers, _votes(comparison), writer, comparison.meta)


def _votes(record: Pair | Comparison) -> dict[str, str]:
    """Who chose what, "first" being the chosen answer or response_1."""
    is_turned = names_second_side(record.meta.get("order"))
    return {vote.id: _TURNED.get(vote.choice, vote.choice) if is_turned else vote.choice for vote in record.annotators}


def _of_list(row: object) -> Candidates:
    row = row_of(row, _COLUMNS)
    completions = present(row, "completions", _COLUMNS)
    if not isinstance(completions, list | tuple) or len(completions) < 2:
        mend = f"Make it a list of two answers or more; it is {kind_of(completions)}."
        raise RowProblem("wrong-type", "completions", mend)
    if len(completions) > MOST_ANSWERS:
        raise RowProblem("too-many-answers", "completions", f"Give at most {MOST_ANSWERS} answers to a prompt.")
    prompt = content(row, "prompt", _COLUMNS)
    refuse_empty(prompt, "Give the row a prompt.")
    answers = tuple(_answer(answer, number) for number, answer in enumerate(completions))
    if not all(isinstance(part, str) for part in (prompt, *answers)):
        prompt, answers = as_messages(prompt, "user"), tuple(as_messages(answer, "assistant") for answer in answers)
    name = identifier(row.get("id"), "id") or _hash(prompt, answers)
    meta = row.get("meta")
    return Candidates(name, prompt, answers, {}, row.get("source"), meta if isinstance(meta, Mapping) else {})


def _answer(value: object, number: int) -> Prompt:
    name = f"completions[{number}]"
    answer = content({name: value}, name, "completions")
    refuse_empty("-", "", **{name: answer})
    return answer


def _hash(prompt: Prompt, answers: Sequence[Prompt]) -> str:
    written = "\0".join(normal_text(part) for part in (prompt, *answers))
    return hashlib.sha256(written.encode("utf-8", "replace")).hexdigest()[:16]
