"""One kind of record read as another: what is converted, what is refused, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.data.kinds import one_sided
from preftune.data.read import Reading, joined, read_demonstrations, read_labels, read_pairs
from preftune.data.records import Demonstration, Label, Pair
from preftune.errors import PreftuneError

PAIR = {"id": "p", "prompt": "q", "chosen": "yes", "rejected": "no", "confidence": 0.5, "margin": 2.0}
GOOD, BAD = ({"prompt": "q", "completion": text, "label": text == "yes"} for text in ("yes", "no"))
SHOWN = {"prompt": "q", "completion": "yes"}
ASKED = {"prompt": "q", "answer": "4"}
GROUP = {"id": "g", "prompt": "q", "completions": ["a", "b", "c"], "ranks": [1, 2, 3]}


def test_pairs_are_read_as_two_labels_each() -> None:
    reading = read_labels([PAIR, GOOD, PAIR | {"id": "bad", "rejected": "yes"}])
    assert [(each.id, each.completion, each.label) for each in reading.records[:2]] == [
        ("p/chosen", "yes", True),
        ("p/rejected", "no", False),
    ]
    assert reading.records[0].confidence == 0.5 and reading.records[0].meta == {"margin": 2.0}
    assert reading.notes == ("Read 2 labels from 1 pair: chosen is true, rejected false.",)
    assert (reading.read, reading.used_rows, len(reading.records), len(reading.rejected)) == (3, 2, 3, 1)


def test_the_chosen_side_of_a_pair_is_a_demonstration() -> None:
    reading = read_demonstrations([PAIR, Pair(**PAIR | {"id": "r"}), SHOWN])
    assert [(each.id, each.completion) for each in reading.records[:2]] == [("p", "yes"), ("r", "yes")]
    assert reading.notes == ("Read 2 demonstrations from pairs: the chosen answers.",)
    assert reading.read == 3


def test_desirable_answers_are_demonstrations_and_the_others_are_left_out_by_name() -> None:
    reading = read_demonstrations([GOOD, BAD, GOOD, {"text": "more"}])
    assert [each.completion for each in reading.records] == ["yes", "yes", "more"]
    assert reading.reasons() == {"undesirable": 1}
    assert reading.notes == ("Read 2 demonstrations from labels: the desirable answers; left 1 undesirable out.",)
    assert "preftune kto" in reading.rejected[0].mend
    with pytest.raises(PreftuneError, match=r"The one row cannot be used; 1 for undesirable.*preftune kto"):
        read_demonstrations([BAD])


def test_groups_of_ranked_answers_are_read_as_pairs() -> None:
    reading = read_pairs([GROUP, PAIR])
    assert [pair.id for pair in reading.records] == ["g/1-2", "g/1-3", "g/2-3", "p"]
    assert (reading.read, reading.notes) == (2, ("Read 3 pairs from 1 group of ranked answers.",))


@pytest.mark.parametrize(
    ("read", "rows", "says"),
    [
        (read_pairs, [GOOD, BAD], r"labels, not pairs: each of 2 rows has a completion and a label.*preftune kto"),
        (read_pairs, [SHOWN], r"demonstrations, not pairs: the one row has.*preftune sft.*chosen and rejected"),
        (read_pairs, [{"messages": []}, {"text": "x"}], r"demonstrations, not pairs.*preftune sft"),
        (read_labels, [SHOWN, {"text": "x"}], r"demonstrations, not labels.*preftune sft.*column label"),
        (read_labels, [GROUP], r"groups of ranked answers, not labels.*preftune reward"),
        (read_demonstrations, [GROUP], r"groups of ranked answers, not demonstrations.*preftune reward"),
        (read_pairs, [ASKED], r"prompts, not pairs: the one row has a prompt, and no chosen and rej.*preftune grpo"),
        (read_pairs, [ASKED], r"The row has prompt, answer; rename its columns to prompt, chosen and rejected"),
        (read_labels, [ASKED] * 2, r"prompts, not labels: each of 2 rows has a prompt, and no label.*preftune grpo"),
        (read_demonstrations, [ASKED], r"prompts, not demonstrations.*preftune grpo"),
    ],
)
def test_rows_of_another_kind_are_refused_with_what_helps(read: Any, rows: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(PreftuneError, match=says):
        read(rows)


def test_unreadable_lines_do_not_hide_the_kind(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{{broken\n{json.dumps(BAD)}\n")
    with pytest.raises(PreftuneError, match=r"labels.jsonl: These are labels, not pairs: each of 2 rows"):
        read_pairs(path)


def test_a_mixed_file_is_reported_row_by_row() -> None:
    reading = read_pairs([GOOD, PAIR, SHOWN])
    assert len(reading.records) == 1 and reading.reasons() == {"missing-field": 2} and reading.notes == ()
    with pytest.raises(PreftuneError, match=r"None of 2 rows can be used; 2 for missing-field"):
        read_pairs([GOOD, SHOWN])


def test_records_are_taken_as_they_are() -> None:
    label, shown = Label(**GOOD), Demonstration(prompt="", completion="text")
    assert read_labels([label]).records == (label,)
    assert read_demonstrations([shown, label]).records[0] == shown


def test_labels_of_one_side_are_named() -> None:
    assert one_sided([Label(**GOOD), Label(**BAD)]) is None
    assert one_sided([]) is None
    good, bad = one_sided([Label(**GOOD)] * 1200), one_sided([Label(**BAD)], where="file")
    assert good is not None and "All labels are true (1,200 of them)" in str(good) and "preftune sft" in str(good)
    assert bad is not None and "file: All labels are false (1 of them)" in str(bad)


def test_joined_readings_count_rows() -> None:
    first, second = read_labels([PAIR, {}]), read_labels([GOOD])
    both = joined([first, second])
    assert (both.read, len(both.records), len(both.rejected)) == (3, 3, 1)
    assert both.notes == first.notes and both.source == first.source
    assert Reading(both.records, (), "x").read == 3
