import math

import numpy as np
import pytest

from preftune.audit.logistic import coefficients_of, wald_coefficients


def test_one_sign_has_the_log_odds_of_its_wins_and_their_error() -> None:
    differences = np.array([[1.0]] * 300 + [[-1.0]] * 100)
    (found,) = wald_coefficients(differences, np.arange(400))
    error = math.sqrt((1 / 300 + 1 / 100) * 400 / 399)
    assert found.value == pytest.approx(math.log(3), abs=1e-4)
    assert found.z == pytest.approx(math.log(3) / error, rel=1e-3)
    assert (found.low, found.high) == pytest.approx((math.log(3) - 1.96 * error, math.log(3) + 1.96 * error), abs=1e-3)
    assert found.p < 1e-20


def test_copies_of_a_prompt_do_not_sharpen_the_error() -> None:
    differences = np.random.default_rng(0).normal(size=(200, 2))
    once = wald_coefficients(differences, np.arange(200))
    copied = wald_coefficients(np.tile(differences, (3, 1)), np.tile(np.arange(200), 3))
    assert [one.z for one in copied] == pytest.approx([one.z for one in once], rel=1e-3)


def test_coefficients_are_those_that_made_the_labels() -> None:
    draw = np.random.default_rng(0)
    differences = draw.normal(size=(20_000, 3))
    right = draw.random(20_000) < 1 / (1 + np.exp(-(differences @ [1.0, -0.5, 0.0])))
    found = coefficients_of(np.where(right[:, None], differences, -differences))
    assert found == pytest.approx([1.0, -0.5, 0.0], abs=0.06)


def test_rows_that_are_separated_have_an_end() -> None:
    found = coefficients_of(np.array([[1.0], [2.0], [3.0]]))
    assert np.isfinite(found).all() and found[0] > 3
