"""A world in which answers with kind words are better, so that a flip can be seen."""

import json
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("cleanlab")

from preftune.audit.mislabelled import audit_mislabelled
from preftune.audit.preference_model import cross_fitted_margins
from preftune.data.records import Pair
from preftune.errors import PreftuneError

KIND = ["thanks", "gladly", "certainly", "welcome", "careful", "clear", "helpful", "gentle", "honest", "precise"]
RUDE = ["whatever", "boring", "stupid", "never", "nonsense", "lazy", "wrong", "hateful", "sloppy", "vague"]
PLAIN = [f"word{number}" for number in range(60)]


def made(rows: int, seed: int, flips: float = 0.0, telling: int = 2) -> tuple[list[Pair], np.ndarray]:
    """Pairs of which the chosen has ``telling`` kind words and the rejected as many rude ones, and who was flipped."""
    draw = np.random.default_rng(seed)
    pairs = [
        Pair(
            prompt=f"question {row}",
            chosen=_said(draw, KIND, telling),
            rejected=_said(draw, RUDE, telling),
            id=f"row-{row}",
        )
        for row in range(rows)
    ]
    flipped = np.zeros(rows, dtype=bool)
    flipped[draw.permutation(rows)[: round(flips * rows)]] = True
    return [swapped(pair) if turn else pair for pair, turn in zip(pairs, flipped, strict=True)], flipped


def swapped(pair: Pair) -> Pair:
    return pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen})


def _said(draw: np.random.Generator, words: Sequence[str], telling: int) -> str:
    chosen = [*draw.choice(words, telling), *draw.choice(PLAIN, 12)]
    return " ".join(draw.permutation(chosen)) + "."


def test_flipped_rows_are_named_with_their_rate_and_calibrated_chances() -> None:
    pairs, flipped = made(600, seed=0, flips=0.2)
    audit = audit_mislabelled(pairs, seed=0)
    assert audit.can_tell and audit.probabilities is not None and audit.rate is not None
    assert audit.rate.low <= 0.2 <= audit.rate.high and audit.rate.value == pytest.approx(0.2, abs=0.06)
    named = np.isin([pair.id for pair in pairs], audit.suspects)
    assert flipped[named].mean() > 0.9 and named[flipped].mean() > 0.8
    chances = np.array(audit.probabilities)
    assert chances[flipped].mean() > 0.7 > 0.2 > chances[~flipped].mean()
    fifty = next(share for share in audit.top if share.n == 50)
    assert fifty.low <= flipped[np.argsort(-chances)[:50]].mean() <= fifty.high
    (finding,) = audit.findings
    assert (finding.id, finding.severity, finding.rows) == ("mislabelled-pairs", "warning", audit.suspects)
    assert list(finding.rows) == sorted(finding.rows, key=lambda row: -chances[audit.ids.index(row)])
    assert len(finding.examples) == 5 and "probability" in finding.examples[0]["why"]


def test_clean_labels_are_not_accused() -> None:
    audit = audit_mislabelled(made(600, seed=1)[0])
    assert audit.can_tell and audit.rate is not None
    assert audit.rate.low < 0.01 and audit.rate.high < 0.06 and len(audit.suspects) <= 6
    assert {finding.severity for finding in audit.findings} == {"info"}
    assert all(set(finding.rows) <= set(audit.suspects) for finding in audit.findings)


def test_labels_without_a_rule_cannot_be_told() -> None:
    pairs = [swapped(pair) if row % 2 else pair for row, pair in enumerate(made(300, seed=2, telling=0)[0])]
    audit = audit_mislabelled(pairs)
    assert not audit.can_tell and audit.probabilities is None and audit.rate is None and audit.suspects == ()
    (finding,) = audit.findings
    assert finding.id == "mislabelled-unknown" and finding.rows == () and "may be chance" in finding.evidence


@pytest.mark.parametrize("rows", [0, 1, 49])
def test_too_few_pairs_are_said(rows: int) -> None:
    audit = audit_mislabelled(made(rows, seed=3)[0])
    assert not audit.can_tell and audit.findings[0].id == "mislabelled-unknown"


def test_one_prompt_cannot_judge_itself() -> None:
    pairs = [pair.model_copy(update={"prompt": "the same"}) for pair in made(80, seed=3)[0]]
    assert "80 pairs of 1 prompt;" in audit_mislabelled(pairs).findings[0].evidence


def test_no_model_sees_a_prompt_it_judges() -> None:
    pairs = [
        pair.model_copy(update={"prompt": f"question {row // 4}"}) for row, pair in enumerate(made(200, seed=4)[0])
    ]
    judged = []

    def fit(train: Sequence[Pair]):
        known = {pair.prompt for pair in train}

        def margins(others: Sequence[Pair]) -> np.ndarray:
            assert not known & {pair.prompt for pair in others}
            judged.extend(pair.id for pair in others)
            return np.ones(len(others))

        return margins

    audit = audit_mislabelled(pairs, fit=fit, with_others=False)
    assert sorted(judged) == sorted(pair.id for pair in pairs)
    assert audit.of_model.value == 1.0 and audit.of_others.n == 0


def test_a_model_of_ones_own_takes_the_fast_ones_place() -> None:
    pairs, flipped = made(400, seed=5, flips=0.2)
    truth = {pair.id: 3.0 if not turn else -3.0 for pair, turn in zip(pairs, flipped, strict=True)}
    audit = audit_mislabelled(pairs, fit=lambda train: lambda others: np.array([truth[pair.id] for pair in others]))
    assert set(audit.suspects) == {pair.id for pair, turn in zip(pairs, flipped, strict=True) if turn}


@pytest.mark.parametrize("wrong", [np.zeros(3), np.full(80, np.nan), np.zeros((80, 2))])
def test_a_model_that_gives_no_margins_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(PreftuneError, match="preference model gave"):
        cross_fitted_margins(made(400, seed=6)[0], np.arange(400), 5, 0, lambda train: lambda others: wrong)


def test_other_comparisons_of_the_same_answers_testify() -> None:
    draw = np.random.default_rng(7)
    pairs = []
    for prompt in range(60):
        answers = [" ".join(draw.choice(PLAIN, 8)) for _ in range(6)]
        pairs += [
            Pair(prompt=f"question {prompt}", chosen=answers[i], rejected=answers[j], id=f"{prompt}-{i}-{j}")
            for i in range(6)
            for j in range(i + 1, 6)
        ]
    flipped = np.zeros(len(pairs), dtype=bool)
    flipped[draw.permutation(len(pairs))[:90]] = True
    audit = audit_mislabelled([swapped(pair) if turn else pair for pair, turn in zip(pairs, flipped, strict=True)])
    named = np.isin([pair.id for pair in pairs], audit.suspects)
    assert audit.of_others.value > 0.75 > 0.6 > audit.of_model.value
    assert flipped[named].mean() > 0.7 and named[flipped].mean() > 0.1


def test_the_same_seed_gives_the_same_audit_and_it_is_json() -> None:
    pairs, _ = made(150, seed=8, flips=0.1)
    audit = audit_mislabelled(pairs, seed=3)
    assert audit == audit_mislabelled(pairs, seed=3)
    json.dumps(audit.as_dict(), allow_nan=False)
