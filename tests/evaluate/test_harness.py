"""lm-evaluation-harness behind a stand-in: measures, paired changes, and what is said without it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from preftune.errors import PreftuneError
from preftune.evaluate.harness import open_tasks, run_tasks, task_changes, task_measures
from preftune.models.loading import load_model, load_tokenizer
from preftune.models.settings import ModelConfig
from tests.tiny_world import World


class Manager:
    """The harness's index of tasks, which knows one."""

    all_tasks = ("arc_easy",)

    def __init__(self, include_defaults: bool) -> None:
        assert include_defaults

    def load(self, tasks: list[str]) -> None:
        if tasks[0] == "hub":
            raise ConnectionError("Couldn't reach the hub")
        if tasks[0] not in self.all_tasks:
            raise KeyError(f"{tasks[0]} is not registered")


def stand_in(monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    package, models, hugging, tasks = (
        ModuleType(name) for name in ("lm_eval", "lm_eval.models", "lm_eval.models.huggingface", "lm_eval.tasks")
    )
    package.simple_evaluate = evaluate  # type: ignore[attr-defined]
    hugging.HFLM = lambda **given: given  # type: ignore[attr-defined]
    tasks.TaskManager = Manager  # type: ignore[attr-defined]
    for module in (package, models, hugging, tasks):
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


def test_a_task_is_looked_up_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, None)
    assert isinstance(open_tasks(["arc_easy"]), Manager)
    with pytest.raises(PreftuneError, match=r"arc_eas cannot be run .*Did you mean arc_easy"):
        open_tasks(["arc_easy", "arc_eas"])
    with pytest.raises(PreftuneError, match=r"Couldn't reach the hub.*local files"):
        open_tasks(["hub"])


def test_whatever_a_task_raises_is_a_clean_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(**given: Any) -> None:
        print("not for the result")
        raise TypeError("'NoneType' object is not callable")

    stand_in(monkeypatch, evaluate)
    with pytest.raises(PreftuneError, match="arc_easy cannot be run"):
        run_tasks("m", "t", ["arc_easy"], limit=None, batch_size=1, seed=0)


def test_prints_of_a_task_stay_out_of_the_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(monkeypatch, lambda **given: print("chatter"))
    run_tasks("m", "t", ["arc_easy"], limit=None, batch_size=1, seed=0)
    assert capsys.readouterr().out == ""


def test_metrics_that_are_no_number_of_a_document_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, lambda **given: {"samples": {"arc": rows(1.0, 0.0)}})
    not_taken: dict[str, str] = {}
    run_tasks("m", "t", ["arc"], limit=None, batch_size=1, seed=0, not_taken=not_taken)
    assert list(not_taken) == ["lm_eval/arc/bytes"]


def test_the_harness_itself_runs_a_task_of_local_files(world: World, tmp_path: Path) -> None:
    """Where the extra is installed: the package, its own task format, and no network."""
    pytest.importorskip("lm_eval")
    rows = [{"question": "is 1", "choices": ["one", "two"], "answer": n % 2} for n in range(4)]
    data, task = tmp_path / "ours.jsonl", tmp_path / "ours.yaml"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task.write_text(
        f"task: ours\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: '{{choices}}'\n"
        "doc_to_target: answer\nmetric_list: [{metric: acc}]\n"
    )
    config = ModelConfig(model=str(world.model), dtype="float32")
    model, tokenizer = load_model(config, torch.device("cpu")), load_tokenizer(config)
    how = {"limit": None, "batch_size": 2, "seed": 0, "manager": open_tasks([str(task)])}
    before, after = (run_tasks(model, tokenizer, [str(task)], **how) for _ in range(2))
    assert task_measures(before)["lm_eval/ours/acc"].value == 0.5  # the same question, with either answer
    assert task_changes(before, after)["lm_eval/ours/acc"].n == 4
    with pytest.raises(PreftuneError, match="cannot be run"):
        open_tasks(["no_such_task_of_anybody"])
