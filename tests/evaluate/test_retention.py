"""Loss on general text: closed forms with an engine that knows nothing, and the passages' file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from preftune.errors import PreftuneError
from preftune.evaluate.retention import (
    PassageLosses,
    passage_losses,
    read_passages,
    retention_change,
    retention_measure,
)
from preftune.models.layout import Group
from tests.tiny_world import make_tokenizer


def guesser(nats: float) -> Any:
    """An engine that gives each token the same log-prob."""

    def engine(groups: Sequence[Group]) -> Any:
        return SimpleNamespace(sums=lambda: torch.tensor([-nats * len(group.completions[0]) for group in groups]))

    return engine


def losses(nats: float, **settings: Any) -> PassageLosses:
    given: dict[str, Any] = {"max_length": 64, "batch_size": 7} | settings
    return passage_losses(guesser(nats), make_tokenizer(), read_passages(), **given)


def test_a_uniform_model_has_the_logarithm_of_its_vocabulary() -> None:
    found = retention_measure(losses(math.log(340)))
    assert found.value == pytest.approx(math.log(340))
    assert found.low == pytest.approx(found.high)
    assert "340.00" in found.explanation and found.n == 60


def test_a_tenth_of_a_nat_more_is_a_tenth_of_a_nat_more() -> None:
    change = retention_change(losses(2.0), losses(2.1))
    assert change.value == pytest.approx(0.1, abs=1e-6) and change.unit == "nats a token"


def test_models_that_read_other_tokens_are_compared_by_bytes() -> None:
    before = PassageLosses(np.array([10.0, 20.0]), np.array([5.0, 9.0]), np.array([40.0, 60.0]), "x")
    after = PassageLosses(np.array([11.0, 24.0]), np.array([6.0, 9.0]), np.array([40.0, 60.0]), "x")
    change = retention_change(before, after)
    assert (change.value, change.unit) == (pytest.approx(5 / 100), "nats a byte")


def test_built_in_passages_are_prose_of_one_length_and_all_different() -> None:
    texts = read_passages().texts
    assert len(set(texts)) == len(texts) == 60
    assert all(60 <= len(text.split()) <= 90 and text.endswith(".") for text in texts)
    assert len({text.split()[0] + text.split()[1] for text in texts}) > 50


def test_own_text_is_read_by_paragraph_or_by_row(tmp_path: Path) -> None:
    plain, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\nline\n\n\ntwo\n")
    rows.write_text('{"text": "one"}\n\nbroken\n{"text": 3}\n"two"\n')
    assert read_passages(plain).texts == ("one line", "two")
    assert (read_passages(rows).texts, read_passages(rows).left_out) == (("one", "two"), 2)
    empty = tmp_path / "c.txt"
    empty.write_text("\n\n")
    for path, words in ((empty, "no passage"), (tmp_path / "none.txt", "cannot be read")):
        with pytest.raises(PreftuneError, match=words):
            read_passages(path)
    plain.write_bytes(b"\xff\xfe")
    with pytest.raises(PreftuneError, match="UTF-8"):
        read_passages(plain)
