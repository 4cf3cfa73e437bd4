"""The readers and the audit on public sets that lie beside the repository; skipped where they do not."""

import json
from pathlib import Path

import pytest

from preftune.audit.basics import audit_basics
from preftune.data.read import read_pairs
from preftune.data.split import leaked_prompts, split_by_prompt
from preftune.errors import PreftuneError

SETS = Path(__file__).parents[2].parent / "shared/data"


def place(name: str) -> Path:
    path = SETS / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


def test_hh_transcripts_and_messages_are_the_same_pairs() -> None:
    messages = read_pairs(place("hh-harmless/pairs.jsonl"))
    transcripts = read_pairs(place("hh-harmless/transcripts.jsonl"))
    assert (messages.read, transcripts.read, messages.rejected, transcripts.rejected) == (1310, 300, (), ())
    assert {pair.id for pair in transcripts.records} <= {pair.id for pair in messages.records}


def test_shorter_answers_win_in_hh_harmless() -> None:
    share = audit_basics(read_pairs(place("hh-harmless/pairs.jsonl"))).longer_wins
    assert (share.value, share.low, share.high) == pytest.approx((0.447, 0.420, 0.474), abs=5e-4)


def test_hh_splits_without_leakage() -> None:
    pairs = read_pairs(place("hh-harmless/pairs.jsonl")).records
    train, evaluation = split_by_prompt(pairs, 0.1, seed=7)
    assert len(evaluation) == 131 and leaked_prompts(train, evaluation) == ()


def test_pandalm_comparisons_are_refused_with_their_columns_and_read_after_a_vote() -> None:
    path = place("pandalm/comparisons.jsonl")
    with pytest.raises(PreftuneError, match=r"These are prompts, not pairs.*999 rows.*response_1, response_2"):
        read_pairs(path)
    rows = [voted(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    decided = [row for row in rows if row]
    assert len(decided) == 422 + 472
    reading = read_pairs(decided)
    # Some answers of the set are empty, and some are JSON's true where a model wrote "true".
    assert (reading.read, reading.reasons()) == (894, {"empty-completion": 52, "wrong-type": 6})


def voted(row: dict) -> dict | None:
    votes = row["annotators"]
    winner = max((1, 2), key=votes.count)
    if votes.count(winner) < 2:
        return None
    sides = row["response_1"], row["response_2"]
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "chosen": sides[winner - 1],
        "rejected": sides[2 - winner],
    }
