"""``preftune make judge``: the estimate before, the pairs and the judge's audit after, the key nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preftune.cli.main import Command, main
from tests.collect.judge_server import KEY, JudgeServer, rows_of, running

pytest.importorskip("openai")

COMMANDS = {"judge": Command("preftune.cli.make_judge:make_judge", "Candidates judged by language models.")}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(JudgeServer()) as one:
        yield one


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "candidates.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows_of(6), {"prompt": "nothing to judge"}]))
    return str(file)


def test_candidates_become_pairs_and_the_judge_is_audited(
    server: JudgeServer, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    tokens = ["judge", rows, "--judge", f"m@{server.url}", "-o", str(output), "--json"]
    assert main(tokens, COMMANDS) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["pairs"] == document["comparisons"] == 6 and document["rows"] == 7
    assert document["rows_rejected"] == {"missing-field": 1} and document["calls"]["made"] == 12
    assert document["cost"] == 0.0  # what this machine serves costs nothing
    assert document["judges"]["m"]["consistency"]["value"] == 1.0
    assert len(output.read_text().splitlines()) == 6
    assert "12 calls" in told.err and "Verdict holds in both orders: 100.0%" in told.err
    assert KEY not in told.out + told.err


def test_a_dry_run_sends_nothing_and_shows_one_question(
    server: JudgeServer, rows: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["judge", rows, "--judge", "claude-haiku-5-5", f"m@{server.url}", "--samples", "2", "--dry-run"]
    assert main(tokens, COMMANDS) == 0
    told = capsys.readouterr()
    assert not server.bodies
    assert "48 calls" in told.out and "US dollars for a million tokens" in told.out
    assert '{"prompt": "fine question 0", "answers": {"A": ' in told.out and "Which answer serves" in told.out


def test_a_judge_that_gives_no_pair_is_an_exit_of_1(
    server: JudgeServer, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.always = '{"reason": "", "verdict": "A"}'
    assert main(["judge", rows, "--judge", f"m@{server.url}", "-o", str(tmp_path / "o.jsonl")], COMMANDS) == 1
    assert "error: The judge always gives the same answer" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        (["--extra", "[1]"], "no JSON object"),
        (["--max-cost", "1", "--base-url", "http://example.org"], "price of m is not known"),
        (["--price-in", "1"], "One price is missing"),
        (["--rubric", "nowhere.md"], "rubric cannot be read"),
        (["--concurrency", "0"], "concurrency is 0"),
        (["--samples", "0"], "must be 1 or more"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_sent(
    rows: str, extra: list[str], what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["judge", rows, "--judge", "m", "-o", str(tmp_path / "o.jsonl"), *extra], COMMANDS) == 2
    assert what in " ".join(capsys.readouterr().err.split())
