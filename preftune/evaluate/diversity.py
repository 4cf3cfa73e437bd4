"""How varied and how repetitive answers are, and how long: of one model, and of two on the same prompts.

Words are runs of letters and digits, single marks, and of scripts without spaces single characters; case is folded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from jaxtyping import Float

from preftune.evaluate.bootstrap import bootstrap_change, bootstrap_mean, bootstrap_share
from preftune.evaluate.measures import Measure, paired_change, share

COUNTED: Final = 64  # words of an answer that distinct-n looks at: it falls with length, whatever the model
OPENING: Final = 3  # words
REPEATED: Final = 3  # n of the n-grams that repetition counts
_WORD: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+|[^\w\s]")

Texts = Sequence[Sequence[str]]  # the answers of each prompt
Grams = Sequence[tuple[str, ...]]

_TITLES: Final = {
    "distinct_1": ("Distinct words", "Different words over all words, in the first 64 words of each answer."),
    "distinct_2": ("Distinct word pairs", "Different over all neighbouring words, in the first 64 of each answer."),
    "unique_openings": ("Unique openings", "Different first three words over all answers; low is formulaic."),
    "repetition": ("Repetition", "Mean share of an answer's three-word sequences that it had before."),
    "words": ("Words an answer", "Mean number of words and marks."),
}


def diversity_measures(answers: Texts, seed: int = 0) -> dict[str, Measure]:
    """Distinct-1 and -2, unique openings, repetition and length; intervals over prompts.

    Distinct-n depends on how many answers there are: compare models on the same prompts only.
    """
    spoken = [[words(text) for text in texts] for texts in answers]
    found = {name: _distinct_measure(name, spoken, grams) for name, grams in _GRAMS.items()}
    return found | {name: _mean_measure(name, spoken, figure, seed) for name, figure in _FIGURES.items()}


def diversity_changes(before: Texts, after: Texts, seed: int = 0) -> dict[str, Measure]:
    """After minus before of the same figures; a prompt's answers before and after are left out or drawn together."""
    first, last = ([[words(text) for text in texts] for texts in answers] for answers in (before, after))
    changes = {}
    for name, grams in _GRAMS.items():
        (was, without_was), (now, without_now) = _leave_one_out(first, grams), _leave_one_out(last, grams)
        title, what = _titled_change(name)
        found = _jackknifed(now - was, without_now - without_was, _answers(last), title, what)
        if found.low == found.high:
            nothing = np.zeros(len(last))
            found = replace(paired_change(nothing, nothing + found.value, "share", title), n=found.n, explanation=what)
        changes[name] = found
    for name, figure in _FIGURES.items():
        gaps = [_mean(figure, b) - _mean(figure, a) for a, b in zip(first, last, strict=True)]
        title, what = _titled_change(name)
        unit = "words" if name == "words" else "share"
        changes[name] = bootstrap_change(gaps, unit, title, what, seed)
    return changes


def words(text: str) -> list[str]:
    """The words and marks of a text, case folded."""
    return _WORD.findall(text.casefold())


def distinct_share(grams: Grams) -> float:
    """Different over all; NaN of none."""
    return len(set(grams)) / len(grams) if grams else float("nan")


def repeated_share(spoken: Sequence[str], n: int = REPEATED) -> float:
    """The share of n-grams that stood before in the same answer; 0 of an answer too short to have any."""
    grams = n_grams(spoken, n)
    return 1 - distinct_share(grams) if grams else 0.0


def n_grams(spoken: Sequence[str], n: int) -> Grams:
    """All runs of ``n`` words, in order."""
    return [tuple(spoken[start : start + n]) for start in range(len(spoken) - n + 1)]


def _opening(spoken: Sequence[str]) -> Grams:
    return [tuple(spoken[:OPENING])] if spoken else []


_GRAMS: Final[dict[str, Callable[[Sequence[str]], Grams]]] = {
    "distinct_1": lambda spoken: n_grams(spoken[:COUNTED], 1),
    "distinct_2": lambda spoken: n_grams(spoken[:COUNTED], 2),
    "unique_openings": _opening,
}
_FIGURES: Final[dict[str, Callable[[Sequence[str]], float]]] = {
    "repetition": repeated_share,
    "words": lambda spoken: float(len(spoken)),
}
_Spoken = Sequence[Sequence[list[str]]]


def _distinct_measure(name: str, spoken: _Spoken, grams: Callable[[Sequence[str]], Grams]) -> Measure:
    value, without = _leave_one_out(spoken, grams)
    found = _jackknifed(value, without, _answers(spoken), *_TITLES[name], ends=(0.0, 1.0))
    if found.low == found.high:  # all are different, or none: leaving one out shows no spread
        return share(value * found.n, found.n, *_TITLES[name], effective_n=sum(map(bool, spoken)))
    return found


def _mean_measure(name: str, spoken: _Spoken, figure: Callable[[Sequence[str]], float], seed: int) -> Measure:
    values = [figure(one) for texts in spoken for one in texts]
    prompts = [number for number, texts in enumerate(spoken) for _ in texts]
    if name == "words":
        return bootstrap_mean(values, prompts, "words", *_TITLES[name], seed)
    return bootstrap_share(values, prompts, *_TITLES[name], seed)


def _leave_one_out(
    spoken: _Spoken, grams: Callable[[Sequence[str]], Grams]
) -> tuple[float, Float[np.ndarray, "prompts"]]:
    """Different over all grams, and the same without each prompt in turn.

    Not resampled: a prompt drawn twice would repeat all its words, which is no diversity lost.
    """
    by_prompt = [Counter(gram for one in texts for gram in grams(one)) for texts in spoken]
    holders = Counter(gram for counts in by_prompt for gram in counts)
    total = sum(counts.total() for counts in by_prompt)
    own = np.array([sum(holders[gram] == 1 for gram in counts) for counts in by_prompt], dtype=float)
    sizes = np.array([counts.total() for counts in by_prompt], dtype=float)
    left = total - sizes
    without = np.divide(len(holders) - own, left, out=np.full(len(left), np.nan), where=left > 0)
    return (len(holders) / total if total else float("nan")), without


def _jackknifed(
    value: float,
    without: Float[np.ndarray, "prompts"],
    n: int,
    title: str,
    explanation: str,
    ends: tuple[float, float] = (-1.0, 1.0),
) -> Measure:
    """The value with Tukey's jackknife interval over prompts (1958)."""
    from scipy.stats import t

    count = len(without)
    if count < 3 or not np.isfinite(without).all() or not np.isfinite(value):
        return Measure(value, float("-inf"), float("inf"), n, "share", title, explanation)
    variance = (count - 1) / count * float(((without - without.mean()) ** 2).sum())
    half = float(t.ppf(0.975, count - 1)) * np.sqrt(variance)
    return Measure(value, max(ends[0], value - half), min(ends[1], value + half), n, "share", title, explanation)


def _titled_change(name: str) -> tuple[str, str]:
    return f"Change of {_TITLES[name][0].lower()}", "After minus before on the same prompts."


def _mean(figure: Callable[[Sequence[str]], float], texts: Sequence[list[str]]) -> float:
    return float(np.mean([figure(one) for one in texts])) if texts else float("nan")


def _answers(spoken: _Spoken) -> int:
    return sum(len(texts) for texts in spoken)
