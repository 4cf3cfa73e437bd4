"""Which labels are wrong: what models that never saw a row, and other comparisons of its answers, say against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from preftune.audit.clusters import clustered_share, prompt_numbers
from preftune.audit.confident import confident_rate
from preftune.audit.examples import EXAMPLES, example_of
from preftune.audit.findings import Finding, Share, count_of
from preftune.audit.flip_model import FlipModel, expected_flips, fit_flips, flip_probabilities
from preftune.audit.other_comparisons import margins_from_others
from preftune.audit.pair_features import Floats
from preftune.audit.preference_model import Fit, cross_fitted_margins, fit_words
from preftune.data.records import Pair
from preftune.intervals import design_effect

Ints: TypeAlias = NDArray[np.int64]

FOLDS = 5
FEWEST_PAIRS = 50
TOPS = (10, 20, 50, 100, 200, 500)
LIKELY = 0.5  # a row is a suspect where it is likelier flipped than not
BY_HAND = 50
CLEARLY = 0.05  # the rate whose lower bound makes a warning (D23)


@dataclass(frozen=True)
class MislabelledAudit:
    """How far the labels are wrong, and where.

    ``accuracy`` is how often held-out evidence agrees with the label: the preference model's (``of_model``) and
    that of other comparisons of the same answers (``of_others``, over the pairs that have some) together.
    ``can_tell`` is False where it is not above chance; then nothing is estimated and no row is named.
    ``probabilities`` are those of being flipped, in the order of ``ids``; ``suspects`` are the rows whose
    probability is above one half, the surest first; ``top`` says how many of the first so many are expected to
    be flipped. ``confident_learning`` is cleanlab's estimate of the rate, an upper one.
    """

    pairs: int
    ids: tuple[str, ...]
    probabilities: tuple[float, ...] | None
    accuracy: Share
    of_model: Share
    of_others: Share
    can_tell: bool
    rate: Share | None
    confident_learning: Share | None
    suspects: tuple[str, ...]
    top: tuple[Share, ...]
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The audit as JSON can hold it."""
        return asdict(self)


def audit_mislabelled(
    pairs: Sequence[Pair], seed: int = 0, folds: int = FOLDS, fit: Fit | None = None, *, with_others: bool = True
) -> MislabelledAudit:
    """Each pair's probability that its label is flipped, the rate of flips, and the rows to look at first.

    Margins come from models trained on the other folds' prompts, so that a prompt never votes on itself, and
    (``with_others``) from the other comparisons of the same answers, never from the pair or its copies. ``fit``
    replaces the fast model: it is handed pairs to train on and gives what scores others. Raises PreftuneError where
    that gives no finite numbers, and where scikit-learn or cleanlab is not installed.
    """
    prompts = prompt_numbers(pairs)
    folds = min(folds, len(np.unique(prompts)))
    if len(pairs) < FEWEST_PAIRS or folds < 2:
        return _untold(pairs, _too_few(len(pairs), folds))
    model = cross_fitted_margins(pairs, prompts, folds, seed, fit or fit_words())
    others = margins_from_others(pairs) if with_others else np.zeros(len(pairs))
    margins = np.column_stack([model, others]) if others.any() else model[:, None]
    return _judged(pairs, prompts, margins, seed)


def _judged(pairs: Sequence[Pair], prompts: Ints, margins: Floats, seed: int) -> MislabelledAudit:
    sure = margins @ fit_flips(margins, seed=seed).slopes[0]
    found = _untold(pairs, None)
    found = replace(
        found,
        accuracy=_agreeing(sure, prompts, "Held-out evidence agrees with the label"),
        of_model=_agreeing(margins[:, 0], prompts, "The preference model agrees with the label"),
        of_others=_of_others(margins, prompts),
    )
    if found.accuracy.low is None or found.accuracy.low <= 0.5:
        return replace(found, findings=(_cannot_tell(found.accuracy),))
    flips = fit_flips(margins, design_effect(sure > 0, prompts), seed)
    probabilities = flip_probabilities(flips, margins)
    ranked = np.argsort(-probabilities, kind="stable")
    suspects = ranked[: int((probabilities > LIKELY).sum())]
    found = replace(
        found,
        probabilities=tuple(float(one) for one in probabilities),
        can_tell=True,
        rate=_rate(flips, len(pairs)),
        confident_learning=confident_rate(expit(sure), prompts, seed),
        suspects=tuple(pairs[row].id for row in suspects),
        top=tuple(_top(flips, margins[ranked[:size]]) for size in TOPS if size <= len(pairs)),
    )
    is_clear = found.rate is not None and found.rate.low is not None and found.rate.low > CLEARLY
    shown = suspects if len(suspects) or not is_clear else ranked[:BY_HAND]
    if not len(shown):
        return replace(found, findings=(_none_named(found),))
    expected = _top(flips, margins[shown])
    return replace(found, findings=(_suspicion(found, [pairs[row] for row in shown], expected, probabilities[shown]),))


