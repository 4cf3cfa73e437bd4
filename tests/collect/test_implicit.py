"""From a log to labels and pairs: what each signal says, and that no row is lost."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from preftune.collect.implicit import Implicit, implicit
from preftune.data.read import read_labels, read_pairs
from preftune.errors import PreftuneError

NOW = datetime(2026, 11, 21, tzinfo=UTC)
FIELDS = {
    "prompt": "q",
    "answer": "a",
    "answer_id": "id",
    "event": "e",
    "user": "u",
    "session": "s",
    "request": "r",
    "position": "k",
    "seconds": "sec",
    "time": "t",
    "edited": "new",
    "slice": "lang",
}
NAMES = {
    "shown": "impression",
    "up": "thumbs_up",
    "down": "thumbs_down",
    "copied": "copy",
    "again": "regenerate",
    "edited": "edit",
    "read": "dwell",
    "hit": "click",
    "end": "session_end",
    "noise": "ignore",
}
MAPPING: dict[str, Any] = {"fields": FIELDS, "events": NAMES}


def make(rows: list[Any], folder: Path, **options: Any) -> tuple[Implicit, list[dict[str, Any]]]:
    output = folder / "out.jsonl"
    mapping = MAPPING | options.pop("change", {})
    found = implicit(rows, mapping, output, now=NOW, **options)
    return found, [json.loads(line) for line in output.read_text().splitlines()]


def event(kind: str, answer: str | None = "an answer", prompt: str = "a question", **more: Any) -> dict[str, Any]:
    return ({"e": kind, "q": prompt, "a": answer} if answer is not None else {"e": kind}) | more


def label_of(records: list[dict[str, Any]], answer: str) -> tuple[bool, float]:
    (found,) = [record for record in records if record["completion"] == answer]
    return found["label"], found["confidence"]


def test_thumbs_become_labels_that_training_reads(tmp_path: Path) -> None:
    rows = [event("up", "good", u="x"), event("down", "bad", u="y")]
    found, records = make(rows, tmp_path)
    assert found.made == 2 and found.desirable == 1
    assert label_of(records, "good")[0] and not label_of(records, "bad")[0]
    # (1 + sqrt(0.4)) / 2 for a rater of even votes; a little less for x, whose one vote was an up.
    assert 0.77 < label_of(records, "good")[1] < 0.816
    assert read_labels(tmp_path / "out.jsonl").read == 2


def test_source_says_how_and_on_what_assumptions(tmp_path: Path) -> None:
    _, (record,) = make([event("up", u="x")], tmp_path)
    source = record["source"]
    assert {name: source[name] for name in ("kind", "time", "cost", "mapping", "signals")} == {
        "kind": "implicit",
        "time": "2026-11-21T00:00:00+00:00",
        "cost": None,
        "mapping": "given",
        "signals": {"thumbs_up": 1},
    }
    assert any("no answer was judged by two raters" in line for line in source["assumptions"])
    assert any("independent" in line and "0.95" in line for line in source["assumptions"])


def test_last_thumb_of_a_user_counts(tmp_path: Path) -> None:
    rows = [event("down", u="x", t=20), event("up", u="x", t=10)]  # out of order in the log
    found, records = make(rows, tmp_path)
    assert label_of(records, "an answer")[0] is False
    assert found.events == {
        "thumbs_up": {"a later one of the same user": 1},
        "thumbs_down": {"used": 1},
    }


def test_conflicting_signals_cancel_and_agreeing_ones_are_capped(tmp_path: Path) -> None:
    even = [event("up", "mixed", u="x"), event("down", "mixed", u="y")]
    many = [event("up", "loved", u=f"u{number}") for number in range(40)]
    many += [event("down", "hated", u=f"u{number}") for number in range(40)]
    found, records = make(even + many, tmp_path)
    assert found.conflicting == 1 and found.dropped == {"no evidence": 1}
    assert label_of(records, "loved") == (True, 0.95) and label_of(records, "hated") == (False, 0.95)
    assert "conflicting-signals" in {finding.id for finding in found.findings}


def test_regenerated_answer_loses_to_the_one_kept(tmp_path: Path) -> None:
    rows = [
        event("shown", "first", r="1"),
        event("again", None, r="1"),
        event("shown", "second", r="1"),
        event("again", None, r="1"),
        event("shown", "third", r="1"),
    ]
    found, records = make(rows, tmp_path, shape="pairs")
    pairs = [(record["chosen"], record["rejected"], record["confidence"]) for record in records]
    assert [(chosen, rejected) for chosen, rejected, _ in pairs] == [("third", "first"), ("third", "second")]
    assert all(confidence == pytest.approx(0.65) for *_, confidence in pairs)
    assert found.events["regenerate"] == {"used": 2}
    assert read_pairs(tmp_path / "out.jsonl").read == 2


def test_regeneration_without_a_second_answer_labels_the_first(tmp_path: Path) -> None:
    found, records = make([event("shown", "only", r="1"), event("again", "only", r="1")], tmp_path)
    assert label_of(records, "only") == (False, 0.65)
    assert found.events["regenerate"] == {"used for the first answer only: no second one": 1}


def test_edited_text_wins_with_its_size_as_margin_and_tiny_edits_are_ignored(tmp_path: Path) -> None:
    rows = [
        event("edited", "one two three four", new="one two three five", u="x"),
        event("edited", "one two three four", "another", new="One two three four!", u="x"),
    ]
    found, records = make(rows, tmp_path, shape="pairs")
    assert found.events["edit"] == {"used": 1, "an edit too small to count": 1}
    (record,) = records
    assert (record["chosen"], record["rejected"]) == ("one two three five", "one two three four")
    assert (record["margin"], record["confidence"]) == (0.25, pytest.approx(0.8))


def test_edit_that_names_its_answer_by_id_finds_it(tmp_path: Path) -> None:
    rows = [event("edited", None, id="7", new="better words", u="x"), event("shown", "worse", id="7")]
    _, (record,) = make(rows, tmp_path, shape="pairs")
    assert (record["prompt"], record["chosen"], record["rejected"]) == ("a question", "better words", "worse")


def test_dwell_is_compared_within_slice_and_length(tmp_path: Path) -> None:
    rows = []
    for number in range(40):  # long answers take ten times as long; German readers twice as long
        for lang, factor in (("en", 1), ("de", 2)):
            rows.append(event("read", f"short {number} {lang}", f"q{number}", sec=(number + 1) * factor, lang=lang))
            long = f"long {number} {lang} " + "word " * 60
            rows.append(event("read", long, f"q{number}", sec=(number + 1) * 10 * factor, lang=lang))
    rows.append(event("read", "left open", sec=100_000, lang="en"))
    found, records = make(rows, tmp_path)
    assert found.events["dwell"] == {"too long to be reading": 1, "used": 160}
    by_answer = {record["completion"][:10]: record["label"] for record in records}
    assert len(records) == 160 and sum(by_answer.values()) == len(by_answer) / 2
    for lang in ("en", "de"):
        short = [label_of(records, f"short {number} {lang}") for number in (5, 35)]
        assert [is_good for is_good, _ in short] == [False, True] and short[0][1] == pytest.approx(0.58)


def test_too_few_dwell_times_give_no_label(tmp_path: Path) -> None:
    found, _ = make([event("read", f"a{n}", sec=n) for n in range(10)] + [event("up", u="x")], tmp_path)
    assert found.events["dwell"] == {"too few for a median": 10}


def test_copy_says_less_of_a_user_who_copies_everything(tmp_path: Path) -> None:
    rows = []
    for number in range(20):
        rows += [event("shown", f"a{number}", u=user) for user in ("all", "some")]
        rows += [event("copied", f"a{number}", u="all")]
    rows += [event("copied", "a3", u="some")]
    _, records = make(rows, tmp_path, min_confidence=0.5)
    both, one = label_of(records, "a3")[1], label_of(records, "a4")[1]
    assert one < 0.6 and both == pytest.approx(0.65 + one - 0.5, abs=0.05)


def test_session_length_is_shared_out_among_its_answers(tmp_path: Path) -> None:
    rows = []
    for number in range(30):
        rows.append(event("shown", f"a{number}", s=f"s{number}"))
        rows.append(event("end", None, s=f"s{number}", sec=number))
    rows += [event("shown", "twin", s="s29")]
    found, records = make(rows, tmp_path, min_confidence=0.5)
    assert found.session_measure == "seconds, as its end says"
    assert label_of(records, "a28") == (True, pytest.approx(0.53))
    assert label_of(records, "a29")[1] == pytest.approx(0.515, abs=1e-3)
    assert label_of(records, "a2")[0] is False


def test_weak_signal_that_goes_against_thumbs_loses_its_weight(tmp_path: Path) -> None:
    """Users copy what they want to complain about: the log itself says so."""
    rows = []
    for number in range(120):
        is_bad = number % 2 == 0
        rows.append(event("down" if is_bad else "up", f"a{number}", u=f"u{number}"))
        rows += [event("copied", f"a{number}", u=f"u{number}")] if is_bad else []
    found, _ = make(rows, tmp_path)
    strength = found.strengths["copy"]
    assert strength.compared == 60 and strength.log_odds == 0
    assert "signals-against-thumbs" in {finding.id for finding in found.findings}


def test_weak_signal_that_goes_with_thumbs_gains_weight(tmp_path: Path) -> None:
    rows = []
    for number in range(300):
        is_good = number % 2 == 0
        rows.append(event("up" if is_good else "down", f"a{number}", u=f"u{number}"))
        rows += [event("copied", f"a{number}", u=f"u{number}")] if is_good or number % 10 == 1 else []
    found, _ = make(rows, tmp_path)
    assert 0.75 < found.strengths["copy"].accuracy <= 0.9


def clicked_lists(requests: int, seed: int, *, swapped: float = 0.2) -> list[dict[str, Any]]:
    """Lists of two answers, of which the second is wanted more and mostly stands below."""
    draw = random.Random(seed)
    rows = []
    for number in range(requests):
        order = ["worse", "better"] if draw.random() > swapped else ["better", "worse"]
        for place, answer in enumerate(order, 1):
            rows.append(event("shown", answer, r=str(number), k=place))
            if draw.random() < {"worse": 0.2, "better": 0.4}[answer] * {1: 1.0, 2: 0.25}[place]:
                rows.append(event("hit", answer, r=str(number)))  # the place is known from the impression
    return rows


def test_clicks_are_corrected_for_places(tmp_path: Path) -> None:
    naive = Counter[str]()
    for seed in range(5):
        rows = clicked_lists(600, seed)
        naive.update(row["a"] for row in rows if row["e"] == "hit")
        found, (pair,) = make(rows, tmp_path, shape="pairs")
        assert pair["chosen"] == "better" and pair["confidence"] > 0.7
        low, high = found.places.chosen.low[1], found.places.chosen.high[1]
        assert found.places.use == "corrected" and low < 0.25 < high
    assert naive["better"] < 1.1 * naive["worse"]  # of equally many exposures; the truth is twice


def test_answers_that_never_move_give_no_clicks(tmp_path: Path) -> None:
    rows = [*clicked_lists(200, 0, swapped=0.0), event("up", "better", u="x")]
    found, _ = make(rows, tmp_path)
    assert found.places.use == "unused" and found.strengths["click"].compared == 0
    assert "positions-without-variation" in {finding.id for finding in found.findings}
    assert found.events["click"] == {"not used": found.places.clicks}


def test_examination_that_the_user_gives_is_used(tmp_path: Path) -> None:
    change = {"examination": {1: 1.0, 2: 0.25}}
    found, (pair,) = make(clicked_lists(400, 0, swapped=0.0), tmp_path, shape="pairs", change=change)
    assert found.places.reason == "given" and pair["chosen"] == "better"


def test_clicks_on_one_prompt_in_one_table_are_counted_by_the_store(tmp_path: Path) -> None:
    """The rows of a shop's log: no requests, one row an exposure with its click in a column."""
    fields = {"prompt": {"constant": "the front page"}, "answer": "item", "position": "place"}
    rows = [{"item": n % 3, "place": n % 2 + 1, "click": int(n % 3 == 0 and n % 4 < 2)} for n in range(1_200)]
    output = tmp_path / "out.jsonl"
    found = implicit(rows, {"fields": fields, "signals": {"click": "click"}}, output, now=NOW)
    assert found.events == {"impression": {"counted as shown": 1_200}, "click": {"used": 200}}
    assert {record.completion: record.label for record in read_labels(output).records}["0"] is True


