"""What the two answers of a pair differ in, as numbers that change sign when the sides are swapped."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.data.records import Completion, Pair, readable_text
from preftune.errors import PreftuneError

Floats: TypeAlias = NDArray[np.float64]
Embed: TypeAlias = Callable[[list[str]], NDArray[Any]]

HASHES = 2**18  # columns of the hashed words

_WORD = re.compile(r"\w+")
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} ", re.MULTILINE)
_DIGITS = re.compile(r"\d+")
_REFUSAL = re.compile(
    r"\W*(?:(?:i'?m|i am|we'?re|we are) (?:very |so |really )?(?:sorry|afraid|unable|not able|not allowed)|sorry|"
    r"apologies|i apologi[sz]e|unfortunately|(?:as|being) an? (?:ai|artificial|language model|assistant)|"
    r"(?:no[,.]? )?i (?:can'?t|cannot|can not|won'?t|will not|do not|don'?t) (?:help|assist|do|provide|give|answer|"
    r"support|recommend|want|think|feel|condone|engage|discuss|create|write))",
    re.IGNORECASE,
)
_OPENING = 120  # characters in which a refusal must begin


def length_of(text: str) -> float:
    """The logarithm of the number of characters."""
    return float(np.log1p(len(text)))


def is_refusal(text: str) -> bool:
    """True where the answer opens with a refusal or an apology, as English ones do."""
    return bool(_REFUSAL.match(text[:_OPENING].replace("’", "'")))


FORMS: Final[dict[str, Callable[[str], float]]] = {
    "length": length_of,
    "line breaks": lambda text: _log_count(text.count("\n")),
    "list items": lambda text: _log_count(len(_LIST_ITEM.findall(text))),
    "headings": lambda text: _log_count(len(_HEADING.findall(text)) if "#" in text else 0),
    "bold": lambda text: _log_count(text.count("**") // 2),
    "code": lambda text: _log_count(text.count("`")),
    "links": lambda text: _log_count(text.count("http")),
    "numbers": lambda text: _log_count(len(_DIGITS.findall(text))),
    "questions": lambda text: _log_count(text.count("?")),
    "exclamations": lambda text: _log_count(text.count("!")),
    "refusal": lambda text: float(is_refusal(text)),
    "long words": lambda text: _mean_word(text),
    "repetition": lambda text: _repetition(text),
    "finished ending": lambda text: float(text.rstrip()[-1:] in _ENDS),
}
"""What an answer looks like, whatever it says; all but ``length`` are also kept out of a judgement of content."""

_ENDS = frozenset(".!?…。！？\"”')`]}:")


def answer_text(answer: Completion) -> str:
    """The words of an answer."""
    return readable_text(answer)


def form_differences(pairs: Sequence[Pair]) -> Floats:
    """(pairs, forms): each of ``FORMS`` of the chosen answer less that of the rejected one."""
    texts, chosen, rejected = _answers(pairs)
    values = np.array([[form(text) for form in FORMS.values()] for text in texts]).reshape(-1, len(FORMS))
    return values[chosen] - values[rejected]


def length_differences(pairs: Iterable[Pair]) -> Floats:
    """(pairs,): the logarithm of the chosen answer's characters less that of the rejected one's."""
    return np.array([length_of(answer_text(pair.chosen)) - length_of(answer_text(pair.rejected)) for pair in pairs])


def word_differences(pairs: Sequence[Pair]) -> Any:
    """(pairs, HASHES), sparse: hashed words and marks, alone and two in a row, chosen answer less rejected one.

    Counts are dampened by log(1 + n) and each side has length 1, so a longer answer weighs no more.
    """
    return _hashed_differences(pairs, token_pattern=r"\w+|[^\w\s]", ngram_range=(1, 2))


def letter_differences(pairs: Sequence[Pair]) -> Any:
    """The same of three to five letters in a row within a word."""
    return _hashed_differences(pairs, analyzer="char_wb", ngram_range=(3, 5))


def embedding_differences(pairs: Sequence[Pair], embed: Embed) -> Floats:
    """(pairs, dimensions): what ``embed`` makes of the chosen answer less what it makes of the rejected one.

    Each answer is embedded once. Raises PreftuneError where ``embed`` does not give one finite vector a text.
    """
    texts, chosen, rejected = _answers(pairs)
    vectors = np.asarray(embed(texts), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        shape = " x ".join(map(str, vectors.shape))
        what = f"The embedding gave {shape} values for {len(texts):,} texts, or some that are no numbers."
        raise PreftuneError(what, mend="It must give one row of finite numbers a text, in the order of the texts.")
    return vectors[chosen] - vectors[rejected]


def need_sklearn() -> None:
    """Raises PreftuneError with the line that installs scikit-learn, where it is missing."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        what = "This audit needs the package scikit-learn."
        raise PreftuneError(what, mend="Install it: pip install 'preftune[audit]'.") from error


def _hashed_differences(pairs: Sequence[Pair], **counted: Any) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.preprocessing import normalize

    texts, chosen, rejected = _answers(pairs)
    options: dict[str, Any] = {"n_features": HASHES, "alternate_sign": False, "norm": None, "dtype": np.float32}
    counts: Any = HashingVectorizer(**options, **counted).transform(
        [*texts, ""]
    )  # the empty one keeps scikit-learn content where there are no pairs
    counts.data = np.log1p(counts.data)
    rows: Any = normalize(counts, copy=False)
    return rows[chosen] - rows[rejected]


def _answers(pairs: Sequence[Pair]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """The different answers, and where among them each pair's chosen and rejected one stand."""
    seen: dict[str, int] = {}
    sides = [[seen.setdefault(answer_text(side), len(seen)) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    chosen, rejected = np.array(sides, dtype=np.int64).reshape(-1, 2).T
    return list(seen), chosen, rejected


def _log_count(count: int) -> float:
    return float(np.log1p(count))


def _mean_word(text: str) -> float:
    words = _WORD.findall(text)
    return float(np.log1p(sum(map(len, words)) / len(words))) if words else 0.0


def _repetition(text: str) -> float:
    words = _WORD.findall(text.lower())
    return 1 - len(set(words)) / len(words) if words else 0.0
