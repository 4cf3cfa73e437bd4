import json
from types import SimpleNamespace

import numpy as np
import pytest

from preftune.audit.ceiling import audit_ceiling, ceiling_bounds, ceiling_of, ceiling_of_majority
from preftune.audit.findings import Share
from preftune.audit.votes import votes_from_table
from preftune.data.records import Pair


def distinct(rows: int) -> list[Pair]:
    return [Pair(prompt=f"q {row}", chosen="good", rejected="bad", id=str(row)) for row in range(rows)]


def test_known_agreements_have_known_ceilings() -> None:
    # Uniform p: the mean of p^2 + (1 - p)^2 is 2/3, that of max(p, 1 - p) is 3/4.
    assert ceiling_of(2 / 3) == pytest.approx(3 / 4)
    assert (ceiling_of(0.5), ceiling_of(0.3), ceiling_of(1.0)) == (0.5, 0.5, 1.0)
    assert ceiling_bounds(0.68) == pytest.approx((0.68, 0.8))  # all alike hard: q^2 + (1 - q)^2 = 0.68 at q = 0.8


@pytest.mark.parametrize("agreement", np.linspace(0.51, 0.99, 9))
def test_the_ceiling_lies_within_the_bounds_and_grows_with_voters(agreement: float) -> None:
    low, high = ceiling_bounds(agreement)
    alone, three, nine = (ceiling_of_majority(agreement, {number: 1}) for number in (1, 3, 9))
    assert low < ceiling_of(agreement) < high
    assert alone == pytest.approx(ceiling_of(agreement), abs=2e-3)
    assert alone < three < nine <= 1


def test_the_ceiling_is_what_a_model_that_knows_everything_gets() -> None:
    draw = np.random.default_rng(0)
    shares = draw.beta(0.5, 0.5, size=100_000)
    votes = draw.random((len(shares), 5)) < shares[:, None]
    agreement = float((votes[:, 0] == votes[:, 1]).mean())
    perfect = shares > 0.5
    assert ceiling_of(agreement) == pytest.approx(float((votes[:, 0] == perfect).mean()), abs=0.01)
    for number in (3, 4, 5):
        sums = votes[:, :number].sum(1)
        labelled = 2 * sums != number
        right = ((2 * sums > number) == perfect)[labelled].mean()
        assert ceiling_of_majority(agreement, {number: 7}) == pytest.approx(float(right), abs=0.01)


def test_expected_accuracy_is_said_from_agreement() -> None:
    draw = np.random.default_rng(0)
    rows = []
    for item in range(500):
        share = draw.beta(0.5, 0.5)
        rows += [(str(item), f"person {n}", "first" if draw.random() < share else "second") for n in range(3)]
    audit = audit_ceiling(distinct(500), votes=votes_from_table(rows))
    assert audit.agreement is not None and audit.single_label is not None and audit.majority_label is not None
    assert audit.agreement.value == pytest.approx(0.75, abs=0.03)  # (a + 1) / (2a + 1) at a = 1/2
    assert audit.agreement.low < 0.75 < audit.agreement.high
    assert audit.single_label.value < audit.majority_label.value
    assert audit.expected == audit.majority_label
    assert audit.summary.startswith(f"Do not expect more than {audit.majority_label.value:.0%} (95% interval")


def test_contradictions_bound_what_any_model_gets() -> None:
    pairs = distinct(98) + [Pair(prompt="q 0", chosen="bad", rejected="good")] * 2
    audit = audit_ceiling(pairs)
    assert audit.without_contradictions.value == pytest.approx(0.99)
    assert audit.expected == audit.without_contradictions


def test_flips_bound_it_too_where_they_can_be_told() -> None:
    rate = Share(0.2, 0.15, 0.25, 500, "", "")
    told = SimpleNamespace(can_tell=True, rate=rate)
    audit = audit_ceiling(distinct(500), mislabelled=told)
    assert (audit.expected.value, audit.expected.low, audit.expected.high) == pytest.approx((0.8, 0.75, 0.85))
    untold = audit_ceiling(distinct(500), mislabelled=SimpleNamespace(can_tell=False, rate=None))
    assert untold.expected is None and "is not known" in untold.summary
    assert "ceiling-unknown" in [finding.id for finding in untold.findings]


def test_independent_comparisons_are_answers_less_one() -> None:
    sides = ["a", "b", "c", "d"]
    ranked = [
        Pair(prompt=f"q {prompt}", chosen=sides[i], rejected=sides[j])
        for prompt in range(10)
        for i in range(4)
        for j in range(i + 1, 4)
    ]
    audit = audit_ceiling(ranked)
    assert (audit.pairs, audit.prompts, audit.distinct, audit.independent) == (60, 10, 60, 30)
    copies = audit_ceiling(distinct(20) * 3)
    assert (copies.pairs, copies.distinct, copies.independent) == (60, 20, 20)
    assert "dependent-pairs" in [finding.id for finding in copies.findings]


def test_the_score_is_the_geometric_mean_of_its_parts() -> None:
    together = Share(0.6, 0.5, 0.7, 1000, "", "")
    audit = audit_ceiling(
        distinct(1000),
        read=1250,
        mislabelled=SimpleNamespace(can_tell=True, rate=Share(0.1, 0.05, 0.15, 1000, "", "")),
        shortcuts=SimpleNamespace(together=together),
    )
    parts = {part.name: part.value for part in audit.parts}
    assert parts == pytest.approx(
        {"labels": 0.8, "usable": 0.8, "distinct": 1.0, "power": 1 - audit.half_width / 0.2, "content": 0.8}
    )
    assert audit.score == pytest.approx(100 * np.prod(list(parts.values())) ** (1 / 5))
    assert audit.not_measured == ()
    assert audit_ceiling(distinct(1000)).not_measured == ("labels", "usable", "content")


def test_the_width_of_a_held_out_accuracy_shrinks_with_the_root_of_its_pairs() -> None:
    few, many = audit_ceiling(distinct(2_000)), audit_ceiling(distinct(8_000))
    assert (few.held_out, many.held_out) == (200, 800)
    assert few.half_width == pytest.approx(0.0628, abs=1e-3) and few.half_width / many.half_width == pytest.approx(
        2, rel=0.02
    )
    assert "weak-test" in [finding.id for finding in few.findings]
    assert "weak-test" not in [finding.id for finding in many.findings]


def test_an_empty_set_has_no_score_and_is_json() -> None:
    audit = audit_ceiling([])
    assert audit.score == 0 and audit.half_width == 0.5
    json.dumps(audit.as_dict(), allow_nan=False)
