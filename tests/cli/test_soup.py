"""``preftune soup`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from preftune.cli.main import main
from tests.tiny_world import World, make_model, make_tokenizer, write_rows


@pytest.fixture(scope="module")
def other(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model beside the world's, of the same architecture and tokenizer."""
    folder = tmp_path_factory.mktemp("other") / "model"
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), seed=5).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_one_soup_is_a_model_folder(
    world: World, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "soup"
    assert main(["soup", str(world.model), str(other), "--weights", "0.25,0.75", "-o", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["soups"] == [{"weights": [0.25, 0.75], "folder": str(out)}]
    mixed, first, second = (load_file(folder / "model.safetensors") for folder in (out, world.model, other))
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.25 * first[name] + 0.75 * second[name])


def test_a_sweep_is_judged_and_drawn(
    world: World, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"Could you find river {i}?"} for i in range(6)])
    (tmp_path / "own.py").write_text(
        "def vowels(completions, **_):\n    return [c.count('e') / 10 for c in completions]\n"
    )
    out = tmp_path / "sweep"
    models = [str(world.model), str(other)]
    rewards = ["--rewards", "length(max=8,cache=4)", f"{tmp_path / 'own.py'}:vowels"]
    tokens = ["--steps", "3", "--data", str(prompts), "--max_new_tokens", "8", "--dtype", "float32"]
    assert main(["soup", *models, "-o", str(out), *tokens, *rewards, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [soup["weights"] for soup in document["soups"]] == [[1, 0], [0.5, 0.5], [0, 1]]
    assert all(Path(soup["folder"]).is_dir() for soup in document["soups"])
    assert all(soup["measures"]["vowels"]["n"] == 6 for soup in document["soups"])
    assert "Scatter chart of 3 models" in (out / "report.html").read_text()
    assert json.loads((out / "soups.json").read_text())["rewards"] == ["length", "vowels"]


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["--weights", "0.5,x"], "'0.5,x' is no list of weights. For example --weights 0.7,0.3."),
        (["--weights", "0.5"], "There are 2 models and 1 weights."),
        (["--weights", "1,1"], "The weights 1, 1 sum to 2, not to 1."),
        (["--steps", "1"], "A sweep has at least 2 steps, not 1."),
        (["--steps", "3", "--weights", "1,0"], "--steps chooses the weights itself."),
        (["--rewards", "length"], "Give --data and --rewards."),
    ],
)
def test_wrong_usage_is_told_and_makes_nothing(
    tokens: list[str], told: str, world: World, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["soup", str(world.model), str(other), "-o", str(tmp_path / "out"), *tokens]) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
