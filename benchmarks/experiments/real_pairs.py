"""Real preference pairs that lie beside the repository, by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, Final

from preftune.data.read import read_pairs
from preftune.data.records import Pair
from preftune.errors import PreftuneError

PLACE = Path(__file__).parents[2].parent / "shared" / "data"


def read_set(name: str) -> list[Pair]:
    """The pairs of one of ``SETS``, those with an empty answer or two equal ones left out.

    Raises PreftuneError where the set is not there.
    """
    try:
        return [pair for pair in SETS[name]() if _differs(pair)]
    except FileNotFoundError as error:
        mend = "This experiment needs the data sets beside the repository."
        raise PreftuneError("The data set is not here.", where=str(error.filename), mend=mend) from error


def harmless() -> Iterator[Pair]:
    """HH-RLHF's harmlessness pairs, a person's choice each."""
    path = PLACE / "hh-harmless" / "pairs.jsonl"
    if not path.exists():
        raise FileNotFoundError(2, "", str(path))
    yield from read_pairs(path).records


def pandalm() -> Iterator[Pair]:
    """Pairs of PandaLM on which two of three people agree."""
    for row in _rows(PLACE / "pandalm" / "comparisons.jsonl"):
        winner = max((1, 2), key=row["annotators"].count)
        answers = row["response_1"], row["response_2"]
        if row["annotators"].count(winner) >= 2 and all(isinstance(answer, str) for answer in answers):
            yield _pair(row["prompt"], answers[winner - 1], answers[2 - winner], row["id"])


def arguments() -> Iterator[Pair]:
    """UKPConvArg's pairs of arguments on ten debates, labelled by five people or more through MACE."""
    for row in _rows(PLACE / "ukpconvarg" / "pairs.jsonl.gz"):
        if (winner := row["gold_mace"]) in ("a1", "a2"):
            loser = "a2" if winner == "a1" else "a1"
            texts = {"a1": row["arg1"]["text"], "a2": row["arg2"]["text"]}
            yield _pair(f"{row['title']}: {row['stance']}", texts[winner], texts[loser], row["pair_id"])


def solutions() -> Iterator[Pair]:
    """Right against wrong solutions of the same GSM8K problem; the labels are certain."""
    for number, row in enumerate(_rows(PLACE / "gsm8k-solutions" / "solutions.jsonl.gz")):
        sides: list[list[str]] = [[], []]
        for answer in row["completions"]:
            sides[not answer["correct"]].append(answer["text"])
        for place, (right, wrong) in enumerate(product(*sides)):
            yield _pair(row["prompt"], right, wrong, f"{number}-{place}")


SETS: Final[dict[str, Callable[[], Iterator[Pair]]]] = {
    "UKPConvArg": arguments,
    "GSM8K solutions": solutions,
    "PandaLM": pandalm,
    "HH harmless": harmless,
}


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _pair(prompt: str, chosen: str, rejected: str, name: str) -> Pair:
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, id=name)


def _differs(pair: Pair) -> bool:
    if not isinstance(pair.chosen, str) or not isinstance(pair.rejected, str):
        return True
    return bool(pair.chosen.strip() and pair.rejected.strip()) and pair.chosen.split() != pair.rejected.split()
