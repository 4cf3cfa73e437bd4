import sys

import numpy as np
import pytest

from preftune.audit.truth import Method, Truth, choice_of_others, infer_truth
from preftune.audit.truth_models import VoteTable, dawid_skene, mace
from preftune.audit.votes import CHOICES, FIRST, NOBODY, TIE, Votes, votes_from_table
from preftune.errors import PreftuneError
from tests.audit.vote_sets import pandalm_table, simulated, ukpconvarg_gold, ukpconvarg_rows, ukpconvarg_votes

METHODS: tuple[Method, ...] = ("dawid-skene", "mace", "glad", "majority")
FAST: tuple[Method, ...] = ("dawid-skene", "mace", "majority")


def accuracy(truth: Truth, right: dict[str, str]) -> float:
    named = {item: CHOICES[choice] for item, choice in zip(truth.items, truth.choice, strict=True) if choice != NOBODY}
    return float(np.mean([named.get(item) == choice for item, choice in right.items()]))


def table_of(votes: Votes, choices: int = 3) -> VoteTable:
    return VoteTable(votes.item, votes.annotator, votes.choice, len(votes.items), len(votes.annotators), choices)


def ids(truth: Truth) -> set[str]:
    return {finding.id for finding in truth.findings}


@pytest.mark.parametrize("method", METHODS)
def test_the_truth_of_each_item_has_a_confidence(method: Method) -> None:
    if method == "glad":
        pytest.importorskip("crowdkit")
    votes, right = simulated([0.95, 0.95, 0.9, 0.4], items=100, seed=0)
    truth = infer_truth(votes, method)
    assert truth.posterior.sum(axis=1) == pytest.approx(np.ones(100))
    assert truth.confidence == pytest.approx(truth.posterior.max(axis=1))
    assert accuracy(truth, right) > 0.9
    assert truth.skill[:3].min() > truth.skill[3] + 0.15
    assert truth.confusion[:, :3].sum(axis=2) == pytest.approx(np.ones((4, 3)))
    again = infer_truth(votes, method)
    assert np.array_equal(again.posterior, truth.posterior)


@pytest.mark.parametrize("method", ["dawid-skene", "mace"])
def test_guessers_in_the_majority_are_seen_through(method: Method) -> None:
    votes, right = simulated([0.9, 0.9, 0.9, 0.34, 0.34, 0.34, 0.34], items=600, seed=1)
    truth = infer_truth(votes, method)
    by_count = accuracy(infer_truth(votes, "majority"), right)
    assert accuracy(truth, right) > max(0.94, by_count + 0.05)
    assert truth.skill[:3] == pytest.approx(np.full(3, 0.9), abs=0.05)
    assert "truth-against-majority" in ids(truth) and set(truth.overruled) <= set(votes.items)


@pytest.mark.parametrize("method", FAST)
def test_the_order_of_the_votes_does_not_matter(method: Method) -> None:
    # crowd-kit 1.4.2's MACE mixes up its workers where they do not come in the order of their names.
    votes, _ = simulated([0.9, 0.8, 0.6, 0.5, 0.7], items=150, seed=2, per_item=3)
    order = np.random.default_rng(0).permutation(len(votes))
    rows = [(votes.items[votes.item[i]], votes.annotators[votes.annotator[i]], CHOICES[votes.choice[i]]) for i in order]
    truth, shuffled = infer_truth(votes, method), infer_truth(votes_from_table(rows), method)
    place = [shuffled.items.index(item) for item in truth.items]
    assert shuffled.posterior[place] == pytest.approx(truth.posterior, abs=5e-3)


