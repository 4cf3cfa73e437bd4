"""A preference model that trains in seconds on a processor, and margins of models that never saw the row.

The model is a logistic regression without intercept on what the answers differ in, so that swapped sides give the
negative margin: Bradley and Terry's model with linear scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from preftune.audit.clusters import folds_by_cluster
from preftune.audit.pair_features import (
    FORMS,
    HASHES,
    Embed,
    Floats,
    embedding_differences,
    form_differences,
    letter_differences,
    need_sklearn,
    word_differences,
)
from preftune.data.records import Pair
from preftune.errors import PreftuneError

Margins: TypeAlias = Callable[[Sequence[Pair]], Floats]
Fit: TypeAlias = Callable[[Sequence[Pair]], Margins]

TRAINED_PAIRS = 20_000  # of a fold; drawn where there are more
LETTERS_UP_TO = 5_000  # pairs trained on
PENALTY = 0.3  # scikit-learn's C; 0.1 and 1 found no more flips
LENGTH = list(FORMS).index("length")


def cross_fitted_margins(pairs: Sequence[Pair], prompts: NDArray[Any], folds: int, seed: int, fit: Fit) -> Floats:
    """(pairs,): each pair's margin for its own label, by a model trained on the other folds' prompts.

    Raises PreftuneError where ``fit`` gives something else than a finite number a pair.
    """
    fold_of = folds_by_cluster(prompts, folds, seed)
    draw = np.random.default_rng([seed, 1])
    margins = np.empty(len(pairs))
    for fold in range(folds):
        held_out, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        if len(rest) > TRAINED_PAIRS:
            rest = np.sort(draw.choice(rest, TRAINED_PAIRS, replace=False))
        model = fit([pairs[row] for row in rest.tolist()])
        margins[held_out] = _checked(model([pairs[row] for row in held_out.tolist()]), len(held_out))
    return margins


def fit_words(embed: Embed | None = None) -> Fit:
    """The fast model: words, letters and forms of the answers but their length, and what ``embed`` makes of them.

    Length is kept out: with it the rows to look at first would be those that break the habit of longer, or
    shorter, answers, which makes no label wrong. Where length predicts labels that costs up to 0.06 of average
    precision, 0.01 where other comparisons testify too; to fit with length and take its part out again cost more.
    Letters gain 0.01 to 0.02 at five times the time, so only small sets have them. Embeddings of a small model
    gain another 0.02 to 0.08.
    """
    need_sklearn()

    def fit(pairs: Sequence[Pair]) -> Margins:
        kinds = _kinds(len(pairs), embed)
        blocks = [kind(pairs) for kind in kinds]
        weights = [_column_weights(block) for block in blocks]
        coefficients = _regression(_joined(blocks, weights))

        def margins(others: Sequence[Pair]) -> Floats:
            return _joined([kind(others) for kind in kinds], weights) @ coefficients

        return margins

    return fit


def _checked(margins: Any, rows: int) -> Floats:
    array = np.asarray(margins, dtype=np.float64)
    if array.shape == (rows,) and np.isfinite(array).all():
        return array
    what = f"The preference model gave {' x '.join(map(str, array.shape))} margins for {rows:,} pairs, or no numbers."
    raise PreftuneError(what, mend="It must give one finite number a pair: chosen's score less rejected's.")


def _kinds(pairs: int, embed: Embed | None) -> list[Callable[[Sequence[Pair]], Any]]:
    """What makes features of pairs, each (pairs, columns) and sparse."""
    kinds: list[Callable[[Sequence[Pair]], Any]] = [word_differences, _forms_but_length]
    if pairs <= LETTERS_UP_TO:
        kinds.append(letter_differences)
    if embed is not None:
        kinds.append(partial(_embedded, embed=embed))
    return kinds


def _forms_but_length(pairs: Sequence[Pair]) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(np.delete(form_differences(pairs), LENGTH, axis=1))


def _embedded(pairs: Sequence[Pair], embed: Embed) -> Any:
    from scipy.sparse import csr_matrix

    return csr_matrix(embedding_differences(pairs, embed))


def _column_weights(block: Any) -> Floats:
    """(columns,): weights by which rare columns count as much as common ones, and a row of the block has length 1."""
    columns = np.asarray(block.multiply(block).mean(0)).ravel()
    if block.shape[1] == HASHES:
        seen = np.bincount(block.indices, minlength=HASHES)
        weights = np.log((1 + block.shape[0]) / (1 + seen)) + 1
    else:
        weights = 1 / np.sqrt(np.where(columns > 0, columns, 1.0))
    return weights / max(float(np.sqrt((columns * weights**2).sum())), 1e-12)


def _joined(blocks: Sequence[Any], weights: Sequence[Floats]) -> Any:
    """(pairs, all columns)."""
    from scipy.sparse import diags, hstack

    return hstack([block @ diags(weight) for block, weight in zip(blocks, weights, strict=True)], format="csr")


def _regression(differences: Any) -> Floats:
    """(columns,): the coefficients; every second pair is shown swapped, for scikit-learn wants two classes.

    Without an intercept that changes nothing.
    """
    from scipy.sparse import diags
    from sklearn.linear_model import LogisticRegression

    if differences.shape[0] < 2:
        return np.zeros(differences.shape[1])
    signs = np.where(np.arange(differences.shape[0]) % 2 == 0, 1.0, -1.0)
    model = LogisticRegression(
        C=PENALTY, fit_intercept=False, solver="liblinear", dual=True, max_iter=2_000, tol=1e-3, random_state=0
    )
    return model.fit(diags(signs) @ differences, signs).coef_[0]
