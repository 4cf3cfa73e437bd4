"""What a reward can be named by, and what is said where it cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from preftune.errors import PreftuneError
from preftune.models.adapters import save_model
from preftune.models.reward_models import load_scorer
from preftune.models.settings import ModelConfig
from preftune.rewards import Asked, Rewards, open_rewards, score
from tests.tiny_world import World, make_tokenizer

FILE = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Kept:
    value: int = 1

def words(completions, **columns):
    return [float(len(text.split())) for text in completions]

async def waits(completions, at_most: int = 2):
    return [min(at_most, len(text)) for text in completions]

not_callable = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "own_rewards.py"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def reward_model(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the tiny world, its head drawn and not trained."""
    torch.manual_seed(0)
    model = load_scorer(ModelConfig(model=str(world.model), dtype="float32"), torch.device("cpu"))
    place = tmp_path_factory.mktemp("polite") / "model"
    save_model(model, make_tokenizer(), place)
    return place


def asked(texts: list[Any], prompt: Any = "p", **columns: list[Any]) -> Asked:
    ids = [f"row-{number}" for number in range(len(texts))]
    return Asked(ids, [prompt] * len(texts), texts, [[1, 2, 3]] * len(texts), columns)


def test_rewards_open_in_every_form(file: Path) -> None:
    def lengthy(completions: list[str]) -> list[float]:
        return [float(len(text)) for text in completions]

    rewards = open_rewards(
        [
            "accuracy",
            "length(max=4,cache=2)",
            f"{file}:words",
            f"{file}:waits(at_most=1)",
            "tests.rewards.test_naming:one_each",
            lengthy,
            partial(lengthy),
            {"reward": "format", "template": "<a>{}</a>", "name": "tags", "weight": 0.5},
        ]
    )
    assert rewards.names == ("accuracy", "length", "words", "waits", "one_each", "lengthy", "lengthy_2", "tags")
    assert rewards.weights == (1, 1, 1, 1, 1, 1, 1, 0.5)
    found = rewards.score(asked(["it is 4", "<a>5</a>"], answer=[4, 4]))
    assert found.values.tolist() == [[1, -0.5, 3, 1, 1, 7, 7, 0], [0, -0.5, 1, 1, 1, 8, 8, 1]]
    assert not found.failures


def one_each(completions: list[Any]) -> list[float]:
    return [1.0] * len(completions)


def test_every_exported_name_is_there() -> None:
    from preftune import rewards

    assert all(getattr(rewards, name) is not None for name in rewards.__all__)
    with pytest.raises(AttributeError):
        _ = rewards.no_such_name


def test_trls_names_open_ours() -> None:
    rewards = open_rewards(["accuracy_reward", "think_format_reward"])
    assert rewards.names == ("accuracy_reward", "think_format_reward")
    assert rewards.score(asked(["<think>5</think>4"], solution=["4"])).values.tolist() == [[1, 1]]


def test_names_are_distinct_and_fit_for_metrics() -> None:
    rewards = open_rewards(["length(max=4)", "length(max=8)", lambda completions: [0], "length(max=16)"])
    assert rewards.names == ("length", "length_2", "lambda", "length_3")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("acuracy", r"no reward 'acuracy'.*mean accuracy\?.*Known are accuracy, cosine, format"),
        ("no/such/folder", "no reward 'no/such/folder'"),
        ("no/such.py:f", r"no/such\.py: There is no such file"),
        ("no_such_module:f", "cannot be imported .*No module named"),
        ("math:sine", r"math: There is no function 'sine'"),
        ("math:pi", "pi is no function"),
        ("length", r"length cannot be made: max: missing required argument.*length\(max, cache=None\)"),
        ("length(max=0)", "max: input should be greater than or equal to 1"),
        ("length(max=9,cash=3)", "cash: unexpected keyword argument"),
        ("accuracy(", "not understood"),
        ("tests.rewards.test_naming:one_each(scale=2)", "does not take what it is given: .*'scale'"),
        (3, "given as 3"),
        ({"max": 3}, "without `reward`"),
        ("judge:", "string should have at least 1 character"),
    ],
)
def test_what_is_no_reward_is_said_clearly(spec: Any, message: str) -> None:
    with pytest.raises(PreftuneError, match=message):
        open_rewards([spec])


def test_files_that_do_not_work_are_named(tmp_path: Path, file: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    for _ in range(2):
        with pytest.raises(PreftuneError, match=r"broken\.py:f cannot be imported \(ZeroDivisionError"):
            open_rewards([f"{broken}:f"])
    with pytest.raises(PreftuneError, match=r"no function 'word'.*mean words\?"):
        open_rewards([f"{file}:word"])


@pytest.mark.parametrize(
    ("specs", "weights", "message"),
    [
        (["accuracy"], [1.0, 2.0], "2 weights for 1 rewards"),
        (["accuracy", "format"], [], "0 weights for 2"),
        (["accuracy"], [float("nan")], "finite"),
        (["accuracy", "format"], [0, 0], "not all 0"),
        ([{"reward": "accuracy", "weight": 2}], [1.0], "given twice"),
        ([], None, "No rewards"),
        ("accuracy", None, "No rewards"),
    ],
)
def test_wrong_weights_are_refused(specs: Any, weights: Any, message: str) -> None:
    with pytest.raises(PreftuneError, match=message):
        open_rewards(specs, weights)


def test_a_time_out_below_0_is_refused() -> None:
    with pytest.raises(PreftuneError, match="time-out"):
        open_rewards(["accuracy"], timeout=0)


# --- reward models --------------------------------------------------------------------------------------


def test_a_reward_models_folder_is_a_reward_of_texts(reward_model: Path) -> None:
    texts = [" certainly", " never", " certainly the river"]
    rewards = open_rewards([str(reward_model), "length(max=2)"], batch_size=2)
    assert rewards.names[0] == reward_model.parent.name
    found = rewards.score(asked(texts, prompt="Could you?"))
    assert np.allclose(found.values[:, 0], score(reward_model, ["Could you?"] * 3, texts), atol=1e-3)
    nonsense = dataclasses.replace(asked(texts, prompt="Could you?"), completion_ids=[[10**6]] * 3)
    assert np.array_equal(rewards.score(nonsense).values[:, 0], found.values[:, 0])


def test_an_answer_that_a_reward_model_cannot_score_is_a_named_failure(reward_model: Path) -> None:
    given = asked([" certainly", [{"role": "assistant", "content": "x"}]], prompt="Could you?")
    found = open_rewards([str(reward_model)]).score(given)
    assert found.failed[:, 0].tolist() == [False, True]
    assert (found.failures[0].sample, found.failures[0].reason) == ("row-1", "not-an-answer")


def test_a_reward_model_takes_no_arguments_and_no_module(reward_model: Path) -> None:
    with pytest.raises(PreftuneError, match="takes no arguments"):
        open_rewards([f"{reward_model}(scale=2)"])
    with pytest.raises(PreftuneError, match="Give the folder"):
        open_rewards([torch.nn.Linear(1, 1)])


def test_notes_of_opening_reach_the_caller(monkeypatch: pytest.MonkeyPatch, reward_model: Path) -> None:
    seen: list[Callable[[str], object] | None] = []

    def record(config: ModelConfig, note: Callable[[str], object] | None = None) -> None:
        seen.append(note)

    monkeypatch.setattr("preftune.rewards.scoring.open_scorer", record)
    rewards: Rewards = open_rewards([str(reward_model)], note=print)
    assert seen == [print] and len(rewards.members) == 1
