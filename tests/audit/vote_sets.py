"""Votes to test with: real ones that lie beside the repository, and simulated people of known skill."""

from __future__ import annotations

import functools
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.audit.votes import CHOICES, Votes, votes_from_table

SETS = Path(__file__).parents[2].parent / "shared/data"
PANDALM_NAMES = {0: "tie", 1: "first", 2: "second"}
UKP_NAMES = {"a1": "first", "a2": "second", "equal": "tie"}


@functools.cache
def pandalm_rows() -> tuple[dict[str, Any], ...]:
    path = SETS / "pandalm/comparisons.jsonl"
    if not path.exists():
        pytest.skip("pandalm is not here")
    return tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def pandalm_table() -> list[tuple[str, str, str]]:
    return [
        (row["id"], f"person-{place}", PANDALM_NAMES[value])
        for row in pandalm_rows()
        for place, value in enumerate(row["annotators"], 1)
    ]


@functools.cache
def ukpconvarg_rows() -> tuple[dict[str, Any], ...]:
    path = SETS / "ukpconvarg/pairs.jsonl.gz"
    if not path.exists():
        pytest.skip("ukpconvarg is not here")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return tuple(json.loads(line) for line in lines)


@functools.cache
def ukpconvarg_votes() -> Votes:
    """The votes with seconds: those of a task, shared out among the comparisons that its worker judged in it."""
    rows = ukpconvarg_rows()
    in_task = Counter((vote["annotator"], vote["hit"]) for row in rows for vote in row["annotations"])
    return votes_from_table(
        (
            row["pair_id"],
            vote["annotator"],
            UKP_NAMES[vote["value"]],
            None if vote["hit_seconds"] is None else vote["hit_seconds"] / in_task[vote["annotator"], vote["hit"]],
        )
        for row in rows
        for vote in row["annotations"]
    )


def ukpconvarg_gold() -> dict[str, str]:
    return {row["pair_id"]: UKP_NAMES[row["gold_mace"]] for row in ukpconvarg_rows() if row["gold_mace"]}


def simulated(
    accuracies: list[float], items: int, seed: int, per_item: int | None = None
) -> tuple[Votes, dict[str, str]]:
    """People who are right so often and else choose one of the other two at random; and the truth by item."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size=items)
    rows = []
    for item in range(items):
        people = range(len(accuracies)) if per_item is None else rng.choice(len(accuracies), per_item, replace=False)
        for person in people:
            is_right = rng.random() < accuracies[person]
            choice = truth[item] if is_right else (truth[item] + rng.integers(1, 3)) % 3
            rows.append((f"i{item}", f"p{person}", CHOICES[choice]))
    return votes_from_table(rows), {f"i{item}": CHOICES[choice] for item, choice in enumerate(truth)}
