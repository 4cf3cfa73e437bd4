"""Patterns that tell what a text holds, each behind a cheap look for a character it cannot do without."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache

SCRIPTS = (
    "latin",
    "cyrillic",
    "greek",
    "arabic",
    "hebrew",
    "indic",
    "thai",
    "hangul",
    "han",
    "japanese",
    "other-script",
)
OPENING = 300  # characters of a text in which a refusal is looked for
LONG_TEXT = 100  # characters; a shorter text without a final mark may be a whole answer
_SCRIPT_SAMPLE = 24  # characters of a text by which its script is told

_CONTROLS = bytes({*range(32), 127} - set(b"\t\n\r"))
_DIGITS, _NO_DIGITS = 7, bytes(set(range(256)) - set(b"0123456789"))  # fewest digits of what is told by its digits
_ASCII = bytes(range(128))
_TYPOGRAPHY = "‘’“”–—…•"
_TWO_BEYOND_ASCII = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+[\xc2-\xf4]|\xc3[\x82\x83]")
_LATIN_LETTER = re.compile(r"[A-Za-z]")
# Joiners (U+200C, U+200D) and direction marks (U+200E, U+200F) belong to scripts and emoji.
_INVISIBLE = re.compile(r"[\u00ad\u200b\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_C1_CONTROL = re.compile(r"[\x80-\x9f]")
# What damage cannot do without, in Latin, Cyrillic and Greek code pages: ftfy's rules take ten times as long.
_MAYBE_MOJIBAKE = re.compile(
    r"[\x80-\xffĂăĄąČčĎďĘęŃńŇňŐőŘřŠšŽž€][^\x00-\x7f]|[ÃÂ]"
    r"|[РС][\u0402-\u040f\u0452-\u045f\u0490\u0491\xa0-\xbf\u2010-\u2122]"
    r"|[ΞΟ][^\x00-\x7fα-ωΑ-Ωά-ώ]"
)
_MOJIBAKE = re.compile(
    r"â€|ï»¿|[ÃÂ][\x80-\xbf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|(?:[ÐÑ][\x80-\xbf‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]){2}"
)

_SPECIAL_TOKEN = re.compile(
    r"<[|｜][^<>|｜\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk|mask|start_of_turn|end_of_turn|endoftext)>|<</?SYS>>"
)
_BRACKET_TOKEN = re.compile(r"\[/?(?:INST|CLS|SEP|PAD|UNK|MASK)\]")
_TURN = re.compile(
    r"^(?:#{2,}[ \t]*(?:Instruction|Response|Input|Output|Human|Assistant|User|System)|Human|Assistant|User|USER"
    r"|ASSISTANT)[ \t]?:",
    re.MULTILINE,
)
_TURN_SIGNS = ("Human", "Assistant", "User", "USER", "ASSIS", "##")
_HTML = re.compile(
    r"</?(?:p|br|div|span|a|b|i|u|em|strong|ul|ol|li|table|tr|td|th|h[1-6]|img|html|head|body|font|center|sup|sub|hr"
    r"|blockquote|iframe|script|style)(?:\s[^<>]{0,200})?/?>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:nbsp|amp|lt|gt|quot|apos|#\d{2,6}|#x[0-9a-fA-F]{2,6});")

_REFUSAL_SIGNS = ("orry", "annot", "can't", "can’t", "an not", "able to", "polog", "comfortable", "will not")
_REFUSAL = re.compile(
    r"\bi(?:'m| am)? (?:really |very |so |just )?"
    r"(?:sorry|cannot|can't|can not|unable|not able|won't|will not|apologi[sz]e|not comfortable)\b[^.!?\n]{0,80}?"
    r"\b(?:help|assist|provide|answer|comply|fulfill?|support|engage|create|write|generate|discuss|share|recommend"
    r"|participate|condone|encourage|do that|tell you|give you|but i|i can't|i cannot|i don't)\b"
)
_ASSISTANT_SIGNS = ("AI", "n ai", "anguage model", "rtificial intel", "nowledge cut")
_ASSISTANT = re.compile(
    r"\b(?:as|i am|i'm)(?: just| only)? an? (?:ai\b|artificial intelligence|(?:large |ai )?language model)"
    r"|\bmy knowledge cut-?off"
)

_EMAIL = re.compile(r"[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b")
_PHONE = re.compile(
    r"(?<![\w.+])(?:\+\d{1,3}[ .-]?(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4})(?!\w)"
)
_CARD = re.compile(r"(?<![\w.-])[3-6](?:[ -]?\d){12,18}(?![\w-])")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_IP = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.])")

# Of each kind of secret a sign that it cannot do without, first of its pattern; by a character that is in the sign.
_SECRETS: dict[str, tuple[tuple[str, re.Pattern[str]], ...]] = {
    "A": (
        ("KIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
        ("SIA", re.compile(r"\bASIA[0-9A-Z]{16}\b")),
        ("AIza", re.compile(r"\bAIza[\w-]{35}")),
    ),
    "J": (("eyJ", re.compile(r"(?<![\w-])eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.")),),
    "-": (
        ("---BEGIN ", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY")),
        ("sk-", re.compile(r"(?<![\w-])sk-(?=[\w-]{0,60}\d)[\w-]{20,}")),
        ("xox", re.compile(r"(?<![\w-])xox[abeoprs]-[\w-]{10,}")),
        ("glpat-", re.compile(r"(?<![\w-])glpat-[\w-]{20,}")),
    ),
    "_": (
        ("k_live_", re.compile(r"\b[rs]k_live_\w{16,}")),
        ("gh", re.compile(r"\bgh[oprsu]_[A-Za-z0-9]{36}")),
        ("github_pat_", re.compile(r"\bgithub_pat_\w{22,}")),
        ("hf_", re.compile(r"\bhf_[A-Za-z0-9]{30,}")),
        ("npm_", re.compile(r"\bnpm_[A-Za-z0-9]{36}")),
    ),
}

_FINAL = frozenset(".!?…。！？»”’\"')]}>*`_~|:;।؟」』】）:")


def has_control(raw: bytes) -> bool:
    """Control characters other than tab, line feed and carriage return, in a text as UTF-8."""
    return len(raw.translate(None, _CONTROLS)) != len(raw)


def beyond_ascii(raw: bytes) -> str:
    """The characters beyond ASCII of a text as UTF-8; none where they are but quotation marks and dashes."""
    return raw.translate(None, _ASCII).decode(errors="surrogatepass").strip(_TYPOGRAPHY)


def has_c1_control(text: str) -> bool:
    """Control characters from 0x80 on: Windows' quotation marks read as Latin-1."""
    return _C1_CONTROL.search(text) is not None


