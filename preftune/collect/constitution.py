"""Pairs by a constitution: an answer criticised and revised by a principle, the revision preferred to what it revises.

Bai et al. 2022 (2212.08073), section 3, whose revisions were fine-tuned on; here each is paired with its original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from preftune.audit.findings import Share, share_of
from preftune.collect.constitution_prompts import (
    REVISION_VERSION,
    Chat,
    bare_revision,
    critique_chat,
    revision_chat,
    revision_request,
    shown_examples,
    why_no_revision,
)
from preftune.collect.generation import Generator, Prompt, Text, chat_of, no_text, require_sampling, seed_of
from preftune.collect.principles import Constitution, Principle
from preftune.collect.side_lengths import length_warnings, longer_share
from preftune.collect.writing import LeftOut, Note, Row, Written, item_id, provenance, write_in_blocks
from preftune.data.records import Demonstration, Pair, PromptRecord, content_row
from preftune.data.row_parts import is_blank
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampling

KIND: Final = "constitution"
BLOCK: Final = 16
SAMPLING: Final = Sampling(512, temperature=0.8)


@dataclass(frozen=True)
class Revised:
    """What came of the prompts; ``as_dict`` is the document."""

    written: Written
    constitution: str
    prompts: int
    paired: Share
    longer: Share
    by_principle: Mapping[str, Mapping[str, int]]
    announced: int

    def as_dict(self) -> dict[str, Any]:
        """Counts, shares with their intervals, and what each principle led to."""
        return {
            "constitution": self.constitution,
            "prompts": self.prompts,
            "made": len(self.written.made),
            "new": self.written.new,
            "left_out": self.written.reasons(),
            "paired": asdict(self.paired),
            "longer": asdict(self.longer),
            "announcements_cut": self.announced,
            "by_principle": self.by_principle,
            "warnings": list(self.warnings()),
        }

    def warnings(self) -> Iterator[str]:
        """What may spoil the pairs, a sentence each."""
        yield from length_warnings(self.longer)


def constitution(
    prompts: Sequence[PromptRecord | Demonstration],
    generator: Generator,
    principles: Constitution,
    output: Path,
    *,
    rounds: int = 1,
    sampling: Sampling = SAMPLING,
    examples: int | None = None,
    seed: int = 42,
    block: int = BLOCK,
    note: Note | None = None,
    done: Callable[[int], object] | None = None,
) -> Revised:
    """Appends to ``output`` a pair for each prompt whose answer was revised: the last revision over the answer.

    A prompt alone is answered by ``generator`` first; a demonstration brings its answer. Each of ``rounds`` draws a
    principle by ``seed``, has the answer of the round before criticised, and revised by the critique. ``examples`` is
    how many of the constitution's are shown (all). Revisions that are empty, change nothing or decline to revise, and
    texts that the length cut, give no pair; they are listed beside the output with their reasons. What a run made
    before is not made again. Pairs are chats: what is asked is asked as a chat's turn.
    """
    require_sampling(sampling)
    if rounds < 1:
        raise PreftuneError(f"{rounds} rounds are asked for.", mend="One is the least.")
    shown = shown_examples(principles, examples)
    asking = _Asking(generator, principles, rounds, sampling, shown, seed)
    items = {item_id(asking.job, record): record for record in prompts}
    written = write_in_blocks(output, items, asking.pairs, block=block, note=note, done=done)
    return _summary(written, principles, len(items))


def drawn_principles(name: str, constitution: Constitution, count: int) -> list[Principle]:
    """``count`` principles for an item, by its id; none twice before each was there once."""
    order = np.random.default_rng(int(name, 16)).permutation(len(constitution.principles))
    return [constitution.principles[order[number % len(order)]] for number in range(count)]


def answer_of(record: PromptRecord | Demonstration) -> str | LeftOut | None:
    """The answer that a record brings, None where it brings none; why it cannot be used otherwise."""
    if is_blank(record.prompt):
        return LeftOut("", "empty-prompt", "There is nothing that is asked: give a prompt.")
    if not isinstance(record.prompt, str) and record.prompt[-1].role == "assistant":
        return LeftOut("", "open-answer", "The prompt ends with the assistant's turn: let it end with the user's.")
    if isinstance(record, PromptRecord):
        return None
    if isinstance(record.completion, str):
        return record.completion.strip()
    if len(record.completion) != 1:
        return LeftOut("", "several-turns", "The answer has several turns: give one, the others in the prompt.")
    return record.completion[0].content.strip()


# --- a block --------------------------------------------------------------------------------------------


@dataclass
class _Draft:
    """An item on its way: ``text`` is the answer as the last round left it."""

    name: str
    record: PromptRecord | Demonstration
    chat: Chat
    principles: Sequence[Principle]
    original: str = ""
    text: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list)
    left_out: tuple[str, str] | None = None

    def leave_out(self, reason: str, mend: str) -> None:
        self.left_out = reason, mend


@dataclass(frozen=True)
class _Asking:
    """The job: who is asked what, and how often."""

    generator: Generator
    constitution: Constitution
    rounds: int
    sampling: Sampling
    examples: Sequence[Any]
    seed: int

    @property
    def job(self) -> dict[str, Any]:
        """What decides which records come out."""
        return {
            "kind": KIND,
            "model": self.generator.name,
            "constitution": self.constitution.version,
            "prompt_version": REVISION_VERSION,
            "rounds": self.rounds,
            "examples": len(self.examples),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
        }

    def pairs(self, members: Sequence[tuple[str, PromptRecord | Demonstration]], number: int) -> list[Row | LeftOut]:
        """The pair of each member, or why there is none."""
        spent = self.generator.cost
        drafts = [
            _Draft(name, record, chat_of(content_row(record)["prompt"]), self._principles(name))
            for name, record in members
        ]
        self._answer(drafts, seed_of(self.seed, number, 0))
        for turn in range(self.rounds):
            self._revise(drafts, turn, number)
        cost = None if spent is None else ((self.generator.cost or 0.0) - spent) / len(drafts)
        return [self._outcome(draft, cost) for draft in drafts]

    def _principles(self, name: str) -> list[Principle]:
        return drawn_principles(name, self.constitution, self.rounds)

    def _answer(self, drafts: Sequence[_Draft], seed: int) -> None:
        asked: list[_Draft] = []
        for draft in drafts:
            given = answer_of(draft.record)
            if isinstance(given, LeftOut):
                draft.leave_out(given.reason, given.mend)
            elif given is None:
                asked.append(draft)
            else:
                draft.original = draft.text = given
        for draft, text in zip(asked, self._generate([draft.chat for draft in asked], seed), strict=True):
            draft.original = draft.text = _checked(draft, text, "answer").strip()
        for draft in drafts:
            if draft.left_out is None and not draft.text:
                draft.leave_out("no-answer", "The answer is empty; there is nothing to revise.")

    def _revise(self, drafts: Sequence[_Draft], turn: int, number: int) -> None:
        """One round: critique and revision of every draft that is still in."""
        alive = [draft for draft in drafts if draft.left_out is None]
        chats = [critique_chat(draft.chat, draft.text, draft.principles[turn], self.examples) for draft in alive]
        critiques = self._generate(chats, seed_of(self.seed, number, 2 * turn + 1))
        asked: list[tuple[_Draft, Chat]] = []
        for draft, chat, text in zip(alive, chats, critiques, strict=True):
            critique = _checked(draft, text, "critique", may_be_cut=True).strip()
            draft.steps.append({"principle": draft.principles[turn].id, "critique": critique})
            if critique and draft.left_out is None:
                asked.append((draft, revision_chat(chat, critique, draft.principles[turn])))
            elif draft.left_out is None:
                draft.leave_out("no-critique", "The critique is empty; try another model.")
        revisions = self._generate([chat for _, chat in asked], seed_of(self.seed, number, 2 * turn + 2))
        for (draft, _), text in zip(asked, revisions, strict=True):
            _take_revision(draft, text, revision_request(draft.principles[turn]))

    def _generate(self, chats: Sequence[Prompt], seed: int) -> list[Text]:
        return [texts[0] for texts in self.generator.generate(chats, 1, self.sampling, seed)] if chats else []

    def _outcome(self, draft: _Draft, cost: float | None) -> Row | LeftOut:
        if draft.left_out is None and (why := why_no_revision(draft.original, draft.text)):
            draft.leave_out(*why)
        if draft.left_out is not None:
            found = {"prompt": draft.chat, "answer": draft.original or None, "steps": draft.steps}
            return LeftOut(draft.name, *draft.left_out, found)
        source = provenance(
            KIND,
            model=self.generator.name,
            prompt_version=REVISION_VERSION,
            cost=cost,
            method="revision",
            constitution=self.constitution.name,
            constitution_version=self.constitution.version,
            principles=[step["principle"] for step in draft.steps],
            answer="model" if isinstance(draft.record, PromptRecord) else "given",
            sampling=asdict(self.sampling),
            seed=self.seed,
        )
        fields = {
            "id": draft.name,
            "prompt": draft.chat,
            "chosen": [{"role": "assistant", "content": draft.text}],
            "rejected": [{"role": "assistant", "content": draft.original}],
            "source": source,
            "meta": {"prompt_id": draft.record.id, "steps": draft.steps},
        }
        return Pair.model_validate(fields).as_row()


def _checked(draft: _Draft, text: Text, what: str, *, may_be_cut: bool = False) -> str:
    """The text, or nothing where the draft has to be left out for it."""
    if text.text is None:
        draft.leave_out(*no_text(text, what))
        return ""
    if not text.finished and not may_be_cut:
        draft.leave_out("cut-off", f"The {what} has no end within the length allowed: raise --max-new-tokens.")
    return text.text


def _take_revision(draft: _Draft, text: Text, request: str) -> None:
    """The revision as the draft's text; one that changed nothing in this round leaves the draft as it was."""
    revised, was_announced = bare_revision(_checked(draft, text, "revision"))
    draft.steps[-1] |= {"revision": revised} | ({"announced": True} if was_announced else {})
    if draft.left_out is not None:
        return
    why = why_no_revision(draft.text, revised, request)
    if why is None:
        draft.text = revised
    elif why[0] != "unchanged":
        draft.leave_out(*why)


# --- the summary ----------------------------------------------------------------------------------------


def _summary(written: Written, constitution: Constitution, n: int) -> Revised:
    made = [Pair.model_validate(row) for row in written.made]
    used = {one.id: Counter() for one in constitution.principles}
    for rows, outcome in ((written.made, "paired"), (written.left_out, "left_out")):
        for row in rows:
            for step in (row.get("meta") or row).get("steps", ()):
                used[step["principle"]][outcome] += 1
    steps = [step for row in written.made for step in row["meta"]["steps"]]
    return Revised(
        written,
        constitution.version,
        n,
        share_of(len(made), n, "Prompts that gave a pair", "Of all prompts; the others are listed with their reasons."),
        longer_share(made),
        {name: dict(counts) for name, counts in used.items() if counts},
        sum(step.get("announced", False) for step in steps),
    )
