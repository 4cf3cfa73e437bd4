"""A judge's audit: known figures on real verdicts, and planted faults of judges that must be named."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest

from preftune.collect.judge_audit import JudgeAudit, audit_judge, judge_choices
from preftune.collect.verdicts import Verdict

SHARED = Path(__file__).parents[3] / "shared" / "data"
KINDS = {"1": "first", "2": "second", "Tie": "tie", "garbage": "invalid"}
CODES = ("tie", "first", "second")


def in_both_orders(kinds: list[tuple[str, str]], lengths: list[tuple[int, int]] | None = None) -> list[Verdict]:
    """Verdicts of one judge on one comparison after the other: as shown, and turned."""
    return [
        Verdict(
            f"row-{n}",
            "m",
            kind,  # pyright: ignore[reportArgumentType]
            is_swapped,
            lengths=lengths[n] if lengths else (100, 100),
        )
        for n, pair in enumerate(kinds)
        for is_swapped, kind in zip((False, True), pair, strict=True)
    ]


def ids(audit: JudgeAudit) -> dict[str, str]:
    return {finding.id: finding.severity for finding in audit.findings}


@pytest.fixture(scope="module")
def pandalm() -> tuple[list[Verdict], dict[str, dict[str, str]]]:
    """gpt-3.5-turbo's verdicts on PandaLM's comparisons, and what the three people said."""
    if not (SHARED / "pandalm-judge").is_dir():
        pytest.skip("the shared data are not there")
    with (SHARED / "pandalm" / "comparisons.jsonl").open() as file:
        rows = [json.loads(line) for line in file]
    lengths = {row["id"]: (len(str(row["response_1"])), len(str(row["response_2"]))) for row in rows}
    people = {row["id"]: {str(n): CODES[vote] for n, vote in enumerate(row["annotators"])} for row in rows}
    with gzip.open(SHARED / "pandalm-judge" / "gpt-3.5-turbo.jsonl.gz", "rt") as file:
        said = [json.loads(line) for line in file]
    verdicts = [
        Verdict(row["id"], row["judge"], KINDS[row["verdict_raw"]], False, lengths=lengths[row["id"]])  # pyright: ignore[reportArgumentType]
        for row in said
    ]
    return verdicts, people


def test_known_figures_of_gpt_3_5_against_three_people(
    pandalm: tuple[list[Verdict], dict[str, dict[str, str]]],
) -> None:
    verdicts, people = pandalm
    audit = audit_judge(verdicts, people)
    assert audit.kinds == {"first": 460, "second": 476, "tie": 38, "invalid": 25, "refusal": 0, "failed": 0}
    assert audit.invalid.value == pytest.approx(25 / 999) and ids(audit)["judge-invalid"] == "warning"
    found = audit.people
    assert found is not None and found.ceiling is not None and found.ceiling_kappa is not None
    assert found.agreement.n == 974
    # With the majority 697 of 974, kappa 0.493; with each person 0.709, 0.701, 0.708; two people 0.922.
    assert found.majority.value == pytest.approx(697 / 974) and found.majority.n == 974
    assert found.majority_kappa.value == pytest.approx(0.49286, abs=1e-4)
    assert found.agreement.value == pytest.approx((0.709446 + 0.701232 + 0.708419) / 3, abs=1e-5)
    assert found.kappa.value == pytest.approx(0.4778, abs=2e-3)  # the three kappas are 0.479, 0.471 and 0.483
    assert found.ceiling.value == pytest.approx((0.915811 + 0.931211 + 0.918891) / 3, abs=1e-5)
    assert found.ceiling_kappa.value == pytest.approx(0.866, abs=2e-3)
    assert found.agreement.low is not None and found.agreement.low < 0.706 < (found.agreement.high or 0)
    assert ids(audit)["judge-people"] == "warning"
    assert audit.consistency.value is None and ids(audit)["judge-few"] == "info"
    assert audit.length is not None and audit.length.z > 5  # longer wins, before people's choices are held equal
    assert audit.length_held is not None and abs(audit.length_held.z) < 3


def test_a_judge_that_answers_only_a_is_found_and_said() -> None:
    audit = audit_judge(in_both_orders([("first", "second")] * 8))
    assert audit.consistency.value == 0 and audit.position.value == 1
    finding = next(one for one in audit.findings if one.id == "judge-one-answer")
    assert finding.severity == "error" and "its verdict is A" in finding.what and len(finding.rows) == 8
    audit = audit_judge(in_both_orders([("second", "first")] * 8))
    assert "its verdict is B" in next(one for one in audit.findings if one.id == "judge-one-answer").what
    assert set(judge_choices(in_both_orders([("first", "second")] * 3)).values()) == {"tie"}


def test_a_judge_without_faults_has_no_findings() -> None:
    rng = np.random.default_rng(0)
    kinds = [("first", "first") if rng.random() < 0.5 else ("second", "second") for _ in range(200)]
    lengths = [(int(a), int(b)) for a, b in rng.integers(50, 500, (200, 2))]
    people = {f"row-{n}": [pair[0]] * 2 for n, pair in enumerate(kinds)}
    audit = audit_judge(in_both_orders(kinds, lengths), people)
    assert set(ids(audit).values()) <= {"info"}
    assert audit.consistency.value == 1 and audit.position.value == 0.5 and audit.position_p == 1.0
    assert audit.people is not None and audit.people.agreement.value == 1 and audit.people.kappa.value == 1


def test_a_judge_that_prefers_the_first_seven_times_in_ten_is_named() -> None:
    rng = np.random.default_rng(1)
    shown_first = rng.random((400, 2)) < 0.7
    kinds = [("first" if one else "second", "second" if other else "first") for one, other in shown_first]
    audit = audit_judge(in_both_orders(kinds))
    share = audit.position
    assert share.low is not None and share.high is not None and share.low < 0.7 < share.high
    assert audit.position_p is not None and audit.position_p < 1e-6
    assert ids(audit)["judge-place"] == "warning" and ids(audit)["judge-position"] == "warning"
    won = [choice for choice in judge_choices(in_both_orders(kinds)).values() if choice != "tie"]
    assert 0.4 < won.count("first") / len(won) < 0.6  # counting only what both orders say undoes it


def test_the_position_test_does_not_cry_wolf() -> None:
    """Verdicts that turn half to each side: among 200 judges about two in a hundred are below 0.02, not many."""
    rng = np.random.default_rng(2)
    chances = []
    for _ in range(200):
        turned = rng.random(60) < 0.5
        kinds = [("first", "second") if one else ("second", "first") for one in turned]
        chances.append(audit_judge_position(kinds))
    assert np.mean(np.array(chances) < 0.02) < 0.06


def audit_judge_position(kinds: list[tuple[str, str]]) -> float:
    from preftune.collect.judge_audit import _position_p

    verdicts = in_both_orders(kinds)
    pairs = [(verdicts[n], verdicts[n + 1]) for n in range(0, len(verdicts), 2)]
    return _position_p(pairs, verdicts) or 0.0


def test_the_pull_of_length_is_recovered_and_taken_out() -> None:
    """Planted: log-odds 0.8 a doubling and nothing else, and first answers that are longer; equal lengths give 1/2."""
    rng = np.random.default_rng(3)
    doublings = rng.normal(0.7, 1.0, 3000)
    lengths = [(round(200 * 2**d), 200) for d in doublings]
    exact = np.array([math.log2((one + 1) / (other + 1)) for one, other in lengths])
    wins = rng.random(3000) < 1 / (1 + np.exp(-0.8 * exact))
    kinds = [("first", "first") if win else ("second", "second") for win in wins]
    audit = audit_judge(in_both_orders(kinds, lengths))
    assert audit.length is not None and audit.length.low < 0.8 < audit.length.high and audit.length.z > 10
    equal = audit.first_wins_at_equal_length
    assert equal is not None and equal.low is not None and equal.high is not None and equal.low < 0.5 < equal.high
    assert audit.first_wins.low is not None and audit.first_wins.low > 0.55
    assert ids(audit)["judge-length"] == "info"  # of the answers' quality nothing is known


def test_length_that_people_like_too_is_no_fault_of_the_judge() -> None:
    rng = np.random.default_rng(4)
    doublings = rng.normal(0.0, 1.0, 2000)
    lengths = [(round(400 * 2**d), 400) for d in doublings]
    good = rng.random(2000) < 1 / (1 + np.exp(-1.5 * doublings))
    agrees = rng.random(2000) < 0.85
    kinds = [("first", "first") if one == yes else ("second", "second") for one, yes in zip(good, agrees, strict=True)]
    people = {f"row-{n}": ["first" if one else "second"] * 3 for n, one in enumerate(good)}
    audit = audit_judge(in_both_orders(kinds, lengths), people)
    assert audit.length is not None and audit.length.z > 3
    assert audit.length_held is not None and abs(audit.length_held.z) < 3 and "judge-length" not in ids(audit)


@pytest.mark.parametrize(("invalid", "severity"), [(1, None), (5, "warning"), (15, "error")])
def test_replies_that_are_no_verdict_are_counted(invalid: int, severity: str | None) -> None:
    kinds = [("first", "first")] * 50
    verdicts = in_both_orders(kinds)
    broken = [
        Verdict(one.comparison, "m", "invalid", one.is_swapped, reason="the reply is not one JSON object: x")
        for one in verdicts[:invalid]
    ]
    audit = audit_judge(broken + verdicts[invalid:])
    assert ids(audit).get("judge-invalid") == severity
    if severity:
        finding = next(one for one in audit.findings if one.id == "judge-invalid")
        assert f"not one JSON object ({invalid})" in finding.evidence


def test_signs_of_injection_and_refusals_are_told() -> None:
    verdicts = [*in_both_orders([("first", "first")] * 10), Verdict("row-10", "m", "refusal", False, reason="I can't")]
    audit = audit_judge(verdicts, injected={"row-3": ("canary",), "row-4": ("override", "canary"), "row-5": ()})
    assert audit.injections == {"canary": 2, "override": 1}
    assert ids(audit)["judge-injection"] == "warning" and ids(audit)["judge-refusals"] == "warning"
    json.dumps(audit.as_dict())


def test_with_little_data_little_is_said() -> None:
    audit = audit_judge(in_both_orders([("first", "second")] * 3))
    assert ids(audit) == {"judge-few": "info"} and audit.length is None
    nothing = audit_judge([])
    assert nothing.verdicts == 0 and nothing.consistency.value is None and nothing.people is None


def test_people_who_do_not_vote_on_the_same_give_no_ceiling() -> None:
    people = {f"row-{n}": ["first"] for n in range(40)}
    kinds = [("first", "first")] * 30 + [("second", "second")] * 10
    found = audit_judge(in_both_orders(kinds), people).people
    assert found is not None and found.ceiling is None and found.gap is None
    assert found.agreement.value == pytest.approx(0.75) and found.kappa.value == pytest.approx(0)
