import json
from typing import Any

import pytest

from preftune.audit.basics import audit_basics
from preftune.data.read import Reading, read_comparisons, read_labels, read_pairs


def row(number: int, chosen: str | None = None, rejected: str | None = None, prompt: str | None = None) -> dict:
    """One of many rows that differ; every second one has the longer side chosen."""
    short, long = f"s {number:04}", f"long {number:04}"
    sides = (long, short) if number % 2 else (short, long)
    return {"prompt": prompt or f"q {number}", "chosen": chosen or sides[0], "rejected": rejected or sides[1]}


HEALTHY = [row(number) for number in range(200)]


def findings(reading: Reading, **options: Any) -> dict[str, Any]:
    return {finding.id: finding for finding in audit_basics(reading, **options).findings}


def test_healthy_data_has_no_findings() -> None:
    reading = read_pairs(HEALTHY)
    audit = audit_basics(reading, evaluation=read_pairs([row(1000)]).records)
    assert audit.findings == ()
    assert (audit.read, audit.used, audit.rejected, audit.distinct_prompts) == (200, 200, {}, 200)
    assert (audit.duplicates, audit.contradictions, audit.identical, audit.leaked_prompts) == (0, 0, 0, 0)


def test_the_longer_side_wins_with_its_wilson_interval_and_no_ties() -> None:
    # 8 of 10, 5 ties. Wilson: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.959964.
    rows = [row(i, "long one", "short") for i in range(8)] + [row(i, "a", "long") for i in range(8, 10)]
    rows += [row(i, "same", "size") for i in range(10, 15)]
    share = audit_basics(read_pairs(rows)).longer_wins
    assert (share.value, share.n, share.unit) == (0.8, 10, "share")
    assert (share.low, share.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert "5 of equal length" in share.explanation


def test_lengths_are_the_percentiles_of_characters() -> None:
    rows = [row(i, chosen="c" * (i + 1), rejected="r", prompt="p" * 7) for i in range(101)]
    rows[0]["chosen"] = "x"
    lengths = audit_basics(read_pairs(rows)).as_dict()["lengths"]
    assert lengths["chosen"] == {"n": 101, "min": 1, "p5": 6, "median": 51, "p95": 96, "max": 101}
    assert lengths["prompt"] == {"n": 101, "min": 7, "p5": 7, "median": 7, "p95": 7, "max": 7}


@pytest.mark.parametrize(
    ("longer", "shorter", "is_found"),
    [(70, 30, True), (30, 70, True), (64, 36, False), (7, 3, False), (10, 0, True)],
    ids=["longer", "shorter", "within the band", "interval holds one half", "small but certain"],
)
def test_a_length_shortcut_is_found_where_it_is_clear(longer: int, shorter: int, is_found: bool) -> None:
    rows = [row(i, "long answer", "short") for i in range(longer)]
    rows += [row(i, "short", "long answer") for i in range(longer, longer + shorter)]
    found = findings(read_pairs(rows))
    assert ("length-shortcut" in found) == is_found
    if is_found:
        assert "95% interval" in found["length-shortcut"].evidence
        assert found["length-shortcut"].title.startswith("The longer" if longer > shorter else "The shorter")


def test_repeated_pairs_are_counted_after_the_first() -> None:
    again = [row(0), row(0, prompt="q  0 "), row(1)]
    reading = read_pairs([*HEALTHY, *again])
    audit = audit_basics(reading)
    assert (audit.duplicates, audit.contradictions) == (3, 0)
    finding = findings(reading)["duplicates"]
    assert finding.severity == "warning" and finding.rows == tuple(pair.id for pair in reading.records[200:])
    assert "duplicates" not in findings(read_pairs([*HEALTHY, row(0), row(1)]))


def test_a_pair_labelled_both_ways_is_a_contradiction() -> None:
    first = HEALTHY[3]
    swapped = first | {"chosen": first["rejected"], "rejected": f" {first['chosen']}", "id": "swapped"}
    audit = audit_basics(read_pairs([*HEALTHY, swapped]))
    assert (audit.contradictions, audit.duplicates) == (1, 0)
    (finding,) = audit.findings
    assert finding.severity == "error" and "1 comparison in 2 rows" in finding.evidence
    assert len(finding.rows) == 2 and finding.rows[1] == "swapped"


def test_identical_sides_are_counted_used_or_left_out() -> None:
    rows = [*HEALTHY, row(300, "two  words", "two words"), row(301, "same", "same")]
    audit = audit_basics(read_pairs(rows))
    assert (audit.identical, audit.rejected) == (2, {"identical-sides": 1})
    (finding,) = audit.findings
    assert (finding.id, finding.severity, finding.rows[1]) == ("identical-sides", "warning", "row 202")
    assert finding.share is not None and (finding.share.value, finding.share.n) == (2 / 202, 202)


def test_empty_sides_are_counted_used_or_left_out() -> None:
    audit = audit_basics(read_pairs([*HEALTHY, row(300, rejected="  "), row(301, prompt="\n")]))
    assert (audit.empty, audit.used) == (2, 200)
    assert [(finding.id, finding.severity, finding.rows) for finding in audit.findings] == [
        ("blank-texts", "info", ("row 201", "row 202"))
    ]
    voted = {"prompt": "q", "response_1": "", "response_2": "two", "annotators": [2]}
    audit = audit_basics(read_comparisons([voted]))
    assert (audit.empty, audit.used) == (1, 1)


def test_labels_are_audited_without_two_sides() -> None:
    rows = [{"prompt": f"q {i}", "completion": f"a {i}", "label": i % 4 > 0} for i in range(200)]
    again = [rows[0], rows[1] | {"label": False, "id": "other"}]
    audit = audit_basics(read_labels([*rows, *again]), read_labels([rows[5]]).records)
    assert (audit.kind, audit.duplicates, audit.contradictions, audit.leaked_prompts) == ("label", 1, 1, 1)
    assert set(audit.lengths) == {"prompt", "completion"} and audit.identical == audit.empty == 0
    assert audit.longer_wins is None and audit.desirable is not None and audit.desirable.value == 150 / 202
    found = {finding.id: finding for finding in audit.findings}
    assert set(found) == {"contradictions", "leaked-prompts"} and found["contradictions"].rows[1] == "other"


def test_labels_of_one_kind_are_an_error() -> None:
    rows = [{"prompt": f"q {i}", "completion": "a", "label": True} for i in range(200)]
    assert findings(read_labels(rows))["one-sided-labels"].severity == "error"


def test_comparisons_are_audited_whichever_answer_stands_first() -> None:
    voted = [
        {
            "id": str(i),
            "prompt": f"q {i}",
            "response_1": "long answer",
            "response_2": "short",
            "annotators": [1 + i % 2],
        }
        for i in range(200)
    ]
    turned = {"id": "turned", "prompt": "q 0", "response_1": "short", "response_2": "long answer"}
    same, other, tie = (turned | {"annotators": [vote]} for vote in (2, 1, 0))
    audit = audit_basics(read_comparisons([*voted, same]))
    assert (audit.duplicates, audit.contradictions) == (1, 0)
    audit = audit_basics(read_comparisons([*voted, other, tie, tie]))
    assert (audit.duplicates, audit.contradictions) == (1, 1)  # a tie repeats a tie and contradicts nobody
    assert audit.longer_wins is not None and (audit.longer_wins.value, audit.longer_wins.n) == (100 / 201, 201)
    assert {finding.id: finding.rows for finding in audit.findings}["contradictions"] == ("0", "turned")


def test_evaluation_prompts_in_training_are_named() -> None:
    evaluation = read_pairs([row(900, prompt=" Q 5"), row(901)]).records
    audit = audit_basics(read_pairs(HEALTHY), evaluation)
    assert audit.leaked_prompts == 1
    (finding,) = audit.findings
    assert (finding.severity, finding.rows) == ("error", (evaluation[0].id,))
    assert "leaked_prompts" not in audit_basics(read_pairs(HEALTHY)).as_dict()


def test_many_rows_left_out_are_a_finding_with_places_and_the_first_mend() -> None:
    bad = [{"prompt": "q"}] * 10
    assert "many-rejected" not in findings(read_pairs([*HEALTHY, *bad]))
    finding = findings(read_pairs([*HEALTHY, *bad, {"prompt": None, "chosen": "a", "rejected": "b"}]))["many-rejected"]
    assert finding.evidence == "11 of 211 rows: missing-field 10, null-field 1."
    assert finding.rows[0] == "row 201" and "At row 201: The row has prompt" in finding.remedy


def test_few_pairs_are_a_finding() -> None:
    assert "small-data" in findings(read_pairs(HEALTHY[:99]))
    assert "small-data" not in findings(read_pairs(HEALTHY[:100]))


def test_the_audit_is_json_with_the_keys_the_report_reads() -> None:
    chat = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    values = audit_basics(read_pairs([chat, {}])).as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["conversational"] == 1
    assert values["read"] == values["used"] + sum(values["rejected"].values()) == 2
    assert set(values["longer_wins"]) == {"value", "low", "high", "n", "unit", "title", "explanation"}
    assert set(values["lengths"]) == {"prompt", "chosen", "rejected"}
    finding_keys = {"id", "severity", "title", "what", "evidence", "rows", "remedy"}
    assert all(finding_keys <= set(finding) <= finding_keys | {"share", "examples"} for finding in values["findings"])


def test_a_reading_without_pairs_is_audited_too() -> None:
    values = audit_basics(Reading((), (), "nothing")).as_dict()
    assert values["used"] == 0 and values["longer_wins"]["n"] == 0
    assert [finding["id"] for finding in values["findings"]] == ["small-data"]