def has_invisible(text: str) -> bool:
    """Characters that show nothing: zero-width space, soft hyphen, BOM, direction overrides, tags."""
    return _INVISIBLE.search(text) is not None


def has_mojibake(text: str, raw: bytes) -> bool:
    """Sequences that arise where UTF-8 is read as another encoding; by ftfy's rules where it is installed.

    ``raw`` is the text as UTF-8.
    """
    if _TWO_BEYOND_ASCII.search(raw) is None or _MAYBE_MOJIBAKE.search(text) is None:
        return False
    return _is_mojibake()(text)


def has_special_token(text: str) -> bool:
    """Tokens of chat templates and tokenizers written out: ``<|im_start|>``, ``</s>``, ``[INST]``."""
    if "<" in text and _SPECIAL_TOKEN.search(text):
        return True
    return "[" in text and _BRACKET_TOKEN.search(text) is not None


def has_turn(text: str) -> bool:
    """A turn's heading at the beginning of a line: "### Response:", "Human:"."""
    return ":" in text and _holds(text, _TURN_SIGNS) and _TURN.search(text) is not None


def has_html(text: str) -> bool:
    """HTML tags or entities."""
    return ("<" in text and _HTML.search(text) is not None) or ("&" in text and _ENTITY.search(text) is not None)


def refuses(text: str) -> bool:
    """Words of refusal near the beginning."""
    opening = text[:OPENING]
    return _holds(opening, _REFUSAL_SIGNS) and _REFUSAL.search(opening.lower().replace("’", "'")) is not None


def speaks_as_assistant(text: str) -> bool:
    """ "As an AI language model" and the like."""
    return _holds(text, _ASSISTANT_SIGNS) and _ASSISTANT.search(text.lower().replace("’", "'")) is not None


def has_email(text: str) -> bool:
    """What looks like a mail address."""
    return "@" in text and _EMAIL.search(text) is not None


def has_long_number(raw: bytes) -> bool:
    """So many digits, in a text as UTF-8, that there may be a phone, card or account number."""
    return len(raw.translate(None, _NO_DIGITS)) >= _DIGITS


