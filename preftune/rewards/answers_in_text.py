"""The final answer of a text, and whether it is the expected one: numbers, choices, yes or no, words."""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from preftune.rewards.quantities import Quantity, plain_characters, read_quantity, same_quantity, unwrapped

# What is read of a text: its end, where final answers stand. No answer in it is longer than MAX_ANSWER.
MAX_TEXT: Final = 200_000
MAX_ANSWER: Final = 1000
MAX_PARTS: Final = 50
# Of each form only the last few occurrences are looked at.
MAX_TRIES: Final = 20


@dataclass(frozen=True)
class Answer:
    """One answer in every way it can be read; what it is not is None."""

    words: str
    quantity: Quantity | None = None
    choice: str | None = None
    verdict: bool | None = None
    parts: tuple[Answer, ...] = ()


def is_right(
    text: str, expected: str, tolerance: Fraction = Fraction(1, 10**6), *, announced_only: bool = False
) -> bool:
    """True where the final answer of ``text`` is ``expected``, which may be a whole solution with its final answer.

    Final answers are \\boxed{...}, <answer>...</answer>, "#### ..." and "the answer is ...". The last one counts; one
    of the two looser forms counts only where it holds an answer of the expected kind, since "####" also opens a
    heading. Without any the text itself is the answer, or else, unless ``announced_only``, its last number, its last
    "(B)", the yes or no it begins with, or its last line. What stands in <think>...</think>, closed or not, is none.
    """
    wanted = read_expected(expected)
    visible = _without_thinking(text[-MAX_TEXT:])
    found = _of_final_form(visible, wanted)
    if found is None:
        found = [read_answer(visible.strip())] if announced_only else _without_form(visible, wanted)
    return any(same_answer(one, wanted, tolerance) for one in found)


def read_expected(text: str) -> Answer:
    """The answer of a data set's row: the text itself, or the final answer that a whole solution ends with."""
    itself = read_answer(text)
    if itself.quantity or itself.choice or itself.verdict is not None:
        return itself
    forms = [form for form in _final_forms(text[-MAX_TEXT:]) if form.content]
    if not forms:
        return itself
    readings = [read_answer(content) for content in forms[-1].readings]
    return next((one for one in readings if one.quantity or one.choice or one.verdict is not None), readings[0])


def read_answer(text: str) -> Answer:
    """A short text as an answer; one of more than MAX_ANSWER characters is only words."""
    if len(text) > MAX_ANSWER:
        return Answer(_words(text[:MAX_TEXT]))
    content = _unboxed(text)
    return Answer(_words(content), read_quantity(content), _choice(content), _verdict(content), _parts(content))


def same_answer(found: Answer, expected: Answer, tolerance: Fraction) -> bool:
    """True where both are the same number, choice, verdict or words; tuples agree part by part."""
    if expected.quantity:
        return found.quantity is not None and same_quantity(found.quantity, expected.quantity, tolerance)
    if expected.verdict is not None:
        return found.verdict == expected.verdict
    if found.words == expected.words and expected.words:
        return True
    if expected.choice:
        return found.choice == expected.choice
    return len(found.parts) == len(expected.parts) > 0 and all(
        same_answer(f, e, tolerance) for f, e in zip(found.parts, expected.parts, strict=True)
    )


# --- finding --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Form:
    """A final answer where it stands; ``is_loose`` ones also occur where nothing is answered."""

    start: int
    content: str
    readings: tuple[str, ...]
    is_loose: bool