def test_clicks_alone_cannot_be_used(tmp_path: Path) -> None:
    rows = [row for row in clicked_lists(100, 0) if row["e"] == "hit"]
    found, records = make(rows, tmp_path)
    assert records == [] and {"clicks-without-impressions", "nothing-made"} <= {one.id for one in found.findings}


def test_every_row_is_used_ignored_or_left_out_with_its_reason(tmp_path: Path) -> None:
    rows = [
        event("up", u="x"),
        event("noise"),
        event("liekd"),
        event("read", sec="long"),
        event("down", None, id="nowhere"),
        event("up", u="robot"),
        "not a row",
        {},
        event("up", "an answer", ""),
    ]
    rejected = tmp_path / "rejected.jsonl"
    found, _ = make(rows, tmp_path, rejected=rejected, change={"exclude_users": ["robot"]})
    reading = found.reading
    assert (reading.read, reading.used, reading.ignored) == (9, 1, 1)
    assert reading.read == reading.used + reading.ignored + sum(reading.left_out.values())
    assert reading.left_out == {
        "bad-value": 1,
        "excluded-user": 1,
        "missing-field": 1,
        "not-an-object": 1,
        "null-field": 1,
        "unknown-answer": 1,
        "unknown-event": 1,
    }
    assert reading.unknown_events == {"liekd": 1}
    listed = [json.loads(line) for line in rejected.read_text().splitlines()]
    assert len(listed) == 7 and all(row["where"] and row["mend"] for row in listed)


