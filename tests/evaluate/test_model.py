"""A model on disk examined on pairs, alone and beside another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.data.records import Message, Pair
from preftune.data.tokens import encode_prompt
from preftune.errors import PreftuneError
from preftune.evaluate.comparison import compare_models, own_prompts
from preftune.evaluate.model import (
    Examined,
    OpenModel,
    compare_examined,
    distinct_prompts,
    examine,
    model_folder,
    open_model,
)
from preftune.models.settings import ModelConfig
from tests.methods.tiny_runs import FULL, LORA, run
from tests.tiny_world import CHAT_TEMPLATE, World, make_tokenizer, pair_rows

PAIRS = [Pair(**row) for row in pair_rows(12, seed=9)]
CHATS = [Pair(**row) for row in pair_rows(12, conversational=True, seed=9)]


class _Bar:
    def advance(self, n: float = 1, **figures: Any) -> None: ...


@contextmanager
def _progress(description: str, total: float | None) -> Iterator[_Bar]:
    yield _Bar()


def _open(model: Path | str) -> OpenModel:
    return open_model(ModelConfig(model=str(model), dtype="float32"), lambda note: None)


def _examine(model: Path | str, pairs: list[Pair] = PAIRS, **settings: Any) -> Examined:
    given = {"beta": 0.1, "max_length": 64, "max_new_tokens": 3, "num_completions": 4, "batch_size": 5, "seed": 0}
    return examine(_open(model), pairs, **given | settings, progress=_progress)


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Run folders: all weights trained, and an adapter."""
    root = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFTUNE_CACHE", str(root / "cache"))
        run(world, root / "full", **FULL, num_train_epochs=3)
        run(world, root / "lora", **LORA, num_train_epochs=3)
    return {name: root / name for name in ("full", "lora")}


def test_trained_model_ranks_right_and_the_start_does_not(world: World, trained: dict[str, Path]) -> None:
    before, after = _examine(world.model), _examine(model_folder(str(trained["full"])))
    assert before.measures["ranking_accuracy"].value < 0.8
    assert after.measures["ranking_accuracy"].value == 1.0
    change = compare_examined(before, after)
    assert change is not None
    assert change.value == pytest.approx(1.0 - before.measures["ranking_accuracy"].value)
    assert "kl" not in after.measures


def test_adapter_is_measured_against_its_own_base(trained: dict[str, Path]) -> None:
    found = _examine(model_folder(str(trained["lora"])), num_completions=12).measures
    assert found["preference_accuracy"].value == 1.0
    assert found["reward_margin"].low > 0.5
    assert found["kl"].n == 12


def test_model_is_the_same_by_its_folder_and_by_its_run(trained: dict[str, Path]) -> None:
    by_run = _examine(model_folder(str(trained["full"])))
    by_folder = _examine(model_folder(str(trained["full"] / "model")))
    assert np.array_equal(by_run.scores.log_probs, by_folder.scores.log_probs)


def test_unfinished_run_has_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(PreftuneError, match=r"no model yet.*--resume"):
        model_folder(str(tmp_path))
    assert model_folder("some/hub-name") == "some/hub-name"


def test_models_without_a_pair_in_common_are_not_compared(world: World) -> None:
    one, other = _examine(world.model, PAIRS[:3]), _examine(world.model, PAIRS[3:6])
    assert compare_examined(one, other) is None
    both = compare_examined(_examine(world.model, PAIRS[:4]), _examine(world.model, PAIRS[2:]))
    assert both is not None
    assert (both.value, both.n) == (0.0, 2)


def test_prompts_are_different_and_leave_room_for_an_answer() -> None:
    tokenizer = make_tokenizer()
    twice = [PAIRS[0], PAIRS[0], PAIRS[1], PAIRS[2]]
    assert distinct_prompts(twice, tokenizer, 2, None) == [encode_prompt(pair, tokenizer) for pair in PAIRS[:2]]
    longest = len(encode_prompt(PAIRS[0], tokenizer))
    assert all(len(prompt) < longest for prompt in distinct_prompts(PAIRS, tokenizer, 99, longest))
    assert distinct_prompts(PAIRS, tokenizer, 0, None) == []


def test_prompts_the_template_refuses_are_passed_over() -> None:
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    tokenizer = make_tokenizer(chat_template=refusal + CHAT_TEMPLATE)
    opening = Message(role="system", content="be kind")
    refused = CHATS[0].model_copy(update={"prompt": (opening, *CHATS[0].prompt)})
    assert distinct_prompts([refused, CHATS[1]], tokenizer, 5, None) == [encode_prompt(CHATS[1], tokenizer)]


def test_models_side_by_side_answer_the_same_prompts(world: World, trained: dict[str, Path]) -> None:
    names = [str(world.model), str(trained["full"] / "model")]
    settings = {"temperature": 0.0, "max_length": 64, "max_new_tokens": 3, "batch_size": 4, "seed": 0}
    found = compare_models(_open, names, PAIRS, [], num_samples=3, **settings, progress=_progress)  # type: ignore[arg-type]
    assert found["n"] == 3
    assert [row["prompt"] for row in found["answers"]] == [pair.prompt for pair in PAIRS[:3]]
    assert all(len(row["completions"]) == 2 for row in found["answers"])
    assert any(one != other for one, other in (row["completions"] for row in found["answers"]))
    accuracies = [measures["ranking_accuracy"]["value"] for measures in found["measures"]]
    assert accuracies[0] < accuracies[1] == 1.0
    asked = own_prompts(["hello", "who are you"])
    own = compare_models(_open, names[:1], [], asked, num_samples=0, **settings, progress=_progress)  # type: ignore[arg-type]
    assert [row["prompt"] for row in own["answers"]] == ["hello", "who are you"]
    assert own["answers"][0]["chosen"] is None
