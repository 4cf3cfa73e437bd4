"""Marks of a text: encoding damage, leftovers of templates, phrases, hints of personal data and secrets, script.

Hints, never a promise: a mark says that a pattern is there, and a text without marks may hold what no pattern knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, UInt32

from preftune.audit import text_patterns as find
from preftune.audit.examples import EXAMPLES, shortened
from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.errors import PreftuneError

DAMAGE = ("mojibake", "replacement-character", "control-character", "invisible-character")
PERSONAL = ("email", "phone", "card-number", "iban", "ip-address")
MARKS: tuple[str, ...] = (
    "blank",
    *DAMAGE,
    "special-token",
    "turn-heading",
    "html",
    "refusal",
    "assistant-phrase",
    *PERSONAL,
    "secret",
    "cut-off",
    *find.SCRIPTS,
)
"""The names of the bits of a mask, the lowest first; 27 of them, so that a mask fits 32 bits."""

Severity: TypeAlias = Literal["error", "warning", "info"]
OTHER_SCRIPT = "other-script-than-prompt"  # of a side, beside the marks of its text
TextMarks: TypeAlias = UInt32[np.ndarray, "pairs"]
Where: TypeAlias = Bool[np.ndarray, "pairs"]
TextsOf: TypeAlias = Callable[[Sequence[int]], Sequence[Mapping[str, str]]]

ONE_SIDED = (*MARKS[: MARKS.index("latin")], OTHER_SCRIPT)
LEAST_ONE_SIDED = 20  # pairs with the mark on one side, below which nothing is said
SHORTCUT_LIMIT = 0.15  # distance from one half, as for length
SIGNIFICANCE = 0.01  # of all marks together (Bonferroni)
COMMON = 0.01  # share of pairs above which a mark is a warning

_BIT = {name: 1 << place for place, name in enumerate(MARKS)}
_SCRIPT_BITS = sum(_BIT[name] for name in find.SCRIPTS)


@dataclass(frozen=True)
class MarkFigures:
    """In how many pairs a mark is in the prompt, on each side, and on one side alone.

    ``wins`` is the share of the pairs with the mark on one side alone in which that side is the chosen one.
    """

    prompt: int
    chosen: int
    rejected: int
    chosen_only: int
    rejected_only: int
    wins: Share


@dataclass(frozen=True)
class TextAudit:
    """What the texts of ``n`` pairs hold: figures by mark, and the prompts' scripts."""

    n: int
    marks: Mapping[str, MarkFigures]
    scripts: Mapping[str, int]
    findings: tuple[Finding, ...]


def marks_of(text: str) -> int:
    """The marks of a text as a mask over ``MARKS``; some microseconds for 500 characters."""
    if not text or text.isspace():
        return _BIT["blank"]
    raw = text.encode(errors="surrogatepass")
    mask = _BIT["control-character"] if find.has_control(raw) else 0
    beyond = "" if text.isascii() else find.beyond_ascii(raw)
    if beyond:
        mask |= _beyond_ascii(text, raw, beyond)
    if script := find.script_of(text, beyond):
        mask |= _BIT[script]
    if find.has_special_token(text):
        mask |= _BIT["special-token"]
    if find.has_turn(text):
        mask |= _BIT["turn-heading"]
    if find.has_html(text):
        mask |= _BIT["html"]
    if find.refuses(text):
        mask |= _BIT["refusal"]
    if find.speaks_as_assistant(text):
        mask |= _BIT["assistant-phrase"]
    if find.has_email(text):
        mask |= _BIT["email"]
    if find.has_long_number(raw):
        mask |= _numbers(text)
    if find.has_secret(text):
        mask |= _BIT["secret"]
    if find.is_cut_off(text):
        mask |= _BIT["cut-off"]
    return mask


def audit_text_marks(
    prompt_marks: Sequence[int] | TextMarks,
    chosen_marks: Sequence[int] | TextMarks,
    rejected_marks: Sequence[int] | TextMarks,
    ids: Sequence[str],
    texts_of: TextsOf | None = None,
) -> TextAudit:
    """What the marks of prompts and sides say of pairs: which tell the label, and which should not be there.

    The four are in the order of the data. ``texts_of`` gives the texts of some places by the names prompt, chosen and
    rejected, for examples; personal data and secrets are overwritten in them.
    """
    marks = tuple(np.asarray(part, dtype=np.uint32) for part in (prompt_marks, chosen_marks, rejected_marks))
    if len({len(ids), *map(len, marks)}) > 1:
        raise PreftuneError("The marks are not one a pair and part.", mend="Give four sequences of one length.")
    where = {name: tuple(part & _BIT[name] != 0 for part in marks) for name in MARKS}
    where[OTHER_SCRIPT] = _other_script(*marks)
    figures = {name: _figures(name, *places) for name, places in where.items() if name not in find.SCRIPTS}
    shown = _Shown(ids, texts_of)
    found = [*_shortcuts(figures, where, shown), *(_kind_finding(kind, where, shown) for kind in _KINDS)]
    scripts = {name: int(where[name][0].sum()) for name in find.SCRIPTS if where[name][0].any()}
    return TextAudit(len(ids), figures, scripts, tuple(finding for finding in found if finding is not None))


