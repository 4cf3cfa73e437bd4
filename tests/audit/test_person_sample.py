import json
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import binom

from preftune.audit.person_sample import (
    Answer,
    audit_sample,
    blind,
    draw_sample,
    firing_chance,
    rate_of_sample,
    read_answers,
    sample_size_for,
    what_sample_shows,
    write_sample,
)
from preftune.data.read import read_comparisons
from preftune.data.records import Pair
from preftune.errors import PreftuneError

PAIRS = [Pair(prompt=f"q{i}", chosen=f"good {i}", rejected=f"bad {i}", id=f"r{i}") for i in range(300)]


def answers_of(path: Path, wrong: int) -> list[Answer]:
    """A person who is right about the good side of each row of the file, but for the first ``wrong`` rows."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = []
    for place, row in enumerate(rows):
        is_first = row["response_1"].startswith("good") != (place < wrong)
        answers.append(Answer(row["id"], "first" if is_first else "second", 3.0))
    return answers


def test_six_of_fifty_is_the_known_interval() -> None:
    rate = rate_of_sample(6, 50)
    assert (rate.value, round(rate.low, 3), round(rate.high, 3)) == (0.12, 0.045, 0.243)


def test_the_exact_interval_has_closed_ends() -> None:
    # Of none in n the upper end is 1 - 0.025^(1/n), of all in n the lower one its mirror image.
    none, every = rate_of_sample(0, 50), rate_of_sample(50, 50)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 50)))
    assert (every.low, every.high) == (pytest.approx(0.025 ** (1 / 50)), 1.0)
    assert rate_of_sample(0, 0).value is None
    with pytest.raises(PreftuneError, match="7 of 6 rows cannot be wrong"):
        rate_of_sample(7, 6)


def test_the_warning_has_its_false_alarms_and_its_power() -> None:
    assert firing_chance(50, 0.05) == pytest.approx(0.038, abs=5e-4)
    assert firing_chance(50, 0.20) == pytest.approx(0.952, abs=5e-4)
    finding = what_sample_shows(0, 50)
    assert "starts at 6 wrong" in finding.what and "3.8% of samples" in finding.what and "95.2%" in finding.what


@pytest.mark.parametrize(
    ("wrong", "n", "severity", "title"),
    [
        (5, 50, "info", "The sample shows no unusual share of wrong labels"),
        (6, 50, "warning", "Labels may be wrong"),
        (7, 50, "warning", "Labels are wrong"),
        (20, 200, "info", "The sample shows no unusual share of wrong labels"),
        (21, 200, "warning", "Labels are wrong"),
        (0, 12, "info", "Too few rows were judged to say"),
        (2, 12, "info", "Too few rows were judged to say"),
        (5, 12, "warning", "Labels are wrong"),
        (0, 0, "info", "Nobody has judged the sample"),
    ],
)
def test_what_a_sample_shows(wrong: int, n: int, severity: str, title: str) -> None:
    finding = what_sample_shows(wrong, n)
    assert (finding.severity, finding.title) == (severity, title)
    assert "healthy" not in finding.what + finding.title


def test_fifty_rows_call_for_two_hundred() -> None:
    assert "Judge 200 rows" in what_sample_shows(6, 50).remedy
    assert what_sample_shows(6, 50).evidence == "6 of 50 rows wrong: 12.0% (exact 95% interval 4.5% to 24.3%)."


@pytest.mark.parametrize(("low", "high", "power"), [(0.05, 0.15, 0.8), (0.05, 0.2, 0.95), (0.3, 0.5, 0.9)])
def test_a_sample_size_keeps_both_promises_and_no_smaller_one_does(low: float, high: float, power: float) -> None:
    size = sample_size_for(low, high, power=power)
    assert binom.sf(size.at_least - 1, size.rows, low) <= 0.05
    assert binom.sf(size.at_least - 1, size.rows, high) >= power
    for rows in range(max(1, size.rows - 40), size.rows):
        for at_least in range(rows + 1):
            assert binom.sf(at_least - 1, rows, low) > 0.05 or binom.sf(at_least - 1, rows, high) < power


def test_two_hundred_rows_tell_five_from_fifteen_percent() -> None:
    assert rate_of_sample(10, 200).high < rate_of_sample(30, 200).low
    assert rate_of_sample(3, 50).high > rate_of_sample(8, 50).low
    assert sample_size_for(0.05, 0.15, alpha=0.05, power=0.97).rows < 200


def test_a_sample_size_needs_two_rates() -> None:
    with pytest.raises(PreftuneError, match="low below high"):
        sample_size_for(0.2, 0.1)


def test_a_sample_is_random_and_the_same_for_a_seed() -> None:
    ids = [str(i) for i in range(10)]
    assert draw_sample(ids, 4, seed=3) == draw_sample(ids, 4, seed=3)
    assert len(set(draw_sample(ids, 4, seed=3))) == 4
    assert sorted(draw_sample(ids, 50, seed=0)) == ids
    first = Counter(draw_sample(ids, 3, seed)[0] for seed in range(2000))
    assert min(first.values()) > 150 and max(first.values()) < 250  # 200 expected, 3.7 standard deviations
    with pytest.raises(PreftuneError, match="Draw 50"):
        draw_sample(ids, 0, seed=0)


def test_a_sample_does_not_tell_its_labels() -> None:
    first_is_chosen = [blind(pair, seed=1).response_1 == pair.chosen for pair in PAIRS]
    assert 110 < sum(first_is_chosen) < 190
    assert first_is_chosen != [blind(pair, seed=2).response_1 == pair.chosen for pair in PAIRS]


def test_a_sample_is_judged_from_files_alone(tmp_path: Path) -> None:
    sample, said = tmp_path / "sample.jsonl", tmp_path / "answers.jsonl"
    ids = write_sample(sample, PAIRS, 50, seed=7)
    lines = [json.loads(line) for line in sample.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(ids)
    assert all(line.keys() == {"id", "prompt", "response_1", "response_2"} for line in lines)
    assert read_comparisons(sample).read == 50  # so the annotation page opens it
    given = answers_of(sample, wrong=7)
    said.write_text("".join(json.dumps(vars(answer)) + "\n" for answer in given), encoding="utf-8")
    audit = audit_sample(PAIRS, read_answers(said).answers, seed=7)
    assert (audit.judged, set(audit.wrong)) == (50, set(ids[:7]))
    (finding,) = audit.findings
    assert finding.title == "Labels are wrong" and finding.rows == audit.wrong and len(finding.examples) == 5


def test_ties_skips_repeats_and_strangers_are_counted() -> None:
    answers = [Answer("r1", "tie"), Answer("r2", "skip"), Answer("r1", "both_bad"), Answer("stranger", "first")]
    audit = audit_sample(PAIRS, answers, seed=0)
    assert (audit.judged, audit.wrong, audit.ties) == (1, (), ("r1",))
    assert (audit.skipped, audit.repeated, audit.unknown) == (1, 1, 1)


def test_votes_of_the_annotation_page_are_answers_too(tmp_path: Path) -> None:
    path = tmp_path / "voted.jsonl"
    row = {"id": 5, "prompt": "q", "response_1": "a", "response_2": "b"}
    votes = [{"id": "ann", "choice": "second", "seconds": 4}, {"id": "bob", "choice": "first"}]
    path.write_text(json.dumps(row | {"annotators": votes}) + "\n", encoding="utf-8")
    assert read_answers(path).answers == (Answer("5", "second", 4.0), Answer("5", "first"))


def test_what_is_no_answer_is_named_and_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"id": "a", "choice": "left"}\n{"id": "b", "choice": "first"}\n{"id"\n[]\n', encoding="utf-8")
    answers = read_answers(path)
    assert answers.answers == (Answer("b", "first"),)
    assert len(answers.rejected) == 3 and answers.rejected[0].startswith("answers.jsonl:1: It needs an id and a choice")