def test_column_that_no_row_has_is_named_with_the_nearest(tmp_path: Path) -> None:
    mapping = MAPPING | {"fields": FIELDS | {"answer": "answer.text"}}
    rows = [{"e": "up", "q": "q", "answers": [{"text": "t"}]}]
    with pytest.raises(PreftuneError, match=r"answer is mapped to answer\.text") as error:
        implicit(rows, mapping, tmp_path / "out.jsonl")
    assert "answers[0].text" in str(error.value) and not (tmp_path / "out.jsonl").exists()


def test_lesser_column_that_no_row_has_is_a_finding(tmp_path: Path) -> None:
    change = {"fields": FIELDS | {"position": "rnk"}}
    found, _ = make([event("up", rank=1)], tmp_path, change=change)
    (finding,) = [one for one in found.findings if one.id == "mapped-column-absent"]
    assert "position is mapped to rnk; near: rank" in finding.evidence


def test_log_without_a_usable_row_says_why(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match=r"None of 2 rows can be used; 2 for unknown-event"):
        make([event("liekd"), event("liekd")], tmp_path)
    with pytest.raises(PreftuneError, match="There are no rows"):
        make([], tmp_path)


def test_heavy_and_superhuman_users_are_named(tmp_path: Path) -> None:
    rows = [event("up", f"a{n}", f"q{n}", u="robot", t=1_000 + n) for n in range(40)]
    rows += [event("up", f"b{n}", f"q{n}", u=f"u{n % 7}", t=1_000 + 60 * n) for n in range(60)]
    found, _ = make(rows, tmp_path)
    by_id = {one.id: one for one in found.findings}
    assert by_id["superhuman-rate"].rows == by_id["heavy-user"].rows == ("user robot",)
    share = by_id["heavy-user"].share
    assert share is not None and share.value == 0.4 and (share.low or 0) < 0.4 < (share.high or 0)