def names_of(mask: int) -> tuple[str, ...]:
    """The names of the marks in a mask."""
    return tuple(name for name, bit in _BIT.items() if mask & bit)


def _beyond_ascii(text: str, raw: bytes, beyond: str) -> int:
    checks = (
        ("replacement-character", "\ufffd" in beyond),
        ("control-character", find.has_c1_control(beyond)),
        ("invisible-character", find.has_invisible(beyond)),
        ("mojibake", find.has_mojibake(text, raw)),
    )
    return sum(_BIT[name] for name, is_there in checks if is_there)


def _numbers(text: str) -> int:
    """Marks that need a long number."""
    checks = (("phone", find.has_phone), ("card-number", find.has_card), ("iban", find.has_iban))
    mask = sum(_BIT[name] for name, is_there in checks if is_there(text))
    return mask | (_BIT["ip-address"] if find.has_ip(text) else 0)


def _other_script(prompt: TextMarks, chosen: TextMarks, rejected: TextMarks) -> tuple[Where, Where, Where]:
    """Where a side's script is known and not its prompt's; never of the prompt."""
    asked = prompt & _SCRIPT_BITS
    sides = [(asked != 0) & (side & _SCRIPT_BITS != 0) & (asked & side == 0) for side in (chosen, rejected)]
    return np.zeros(len(prompt), bool), *sides


def _figures(name: str, prompt: Where, chosen: Where, rejected: Where) -> MarkFigures:
    won, lost = int((chosen & ~rejected).sum()), int((rejected & ~chosen).sum())
    explanation = f"Share of the pairs with {name} on one side alone in which that side is the chosen one."
    wins = share_of(won, won + lost, f"The side with {name} wins", explanation)
    return MarkFigures(int(prompt.sum()), int(chosen.sum()), int(rejected.sum()), won, lost, wins)


class _Shown:
    """Ids and examples of places."""

    def __init__(self, ids: Sequence[str], texts_of: TextsOf | None) -> None:
        self._ids, self._texts_of = ids, texts_of
        self.n = len(ids)

    def rows(self, where: Where) -> tuple[str, ...]:
        return tuple(self._ids[int(place)] for place in np.flatnonzero(where))

    def examples(self, where: Where, why: str) -> tuple[dict[str, str], ...]:
        if self._texts_of is None:
            return ()
        places = np.flatnonzero(where)[:EXAMPLES].tolist()
        return tuple(
            {"id": self._ids[place], **{name: shortened(find.masked(text)) for name, text in texts.items()}, "why": why}
            for place, texts in zip(places, self._texts_of(places), strict=True)
        )


def _shortcuts(
    figures: Mapping[str, MarkFigures], where: Mapping[str, tuple[Where, Where, Where]], shown: _Shown
) -> Iterable[Finding]:
    """The marks that tell which side won, commonest first; too few pairs are said to be too few."""
    if shown.n < LEAST_ONE_SIDED:
        yield _too_few(shown.n)
        return
    for name in sorted(ONE_SIDED, key=lambda name: -figures[name].wins.n):
        wins = figures[name].wins
        if _is_shortcut(wins):
            _, chosen, rejected = where[name]
            yield _shortcut(name, wins, chosen != rejected, shown)


def _is_shortcut(wins: Share) -> bool:
    if wins.value is None or wins.n < LEAST_ONE_SIDED or abs(wins.value - 0.5) <= SHORTCUT_LIMIT:
        return False
    from scipy.stats import binomtest

    return bool(binomtest(round(wins.value * wins.n), wins.n).pvalue * len(ONE_SIDED) < SIGNIFICANCE)


def _shortcut(name: str, wins: Share, where: Where, shown: _Shown) -> Finding:
    assert wins.value is not None
    result = "wins" if wins.value > 0.5 else "loses"
    return Finding(
        id=f"shortcut-{name}",
        severity="warning" if wins.n > COMMON * shown.n else "info",
        title=f"The side with {_TITLES.get(name, name)} usually {result}",
        what="A model can tell the label by this mark alone, without reading the answer.",
        evidence=(
            f"It wins {wins.value:.1%} of {count_of(wins.n, 'pair')} that have it on one side alone "
            f"(95% interval {wins.low:.1%} to {wins.high:.1%})."
        ),
        rows=shown.rows(where),
        remedy="Take it out of both sides where it is damage; where it is what was preferred, keep it and know it.",
        share=wins,
        examples=shown.examples(where, f"{name} on one side alone"),
    )


def _too_few(n: int) -> Finding:
    return Finding(
        id="few-pairs-for-marks",
        severity="info",
        title="Too few pairs to tell what marks the winner",
        what="With so few pairs a phrase or a broken sign on one side alone says nothing about the label.",
        evidence=f"{count_of(n, 'pair')}; {LEAST_ONE_SIDED} with a mark on one side alone are the least.",
        rows=(),
        remedy="Collect more pairs.",
    )


