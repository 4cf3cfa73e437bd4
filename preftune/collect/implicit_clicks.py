"""Clicks on shown answers: how often each place is seen, and each answer's clicks with that taken out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from preftune.collect.log_mapping import LogMapping
from preftune.collect.log_store import LogStore
from preftune.collect.off_policy import OffPolicyRate, bucket_of, effective_size, off_policy_rate
from preftune.collect.position_bias import (
    Examination,
    examination_from_moves,
    examination_from_propensities,
    given_examination,
)

Use: TypeAlias = Literal["corrected", "uncorrected", "unused"]
# Share of the shown answers that the weights must be worth to be preferred to the moves: on the Open Bandit log under
# Thompson sampling, 10,000 rows worth 1,387, their intervals are 1.6 times as wide.
_LEAST_EFFECTIVE: Final = 0.5
_LEAST_LOGGED: Final = 0.95  # share of shown answers that must carry a propensity


class Exposure(NamedTuple):
    """An answer's clicks and how often it was shown and, by the places' factors, seen."""

    clicks: int
    shown: int
    seen: float


@dataclass(frozen=True)
class Places:
    """What the log says of the places in a list.

    ``use`` says whether clicks count for answers: corrected for the place, uncorrected where no place was logged,
    unused where a click cannot be told from its place, or where what was not clicked is not in the log.
    ``without_place`` counts shown answers that lack one among others that have it, or whose place has no factor.
    """

    use: Use
    reason: str
    chosen: Examination
    others: tuple[Examination, ...]
    shown: int
    clicks: int
    without_impression: int
    without_place: int
    rate: float
    by_place: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Propensities:
    """The logged propensities, and the click rate if a prompt's answers were shown equally often."""

    logged: int
    of: int
    least: float
    most: float
    equally_often: OffPolicyRate

    def as_dict(self) -> dict[str, Any]:
        """The figures as the report holds them."""
        rate = self.equally_often
        return {
            "logged": self.logged,
            "of": self.of,
            "least": self.least,
            "most": self.most,
            "effective_sample_size": rate.effective,
            "clipped_share": rate.clipped,
            "largest_weight_in_means": rate.largest,
            "rates": {
                "as_logged": asdict(rate.naive),
                "weighted": asdict(rate.weighted),
                "self_normalised": asdict(rate.self_normalised),
            },
        }


def places_of(store: LogStore, mapping: LogMapping) -> Places:
    """How often each place is seen, and whether clicks can be used."""
    shown, clicks, unseen, placed = store.rows(
        "SELECT COUNT(*), COALESCE(SUM(clicked), 0), COALESCE(SUM(NOT was_shown), 0), COUNT(position) FROM exposures"
    ).fetchone()
    estimates = _estimates(store, mapping, shown) if placed else ()
    chosen = next((one for one in estimates if one.method != "none"), Examination("none"))
    use, reason = _use(shown, clicks, unseen, placed, chosen, store)
    factors = chosen.by_position()
    seen, used_clicks, left_out = _totals(store, factors if use == "corrected" else None)
    return Places(
        use=use,
        reason=reason,
        chosen=chosen,
        others=tuple(one for one in estimates if one is not chosen),
        shown=shown,
        clicks=clicks,
        without_impression=unseen,
        without_place=left_out,
        rate=max(used_clicks, 0.5) / max(seen, 1.0),
        by_place=tuple(_by_place(store)),
    )


def exposures_of(store: LogStore, places: Places, prompt: int) -> dict[int, Exposure]:
    """The exposures of a prompt's answers, those at places without a factor left out; empty where clicks are unused."""
    if places.use == "unused":
        return {}
    factors = places.chosen.by_position()
    found: dict[int, Exposure] = {}
    rows = store.rows(
        "SELECT x.answer, x.position, COUNT(*), SUM(x.clicked) FROM answers a CROSS JOIN exposures x"
        " ON x.answer = a.id WHERE a.prompt = ? GROUP BY x.answer, x.position",
        (prompt,),
    )
    for answer, position, shown, clicks in rows:
        factor = factors.get(position) if places.use == "corrected" else 1.0
        if factor is not None:
            before = found.get(answer, Exposure(0, 0, 0.0))
            found[answer] = Exposure(before.clicks + clicks, before.shown + shown, before.seen + shown * factor)
    return found


