"""``make constitution`` and ``make best-of-n`` as a user types them, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.cli.main import Command, main
from preftune.data.read import read_pairs
from tests.tiny_world import World, read_rows, write_rows

COMMANDS = {
    "constitution": Command("preftune.cli.make_constitution:make_constitution", "a"),
    "best-of-n": Command("preftune.cli.make_best_of_n:make_best_of_n", "b"),
}
PROMPTS = [{"prompt": f"Could you find the river {n}?", "id": str(n), "answer": str(n)} for n in range(4)]


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any], str]:
    code = main([*map(str, arguments), "--json"], COMMANDS)
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "prompts.jsonl", PROMPTS)


def test_a_constitution_makes_pairs_or_says_why_not(
    world: World, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pairs.jsonl"
    asked = ["constitution", prompts, "--model", world.model, "-o", output, "--max-new-tokens", 40, "--block", 2]
    code, document, _ = run(capsys, *asked)
    assert code == 0 and document["prompts"] == 4 and document["constitution"].startswith("short@")
    assert document["made"] + sum(document["left_out"].values()) == 4
    rows = read_rows(output) + read_rows(tmp_path / "pairs.left-out.jsonl")
    assert len(rows) == 4 and document["new"] == 4 and not (tmp_path / "pairs.jsonl.journal").exists()
    code, again, _ = run(capsys, *asked)
    assert again["new"] == 0 and again["made"] == document["made"]


def test_principles_compare_given_pairs(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "compared.jsonl"
    prompt = "Could you find it?"
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": prompt, "chosen": "x", "rejected": "y"}] * 2)
    asked = ["constitution", pairs, "--given", "--how", "compare", "--model", world.model, "-o", output]
    code, document, told = run(capsys, *asked, "--limit", 1)
    assert code == 0 and document["items"] == document["read"] == 1
    assert document["made"] + sum(document["left_out"].values()) == 1 and "left out" in told


def test_the_best_of_n_of_a_model(
    world: World, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "best.jsonl"
    own = tmp_path / "own.py"
    own.write_text(
        "def vowels(completions, **columns):\n    return [sum(c in 'aeiou' for c in text) for text in completions]\n"
    )
    asked = ["best-of-n", prompts, "--model", world.model, "--rewards", f"{own}:vowels,repetition", "--n", 4]
    code, document, told = run(
        capsys, *asked, "--max-new-tokens", 12, "--keep-cut", "--reward-weights", 1, 0.5, "-o", output
    )
    assert code == 0 and document["kl"]["bound"] == {"4": pytest.approx(0.6363, abs=1e-4)}
    assert document["rewards"] == [f"{own}:vowels", "repetition"] and "at most 0.636 nats" in " ".join(told.split())
    pairs = read_pairs(output).records
    assert len(pairs) == document["made"] > 0 and all(pair.margin and pair.margin > 0 for pair in pairs)
    assert document["gain"]["value"] > 0 and document["gain"]["low"] is not None


def test_the_best_of_given_completions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"{n} + 1?", "answer": str(n + 1), "completions": [f"It is {n}.", f"It is {n + 1}."]} for n in (1, 2)
    ]
    data, output = write_rows(tmp_path / "solved.jsonl", rows), tmp_path / "best.jsonl"
    code, document, _ = run(capsys, "best-of-n", data, "--rewards", "accuracy", "-o", output)
    assert code == 0 and document["made"] == 2
    assert [row["chosen"] for row in read_rows(output)] == ["It is 2.", "It is 3."]


@pytest.mark.parametrize("command", ["constitution", "best-of-n"])
def test_a_dry_run_says_what_it_would_cost_and_does_nothing(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    output = tmp_path / "out.jsonl"
    more = ["--rewards", "accuracy", "--n", "3"] if command == "best-of-n" else []
    asked = [command, prompts, "--model", "claude-haiku-5-5", "-o", output, "--dry-run", *more]
    code, document, told = run(capsys, *asked)
    assert code == 0 and document["dry_run"] and document["plan"]["calls"] == 12
    assert (
        document["plan"]["output_tokens"] == 12 * 512
        and document["plan"]["cost"] > 0
        and "US dollars" in " ".join(told.split())
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["constitution", "DATA", "--model", "m", "-o", "DATA"], "The output is the input"),
        (["constitution", "DATA", "--model", "m", "-o", "out.csv"], "end in .jsonl"),
        (["constitution", "DATA", "--model", "m", "-o", "out.jsonl", "--principles", "long"], "no such constitution"),
        (["constitution", "DATA", "--model", "m", "-o", "out.jsonl", "--extra", "1"], "no JSON object"),
        (["best-of-n", "DATA", "--model", "m", "-o", "out.jsonl"], "Nothing says which completion is better"),
        (["best-of-n", "DATA", "-o", "out.jsonl", "--rewards", "accuracy"], "No row has completions"),
        (["best-of-n", "DATA", "-o", "out.jsonl", "--margin-low", "1"], "without a band"),
    ],
)
def test_wrong_usage_is_named_and_mended(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, arguments: Any, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, document, _ = run(capsys, *[str(prompts) if one == "DATA" else one for one in arguments])
    assert code == 2 and what in f"{document['error']['what']} {document['error']['mend']}"
    assert document["error"]["mend"]
