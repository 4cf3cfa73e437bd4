"""Numbers as people and models write them, read exactly: no floats, no evaluation, bounded work."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeAlias

# No number is longer. Beyond the exponent exact arithmetic costs memory for nothing.
MAX_LENGTH: Final = 200
MAX_EXPONENT: Final = 400

Scale: TypeAlias = Literal["percent", "thousand"]
SCALES: Final[dict[Scale, Fraction]] = {"percent": Fraction(1, 100), "thousand": Fraction(1000)}


@dataclass(frozen=True)
class Quantity:
    """A number without its unit. ``scale`` stands apart because people write it or leave it out: 50%, 5k."""

    value: Fraction
    scale: Scale | None = None

    @property
    def readings(self) -> tuple[Fraction, ...]:
        """What the number may mean: as it is written, and with its scale."""
        return (self.value,) if self.scale is None else (self.value, self.value * SCALES[self.scale])


def read_quantity(text: str) -> Quantity | None:
    """The number that ``text`` is, whatever stands around one: markup, "x =", a sign, a currency, a unit.

    Integers with thousands separators, decimals, scientific notation, fractions (mixed and LaTeX's too). None for
    several numbers, for expressions, and for a decimal comma, which could as well separate thousands.
    """
    if len(text) > MAX_LENGTH:
        return None
    plain = _ASSIGNED.sub("", _without_markup(text))
    sign, rest = _signed(_LEADING.sub("", plain))
    found = _fraction(rest) or _decimal(rest)
    if found is None:
        return None
    size, after = found
    return _with_suffix(sign * size, after)


def same_quantity(found: Quantity, expected: Quantity, tolerance: Fraction) -> bool:
    """True for equal numbers: integers exactly, others within ``tolerance`` times the expected one.

    50% is 0.5, and is 50 where the other side leaves the sign out.
    """
    if found.scale == expected.scale:
        return _close(found.value, expected.value, tolerance)
    return any(_close(f, e, tolerance) for f in found.readings for e in expected.readings)


def plain_characters(text: str) -> str:
    """Typographic minus signs, spaces, digits, superscripts and vulgar fractions as ASCII writes them."""
    if text.isascii():
        return text
    raised = _SUPERSCRIPTS.sub(lambda found: "^" + found[0].translate(_LOWERED), text)
    return _OTHER_DIGITS.sub(lambda found: str(unicodedata.decimal(found[0])), raised.translate(_PLAIN))


def unwrapped(text: str) -> str:
    """The text with what LaTeX's \\text{...} and its like hold in their place."""
    return _WRAPPED.sub(r" \1", text)


# --- reading a number -----------------------------------------------------------------------------------
# Every pattern is anchored by `match` or meets at most MAX_LENGTH characters, and none nests a repetition.

_MARKUP: Final = re.compile(
    r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;!:()\[\]]|(?:\bUS)?\\?\$|\*\*(?![0-9({+-])|__|`"
)
_WRAPPED: Final = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mathit|operatorname|mbox)\s?\{([^{}]*)\}")
_ASSIGNED: Final = re.compile(r"[A-Za-z](?:_?\{?\w{1,3}\}?)?\s*(?:=|≈|\\approx)\s*")
_LEADING: Final = re.compile(
    r"^(?:(?:about|approximately|approx|around|roughly|exactly|only|nearly|equals?|usd|eur|gbp)\b\.?\s*"
    r"|[~≈=€£¥₹]\s*|\\approx(?![A-Za-z])\s*){1,4}",
    re.IGNORECASE,
)
_SIGN: Final = re.compile(r"([+-]|minus\b|negative\b)\s*[€£¥₹]?\s*", re.IGNORECASE)
_LATEX_FRACTION: Final = re.compile(
    r"([0-9]{0,9})\s*\\[dt]?frac\s*(?:\{\s*(-?[0-9.,]{1,40})\s*\}|([0-9]))\s*(?:\{\s*(-?[0-9.,]{1,40})\s*\}|([0-9]))"
)
_FRACTION: Final = re.compile(r"(?:([0-9]{1,9})(?: +| and ))?([0-9.,]{1,40}) ?/ ?(-?[0-9.,]{1,40})(?![0-9/])")
_POWER_OF_TEN: Final = re.compile(r"10\s*(?:\^|\*\*)\s*(?:\{\s*([+-]?[0-9]{1,6})\s*\}|([+-]?[0-9]{1,6}))")
_GROUPED: Final = re.compile(r"(?:[0-9]{1,3}(?:[,_][0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+)(?![0-9,_])")
_DIGITS: Final = re.compile(r"[0-9]+")
_DECIMALS: Final = re.compile(r"\.([0-9]*)")
_EXPONENT: Final = re.compile(r"\s*(?:\*|x|\\times|\\cdot)\s*(?=10\s*(?:\^|\*\*))|[eE]([+-]?[0-9]{1,6})")
_MULTIPLIER: Final = re.compile(r"\s*(hundred|thousand|million|billion|trillion|dozen)\b", re.IGNORECASE)
_MULTIPLIERS: Final = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_SCALED: Final[dict[Scale, re.Pattern[str]]] = {
    "percent": re.compile(r"\s?(?:\\?%|percent\b|per cent\b|percentage points\b)", re.IGNORECASE),
    "thousand": re.compile(r"[kK](?![A-Za-z])"),
}
_ATTACHED: Final = re.compile(
    r"(?:(?:°|\^\\circ|\^\{\\circ\})\s?[CFK]?|[¢€£¥]|st|nd|rd|th|[kcmnµμ]?(?:m|g|s|l|L|W|J|N|V|A|Pa|Hz|mol)|[kKMGT]B"
    r"|h|hrs?|mins?|secs?|ft|in|lbs?|oz|mph|[ap]m|C|F|USD|EUR)(?:\^?[23]|/[A-Za-z]{1,3}(?:\^?2)?)?(?![A-Za-z])"
)
_UNIT: Final = re.compile(r"\s[A-Za-z°µμ'’\-/^()\\. ]*[A-Za-z°)](?:\^?\{?[23]\}?)?\s*")
# Words that say that more is meant than one number and its unit.
_NO_UNIT: Final = re.compile(
    r"\b(?:pi|e|i|or|and|to|plus|minus|times|divided|over|sqrt|root|[xyzbcknt]|infinity|infty|frac|cdot|mod|if)\b", re.I
)
_SUPERSCRIPTS: Final = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_LOWERED: Final = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR: Final = {
    character: f" {unicodedata.normalize('NFKC', character).replace('⁄', '/')}" for character in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
}
_PLAIN: Final = str.maketrans(
    _VULGAR
    | {
        **dict.fromkeys("−–‐‑﹣－", "-"),
        **dict.fromkeys("\u00a0\u202f\u2009\u2007\u200b", " "),
        **dict.fromkeys("×✕·⋅∙", "*"),
        "⁄": "/",
        "∕": "/",
        "％": "%",
        "，": ",",
        "．": ".",
    }
)
_OTHER_DIGITS: Final = re.compile(r"(?![0-9])\d")


def _without_markup(text: str) -> str:
    content = unwrapped(plain_characters(text.strip().strip("*_`")))
    plain = _MARKUP.sub("", content).replace("\\ ", " ").replace("{,}", ",").strip().rstrip(".;:? ")
    return plain[1:-1].strip() if _is_wrapped(plain) else plain


def _is_wrapped(text: str) -> bool:
    """True where one pair of brackets or quotes stands around it all; (3,400) is a pair of numbers."""
    return text[:1] + text[-1:] in ("()", "{}", "[]", '""', "''") and not re.search(r"[()\[\]{},]", text[1:-1])


def _signed(text: str) -> tuple[int, str]:
    found = _SIGN.match(text)
    if not found:
        return 1, text
    return (1 if found[1] == "+" else -1), text[found.end() :]


def _fraction(text: str) -> tuple[Fraction, str] | None:
    """A fraction at the beginning, and what follows it."""
    latex = _LATEX_FRACTION.match(text)
    found = latex or _FRACTION.match(text)
    if not found:
        return None
    whole, top, bottom = (latex[1], latex[2] or latex[3], latex[4] or latex[5]) if latex else found.groups()
    units, over, under = (_number(part) for part in (whole or "0", top, bottom))
    if units is None or over is None or not under:
        return None
    return units + over / under, text[found.end() :]


def _number(text: str) -> Fraction | None:
    """A decimal with nothing behind it."""
    sign, rest = _signed(text)
    found = _decimal(rest)
    return sign * found[0] if found and not found[1] else None


def _decimal(text: str) -> tuple[Fraction, str] | None:
    """A decimal number or a power of ten at the beginning, exactly, and what follows it."""
    ten = _POWER_OF_TEN.match(text)
    if ten:
        return _scaled(1, int(ten[1] or ten[2]), text[ten.end() :])
    whole = _GROUPED.match(text) or _DIGITS.match(text)
    place = whole.end() if whole else 0
    decimals = _DECIMALS.match(text, place)
    places = decimals[1] if decimals else ""
    digits = re.sub("[ ,_]", "", whole[0] if whole else "") + places
    if not digits:
        return None
    after = text[decimals.end() if decimals else place :]
    exponent = _EXPONENT.match(after)
    if exponent and exponent[1]:
        return _scaled(int(digits), int(exponent[1]) - len(places), after[exponent.end() :])
    if exponent:
        power = _decimal(after[exponent.end() :])
        return (int(digits) * power[0] / 10 ** len(places), power[1]) if power else None
    return _scaled(int(digits), -len(places), after)


def _scaled(digits: int, exponent: int, after: str) -> tuple[Fraction, str] | None:
    return (digits * Fraction(10) ** exponent, after) if abs(exponent) <= MAX_EXPONENT else None


def _with_suffix(value: Fraction, after: str) -> Quantity | None:
    """The number with what is written behind it; None where that is no unit."""
    for scale, pattern in _SCALED.items():
        found = pattern.match(after)
        if found:
            return Quantity(value, scale) if _is_unit(after[found.end() :]) else None
    multiplier = _MULTIPLIER.match(after)
    if multiplier:
        value, after = value * _MULTIPLIERS[multiplier[1].lower()], after[multiplier.end() :]
    attached = _ATTACHED.match(after)
    return Quantity(value) if _is_unit(after[attached.end() :] if attached else after) else None


def _is_unit(text: str) -> bool:
    if not text.strip():
        return True
    return bool(_UNIT.fullmatch(text)) and not _NO_UNIT.search(text)


def _close(found: Fraction, expected: Fraction, tolerance: Fraction) -> bool:
    if found == expected:
        return True
    if found.denominator == expected.denominator == 1:
        return False
    return abs(found - expected) <= tolerance * abs(expected)
