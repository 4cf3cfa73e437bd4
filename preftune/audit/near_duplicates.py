"""Near duplicates: texts, and whole comparisons, that share four fifths of their 5-grams of words.

Words, not characters: unrelated texts share next to no 5-grams of words however long they are, while long ones share a
quarter of their 5-grams of characters, and comparing all that do grows with the square of their number. The price:
a short text is near only to one of the same words, which suits prompts, where one word in six changes the question.

Candidates come from MinHash (``sketches.py``); whether they are near is counted exactly wherever their texts can be
looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from preftune.audit.examples import EXAMPLES, example_of
from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.shingles import Grams, Hashes, Places, jaccards, mixed, word_grams
from preftune.audit.sketches import Sketches, joined_sketches, similar, sketch, standard_error
from preftune.data.records import Pair, normal_text
from preftune.errors import PreftuneError

GRAM_WORDS, THRESHOLD, SEED = 5, 0.8, 42
DUPLICATE_LIMIT = 0.01  # share of rows above which repeats weigh (D25)

Item = TypeVar("Item")
Parts: TypeAlias = tuple[str, ...]  # a text alone, or prompt, chosen and rejected
LookUp: TypeAlias = Callable[[Sequence[int]], Sequence[Item]]

_READ, _VERIFIED = 2048, 2**13  # documents read and links verified at once
_PROMPT_SALT, _SIDE_SALT = np.uint64(0x2545F4914F6CDD1D), np.uint64(0x5851F42D4C957F2D)


@dataclass(frozen=True)
class NearDuplicates:
    """Which of ``n`` texts, or pairs, are near to which: ``left[i]`` to the later ``right[i]``.

    ``verified`` is the Jaccard similarity of their 5-grams, counted; of pairs that of the least similar of prompt and
    sides; NaN where texts could not be looked up. ``estimated`` is that of their sketches. Equal words are 1 and need
    no look-up. Of many that are all alike not every link is there, but as many as hold them together.
    ``is_crossed``: the chosen side of one is near to the rejected side of the other; never so for texts.
    """

    n: int
    threshold: float
    left: Places
    right: Places
    estimated: Float[np.ndarray, "links"]
    verified: Float[np.ndarray, "links"]
    is_crossed: Bool[np.ndarray, "links"]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The numbers that straight links hold together, two at least, in order; each may be near to some only."""
        return _components(self.n, self.left[~self.is_crossed], self.right[~self.is_crossed])

    @property
    def opposed(self) -> tuple[tuple[int, ...], ...]:
        """The groups that links of both kinds hold together, where one at least is crossed."""
        crossed = set(self.left[self.is_crossed].tolist())
        return tuple(group for group in _components(self.n, self.left, self.right) if crossed.intersection(group))


@dataclass(frozen=True)
class NearDuplicateAudit:
    """Near duplicates among comparisons; ``repeats`` are the pairs near to an earlier one, labelled alike.

    ``same_words`` of them differ in nothing but case, punctuation and space. ``opposed`` are the pairs in groups of
    near comparisons that are labelled both ways.
    """

    n: int
    groups: int
    repeats: Share
    same_words: int
    opposed: int
    findings: tuple[Finding, ...]


def near_duplicates(
    texts: Iterable[str], threshold: float = THRESHOLD, seed: int = SEED, *, look_up: LookUp[str] | None = None
) -> NearDuplicates:
    """The texts whose 5-grams of words have a Jaccard similarity of ``threshold`` at least; needs rensa.

    Finds 98.6% of those at 0.8 and 99.9% of those at 0.85. Texts are read once, 220 bytes are kept of each, and time
    and memory grow with their number. ``look_up`` gives the texts of some numbers again, to verify; a sequence needs
    none. Without it similarities are estimated, with a standard error of 0.036 at 0.8.
    """
    look_up = look_up or _look_up(texts)
    documents = ((text,) for text in texts)
    return _near(documents, 1, threshold, seed, look_up and (lambda numbers: [(text,) for text in look_up(numbers)]))


