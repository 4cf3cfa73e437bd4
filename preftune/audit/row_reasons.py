"""Why a row might be left out: for each reason the places of the rows it holds for, and a word on each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.audit.basics import compared_hashes, identical_places, labelled_hashes, opposed_places, repeated_places
from preftune.audit.columns import NEITHER, PARTS
from preftune.audit.label_confidence import flip_chances
from preftune.audit.leakage import audit_leakage
from preftune.audit.material import Material
from preftune.audit.near_duplicates import NearDuplicates, near_pairs
from preftune.audit.scan import Scan
from preftune.audit.text_marks import MARKS
from preftune.errors import PreftuneError

Places: TypeAlias = Mapping[int, str]  # the place of a record in the scan, and what is to be said of it

DEFAULT: Final = ("blank-texts", "identical-sides", "duplicates", "contradictions")
LIKELY: Final = 0.5  # the probability of being flipped above which a label is called wrong


def places_of(name: str, material: Material) -> Places:
    """The records that the reason holds for."""
    if name in MARKS:
        return _marked(name, material)
    return _REASONS[name](material)


def known_reasons() -> tuple[str, ...]:
    """All names, those of text marks last."""
    return (*_REASONS, *MARKS)


def check_reasons(names: Collection[str]) -> None:
    """Raises PreftuneError for a name that is none."""
    for name in names:
        if name not in known_reasons():
            near = difflib.get_close_matches(name, known_reasons(), n=1)
            mend = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known_reasons())}."
            raise PreftuneError(f"Rows cannot be dropped for {name}.", where="--drop", mend=mend)


def _blank(material: Material) -> Places:
    words = material.scan.columns.words[:, : len(PARTS[material.scan.kind])]
    return _all(np.flatnonzero((words == 0).any(axis=1)), "a prompt or a side without words")


def _identical(material: Material) -> Places:
    return _all(identical_places(material.scan.columns, material.scan.kind), "both sides say the same")


def _duplicates(material: Material) -> Places:
    columns, kind = material.scan.columns, material.scan.kind
    return _all(repeated_places(labelled_hashes(columns, kind)), "repeats an earlier row")


def _contradictions(material: Material) -> Places:
    """Of what is labelled both ways the label with fewer rows; all of it where neither has more."""
    columns, kind = material.scan.columns, material.scan.kind
    labelled, compared = labelled_hashes(columns, kind), compared_hashes(columns, kind)
    opposed, _ = opposed_places(labelled, compared, columns.verdict != NEITHER)
    groups: dict[int, dict[int, list[int]]] = {}
    for place in opposed.tolist():
        groups.setdefault(int(compared[place]), {}).setdefault(int(labelled[place]), []).append(place)
    found: dict[int, str] = {}
    for labels in groups.values():
        most = max(map(len, labels.values()))
        is_settled = sum(len(rows) == most for rows in labels.values()) == 1
        why = "most rows label it the other way" if is_settled else "labelled both ways equally often"
        for rows in labels.values():
            if not (is_settled and len(rows) == most):
                found |= dict.fromkeys(rows, why)
    return found


def _near_duplicates(material: Material) -> Places:
    places, near = _near(material)
    return {
        places[number]: f"nearly repeats row {material.scan.columns.ids[places[group[0]]]}"
        for group in near.groups
        for number in group[1:]
    }


def _near_contradictions(material: Material) -> Places:
    places, near = _near(material)
    return _all([places[number] for group in near.opposed for number in group], "a near copy is labelled the other way")


def _near(material: Material) -> tuple[Sequence[int], NearDuplicates]:
    places, pairs = material.decided
    return places, near_pairs(pairs)


def _leaked(material: Material) -> Places:
    evaluation = _evaluation(material)
    asked = material.scan.columns.asked
    return _all(np.flatnonzero(np.isin(asked, evaluation.columns.asked)), "its prompt is in the evaluation data")


def _nearly_leaked(material: Material) -> Places:
    """The roles are turned: which of our prompts are near to one of the evaluation's."""
    _evaluation(material)
    leaks = audit_leakage(material.held_out, material.records).near_prompts
    rows = {row for leak in leaks for row in leak.rows}
    ids = zip(material.places.tolist(), material.records, strict=True)
    return _all((place for place, record in ids if record.id in rows), "its prompt is nearly in the evaluation data")


def _mislabelled(material: Material) -> Places:
    chances = flip_chances(material)
    return {int(place): f"flipped with probability {chances[place]:.2f}" for place in np.flatnonzero(chances > LIKELY)}


def _marked(name: str, material: Material) -> Places:
    bit = np.uint32(1 << MARKS.index(name))
    return _all(np.flatnonzero((material.scan.columns.marks & bit).any(axis=1)), f"its text has: {name}")


def _evaluation(material: Material) -> Scan:
    if material.evaluation is None:
        raise PreftuneError("To drop leaked prompts the evaluation data is needed.", mend="Give --eval-data.")
    return material.evaluation


def _all(places: Iterable[int] | NDArray[np.intp], why: str) -> Places:
    return {int(place): why for place in places}


_REASONS: Final[dict[str, Callable[[Material], Places]]] = {
    "blank-texts": _blank,
    "identical-sides": _identical,
    "duplicates": _duplicates,
    "contradictions": _contradictions,
    "near-duplicates": _near_duplicates,
    "near-contradictions": _near_contradictions,
    "leaked-prompts": _leaked,
    "near-leaked-prompts": _nearly_leaked,
    "mislabelled": _mislabelled,
}
