"""Prices: nothing invented, dates behind a model's name ignored, the rule of tokens as stated."""

from __future__ import annotations

import pytest

from preftune.collect.prices import PRICES, Price, estimated_tokens, find_price
from preftune.errors import PreftuneError


def test_every_price_says_where_it_was_read_and_when() -> None:
    for model, price in PRICES.items():
        assert price.source and price.source.startswith("https://"), model
        assert price.as_of and price.as_of.startswith("20"), model
        assert 0 < price.input < price.output < 1000, model


def test_a_million_tokens_cost_the_price() -> None:
    assert Price(2.0, 10.0).cost(1_000_000, 0) == pytest.approx(2.0)
    assert Price(2.0, 10.0).cost(0, 1_000_000) == pytest.approx(10.0)


def test_a_given_price_goes_before_the_table_and_an_unknown_one_is_unknown() -> None:
    known = next(iter(PRICES))
    assert find_price(known, None, None) == PRICES[known]
    assert find_price(f"{known}-20261001", None, None) == PRICES[known]
    assert find_price(f"{known}-2026-10-01", None, None) == PRICES[known]
    assert find_price(known, 1.0, 2.0) == Price(1.0, 2.0)
    assert find_price("some/model", None, None) is None
    assert find_price(f"{known}-large", None, None) is None
    assert find_price("some/model", None, None, is_free=True) == Price(0.0, 0.0)


def test_half_a_price_and_a_negative_one_are_refused() -> None:
    with pytest.raises(PreftuneError, match="Give both"):
        find_price("m", 1.0, None)
    with pytest.raises(PreftuneError, match="-1"):
        find_price("m", -1.0, 2.0)


def test_tokens_are_estimated_by_the_stated_rule() -> None:
    assert estimated_tokens("x" * 400) == 108
    assert estimated_tokens("x", "y" * 5) == 1 + 8 + 2 + 8