def _untold(pairs: Sequence[Pair], finding: Finding | None) -> MislabelledAudit:
    nothing = Share(None, None, None, 0, "Held-out evidence agrees with the label", "Not measured.")
    ids = tuple(pair.id for pair in pairs)
    findings = () if finding is None else (finding,)
    return MislabelledAudit(len(pairs), ids, None, nothing, nothing, nothing, False, None, None, (), (), findings)


def _agreeing(margins: Floats, prompts: Ints, title: str) -> Share:
    """A margin of zero says nothing and counts one half."""
    what = "Of pairs that the evidence never saw; the interval knows that pairs of a prompt hang together."
    return clustered_share((np.sign(margins) + 1) / 2, prompts, title, what)


def _of_others(margins: Floats, prompts: Ints) -> Share:
    others = margins[:, 1] if margins.shape[1] > 1 else np.zeros(len(margins))
    told = others != 0
    return _agreeing(others[told], prompts[told], "Other comparisons of the same answers agree with the label")


def _rate(flips: FlipModel, pairs: int) -> Share:
    what = (
        "The share of labels that contradict even the surest held-out evidence. It holds hard cases that the models "
        "get wrong with confidence too, so a person's audit has the last word."
    )
    return Share(flips.rate, *flips.rate_interval(), pairs, "Estimated share of flipped labels", what)


def _top(flips: FlipModel, margins: Floats) -> Share:
    what = "Expected from the calibrated probabilities, with the rate's uncertainty."
    title = f"Flipped among the {len(margins):,} likeliest"
    return Share(*expected_flips(flips, margins), len(margins), title, what)


def _too_few(pairs: int, prompts: int) -> Finding:
    what = f"{count_of(pairs, 'pair')} of {count_of(prompts, 'prompt')}"
    return _unknown(f"{what}; {FEWEST_PAIRS} pairs of two prompts are the least.")


def _cannot_tell(accuracy: Share) -> Finding:
    return _unknown(
        f"Held-out evidence agrees with {accuracy.value:.1%} of {count_of(accuracy.n, 'label')} "
        f"(95% interval {accuracy.low:.1%} to {accuracy.high:.1%}), which may be chance."
    )


def _unknown(evidence: str) -> Finding:
    return Finding(
        id="mislabelled-unknown",
        severity="info",
        title="Cannot tell which labels are wrong",
        what="No rule was found in these labels, so no exceptions can be seen. That does not make them right.",
        evidence=evidence,
        rows=(),
        remedy=f"Audit {BY_HAND} random pairs by hand (--sample {BY_HAND}), or use a real reward model (--model).",
    )


def _none_named(found: MislabelledAudit) -> Finding:
    return Finding(
        id="mislabelled-none-named",
        severity="info",
        title="No single label stands out as wrong",
        what="No pair is likelier flipped than not, by models that never saw it and other comparisons of its answers.",
        evidence=_estimate(found),
        rows=(),
        remedy=f"Audit {BY_HAND} random pairs by hand (--sample {BY_HAND}) to see errors that follow no rule.",
        share=found.rate,
    )


def _estimate(found: MislabelledAudit) -> str:
    rate = found.rate
    assert rate is not None
    return (
        f"Of all {found.pairs:,} labels {rate.value:.1%} (95% interval {rate.low:.1%} to {rate.high:.1%}) are "
        f"estimated to be flipped. Held-out evidence agrees with {found.accuracy.value:.1%}."
    )


def _suspicion(found: MislabelledAudit, shown: Sequence[Pair], expected: Share, probabilities: Floats) -> Finding:
    rate = found.rate
    named = (
        f"{count_of(len(found.suspects), 'pair')} likelier flipped than not"
        if found.suspects
        else f"No single pair is likelier flipped than not; the {len(shown)} most suspicious are named"
    )
    promised = f"{expected.value:.0%} of them are expected to be ({expected.low:.0%} to {expected.high:.0%})"
    return Finding(
        id="mislabelled-pairs",
        severity="warning" if rate is not None and rate.low is not None and rate.low > CLEARLY else "info",
        title="Labels that held-out evidence contradicts",
        what="Models that never saw these rows, or other comparisons of the same answers, prefer the rejected side.",
        evidence=f"{named}: {promised}. {_estimate(found)}",
        rows=tuple(pair.id for pair in shown),
        remedy=(
            f"Audit {BY_HAND} random pairs by hand to confirm the rate; then leave out the pairs less than 70% sure "
            "(preftune clean --min-confidence 0.7), or train on soft labels with these probabilities."
        ),
        share=rate,
        examples=tuple(
            example_of(pair, f"probability {chance:.2f} that the label is flipped")
            for pair, chance in zip(shown[:EXAMPLES], probabilities, strict=False)
        ),
    )