def propensities_of(store: LogStore, clip: float, seed: int) -> Propensities | None:
    """The range, effective size and use of the logged propensities; None where there are none."""
    import numpy as np

    logged, total, least, most = store.rows(
        "SELECT COUNT(propensity), COUNT(*), MIN(propensity), MAX(propensity) FROM exposures"
    ).fetchone()
    if not logged:
        return None
    rows = store.rows(
        "SELECT x.clicked, x.propensity, c.answers, x.occasion FROM exposures x JOIN answers a ON a.id = x.answer"
        " JOIN (SELECT prompt, COUNT(DISTINCT b.id) AS answers FROM answers b JOIN exposures y ON y.answer = b.id"
        " GROUP BY prompt) c ON c.prompt = a.prompt WHERE x.propensity IS NOT NULL"
    )
    kinds = np.dtype([("clicked", "f8"), ("weight", "f8"), ("bucket", "i8")])
    table = np.fromiter(((hit, 1 / (p * many), bucket_of(name)) for hit, p, many, name in rows), kinds, logged)
    rate = off_policy_rate(table["clicked"], table["weight"], clusters=table["bucket"], clip=clip, seed=seed)
    return Propensities(logged, total, least, most, rate)


def _estimates(store: LogStore, mapping: LogMapping, shown: int) -> tuple[Examination, ...]:
    """Every way to the places' factors that this log allows, the one to use first."""
    moves = _from_moves(store)
    weighted, is_effective = _from_propensities(store, mapping.assumptions.clip, shown)
    estimates = [moves] if weighted is None else [weighted, moves] if is_effective else [moves, weighted]
    return (given_examination(mapping.examination), *estimates) if mapping.examination else tuple(estimates)


def _from_moves(store: LogStore) -> Examination:
    import numpy as np

    query = "SELECT answer, position, COUNT(*), SUM(clicked) FROM exposures WHERE position IS NOT NULL GROUP BY 1, 2"
    # Answers without a click say nothing of places: leaving them out here bounds the table by the clicks.
    clicked = "SELECT answer FROM exposures WHERE clicked"
    rows = store.rows(f"SELECT * FROM ({query}) WHERE answer IN ({clicked})").fetchall()
    if not rows:
        return Examination("none")
    answers, positions, shown, clicks = (np.array(column) for column in zip(*rows, strict=True))
    return examination_from_moves(answers, positions, shown.astype(float), clicks.astype(float))


def _from_propensities(store: LogStore, clip: float, shown: int) -> tuple[Examination | None, bool]:
    """The factors by the logged propensities, and whether their weights are even enough to be used."""
    import numpy as np

    where = "FROM exposures WHERE position IS NOT NULL AND propensity IS NOT NULL"
    (logged,) = store.rows(f"SELECT COUNT(*) {where}").fetchone()
    if logged < _LEAST_LOGGED * shown:
        return None, False
    kinds = np.dtype([("position", "i8"), ("clicked", "f8"), ("weight", "f8")])
    table = np.fromiter(store.rows(f"SELECT position, clicked, 1 / propensity {where}"), kinds, logged)
    weights = np.minimum(table["weight"], clip * table["weight"].mean())
    found = examination_from_propensities(table["position"], table["clicked"], weights)
    return found, effective_size(weights) >= _LEAST_EFFECTIVE * logged


def _use(shown: int, clicks: int, unseen: int, placed: int, chosen: Examination, store: LogStore) -> tuple[Use, str]:
    if not clicks:
        return "unused", "no clicks"
    if unseen == shown:
        return "unused", "no impressions: what was shown and not clicked is not in the log"
    if not placed:
        return "uncorrected", "no positions"
    if chosen.method != "none":
        return "corrected", chosen.method
    (places,) = store.rows("SELECT COUNT(DISTINCT position) FROM exposures").fetchone()
    if places < 2:
        return "uncorrected", "one position only"
    return "unused", "no clicked answer was shown at two positions: a click cannot be told from its place"


def _totals(store: LogStore, factors: dict[int, float] | None) -> tuple[float, int, int]:
    """How often answers were seen, their clicks, and the shown answers whose place has no factor."""
    seen, clicks, left_out = 0.0, 0, 0
    for position, shown, clicked in store.rows(
        "SELECT position, COUNT(*), SUM(clicked) FROM exposures GROUP BY position"
    ):
        factor = 1.0 if factors is None else factors.get(position)
        if factor is None:
            left_out += shown
        else:
            seen, clicks = seen + shown * factor, clicks + clicked
    return seen, clicks, left_out


def _by_place(store: LogStore) -> list[dict[str, Any]]:
    rows = store.rows(
        "SELECT position, COUNT(*), SUM(clicked) FROM exposures WHERE position IS NOT NULL GROUP BY position"
        " ORDER BY position LIMIT 100"
    )
    return [{"position": position, "shown": shown, "clicks": clicks} for position, shown, clicks in rows]
