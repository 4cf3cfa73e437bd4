"""Pairs by a reward: of several completions of a prompt a better one over a worse one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from preftune.collect.best_of_n_figures import BestOfN, figures_of
from preftune.collect.candidates import GIVEN, SCORES, Candidate, Group, asked_prompt, drawn_group, given_group
from preftune.collect.generation import Generator, require_sampling, seed_of
from preftune.collect.writing import LeftOut, Note, Row, item_id, provenance, write_in_blocks
from preftune.data.records import Pair, PromptRecord
from preftune.errors import PreftuneError
from preftune.rewards.calling import Asked, Rewards
from preftune.rewards.combining import combine
from preftune.rollout.protocol import Sampling

KIND: Final = "best-of-n"
BLOCK: Final = 8
SAMPLING: Final = Sampling(512)
GIVEN_SCORES: Final = "given scores"

Pairing: TypeAlias = Literal["extremes", "random", "band"]
PAIRINGS: Final[tuple[Pairing, ...]] = ("extremes", "random", "band")


@dataclass(frozen=True)
class Choosing:
    """Which two completions of a prompt become a pair; of several that fit, ``seed`` draws one.

    ``extremes``  one with the highest reward over one with the lowest
    ``random``    one with the highest over any with less
    ``band``      any two whose rewards differ by ``low`` to ``high``

    Completions that the length cut are left aside unless ``keep_cut``.
    """

    pairing: Pairing = "extremes"
    low: float | None = None
    high: float | None = None
    keep_cut: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise PreftuneError(f"There is no pairing {self.pairing!r}.", mend=f"Known are {', '.join(PAIRINGS)}.")
        if self.pairing != "band" and (self.low is not None or self.high is not None):
            raise PreftuneError("Margins are given without a band.", mend="Add --pairing band, or leave them out.")
        low, high = self.low or 0.0, math.inf if self.high is None else self.high
        if self.pairing == "band" and not 0 <= low <= high:
            raise PreftuneError(f"The band goes from {low:g} to {high:g}.", mend="Give two margins, the lower first.")


def best_of_n(
    prompts: Sequence[PromptRecord],
    generator: Generator,
    rewards: Rewards,
    output: Path,
    *,
    n: int = 8,
    choosing: Choosing | None = None,
    reward_names: Sequence[str] | None = None,
    sampling: Sampling = SAMPLING,
    is_chat: bool = False,
    block: int = BLOCK,
    note: Note | None = None,
    done: Callable[[int], object] | None = None,
) -> BestOfN:
    """Appends to ``output`` a pair for each prompt: two of ``n`` completions of ``generator``, by ``rewards``.

    The weighted sum of the rewards decides; ``margin`` is its gap, and all scores are in ``meta``. Prompts of which no
    two completions differ in reward give no pair; they are listed beside the output. ``is_chat`` asks a text as a
    user's message. ``reward_names`` are how records name the rewards, where that is not by their short names: two
    reward models may share one. What a run made before is not made again.
    """
    require_sampling(sampling)
    if n < 2:
        raise PreftuneError(f"n is {n}.", mend="Two completions are the least to choose from.")
    choosing = choosing or Choosing()
    job = {
        "model": generator.name,
        "n": n,
        "rewards": _named(rewards, reward_names),
        "sampling": asdict(sampling),
        "is_chat": is_chat,
    }

    def groups(members: Sequence[tuple[str, PromptRecord]], number: int) -> list[Group | LeftOut]:
        asked = [asked_prompt(record, is_chat=is_chat) for _, record in members]
        drawn = generator.generate(asked, n, sampling, seed_of(choosing.seed, number))
        return [
            drawn_group(name, record, texts, is_chat=is_chat)
            for (name, record), texts in zip(members, drawn, strict=True)
        ]

    making = _Making(rewards, choosing, groups, _names(prompts), job, generator)
    return _made(prompts, making, output, block, note, done)


def best_of_given(
    prompts: Sequence[PromptRecord],
    rewards: Rewards | None,
    output: Path,
    *,
    choosing: Choosing | None = None,
    reward_names: Sequence[str] | None = None,
    block: int = 64,
    note: Note | None = None,
    done: Callable[[int], object] | None = None,
) -> BestOfN:
    """``best_of_n`` of the completions that rows bring along in a column ``completions``; nothing is drawn.

    Without ``rewards`` the scores decide that the rows have beside them. Rewards that count tokens count words here.
    """
    if not any(GIVEN in record.columns for record in prompts):
        mend = 'Give rows like {"prompt": ..., "completions": [...]}, or name a model that draws them.'
        raise PreftuneError("No row has completions.", mend=mend)

    def groups(members: Sequence[tuple[str, PromptRecord]], number: int) -> list[Group | LeftOut]:
        return [given_group(name, record) for name, record in members]

    job = {"model": None, "rewards": _named(rewards, reward_names)}
    making = _Making(rewards, choosing or Choosing(), groups, _names(prompts), job)
    return _made(prompts, making, output, block, note, done)


def _named(rewards: Rewards | None, names: Sequence[str] | None) -> list[str]:
    return list(names or (rewards.names if rewards is not None else (GIVEN_SCORES,)))


def _names(prompts: Sequence[PromptRecord]) -> tuple[str, ...]:
    """The other columns of all rows: a block whose rows lack one is no data set without it."""
    names = dict.fromkeys(name for record in prompts for name in record.columns)
    return tuple(name for name in names if name not in (GIVEN, SCORES))


def _made(
    prompts: Sequence[PromptRecord],
    making: _Making,
    output: Path,
    block: int,
    note: Note | None,
    done: Callable[[int], object] | None,
) -> BestOfN:
    items = {item_id(making.whole_job, record): record for record in prompts}
    written = write_in_blocks(output, items, making.pairs, block=block, note=note, done=done)
    return figures_of(written, len(items), tuple(making.job["rewards"]), making.choosing.seed)


# --- a block --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Making:
    """The job: where completions come from, what scores them, and which two become a pair."""

    rewards: Rewards | None
    choosing: Choosing
    groups: Callable[[Sequence[tuple[str, PromptRecord]], int], list[Group | LeftOut]]
    columns: tuple[str, ...]
    job: dict[str, Any]
    generator: Generator | None = None
    proven: set[str] = field(default_factory=set)  # rewards that have worked: one bad prompt ends no run

    @property
    def whole_job(self) -> dict[str, Any]:
        """What decides which records come out."""
        weights = None if self.rewards is None else self.rewards.weights
        return {"kind": KIND, **self.job, "weights": weights, **asdict(self.choosing)}

    def pairs(self, members: Sequence[tuple[str, PromptRecord]], number: int) -> list[Row | LeftOut]:
        """The pair of each member, or why there is none."""
        spent = None if self.generator is None else self.generator.cost
        found = self.groups(members, number)
        groups = [one for one in found if isinstance(one, Group)]
        scored = dict(zip([group.name for group in groups], self._scored(groups), strict=True))
        now = None if self.generator is None else self.generator.cost
        cost = None if spent is None or now is None else (now - spent) / len(members)
        return [one if isinstance(one, LeftOut) else self._pair(one, scored[one.name], cost) for one in found]

    def _scored(self, groups: Sequence[Group]) -> list[_Scores]:
        """The scores of each group's completions, and what each reward said."""
        if self.rewards is None:
            return [_Scores(np.array([_or_nan(one.score) for one in group.candidates])) for group in groups]
        if not groups:
            return []
        table = self.rewards.score(_asked(groups, self.columns), self.proven)
        self.proven.update(name for name, bad in zip(table.names, table.failed.T, strict=True) if not bad.all())
        of = [number for number, group in enumerate(groups) for _ in group.candidates]
        sums = combine(table.values, self.rewards.weights, of, failed=table.failed)
        ends = np.cumsum([len(group.candidates) for group in groups])
        parts = zip(np.split(sums, ends[:-1]), np.split(table.values, ends[:-1]), strict=True)
        return [_Scores(sums, dict(zip(table.names, values.T, strict=True))) for sums, values in parts]

    def _pair(self, group: Group, scores: _Scores, cost: float | None) -> Row | LeftOut:
        usable = [self.choosing.keep_cut or one.finished for one in group.candidates]
        counted = np.where(usable, scores.sums, np.nan)
        about = _about(group, counted, scores)
        best, worst, why = chosen_two(counted, self.choosing, group.name)
        if why is not None:
            texts = [one.text for one in group.candidates]
            return LeftOut(group.name, *why, {"prompt": group.prompt, "completions": texts, **about})
        about_source: dict[str, Any] = {"sampling": self.job["sampling"]} if "sampling" in self.job else {}
        models = {side: group.candidates[i].model for side, i in (("chosen", best), ("rejected", worst))}
        if any(models.values()):
            about_source["models"] = models
        source = provenance(
            KIND,
            model=None if self.generator is None else self.generator.name,
            cost=cost,
            rewards=self.job["rewards"],
            pairing=self.choosing.pairing,
            n=group.asked,
            seed=self.choosing.seed,
            **about_source,
        )
        fields = {
            "id": group.name,
            "prompt": group.prompt,
            "chosen": group.written(group.candidates[best].text),
            "rejected": group.written(group.candidates[worst].text),
            "margin": float(counted[best] - counted[worst]),
            "source": source,
            "meta": {"prompt_id": group.record.id, "chosen": best, "rejected": worst, **about},
        }
        return Pair.model_validate(fields).as_row()


