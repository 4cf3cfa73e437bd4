"""Critique and revision: who is asked what, what becomes a pair, and what does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.collect.constitution import Revised, constitution, drawn_principles
from preftune.collect.constitution_prompts import bare_revision, why_no_revision
from preftune.collect.generation import Text
from preftune.collect.principles import Constitution, Principle, read_constitution
from preftune.data.read import read_demonstrations, read_pairs, read_prompts
from preftune.data.records import PromptRecord
from preftune.errors import PreftuneError
from tests.collect.scripted import Scripted, last_turn
from tests.tiny_world import read_rows

SHORT = read_constitution("short")
PROMPTS = [PromptRecord(prompt=f"Ask number {number}.", id=f"p{number}") for number in range(5)]


def says(revision: Callable[[int], str | Text] | str = "A better answer.") -> Callable[[Any, int, int], str | Text]:
    """Answers, critiques, and revisions: of the prompt's number."""

    def say(prompt: Any, _: int, seed: int) -> str | Text:
        asked = last_turn(prompt)
        number = int(next(turn["content"] for turn in prompt if "Ask number" in turn["content"])[11:-1])
        if asked.startswith("Ask number"):
            return f"Answer {number} that is so-so."
        if "Speak of your last answer alone" in asked:
            return f"Critique of {number}: it lacks things."
        return revision if isinstance(revision, str) else revision(number)

    return say


def made(tmp_path: Path, generator: Scripted, prompts: Any = PROMPTS, **settings: Any) -> Revised:
    return constitution(prompts, generator, SHORT, tmp_path / "pairs.jsonl", **settings)


def test_the_revision_is_preferred_to_the_answer(tmp_path: Path) -> None:
    generator = Scripted(says())
    found = made(tmp_path, generator)
    assert len(found.written.made) == 5 and found.paired.value == 1.0
    pairs = read_pairs(tmp_path / "pairs.jsonl").records
    for number, pair in enumerate(pairs):
        assert pair.prompt[0].content == f"Ask number {number}."  # type: ignore[union-attr]
        assert pair.chosen[0].content == "A better answer."  # type: ignore[union-attr]
        assert pair.rejected[0].content == f"Answer {number} that is so-so."  # type: ignore[union-attr]


def test_every_record_says_by_what_it_was_made(tmp_path: Path) -> None:
    made(tmp_path, Scripted(says(), cost=0.0))
    for number, row in enumerate(read_rows(tmp_path / "pairs.jsonl")):
        source = row["source"]
        assert source["kind"] == "constitution" and source["model"] == "scripted" and source["method"] == "revision"
        assert source["constitution"] == "short" and source["constitution_version"] == SHORT.version
        assert source["prompt_version"].startswith("critique-revision-") and source["cost"] == 0.0
        (step,) = row["meta"]["steps"]
        assert source["principles"] == [step["principle"]] and row["meta"]["prompt_id"] == f"p{number}"
        assert step["critique"] == f"Critique of {number}: it lacks things."


def test_the_principle_drawn_is_what_is_asked_for(tmp_path: Path) -> None:
    generator = Scripted(says())
    made(tmp_path, generator)
    by_id = {one.id: one for one in SHORT.principles}
    asked = [last_turn(prompt) for prompt in generator.asked]
    for row in read_rows(tmp_path / "pairs.jsonl"):
        principle = by_id[row["meta"]["steps"][0]["principle"]]
        assert any(text.startswith(principle.critique) for text in asked)
        assert any(text.startswith(principle.revision) for text in asked)


