"""How much of the labels a perfect model could get right, how surely it will be seen, and a score for the set.

Two people who label the same pair agree with probability A. Where a share p of all people prefers the first answer,
A is the mean of p^2 + (1 - p)^2, and a model that knows p is right about one person's label with probability
max(p, 1 - p), whose mean is the ceiling. Cover and Hart (1967, Nearest neighbor pattern classification, theorem 1)
bound it: it lies between A, where every pair is either agreed on by all or a coin flip, and (1 + sqrt(2A - 1)) / 2,
where all pairs are equally hard. Between the two we report the ceiling for hardness spread as a symmetric beta
distribution with this A. A label that is the majority of K people is easier to get right; there the same p enters
the binomial probability of a majority (Condorcet).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.special import betaln
from scipy.stats import beta, binom

from preftune.audit.clusters import bootstrap_interval, clustered_share, prompt_numbers
from preftune.audit.findings import Finding, Share, count_of
from preftune.data.records import Pair, normal_text
from preftune.intervals import wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from preftune.audit.mislabelled import MislabelledAudit
    from preftune.audit.shortcuts import ShortcutAudit
    from preftune.audit.votes import Votes

FIRST, SECOND = 0, 1  # columns of Votes.counts()
FEWEST_VOTED = 30  # items that two people or more decided
POINTS = 4_000  # at which the beta distribution is cut
EVAL_FRACTION = 0.1
USUAL_ACCURACY = 0.70  # of reward models on people's labels; the width of an interval depends on it little
CHANCE = 0.5
WIDE = 0.05  # half an interval; differences between models are often smaller
LOW = 0.70  # a ceiling that is a warning
ALL_BUT_ALL = 0.99  # a ceiling that is none


@dataclass(frozen=True)
class Part:
    """One factor of the score, from 0 to 1, and the formula that made it."""

    name: str
    value: float
    formula: str


@dataclass(frozen=True)
class CeilingAudit:
    """What training on this set can be expected to reach, and whether that will be seen.

    ``agreement`` is that of two people who both decided on a pair; ``single_label`` and ``majority_label`` are the
    ceilings against one person's label, with Cover and Hart's bounds, and against the majority of those who voted.
    ``without_flips`` and ``without_contradictions`` are the ceilings by the estimated rate of flips and by rows that
    say both. ``expected`` is the lowest of those that hold for the labels given. None where nothing tells.
    ``independent`` counts the comparisons that do not follow from others; ``half_width`` is that of the 95% interval
    of an accuracy on ``held_out`` of the pairs. ``score``, from 0 to 100, is the geometric mean of ``parts``.
    """

    agreement: Share | None
    single_label: Share | None
    single_label_bounds: tuple[float, float] | None
    majority_label: Share | None
    without_flips: Share | None
    without_contradictions: Share
    expected: Share | None
    pairs: int
    prompts: int
    distinct: int
    independent: int
    held_out: int
    half_width: float
    score: float
    parts: tuple[Part, ...]
    not_measured: tuple[str, ...]
    summary: str
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        return asdict(self)


def audit_ceiling(
    pairs: Sequence[Pair],
    *,
    read: int | None = None,
    votes: Votes | None = None,
    mislabelled: MislabelledAudit | None = None,
    shortcuts: ShortcutAudit | None = None,
    eval_fraction: float = EVAL_FRACTION,
    seed: int = 0,
) -> CeilingAudit:
    """The accuracy that these labels allow, what a held-out part can show, and a score from 0 to 100 with its parts.

    ``read`` is the number of rows read, ``votes`` those on the same items, the audits those of the same pairs; what
    is not given is named in ``not_measured`` and left out of the score.
    """
    comparisons = _comparisons(pairs)
    consistent = _consistent(comparisons, prompt_numbers(pairs))
    agreement, counts = _agreement(votes, seed)
    single, bounds, majority = _ceilings(agreement, counts)
    flips = _without_flips(mislabelled)
    limits = [limit for limit in (majority, flips, consistent) if limit is not None and limit.value is not None]
    expected = min(limits, key=lambda limit: limit.value or 0.0, default=None)
    expected = None if expected is None or (expected is consistent and consistent.value == 1) else expected
    independent = _independent(comparisons)
    held_out = round(eval_fraction * len(pairs))
    half_width = _half_width(eval_fraction * independent)
    parts = _parts(expected, read, len(pairs), len(comparisons), half_width, shortcuts)
    found = CeilingAudit(
        agreement=agreement,
        single_label=single,
        single_label_bounds=bounds,
        majority_label=majority,
        without_flips=flips,
        without_contradictions=consistent,
        expected=expected,
        pairs=len(pairs),
        prompts=len({prompt for prompt, _, _ in comparisons}),
        distinct=len(comparisons),
        independent=independent,
        held_out=held_out,
        half_width=half_width,
        score=_score([part.value for part in parts.values() if part is not None]),
        parts=tuple(part for part in parts.values() if part is not None),
        not_measured=tuple(name for name, part in parts.items() if part is None),
        summary=_summary(expected),
    )
    return replace(found, findings=(*_ceiling_finding(found), *_power_finding(found), *_dependence_finding(found)))


def ceiling_of(agreement: float) -> float:
    """The accuracy of a perfect model against one person's label: hardness spread as a symmetric beta distribution.

    1/2 + E|p - 1/2| with p ~ Beta(a, a), a = (1 - A) / (2A - 1); one half where people agree no more than by chance.
    """
    if agreement <= CHANCE:
        return CHANCE
    if agreement >= 1:
        return 1.0
    shape = _shape(agreement)
    return CHANCE + float(np.exp(-np.log(shape) - shape * np.log(4) - betaln(shape, shape)))


def ceiling_bounds(agreement: float) -> tuple[float, float]:
    """Cover and Hart's bounds of the same, whatever the hardness is spread like."""
    agreement = min(1.0, max(CHANCE, agreement))
    return agreement, (1 + float(np.sqrt(2 * agreement - 1))) / 2