def has_phone(text: str) -> bool:
    """An international number with its plus sign, or one grouped as in North America."""
    return any(8 <= sum(map(str.isdigit, found[0])) <= 15 for found in _PHONE.finditer(text))


def has_card(text: str) -> bool:
    """A payment card's number, its check digit right."""
    return any(_is_luhn(found[0]) for found in _CARD.finditer(text))


def has_iban(text: str) -> bool:
    """An international bank account number, its check digits right."""
    return any(_is_iban(found[0]) for found in _IBAN.finditer(text))


def has_ip(text: str) -> bool:
    """An IPv4 address of seven digits and more: 1.2.3.4 is a version's number."""
    return any(sum(map(str.isdigit, found[0])) >= _DIGITS for found in _IP.finditer(text))


def has_secret(text: str) -> bool:
    """A private key, or a token by the prefix its issuer gives it."""
    return any(
        sign in text and pattern.search(text) is not None
        for character, kinds in _SECRETS.items()
        if character in text
        for sign, pattern in kinds
    )


def is_cut_off(text: str) -> bool:
    """A long text that ends with a letter, a digit or a comma."""
    if len(text) < LONG_TEXT:
        return False
    last = text.rstrip()[-1:]
    return last not in _FINAL and (last.isalnum() or last in ",-–—(")


def script_of(text: str, beyond: str) -> str | None:
    """The script of most of its letters, one of ``SCRIPTS``; None without letters.

    ``beyond`` is ``beyond_ascii(text)``, of which a sample is looked at.
    """
    counts: Counter[str] = Counter()
    if _LATIN_LETTER.search(text):
        counts["latin"] = len(text) - len(beyond)
    step = 1 + len(beyond) // _SCRIPT_SAMPLE
    for letter in filter(str.isalpha, beyond[::step]):
        counts[_script_of_page(ord(letter) >> 7)] += step
    if counts["japanese"] * 10 > counts["han"]:  # kana; kanji alone are told as han
        counts["japanese"] += counts.pop("han", 0)
    return max(counts, key=counts.__getitem__) if counts.total() else None


def masked(text: str) -> str:
    """The text with every hint of personal data and of secrets overwritten, for examples."""
    secrets = (pattern for kinds in _SECRETS.values() for _, pattern in kinds)
    for pattern in (*secrets, _EMAIL, _PHONE, _CARD, _IBAN, _IP):
        text = pattern.sub(lambda found: found[0][:4] + "•" * max(len(found[0]) - 4, 0), text)
    return text


@cache
def _is_mojibake() -> Callable[[str], bool]:
    try:
        from ftfy.badness import is_bad
    except ImportError:
        return lambda text: _MOJIBAKE.search(text) is not None
    return is_bad


def _holds(text: str, signs: tuple[str, ...]) -> bool:
    for sign in signs:  # noqa: SIM110 (any() of a generator takes twice as long)
        if sign in text:
            return True
    return False


def _is_luhn(number: str) -> bool:
    """Luhn's check of a number of 13 to 19 digits that are not all the same (ISO/IEC 7812-1)."""
    digits = [int(digit) for digit in number if digit.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(number: str) -> bool:
    """The check of ISO 13616: the number, its first four signs last and letters as numbers, is 1 mod 97."""
    compact = number.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


@cache
def _script_of_page(page: int) -> str:
    """The script of 128 code points, by the first that fits; a page with several scripts counts as its main one."""
    code = page << 7
    return next((script for first, last, script in _PAGES if first <= code <= last), "other-script")


_PAGES = (
    (0x0000, 0x02FF, "latin"),
    (0x1E00, 0x1EFF, "latin"),
    (0xFF00, 0xFF7F, "japanese"),
    (0x0300, 0x03FF, "greek"),
    (0x1F00, 0x1FFF, "greek"),
    (0x0400, 0x057F, "cyrillic"),
    (0x0580, 0x05FF, "hebrew"),
    (0x0600, 0x08FF, "arabic"),
    (0xFB00, 0xFDFF, "arabic"),
    (0xFE00, 0xFEFF, "arabic"),
    (0x0900, 0x0DFF, "indic"),
    (0x0E00, 0x0E7F, "thai"),
    (0x1100, 0x11FF, "hangul"),
    (0xAC00, 0xD7FF, "hangul"),
    (0x3000, 0x30FF, "japanese"),
    (0x3400, 0x9FFF, "han"),
    (0xF900, 0xFAFF, "han"),
    (0x20000, 0x3FFFF, "han"),
)
