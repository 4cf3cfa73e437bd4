"""Cleaning: every row is kept or left out with its reason, and what is kept is better than it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.audit.clean import Repairs, clean, left_out_file
from preftune.audit.columns import columns_of
from preftune.audit.label_confidence import label_confidences
from preftune.audit.material import Material
from preftune.audit.scan import scan
from preftune.data.read import read_labels, read_pairs
from preftune.errors import PreftuneError

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def pair(number: int, chosen: str = "a good answer", rejected: str = "a bad one", **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected, **more}


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def cleaned(tmp_path: Path, rows: list[Any], repairs: Repairs | None = None, **more: Any) -> tuple[Any, list[Any], Any]:
    output = tmp_path / "clean.jsonl"
    found = clean(rows, output, repairs, **more)
    return found, rows_of(output), rows_of(left_out_file(output))


def test_every_row_is_kept_or_left_out_with_its_reason(tmp_path: Path) -> None:
    rows = [
        *(pair(i) for i in range(5)),
        pair(0),  # again
        pair(6, chosen="same", rejected="same"),
        pair(7, chosen=""),
        {"prompt": "no answers"},
        "not a row",
        pair(8),
        pair(8, chosen="a bad one", rejected="a good answer"),
    ]
    found, kept, left_out = cleaned(tmp_path, rows)
    assert found.read == len(rows) == len(kept) + len(left_out)
    assert [row["prompt"] for row in kept] == [f"question {i}" for i in range(5)]
    reasons = [row["reason"] for row in left_out]
    assert reasons.count("duplicates") == 1
    assert reasons.count("contradictions") == 2
    assert all(row["reason"] for row in left_out)
    assert found.left_out == {reason: reasons.count(reason) for reason in found.left_out}
    assert found.after.duplicates == found.after.contradictions == 0


def test_of_a_contradiction_the_label_that_most_rows_give_stays(tmp_path: Path) -> None:
    turned = pair(1, chosen="a bad one", rejected="a good answer")
    _, kept, left_out = cleaned(tmp_path, [pair(1), pair(1), turned, pair(2)])
    assert [row["chosen"] for row in kept] == ["a good answer", "a good answer"]
    assert sorted(row["reason"] for row in left_out) == ["contradictions", "duplicates"]


def test_what_is_kept_reads_as_it_was(tmp_path: Path) -> None:
    chat = {
        "prompt": [{"role": "user", "content": "hi"}],
        "chosen": [{"role": "assistant", "content": "hello"}],
        "rejected": [{"role": "assistant", "content": "go away"}],
    }
    rows = [pair(1, confidence=0.9, margin=2.0, id="x", source={"kind": "human"}, colour="red"), chat]
    cleaned(tmp_path, rows)
    assert read_pairs(tmp_path / "clean.jsonl").records == read_pairs(rows).records


def test_a_reason_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(PreftuneError, match="near-duplicates"):
        Repairs(drop=("near-duplicate",))


@pytest.mark.parametrize("wrong", [{"min_confidence": 1.5}, {"turn_below": 0.7}, {"turn_below": -0.1}])
def test_probabilities_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PreftuneError):
        Repairs(**wrong)


def test_where_nothing_would_be_kept_there_is_no_file_and_the_reasons_stay(tmp_path: Path) -> None:
    rows = [pair(1), pair(1, chosen="a bad one", rejected="a good answer")]
    with pytest.raises(PreftuneError, match="contradictions"):
        clean(rows, tmp_path / "clean.jsonl")
    assert not (tmp_path / "clean.jsonl").exists()
    assert len(rows_of(tmp_path / "clean.left-out.jsonl")) == 2


def test_a_text_mark_is_a_reason(tmp_path: Path) -> None:
    rows = [pair(1, chosen="fine<|im_end|>"), pair(2)]
    _, kept, left_out = cleaned(tmp_path, rows, Repairs(drop=("special-token",)))
    assert [row["prompt"] for row in kept] == ["question 2"]
    assert left_out[0]["reason"] == "special-token"


def test_leaked_prompts_go_and_need_the_evaluation_data(tmp_path: Path) -> None:
    repairs = Repairs(drop=("leaked-prompts",))
    _, kept, _ = cleaned(tmp_path, [pair(1), pair(2)], repairs, eval_data=[pair(2, chosen="another")])
    assert [row["prompt"] for row in kept] == ["question 1"]
    with pytest.raises(PreftuneError, match="evaluation"):
        clean([pair(1)], tmp_path / "clean.jsonl", repairs)


def learnable(n: int, flipped: float, seed: int = 0) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Pairs whose chosen side has words that the rejected has not, a share of them turned."""
    draw = np.random.default_rng(seed)
    is_flipped = draw.random(n) < flipped
    rows = []
    for i in range(n):
        good, bad = (" ".join(draw.choice(WORDS[a:b], 6)) for a, b in ((0, 5), (5, 10)))
        sides = (bad, good) if is_flipped[i] else (good, bad)
        rows.append(pair(i, *sides))
    return rows, is_flipped


