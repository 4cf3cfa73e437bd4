"""docs/rewards.md: its examples run and print what stands under them, its tables are true."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from preftune.rewards.answers_in_text import is_right
from preftune.rewards.functions import FUNCTIONS

PAGE = Path(__file__).parents[2].joinpath("docs/rewards.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", PAGE, re.DOTALL)
ANSWERS = PAGE.partition("| expected | right | wrong |")[2].partition("\n\n")[0]


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_print_what_the_page_says(code: str, printed: str) -> None:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {"__name__": "example"})
    assert output.getvalue() == printed


def test_every_function_is_listed() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") == 2
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("### ")[0], re.MULTILINE)) == set(FUNCTIONS)


def test_the_table_of_answers_is_true() -> None:
    rows = [[re.findall("`([^`]+)`", cell) for cell in line.split(" | ")] for line in ANSWERS.splitlines()[2:]]
    assert len(rows) == 6
    for (expected,), right, wrong in rows:
        assert all(is_right(text, expected) for text in right), (expected, right)
        assert not any(is_right(text, expected) for text in wrong), (expected, wrong)
