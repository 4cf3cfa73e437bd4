import dataclasses
import json

import numpy as np
import pytest

from preftune.audit.agreement import AgreementAudit, audit_agreement
from preftune.audit.votes import CHOICES, Votes, votes_from_table
from tests.audit.vote_sets import pandalm_rows, pandalm_table, simulated, ukpconvarg_votes

krippendorff = pytest.importorskip("krippendorff")


def by_package(votes: Votes) -> float:
    return krippendorff.alpha(value_counts=votes.counts(), level_of_measurement="nominal")


def findings(audit: AgreementAudit) -> dict:
    return {finding.id: finding for finding in audit.findings}


def test_pandalm_has_its_known_figures() -> None:
    votes = votes_from_table(pandalm_table())
    audit = audit_agreement(votes)
    assert audit.alpha.value == pytest.approx(0.864, abs=5e-4)
    kappas = {pair.annotators: pair.kappa.value for pair in audit.kappas}
    assert sorted(kappas.values()) == pytest.approx([0.852, 0.862, 0.879], abs=5e-4)
    assert (round(audit.unanimous.value * 999), audit.unanimous.n) == (879, 999)
    # All 105 have two votes or three for the tie: no comparison got three different votes.
    assert audit.majority == {"first": 422, "second": 472, "tie": 105, "both_bad": 0, "none": 0}
    assert audit.findings == ()


def test_pandalm_intervals_hold_the_values_and_are_those_of_resampled_items() -> None:
    votes = votes_from_table(pandalm_table())
    audit = audit_agreement(votes)
    for share in (audit.alpha, audit.fleiss, audit.agreement, *(pair.kappa for pair in audit.kappas)):
        assert share.low < share.value < share.high
        assert 0.02 < share.high - share.low < 0.08
    rng, counts = np.random.default_rng(1), votes.counts()
    resampled = [
        krippendorff.alpha(value_counts=counts[rng.integers(0, 999, 999)], level_of_measurement="nominal")
        for _ in range(300)
    ]
    assert (audit.alpha.low, audit.alpha.high) == pytest.approx(np.quantile(resampled, (0.025, 0.975)), abs=0.006)


@pytest.mark.parametrize("per_item", [None, 2, 4], ids=["all", "two of six", "four of six"])
def test_alpha_is_the_packages_also_where_votes_are_missing(per_item: int | None) -> None:
    votes, _ = simulated([0.9, 0.8, 0.7, 0.5, 0.3, 0.9], items=150, seed=3, per_item=per_item)
    keep = np.random.default_rng(5).random(len(votes)) < 0.8
    votes = votes.where(keep)
    assert audit_agreement(votes).alpha.value == pytest.approx(by_package(votes), abs=1e-12)


def test_alpha_of_many_people_is_the_packages() -> None:
    votes = ukpconvarg_votes()
    assert audit_agreement(votes).alpha.value == pytest.approx(by_package(votes), abs=1e-12)


def test_cohens_kappa_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    votes, _ = simulated([0.9, 0.6, 0.4], items=200, seed=1, per_item=2)
    audit = audit_agreement(votes)
    assert audit.pairs_with_enough == 3
    columns = {
        name: dict(zip(votes.item[votes.annotator == place], votes.choice[votes.annotator == place], strict=True))
        for place, name in enumerate(votes.annotators)
    }
    for pair in audit.kappas:
        left, right = (columns[name] for name in pair.annotators)
        both = sorted(left.keys() & right.keys())
        expected = metrics.cohen_kappa_score([left[i] for i in both], [right[i] for i in both])
        assert (pair.kappa.value, pair.kappa.n) == (pytest.approx(expected, abs=1e-12), len(both))


def test_fleiss_kappa_is_that_of_his_definition() -> None:
    # Four items, three votes each: agreements 1, 1/3, 1/3, 1; shares 7/12 and 5/12.
    table = {"a": "fff", "b": "ffs", "c": "fss", "d": "sss"}
    names = {"f": "first", "s": "second"}
    rows = [(item, str(i), names[v]) for item, line in table.items() for i, v in enumerate(line)]
    by_chance = (6 / 12) ** 2 * 2
    audit = audit_agreement(votes_from_table(rows))
    assert audit.fleiss.value == pytest.approx((2 / 3 - by_chance) / (1 - by_chance))
    assert audit.agreement.value == pytest.approx(2 / 3)
    assert audit_agreement(votes_from_table(rows[:-1])).fleiss is None


def test_the_same_seed_gives_the_same_intervals() -> None:
    votes, _ = simulated([0.8, 0.7, 0.6], items=100, seed=0)
    assert audit_agreement(votes, seed=4) == audit_agreement(votes, seed=4)
    assert audit_agreement(votes, seed=4) != audit_agreement(votes, seed=5)


