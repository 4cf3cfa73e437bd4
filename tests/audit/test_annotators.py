import dataclasses
import json

import numpy as np
import pytest

from preftune.audit.annotators import AnnotatorAudit, audit_annotators
from preftune.audit.truth import infer_truth
from preftune.audit.votes import CHOICES, Votes, votes_from_table
from preftune.errors import PreftuneError
from tests.audit.vote_sets import pandalm_rows, pandalm_table, simulated, ukpconvarg_rows, ukpconvarg_votes

REAL = {"person-1", "person-2", "person-3"}


def planted(seed: int) -> Votes:
    """PandaLM with somebody who guesses and somebody who always answers first."""
    rng = np.random.default_rng(seed)
    rows = pandalm_table()
    rows += [(row["id"], "guesser", CHOICES[rng.integers(0, 3)]) for row in pandalm_rows()]
    rows += [(row["id"], "always-first", "first") for row in pandalm_rows()]
    return votes_from_table(rows)


def findings(audit: AnnotatorAudit) -> dict:
    return {finding.id: finding for finding in audit.findings}


@pytest.mark.parametrize("seed", range(10))
def test_planted_annotators_are_named_and_the_real_ones_are_not(seed: int) -> None:
    audit = audit_annotators(planted(seed))
    assert set(audit.named["disagrees"]) == {"guesser", "always-first"}
    assert audit.named["one-answer"] == ("always-first",)
    assert not REAL & {person.id for person in audit.annotators if person.named}
    assert set(findings(audit)) == {"annotators-disagrees", "annotators-one-answer"}


@pytest.mark.parametrize("seed", range(10))
def test_one_guesser_among_pandalms_three_is_named_from_sixty_votes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = rng.permutation(999)[:60]
    rows = pandalm_table() + [(f"pandalm-{i}", "guesser", CHOICES[rng.integers(0, 3)]) for i in some]
    audit = audit_annotators(votes_from_table(rows))
    assert audit.named["disagrees"] == ("guesser",)


def test_pandalms_own_people_are_named_for_nothing() -> None:
    audit = audit_annotators(votes_from_table(pandalm_table()))
    assert audit.findings == () and not any(audit.named.values())
    for person in audit.annotators:
        assert person.agreement.n > 950 and person.agreement.value > 0.9
        assert person.agreement.low < person.agreement.value < person.agreement.high


def test_agreement_is_with_a_truth_he_did_not_vote_for() -> None:
    # Of two people on each item, each one's truth is the other's vote, whatever he says himself.
    votes, _ = simulated([0.7, 0.7], items=400, seed=0)
    audit = audit_annotators(votes, truth=infer_truth(votes, "majority"))
    same = float((votes.counts().max(axis=1) == 2).mean())
    assert [person.agreement.value for person in audit.annotators] == pytest.approx([same, same])
    assert "two-votes-an-item" in findings(audit) and not any(audit.named.values())


def test_a_thousand_equal_people_are_not_named() -> None:
    named = 0
    for seed in range(3):
        votes, _ = simulated([0.75] * 1000, items=4000, seed=seed, per_item=5)
        audit = audit_annotators(votes)
        named += sum(bool(person.named) for person in audit.annotators)
    assert named <= 1


def test_few_guessers_among_a_thousand_are_named() -> None:
    votes, _ = simulated([0.34] * 20 + [0.85] * 480, items=4000, seed=0, per_item=5)
    audit = audit_annotators(votes)
    guessers = {f"p{i}" for i in range(20)}
    assert len(set(audit.named["disagrees"]) & guessers) >= 15
    assert not set(audit.named["disagrees"]) - guessers


def test_hard_items_are_not_held_against_those_who_got_them() -> None:
    easy, _ = simulated([0.95] * 6, items=300, seed=0, per_item=3)
    hard, _ = simulated([0.6] * 6, items=300, seed=1, per_item=3)
    rows = [(f"easy-{i}", f"e{a}", CHOICES[c]) for i, a, c in zip(easy.item, easy.annotator, easy.choice, strict=True)]
    rows += [(f"hard-{i}", f"h{a}", CHOICES[c]) for i, a, c in zip(hard.item, hard.annotator, hard.choice, strict=True)]
    assert audit_annotators(votes_from_table(rows)).named["disagrees"] == ()


def test_always_first_is_no_fault_where_first_is_right() -> None:
    rng = np.random.default_rng(0)
    rows = [(str(i), str(p), CHOICES[int(rng.random() < 0.05)]) for i in range(200) for p in range(4)]
    audit = audit_annotators(votes_from_table(rows))
    assert audit.named["one-answer"] == () and audit.first.value > 0.9


