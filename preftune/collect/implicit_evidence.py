"""From the events about one prompt to the evidence about its answers, signal by signal."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from preftune.collect.implicit_clicks import Exposure, Places, exposures_of
from preftune.collect.implicit_signals import (
    Medians,
    SessionLengths,
    Strength,
    copy_log_odds,
    length_bin,
    logit,
    session_signs,
    sigmoid,
)
from preftune.collect.log_mapping import Assumptions
from preftune.collect.log_store import LogStore, StoredEvent
from preftune.collect.position_bias import evidence_above, probability_above
from preftune.collect.rater_history import RaterHistory
from preftune.collect.word_edits import edit_share, says_the_same

# What became of the events of a kind, for the report.
USED: Final = "used"
SUPERSEDED: Final = "a later one of the same user"
REPEATED: Final = "the same again"
TINY: Final = "an edit too small to count"
NO_SECOND: Final = "used for the first answer only: no second one"
NO_MEDIAN: Final = "too few for a median"
AT_MEDIAN: Final = "at the median"
IDLE: Final = "too long to be reading"
UNUSED: Final = "not used"
SHOWN: Final = "counted as shown"
OFF_MEDIAN: Final = "answers in sessions off the median"
ENDS: Final = "used for the session's length"
_OCCASIONS: Final[tuple[Literal["request", "session"], ...]] = ("request", "session")


@dataclass(frozen=True)
class Knowledge:
    """What the whole log says: raters, habits, medians, places, and the strength of each weak signal."""

    assumptions: Assumptions
    history: RaterHistory
    habits: Mapping[str, float]
    dwell: Medians
    sessions: SessionLengths
    places: Places
    strengths: Mapping[str, Strength]


class Joined(NamedTuple):
    """A signal that joins two answers: the winner was preferred to the loser; ``share`` is an edit's size."""

    winner: int
    loser: int
    kind: str
    log_odds: float
    share: float | None = None


@dataclass
class PromptEvidence:
    """The evidence about the answers to one prompt.

    ``values`` are log-odds by answer and kind, positive for a good answer; ``counts`` the signals behind them.
    """

    prompt: int
    values: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    counts: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    joined: list[Joined] = field(default_factory=list)
    exposures: dict[int, Exposure] = field(default_factory=dict)

    def add(self, answer: int, kind: str, log_odds: float) -> None:
        """One more signal."""
        values = self.values[answer]
        values[kind] = values.get(kind, 0.0) + log_odds
        self.counts[answer][kind] += 1


def evidence_by_prompt(
    store: LogStore, knowledge: Knowledge, tally: Counter[tuple[str, str]] | None = None
) -> Iterator[PromptEvidence]:
    """The evidence of each prompt in turn; ``tally`` counts by kind what became of the events."""
    counted = Counter() if tally is None else tally
    for prompt in store.prompts():
        yield _evidence(prompt, store, knowledge, counted)


def count_the_rest(store: LogStore, places: Places, tally: Counter[tuple[str, str]]) -> None:
    """What became of impressions, clicks and the ends of sessions, which are used all together."""
    counts = dict(store.rows("SELECT kind, COUNT(*) FROM events GROUP BY kind"))
    tally["impression", SHOWN] += counts.get("impression", 0)
    tally["click", UNUSED if places.use == "unused" else USED] += counts.get("click", 0)
    tally["session_end", ENDS] += counts.get("session_end", 0)


def click_log_odds(above: float, strength: Strength) -> float:
    """What clicks say, of log-odds ``above`` that the answer is clicked more: even a sure click errs at times."""
    accuracy, more = strength.accuracy, sigmoid(above)
    return logit(accuracy * more + (1 - accuracy) * (1 - more))


def click_pair_log_odds(first: Exposure, second: Exposure, knowledge: Knowledge) -> float:
    """What the clicks on two answers say of the first against the second."""
    probability = probability_above(first.clicks, first.seen, second.clicks, second.seen, knowledge.places.rate)
    above = logit(min(max(probability, 1e-12), 1 - 1e-12))
    return click_log_odds(above, knowledge.strengths["click"])


def _evidence(prompt: int, store: LogStore, knowledge: Knowledge, tally: Counter[tuple[str, str]]) -> PromptEvidence:
    evidence, events = PromptEvidence(prompt), store.judging(prompt)
    by_kind: dict[str, list[StoredEvent]] = defaultdict(list)
    for event in events:
        by_kind[event.kind].append(event)
    thumbs = [event for event in events if event.kind in ("thumbs_up", "thumbs_down")]
    for event in _last_of_each(thumbs, tally):
        evidence.add(event.answer, event.kind, knowledge.history.of(event.user).log_ratio(event.kind == "thumbs_up"))
    _add_copies(evidence, by_kind["copy"], knowledge, tally)
    _add_dwells(evidence, by_kind["dwell"], knowledge, tally)
    _add_edits(evidence, by_kind["edit"], store, knowledge, tally)
    _add_regenerations(evidence, by_kind["regenerate"], store, knowledge, tally)
    _add_clicks(evidence, store, knowledge)
    _add_sessions(evidence, store, knowledge, tally)
    return evidence


def _add_copies(
    evidence: PromptEvidence, events: list[StoredEvent], knowledge: Knowledge, tally: Counter[tuple[str, str]]
) -> None:
    for event in _first_of_each(events, tally):
        habit = knowledge.habits.get(event.user) if event.user is not None else None
        competence = knowledge.history.relative_competence(event.user)
        evidence.add(event.answer, "copy", copy_log_odds(knowledge.strengths["copy"], habit, competence))


