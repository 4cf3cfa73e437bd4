"""MinHash sketches of sets of n-grams, and the pairs of sets that are probably alike, without comparing all.

A sketch has ``BANDS`` bands of ``BAND_SLOTS`` slots. Two sets of Jaccard similarity J agree in a slot with probability
J, in a band with J^7, and in one band at least with 1 - (1 - J^7)^18: 0.986 at J = 0.8, 0.999 at 0.85, 0.13 at 0.5
and 0.004 at 0.3. Sets that share a band are compared slot by slot. See Broder 1997 for MinHash and Leskovec, Rajaraman
and Ullman, Mining of Massive Datasets, chapter 3, for banding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt32

from preftune.audit.shingles import Hashes, Places
from preftune.errors import PreftuneError

BANDS, BAND_SLOTS = 18, 7
SLOTS = BANDS * BAND_SLOTS
SMALL_BUCKET = 32  # sets that share a band and are all compared with each other
NEIGHBOURS = 4  # in a larger bucket a set is compared with the first and so many next to it
_SKETCHED, _COMPARED = 2048, 2**15  # sets and pairs of sets held at once


@dataclass(frozen=True)
class Sketches:
    """One row a set: a hash of each band, and the low byte of each slot. 198 bytes a set."""

    bands: UInt32[np.ndarray, "sets bands"]
    slots: UInt8[np.ndarray, "sets slots"]


def sketch(hashes: Hashes, offsets: Places, seed: int) -> Sketches:
    """The sketches of the sets ``hashes[offsets[i]:offsets[i + 1]]``; needs rensa."""
    make = _rensa().RMinHash.digest_matrix_from_flat_token_hashes
    draw = np.random.default_rng(seed).integers(2**63, size=BAND_SLOTS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    bands, slots = [np.empty((0, BANDS), np.uint32)], [np.empty((0, SLOTS), np.uint8)]
    for begin in range(0, len(offsets) - 1, _SKETCHED):
        places = offsets[begin : begin + _SKETCHED + 1]
        inside = np.ascontiguousarray(hashes[places[0] : places[-1]])
        rows = make(inside, (places - places[0]).astype(np.uint64), SLOTS, seed).to_rows()
        values = np.array(rows, dtype=np.uint64).reshape(len(places) - 1, BANDS, BAND_SLOTS)
        bands.append(((values * draw).sum(axis=2, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32))
        slots.append(values.reshape(-1, SLOTS).astype(np.uint8))
    return Sketches(np.concatenate(bands), np.concatenate(slots))


def joined_sketches(parts: list[Sketches]) -> Sketches:
    """Several sketches, one below the other."""
    return Sketches(np.concatenate([part.bands for part in parts]), np.concatenate([part.slots for part in parts]))


def similar(sketches: Sketches, least: float) -> tuple[Places, Places, Float[np.ndarray, "pairs"]]:
    """Pairs of sets (the first number below the second) that share a band, with their estimated Jaccard similarity.

    Those estimated below ``least`` are left out. Work and memory grow with the number of sets, not with its square:
    where many share a band, each is compared with those that agree with it in further bands.
    """
    number = np.uint64(max(len(sketches.bands), 1))
    keys, similarities = np.empty(0, np.uint64), np.empty(0)
    for band in range(BANDS):
        found, values = [keys], [similarities]
        for left, right in _compared(sketches.bands, band):
            estimates = estimated(sketches.slots, left, right)
            near = estimates >= least
            low, high = np.minimum(left, right)[near], np.maximum(left, right)[near]
            found.append(low.astype(np.uint64) * number + high.astype(np.uint64))
            values.append(estimates[near])
        keys, first = np.unique(np.concatenate(found), return_index=True)
        similarities = np.concatenate(values)[first]
    return (keys // number).astype(np.int64), (keys % number).astype(np.int64), similarities


def estimated(slots: UInt8[np.ndarray, "sets slots"], left: Places, right: Places) -> Float[np.ndarray, "pairs"]:
    """The share of equal slots, less what equal bytes of unequal slots add: standard error 0.036 at 0.8."""
    equal = (slots[left] == slots[right]).mean(axis=1)
    return np.maximum((equal - 1 / 256) / (1 - 1 / 256), 0.0)


def standard_error(similarity: float) -> float:
    """Of an estimate of this Jaccard similarity."""
    return (similarity * (1 - similarity) / SLOTS) ** 0.5


def _compared(bands: UInt32[np.ndarray, "sets bands"], band: int) -> Iterator[tuple[Places, Places]]:
    """The pairs to compare among sets that share this band, at most ``_COMPARED`` at once."""
    keys = np.sort((bands[:, band].astype(np.uint64) << np.uint64(32)) | np.arange(len(bands), dtype=np.uint64))
    value, members = (keys >> np.uint64(32)).astype(np.int64), (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    begins = np.flatnonzero(np.diff(value, prepend=-1))
    sizes = np.diff(begins, append=len(value))
    size = np.repeat(sizes, sizes)
    bucket, first = np.repeat(np.arange(len(sizes)), sizes), np.repeat(begins, sizes)
    small = (size > 1) & (size <= SMALL_BUCKET)
    yield from _neighbours(members[small], bucket[small], SMALL_BUCKET - 1)
    crowded = np.flatnonzero(size > SMALL_BUCKET)
    if not len(crowded):
        return
    yield from _pieces(members[first[crowded]], members[crowded])
    further = [bands[members[crowded], (band + step) % BANDS] for step in (2, 1)]
    order = crowded[np.lexsort((*further, bucket[crowded]))]
    yield from _neighbours(members[order], bucket[order], NEIGHBOURS)


def _neighbours(members: Places, bucket: Places, reach: int) -> Iterator[tuple[Places, Places]]:
    """Each member with those up to ``reach`` places after it in its bucket."""
    for lag in range(1, reach + 1):
        together = bucket[lag:] == bucket[:-lag]
        if not together.any():
            return
        yield from _pieces(members[:-lag][together], members[lag:][together])


def _pieces(left: Places, right: Places) -> Iterator[tuple[Places, Places]]:
    apart = left != right
    left, right = left[apart], right[apart]
    for begin in range(0, len(left), _COMPARED):
        yield left[begin : begin + _COMPARED], right[begin : begin + _COMPARED]


def _rensa() -> Any:
    try:
        import rensa
    except ImportError as error:
        mend = 'Install it: pip install "preftune[audit]"'
        raise PreftuneError("Near duplicates need the package rensa.", mend=mend) from error
    return rensa
