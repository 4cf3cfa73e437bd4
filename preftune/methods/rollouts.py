"""Prompts to judged completions: what an online method reads, draws, and is told by its rewards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from preftune.data.tokens import TokenIds, TokenPrompt
from preftune.methods.context import Context
from preftune.methods.experience import Experience
from preftune.methods.online_settings import OnlineConfig
from preftune.rewards.calling import Asked, Content, Failure, Rewards
from preftune.rollout.protocol import Drawn, Sampler, Sampling


@dataclass(frozen=True)
class Rollout:
    """A completion as drawn; ``group`` numbers its prompt among those drawn for at the same time."""

    id: str
    group: int
    prompt: TokenIds
    drawn: Drawn
    text: str

    def experience(self) -> Experience:
        """The completion as something to learn from, knowing only what it was drawn with."""
        completion = np.asarray(self.drawn.tokens, dtype=self.prompt.dtype)
        return Experience(
            self.id, self.group, self.prompt, completion, self.drawn.finished, {"sampled": self.drawn.log_probs}
        )


@dataclass(frozen=True)
class Judged:
    """Completions, group after group, with what each reward says of them.

    ``values`` are NaN where a reward does not apply or failed, and ``failed`` is True where it failed.
    """

    rollouts: Sequence[Rollout]
    names: tuple[str, ...]
    values: Float[np.ndarray, "samples rewards"]
    failed: Bool[np.ndarray, "samples rewards"]

    @property
    def groups(self) -> np.ndarray:
        """The group of each completion."""
        return np.array([one.group for one in self.rollouts], dtype=np.int64)

    @property
    def n_groups(self) -> int:
        """How many groups there are."""
        return len(set(self.groups.tolist()))

    def only(self, groups: Collection[int]) -> Judged:
        """These groups, numbered anew in their order."""
        chosen = sorted(groups)
        number = {group: i for i, group in enumerate(chosen)}
        places = [i for i, one in enumerate(self.rollouts) if one.group in number]
        rollouts = [replace(self.rollouts[i], group=number[self.rollouts[i].group]) for i in places]
        return Judged(rollouts, self.names, self.values[places], self.failed[places])

    def first(self, n: int) -> Judged:
        """The first ``n`` groups."""
        return self.only(sorted(set(self.groups.tolist()))[:n])

    def __add__(self, other: Judged) -> Judged:
        """The groups of both, the other's numbered after these."""
        begin = max(self.groups, default=-1) + 1
        later = [replace(one, group=begin + one.group) for one in other.rollouts]
        return Judged(
            [*self.rollouts, *later],
            self.names,
            np.concatenate([self.values, other.values]),
            np.concatenate([self.failed, other.failed]),
        )


@dataclass(frozen=True)
class Collector:
    """Draws completions and has them judged; ``prompts`` are those of training or those held out."""

    context: Context[Any]
    prompts: Sequence[TokenPrompt]
    rewards: Rewards
    tokenizer: Any
    _proven: set[str] = field(default_factory=set)  # the rewards that have worked: one bad prompt ends no run

    def collect(
        self, sampler: Sampler, numbers: Sequence[int], n: int, seed: Sequence[int], sampling: Sampling | None = None
    ) -> Judged:
        """``n`` completions of each of the prompts, judged; draws depend on ``seed`` alone."""
        config: OnlineConfig = self.context.config
        asked = [self.prompts[number] for number in numbers]
        place = int(np.random.SeedSequence([*seed, self.context.accelerator.process_index]).generate_state(1)[0])
        with self.context.reporter.progress("drawing completions", len(asked) * n) as bar:
            drawn = sampler.sample(
                [prompt.prompt.tolist() for prompt in asked], n, sampling or config.sampling, place, bar.advance
            )
        rollouts = [
            Rollout(f"{prompt.id}#{i}", group, prompt.prompt, one, self._text(one))
            for group, (prompt, several) in enumerate(zip(asked, drawn, strict=True))
            for i, one in enumerate(several)
        ]
        return self._judge(rollouts, asked)

    def judged_by(self, rewards: Rewards, rollouts: Sequence[Rollout]) -> Judged:
        """The same completions of the first prompts, group by group, as other rewards see them."""
        return self._judge(list(rollouts), self.prompts, rewards)

    def _text(self, drawn: Drawn) -> str:
        return self.tokenizer.decode(drawn.tokens, skip_special_tokens=True)

    def _judge(self, rollouts: list[Rollout], prompts: Sequence[TokenPrompt], rewards: Rewards | None = None) -> Judged:
        of = [prompts[one.group] for one in rollouts]
        asked = Asked(
            ids=[one.id for one in rollouts],
            prompts=[prompt.content for prompt in of],
            completions=[_like(prompt.content, one.text) for one, prompt in zip(rollouts, of, strict=True)],
            completion_ids=[one.drawn.tokens for one in rollouts],
            columns=_columns(of),
        )
        with self.context.reporter.progress("asking the rewards", len(rollouts)) as bar:
            table = (rewards or self.rewards).score(asked, self._proven)
            bar.advance(len(rollouts))
        self._proven.update(name for name, bad in zip(table.names, table.failed.T, strict=True) if not bad.all())
        self._tell(table.failures, len(rollouts))
        return Judged(rollouts, table.names, table.values, table.failed)

    def _tell(self, failures: Sequence[Failure], n: int) -> None:
        if failures:
            first = failures[0]
            count = sum(one.reward == first.reward for one in failures)
            others = f", {len(failures) - count} from others" if count < len(failures) else ""
            self.context.reporter.note(
                f"{count} of {n} completions got no reward from {first.reward}{others}; "
                f"the first, {first.sample}: {first.reason}"
            )


def _like(prompt: Content, text: str) -> Content:
    """The completion in the form of its prompt: text, or the assistant's message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _columns(prompts: Sequence[TokenPrompt]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in names}
