"""What users did to answers, read from a log and turned into labels or pairs with confidences."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

from preftune.audit.findings import Finding
from preftune.collect.implicit_clicks import Places, Propensities, places_of, propensities_of
from preftune.collect.implicit_evidence import Knowledge, count_the_rest, evidence_by_prompt
from preftune.collect.implicit_findings import findings_of
from preftune.collect.implicit_records import Shape, Writing, labels_of, pairs_of
from preftune.collect.implicit_signals import (
    Strength,
    assumed_strengths,
    copy_habits,
    dwell_medians,
    measured_strengths,
    session_lengths,
    thumbs_history,
)
from preftune.collect.implicit_statements import statements
from preftune.collect.log_mapping import LogMapping, load_mapping
from preftune.collect.log_reading import LogReading, read_log, write_left_out
from preftune.collect.log_store import LogStore, open_store
from preftune.collect.rater_history import RaterHistory
from preftune.data.records import Label, Pair
from preftune.durable import explained_errors, sync_folder
from preftune.errors import PreftuneError

MIN_CONFIDENCE = 0.55


@dataclass(frozen=True)
class Implicit:
    """What was made of a log, and what that rests on.

    ``events`` counts by kind what became of the events, ``dropped`` the answers or pairs without a record by reason,
    ``conflicting`` the answers whose signals point both ways.
    """

    output: str
    shape: Shape
    made: int
    desirable: int | None
    dropped: dict[str, int]
    conflicting: int
    mean_confidence: float | None
    reading: LogReading
    events: dict[str, dict[str, int]]
    strengths: Mapping[str, Strength]
    history: RaterHistory
    session_measure: str
    places: Places
    propensities: Propensities | None
    statements: Mapping[str, str]
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        return {
            "output": self.output,
            "shape": self.shape,
            "made": self.made,
            "desirable": self.desirable,
            "dropped": self.dropped,
            "conflicting": self.conflicting,
            "mean_confidence": self.mean_confidence,
            "rows": _rows(self.reading),
            "events": self.events,
            "signals": {kind: _strength(one) for kind, one in self.strengths.items()},
            "raters": _raters(self.history),
            "session_length": self.session_measure,
            "places": _places(self.places),
            "propensities": None if self.propensities is None else self.propensities.as_dict(),
            "assumptions": dict(self.statements),
            "findings": [asdict(finding) for finding in self.findings],
        }


def implicit(
    logs: str | PathLike[str] | Iterable[object],
    mapping: str | Path | Mapping[str, Any] | LogMapping,
    output: str | PathLike[str],
    *,
    shape: Shape = "labels",
    min_confidence: float = MIN_CONFIDENCE,
    split: str = "train",
    limit: int | None = None,
    rejected: str | PathLike[str] | None = None,
    seed: int = 0,
    now: datetime | None = None,
    advance: Callable[[int], object] | None = None,
) -> Implicit:
    """Writes the labels or pairs that a log's signals give to ``output``, in one stroke, and says what they rest on.

    The same log gives the same records, but for the ``time`` in their source. ``seed`` draws the bootstrap of the
    click rates. Raises PreftuneError for a mapping or log that cannot be used.
    """
    if not 0.5 <= min_confidence < 1:
        mend = "Give a probability from 0.5 up to, but not including, 1."
        raise PreftuneError(f"min_confidence is {min_confidence}.", mend=mend)
    plan, target = load_mapping(mapping), Path(output).expanduser()
    if not target.parent.is_dir():
        raise PreftuneError("The folder does not exist.", where=str(target.parent), mend="Make it, or choose another.")
    with open_store(target.parent) as store:
        reading = read_log(logs, plan, store, split=split, limit=limit, advance=advance)
        if rejected is not None:
            write_left_out(store, Path(rejected).expanduser())
        knowledge = _knowledge(store, plan)
        stated = statements(knowledge)
        source = _source(plan, now or datetime.now(UTC))
        writing = Writing(knowledge, min_confidence, source, stated, store.content)
        counts = _Counts()
        count_the_rest(store, knowledge.places, counts.events)
        _write_lines(target, _records(store, writing, shape, counts))
        propensities = propensities_of(store, plan.assumptions.clip, seed)
        return Implicit(
            output=str(target),
            shape=shape,
            made=counts.made,
            desirable=counts.desirable if shape == "labels" else None,
            dropped=dict(counts.dropped.most_common()),
            conflicting=counts.conflicting,
            mean_confidence=counts.confidence / counts.made if counts.made else None,
            reading=reading,
            events=counts.by_kind(),
            strengths=knowledge.strengths,
            history=knowledge.history,
            session_measure=knowledge.sessions.measure,
            places=knowledge.places,
            propensities=propensities,
            statements=stated,
            findings=findings_of(store, plan, reading, knowledge, propensities, counts.made, counts.conflicting),
        )


class _Counts:
    """What is counted while records are written."""

    def __init__(self) -> None:
        self.made = self.desirable = self.conflicting = 0
        self.confidence = 0.0
        self.dropped: Counter[str] = Counter()
        self.events: Counter[tuple[str, str]] = Counter()

    def by_kind(self) -> dict[str, dict[str, int]]:
        """What became of the events of each kind."""
        kinds: dict[str, dict[str, int]] = {}
        for (kind, fate), count in self.events.items():
            if count:
                kinds.setdefault(kind, {})[fate] = count
        return kinds


def _knowledge(store: LogStore, plan: LogMapping) -> Knowledge:
    """What the log says as a whole; the strengths of weak signals are measured in a pass over the assumed ones."""
    assumptions = plan.assumptions
    assumed = Knowledge(
        assumptions=assumptions,
        history=thumbs_history(store, assumptions),
        habits=copy_habits(store),
        dwell=dwell_medians(store, assumptions.longest_dwell),
        sessions=session_lengths(store),
        places=places_of(store, plan),
        strengths=assumed_strengths(assumptions),
    )
    if not assumed.history.votes:
        return assumed
    answers = (values for evidence in evidence_by_prompt(store, assumed) for values in evidence.values.values())
    strengths = measured_strengths(assumed.strengths, answers)
    return Knowledge(**{**_fields(assumed), "strengths": strengths})


def _fields(knowledge: Knowledge) -> dict[str, Any]:
    return {name: getattr(knowledge, name) for name in Knowledge.__dataclass_fields__}


def _source(plan: LogMapping, now: datetime) -> dict[str, Any]:
    return {
        "kind": "implicit",
        "model": None,
        "judge": None,
        "prompt_version": None,
        "time": now.astimezone(UTC).isoformat(timespec="seconds"),
        "cost": None,
        "mapping": plan.name,
    }


def _records(store: LogStore, writing: Writing, shape: Shape, counts: _Counts) -> Iterator[Label | Pair]:
    make: Callable[..., Iterator[Label | Pair]] = labels_of if shape == "labels" else pairs_of
    for evidence in evidence_by_prompt(store, writing.knowledge, counts.events):
        for values in evidence.values.values():
            counts.conflicting += min(values.values()) < 0 < max(values.values())
        for record in make(evidence, writing, counts.dropped):
            counts.made += 1
            counts.desirable += isinstance(record, Label) and record.label
            counts.confidence += record.confidence or 0.0
            yield record


def _write_lines(path: Path, records: Iterable[Label | Pair]) -> None:
    """The records as JSON lines; a reader, or a crash, meets the old file or the whole new one."""
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with explained_errors(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                for record in records:
                    file.write(json.dumps(record.as_row(), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _rows(reading: LogReading) -> dict[str, Any]:
    return {
        "read": reading.read,
        "used": reading.used,
        "ignored": reading.ignored,
        "left_out": reading.left_out,
        "first_left_out": {reason: first._asdict() for reason, first in reading.firsts.items()},
        "unknown_events": reading.unknown_events,
        "columns_not_found": reading.absent,
    }


def _strength(strength: Strength) -> dict[str, Any]:
    return {
        "accuracy": strength.accuracy,
        "rests_on": "assumption" if strength.measured is None else "assumption and thumbs",
        "log_odds": strength.log_odds,
        "assumed_log_odds": strength.assumed,
        "measured_log_odds": strength.measured,
        "compared": strength.compared,
    }


def _raters(history: RaterHistory) -> dict[str, Any]:
    """The raters together, and the twenty busiest one by one."""
    busiest = sorted(history.raters.items(), key=lambda item: (-item[1].votes, item[0]))[:20]
    return {
        "raters": len(history.raters),
        "votes": history.votes,
        "up_rate": history.up_rate,
        "compared_votes": history.compared,
        "agreement": history.agreement,
        "kappa": history.kappa,
        "assumed_kappa": history.assumed_kappa,
        "busiest": [
            {
                "user": user,
                "votes": rater.votes,
                "ups": rater.ups,
                "compared": rater.compared,
                "agreement": rater.agreement,
                "agreement_interval": rater.agreement_interval(),
                "competence": rater.competence,
            }
            for user, rater in busiest
        ],
    }


def _places(places: Places) -> dict[str, Any]:
    return {
        "use": places.use,
        "reason": places.reason,
        "shown": places.shown,
        "clicks": places.clicks,
        "clicks_without_impression": places.without_impression,
        "without_place": places.without_place,
        "rate": places.rate,
        "by_place": list(places.by_place),
        "examination": places.chosen.as_dict(),
        "other_estimates": [one.as_dict() for one in places.others],
    }