@dataclass(frozen=True)
class _Kind:
    """Marks that are one finding, in which parts they count (prompt 0, chosen 1, rejected 2), and how bad they are."""

    id: str
    marks: tuple[str, ...]
    parts: tuple[int, ...]
    title: str
    what: str
    remedy: str
    rare: Severity | None
    common: Severity


def _kind_finding(kind: _Kind, where: Mapping[str, tuple[Where, Where, Where]], shown: _Shown) -> Finding | None:
    by_mark = {mark: np.logical_or.reduce([where[mark][part] for part in kind.parts]) for mark in kind.marks}
    places = np.logical_or.reduce(list(by_mark.values()))
    count = int(places.sum())
    severity = kind.common if count > COMMON * shown.n else kind.rare
    if not count or severity is None:
        return None
    names = ", ".join(f"{mark} {int(found.sum()):,}" for mark, found in by_mark.items() if found.any())
    share = share_of(count, shown.n, kind.title, "Share of pairs with such a mark in one of their texts. A hint only.")
    return Finding(
        id=kind.id,
        severity=severity,
        title=kind.title,
        what=kind.what,
        evidence=f"{count:,} of {count_of(shown.n, 'pair')}: {names}. By patterns, so a hint and no promise.",
        rows=shown.rows(places),
        remedy=kind.remedy,
        share=share,
        examples=shown.examples(places, names),
    )


_ALL, _SIDES = (0, 1, 2), (1, 2)
_TITLES = {
    "cut-off": "no final mark",
    "email": "a mail address",
    "phone": "a phone number",
    "refusal": "words of refusal",
    "special-token": "a special token",
    "turn-heading": "a turn's heading",
    "assistant-phrase": '"As an AI" or the like',
    OTHER_SCRIPT: "another script than the prompt's",
}
_KINDS = (
    _Kind(
        "special-tokens",
        ("special-token",),
        _ALL,
        "Special tokens written out in texts",
        "A tokenizer reads them as the real ones, so a turn can end or begin in the middle of a text; where the "
        "prompts were rendered by a chat template already, it is applied twice.",
        "Give messages instead of rendered text, or take the tokens out.",
        "warning",
        "error",
    ),
    _Kind(
        "secrets",
        ("secret",),
        _ALL,
        "What looks like keys or access tokens",
        "A model can learn them by heart and tell them to anybody.",
        "Look at them; revoke what is real, and take the rows out or overwrite it.",
        "warning",
        "warning",
    ),
    _Kind(
        "turn-headings",
        ("turn-heading",),
        _SIDES,
        "Headings of turns in answers",
        "An answer with a heading such as Human: or ### Response: teaches the model to write both sides' turns.",
        "Cut answers before the next turn, and take headings off their beginning.",
        "info",
        "warning",
    ),
    _Kind(
        "broken-characters",
        DAMAGE,
        _ALL,
        "Broken or invisible characters",
        "Text that was read in the wrong encoding or copied with its control characters is learned as it stands.",
        "Repair it with ftfy.fix_text, or read the source again as UTF-8.",
        "info",
        "warning",
    ),
    _Kind(
        "blank-texts",
        ("blank",),
        _ALL,
        "Blank texts",
        "A text of nothing but white space says nothing to learn from.",
        "Leave these rows out, or find where their text was lost.",
        "warning",
        "warning",
    ),
    _Kind(
        "personal-data",
        PERSONAL,
        _ALL,
        "What looks like personal data",
        "Mail addresses, phone, card and account numbers and IP addresses of people are learned with the rest.",
        "Look at a sample; overwrite what is real, and check with a tool made for it, such as presidio.",
        "info",
        "warning",
    ),
    _Kind(
        "other-script",
        (OTHER_SCRIPT,),
        _SIDES,
        "Answers in another script than their prompt",
        "An answer in another language than the question's is right for translations only.",
        "Look at them; where the language is wrong on the chosen side, leave the row out.",
        None,
        "warning",
    ),
    _Kind(
        "assistant-phrases",
        ("assistant-phrase",),
        _SIDES,
        '"As an AI" and the like in answers',
        "Answers of another assistant carry its name and its habits of speech.",
        "Decide whether the model should say so, and rewrite or leave out.",
        None,
        "info",
    ),
    _Kind(
        "html",
        ("html",),
        _ALL,
        "HTML in texts",
        "Tags and entities are what a web page left behind, unless the task is about them.",
        "Where they are left over, convert them to text.",
        None,
        "info",
    ),
    _Kind(
        "cut-off-answers",
        ("cut-off",),
        _SIDES,
        "Answers without a final mark",
        "Answers that stop in the middle, as those cut by a length limit do, teach a model to stop there.",
        "See whether the source cut them; lists, code and titles end so too.",
        None,
        "info",
    ),
)