_ANSWER_OPEN: Final = re.compile(r"<answer>", re.IGNORECASE)
_ANSWER_CLOSE: Final = re.compile(r"</answer>", re.IGNORECASE)
_BOXED: Final = re.compile(r"\\f?boxed\s?(?=[{0-9A-Za-z-])")
# What follows a form is looked ahead at, not taken: another form may stand in the same line.
_HASHES: Final = re.compile(r"(?<!#)####(?!#)(?=([^\n]{1,300}))")
_PHRASE: Final = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s{1,3}(?:to|of|for)\b[^.:=\n]{1,60}?)?"
    r"[*_\s]{0,4}(?:(?:is|=)(?![A-Za-z])(?:\s{1,3}(?:therefore|thus|then|simply|option|choice)\b)?[*_\s]{0,4}:?|:)"
    r"[*_\s]{0,4}(?:\\\[|\$\$)?\s{0,3}(?=([^\n]{1,300}))",
    re.IGNORECASE,
)
_SENTENCE_END: Final = re.compile(
    r"[.;!?](?=[\s*_\"')]|$)|,(?=\s+[A-Za-z])|\s(?:because|since|which|where|when|but|so)\s|\s[-–—]\s|\s\("
)
_NUMBER: Final = re.compile(
    r"(?<![\w.,^/-])[-−+]?[€£¥]?(?:\\?\$)?[-−]?(?:[0-9]{1,40}(?:[,.][0-9]{1,40}){0,12}|\.[0-9]{1,40})"
    r"(?:[eE][+-]?[0-9]{1,4}|\s?(?:[×x*]|\\times|\\cdot)\s?10\s?\^\s?\{?-?[0-9]{1,4}\}?)?"
    r"(?:\s?/\s?[0-9]{1,40})?(?:\s?\\?%)?"
    r"(?![0-9^/]|[.,][0-9]|[xyzni](?![A-Za-z])|\\(?:sqrt|pi|frac|cdot|times))"
)
_BRACKETED_CHOICE: Final = re.compile(r"\(([A-Za-z])\)")
_LINE_CHOICE: Final = re.compile(r"^[ \t*_]{0,6}\(?([A-Z])(?:\)|[.:](?=\s|\*|$)|[*_ \t]{0,6}$)", re.MULTILINE)
_FIRST_VERDICT: Final = re.compile(
    r"[\s*_\"'(]{0,8}(yes|no|true|false)\b(?=[\s*_\"')]{0,4}(?:[.,;:!]|\n|$|[-–—]))", re.I
)


def _without_thinking(text: str) -> str:
    after = text.rpartition("</think>")[2]
    return after.partition("<think>")[0]


def _of_final_form(text: str, wanted: Answer) -> list[Answer] | None:
    """The readings of the final answer that counts; None where the text has no final form."""
    for form in reversed(_final_forms(text)):
        readings = [read_answer(content) for content in form.readings]
        of_kind = [one for one in readings if _is_of_kind(one, wanted)]
        if of_kind:
            return of_kind
        if not form.is_loose:
            return _without_form(form.content, wanted)
    return None


def _final_forms(text: str) -> list[_Form]:
    """The final answers in the order in which they begin."""
    forms = [
        *_boxed(text),
        *_tagged(text),
        *(_Form(found.start(), found[1].strip(), (found[1],), is_loose=True) for found in _last(_HASHES, text)),
        *(_announced(found) for found in _last(_PHRASE, text)),
    ]
    return sorted(forms, key=lambda form: form.start)


def _boxed(text: str) -> Iterator[_Form]:
    for found in _last(_BOXED, text):
        place = found.end()
        content = _braced(text, place) if text[place] == "{" else re.split(r"[\s$.,]", text[place : place + 40])[0]
        if content is not None:
            yield _Form(found.start(), content, (content,), is_loose=False)


def _tagged(text: str) -> Iterator[_Form]:
    opened = [found.end() for found in _ANSWER_OPEN.finditer(text)]
    for close in _last(_ANSWER_CLOSE, text):
        before = bisect(opened, close.start())
        if before:
            content = text[opened[before - 1] : close.start()]
            yield _Form(opened[before - 1], content.strip(), (content,), is_loose=False)


def _announced(found: re.Match[str]) -> _Form:
    """The rest of the line, and what of it comes before the sentence ends."""
    line = found[1].strip()
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    is_hedged = re.match(r"[\s,.;]*(?:or|maybe|perhaps|possibly)\b", line[len(sentence) :], re.IGNORECASE)
    return _Form(found.start(), line, (line,) if is_hedged else (line, sentence), is_loose=True)


