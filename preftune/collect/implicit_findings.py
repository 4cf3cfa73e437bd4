"""What is wrong with a log as a source of preferences: its users, its places, its mapping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from preftune.audit.findings import Finding, count_of, share_of
from preftune.collect.implicit_clicks import Places, Propensities
from preftune.collect.implicit_evidence import Knowledge
from preftune.collect.implicit_signals import Strength
from preftune.collect.log_mapping import LogMapping, built_in_mappings
from preftune.collect.log_reading import LogReading
from preftune.collect.log_store import LogStore
from preftune.collect.position_bias import few_clicks
from preftune.collect.rater_history import RaterHistory

HEAVY_SHARE: Final = 0.2  # of the judging events, by one user
_FEW: Final = 20  # judging events or votes below which a user's share or habit says nothing
_JUDGED_AT_ONCE, _SECONDS_AT_ONCE = 30, 60  # answers in so many seconds: two seconds each, reading included
_MANY_LEFT_OUT: Final = 0.05
_UNEVEN: Final = 0.1  # share of the rows that the weights are worth
_JUDGING: Final = "('thumbs_up', 'thumbs_down', 'copy', 'edit', 'regenerate', 'click')"
_SHOWN_NAMES: Final = 10


def findings_of(
    store: LogStore,
    mapping: LogMapping,
    reading: LogReading,
    knowledge: Knowledge,
    propensities: Propensities | None,
    made: int,
    conflicting: int,
) -> tuple[Finding, ...]:
    """The findings, errors first."""
    found = [
        *_mapping_findings(mapping, reading),
        *_place_findings(knowledge.places),
        *_propensity_findings(propensities),
        *_user_findings(store),
        *_rater_findings(knowledge.history),
        *_strength_findings(knowledge),
        *_record_findings(store, made, conflicting),
    ]
    return tuple(sorted(found, key=lambda finding: ("error", "warning", "info").index(finding.severity)))


def _mapping_findings(mapping: LogMapping, reading: LogReading) -> Iterator[Finding]:
    if reading.absent:
        paths = mapping.paths()
        lines = [
            f"{mapping.places.get(key, key)}: {key.partition('.')[2] or key} is mapped to {paths[key]}; near: {near}"
            for key, near in reading.absent.items()
        ]
        yield Finding(
            id="mapped-column-absent",
            # A built-in mapping names more than most logs have; one's own should fit.
            severity="info" if mapping.name in built_in_mappings() else "warning",
            title="Mapped columns that no row has",
            what="The mapping names columns that are nowhere in the log; what they would tell is not used.",
            evidence="; ".join(lines) + ".",
            rows=(),
            remedy="Mend these lines of the mapping, or delete them where the log has no such thing.",
        )
    if reading.unknown_events:
        names = list(reading.unknown_events.items())
        shown = ", ".join(f"{name} {count:,}" for name, count in names[:_SHOWN_NAMES])
        yield Finding(
            id="unknown-events",
            severity="warning",
            title="Events without a translation",
            what="Rows with event names that the mapping does not know are left out.",
            evidence=f"{count_of(len(names), 'name')}: {shown}{' ...' if len(names) > _SHOWN_NAMES else ''}.",
            rows=tuple(name for name, _ in names),
            remedy="Translate them in the mapping's events, with `ignore` for those that say nothing.",
        )
    left_out = sum(reading.left_out.values())
    if left_out > _MANY_LEFT_OUT * reading.read:
        reason, first = next(iter(reading.firsts.items()))
        reasons = ", ".join(f"{name} {count:,}" for name, count in reading.left_out.items())
        yield Finding(
            id="many-rejected",
            severity="warning",
            title="Many rows cannot be used",
            what="More than one row in twenty was left out; what remains may not be what users did.",
            evidence=f"{left_out:,} of {count_of(reading.read, 'row')}: {reasons}.",
            rows=(first.where,),
            remedy=f"Mend the commonest reason first. {reason} at {first.where}: {first.mend}",
        )


def _place_findings(places: Places) -> Iterator[Finding]:
    if not places.clicks:
        return
    if places.use == "unused":
        unlogged = places.reason.startswith("no impressions")
        yield Finding(
            id="clicks-without-impressions" if unlogged else "positions-without-variation",
            severity="warning",
            title="Clicks cannot be used",
            what="A click counts only against what was shown and not clicked, at places that can be compared.",
            evidence=f"{count_of(places.clicks, 'click')}: {places.reason}.",
            rows=(),
            remedy="Log the answers that were shown as impressions."
            if unlogged
            else "Swap the places of answers in a small share of requests, or give the mapping an examination.",
        )
    elif places.use == "uncorrected":
        yield Finding(
            id="positions-not-logged",
            severity="warning",
            title="Clicks are not corrected for places",
            what="Where answers stood in a list, the upper ones are clicked more for being seen more.",
            evidence=f"{count_of(places.clicks, 'click')}: {places.reason}.",
            rows=(),
            remedy="Map the position, where answers were shown as a list.",
        )
    else:
        yield from _weak_correction(places)
    if places.without_impression and places.use != "unused":
        yield Finding(
            id="clicks-not-shown",
            severity="warning",
            title="Clicks on answers that were not shown",
            what="Clicks without an impression of the same request or session count as shown once and clicked.",
            evidence=f"{places.without_impression:,} of {count_of(places.shown, 'shown answer')}.",
            rows=(),
            remedy="Map request or session so that clicks meet their impressions.",
        )


def _weak_correction(places: Places) -> Iterator[Finding]:
    if places.chosen.method != "given" and few_clicks(places.chosen):
        yield Finding(
            id="few-clicks",
            severity="warning",
            title="Too few clicks to tell the places apart",
            what="The correction for places is mostly noise; its intervals are in the report.",
            evidence=f"{count_of(places.chosen.clicks, 'click')} on answers that inform "
            f"{len(places.chosen.positions)} places.",
            rows=(),
            remedy="Use a longer log, or give the mapping an examination.",
        )
    if places.without_place:
        yield Finding(
            id="places-apart",
            severity="info",
            title="Places that cannot be compared",
            what="Answers at places that no clicked answer links to the others, or without a place, are not used.",
            evidence=f"{places.without_place:,} of {count_of(places.shown, 'shown answer')}; "
            f"places {', '.join(map(str, places.chosen.apart)) or 'none'}.",
            rows=(),
            remedy="Show answers at more than one place, or log the missing positions.",
        )


def _propensity_findings(propensities: Propensities | None) -> Iterator[Finding]:
    if propensities is None:
        return
    rate = propensities.equally_often
    if rate.effective < _UNEVEN * rate.n:
        yield Finding(
            id="uneven-propensities",
            severity="warning",
            title="Propensities leave few effective rows",
            what="A few rarely shown answers carry most of the weight; estimates by these weights are unsteady.",
            evidence=f"{count_of(rate.n, 'row')} are worth {rate.effective:,.0f}; propensities from "
            f"{propensities.least:.3g} to {propensities.most:.3g}, {rate.clipped:.1%} of the weights clipped.",
            rows=(),
            remedy="Let the policy explore more, or compare with the estimate from moves in the report.",
        )
    if propensities.logged < propensities.of:
        yield Finding(
            id="propensities-missing",
            severity="info",
            title="Rows without a propensity",
            what="They are not part of the weighted click rates.",
            evidence=f"{propensities.of - propensities.logged:,} of {count_of(propensities.of, 'shown answer')}.",
            rows=(),
            remedy="Log the propensity with every shown answer.",
        )


def _user_findings(store: LogStore) -> Iterator[Finding]:
    where = f"FROM events WHERE kind IN {_JUDGING} AND user IS NOT NULL"
    (total,) = store.rows(f"SELECT COUNT(*) {where}").fetchone()
    users = store.rows(f"SELECT user, COUNT(*) {where} GROUP BY user ORDER BY 2 DESC, 1 LIMIT 5").fetchall()
    for user, count in users if total >= _FEW and len(users) > 1 else ():
        if count > HEAVY_SHARE * total:
            share = share_of(count, total, f"Signals by user {user}", "Share of the judging events.")
            yield Finding(
                id="heavy-user",
                severity="warning",
                title="One user gives much of the signals",
                what="A model trained on this learns one person's taste; their errors are not independent either.",
                evidence=f"User {user}: {count:,} of {total:,} judging events ({count / total:.1%}).",
                rows=(f"user {user}",),
                remedy="Cap the user's share, or name them under exclude_users in the mapping.",
                share=share,
            )
    yield from _fast_users(store)


def _fast_users(store: LogStore) -> Iterator[Finding]:
    """Users who judged more different answers within a minute than a person can read."""
    if not store.is_timed:
        return
    rows = store.rows(
        "SELECT user, COUNT(*) FROM (SELECT user, first - LAG(first, ?) OVER (PARTITION BY user ORDER BY first) AS took"
        f" FROM (SELECT user, answer, MIN(at) AS first FROM events WHERE kind IN {_JUDGING} AND user IS NOT NULL"
        " GROUP BY user, answer)) WHERE took < ? GROUP BY user ORDER BY 2 DESC, 1",
        (_JUDGED_AT_ONCE - 1, _SECONDS_AT_ONCE),
    ).fetchall()
    if rows:
        names = ", ".join(str(user) for user, _ in rows[:_SHOWN_NAMES])
        yield Finding(
            id="superhuman-rate",
            severity="warning",
            title="Users faster than people",
            what=f"{_JUDGED_AT_ONCE} or more answers judged within {_SECONDS_AT_ONCE} seconds: bots, load tests or a "
            "clock that stamps many events at once.",
            evidence=f"{count_of(len(rows), 'user')}: {names}{' ...' if len(rows) > _SHOWN_NAMES else ''}.",
            rows=tuple(f"user {user}" for user, _ in rows),
            remedy="Name them under exclude_users in the mapping.",
        )


def _rater_findings(history: RaterHistory) -> Iterator[Finding]:
    if not history.votes:
        return
    if not history.compared:
        yield Finding(
            id="raters-not-compared",
            severity="info",
            title="No answer was judged by two raters",
            what="How far thumbs can be trusted cannot be told from this log; the assumed agreement stands.",
            evidence=f"{count_of(history.votes, 'vote')} of {count_of(len(history.raters), 'rater')}.",
            rows=(),
            remedy="Show some answers to two users, or map the user.",
        )
    elif history.compared >= _FEW and history.kappa < 0.1:
        yield Finding(
            id="raters-disagree",
            severity="warning",
            title="Raters agree hardly more than by chance",
            what="Two users of the same answer say the same no more often than their habits make them.",
            evidence=f"Agreement beyond chance {history.kappa:.2f} over {history.compared:,} compared votes.",
            rows=(),
            remedy="Look whether thumbs are for the answer or for something else on the page.",
        )
    one_sided = [
        user for user, rater in history.raters.items() if rater.votes >= _FEW and rater.ups in (0, rater.votes)
    ]
    if one_sided:
        yield Finding(
            id="one-sided-raters",
            severity="info",
            title="Raters who always say the same",
            what="Their votes tell little, and count accordingly.",
            evidence=f"{count_of(len(one_sided), 'rater')} with at least {_FEW} votes, all up or all down.",
            rows=tuple(f"user {user}" for user in sorted(one_sided)),
            remedy="None is needed; exclude_users leaves them out altogether.",
        )


def _strength_findings(knowledge: Knowledge) -> Iterator[Finding]:
    against = [kind for kind, one in knowledge.strengths.items() if _contradicts(one)]
    if against:
        shown = ", ".join(f"{kind} {knowledge.strengths[kind].measured:.2f}" for kind in against)
        yield Finding(
            id="signals-against-thumbs",
            severity="warning",
            title="Signals that point against the thumbs",
            what="Where both are known the signal goes with the opposite thumb; it is given less weight or none.",
            evidence=f"Log-odds with the thumbs: {shown}.",
            rows=tuple(against),
            remedy="Look at what the signal means in your product; leave it out of the mapping where it is not what "
            "its name says.",
        )


def _contradicts(strength: Strength) -> bool:
    return strength.compared >= _FEW and strength.measured is not None and strength.measured < 0


def _record_findings(store: LogStore, made: int, conflicting: int) -> Iterator[Finding]:
    if not made:
        yield Finding(
            id="nothing-made",
            severity="error",
            title="No record was made",
            what="No signal of this log gives the least confidence that was asked for.",
            evidence="0 records; `dropped` counts why.",
            rows=(),
            remedy="Map more signals, or lower --min-confidence.",
        )
    if conflicting:
        yield Finding(
            id="conflicting-signals",
            severity="info",
            title="Answers whose signals point both ways",
            what="Their log-odds are added, so that they partly cancel.",
            evidence=f"{count_of(conflicting, 'answer')}.",
            rows=(),
            remedy="None is needed; meta holds each record's log-odds by signal.",
        )
    if store.renamed:
        yield Finding(
            id="answer-ids-reused",
            severity="warning",
            title="An answer_id that names several texts",
            what="Rows that name their answer only by such an id are taken for the first text.",
            evidence=f"{count_of(store.renamed, 'row')} with another text.",
            rows=(),
            remedy="Give each text an answer_id of its own.",
        )
