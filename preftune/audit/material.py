"""What audits work on: facts of all records, and the records, pairs and votes of a sample, each read when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from preftune.audit.columns import FIRST, NEITHER, SECOND, Audited
from preftune.audit.mislabelled import MislabelledAudit, audit_mislabelled
from preftune.audit.preference_model import Fit
from preftune.audit.scan import Scan, records_at
from preftune.audit.truth import Truth, infer_truth
from preftune.audit.votes import CHOICES, NOBODY, Votes, votes_of
from preftune.data.comparisons import Verdict, pairs_of_comparisons
from preftune.data.records import Comparison, Label, Pair, readable_text

BLOCK = 4_096  # records that are at hand at a time where all are read one after the other


@dataclass(frozen=True, eq=False)
class Material:
    """The data under audit.

    ``places`` are those of the records that are looked at one by one: all, or a random sample. ``answers`` is a file
    of a person's judgements. What is None was not given.
    """

    scan: Scan
    places: NDArray[np.int64]
    seed: int
    evaluation: Scan | None = None
    tokenizer: Any = None
    max_length: int | None = None
    fit: Fit | None = None
    answers: str | None = None

    @property
    def is_sample(self) -> bool:
        """True where only some of the records are looked at one by one."""
        return len(self.places) < len(self.scan)

    @cached_property
    def records(self) -> tuple[Audited, ...]:
        """The records that are looked at, in the order of the data."""
        return records_at(self.scan, self.places)

    @cached_property
    def held_out(self) -> tuple[Audited, ...]:
        """All evaluation records."""
        scan = self.evaluation
        return () if scan is None else records_at(scan, np.arange(len(scan)))

    @property
    def judged(self) -> Iterator[Pair | Comparison]:
        """Those of the records that are looked at on which there can be votes."""
        return (record for record in self.records if not isinstance(record, Label))

    @cached_property
    def votes(self) -> Votes:
        """The votes on the records that are looked at."""
        return votes_of(self.judged)

    @cached_property
    def truth(self) -> Truth:
        """What is true by the votes."""
        return infer_truth(self.votes, seed=self.seed)

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs among the records; comparisons are decided by the inferred truth where several people voted."""
        return self.decided[1]

    @cached_property
    def decided(self) -> tuple[tuple[int, ...], tuple[Pair, ...]]:
        """Those pairs with their places in the scan."""
        found = [
            (place, pair)
            for place, record in zip(self.places.tolist(), self.records, strict=True)
            if (pair := self.pair_of(record)) is not None
        ]
        return tuple(place for place, _ in found), tuple(pair for _, pair in found)

    def pair_of(self, record: Audited) -> Pair | None:
        """The record as a pair; None of a label, and of a comparison that has no winner."""
        if not isinstance(record, Comparison):
            return record if isinstance(record, Pair) else None
        return next(iter(pairs_of_comparisons([record], self._rule).pairs), None)

    @cached_property
    def mislabelled(self) -> MislabelledAudit:
        """What held-out evidence says of the pairs' labels."""
        return audit_mislabelled(self.pairs, seed=self.seed, fit=self.fit)

    @cached_property
    def _rule(self) -> Literal["majority"] | Mapping[str, Verdict]:
        return _verdicts(self.truth) if len(self.votes) > len(self.votes.items) else "majority"

    def pairs_at(self, places: Sequence[int] | NDArray[Any]) -> tuple[Pair, ...]:
        """The pairs at places of the scan, comparisons by the majority; those that give none are left out."""
        records = records_at(self.scan, np.asarray(places, dtype=np.int64))
        compared = [record for record in records if isinstance(record, Comparison)]
        decided = pairs_of_comparisons(compared).pairs
        return decided if compared else tuple(record for record in records if isinstance(record, Pair))

    def drawn_pairs(self, n: int) -> tuple[Pair, ...]:
        """``n`` pairs drawn from all records, or as many as there are."""
        decided = np.flatnonzero(self.scan.columns.verdict != NEITHER)
        most = n if self.scan.kind == "pair" else 2 * n  # of comparisons some give no pair: an answer may be empty
        places = np.random.default_rng(self.seed).permutation(decided)[:most]
        return self.pairs_at(places)[:n]

    def texts_at(self, places: Sequence[int]) -> list[dict[str, str]]:
        """The texts at places of the scan under the names prompt, chosen and rejected; of labels both sides are one."""
        records = records_at(self.scan, np.asarray(places, dtype=np.int64))
        return [
            dict(zip(("prompt", "chosen", "rejected"), map(readable_text, _parts(record, verdict)), strict=True))
            for record, verdict in zip(records, self.scan.columns.verdict[list(places)], strict=True)
        ]

    def side_marks(self) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """(records,) marks of the chosen and of the rejected side; where there is none, those of all sides for both."""
        _, first, second = self.scan.columns.marks.T
        verdict = self.scan.columns.verdict
        if self.scan.kind == "label":
            return first, first
        chosen = np.where(verdict == FIRST, first, second)
        rejected = np.where(verdict == FIRST, second, first)
        is_open = verdict == NEITHER
        return np.where(is_open, first | second, chosen), np.where(is_open, first | second, rejected)


def sampled_places(scan: Scan, most: int | None, seed: int) -> NDArray[np.int64]:
    """The places of all records, or of ``most`` of them at random, in the order of the data."""
    if most is None or len(scan) <= most:
        return np.arange(len(scan), dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(len(scan), most, replace=False)).astype(np.int64)


def _verdicts(truth: Truth) -> Mapping[str, Verdict]:
    rows = zip(truth.items, truth.choice.tolist(), truth.confidence.tolist(), strict=True)
    return {item: ("tie" if choice == NOBODY else CHOICES[choice], confidence) for item, choice, confidence in rows}


def _parts(record: Audited, verdict: int) -> tuple[Any, Any, Any]:
    if isinstance(record, Pair):
        return record.prompt, record.chosen, record.rejected
    if isinstance(record, Label):
        return record.prompt, record.completion, record.completion
    if verdict == SECOND:
        return record.prompt, record.response_2, record.response_1
    return record.prompt, record.response_1, record.response_2
