"""Models pair by pair and prompt by prompt: against their start, and against the first of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from preftune.evaluate.diversity import diversity_changes
from preftune.evaluate.gathering import Gathered
from preftune.evaluate.harness import task_changes
from preftune.evaluate.measures import Measure, paired_change
from preftune.evaluate.not_taken import CannotTake
from preftune.evaluate.preferences import PREFERENCE, RANKING, PairScores, implicit_rewards, reward_measures
from preftune.evaluate.retention import RETENTION, retention_change
from preftune.evaluate.rewarding import Rewarding, reward_changes


def implicit_preferences(gathered: Mapping[str, Gathered], beta: float) -> None:
    """Adds the implicit reward's measures to whole models whose start answered too and reads the same tokens."""
    for one in gathered.values():
        start = gathered.get(one.entrant.start or "")
        if PREFERENCE in one.measures or start is None or one.entrant.prompting is not None:
            continue
        if (places := shared_pairs(start, one)) is None:
            continue
        before, after = places
        if not np.array_equal(before.lengths, after.lengths):
            continue
        rewards = implicit_rewards(after, before.log_probs, beta)
        one.measures = reward_measures(rewards, after.prompts) | one.measures


def changes_from_start(
    gathered: Mapping[str, Gathered], rewarding: Rewarding | None, seed: int
) -> dict[str, dict[str, Measure]]:
    """Of each who has a start that answered: after minus before on the same pairs, prompts and passages."""
    found: dict[str, dict[str, Measure]] = {}
    for name, one in gathered.items():
        start = gathered.get(one.entrant.start or "")
        if start is not None:
            found[name] = _changes(start, one, seed) | (
                reward_changes(rewarding, start, one, seed) if rewarding else {}
            )
    return found


def differences_of(models: Sequence[Gathered]) -> dict[str, Measure]:
    """Of all but the first model how much oftener the preferred answer is likelier than under the first."""
    found = {}
    for one in models[1:]:
        places = shared_pairs(models[0], one)
        if places is not None:
            found[one.entrant.name] = _ranking_change(
                *places, "Difference of how often the preferred answer is likelier"
            )
    return found


def shared_pairs(first: Gathered, second: Gathered) -> tuple[PairScores, PairScores] | None:
    """Both's scores of the pairs that both could use; None where they share none."""
    if first.scores is None or second.scores is None:
        return None
    place = {name: number for number, name in enumerate(second.ids)}
    shared = [(a, place[name]) for a, name in enumerate(first.ids) if name in place]
    if not shared:
        return None
    ours, theirs = (list(numbers) for numbers in zip(*shared, strict=True))
    return _part(first.scores, ours), _part(second.scores, theirs)


def pair_changes(start: Gathered, one: Gathered) -> dict[str, Measure]:
    """After minus before of the share of pairs ranked right and of the answers' length, where both have them."""
    changes: dict[str, Measure] = {}
    if (places := shared_pairs(start, one)) is not None:
        changes[RANKING] = _ranking_change(*places, "Change of how often the preferred answer is likelier")
    if both := _answered_by_both(start, one):
        changes["mean_length"] = _length_change(start, one, both)
    return changes


def _changes(start: Gathered, one: Gathered, seed: int) -> dict[str, Measure]:
    changes = pair_changes(start, one)
    if both := _answered_by_both(start, one):
        before, after = ([each.answers.texts[number] for number in both] for each in (start, one))
        changes |= diversity_changes(before, after, seed)
    if start.losses is not None and one.losses is not None:
        with suppress(CannotTake):
            changes[RETENTION] = retention_change(start.losses, one.losses)
    return changes | task_changes(start.tasks, one.tasks)


def _answered_by_both(start: Gathered, one: Gathered) -> list[int]:
    """The numbers of these prompts."""
    met = enumerate(zip(start.answers.texts, one.answers.texts, strict=True))
    return [number for number, (before, after) in met if before and after]


def _length_change(start: Gathered, one: Gathered, prompts: Sequence[int]) -> Measure:
    before, after = (
        [float(np.mean([len(c.tokens) for c in each.answers.completions[number]])) for number in prompts]
        for each in (start, one)
    )
    return paired_change(before, after, "tokens", "Change of answer length")


def _ranking_change(before: PairScores, after: PairScores, title: str) -> Measure:
    return paired_change(before.ranks_right(), after.ranks_right(), "share", title, before.prompts)


def _part(scores: PairScores, members: list[int]) -> PairScores:
    return PairScores(scores.log_probs[members], scores.lengths[members], [scores.prompts[i] for i in members])