def test_confidence_is_a_probability() -> None:
    votes, right = simulated([0.85, 0.75, 0.65, 0.55], items=2000, seed=3)
    truth = infer_truth(votes, "dawid-skene")
    is_right = np.array(
        [right[item] == CHOICES[choice] for item, choice in zip(truth.items, truth.choice, strict=True)]
    )
    for low, high in ((0.4, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        inside = (truth.confidence >= low) & (truth.confidence < high)
        assert inside.sum() > 80
        assert is_right[inside].mean() == pytest.approx(truth.confidence[inside].mean(), abs=0.08)


@pytest.mark.filterwarnings("ignore")
def test_dawid_skene_is_crowd_kits_where_that_settles() -> None:
    aggregation, pandas = pytest.importorskip("crowdkit.aggregation"), pytest.importorskip("pandas")
    votes, _ = simulated([0.95, 0.9, 0.8, 0.7, 0.6], items=150, seed=4)
    frame = pandas.DataFrame({"task": votes.item, "worker": votes.annotator, "label": votes.choice})
    theirs = aggregation.DawidSkene(n_iter=60, tol=-1e9).fit(frame).probas_.sort_index()[[0, 1, 2]].to_numpy()
    assert dawid_skene(table_of(votes), shrinkage=0).posterior == pytest.approx(theirs, abs=2e-3)


@pytest.mark.filterwarnings("ignore")
def test_mace_is_crowd_kits_where_its_workers_come_in_order() -> None:
    aggregation, pandas = pytest.importorskip("crowdkit.aggregation"), pytest.importorskip("pandas")
    votes, _ = simulated([0.95, 0.9, 0.8, 0.7, 0.6], items=100, seed=5)
    frame = pandas.DataFrame({"task": votes.item, "worker": votes.annotator, "label": votes.choice})
    frame = frame.sort_values("worker", kind="stable")
    codes, names = pandas.factorize(frame["label"])
    theirs = aggregation.MACE(n_restarts=1, n_iter=60).fit(frame.assign(label=codes)).probas_.sort_index()
    expected = theirs[np.argsort(names)].to_numpy()
    assert mace(table_of(votes), restarts=2).posterior == pytest.approx(expected, abs=2e-3)


def test_pandalm_truth_is_its_majority() -> None:
    votes = votes_from_table(pandalm_table())
    for method in FAST:
        truth = infer_truth(votes, method)
        assert np.bincount(truth.choice).tolist() == [422, 472, 105]
        assert (truth.overruled, truth.findings) == ((), ())
    split, same = votes.counts().max(axis=1) == 2, votes.counts().max(axis=1) == 3
    truth = infer_truth(votes)
    assert truth.confidence[same].min() > truth.confidence[split].max()
    assert truth.skill.min() > 0.9


def test_the_inferred_truth_of_ukpconvarg_is_its_published_one() -> None:
    # Theirs is MACE too, on these votes, of which they kept the surest 96%.
    votes, gold = ukpconvarg_votes(), ukpconvarg_gold()
    assert (len(votes.items), len(votes.annotators), len(gold)) == (4721, 3000, 4544)
    by_mace, by_matrices = infer_truth(votes, "mace"), infer_truth(votes, "dawid-skene")
    assert accuracy(by_mace, gold) > 0.94
    assert accuracy(by_matrices, gold) > 0.90
    assert accuracy(by_mace, gold) > accuracy(infer_truth(votes, "majority"), gold) + 0.04
    unknown = np.array([item not in gold for item in votes.items])
    competence = {
        vote["annotator"]: vote["mace_competence"] for row in ukpconvarg_rows() for vote in row["annotations"]
    }
    n = np.bincount(votes.annotator)
    busy = [place for place in range(3000) if n[place] >= 10]
    theirs = [competence[votes.annotators[place]] for place in busy]
    assert np.corrcoef(by_mace.skill[busy], theirs)[0, 1] > 0.4
    assert by_mace.confidence[unknown].mean() < by_mace.confidence[~unknown].mean() - 0.2


def test_an_even_split_is_nobodys() -> None:
    truth = infer_truth(votes_from_table([("x", "a", "first"), ("x", "b", "second"), ("y", "a", "tie")]), "majority")
    assert truth.choice.tolist() == [NOBODY, TIE]
    assert next(truth.rows()) == {"id": "x", "choice": "undecided", "confidence": 0.5}


@pytest.mark.parametrize("method", METHODS)
def test_votes_that_are_all_the_same_have_nothing_to_fit(method: Method) -> None:
    truth = infer_truth(votes_from_table([(str(i), str(p), "second") for i in range(9) for p in range(2)]), method)
    assert truth.choice.tolist() == [1] * 9 and truth.confidence.tolist() == [1.0] * 9


@pytest.mark.parametrize("method", FAST)
def test_no_votes_have_no_truth(method: Method) -> None:
    truth = infer_truth(votes_from_table([]), method)
    assert (truth.items, len(truth.choice), truth.posterior.shape) == ((), 0, (0, 4))
    assert ids(truth) == {"truth-from-one-vote"}


def test_an_item_that_lost_its_votes_has_no_truth() -> None:
    votes, _ = simulated([0.9, 0.9], items=40, seed=0)
    votes = votes.where(votes.item != 7)
    truth = infer_truth(votes)
    assert truth.choice[7] == NOBODY and (np.delete(truth.choice, 7) != NOBODY).all()


def test_single_votes_are_said_to_be_too_few() -> None:
    truth = infer_truth(votes_from_table([(str(i), "ann", CHOICES[i % 2]) for i in range(60)]))
    (finding,) = truth.findings
    assert finding.id == "truth-from-one-vote" and len(finding.rows) == 60


def test_a_truth_that_drifts_from_the_votes_is_found() -> None:
    # Two people who seldom agree and often say tie to each other's side: nothing tells which of them errs.
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        rows += [(str(i), "ann", CHOICES[rng.integers(0, 2)]), (str(i), "bob", CHOICES[rng.choice([0, 2, 2])])]
    truth = infer_truth(votes_from_table(rows), "mace")
    assert "truth-shifted" in ids(truth)


def test_glad_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crowdkit.aggregation", None)
    with pytest.raises(PreftuneError, match=r'pip install "preftune\[audit\]"'):
        infer_truth(simulated([0.9, 0.9], items=5, seed=0)[0], "glad")


def test_an_unknown_method_is_named_with_the_known_ones() -> None:
    with pytest.raises(PreftuneError, match="Use one of dawid-skene, mace, glad, majority"):
        infer_truth(votes_from_table([]), "mode")  # pyright: ignore[reportArgumentType]


def test_the_others_choice_leaves_the_vote_out() -> None:
    rows = [("x", who, choice) for who, choice in zip("abc", ("first", "second", "second"), strict=True)]
    rows += [("y", "a", "first"), ("y", "b", "tie"), ("z", "a", "first")]
    votes = votes_from_table(rows)
    others = choice_of_others(votes, infer_truth(votes, "majority"))
    # x: of b's vote the others are one each; of y each has the other's; z has no other.
    assert others.tolist() == [1, NOBODY, NOBODY, TIE, FIRST, NOBODY]


def test_the_others_choice_is_that_of_a_truth_without_the_person() -> None:
    votes, _ = simulated([0.9, 0.8, 0.7, 0.6], items=400, seed=6)
    others = choice_of_others(votes, infer_truth(votes))
    for person, name in enumerate(votes.annotators):
        without = infer_truth(votes.without([name])).choice[votes.item[votes.annotator == person]]
        assert (without == others[votes.annotator == person]).mean() > 0.95
