"""What the labels reward besides quality: length, form, the place shown, openings; and where in the data they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from preftune.audit.clusters import prompt_numbers
from preftune.audit.examples import EXAMPLES, example_of
from preftune.audit.findings import Finding, Share, count_of
from preftune.audit.logistic import Coefficient
from preftune.audit.pair_features import form_differences
from preftune.audit.shortcut_measures import (
    LENGTH,
    Opening,
    Rule,
    Slice,
    accuracy_together,
    coefficient_per_doubling,
    first_shown,
    openings_of,
    rules_of,
    share_of_more,
    slices_of,
)
from preftune.data.records import Pair

EXAMINED = 200_000  # pairs; a share of so many is known to a quarter of a point
FEWEST = 100  # pairs whose lengths differ; with fewer an interval is 20 points wide
SURELY = 0.05  # p, corrected for all that was tried
TELLING = 0.05  # how far from one half a share must lie to be worth a finding
STRONG = 0.10  # how far the accuracy of all forms must lie above one half to be a warning
_SHOWN = 5  # slices, rules or openings named in a finding


@dataclass(frozen=True)
class ShortcutAudit:
    """What tells the chosen answer from the rejected one without reading either.

    ``length`` is how the log-odds of being chosen change with a doubling of the characters, ``length_controlled``
    the same with all forms held equal; ``together`` is the accuracy out of sample of all forms. They are None where
    there are too few pairs. ``first_shown_wins`` has ``n`` 0 where the pairs do not say which side was shown first.
    """

    pairs: int
    examined: int
    longer_wins: Share
    length: Coefficient | None
    length_controlled: Coefficient | None
    rules: tuple[Rule, ...]
    together: Share | None
    slices: tuple[Slice, ...]
    first_shown_wins: Share
    first_shown_p: float | None
    openings: tuple[Opening, ...]
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        return asdict(self)


def audit_shortcuts(pairs: Sequence[Pair], *, by: Sequence[str] = (), seed: int = 0) -> ShortcutAudit:
    """How well looks name the chosen answer, alone and together, and which slices carry that.

    ``by`` names fields of ``meta`` to slice by, beside the difference in length, source and turns. Of more than
    ``EXAMINED`` pairs so many are drawn at random. Intervals know that the pairs of a prompt hang together.
    """
    examined = _drawn(pairs, seed)
    forms, prompts = form_differences(examined), prompt_numbers(examined)
    lengths = forms[:, LENGTH]
    what = "By characters; pairs of equal length are left out. Near 50% length says nothing, near 100% everything."
    longer = share_of_more(lengths, prompts, "The longer answer wins", what)
    first, first_p = first_shown(examined, prompts)
    found = ShortcutAudit(len(pairs), len(examined), longer, None, None, (), None, (), first, first_p, ())
    if longer.n < FEWEST:
        return replace(found, findings=(_too_few(longer.n), *_position(found)))
    rules = rules_of(forms, prompts, seed)
    found = replace(
        found,
        length=coefficient_per_doubling(lengths, prompts),
        length_controlled=coefficient_per_doubling(lengths, prompts, others=np.delete(forms, LENGTH, axis=1)),
        rules=rules,
        together=accuracy_together(forms, prompts, seed),
        slices=slices_of(examined, lengths, prompts, by),
        openings=openings_of(examined, prompts),
    )
    findings = (*_length(found), *_together(found), *_forms(found), *_slices(found), *_position(found))
    return replace(found, findings=(*findings, *_openings(found, examined)))


def _drawn(pairs: Sequence[Pair], seed: int) -> Sequence[Pair]:
    if len(pairs) <= EXAMINED:
        return pairs
    rows = np.random.default_rng(seed).choice(len(pairs), EXAMINED, replace=False)
    return [pairs[row] for row in np.sort(rows)]


def _too_few(pairs: int) -> Finding:
    return Finding(
        id="shortcuts-unknown",
        severity="info",
        title="Too few pairs to see shortcuts",
        what="Whether length or form tells the chosen answer cannot be said from so few pairs.",
        evidence=f"{count_of(pairs, 'pair')} whose answers differ in length; {FEWEST} are the least.",
        rows=(),
        remedy="Collect more pairs before trusting that there is no shortcut.",
    )


def _length(found: ShortcutAudit) -> list[Finding]:
    share, coefficient = found.longer_wins, found.length
    if coefficient is None or not _is_telling(share):
        return []
    side = "longer" if (share.value or 0) > 0.5 else "shorter"
    return [
        Finding(
            id="length-shortcut",
            severity="warning",
            title=f"The {side} answer wins more often",
            what=f"A model can lower its loss by writing {side} answers without writing better ones.",
            evidence=(
                f"The longer answer wins {_told(share)}. A doubling of its length changes the log-odds of winning by "
                f"{coefficient.value:+.2f} ({coefficient.low:+.2f} to {coefficient.high:+.2f}; z {coefficient.z:.1f})"
                f"{_controlled(found)}."
            ),
            rows=(),
            remedy=(
                "Balance the lengths (preftune clean), train with a length-normalised loss, and watch the "
                "completions' length."
            ),
            share=share,
        )
    ]


def _controlled(found: ShortcutAudit) -> str:
    held = found.length_controlled
    return (
        f", and by {held.value:+.2f} ({held.low:+.2f} to {held.high:+.2f}) with the other forms held equal"
        if held
        else ""
    )


def _together(found: ShortcutAudit) -> list[Finding]:
    share = found.together
    if share is None or share.value is None or share.low is None or share.low <= 0.5 + TELLING / 2:
        return []
    best = [f"{rule.name} alone {rule.alone.value:.1%}" for rule in found.rules[:3]]
    return [
        Finding(
            id="form-predicts-label",
            severity="warning" if share.value >= 0.5 + STRONG else "info",
            title="Form alone predicts the label",
            what="Lengths, lists, marks and the like name the chosen answer of new prompts without reading it.",
            evidence=f"All forms together are right for {_told(share)}; {', '.join(best)}.",
            rows=(),
            remedy="Compare every reward model with this figure: below it, the model has learned the form.",
            share=share,
        )
    ]


def _forms(found: ShortcutAudit) -> list[Finding]:
    rules = [rule for rule in found.rules if rule.name != "length" and rule.p < SURELY and _is_telling(rule.wins)]
    if not rules:
        return []
    told = "; ".join(f"more {rule.name} wins {_told(rule.wins)}" for rule in rules[:_SHOWN])
    return [
        Finding(
            id="format-shortcut",
            severity="info",
            title="Forms that win or lose",
            what="Answers with more, or less, of these forms are chosen more often.",
            evidence=f"{told}. Tested {len(found.rules)} forms, corrected for that (Holm).",
            rows=(),
            remedy="Where these forms are not what you want rewarded, balance them or leave such pairs out.",
            share=rules[0].wins,
        )
    ]


def _slices(found: ShortcutAudit) -> list[Finding]:
    clear = [one for one in found.slices if one.p < SURELY]
    if not clear:
        return []
    told = "; ".join(
        f"{one.field} = {one.value}: {_told(one.longer_wins)}, in the rest {one.rest.value:.1%}"
        for one in clear[:_SHOWN]
    )
    return [
        Finding(
            id="length-by-slice",
            severity="info",
            title="Length counts more in some parts of the data",
            what="How often the longer answer wins differs between these pairs and the rest.",
            evidence=f"{told}. Tested {count_of(len(found.slices), 'slice')}, corrected for that (Holm).",
            rows=(),
            remedy="Balance or leave out the slice that carries the shortcut, not the whole set.",
            share=clear[0].longer_wins,
        )
    ]


def _position(found: ShortcutAudit) -> list[Finding]:
    share, p = found.first_shown_wins, found.first_shown_p
    if p is None or p >= 0.01 or share.n < FEWEST:  # D31's rule
        return []
    place = "first" if (share.value or 0) > 0.5 else "second"
    return [
        Finding(
            id="position-shortcut",
            severity="warning",
            title=f"The answer shown {place} wins more often",
            what="Who chose looked at the place as well as at the answer, or the places were not drawn at random.",
            evidence=f"The answer shown first wins {_told(share)}; binomial p = {p:.2g}.",
            rows=(),
            remedy="Show each pair in random order, or both ways and keep what agrees.",
            share=share,
        )
    ]


def _openings(found: ShortcutAudit, pairs: Sequence[Pair]) -> list[Finding]:
    clear = [one for one in found.openings if one.p < SURELY and _is_telling(one.wins)]
    if not clear:
        return []
    named = {row for opening in clear for row in opening.rows}
    rows = [pair for pair in pairs if pair.id in named]
    told = "; ".join(f"“{one.text} …” wins {_told(one.wins)}" for one in clear[:_SHOWN])
    return [
        Finding(
            id="opening-shortcut",
            severity="info",
            title="Openings that win or lose",
            what="An answer's first words tell whether it is chosen.",
            evidence=f"{told}. Tested {count_of(len(found.openings), 'opening')}, corrected for that (Holm).",
            rows=tuple(pair.id for pair in rows),
            remedy="Read a few of them: where the opening itself is what wins, vary or cut it.",
            share=clear[0].wins,
            examples=tuple(example_of(pair, "One side opens so.") for pair in rows[:EXAMPLES]),
        )
    ]


def _is_telling(share: Share) -> bool:
    """True where the interval leaves one half out and the share lies clearly off it."""
    if share.value is None or share.low is None or share.high is None:
        return False
    return not share.low <= 0.5 <= share.high and abs(share.value - 0.5) >= TELLING


def _told(share: Share) -> str:
    return f"{share.value:.1%} of {count_of(share.n, 'pair')} (95% interval {share.low:.1%} to {share.high:.1%})"
