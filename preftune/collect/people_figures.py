"""How the annotation goes: what is done, who does how much and how well, and how far people agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from preftune.audit.findings import Share, share_of
from preftune.collect.people_export import comparison_rows
from preftune.collect.people_store import StoredAnswer, reading, stored_answers
from preftune.data.records import Comparison
from preftune.errors import PreftuneError


@dataclass(frozen=True)
class AnnotatorFigures:
    """One annotator: answers on items and on gold, the median time in seconds, and three shares.

    ``right_on_gold``: gold answered as known. ``shown_first``: chosen sides that stood first, 50% for who looks at
    the answers. ``with_the_others``: items on which the vote is what more of the others chose than anything else.
    """

    name: str
    votes: int
    skipped: int
    gold: int
    median_seconds: float | None
    right_on_gold: Share
    shown_first: Share
    with_the_others: Share


@dataclass(frozen=True)
class Figures:
    """The state of all; ``complete`` of the ``items`` have the votes wanted, ``begun`` have any.

    ``agreement`` is empty, and ``note`` says why, where it cannot be told.
    """

    items: int
    complete: int
    begun: int
    votes: int
    wanted: int
    skips: int
    annotators: tuple[AnnotatorFigures, ...]
    agreement: tuple[Share, ...]
    note: str | None


def figures_of(store: Path, *, names: Sequence[str], people_per_item: int) -> Figures:
    """The figures of a store at this moment, read by a connection of their own."""
    with reading(store) as connection:
        known = [row[0] for row in connection.execute("SELECT number FROM items WHERE in_data = 1 AND is_gold = 0")]
        answers = list(stored_answers(connection))
    votes = Counter(stored.answer.item for stored in answers if _is_vote(stored))
    counts = [votes[number] for number in known]
    others = _majorities_of_others(stored for stored in answers if _is_vote(stored))
    by_name: dict[str, list[StoredAnswer]] = defaultdict(list)
    for stored in answers:
        by_name[stored.answer.annotator].append(stored)
    agreement, note = _agreement(store)
    return Figures(
        items=len(known),
        complete=sum(count >= people_per_item for count in counts),
        begun=sum(count > 0 for count in counts),
        votes=sum(counts),
        wanted=len(known) * people_per_item,
        skips=sum(stored.answer.choice == "skip" for stored in answers),
        annotators=tuple(_annotator(name, by_name[name], others) for name in names),
        agreement=agreement,
        note=note,
    )


def _is_vote(stored: StoredAnswer) -> bool:
    return stored.answer.choice != "skip" and not stored.is_gold


def _annotator(
    name: str, answers: Iterable[StoredAnswer], others: Mapping[tuple[int, str], str | None]
) -> AnnotatorFigures:
    answers = list(answers)
    chosen = [stored for stored in answers if stored.answer.choice != "skip"]
    votes = [stored for stored in chosen if not stored.is_gold]
    gold = [stored for stored in chosen if stored.is_gold]
    sided = [stored for stored in chosen if stored.answer.choice in ("first", "second")]
    compared = [
        stored.answer.choice == other
        for stored in votes
        if (other := others.get((stored.answer.item, name))) is not None
    ]
    return AnnotatorFigures(
        name=name,
        votes=len(votes),
        skipped=len(answers) - len(chosen),
        gold=len(gold),
        median_seconds=median(stored.answer.seconds for stored in chosen) if chosen else None,
        right_on_gold=share_of(
            sum(stored.answer.choice == stored.label for stored in gold),
            len(gold),
            "Right on gold",
            "Gold items answered as known.",
        ),
        shown_first=share_of(
            sum(stored.answer.choice == stored.shown_first for stored in sided),
            len(sided),
            "First one chosen",
            "Choices of the answer that stood first; sides are drawn, so who reads both comes near 50%.",
        ),
        with_the_others=share_of(
            sum(compared),
            len(compared),
            "With the others",
            "Items on which the vote is what most of the others chose; where they are divided, it is not counted.",
        ),
    )


def _majorities_of_others(votes: Iterable[StoredAnswer]) -> dict[tuple[int, str], str | None]:
    """For each item and voter what more of the others chose than anything else; None where nothing leads."""
    found: dict[tuple[int, str], str | None] = {}
    for number, group in groupby(votes, key=lambda stored: stored.answer.item):
        answers = [stored.answer for stored in group]
        counts = Counter(answer.choice for answer in answers)
        for answer in answers:
            ranked = (counts - Counter({answer.choice: 1})).most_common(2)
            leads = len(ranked) == 1 or (len(ranked) == 2 and ranked[0][1] > ranked[1][1])
            found[number, answer.annotator] = ranked[0][0] if leads else None
    return found


def _agreement(store: Path) -> tuple[tuple[Share, ...], str | None]:
    """The coefficients of ``preftune audit`` on what was collected so far."""
    try:
        from preftune.audit.agreement import audit_agreement
        from preftune.audit.votes import votes_of
    except ImportError as error:
        return (), f"Agreement needs the package {error.name}."
    try:
        audit = audit_agreement(votes_of(Comparison.model_validate(row) for row, _ in comparison_rows(store)))
    except PreftuneError as error:
        return (), str(error)
    shares = (audit.alpha, audit.agreement, audit.unanimous, *((audit.fleiss,) if audit.fleiss else ()))
    known = tuple(share for share in shares if share.value is not None)
    return known, None if known else "No two people have answered the same item yet."
