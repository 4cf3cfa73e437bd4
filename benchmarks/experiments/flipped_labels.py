"""Are flipped labels found in real data, and does training without them win back what they cost?

    python -m benchmarks.experiments.flipped_labels [--seeds 0 1 ...] [--jobs 2] [--output FILE]

(a) A fifth of the labels of a real set is flipped; the mislabel audit ranks all rows. How many of its first rows are
flipped, against a random order and against the rows that break the set's habit of longer or shorter answers? (b) A
linear preference model and a small network are trained on seven prompts in ten: on the labels as they were, with a
fifth flipped, and with what the audit of the flipped training set makes of them. Test labels are never flipped, and
no prompt is in both. A seed draws the flips, the split and the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.experiments.findings import (
    Claim,
    Result,
    Run,
    about,
    claim_above,
    claims_table,
    experiment,
    figures,
    markdown,
    over_seeds,
    told,
)
from benchmarks.experiments.real_pairs import SETS, read_set
from benchmarks.experiments.small_preference_models import LEARNERS, fitted_features
from preftune.audit.mislabelled import MislabelledAudit, audit_mislabelled
from preftune.audit.pair_features import length_differences
from preftune.data.records import Pair
from preftune.data.split import split_by_prompt

FLIPS = 0.2
SEEDS = tuple(range(30))
TOPS = (50, 100, 200)
HELD_OUT = 0.3
TRAINED: Final = ("UKPConvArg", "PandaLM", "HH harmless")
RANKINGS: Final = ("audit", "length", "random")
LABELS: Final = ("as they were", "flipped", "dropped", "turned", "soft", "dropped at random")
RATED: Final = ("UKPConvArg", "GSM8K solutions")  # of which nearly all labels are right to begin with
SHARES, RATED_SEEDS = (0.0, 0.1, 0.2, 0.3, 0.4), 5
CLEANED: Final = LABELS[2:5]
CONFIDENCE = 0.7  # labels less sure than this are left out
SETTINGS = {
    "flips": FLIPS,
    "held_out": HELD_OUT,
    "confidence": CONFIDENCE,
    "sets": list(SETS),
    "trained": list(TRAINED),
}

_RATES_TOLD: Final = (
    f"**Other shares of flips**: estimate and its 95% interval, means over {RATED_SEEDS} seeds; in brackets confident "
    "learning's."
)

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "flipped-labels", SETTINGS, runs_of, SEEDS)))


def runs_of(
    seed: int, sets: Sequence[str] = tuple(SETS), trained: Sequence[str] = TRAINED, rated: Sequence[str] = RATED
) -> Iterator[Run]:
    """All parts of a seed."""
    for name in sets:
        yield from audit_runs(name, _pairs(name), seed)
    for name in trained:
        yield from training_runs(name, _pairs(name), seed)
    if seed < RATED_SEEDS:
        for name in rated:
            yield from rate_runs(name, _pairs(name), seed)


def audit_runs(name: str, pairs: Sequence[Pair], seed: int) -> Iterator[Run]:
    """Each ranking's figures on one set."""
    is_flipped = draw_flips(len(pairs), seed)
    noisy = turned(pairs, is_flipped)
    audit = audit_mislabelled(noisy, seed=seed)
    about_all = {"part": "audit", "set": name, "seed": seed, "pairs": len(pairs)}
    scores = {
        "audit": np.array(audit.probabilities if audit.can_tell else np.zeros(len(pairs))),
        "length": _against_habit(noisy),
        "random": np.random.default_rng([seed, 5]).random(len(pairs)),
    }
    for ranking in RANKINGS:
        yield about_all | {"ranking": ranking} | ranking_figures(scores[ranking], is_flipped)
    yield about_all | {"ranking": "calibration"} | _calibration(audit, scores["audit"], is_flipped)


def rate_runs(name: str, pairs: Sequence[Pair], seed: int) -> Iterator[Run]:
    """What the audit estimates for other shares of flips."""
    for share in SHARES:
        audit = audit_mislabelled(turned(pairs, draw_flips(len(pairs), seed, share)), seed=seed)
        if audit.rate is not None and audit.confident_learning is not None:
            yield {"part": "rate", "set": name, "seed": seed, "flips": share} | {
                "rate": audit.rate.value,
                "low": audit.rate.low,
                "high": audit.rate.high,
                "confident_learning": audit.confident_learning.value,
            }


def ranking_figures(scores: Floats, is_flipped: Bools) -> dict[str, float]:
    """Average precision, and the share of flipped rows among the first so many; equal scores in random order."""
    shuffled = np.random.default_rng(0).permutation(len(scores))
    found = is_flipped[shuffled[np.argsort(-scores[shuffled], kind="stable")]]
    precisions = np.cumsum(found) / np.arange(1, len(found) + 1)
    tops = {f"precision@{top}": float(precisions[top - 1]) for top in TOPS}
    return {"average_precision": float(precisions[found].mean()), **tops}