def near_pairs(
    pairs: Iterable[Pair], threshold: float = THRESHOLD, seed: int = SEED, *, look_up: LookUp[Pair] | None = None
) -> NearDuplicates:
    """The pairs whose prompt, chosen and rejected side are each near to another's, sides crossed or not.

    ``look_up`` gives the pairs of some numbers again; it can be left out for a sequence only.
    """
    look_up = look_up or _look_up(pairs)
    if look_up is None:
        raise PreftuneError("Pairs that are read once cannot be verified.", mend="Give a sequence, or look_up.")
    documents = map(_parts, pairs)
    return _near(documents, 3, threshold, seed, lambda numbers: [_parts(pair) for pair in look_up(numbers)])


def audit_near_duplicates(
    pairs: Iterable[Pair],
    threshold: float = THRESHOLD,
    seed: int = SEED,
    *,
    ids: Sequence[str] | None = None,
    look_up: LookUp[Pair] | None = None,
) -> NearDuplicateAudit:
    """Comparisons that nearly repeat others, and those labelled the other way round.

    Arguments are those of ``near_pairs``; ``ids`` spares looking pairs up for their ids only.
    """
    found = near_pairs(pairs, threshold, seed, look_up=look_up)
    look_up = look_up or _look_up(pairs)
    assert look_up is not None
    rows = _Rows(ids, look_up)
    groups, opposed = found.groups, found.opposed
    repeats = sorted(number for group in groups for number in group[1:])
    copies = np.unique(found.right[(found.estimated == 1) & (found.verified == 1) & ~found.is_crossed])
    explanation = (
        f"Share of pairs whose prompt and sides each share {threshold:.0%} of their 5-grams of words with an earlier "
        "pair's; case, punctuation and space do not count."
    )
    share = share_of(len(repeats), found.n, "Pairs near to an earlier one", explanation)
    same_words = len(np.intersect1d(copies, repeats))
    findings = (
        _opposed_finding(found, opposed, rows),
        _repeat_finding(found, repeats, len(groups), same_words, share, rows),
    )
    kept = tuple(finding for finding in findings if finding is not None)
    return NearDuplicateAudit(found.n, len(groups), share, same_words, sum(map(len, opposed)), kept)


@dataclass(frozen=True)
class _Index:
    """What is kept of documents: hashes of all words, of the chosen side's, whether there are any, and sketches."""

    whole: Hashes
    chosen: Hashes
    has_words: Bool[np.ndarray, "documents"]
    sketches: Sketches


def _near(
    documents: Iterable[Parts], parts: int, threshold: float, seed: int, look_up: LookUp[Parts] | None
) -> NearDuplicates:
    if not 0 < threshold <= 1:
        raise PreftuneError(f"threshold is {threshold}.", mend="Give a similarity above 0, at most 1.")
    index = _indexed(documents, parts, seed)
    first = _first_of_same(index)
    numbers = np.arange(len(first))
    copies = np.flatnonzero(first != numbers)
    crossed = index.chosen[copies] != index.chosen[first[copies]]
    unlike = np.flatnonzero((first == numbers) & index.has_words)
    left, right, estimates = similar(_rows(index.sketches, unlike), threshold - 3 * standard_error(threshold))
    left, right = unlike[left], unlike[right]
    if look_up is None:
        verified, is_crossed, near = np.full(len(left), np.nan), np.zeros(len(left), bool), estimates >= threshold
    else:
        verified, is_crossed = _verified(left, right, parts, look_up)
        near = verified >= threshold
    ones = np.ones(len(copies))
    return NearDuplicates(
        n=len(first),
        threshold=threshold,
        left=np.concatenate([first[copies], left[near]]),
        right=np.concatenate([copies, right[near]]),
        estimated=np.concatenate([ones, estimates[near]]),
        verified=np.concatenate([ones, verified[near]]),
        is_crossed=np.concatenate([crossed, is_crossed[near]]),
    )


