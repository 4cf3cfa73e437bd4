"""Constitutions: what is in them, which version they are, and what is wrong with those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.collect.principles import EXAMPLE, read_constitution, shipped
from preftune.errors import PreftuneError

TWO = """name: mine
principles:
  - id: honest
    critique: What in it is not true?
    revision: Make it true.
    comparison: Which is truer?
  - critique: What in it is rude?
    revision: Make it polite.
"""


def write(folder: Path, content: str | dict[str, Any], name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_ours_is_short_and_whole() -> None:
    assert "short" in shipped()
    constitution = read_constitution("short")
    assert 6 <= len(constitution.principles) <= 10
    assert {"honest", "harmless", "helpful", "autonomy", "brief"} <= {one.id for one in constitution.principles}
    assert all(one.critique and one.revision and one.comparison for one in constitution.principles)


def test_a_file_is_read_with_numbers_for_ids_that_lack(tmp_path: Path) -> None:
    first, second = read_constitution(write(tmp_path, TWO)).principles
    assert (first.id, first.comparison) == ("honest", "Which is truer?")
    assert (second.id, second.critique, second.comparison) == ("2", "What in it is rude?", None)


def test_the_version_changes_with_every_word_and_with_nothing_else(tmp_path: Path) -> None:
    version = read_constitution(write(tmp_path, TWO)).version
    assert version.startswith("mine@")
    assert read_constitution(write(tmp_path, f"# a remark\n{TWO}", "other.yaml")).version == version
    assert read_constitution(write(tmp_path, TWO.replace("rude", "coarse"), "third.yaml")).version != version
    assert read_constitution(write(tmp_path, TWO.replace("name: mine", ""), "mine.yaml")).version == version


def test_json_and_yaml_of_one_content_are_one_version(tmp_path: Path) -> None:
    given = {"name": "m", "principles": [{"id": "a", "critique": "C?", "revision": "R!"}]}
    as_yaml = "name: m\nprinciples:\n- {id: a, critique: 'C?', revision: R!}\n"
    assert (
        read_constitution(write(tmp_path, given, "m.json")).version
        == read_constitution(write(tmp_path, as_yaml, "m.yaml")).version
    )


def test_the_shape_of_llm_swarm_is_understood(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Ask."}, {"role": "assistant", "content": "Answer."}]
    given = {"constitutions": [{"critic": "C?", "revision": "R!"}, {"critic": "D?", "revision": "S!"}]}
    found = read_constitution(write(tmp_path, given | {"system_chat": [chat]}, "swarm.json"))
    assert [(one.id, one.critique, one.revision) for one in found.principles] == [("1", "C?", "R!"), ("2", "D?", "S!")]
    assert found.examples == (tuple(chat),) and found.name == "swarm"


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        ("", "mine.yaml", "is empty"),
        ("principles: []\n", "mine.yaml", "is empty"),
        ("name: x\n", "mine.yaml", "no `principles`"),
        ("principles: be good\n", "mine.yaml", "is no list"),
        ("principles:\n- be good\n", "mine.yaml:2", "no mapping"),
        (TWO.replace("    revision: Make it polite.\n", ""), "mine.yaml:7", "no revision.*reviser is to do"),
        (TWO.replace("  - critique: What in it is rude?\n", "  - id: x\n"), "mine.yaml:7", "no critique"),
        (TWO.replace("Make it polite.", '" "'), "mine.yaml:7", "`revision` is empty"),
        (TWO.replace("Make it polite.", "[1]"), "mine.yaml:7", "`revision` is no text"),
        (TWO.replace("comparison", "comparision"), "mine.yaml:3", "Did you mean comparison"),
        (TWO.replace("principles", "principals"), "mine.yaml", "no `principles`"),
        (
            TWO.replace("  - critique", "  - id: honest\n    critique"),
            "mine.yaml:7",
            "given twice, first at .*mine.yaml:3",
        ),
        (TWO + "examples:\n- hello\n", "example 1", "no list of messages"),
        (TWO + "examples:\n- [{role: user, content: hi}]\n", "example 1", "does not end with the assistant"),
        (TWO + "name: again\n", "mine.yaml:9", "given twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_place_and_a_mend(tmp_path: Path, content: str, where: str, what: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(PreftuneError, match=f"(?s){what}") as caught:
        read_constitution(path)
    assert where in str(caught.value.where) and caught.value.mend


@pytest.mark.parametrize("content", ["{half", "[]", "{}", '{"principles": [{"critique": "C?"}]}'])
def test_json_that_is_no_constitution_is_named(tmp_path: Path, content: str) -> None:
    with pytest.raises(PreftuneError, match=r"cannot be read|is empty|no `principles`|principle 1: .*no revision"):
        read_constitution(write(tmp_path, content, "mine.json"))


def test_the_example_of_the_mends_is_a_constitution(tmp_path: Path) -> None:
    (one,) = read_constitution(write(tmp_path, f"principles:\n  {EXAMPLE}\n")).principles
    assert one.id == "honest" and one.critique and one.revision


def test_a_name_that_is_none_is_told_the_nearest() -> None:
    with pytest.raises(PreftuneError, match=r"no such constitution.*Did you mean short"):
        read_constitution("shorts")