def ceiling_of_majority(agreement: float, voters: Mapping[int, int]) -> float:
    """The same against the majority label, where ``voters`` says how many pairs were decided by how many people.

    Pairs without a majority have no label and are left out.
    """
    if agreement >= 1:
        return 1.0
    if agreement <= CHANCE:
        return CHANCE
    shape = _shape(agreement)
    shares = beta.ppf((np.arange(POINTS) + 0.5) / POINTS, shape, shape)
    likelier = np.maximum(shares, 1 - shares)
    right = labelled = 0.0
    for number, pairs in voters.items():
        right += pairs * float(binom.sf(number // 2, number, likelier).mean())
        tied = float(binom.pmf(number // 2, number, likelier).mean()) if number % 2 == 0 else 0.0
        labelled += pairs * (1 - tied)
    return right / labelled if labelled else CHANCE


def _shape(agreement: float) -> float:
    return (1 - agreement) / (2 * agreement - 1)


Comparison: TypeAlias = tuple[int, bytes, bytes]


def _comparisons(pairs: Sequence[Pair]) -> dict[Comparison, list[int]]:
    """The rows of each comparison, prompt and two answers whichever won; +row + 1 where the first won, else -."""
    found: dict[Comparison, list[int]] = {}
    prompts = prompt_numbers(pairs)
    for row, pair in enumerate(pairs):
        chosen, rejected = (_digest(normal_text(side)) for side in (pair.chosen, pair.rejected))
        key = (int(prompts[row]), min(chosen, rejected), max(chosen, rejected))
        found.setdefault(key, []).append(row + 1 if chosen <= rejected else -row - 1)
    return found


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _consistent(comparisons: Mapping[Comparison, list[int]], prompts: NDArray[Any]) -> Share:
    """How many rows the best fixed choice on each comparison gets right."""
    hits = np.ones(len(prompts))
    for rows in comparisons.values():
        first = sum(row > 0 for row in rows)
        if 0 < first < len(rows):
            is_first_better = 2 * first >= len(rows)
            for row in rows:
                hits[abs(row) - 1] = (row > 0) == is_first_better
    what = "Where a comparison is labelled both ways, no model is right about all of its rows."
    return clustered_share(hits, prompts, "Ceiling by contradictions", what)


def _independent(comparisons: Mapping[Comparison, list[int]]) -> int:
    """Comparisons that do not follow from others: of answers that are compared with each other, all but one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    answers: dict[tuple[int, bytes], int] = {}
    ends = [
        [answers.setdefault((prompt, side), len(answers)) for side in (first, second)]
        for prompt, first, second in comparisons
    ]
    if not ends:
        return 0
    rows, columns = np.array(ends).T
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(answers),) * 2)
    components, _ = connected_components(graph, directed=False)
    return len(answers) - int(components)


def _agreement(votes: Votes | None, seed: int) -> tuple[Share | None, Counter[int]]:
    """How often two people who decided agree, each item counting once, and how many people decided how many items."""
    if votes is None:
        return None, Counter()
    first, second = votes.counts()[:, [FIRST, SECOND]].T
    decided = first + second
    is_shared = decided >= 2
    if is_shared.sum() < FEWEST_VOTED:
        return None, Counter()
    alike = first * (first - 1) + second * (second - 1)
    shares = (alike[is_shared] / (decided * (decided - 1))[is_shared]).astype(np.float64)
    low, high = bootstrap_interval(shares, np.arange(len(shares)), seed)
    what = "Of two people who both chose a side; ties are left out, each pair counts once. Interval by bootstrap."
    share = Share(float(shares.mean()), low, high, len(shares), "Two people agree", what)
    return share, Counter(int(number) for number in decided[is_shared])


def _ceilings(
    agreement: Share | None, voters: Mapping[int, int]
) -> tuple[Share | None, tuple[float, float] | None, Share | None]:
    if agreement is None or agreement.value is None or agreement.low is None or agreement.high is None:
        return None, None, None
    what = "By the agreement of two people, hardness spread as a symmetric beta distribution."
    single, majority = (
        Share(
            ceiling(agreement.value),
            ceiling(agreement.low),
            ceiling(agreement.high),
            agreement.n,
            f"Ceiling against {whose} label",
            what,
        )
        for whose, ceiling in (
            ("one person's", ceiling_of),
            ("the majority's", partial(ceiling_of_majority, voters=voters)),
        )
    )
    return single, ceiling_bounds(agreement.value), majority


def _without_flips(mislabelled: MislabelledAudit | None) -> Share | None:
    rate = mislabelled.rate if mislabelled is not None and mislabelled.can_tell else None
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return None
    what = "A model that is always right agrees with one label less for each that is flipped."
    return Share(1 - rate.value, 1 - rate.high, 1 - rate.low, rate.n, "Ceiling by flipped labels", what)


def _half_width(rows: float) -> float:
    if rows <= 0:
        return CHANCE
    low, high = wilson(USUAL_ACCURACY, rows)
    return float(high - low) / 2


def _parts(
    expected: Share | None,
    read: int | None,
    pairs: int,
    distinct: int,
    half_width: float,
    shortcuts: ShortcutAudit | None,
) -> dict[str, Part | None]:
    """The factors of the score; None where not measured."""
    together = shortcuts.together.value if shortcuts is not None and shortcuts.together is not None else None
    room = USUAL_ACCURACY - CHANCE
    values = {
        "labels": (_above_chance(expected.value), "2 (accuracy ceiling - 1/2)")
        if expected and expected.value
        else None,
        "usable": (pairs / read, "pairs used / rows read") if read else None,
        "distinct": (distinct / pairs if pairs else 0.0, "distinct comparisons / pairs"),
        "power": (
            max(0.0, 1 - half_width / room),
            "1 - half the interval of a held-out accuracy / the 20 points from chance to 70%",
        ),
        "content": (1 - _above_chance(together), "1 - 2 (accuracy of form alone - 1/2)")
        if together is not None
        else None,
    }
    return {name: None if value is None else Part(name, *value) for name, value in values.items()}


def _score(parts: Sequence[float]) -> float:
    """Their geometric mean, of 100: one bad part cannot be made up for, and a part not measured changes no scale."""
    return 100 * float(np.prod(parts)) ** (1 / len(parts))


def _above_chance(accuracy: float) -> float:
    return min(1.0, max(0.0, 2 * (accuracy - CHANCE)))


def _summary(expected: Share | None) -> str:
    if expected is None or expected.value is None:
        return (
            "What accuracy these labels allow is not known: nobody labelled a pair twice, "
            "and no model was sure enough to show the rate of flips."
        )
    return (
        f"Do not expect more than {expected.value:.0%} (95% interval {expected.low:.0%} to {expected.high:.0%}) "
        "accuracy on held-out labels like these."
    )


def _ceiling_finding(found: CeilingAudit) -> list[Finding]:
    expected = found.expected
    if expected is None or expected.value is None:
        return [
            Finding(
                id="ceiling-unknown",
                severity="info",
                title="What accuracy the labels allow is not known",
                what="Without pairs labelled twice a low accuracy can be the model's fault or the labels'.",
                evidence=f"{count_of(found.pairs, 'pair')}; no agreement, no estimate of flips.",
                rows=(),
                remedy="Have 200 pairs labelled by two more people, or audit 50 by hand.",
            )
        ]
    if expected.value > ALL_BUT_ALL:
        return []
    bounds = found.single_label_bounds
    between = f" One person's labels allow {bounds[0]:.1%} to {bounds[1]:.1%}." if bounds else ""
    return [
        Finding(
            id="accuracy-ceiling",
            severity="warning" if (expected.high or 1.0) < LOW else "info",
            title=f"At most {expected.value:.0%} accuracy can be expected",
            what=found.summary,
            evidence=f"{expected.title}: {expected.value:.1%} ({expected.low:.1%} to {expected.high:.1%}).{between}",
            rows=(),
            remedy="Compare a model's held-out accuracy with this figure, not with 100%; more votes a pair raise it.",
            share=expected,
        )
    ]


def _power_finding(found: CeilingAudit) -> list[Finding]:
    if found.half_width <= WIDE:
        return []
    independent = round(found.held_out * found.independent / max(1, found.pairs))
    return [
        Finding(
            id="weak-test",
            severity="warning",
            title="The held-out part is too small to tell models apart",
            what="Differences smaller than the interval are luck.",
            evidence=(
                f"An accuracy near {USUAL_ACCURACY:.0%} on {count_of(found.held_out, 'held-out pair')} is known to "
                f"{100 * found.half_width:.1f} points either way: they hold about "
                f"{count_of(independent, 'independent comparison')}."
            ),
            rows=(),
            remedy="Hold out more prompts, compare models on the same pairs, or use k-fold evaluation.",
        )
    ]


def _dependence_finding(found: CeilingAudit) -> list[Finding]:
    if 2 * found.independent >= found.pairs:
        return []
    return [
        Finding(
            id="dependent-pairs",
            severity="info",
            title="Most pairs follow from others",
            what="Pairs of the same answers repeat each other's evidence: who beats the best beats the rest.",
            evidence=(
                f"{count_of(found.pairs, 'pair')} of {count_of(found.prompts, 'prompt')} hold "
                f"{count_of(found.independent, 'independent comparison')}."
            ),
            rows=(),
            remedy="Expect what so many independent pairs would teach; add prompts rather than pairs.",
        )
    ]