def _indexed(documents: Iterable[Parts], parts: int, seed: int) -> _Index:
    """The documents read once, some thousand at a time."""
    blocks = [_block([], parts, seed)]
    source = iter(documents)
    while block := list(islice(source, _READ)):
        blocks.append(_block(block, parts, seed))
    return _Index(
        np.concatenate([block.whole for block in blocks]),
        np.concatenate([block.chosen for block in blocks]),
        np.concatenate([block.has_words for block in blocks]),
        joined_sketches([block.sketches for block in blocks]),
    )


def _block(documents: Sequence[Parts], parts: int, seed: int) -> _Index:
    grams = word_grams([text for document in documents for text in document], GRAM_WORDS)
    whole = grams.whole.reshape(-1, parts)
    words = grams.words.reshape(-1, parts).sum(axis=1)
    salts = np.array([_PROMPT_SALT, _SIDE_SALT, _SIDE_SALT] if parts == 3 else [_PROMPT_SALT])
    # The sum does not depend on which side is first, so that a comparison and its reverse are one document.
    same = mixed(whole ^ salts).sum(axis=1, dtype=np.uint64)
    hashes = mixed(grams.hashes ^ np.repeat(np.tile(salts, len(documents)), grams.counts))
    chosen = whole[:, min(1, parts - 1)]
    return _Index(same, chosen, words > 0, sketch(hashes, grams.offsets[::parts], seed))


def _first_of_same(index: _Index) -> Places:
    """For each document the first one that has the same words; itself where it has none."""
    _, first, inverse = np.unique(index.whole, return_index=True, return_inverse=True)
    return np.where(index.has_words, first[inverse], np.arange(len(inverse)))


def _rows(sketches: Sketches, rows: Places) -> Sketches:
    if len(rows) == len(sketches.bands):
        return sketches
    return Sketches(sketches.bands[rows], sketches.slots[rows])


def _verified(
    left: Places, right: Places, parts: int, look_up: LookUp[Parts]
) -> tuple[Float[np.ndarray, "links"], Bool[np.ndarray, "links"]]:
    """The Jaccard similarity of each link, of its least similar part, and whether the sides are crossed."""
    verified, crossed = [np.empty(0)], [np.empty(0, bool)]
    for begin in range(0, len(left), _VERIFIED):
        ends = left[begin : begin + _VERIFIED], right[begin : begin + _VERIFIED]
        numbers, places = np.unique(np.concatenate(ends), return_inverse=True)
        texts = [text for document in look_up(numbers.tolist()) for text in document]
        grams = word_grams(texts, GRAM_WORDS)
        starts, stops = np.split(places, 2)
        similarity, is_crossed = _similarity(grams, starts, stops, parts)
        verified.append(similarity)
        crossed.append(is_crossed)
    return np.concatenate(verified), np.concatenate(crossed)


def _similarity(
    grams: Grams, left: Places, right: Places, parts: int
) -> tuple[Float[np.ndarray, "links"], Bool[np.ndarray, "links"]]:
    if parts == 1:
        return jaccards(grams, left, right), np.zeros(len(left), bool)
    prompt, *sides = (
        _part_similarity(grams, 3 * left + mine, 3 * right + other)
        for mine, other in ((0, 0), (1, 1), (2, 2), (1, 2), (2, 1))
    )
    is_crossed = sides[2] + sides[3] > sides[0] + sides[1]
    least = np.where(is_crossed, np.minimum(sides[2], sides[3]), np.minimum(sides[0], sides[1]))
    return np.minimum(prompt, least), is_crossed


def _part_similarity(grams: Grams, left: Places, right: Places) -> Float[np.ndarray, "links"]:
    """As ``jaccards``, but two parts without words are alike: both say nothing."""
    nothing = (grams.words[left] == 0) & (grams.words[right] == 0)
    return np.where(nothing, 1.0, jaccards(grams, left, right))