def training_runs(name: str, pairs: Sequence[Pair], seed: int) -> Iterator[Run]:
    """The accuracy on clean held-out pairs of each learner after each kind of labels."""
    train, test = split_by_prompt(pairs, HELD_OUT, seed)
    is_flipped = draw_flips(len(train), seed)
    chances = np.array(audit_mislabelled(turned(train, is_flipped), seed=seed).probabilities or np.zeros(len(train)))
    features = fitted_features(train, seed)
    held_out = features(test)
    for labels, (rows, rights) in labellings(features(train), is_flipped, chances, seed).items():
        for learner, learn in LEARNERS.items():
            yield {"part": "training", "set": name, "seed": seed, "learner": learner, "labels": labels} | {
                "pairs": len(train),
                "held_out": len(test),
                "accuracy": float((learn(rows, rights, seed)(held_out) > 0).mean()),
            }


def labellings(clean: Floats, is_flipped: Bools, chances: Floats, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """By name the differences to train on, and each label's probability of being right."""
    noisy = _turned(clean, is_flipped)
    unsure, wrong = chances > 1 - CONFIDENCE, chances > 0.5
    by_chance = np.random.default_rng([seed, 6]).permutation(unsure)
    sure = np.ones(len(clean))
    return {
        "as they were": (clean, sure),
        "flipped": (noisy, sure),
        "dropped": (noisy[~unsure], sure[~unsure]),
        "turned": (_turned(noisy, wrong)[~unsure | wrong], sure[~unsure | wrong]),
        "soft": (noisy, 1 - chances),
        "dropped at random": (noisy[~by_chance], sure[~by_chance]),
    }


def _turned(rows: Floats, which: Bools) -> Floats:
    return np.where(which[:, None], -rows, rows)


def draw_flips(rows: int, seed: int, share: float = FLIPS) -> Bools:
    """Which rows are flipped."""
    is_flipped = np.zeros(rows, dtype=np.bool_)
    is_flipped[np.random.default_rng([seed, 3]).permutation(rows)[: round(share * rows)]] = True
    return is_flipped


def turned(pairs: Sequence[Pair], which: Bools) -> list[Pair]:
    """The pairs, those marked with their sides exchanged."""
    return [
        pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) if turn else pair
        for pair, turn in zip(pairs, which, strict=True)
    ]


@cache
def _pairs(name: str) -> tuple[Pair, ...]:
    return tuple(read_set(name))


def _against_habit(pairs: Sequence[Pair]) -> Floats:
    """How far each label breaks the habit of its set, longer or shorter."""
    lengths = length_differences(pairs)
    return -lengths if (lengths > 0).mean() >= (lengths < 0).mean() else lengths


def _calibration(audit: MislabelledAudit, chances: Floats, is_flipped: Bools) -> dict[str, Any]:
    suspect = chances > 0.5
    first = np.argsort(-chances, kind="stable")[:100]
    rate, learning = audit.rate, audit.confident_learning
    return {
        "accuracy": audit.accuracy.value,
        "rate": rate and rate.value,
        "rate_low": rate and rate.low,
        "rate_high": rate and rate.high,
        "confident_learning": learning and learning.value,
        "suspects": int(suspect.sum()),
        "precision": float(is_flipped[suspect].mean()) if suspect.any() else None,
        "recall": float(suspect[is_flipped].mean()),
        "expected@100": float(chances[first].mean()),
        "found@100": float(is_flipped[first].mean()),
    }


def ranking_claims(runs: Sequence[Run]) -> list[Claim]:
    """The audit's average precision above both baselines', on each set."""
    found = []
    for name in dict.fromkeys(run["set"] for run in runs):
        audit, length, chance = (figures(runs, "average_precision", set=name, ranking=ranking) for ranking in RANKINGS)
        found.append(claim_above(f"{name}: above length", audit, length))
        found.append(claim_above(f"{name}: above a random order", audit, chance))
    return found


def recovery_claims(runs: Sequence[Run]) -> list[Claim]:
    """Training after each cleaning lies above the middle between clean and flipped labels, seed for seed."""
    found = []
    for name, learner in dict.fromkeys((run["set"], run["learner"]) for run in runs):
        which = {"set": name, "learner": learner}
        clean, flipped = (_accuracies(runs, labels, which) for labels in LABELS[:2])
        middle = [(one + other) / 2 for one, other in zip(clean, flipped, strict=True)]
        found.append(claim_above(f"{name}, {learner}: flips cost accuracy", clean, flipped))
        for labels in LABELS[2:]:
            cleaned = _accuracies(runs, labels, which)
            found.append(claim_above(f"{name}, {learner}: {labels} wins back more than half", cleaned, middle))
    return found


