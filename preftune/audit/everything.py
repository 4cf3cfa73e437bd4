"""All audits of one data set, ranked: ``preftune.audit(data)``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from preftune.audit.basics import BasicAudit, audit_basics
from preftune.audit.documents import finding_document, plain
from preftune.audit.findings import Finding
from preftune.audit.material import BLOCK, Material, sampled_places
from preftune.audit.person_sample import audit_sample, read_answers, write_sample
from preftune.audit.preference_model import Fit
from preftune.audit.scan import records_at, scan
from preftune.data.read import RejectedRow
from preftune.errors import PreftuneError

LOOKED_AT = 20_000  # records that the audits which read the texts again look at, unless all are asked for
DEFAULT_MAX_LENGTH = 1024

Progress = Callable[[str, float | None], AbstractContextManager[Any]]


@dataclass(frozen=True, eq=False)
class Audit:
    """What all audits found.

    ``sections`` are the audits by name, ``findings`` theirs together: errors first, then warnings, then information,
    each by the share of rows. ``not_run`` says of the other audits why. ``looked_at`` is the number of records that
    the audits in ``of_sample`` saw.
    """

    source: str
    basics: BasicAudit
    sections: Mapping[str, Any]
    findings: tuple[Finding, ...]
    not_run: Mapping[str, str]
    notes: tuple[str, ...]
    looked_at: int
    of_sample: tuple[str, ...]
    seed: int

    @property
    def has_error(self) -> bool:
        """True where a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it: the basic figures, each section's, and the ranked findings with all rows."""
        sections = {name.replace("-", "_"): plain(found) for name, found in self.sections.items() if name != "basics"}
        sample = {"looked_at": self.looked_at, "of": self.basics.used, "seed": self.seed, "audits": self.of_sample}
        return {
            **self.basics.as_dict(),
            **sections,
            **({"sample": plain(sample)} if self.of_sample else {}),
            "notes": list(self.notes),
            "not_run": dict(self.not_run),
            "findings": [finding_document(finding) for finding in self.findings],
        }


def audit(
    data: object,
    *,
    eval_data: object = None,
    tokenizer: Any = None,
    max_length: int | None = DEFAULT_MAX_LENGTH,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    only: Collection[str] | None = None,
    skip: Collection[str] = (),
    look_at: int | None = LOOKED_AT,
    fit: Fit | None = None,
    sample: int | None = None,
    sample_file: str | PathLike[str] | None = None,
    answers: str | PathLike[str] | None = None,
    seed: int = 0,
    processes: int | None = None,
    on_rejected: Callable[[RejectedRow], object] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """What is wrong with preference data: pairs, labels, or comparisons with votes.

    ``only`` and ``skip`` name audits (AUDITS). Of more than ``look_at`` records the audits that read texts again look
    at so many at random; None is all. ``eval_data`` is looked for in the data, ``tokenizer`` tells what
    ``max_length`` cuts, ``fit`` replaces the fast preference model. ``sample`` rows are written to ``sample_file``
    for a person to judge blind, and ``answers`` is the file of what the person said of those drawn with this
    ``seed``. An audit that cannot be made is named in ``not_run`` and keeps no other from being made. Raises
    PreftuneError where nothing can be read.
    """
    wanted = _wanted(only, skip)
    if sample is not None and sample_file is None:
        raise PreftuneError("A sample needs a file to be written to.", mend="Give sample_file.")
    show = progress or _no_progress
    with show("reading", None) as bar:
        found = scan(
            data,
            split=split,
            limit=limit,
            processes=processes,
            on_rejected=on_rejected,
            advance=getattr(bar, "advance", None),
        )
    material = Material(
        scan=found,
        places=sampled_places(found, look_at, seed),
        seed=seed,
        evaluation=None if eval_data is None else scan(eval_data, kind=found.kind, split=eval_split),
        tokenizer=tokenizer,
        max_length=max_length,
        fit=fit,
        answers=None if answers is None else str(answers),
    )
    if sample is not None and sample_file is not None:
        write_sample(sample_file, material.drawn_pairs(sample), sample, seed)
    basics = audit_basics(found, material.evaluation)
    sections: dict[str, Any] = {"basics": basics}
    not_run: dict[str, str] = {}
    with show("auditing", len(wanted)) as bar:
        for name in wanted:
            _run(name, material, sections, not_run)
            getattr(bar, "advance", lambda: None)()
    of_sample = tuple(name for name in sections if material.is_sample and name in _OF_SAMPLE)
    return Audit(
        source=found.name,
        basics=basics,
        sections=sections,
        findings=_ranked(sections, found, of_sample),
        not_run=not_run,
        notes=found.notes,
        looked_at=len(material.places),
        of_sample=of_sample,
        seed=seed,
    )


def _wanted(only: Collection[str] | None, skip: Collection[str]) -> list[str]:
    for name in (*(only or ()), *skip):
        if name not in AUDITS:
            near = difflib.get_close_matches(name, AUDITS, n=1)
            mend = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(AUDITS)}."
            raise PreftuneError(f"There is no audit {name}.", mend=mend)
    return [name for name in AUDITS if (only is None or name in only) and name not in skip]


def _run(name: str, material: Material, sections: dict[str, Any], not_run: dict[str, str]) -> None:
    """One audit; what keeps it from being made is said, and is no reason to lose the others."""
    audit_one, reason_against = AUDITS[name]
    if (reason := reason_against(material)) is not None:
        not_run[name] = reason
        return
    try:
        sections[name] = audit_one(material, sections)
    except PreftuneError as error:
        not_run[name] = str(error)
    except Exception as error:  # a fault in one audit
        not_run[name] = f"It failed: {type(error).__name__}: {error}"


