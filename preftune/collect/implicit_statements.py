"""What the confidence of a record rests on, in a sentence a signal, for its source and for the report."""

from __future__ import annotations

from preftune.collect.implicit_clicks import Places
from preftune.collect.implicit_evidence import Knowledge
from preftune.collect.implicit_signals import Strength
from preftune.collect.rater_history import RaterHistory


def statements(knowledge: Knowledge) -> dict[str, str]:
    """A sentence for each kind of signal, and one for how they are ``combined``."""
    thumbs = _thumbs(knowledge.history)
    strengths = knowledge.strengths
    assumptions = knowledge.assumptions
    return {
        "thumbs_up": thumbs,
        "thumbs_down": thumbs,
        "copy": f"copy: the answer is good with probability {_rests(strengths['copy'])}; less for users who copy most.",
        "edit": f"edit: the edited text is the better one with probability {_rests(strengths['edit'])}; edits below "
        f"{assumptions.tiny_edit:.0%} of the words are ignored.",
        "regenerate": "regenerate: the regenerated answer is worse than the one kept with probability "
        f"{_rests(strengths['regenerate'])}.",
        "click": f"click: {_clicks(knowledge.places)} The answer that is clicked more is better with probability "
        f"{_rests(strengths['click'])}.",
        "dwell": "dwell: reading longer than the median of the slice and answer length means good with probability "
        f"{_rests(strengths['dwell'])}.",
        "session": f"session: a session longer (in {knowledge.sessions.measure}) than its slice's median means good "
        f"answers with probability {_rests(strengths['session'])}, shared out among its answers.",
        "combined": "Signals are taken as independent given whether the answer is good; their log-odds are added to "
        f"those of a prior of {assumptions.prior:g} (labels only) and capped at a confidence of {assumptions.cap:g}.",
    }


def _rests(strength: Strength) -> str:
    if strength.measured is None:
        return f"{strength.accuracy:.2f} (assumed)"
    return f"{strength.accuracy:.2f} (assumption drawn to the thumbs beside {strength.compared:,} of these signals)"


def _thumbs(history: RaterHistory) -> str:
    if not history.compared:
        known = f"assumed to be {history.assumed_kappa:.2f}: no answer was judged by two raters"
    else:
        known = f"{history.kappa:.2f}, from {history.compared:,} votes on answers that others judged too"
    return (
        "thumbs: a vote is true by the rater's competence and else their habit (MACE model); agreement beyond chance "
        f"{known}."
    )


def _clicks(places: Places) -> str:
    if places.use == "corrected":
        how = {
            "moves": "estimated from answers shown at several places",
            "propensities": "estimated by the logged propensities",
            "given": "given in the mapping",
        }[places.chosen.method]
        return f"click rates are divided by how often a place is seen (position-based model), {how}."
    return f"click rates are not corrected for places: {places.reason}."