def tables(result: Result) -> str:
    """The result as Markdown."""
    audits = [run for run in result["runs"] if run["part"] == "audit"]
    training = [run for run in result["runs"] if run["part"] == "training"]
    rankings = [run for run in audits if run["ranking"] != "calibration"]
    rates = [run for run in result["runs"] if run["part"] == "rate"]
    parts = [
        about(result, "flipped_labels"),
        f"**Audit.** A fifth of the labels flipped; means over {len(result['seeds'])} seeds with 95% intervals. "
        "*Length* ranks by how far a row breaks its set's habit of longer or shorter answers.",
        _ranking_table(rankings),
        claims_table(ranking_claims(rankings), 1, 100, "average precision in points"),
        "**What the audit says of itself**, means over seeds. *Suspects* are likelier flipped than not; *expected* is "
        "what their probabilities promise for the first 100 rows.",
        _calibration_table([run for run in audits if run["ranking"] == "calibration"]),
        *([_RATES_TOLD, _rate_table(rates)] if rates else []),
        "**Training.** Accuracy on clean held-out prompts, %:",
        _training_table(training),
        "*Won back* is the share of what the flips cost; a ratio of means.",
        claims_table(recovery_claims(training), 2, 100, "points"),
    ]
    return "\n\n".join(parts)


def _accuracies(runs: Sequence[Run], labels: str, which: Mapping[str, Any]) -> list[float]:
    return figures(runs, "accuracy", labels=labels, **which)


def _ranking_table(runs: Sequence[Run]) -> str:
    names = ["average_precision", *(f"precision@{top}" for top in TOPS)]
    rows = []
    for name in dict.fromkeys(run["set"] for run in runs):
        for ranking in RANKINGS:
            cells = [told(over_seeds(figures(runs, figure, set=name, ranking=ranking))) for figure in names]
            (pairs,) = {run["pairs"] for run in runs if run["set"] == name}
            rows.append([f"{name} ({pairs:,}), {ranking}", *cells])
    return markdown(["set (pairs), ranking", "average precision", *(f"precision at {top}" for top in TOPS)], rows)


def _calibration_table(runs: Sequence[Run]) -> str:
    rows = []
    for name in dict.fromkeys(run["set"] for run in runs):
        of = {figure: _mean_of(runs, figure, name) for figure in _CALIBRATION}
        held = [
            run["rate_low"] <= FLIPS <= run["rate_high"]
            for run in runs
            if run["set"] == name and run["rate"] is not None
        ]
        rows.append(
            [
                name,
                f"{of['accuracy']:.1%}",
                f"{of['rate']:.1%} ({of['rate_low']:.1%} to {of['rate_high']:.1%})",
                f"{sum(held)} of {len(held)}",
                f"{of['confident_learning']:.1%}",
                f"{of['suspects']:.0f}",
                f"{of['precision']:.1%}",
                f"{of['recall']:.1%}",
                f"{of['expected@100']:.1%}",
                f"{of['found@100']:.1%}",
            ]
        )
    header = ["set", "evidence agrees", "estimated rate", "interval holds 20%", "confident learning", "suspects"]
    return markdown([*header, "of them flipped", "of the flipped found", "expected in 100", "found in 100"], rows)


def _rate_table(runs: Sequence[Run]) -> str:
    rows = []
    for name in dict.fromkeys(run["set"] for run in runs):
        cells = []
        for share in SHARES:
            mean = {
                figure: float(np.mean(figures(runs, figure, set=name, flips=share)))
                for figure in ("rate", "low", "high", "confident_learning")
            }
            cells.append(
                f"{mean['rate']:.1%}, {mean['low']:.1%} to {mean['high']:.1%} ({mean['confident_learning']:.1%})"
            )
        rows.append([name, *cells])
    return markdown(["set", *(f"{share:.0%} flipped" for share in SHARES)], rows)


_CALIBRATION = (
    "accuracy",
    "rate",
    "rate_low",
    "rate_high",
    "confident_learning",
    "suspects",
    "precision",
    "recall",
    "expected@100",
    "found@100",
)


def _mean_of(runs: Sequence[Run], figure: str, name: str) -> float:
    values = [run[figure] for run in runs if run["set"] == name and run[figure] is not None]
    return float(np.mean(values)) if values else float("nan")


def _training_table(runs: Sequence[Run]) -> str:
    rows = []
    for name, learner in dict.fromkeys((run["set"], run["learner"]) for run in runs):
        which = {"set": name, "learner": learner}
        found = {labels: _accuracies(runs, labels, which) for labels in LABELS}
        cost = np.mean(found["as they were"]) - np.mean(found["flipped"])
        cells = [told(over_seeds(found[labels])) for labels in LABELS]
        best = [(np.mean(found[labels]) - np.mean(found["flipped"])) / cost for labels in CLEANED]
        rows.append([f"{name}, {learner}", *cells, ", ".join(f"{share:.0%}" for share in best)])
    return markdown(["set, model", *LABELS, "won back: dropped, turned, soft"], rows)


if __name__ == "__main__":
    main()
