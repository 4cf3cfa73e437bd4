"""Labels and demonstrations read from public sets that lie beside the repository; skipped where they do not."""

from pathlib import Path

import pytest

from preftune.data.read import read_demonstrations, read_labels
from preftune.data.split import leaked_prompts, split_by_prompt

SETS = Path(__file__).parents[2].parent / "shared/data"


def place(name: str) -> Path:
    path = SETS / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


def test_hh_pairs_are_two_labels_or_one_demonstration_each() -> None:
    labels = read_labels(place("hh-harmless/pairs.jsonl"))
    shown = read_demonstrations(place("hh-harmless/pairs.jsonl"))
    assert (labels.read, len(labels.records), labels.rejected) == (1310, 2620, ())
    assert labels.notes == ("Read 2,620 labels from 1,310 pairs: chosen is true, rejected false.",)
    assert sum(label.label for label in labels.records) == 1310
    assert (shown.read, len(shown.records), shown.rejected) == (1310, 1310, ())
    train, evaluation = split_by_prompt(labels.records, 0.1, seed=7)
    assert len(evaluation) == 262 and leaked_prompts(train, evaluation) == ()


def test_hh_transcripts_give_the_demonstrations_of_the_messages() -> None:
    messages = read_demonstrations(place("hh-harmless/pairs.jsonl"))
    transcripts = read_demonstrations(place("hh-harmless/transcripts.jsonl"))
    assert {each.id for each in transcripts.records} <= {each.id for each in messages.records}