def _ranked(sections: Mapping[str, Any], found: Any, of_sample: Collection[str]) -> tuple[Finding, ...]:
    """All findings, the gravest first; of two with one id that of the audit which saw all records, then the later."""
    kept: dict[str, Finding] = {}
    for name in sorted(sections, key=lambda name: name not in of_sample and name != "basics"):
        for finding in sections[name].findings:
            if finding.id not in kept or name not in of_sample:
                kept[finding.id] = finding
    return tuple(
        sorted(kept.values(), key=lambda finding: (_SEVERITIES.index(finding.severity), -_weight(finding, found)))
    )


def _weight(finding: Finding, found: Any) -> float:
    """The share of rows that a finding is about."""
    return len(finding.rows) / max(1, found.read)


# --- the audits, each with what it needs -------------------------------------------------------------------


def _texts(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.text_marks import audit_text_marks

    columns = material.scan.columns
    return audit_text_marks(columns.marks[:, 0], *material.side_marks(), columns.ids, material.texts_at)


def _near_duplicates(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.near_duplicates import audit_near_duplicates

    if material.scan.kind != "pair" or len(material.places) <= LOOKED_AT:
        return audit_near_duplicates(material.pairs)
    places, ids = material.places, material.scan.columns.ids
    return audit_near_duplicates(  # all of a large set: no more than a block of texts is held
        _in_turn(material),
        ids=[ids[place] for place in places.tolist()],
        look_up=lambda numbers: material.pairs_at(places[list(numbers)]),
    )


def _leakage(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.leakage import audit_leakage

    return audit_leakage(_in_turn(material), material.held_out)


def _in_turn(material: Material) -> Iterator[Any]:
    """The records that are looked at, a block at a time, so that all of a large set can be."""
    for block in np.array_split(material.places, max(1, len(material.places) // BLOCK)):
        yield from records_at(material.scan, block)


def _truncation(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.truncation import audit_truncation

    return audit_truncation(material.pairs, material.tokenizer, material.max_length, sample=None, seed=material.seed)


def _agreement(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.agreement import audit_agreement

    return audit_agreement(material.votes, seed=material.seed)


def _truth(material: Material, _: Mapping[str, Any]) -> Any:
    return material.truth


def _annotators(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.annotators import audit_annotators
    from preftune.audit.votes import lengths_of

    return audit_annotators(material.votes, lengths_of(material.judged), material.truth)


def _shortcuts(material: Material, _: Mapping[str, Any]) -> Any:
    from preftune.audit.shortcuts import audit_shortcuts

    return audit_shortcuts(material.pairs, seed=material.seed)


def _mislabelled(material: Material, _: Mapping[str, Any]) -> Any:
    return material.mislabelled


def _ceiling(material: Material, sections: Mapping[str, Any]) -> Any:
    from preftune.audit.ceiling import audit_ceiling

    return audit_ceiling(
        material.pairs,
        read=None if material.is_sample else material.scan.read,
        votes=material.votes if len(material.votes) else None,
        mislabelled=sections.get("mislabelled"),
        shortcuts=sections.get("shortcuts"),
        seed=material.seed,
    )


def _person(material: Material, _: Mapping[str, Any]) -> Any:
    answers = read_answers(material.answers or "").answers
    judged = {answer.id for answer in answers}
    places = [place for place, name in enumerate(material.scan.columns.ids) if name in judged]
    return audit_sample(material.pairs_at(places), answers, material.seed)


def _always(_: Material) -> str | None:
    return None


def _needs_sides(material: Material) -> str | None:
    return "Labels have one answer each." if material.scan.kind == "label" else _needs_decided(material)


def _needs_decided(material: Material) -> str | None:
    return None if material.scan.columns.verdict.any() else "No comparison has a majority of votes."


def _needs_evaluation(material: Material) -> str | None:
    return None if material.evaluation is not None else "No evaluation data is given."


def _needs_tokenizer(material: Material) -> str | None:
    return _needs_sides(material) if material.tokenizer is not None else "No tokenizer is given."


def _needs_votes(material: Material) -> str | None:
    return None if material.scan.columns.votes.any() else "The data has no annotators' votes."


def _needs_answers(material: Material) -> str | None:
    return None if material.answers is not None else "No person's answers are given."


AUDITS: dict[str, tuple[Callable[[Material, Mapping[str, Any]], Any], Callable[[Material], str | None]]] = {
    "texts": (_texts, _always),
    "near-duplicates": (_near_duplicates, _needs_sides),
    "leakage": (_leakage, _needs_evaluation),
    "truncation": (_truncation, _needs_tokenizer),
    "agreement": (_agreement, _needs_votes),
    "truth": (_truth, _needs_votes),
    "annotators": (_annotators, _needs_votes),
    "shortcuts": (_shortcuts, _needs_sides),
    "mislabelled": (_mislabelled, _needs_sides),
    "ceiling": (_ceiling, _needs_sides),
    "person": (_person, _needs_answers),
}
_OF_SAMPLE = tuple(name for name in AUDITS if name not in ("texts", "person"))
_SEVERITIES = ("error", "warning", "info")


def _no_progress(_: str, __: float | None) -> AbstractContextManager[Any]:
    return nullcontext()