def _add_dwells(
    evidence: PromptEvidence, events: list[StoredEvent], knowledge: Knowledge, tally: Counter[tuple[str, str]]
) -> None:
    reading = [event for event in events if (event.seconds or 0.0) <= knowledge.assumptions.longest_dwell]
    tally["dwell", IDLE] += len(events) - len(reading)
    for event in _last_of_each(reading, tally):
        keys = (event.slice, length_bin(event.words)), (event.slice,)
        sign = knowledge.dwell.sign(event.seconds or 0.0, *keys)
        if sign:
            evidence.add(event.answer, "dwell", sign * knowledge.strengths["dwell"].log_odds)
            continue
        tally["dwell", USED] -= 1
        tally["dwell", NO_MEDIAN if sign is None else AT_MEDIAN] += 1


def _add_edits(
    evidence: PromptEvidence,
    events: list[StoredEvent],
    store: LogStore,
    knowledge: Knowledge,
    tally: Counter[tuple[str, str]],
) -> None:
    """The text after an edit won over the text before; of several edits by one user the last one counts."""
    for event in _last_of_each(events, tally):
        share = None if event.edited is None else _size_of_edit(event.answer, event.edited, store)
        if event.edited is None or share is None or share < knowledge.assumptions.tiny_edit:
            tally["edit", USED] -= 1
            tally["edit", TINY] += 1
            continue
        log_odds = knowledge.strengths["edit"].log_odds
        evidence.add(event.answer, "edit", -log_odds)
        evidence.add(event.edited, "edit", log_odds)
        evidence.joined.append(Joined(event.edited, event.answer, "edit", log_odds, share))


def _size_of_edit(before: int, after: int, store: LogStore) -> float | None:
    """The share of words changed; None where the text says the same."""
    texts = store.content("answers", before), store.content("answers", after)
    return None if before == after or says_the_same(*texts) else edit_share(*texts)


def _add_regenerations(
    evidence: PromptEvidence,
    regenerations: list[StoredEvent],
    store: LogStore,
    knowledge: Knowledge,
    tally: Counter[tuple[str, str]],
) -> None:
    """A regenerated answer lost to the last one of its request or session, the one that was kept."""
    thrown = {event.answer for event in regenerations}
    log_odds = knowledge.strengths["regenerate"].log_odds
    for event in _first_of_each(regenerations, tally):
        evidence.add(event.answer, "regenerate", -log_odds)
        kept = _kept(event, thrown, store, evidence.prompt)
        if kept is None:
            tally["regenerate", USED] -= 1
            tally["regenerate", NO_SECOND] += 1
        else:
            evidence.joined.append(Joined(kept, event.answer, "regenerate", log_odds))


def _kept(regeneration: StoredEvent, thrown: set[int], store: LogStore, prompt: int) -> int | None:
    """The answer that came after the regenerated one: the last that was not thrown away itself, else the last."""
    for occasion in _OCCASIONS:
        beside = store.answers_beside(regeneration, occasion, prompt)
        later = beside[beside.index(regeneration.answer) + 1 :] if beside else []
        if later:
            return next((answer for answer in reversed(later) if answer not in thrown), later[-1])
    return None


def _add_clicks(evidence: PromptEvidence, store: LogStore, knowledge: Knowledge) -> None:
    evidence.exposures = exposures_of(store, knowledge.places, evidence.prompt)
    rate = knowledge.places.rate
    total_clicks = sum(one.clicks for one in evidence.exposures.values())
    total_seen = math.fsum(one.seen for one in evidence.exposures.values())
    for answer, one in evidence.exposures.items():
        # The other answers of the prompt are the measure, drawn to the log's rate where they are few.
        reference = (total_clicks - one.clicks + 1) / (total_seen - one.seen + 1 / rate)
        value = click_log_odds(evidence_above(one.clicks, one.seen, reference, rate), knowledge.strengths["click"])
        evidence.values[answer]["click"] = value
        evidence.counts[answer]["click"] += one.clicks
        evidence.counts[answer]["shown"] += one.shown


def _add_sessions(
    evidence: PromptEvidence, store: LogStore, knowledge: Knowledge, tally: Counter[tuple[str, str]]
) -> None:
    """A session's one piece of evidence is shared out among its answers: they are not independent of each other."""
    strength = knowledge.strengths["session"].log_odds
    if not strength or not knowledge.sessions.medians.values:
        return
    for answer, sign, answers in session_signs(store, knowledge.sessions, evidence.prompt):
        if sign:
            evidence.add(answer, "session", sign * strength / answers)
            tally["session", OFF_MEDIAN] += 1


def _last_of_each(events: Iterable[StoredEvent], tally: Counter[tuple[str, str]]) -> list[StoredEvent]:
    """Each user's last event on an answer; of unknown users all."""
    last: dict[tuple[int, str | int], StoredEvent] = {}
    for event in events:
        key = (event.answer, event.n if event.user is None else event.user)
        if key in last:
            tally[last[key].kind, SUPERSEDED] += 1
        last[key] = event
    for event in last.values():
        tally[event.kind, USED] += 1
    return list(last.values())


def _first_of_each(events: Iterable[StoredEvent], tally: Counter[tuple[str, str]]) -> list[StoredEvent]:
    """Each user's first event on an answer, whose repeats say nothing more; of unknown users one a session."""
    first: dict[tuple[int, str | None], StoredEvent] = {}
    for event in events:
        key = (event.answer, event.user or event.session or event.request or str(event.n))
        if key in first:
            tally[event.kind, REPEATED] += 1
        else:
            first[key] = event
            tally[event.kind, USED] += 1
    return list(first.values())