def test_the_same_log_gives_the_same_file(tmp_path: Path) -> None:
    rows = [*clicked_lists(100, 3), *(event("up", f"a{n}", f"q{n}", u=f"u{n % 3}") for n in range(30))]
    make(rows, tmp_path)
    first = (tmp_path / "out.jsonl").read_bytes()
    make(rows, tmp_path)
    assert (tmp_path / "out.jsonl").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]  # the temporary store is gone


def test_failed_run_leaves_the_old_output(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old\n")
    with pytest.raises(PreftuneError):
        make([event("liekd")], tmp_path)
    assert (tmp_path / "out.jsonl").read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_confidences_of_simulated_raters_are_what_they_say(tmp_path: Path) -> None:
    """Thumbs drawn by the model with hidden competences: among labels of 80% confidence, 80% are right."""
    draw = random.Random(5)
    users = {f"u{number}": draw.choice([0.2, 0.5, 0.8]) for number in range(30)}
    rows, truth = [], {}
    for number in range(1_500):
        answer = f"a{number}"
        truth[answer] = draw.random() < 0.5
        for user in draw.sample(sorted(users), draw.choice([1, 2, 3])):
            is_up = truth[answer] if draw.random() < users[user] else draw.random() < 0.5
            rows.append(event("up" if is_up else "down", answer, f"q{number}", u=user))
    _, records = make(rows, tmp_path, min_confidence=0.5)
    right = [record["label"] == truth[record["completion"]] for record in records]
    stated = [record["confidence"] for record in records]
    for low, high in ((0.5, 0.75), (0.75, 0.9), (0.9, 1.0)):
        here = [index for index, each in enumerate(stated) if low <= each < high]
        share, mean = sum(right[i] for i in here) / len(here), sum(stated[i] for i in here) / len(here)
        assert len(here) > 100 and share == pytest.approx(mean, abs=0.06)
