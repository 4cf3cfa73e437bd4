"""Numbers as people write them: read exactly, or not at all."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.rewards.quantities import MAX_EXPONENT, Quantity, read_quantity, same_quantity

TOLERANCE = Fraction(1, 10**6)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("+42", 42),
        ("-42", -42),
        ("−42", -42),
        ("minus 42", -42),
        ("negative 3", -3),
        ("42.", 42),
        ("42.0", 42),
        ("0.1", "1/10"),
        (".5", "1/2"),
        ("007", 7),
        ("1,234", 1234),
        ("1,234,567.89", "123456789/100"),
        ("1 234 567", 1234567),
        ("1\u202f234", 1234),
        ("1{,}234", 1234),
        ("1,\\!234", 1234),
        ("1_000", 1000),
        ("1e3", 1000),
        ("1.5E-2", "3/200"),
        ("1.2 \\times 10^{3}", 1200),
        ("1.2 × 10⁻²", "3/250"),
        ("2*10^5", 200000),
        ("10^{5}", 100000),
        ("10⁵", 100000),
        ("1/3", "1/3"),
        ("-1/3", "-1/3"),
        ("1 / 3", "1/3"),
        ("\\frac{1}{3}", "1/3"),
        ("-\\frac{3}{4}", "-3/4"),
        ("\\dfrac{-3}{4}", "-3/4"),
        ("\\frac12", "1/2"),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("1 and 1/2", "3/2"),
        ("2\\frac{1}{4}", "9/4"),
        ("½", "1/2"),
        ("3½", "7/2"),
        ("$42", 42),
        ("\\$42.50", "85/2"),
        ("-$5", -5),
        ("€5", 5),
        ("US$5", 5),
        ("5 USD", 5),
        ("42 apples", 42),
        ("42 km/h", 42),
        ("42km", 42),
        ("9.8 m/s^2", "49/5"),
        ("5 cm²", 5),
        ("5\\text{ cm}", 5),
        ("90^\\circ", 90),
        ("21°C", 21),
        ("5th", 5),
        ("7 days a week", 7),
        ("2 million", 2000000),
        ("1.5 million dollars", 1500000),
        ("3 dozen eggs", 36),
        ("x = 5", 5),
        ("$x=\\frac{1}{2}$", "1/2"),
        ("\\(42\\)", 42),
        ("**42**", 42),
        ("`42`", 42),
        ("(42)", 42),
        ("about 42", 42),
        ("approx. 42", 42),
        ("≈ 42", 42),
        ("٤٢", 42),
    ],
)
def test_a_number_is_read_exactly(text: str, value: int | str) -> None:
    assert read_quantity(text) == Quantity(Fraction(value))


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "apples",
        "2x",
        "2 x",
        "2\\pi",
        "2 pi",
        "\\sqrt{2}",
        "3,14",
        "1,23,456",
        "1,234,56",
        "1.2.3",
        "3 or 4",
        "3 and 4",
        "3-4",
        "3 to 4",
        "(3, 4)",
        "(3,400)",
        "3:4",
        "5!",
        "1/0",
        "\\frac{1}{0}",
        "3 + 4",
        "3 + 4 = 7",
        "2024/01/02",
        "5i",
        "x",
        "1e999999",
        "1e-999999",
        "10^{99999}",
        "1 x 10^999999",
        "9" * 300,
        "5" + " " * 300,
    ],
)
def test_what_is_no_single_number_is_none(text: str) -> None:
    assert read_quantity(text) is None


@given(st.integers(-(10**15), 10**15))
def test_any_integer_survives_its_spellings(number: int) -> None:
    for text in (str(number), f"{number:,}", f"{number}.0", f"{number:,} km", f"${number}$", f"x = {number}"):
        assert read_quantity(text) == Quantity(Fraction(number))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_any_decimal_is_read_without_rounding(number: Decimal) -> None:
    assert read_quantity(str(number)) == Quantity(Fraction(number))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_is_the_decimal_it_is_written_as(number: float) -> None:
    assert read_quantity(repr(number)) == Quantity(Fraction(Decimal(repr(number))))


@given(st.fractions(max_denominator=10**6, min_value=-(10**6), max_value=10**6))
def test_any_fraction_is_read_plain_and_in_latex(number: Fraction) -> None:
    plain = f"{number.numerator}/{number.denominator}"
    latex = f"\\frac{{{number.numerator}}}{{{number.denominator}}}"
    assert read_quantity(plain) == read_quantity(latex) == Quantity(number)


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    found = read_quantity(text)
    assert found is None or abs(found.value) < Fraction(10) ** (MAX_EXPONENT + 300)


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ("50%", "0.5", True),
        ("50%", "50", True),
        ("0.5", "50%", True),
        ("50 percent", "50\\%", True),
        ("50%", "0.5%", False),
        ("50%", "5", False),
        ("5k", "5000", True),
        ("300K", "300", True),
        ("5k", "5", True),
        ("0.333333333", "1/3", True),
        ("0.333", "1/3", False),
        ("1000001", "1000000", False),
        ("10000000000000001", "10000000000000000", False),
        ("0.30000000000000004", "0.3", True),
        ("1e-9", "0", False),
        ("0", "0.0", True),
        ("-0", "0", True),
        ("3.0", "3", True),
        ("-3", "3", False),
    ],
)
def test_equality_is_by_value(found: str, expected: str, same: bool) -> None:
    one, other = read_quantity(found), read_quantity(expected)
    assert one is not None and other is not None
    assert same_quantity(one, other, TOLERANCE) is same
