"""Two models beside each other: the same prompts, who wins, and what a chat template refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preftune.data.records import Message, Pair, PromptRecord
from preftune.errors import PreftuneError
from preftune.evaluate.comparison import compare_models, own_prompts
from preftune.evaluate.held_out import HeldOut
from preftune.evaluate.model import OpenModel, model_folder, open_model
from preftune.evaluate.plan import read_plan
from preftune.models.settings import ModelConfig
from tests.methods.tiny_runs import FULL, run
from tests.tiny_world import CHAT_TEMPLATE, World, make_tokenizer, pair_rows

PAIRS = [Pair(**row) for row in pair_rows(12, seed=9)]
CHATS = [Pair(**row) for row in pair_rows(6, conversational=True, seed=9)]
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE


class _Bar:
    def advance(self, n: float = 1, **figures: Any) -> None: ...


@contextmanager
def _progress(description: str, total: float | None) -> Iterator[_Bar]:
    yield _Bar()


def _open(model: str) -> OpenModel:
    return open_model(ModelConfig(model=model_folder(model), dtype="float32"), lambda note: None)


def _data(pairs: list[Pair]) -> HeldOut:
    return HeldOut(tuple(pairs), tuple(PromptRecord(prompt=pair.prompt) for pair in pairs), "here")


def _compare(names: tuple[str, str], data: HeldOut, load: Any = _open, **settings: Any) -> dict[str, Any]:
    given = {"max_length": 64, "max_new_tokens": 3, "batch_size": 4, "seed": 0, "num_completions": 3}
    plan = read_plan(given | settings)
    return compare_models(load, names, data, plan, temperature=0.0, progress=_progress, note=lambda note: None)


@pytest.fixture(scope="module")
def names(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(root / "cache"))
        run(world, root / "full", **FULL, num_train_epochs=3)
    return str(world.model), str(root / "full")


def test_models_side_by_side_answer_the_same_prompts(names: tuple[str, str]) -> None:
    found = _compare(names, _data(PAIRS))
    assert found["n"] == 3
    assert [row["prompt"] for row in found["answers"]] == [pair.prompt for pair in PAIRS[:3]]
    assert any(one != other for one, other in (row["completions"] for row in found["answers"]))
    assert [row["chosen"] for row in found["answers"]] == [pair.chosen for pair in PAIRS[:3]]
    before, after = (measures["ranking_accuracy"]["value"] for measures in found["measures"])
    assert before < after == 1.0
    assert found["differences"]["ranking_accuracy"]["value"] == pytest.approx(1.0 - before)
    assert found["win_rate"] is None


def test_prompts_of_ones_own_have_no_preferred_answer(names: tuple[str, str]) -> None:
    own = _compare(names, own_prompts(["hello", "who are you"]))
    assert [row["prompt"] for row in own["answers"]] == ["hello", "who are you"]
    assert own["answers"][0]["chosen"] is None


def test_what_the_chat_template_refuses_is_counted_and_loses_nothing_else(names: tuple[str, str]) -> None:
    opening = Message(role="system", content="be kind")
    refused = CHATS[0].model_copy(update={"prompt": (opening, *CHATS[0].prompt)})

    def strict(name: str) -> OpenModel:
        return replace(_open(name), tokenizer=make_tokenizer(chat_template=STRICT))

    found = _compare(names, _data([refused, *CHATS[1:]]), strict, reward=["target_length(target=2)"])
    assert [(one["unasked"], one["left_out"]) for one in found["models"]] == [(1, 1), (1, 1)]
    assert [row["completions"][0] is None for row in found["answers"]] == [True, False, False]
    assert found["measures"][0]["ranking_accuracy"]["n"] == 5
    assert found["win_rate"]["measures"]["win_rate"]["n"] == 2  # prompts that both answered
    with pytest.raises(PreftuneError, match="None of the prompts can be asked"):
        _compare(names, _data([refused]), strict)


def test_the_second_model_wins_by_a_reward(names: tuple[str, str]) -> None:
    def first_wins(completions: list[str], **columns: Any) -> list[float]:
        calls.append(completions)
        return [float(len(calls))] * len(completions)

    calls: list[list[str]] = []
    found = _compare(names, _data(PAIRS), reward=[first_wins])
    assert (found["win_rate"]["model"], found["win_rate"]["against"]) == (names[1], names[0])
    assert found["win_rate"]["measures"]["win_rate"]["value"] == 1.0  # its answers are rewarded second
    alike = _compare((names[0], names[0]), _data(PAIRS), reward=[first_wins])
    assert alike["win_rate"] is None and "one" in alike["not_taken"]["win_rate"]


def test_a_win_rate_without_a_verdict_says_why(names: tuple[str, str]) -> None:
    def never(completions: list[str], **columns: Any) -> list[float | None]:
        return [None] * len(completions)

    found = _compare(names, _data(PAIRS), reward=[never])
    assert found["win_rate"]["measures"] == {}
    assert "None of 3 comparisons has a verdict" in found["not_taken"]["win_rate"]
    assert found["measures"][0]["ranking_accuracy"]["n"] == 12


def test_a_setting_out_of_range_is_a_clean_error(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="num_completions"):
        read_plan({"num_completions": -1})
