"""What each signal says of an answer, in log-odds: what is assumed, its medians, and what the log shows of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from preftune.collect.log_mapping import Assumptions
from preftune.collect.log_store import LogStore
from preftune.collect.rater_history import RaterHistory, UserVote, rater_history

THUMBS: Final = ("thumbs_up", "thumbs_down")
WEAK: Final = ("copy", "edit", "regenerate", "click", "dwell", "session")
LEAST_OF_A_MEDIAN: Final = 20  # dwell times or sessions in a slice
_ASSUMED_WEIGHT: Final = 40  # thumbed answers that weigh as much as the assumed accuracy
_MOST_ACCURATE: Final = 0.9
_COPIES_KNOWN: Final = 10  # answers seen, from which on a user's habit of copying counts
_HABIT_RANGE: Final = (0.5, 0.98)  # that someone copies rarely makes their copies no better than balanced votes


class Strength(NamedTuple):
    """The log-odds that a signal of this kind gives, and what they rest on.

    ``measured`` are the log-odds that the answers with a thumb beside it show, ``compared`` of them.
    """

    log_odds: float
    assumed: float
    measured: float | None
    compared: int

    @property
    def accuracy(self) -> float:
        """The probability that the signal points the right way."""
        return sigmoid(self.log_odds)


class Medians(NamedTuple):
    """Medians by key, of at least ``LEAST_OF_A_MEDIAN`` values each."""

    values: Mapping[Any, float]

    def sign(self, value: float, *keys: Any) -> int | None:
        """1 above, -1 below, 0 at the median of the first key that has one; None where none has."""
        median = next((self.values[key] for key in keys if key in self.values), None)
        return None if median is None else (value > median) - (value < median)


@dataclass(frozen=True)
class SessionLengths:
    """Which sessions were longer than their slice's median; ``measure`` says what length is."""

    measure: str
    sessions: int
    medians: Medians


def logit(probability: float) -> float:
    """Log-odds of a probability strictly between 0 and 1."""
    return math.log(probability / (1 - probability))


def sigmoid(log_odds: float) -> float:
    """The probability of log-odds, without overflow."""
    return 1 / (1 + math.exp(-log_odds)) if log_odds >= 0 else 1 - 1 / (1 + math.exp(log_odds))


def thumbs_history(store: LogStore, assumptions: Assumptions) -> RaterHistory:
    """The raters of the log, each user's last thumb on an answer counted."""
    return rater_history(
        _last_thumbs(store),
        thumbs_agreement=assumptions.thumbs_agreement,
        history_votes=assumptions.history_votes,
    )


def copy_habits(store: LogStore) -> dict[str, float]:
    """How often a user copies what they see, of those who saw enough; empty without impressions by user."""
    query = (
        "SELECT user, COUNT(DISTINCT CASE WHEN kind = 'copy' THEN answer END) AS copied,"
        " COUNT(DISTINCT CASE WHEN kind = 'impression' THEN answer END) AS seen"
        " FROM events WHERE user IS NOT NULL AND kind IN ('copy', 'impression') GROUP BY user HAVING copied > 0"
    )
    return {user: min(copied / seen, 1.0) for user, copied, seen in store.rows(query) if seen >= _COPIES_KNOWN}


def copy_log_odds(strength: Strength, habit: float | None, relative_competence: float) -> float:
    """What a copy by this user says, by the model of ``rater_history``: little where they copy whatever they see."""
    competence = min((2 * strength.accuracy - 1) * relative_competence, 0.95)
    low, high = _HABIT_RANGE
    by_habit = (1 - competence) * min(max(habit or low, low), high)
    return math.log((competence + by_habit) / by_habit)


def dwell_medians(store: LogStore, longest: float) -> Medians:
    """Median dwell by slice and answer length, and by slice alone; longer answers take longer to read.

    Lengths are taken together between powers of two of words. Dwells above ``longest`` seconds are left out.
    """
    store.sql.create_function("length_bin", 1, length_bin, deterministic=True)
    where = f"FROM events e JOIN answers a ON a.id = e.answer WHERE e.kind = 'dwell' AND e.seconds <= {longest:.6f}"
    by_slice = _medians(store, "e.slice", "e.seconds", where)
    by_length = _medians(store, "e.slice, length_bin(a.words)", "e.seconds", where)
    return Medians(by_slice | by_length)


def length_bin(words: int) -> int:
    """Answers of about one length: 0, 1, 2-3, 4-7, 8-15 words and so on."""
    return words.bit_length()


