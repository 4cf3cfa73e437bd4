"""``preftune make implicit`` as a user types it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from preftune.cli.main import Command, main
from preftune.collect.log_mapping import load_mapping

# The command's own name: where it hangs in the list of commands is not tested here.
COMMANDS = {"make-implicit": Command("preftune.cli.make_implicit:make_implicit", "Labels or pairs from a log.")}


def run(*tokens: str) -> int:
    return main(["make-implicit", *tokens], COMMANDS)


def write_clicks(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "answer", "request", "position", "propensity", "clicked"])
        for number in range(200):
            order = ("a", "b") if number % 2 else ("b", "a")
            for place, answer in enumerate(order, 1):
                clicked = number % (2 if answer == "a" else 10) == 1 and (place == 1 or number % 3 == 0)
                table.writerow(["q", answer, number, place, 0.5, int(clicked)])
    return path


def test_example_mapping_is_one_that_can_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--example-mapping") == 0
    file = tmp_path / "mapping.yaml"
    file.write_text(capsys.readouterr().out)
    assert load_mapping(file).fields == load_mapping("events").fields


def test_clicks_of_a_table_become_pairs_and_one_document(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log, output = write_clicks(tmp_path / "clicks.csv"), tmp_path / "pairs.jsonl"
    code = run(str(log), "--mapping", "clicks", "-o", str(output), "--as", "pairs", "--seed", "3", "--json")
    document = json.loads(capsys.readouterr().out)
    assert code == 0 and document["made"] == 1
    assert document["rows"]["read"] == document["rows"]["used"] == 400
    assert document["places"]["use"] == "corrected"
    assert document["propensities"]["effective_sample_size"] == pytest.approx(400)
    assert document["propensities"]["clipped_share"] == 0
    (pair,) = [json.loads(line) for line in output.read_text().splitlines()]
    assert (pair["chosen"], pair["rejected"]) == ("a", "b")
    assert document["assumptions"]["click"] in pair["source"]["assumptions"]


def test_people_read_the_counts_and_findings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"type": "liked", "prompt": "q", "answer": f"[a]{n}", "user": f"u{n}"} for n in range(4)]
    log.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"type": "shared"}]))
    assert run(str(log), "--mapping", "events", "-o", str(tmp_path / "labels.jsonl")) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "read 5 rows: 4 used" in said and "wrote 4 labels, 4 desirable" in said
    assert "1 unknown-event" in said and "shared 1" in said


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ((), "It needs a log"),
        (("log.jsonl",), "It needs --mapping"),
        (("log.jsonl", "--mapping", "events"), "It needs --output"),
        (("log.jsonl", "--mapping", "evnts", "-o", "out.jsonl"), "Did you mean events"),
        (("nowhere.jsonl", "--mapping", "events", "-o", "out.jsonl"), "no such file"),
        (("log.jsonl", "--mapping", "events", "-o", "none/out.jsonl"), "The folder does not exist"),
        (("log.jsonl", "--mapping", "events", "-o", "out.jsonl", "--min-confidence", "1.5"), "min_confidence is 1.5"),
    ],
)
def test_wrong_usage_says_the_mend(
    tokens: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.jsonl").write_text('{"type": "liked", "prompt": "q", "answer": "a"}\n')
    assert run(*tokens) == 2
    assert said in " ".join(capsys.readouterr().err.split())