def _braced(text: str, start: int) -> str | None:
    """What the brace at ``start`` encloses; None where it is not closed within MAX_ANSWER characters."""
    depth = 0
    for place in range(start, min(len(text), start + MAX_ANSWER)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return text[start + 1 : place]
    return None


def _without_form(text: str, wanted: Answer) -> list[Answer]:
    """What a text says that announces no answer: one answer, or of words the whole and the last line."""
    itself = read_answer(text.strip())
    if wanted.quantity:
        return [itself] if itself.quantity else _last_number(text)
    if wanted.verdict is not None:
        first = _FIRST_VERDICT.match(text)
        return [itself, *([Answer("", verdict=first[1].lower() in ("yes", "true"))] if first else [])]
    if wanted.choice and not itself.choice:
        letters = sorted([*_last(_BRACKETED_CHOICE, text), *_last(_LINE_CHOICE, text)], key=lambda found: found.start())
        return [itself, *([Answer("", choice=letters[-1][1].upper())] if letters else [])]
    before, _, last_line = text.strip().rpartition("\n")
    return [itself, read_answer(last_line)] if before else [itself]


def _last_number(text: str) -> list[Answer]:
    """What the last line ends with after "=", else the last number."""
    result = read_answer(text.rstrip()[-MAX_ANSWER:].rpartition("\n")[2].rpartition("=")[2])
    numbers = [] if result.quantity else _last(_NUMBER, text)
    return [read_answer(numbers[-1][0])] if numbers else [result]


def _is_of_kind(answer: Answer, wanted: Answer) -> bool:
    if wanted.quantity:
        return answer.quantity is not None
    if wanted.verdict is not None:
        return answer.verdict is not None
    if wanted.choice:
        return answer.choice is not None or answer.words == wanted.words
    return True


def _last(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    found: list[re.Match[str]] = []
    for one in pattern.finditer(text):
        found.append(one)
        if len(found) > MAX_TRIES:
            del found[0]
    return found


# --- reading --------------------------------------------------------------------------------------------

_CHOICE: Final = re.compile(
    r"(?:(?i:option|choice|answer)\s)?\s*(?:\(([A-Za-z])\)|([A-Z])(?:[.:)](?=\s|$)|$)|([a-z])\)?$)"
)
_VERDICTS: Final = {"yes": True, "true": True, "no": False, "false": False}
_FORMULA: Final = re.compile(r"[\\^=+{}()\[\]/<>|0-9]")
_LONE_BRACES: Final = re.compile(r"\{(\w)\}")
_SPACING: Final = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;!: ]|\\?\$|[*_`\"]|\\[()\[\]]")


def _unboxed(text: str) -> str:
    """The text without the box or the markup that stands around it all."""
    content = text.strip().strip("$*_ ").rstrip(".").strip()
    for _ in range(3):
        box = _BOXED.match(content)
        inside = _braced(content, box.end()) if box and content[box.end()] == "{" else None
        if not box or inside is None or box.end() + len(inside) + 2 < len(content.rstrip("$. ")):
            break
        content = inside.strip()
    return content


def _choice(text: str) -> str | None:
    plain = unwrapped(text).strip(" *_$`\"'").rstrip(".")
    found = _CHOICE.match(plain)
    if not found:
        return None
    return (found[1] or found[2] or found[3]).upper()


def _verdict(text: str) -> bool | None:
    return _VERDICTS.get(_words(text))


def _parts(text: str) -> tuple[Answer, ...]:
    """The answers between the brackets of (a, b) or [a, b]."""
    content = _SPACING.sub("", plain_characters(text)).strip()
    if content[:1] + content[-1:] not in ("()", "[]") or "," not in content:
        return ()
    pieces = content[1:-1].split(",")
    if len(pieces) > MAX_PARTS or any(len(piece) > 200 for piece in pieces):
        return ()
    return tuple(Answer(_words(piece), read_quantity(piece)) for piece in pieces)


def _words(text: str) -> str:
    """The text as words are compared: no case, markup, articles and full stop; in formulas no spaces either."""
    plain = _SPACING.sub("", unwrapped(plain_characters(text))).casefold()
    folded = re.sub(r"^(?:the|an?)\s+", "", " ".join(plain.split()).strip(" .;:?'"))
    folded = re.sub(r"(?<=[a-z])!+$", "", folded)
    if not _FORMULA.search(folded):
        return folded
    return _LONE_BRACES.sub(r"\1", folded.replace(" ", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
