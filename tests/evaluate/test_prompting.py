"""The untouched model behind a system prompt or examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftune.data.encoding import render_prompt
from preftune.data.records import Message, Pair, PromptRecord
from preftune.errors import PreftuneError
from preftune.evaluate.prompting import DEFAULT_SYSTEM, Prompting, draw_shots, fitted, read_system, without
from tests.tiny_world import make_tokenizer, pair_rows

CHATS = [Pair(**row) for row in pair_rows(12, conversational=True)]
CHAT = PromptRecord(prompt=(Message(role="user", content="why?"),))


def test_system_and_examples_stand_before_a_chat_in_order() -> None:
    shots = tuple(CHATS[:2])
    turns = Prompting("x", "be kind", shots).apply(CHAT).prompt
    assert not isinstance(turns, str)
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert turns[2].content == shots[0].chosen[-1].content  # type: ignore[union-attr]
    assert turns[-1].content == "why?"


def test_a_system_text_of_its_own_is_kept() -> None:
    record = PromptRecord(prompt=(Message(role="system", content="in French"), Message(role="user", content="why?")))
    turns = Prompting("x", "be kind").apply(record).prompt
    assert [(turn.role, turn.content) for turn in turns] == [  # type: ignore[union-attr]
        ("system", "be kind\n\nin French"),
        ("user", "why?"),
    ]


def test_plain_text_is_put_together_as_in_training() -> None:
    pair = Pair(prompt="2 + 2 =", chosen=" 4", rejected=" 5")
    assert (
        Prompting("x", "Sums.", (pair,)).apply(PromptRecord(prompt="3 + 3 =")).prompt == "Sums.\n\n2 + 2 = 4\n\n3 + 3 ="
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
        "{% endfor %}",
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}",
    ],
)
def test_a_template_without_a_system_turn_gets_it_in_the_users(template: str) -> None:
    tokenizer = make_tokenizer(chat_template=template)
    found = fitted(Prompting("x", "be kind"), CHAT, tokenizer)
    assert found.folded
    assert "be kind\n\nwhy?" in render_prompt(found.apply(CHAT), tokenizer)
    assert not fitted(Prompting("x", "be kind"), CHAT, make_tokenizer()).folded


def test_examples_are_of_different_prompts_that_are_then_not_measured() -> None:
    shots = draw_shots(CHATS, 3, 0, conversational=True)
    assert len(shots) == 3 and shots == draw_shots(CHATS, 3, 0, conversational=True)
    left = without(CHATS, shots)
    assert not {one.prompt for one in left} & {one.prompt for one in shots}
    with pytest.raises(PreftuneError, match="different prompts"):
        draw_shots(CHATS[:2], 3, 0, conversational=True)


def test_system_text_is_given_read_or_the_default(tmp_path: Path) -> None:
    file = tmp_path / "system.txt"
    file.write_text(" be short \n")
    assert read_system(str(file)) == "be short"
    assert read_system("be long") == "be long"
    assert read_system(None) == DEFAULT_SYSTEM
    with pytest.raises(PreftuneError, match="empty"):
        read_system(" ")