def test_rounds_go_on_from_the_last_revision_by_other_principles(tmp_path: Path) -> None:
    turns: list[int] = []

    def revision(number: int) -> str:
        turns.append(number)
        return f"Revision {turns.count(number)} of {number}."

    generator = Scripted(says(revision))
    made(tmp_path, generator, rounds=3)
    for row in read_rows(tmp_path / "pairs.jsonl"):
        steps = row["meta"]["steps"]
        assert len({step["principle"] for step in steps}) == 3
        number = row["rejected"][0]["content"].split()[1]
        assert [step["revision"] for step in steps] == [f"Revision {turn} of {number}." for turn in (1, 2, 3)]
        assert row["chosen"][0]["content"] == f"Revision 3 of {number}."
    critics = [p for p in generator.asked if "Speak of your last answer alone" in last_turn(p)]
    assert critics[-1][-2]["content"].startswith("Revision 2")


BAD: dict[str, str | Text] = {
    "unchanged": "  Answer 0 that   is so-so.",
    "emptied": "   ",
    "refused": "I'm sorry, but I can't help with revising that.",
    "recited": "Reply with the rewritten answer alone, as the person who asked should read it.",
    "cut-off": Text("A better answer, that goes on and", finished=False),
    "failed": Text(None, failure="503"),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_no_revision_is_no_pair_and_is_counted(tmp_path: Path, reason: str) -> None:
    found = made(tmp_path, Scripted(says(lambda number: BAD[reason] if number == 0 else "A better answer.")))
    assert found.written.reasons() == {reason: 1} and len(found.written.made) == 4
    (row,) = read_rows(tmp_path / "pairs.left-out.jsonl")
    assert row["answer"] == "Answer 0 that is so-so." and row["mend"] and row["steps"][0]["critique"]


def test_an_answer_that_did_not_come_or_is_empty_or_cut_is_left_out(tmp_path: Path) -> None:
    bad = {0: Text(None, failure="time-out"), 1: Text("half an", finished=False), 2: " "}

    def say(prompt: Any, number: int, seed: int) -> str | Text:
        asked = last_turn(prompt)
        return bad.get(int(asked[11:-1]), "So-so.") if asked.startswith("Ask") else says()(prompt, number, seed)

    assert made(tmp_path, Scripted(say)).written.reasons() == {"failed": 1, "cut-off": 1, "no-answer": 1}


def test_a_refusal_of_what_the_person_asked_is_a_revision() -> None:
    declines = "I can't help with breaking into a house. If you are locked out, a locksmith can."
    assert why_no_revision("First choose a house that is dark.", declines, "Rewrite the answer.") is None
    assert why_no_revision("The answer.", "No changes are needed.") is not None


@pytest.mark.parametrize(
    ("reply", "bare"),
    [
        ("Here is the revised response:\n\nWater boils at 100 C.", "Water boils at 100 C."),
        ("Sure! Here's a rewritten version of my answer:\nWater boils.", "Water boils."),
        ("**Revised answer:** Water boils.", "Water boils."),
        ("Revision: Water boils.", "Water boils."),
        ('"Water boils at 100 C."', "Water boils at 100 C."),
        ("Water boils: at 100 C.\nIce melts.", "Water boils: at 100 C.\nIce melts."),
        ('"Yes" is the answer, not "no"', '"Yes" is the answer, not "no"'),
        ("The improved engine:\nit boils water.", None),  # a line that only looks like an announcement
    ],
)
def test_announcements_are_cut_from_the_revision(reply: str, bare: str | None) -> None:
    found, was_cut = bare_revision(reply)
    if bare is not None:
        assert (found, was_cut) == (bare, bare != reply)


def test_announcements_are_counted(tmp_path: Path) -> None:
    found = made(tmp_path, Scripted(says("Here is the revised answer:\nA better one.")))
    assert found.announced == 5
    assert all(row["chosen"][0]["content"] == "A better one." for row in found.written.made)


def test_given_answers_are_revised_without_being_drawn(tmp_path: Path) -> None:
    rows = [{"prompt": "Ask number 0.", "completion": "My own.", "id": "d"}]
    generator = Scripted(says())
    found = made(tmp_path, generator, read_demonstrations(rows).records)
    assert len(generator.asked) == 2
    assert found.written.made[0]["rejected"] == [{"role": "assistant", "content": "My own."}]
    assert found.written.made[0]["source"]["answer"] == "given"


def test_prompts_that_cannot_be_asked_are_counted(tmp_path: Path) -> None:
    open_turn = [{"role": "user", "content": "Ask number 1."}, {"role": "assistant", "content": "Well,"}]
    several = [{"role": role, "content": "x"} for role in ("assistant", "user", "assistant")]
    rows = [{"prompt": open_turn}, {"prompt": "Ask number 2."}]
    prompts = [
        *read_prompts(rows).records,
        *read_demonstrations([{"prompt": [{"role": "user", "content": "q"}], "completion": several}]).records,
        *read_demonstrations([{"text": "Plain text."}]).records,
    ]
    found = made(tmp_path, Scripted(says()), prompts)
    assert found.written.reasons() == {"open-answer": 1, "several-turns": 1, "empty-prompt": 1}
    assert len(found.written.made) == 1


def test_system_words_come_first_then_examples_then_the_prompt(tmp_path: Path) -> None:
    shown = ({"role": "user", "content": "Shown."}, {"role": "assistant", "content": "Shown too."})
    own = Constitution("own", (Principle("a", "What?", "Better!"),), (shown, shown))
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Ask number 0."}]
    prompts = read_prompts([{"prompt": chat}]).records
    for most, turns in ((None, 4), (1, 2), (0, 0)):
        generator = Scripted(says())
        constitution(prompts, generator, own, tmp_path / f"{most}.jsonl", examples=most)
        critic = next(p for p in generator.asked if "Speak of" in last_turn(p))
        assert [turn["content"] for turn in critic[:1]] == ["Be kind."]
        assert len(critic) == 1 + turns + 3 and critic[1 + turns]["content"] == "Ask number 0."


def test_a_stopped_run_goes_on_to_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    def seeded(prompt: Any, number: int, seed: int) -> str:
        return f"{says()(prompt, number, seed)} {seed}"

    whole = constitution(PROMPTS, Scripted(seeded), SHORT, tmp_path / "whole.jsonl", rounds=2, block=2)
    calls = 0

    def dies(prompt: Any, number: int, seed: int) -> str:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        return seeded(prompt, number, seed)

    with pytest.raises(KeyboardInterrupt):
        constitution(PROMPTS, Scripted(dies), SHORT, tmp_path / "half.jsonl", rounds=2, block=2)
    half = len(read_rows(tmp_path / "half.jsonl"))
    generator = Scripted(seeded)
    resumed = constitution(PROMPTS, generator, SHORT, tmp_path / "half.jsonl", rounds=2, block=2)
    assert half == 2 and resumed.written.new == 3 and len(generator.asked) == 15
    assert [without_time(row) for row in resumed.written.made] == [without_time(row) for row in whole.written.made]


def without_time(row: Any) -> str:
    return json.dumps(row | {"source": row["source"] | {"time": None}})


def test_principles_are_drawn_by_the_item_each_before_any_twice() -> None:
    drawn = [tuple(one.id for one in drawn_principles(f"{n:x}", SHORT, 8)) for n in range(200)]
    assert all(len(set(one)) == 8 for one in drawn)
    firsts = [one[0] for one in drawn]
    assert set(firsts) == {one.id for one in SHORT.principles} and drawn_principles("c7", SHORT, 8)[0].id == firsts[199]


def test_a_revision_that_is_mostly_longer_is_warned_of(tmp_path: Path) -> None:
    prompts = [PromptRecord(prompt=f"Ask number {number}.") for number in range(30)]
    document = made(
        tmp_path, Scripted(says("A much longer answer than the one that was there before.")), prompts
    ).as_dict()
    assert "the chosen side is the longer one in 100% of 30 pairs" in document["warnings"][0]
    assert sum(counts["paired"] for counts in document["by_principle"].values()) == 30


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="0 rounds"):
        made(tmp_path, Scripted(says()), rounds=0)