def session_lengths(store: LogStore) -> SessionLengths:
    """The length of each session, in seconds where the log has them, else in answers; kept in the store."""
    store.sql.execute(
        "CREATE TABLE sessions AS SELECT session, MIN(slice) AS slice, COUNT(DISTINCT answer) AS answers,"
        " MAX(CASE WHEN kind = 'session_end' THEN seconds END) AS seconds, MAX(at) - MIN(at) AS span"
        " FROM events WHERE session IS NOT NULL GROUP BY session"
    )
    sessions, timed = store.rows("SELECT COUNT(*), COUNT(seconds) FROM sessions").fetchone()
    column, measure = ("answers", "answers")
    if timed * 2 > sessions:
        column, measure = "seconds", "seconds, as its end says"
    elif store.is_timed:
        column, measure = "span", "seconds from its first to its last event"
    store.sql.execute(f"CREATE TABLE session_sizes AS SELECT session, slice, answers, {column} AS size FROM sessions")
    store.sql.execute("CREATE INDEX named_session ON session_sizes (session)")
    medians = _medians(store, "slice", "size", "FROM session_sizes WHERE size IS NOT NULL")
    return SessionLengths(measure, sessions, Medians(medians))


def session_signs(store: LogStore, lengths: SessionLengths, prompt: int) -> Iterator[tuple[int, int | None, int]]:
    """Of each answer to the prompt and each of its sessions: whether that was long, and how many answers it has."""
    rows = store.rows(
        "SELECT DISTINCT e.answer, s.session, s.slice, s.answers, s.size FROM answers a CROSS JOIN events e"
        " ON e.answer = a.id JOIN session_sizes s ON s.session = e.session WHERE a.prompt = ? AND s.size IS NOT NULL",
        (prompt,),
    )
    return ((answer, lengths.medians.sign(size, (name,)), answers) for answer, _, name, answers, size in rows)


def assumed_strengths(assumptions: Assumptions) -> dict[str, Strength]:
    """What weak signals say before the log was looked at."""
    logs = {kind: logit(assumptions.accuracy(kind)) for kind in WEAK}
    return {kind: Strength(value, value, None, 0) for kind, value in logs.items()}


def measured_strengths(assumed: Mapping[str, Strength], answers: Iterable[Mapping[str, float]]) -> dict[str, Strength]:
    """The strengths with what answers show that have a thumb beside the weak signal.

    Each of ``answers`` maps kinds to log-odds, whose signs count; a thumb is either of THUMBS. That thumbs err too
    makes the measured figure smaller than the true one, which is the cautious side.
    """
    tables: Counter[tuple[str, bool, bool]] = Counter()  # kind, is for the answer, thumb is up
    thumbs: Counter[bool] = Counter()
    for kinds in answers:
        verdict = sum(kinds.get(thumb, 0.0) for thumb in THUMBS)
        if not verdict:
            continue
        thumbs[verdict > 0] += 1
        tables.update((kind, kinds[kind] > 0, verdict > 0) for kind in WEAK if kinds.get(kind))
    return {kind: _measured(kind, strength, tables, thumbs) for kind, strength in assumed.items()}


def _measured(
    kind: str, strength: Strength, tables: Mapping[tuple[str, bool, bool], int], thumbs: Mapping[bool, int]
) -> Strength:
    """Log-ratios of up to down with the signal against without regard to it, drawn to the assumed one."""
    overall = math.log((thumbs[True] + 0.5) / (thumbs[False] + 0.5))
    total, compared = 0.0, 0
    for is_for, direction in ((True, 1), (False, -1)):
        ups, downs = tables[kind, is_for, True], tables[kind, is_for, False]
        total += (ups + downs) * direction * (math.log((ups + 0.5) / (downs + 0.5)) - overall)
        compared += ups + downs
    if not compared:
        return strength
    measured = total / compared
    weight = compared / (compared + _ASSUMED_WEIGHT)
    log_odds = weight * measured + (1 - weight) * strength.assumed
    return Strength(min(max(log_odds, 0.0), logit(_MOST_ACCURATE)), strength.assumed, measured, compared)


def _last_thumbs(store: LogStore) -> Iterator[UserVote]:
    query = (
        "SELECT answer, user, kind, at, n FROM events WHERE kind IN ('thumbs_up', 'thumbs_down')"
        " ORDER BY answer, user, at, n"
    )
    waiting: UserVote | None = None
    for answer, user, kind, _, _ in store.rows(query):
        vote = UserVote(answer, user, kind == "thumbs_up")
        if waiting is not None and (user is None or vote[:2] != waiting[:2]):
            yield waiting
        waiting = vote
    if waiting is not None:
        yield waiting


def _medians(store: LogStore, keys: str, value: str, where: str) -> dict[Any, float]:
    """Medians by the columns ``keys``, of those that occur often enough."""
    groups = store.rows(f"SELECT {keys}, COUNT(*) {where} GROUP BY {keys}").fetchall()
    names = keys.split(", ")
    condition = " AND ".join(f"{name} IS ?" for name in names)
    found: dict[Any, float] = {}
    for *key, count in groups:
        if count < LEAST_OF_A_MEDIAN:
            continue
        middle = store.rows(
            f"SELECT AVG(v) FROM (SELECT {value} AS v {where} AND {condition} ORDER BY v LIMIT ? OFFSET ?)",
            (*key, 2 - count % 2, (count - 1) // 2),
        )
        found[tuple(key)] = middle.fetchone()[0]
    return found
