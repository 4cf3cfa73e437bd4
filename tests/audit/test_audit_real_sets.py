"""The readers and the audit on public sets that lie beside the repository; skipped where they do not."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from preftune.audit.basics import audit_basics
from preftune.audit.scan import scan
from preftune.data.comparisons import majority
from preftune.data.read import read_comparisons, read_pairs
from preftune.data.split import leaked_prompts, split_by_prompt

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


def test_pandalm_is_read_as_comparisons_and_by_the_majority_as_pairs() -> None:
    path = place("pandalm/comparisons.jsonl")
    compared = read_comparisons(path)
    assert (compared.read, compared.rejected) == (999, ())  # answers that JSON took for true are their text
    choices = Counter(majority(one.annotators) for one in compared.records)
    assert (choices["first"], choices["second"], choices["tie"] + choices[None]) == (422, 472, 105)
    reading = read_pairs(path)
    assert reading.read == 999 == len(reading.records) + len(reading.rejected)
    # 52 of those that were decided have an empty answer.
    assert (len(reading.records), reading.reasons()["empty-completion"]) == (422 + 472 - 52, 52)
    assert reading.reasons()["tie"] == 105
    assert reading.notes[0].endswith("by the majority of votes; left 105 without a majority out.")


def test_votes_of_ukpconvarg_are_comparisons_after_a_few_renamed_fields() -> None:
    with gzip.open(place("ukpconvarg/pairs.jsonl.gz"), "rt", encoding="utf-8") as lines:
        rows = [convincing(json.loads(line)) for line in lines]
    reading = read_comparisons(rows)
    assert (len(reading.records), reading.rejected) == (4721, ())
    assert len({vote.id for one in reading.records for vote in one.annotators}) > 100
    assert reading.records[0].annotators[0].model_dump()["reason"].startswith("A2 is talking")


def convincing(row: dict) -> dict:
    choices = {"a1": "first", "a2": "second", "equal": "tie"}
    return {
        "id": row["pair_id"],
        "prompt": f"{row['title']}: {row['stance']}",
        "response_1": row["arg1"]["text"],
        "response_2": row["arg2"]["text"],
        "annotators": [
            {"id": vote["annotator"], "choice": choices[vote["value"]], "reason": vote["reason"]}
            for vote in row["annotations"]
        ],
    }


@pytest.mark.parametrize(
    "name", ["hh-harmless/pairs.jsonl", "hh-harmless/transcripts.jsonl", "pandalm/comparisons.jsonl"]
)
def test_real_sets_are_scanned_as_they_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftune.audit.blocks.BLOCK_BYTES", 200_000)
    found, reading = scan(place(name), kind="pair", processes=2), read_pairs(place(name))
    assert (found.read, found.rejected, found.notes) == (reading.read, reading.rejected, reading.notes)
    assert audit_basics(found).as_dict() == audit_basics(reading).as_dict()
