"""lm-evaluation-harness behind a stand-in: measures, paired changes, and what is said without it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from preftune.errors import PreftuneError
from preftune.evaluate.harness import run_tasks, task_changes, task_measures


def stand_in(monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    package, models, hugging = (
        ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface")
    )
    package.simple_evaluate = evaluate  # type: ignore[attr-defined]
    hugging.HFLM = lambda **given: given  # type: ignore[attr-defined]
    for module in (package, models, hugging):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def rows(*right: float) -> list[dict[str, Any]]:
    return [
        {"doc_id": n, "filter": "none", "metrics": ["acc", "bytes"], "acc": one, "bytes": (1, 2)}
        for n, one in enumerate(right)
    ]


def test_documents_become_measures_and_paired_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def evaluate(**given: Any) -> dict[str, Any]:
        asked.append(given)
        return {"samples": {"arc": rows(1.0, 0.0, 1.0, 1.0) if len(asked) == 1 else rows(1.0, 1.0, 1.0, 1.0)}}

    stand_in(monkeypatch, evaluate)
    before, after = (run_tasks("model", "tokenizer", ["arc"], limit=4, batch_size=2, seed=0) for _ in range(2))
    assert asked[0]["model"] == {"pretrained": "model", "tokenizer": "tokenizer", "batch_size": 2}
    assert (asked[0]["tasks"], asked[0]["limit"]) == (["arc"], 4)
    measure = task_measures(before)["lm_eval/arc/acc"]
    assert (measure.value, measure.n, measure.unit) == (0.75, 4, "share")
    assert measure.low > 0.25
    assert task_changes(before, after)["lm_eval/arc/acc"].value == 0.25


def test_filters_of_a_metric_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        {"doc_id": 0, "filter": name, "metrics": ["exact_match"], "exact_match": 1.0} for name in ("strict", "loose")
    ]
    stand_in(monkeypatch, lambda **given: {"samples": {"gsm8k": found}})
    taken = run_tasks("m", "t", ["gsm8k"], limit=None, batch_size=1, seed=0)
    assert set(task_measures(taken)) == {"lm_eval/gsm8k/exact_match,strict", "lm_eval/gsm8k/exact_match,loose"}


def test_without_the_extra_the_line_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(PreftuneError, match=r'pip install "preftune\[lm-eval\]"'):
        run_tasks("m", "t", ["arc"], limit=None, batch_size=1, seed=0)


def test_an_unknown_task_is_a_clean_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(**given: Any) -> None:
        raise KeyError("no task arcc")

    stand_in(monkeypatch, evaluate)
    with pytest.raises(PreftuneError, match="arcc cannot be run"):
        run_tasks("m", "t", ["arcc"], limit=None, batch_size=1, seed=0)