@dataclass(frozen=True)
class _Scores:
    """The weighted sums of a group's completions, and the rewards they were made of."""

    sums: np.ndarray
    by_reward: dict[str, np.ndarray] = field(default_factory=dict)


def chosen_two(
    scores: Sequence[float] | np.ndarray, choosing: Choosing, name: str
) -> tuple[int, int, tuple[str, str] | None]:
    """The numbers of the better and the worse completion; where there are none, why.

    NaN scores take no part. ``name``, an id of hexadecimal digits, and the seed decide among those that fit.
    """
    values = np.asarray(scores, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        mend = f"{len(known)} of {len(values)} completions have a score: allow longer ones, or mend the reward."
        return 0, 0, ("too-few-scores", mend)
    spread = values[known].max() - values[known].min()
    if spread == 0:
        return 0, 0, ("zero-spread", "All completions have the same reward; raise --n or --temperature.")
    fit = _fitting(values, known, choosing)
    if not fit:
        return 0, 0, ("outside-band", f"No two rewards differ by what is asked; the widest gap is {spread:.4g}.")
    drawn = np.random.default_rng([choosing.seed % 2**64, int(name, 16)]).integers(len(fit))
    return *fit[drawn], None


def _fitting(values: np.ndarray, known: np.ndarray, choosing: Choosing) -> list[tuple[int, int]]:
    """The pairs, better completion first, that the choosing allows; ties are none."""
    found: list[float] = values.tolist()
    best, worst = max(found[i] for i in known), min(found[i] for i in known)
    low, high = choosing.low or 0.0, math.inf if choosing.high is None else choosing.high
    tests: dict[Pairing, Callable[[float, float], bool]] = {
        "extremes": lambda a, b: a == best and b == worst,
        "random": lambda a, b: a == best,
        "band": lambda a, b: low <= a - b <= high,
    }
    is_fit = tests[choosing.pairing]
    return [(int(i), int(j)) for i in known for j in known if found[i] > found[j] and is_fit(found[i], found[j])]


def _asked(groups: Sequence[Group], names: Sequence[str]) -> Asked:
    """The completions of all groups as rewards are asked about them."""
    each: list[tuple[Group, int, Candidate]] = [
        (group, place, one) for group in groups for place, one in enumerate(group.candidates)
    ]
    columns = [group.columns for group, _, _ in each]
    return Asked(
        ids=[f"{group.record.id}#{place}" for group, place, _ in each],
        prompts=[group.prompt for group, _, _ in each],
        completions=[group.written(one.text) for group, _, one in each],
        completion_ids=[one.token_ids for _, _, one in each],
        columns={name: [row.get(name) for row in columns] for name in names},
    )


def _about(group: Group, counted: np.ndarray, scores: _Scores) -> dict[str, Any]:
    """What is kept of the scores, in the order of the completions; null where there is none."""
    about: dict[str, Any] = {"n": group.asked, "scores": [_or_none(value) for value in counted]}
    if len(scores.by_reward) > 1:
        about["rewards"] = {name: [_or_none(value) for value in column] for name, column in scores.by_reward.items()}
    if cut := sum(not one.finished for one in group.candidates):
        about["cut_off"] = cut
    models = [one.model for one in group.candidates]
    return about | ({"models": models} if len(set(models)) > 1 else {})


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