def test_an_agreement_interval_holds_the_truth_nineteen_times_of_twenty() -> None:
    # Two people right in 0.8, else one of two others: they agree in 0.64 + 0.04 / 2.
    shares = [audit_agreement(simulated([0.8, 0.8], items=200, seed=seed)[0]).agreement for seed in range(100)]
    assert 88 <= sum(share.low <= 0.66 <= share.high for share in shares) <= 100


def test_low_agreement_is_a_warning_where_it_is_sure() -> None:
    votes, _ = simulated([0.5, 0.5, 0.5], items=400, seed=0)
    finding = findings(audit_agreement(votes))["low-agreement"]
    assert finding.severity == "warning" and "60 to 75% is common" in finding.evidence
    counts = votes.counts()
    split = [votes.items[i] for i in np.flatnonzero(counts.max(1) < 3)]
    assert list(finding.rows) == split and 0 < len(split) < 400
    maybe, _ = simulated([0.74, 0.74], items=60, seed=2)
    audit = audit_agreement(maybe)
    assert audit.agreement.low < 0.6 < audit.agreement.high
    assert "low-agreement" not in findings(audit) or findings(audit)["low-agreement"].severity == "info"


def test_agreement_by_habit_is_found() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"i{i}", str(p), CHOICES[int(rng.random() < 0.05)]) for i in range(500) for p in range(3)]
    audit = audit_agreement(votes_from_table(rows))
    assert audit.agreement.value > 0.85 and "low-agreement" not in findings(audit)
    assert "agreement-by-chance" in findings(audit)


def test_a_slice_that_disagrees_is_named_and_no_other() -> None:
    good, _ = simulated([0.9, 0.9, 0.9], items=300, seed=0)
    bad, _ = simulated([0.6, 0.6, 0.6], items=60, seed=1)
    rows = [(f"good-{good.items[i]}", str(a), CHOICES[c]) for i, a, c in columns(good)]
    rows += [(f"bad-{bad.items[i]}", str(a), CHOICES[c]) for i, a, c in columns(bad)]
    votes = votes_from_table(rows)
    slices = {item: "hard" if item.startswith("bad") else f"easy {int(item[6:]) % 3}" for item in votes.items}
    audit = audit_agreement(votes, slices)
    assert [part.name for part in audit.slices] == ["easy 0", "easy 1", "easy 2", "hard"]
    assert [part.is_low for part in audit.slices] == [False, False, False, True]
    finding = findings(audit)["slices-disagree"]
    assert finding.evidence.startswith("hard: ") and all(row.startswith("bad-") for row in finding.rows)


def columns(votes: Votes) -> list[tuple[int, int, int]]:
    return list(zip(votes.item.tolist(), votes.annotator.tolist(), votes.choice.tolist(), strict=True))


def test_equal_slices_are_rarely_named() -> None:
    named = 0
    for seed in range(40):
        votes, _ = simulated([0.8, 0.8, 0.8], items=400, seed=seed)
        audit = audit_agreement(votes, {item: str(int(item[1:]) % 8) for item in votes.items})
        named += any(part.is_low for part in audit.slices)
    assert named <= 6  # 2 expected at most


def test_pandalm_by_application() -> None:
    audit = audit_agreement(
        votes_from_table(pandalm_table()), {row["id"]: row["application"] for row in pandalm_rows()}
    )
    assert sum(part.agreement.n for part in audit.slices) == 999
    assert all(0 < part.agreement.value <= 1 for part in audit.slices)


def test_too_little_data_is_said_and_not_guessed() -> None:
    empty = audit_agreement(votes_from_table([]))
    assert (empty.alpha.value, empty.agreement.value, empty.fleiss, empty.kappas) == (None, None, None, ())
    assert findings(empty)["few-votes"].severity == "info"
    single = audit_agreement(votes_from_table([(str(i), "ann", "first") for i in range(500)]))
    assert (single.alpha.value, single.compared) == (None, 0)
    assert "0 items of 500 with votes" in findings(single)["few-votes"].evidence


def test_perfect_agreement_is_no_certainty() -> None:
    rows = [(str(i), who, "first" if i % 2 else "second") for i in range(40) for who in ("ann", "bob")]
    audit = audit_agreement(votes_from_table(rows))
    assert (audit.alpha.value, audit.alpha.low) == (1.0, None)
    assert (audit.agreement.value, round(audit.agreement.low, 3)) == (1.0, 0.912)  # Wilson, 40 of 40
    always = audit_agreement(votes_from_table([(item, who, "first") for item, who, _ in rows]))
    assert always.alpha.value is None and always.agreement.value == 1.0


def test_repeated_votes_are_said() -> None:
    votes = votes_from_table([("x", "ann", "first"), ("x", "ann", "tie")])
    assert "1 earlier vote left out of 2" in findings(audit_agreement(votes))["repeated-votes"].evidence


def test_the_audit_is_json() -> None:
    votes, _ = simulated([0.8, 0.5], items=50, seed=0)
    document = json.dumps(
        dataclasses.asdict(audit_agreement(votes, dict.fromkeys(votes.items, "all"))), allow_nan=False
    )
    assert json.loads(document)["compared"] == 50