def test_the_side_is_the_one_that_was_shown_first() -> None:
    votes, _ = simulated([0.9, 0.9, 0.9, 0.9], items=300, seed=0)
    rng = np.random.default_rng(0)
    swapped = rng.random(len(votes)) < 0.5
    # The last person always takes the side that stood first, whichever of the record's that was.
    is_last = votes.annotator == 3
    choice = np.where(is_last, swapped.astype(np.int64), votes.choice)
    shown = dataclasses.replace(votes, choice=choice, is_swapped=swapped)
    audit = audit_annotators(shown)
    assert audit.named["one-answer"] == ("p3",)
    assert audit.annotators[3].first.value == 1.0
    as_recorded = audit_annotators(dataclasses.replace(shown, is_swapped=np.zeros_like(swapped)))
    assert as_recorded.named["one-answer"] == ()


def test_who_always_says_tie_is_named() -> None:
    votes, _ = simulated([0.85, 0.85, 0.85, 0.85], items=100, seed=0)
    choice = np.where(votes.annotator == 1, CHOICES.index("tie"), votes.choice)
    audit = audit_annotators(dataclasses.replace(votes, choice=choice))
    assert audit.named["one-answer"] == ("p1",)
    assert "p1: tie in 100%" in findings(audit)["annotators-one-answer"].evidence


def test_who_votes_faster_than_anyone_reads_is_named() -> None:
    votes, _ = simulated([0.85] * 4, items=60, seed=0)
    lengths = dict.fromkeys(votes.items, 1000)  # 20 seconds at 50 characters a second
    seconds = np.where(votes.annotator == 2, 15.0, 25.0)
    seconds[votes.annotator == 1] = np.nan
    seconds[(votes.annotator == 3) & (votes.item < 15)] = 19.0  # a quarter, which is allowed
    timed = dataclasses.replace(votes, seconds=seconds)
    audit = audit_annotators(timed, lengths)
    assert audit.named["too-fast"] == ("p2",)
    assert [person.too_fast.n for person in audit.annotators] == [60, 0, 60, 60]
    assert audit.annotators[3].too_fast.value == 0.25
    assert audit_annotators(timed).named["too-fast"] == ()


def test_who_fails_gold_items_is_named() -> None:
    votes, right = simulated([0.9, 0.4, 0.9], items=200, seed=0)
    gold = {item: right[item] for item in votes.items[:40]} | {"not among them": "first"}
    audit = audit_annotators(votes, gold=gold)
    assert audit.named["fails-gold"] == ("p1",)
    assert [person.gold.n for person in audit.annotators] == [40, 40, 40]
    assert set(findings(audit)["annotators-fails-gold"].rows) == set(votes.items)


def test_people_with_few_votes_are_not_judged_and_that_is_said() -> None:
    rows = pandalm_table() + [(f"pandalm-{i}", "newcomer", "first") for i in range(9)]
    audit = audit_annotators(votes_from_table(rows))
    assert audit.too_few == 1 and not any(audit.named.values())
    assert "1 of 4 annotators" in findings(audit)["annotators-unknown"].evidence


def test_rows_of_a_finding_are_the_items_they_voted_on_in_data_order() -> None:
    rows = pandalm_table()
    some = [row["id"] for row in pandalm_rows()][100:200]
    audit = audit_annotators(votes_from_table(rows + [(item, "always-first", "first") for item in reversed(some)]))
    finding = findings(audit)["annotators-one-answer"]
    assert finding.rows == tuple(some)
    assert finding.share.n == 999 * 3 + 100 and finding.share.value == pytest.approx(100 / 3097)


def test_no_votes_are_no_error() -> None:
    audit = audit_annotators(votes_from_table([]))
    assert (audit.annotators, audit.agreement.value) == ((), None)


def test_the_truth_of_other_votes_is_refused() -> None:
    votes, _ = simulated([0.9, 0.9], items=20, seed=0)
    other, _ = simulated([0.9, 0.9], items=21, seed=0)
    with pytest.raises(PreftuneError, match="The truth is of other votes"):
        audit_annotators(votes, truth=infer_truth(other))


def test_ukpconvargs_named_people_are_those_its_authors_trust_least() -> None:
    rows = ukpconvarg_rows()
    competence = {vote["annotator"]: vote["mace_competence"] for row in rows for vote in row["annotations"]}
    votes = ukpconvarg_votes()
    lengths = {row["pair_id"]: len(row["arg1"]["text"]) + len(row["arg2"]["text"]) for row in rows}
    audit = audit_annotators(votes, lengths)
    known = [person for person in audit.annotators if person.votes >= 10]
    assert (audit.too_few, len(known)) == (2658, 342)
    # Workers who explained every choice, and were chosen for their record: few are clearly worse than the rest.
    assert set(audit.named["disagrees"]) == {"w01151", "w01510"}
    assert not audit.named["one-answer"] and not audit.named["too-fast"]
    usual = np.quantile([competence[person.id] for person in known], 0.25)
    assert all(competence[name] < usual for name in audit.named["disagrees"])


def test_the_audit_is_json() -> None:
    votes, _ = simulated([0.8, 0.5, 0.8], items=50, seed=0)
    document = json.loads(json.dumps(dataclasses.asdict(audit_annotators(votes)), allow_nan=False))
    assert len(document["annotators"]) == 3
