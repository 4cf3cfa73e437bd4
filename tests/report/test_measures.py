"""Figures as text."""

from __future__ import annotations

from typing import Any

import pytest

from preftune.report.measures import (
    cut,
    read_measure,
    show_difference,
    show_difference_interval,
    show_interval,
    show_number,
    show_plain,
    show_value,
)
from tests.report.conftest import measure


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-3.0, "−3"),
        (1234567.0, "1,234,567"),
        (0.12345, "0.123"),
        (-1.5, "−1.50"),
        (0.00001234, "1.23e-05"),
        (123.456, "123.5"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert show_number(value) == text


def test_share_is_printed_in_percent_and_its_difference_in_points() -> None:
    share = read_measure("win_rate", measure(0.5, 0.45, 0.551, 1200))
    assert share is not None
    assert (show_value(share), show_difference(share)) == ("50.0%", "+50.0 points")
    assert show_interval(share) == "95% interval 45.0% to 55.1%, n\u00a0=\u00a01,200"
    assert show_difference_interval(share) == "95% interval +45.0 to +55.1, n\u00a0=\u00a01,200"


@pytest.mark.parametrize("without", ["low", "high", "n"])
@pytest.mark.parametrize("unit", ["share", "%", ""])
def test_bare_share_is_a_dash(without: str, unit: str) -> None:
    raw: dict[str, Any] = measure(0.5, 0.4, 0.6, unit=unit)
    del raw[without]
    bare = read_measure("accuracy", raw) if unit != "%" else read_measure("anything", raw)
    assert bare is not None
    assert show_value(bare) == show_difference(bare) == "—"
    assert "5" not in show_interval(bare)


@pytest.mark.parametrize("raw", [None, 3, {}, {"value": "x"}, {"value": True}, {"value": float("nan")}])
def test_what_is_no_measure_is_none(raw: Any) -> None:
    assert read_measure("kl", raw) is None


def test_plain_values_are_short() -> None:
    assert show_plain(None) == "none"
    assert show_plain(True) == "yes"
    assert show_plain(5e-06) == "5e-06"
    assert show_plain([1, "a"]) == "1, a"
    assert len(show_plain("x" * 10_000)) < 700
    assert len(show_plain({"k": ["v" * 999] * 999})) < 10_000
    assert cut("abcdef", 2) == "ab … (4 more characters)"