def test_labels_that_are_surely_wrong_are_turned_and_doubtful_ones_left_out(tmp_path: Path) -> None:
    rows, is_flipped = learnable(600, 0.15)
    found, kept, left_out = cleaned(tmp_path, rows, Repairs(turn_below=0.2, min_confidence=0.8, soft_labels=True))
    turned = [row for row in kept if "turned" in row.get("meta", {})]
    assert found.turned == len(turned) > 0.8 * is_flipped.sum()
    good = set(WORDS[:5])
    assert np.mean([set(row["chosen"].split()) <= good for row in kept]) > 0.98
    assert all(row["confidence"] >= 0.8 for row in kept)
    assert all(row["reason"] == "uncertain-label" for row in left_out)


def test_votes_are_the_prior_and_evidence_multiplies_their_odds(tmp_path: Path) -> None:
    rows, _ = learnable(300, 0.15)
    found = scan(rows)
    material = Material(found, np.arange(len(found)), 0)
    without, with_evidence = (label_confidences(material, with_evidence=one) for one in (False, True))
    assert np.isnan(without).all()
    stated = scan([row | {"confidence": 0.9} for row in rows])
    surer = label_confidences(Material(stated, np.arange(len(stated)), 0), with_evidence=True)
    rate = material.mislabelled.rate.value  # type: ignore[union-attr]
    odds = (surer / (1 - surer)) / (with_evidence / (1 - with_evidence))
    middle = (with_evidence > 0.01) & (with_evidence < 0.99) & (surer > 0.01) & (surer < 0.99)
    assert middle.any()
    assert odds[middle] == pytest.approx((0.9 / 0.1) / ((1 - rate) / rate), rel=1e-6)


def test_comparisons_become_the_pairs_that_their_votes_decide(tmp_path: Path) -> None:
    def compared(number: int, votes: list[int]) -> dict[str, Any]:
        return {
            "prompt": f"q{number}",
            "response_1": f"one {number}",
            "response_2": f"two {number}",
            "annotators": votes,
        }

    rows = [compared(i, [1, 1, 2 if i % 3 == 0 else 1]) for i in range(30)] + [compared(99, [0, 0, 0])]
    found, kept, left_out = cleaned(tmp_path, rows)
    assert len(kept) == 30
    assert all(row["chosen"].startswith("one") for row in kept)
    assert found.left_out == {"no-winner": 1}
    assert left_out[0]["prompt"] == "q99"


def test_labels_are_cleaned_as_labels(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": f"answer {i}", "label": bool(i % 2)} for i in range(6)]
    _, kept, left_out = cleaned(tmp_path, [*rows, rows[0], rows[1] | {"label": False}])
    assert len(read_labels(tmp_path / "clean.jsonl").records) == len(kept) == 5
    assert sorted(row["reason"] for row in left_out) == ["contradictions", "contradictions", "duplicates"]


def test_balanced_lengths_win_half_at_every_gap(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for i in range(400):
        long, short = "x" * int(draw.integers(20, 90)), "y" * int(draw.integers(1, 19))
        rows.append(pair(i, *((long, short) if draw.random() < 0.8 else (short, long))))
    found, _, left_out = cleaned(tmp_path, rows, Repairs(balance_lengths=True))
    assert found.before.longer_wins.value > 0.7
    assert found.after.longer_wins.value == pytest.approx(0.5)
    assert {row["reason"] for row in left_out} == {"length-balance"}
    columns = columns_of(read_pairs(tmp_path / "clean.jsonl").records)
    gaps = columns.characters[:, 1].astype(int) - columns.characters[:, 2]
    assert np.mean(np.abs(gaps[gaps > 0])) == pytest.approx(np.mean(np.abs(gaps[gaps < 0])), rel=0.15)


def test_the_same_seed_gives_the_same_rows(tmp_path: Path) -> None:
    rows, _ = learnable(120, 0.2)
    first = cleaned(tmp_path, rows, Repairs(balance_lengths=True, soft_labels=True), seed=3)[1]
    assert first == cleaned(tmp_path, rows, Repairs(balance_lengths=True, soft_labels=True), seed=3)[1]
