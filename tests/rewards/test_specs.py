"""Rewards as they are written: parsed strictly, nothing evaluated."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.errors import PreftuneError
from preftune.rewards.specs import Spec, parse_spec, read_mapping, split_specs


@pytest.mark.parametrize(
    ("text", "place", "arguments"),
    [
        ("accuracy", "accuracy", {}),
        ("accuracy()", "accuracy", {}),
        ("length(max=256,cache=64)", "length", {"max": 256, "cache": 64}),
        ("length( max = 256 , cache = 64 )", "length", {"max": 256, "cache": 64}),
        ("repetition(worst=-0.5)", "repetition", {"worst": -0.5}),
        ("accuracy(tolerance=1e-3)", "accuracy", {"tolerance": 0.001}),
        ("accuracy(announced_only=true,column=none)", "accuracy", {"announced_only": True, "column": None}),
        ('format(template="<a>{}</a>, ({})")', "format", {"template": "<a>{}</a>, ({})"}),
        ("format(template='say \"{}\"')", "format", {"template": 'say "{}"'}),
        ('format(template="12")', "format", {"template": "12"}),
        (
            "judge:org/model:free(url=http://localhost:8000/v1)",
            "judge:org/model:free",
            {"url": "http://localhost:8000/v1"},
        ),
        ("some/file.py:function", "some/file.py:function", {}),
        ("f(x=nan)", "f", {"x": "nan"}),
    ],
)
def test_a_reward_is_a_place_with_arguments(text: str, place: str, arguments: dict[str, Any]) -> None:
    found = parse_spec(text)
    assert found == Spec(place, arguments)
    assert {key: type(value) for key, value in found.arguments.items()} == {k: type(v) for k, v in arguments.items()}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "length(256)",
        "length(max=)",
        "length(max=256",
        "length max=256)",
        "length(max=256))",
        "length(max=256 cache=64)",
        "length(max=256,,cache=64)",
        "length(max=1,max=2)",
        "length(max=__import__('os'))",
        "length(max=[1])()",
        'format(template="a)',
    ],
)
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(PreftuneError, match=r"not understood|twice"):
        parse_spec(text)


def test_a_list_is_split_outside_of_brackets() -> None:
    text = 'accuracy, length(max=256,cache=64),format(template="a,{})("), ,judge:m'
    assert split_specs(text) == ["accuracy", "length(max=256,cache=64)", 'format(template="a,{})(")', "judge:m"]
    assert split_specs("") == []


def test_the_mapping_form_carries_name_and_weight() -> None:
    entry = {"reward": "length", "max": 256, "weight": 0.5, "name": "short"}
    assert read_mapping(entry) == Spec("length", {"max": 256}, "short", 0.5)
    assert read_mapping({"reward": "length(max=256)"}) == parse_spec("length(max=256)")


@pytest.mark.parametrize(
    "entry", [{}, {"max": 1}, {"reward": 3}, {"reward": "a", "weight": "much"}, {"reward": "a", "name": 3}]
)
def test_a_mapping_that_names_no_reward_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(PreftuneError):
        read_mapping(entry)


@given(st.text(max_size=100))
def test_no_text_breaks_the_parser(text: str) -> None:
    for part in split_specs(text):
        try:
            assert parse_spec(part).place
        except PreftuneError:
            continue