def _components(n: int, left: Places, right: Places) -> tuple[tuple[int, ...], ...]:
    """The connected numbers, each component in order, and the components by their first."""
    if not len(left):
        return ()
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    linked, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    graph = coo_array((np.ones(len(left), np.int8), tuple(np.split(places, 2))), shape=(len(linked), len(linked)))
    labels = connected_components(graph, directed=False)[1]
    order = np.argsort(labels, kind="stable")
    groups = np.split(linked[order], np.cumsum(np.bincount(labels))[:-1])
    return tuple(sorted(tuple(group.tolist()) for group in groups))


def _look_up(items: Iterable[Item]) -> LookUp[Item] | None:
    if not isinstance(items, Sequence):
        return None
    return lambda numbers: [items[number] for number in numbers]


def _parts(pair: Pair) -> Parts:
    return normal_text(pair.prompt), normal_text(pair.chosen), normal_text(pair.rejected)


@dataclass(frozen=True)
class _Rows:
    """The pairs' ids, and the pairs again."""

    ids: Sequence[str] | None
    look_up: LookUp[Pair]

    def ids_of(self, numbers: Sequence[int]) -> tuple[str, ...]:
        if self.ids is not None:
            return tuple(self.ids[number] for number in numbers)
        blocks = (numbers[begin : begin + _READ] for begin in range(0, len(numbers), _READ))
        return tuple(pair.id for block in blocks for pair in self.look_up(block))


def _opposed_finding(found: NearDuplicates, opposed: Sequence[Sequence[int]], rows: _Rows) -> Finding | None:
    if not opposed:
        return None
    numbers = sorted(number for group in opposed for number in group)
    explanation = "Share of pairs that are, or nearly are, a comparison that another row labels the other way."
    share = share_of(len(numbers), found.n, "Near comparisons labelled both ways", explanation)
    return Finding(
        id="near-contradictions",
        severity="warning",
        title="Nearly the same comparison labelled both ways",
        what="Prompts and answers that hardly differ occur with either answer as the winner.",
        evidence=f"{count_of(len(opposed), 'comparison')} in {len(numbers):,} rows, equal ones included.",
        rows=rows.ids_of(numbers),
        remedy="Look at them: keep the label that most annotators gave, or leave these rows out.",
        share=share,
        examples=_examples(found, found.is_crossed, rows, "the other way round"),
    )


def _repeat_finding(
    found: NearDuplicates, repeats: Sequence[int], groups: int, same_words: int, share: Share, rows: _Rows
) -> Finding | None:
    if not repeats:
        return None
    return Finding(
        id="near-duplicates",
        severity="warning" if len(repeats) > DUPLICATE_LIMIT * found.n else "info",
        title="Pairs that nearly repeat an earlier one",
        what="Near copies weigh more than others in training, and tie it to the evaluation where a split parts them.",
        evidence=(
            f"{len(repeats):,} of {count_of(found.n, 'pair')} in {count_of(groups, 'group')}: "
            f"{same_words:,} with the same words, {len(repeats) - same_words:,} with "
            f"{found.threshold:.0%} of the 5-grams at least."
        ),
        rows=rows.ids_of(repeats),
        remedy="Keep the first of each group, and keep a group on one side of a split.",
        share=share,
        examples=_examples(found, ~found.is_crossed, rows, "the same way round"),
    )


def _examples(
    found: NearDuplicates, among: Bool[np.ndarray, "links"], rows: _Rows, how: str
) -> tuple[dict[str, str], ...]:
    """The later pair of a few links, those that are not equal first."""
    links = np.flatnonzero(among)
    links = links[np.argsort(found.verified[links] == 1, kind="stable")][:EXAMPLES]
    ends = np.concatenate([found.left[links], found.right[links]]).tolist()
    pairs = dict(zip(ends, rows.look_up(ends), strict=True))
    return tuple(
        example_of(
            pairs[int(found.right[link])],
            f"like {pairs[int(found.left[link])].id}, {how}: {found.verified[link]:.0%} of 5-grams shared",
        )
        for link in links
    )
