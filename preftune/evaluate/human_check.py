"""A blind check by a person: what the page shows, the key that is kept apart from it, and what the choices say."""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from preftune.data.records import PromptRecord, readable_text
from preftune.durable import write_json
from preftune.errors import PreftuneError
from preftune.evaluate.bootstrap import bootstrap_mean
from preftune.evaluate.measures import Measure, share

if TYPE_CHECKING:
    from preftune.evaluate.answering import Answers

FORMAT: Final = "preftune-human-check-1"
ITEMS: Final = 50
CHOICES: Final = ("left", "right", "tie")
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Item:
    """A prompt and two answers in the order they are shown in."""

    id: str
    prompt: str
    left: str
    right: str


@dataclass(frozen=True)
class HumanCheck:
    """What the page shows, and the key: on which side of each item the first model's answer stands."""

    id: str
    items: tuple[Item, ...]
    sides: Mapping[str, Side]
    models: tuple[str, str]

    def key(self) -> dict[str, Any]:
        """The key file's content."""
        return {"format": FORMAT, "check": self.id, "models": list(self.models), "sides": dict(self.sides)}


@dataclass(frozen=True)
class HumanResult:
    """What a person's choices say. ``left_bias`` is the share of decided ones that went to the left, with its p."""

    measures: Mapping[str, Measure]
    models: tuple[str, str]
    left_bias: Measure
    left_bias_p: float
    judged: int
    of: int
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "models": list(self.models),
            "judged": self.judged,
            "of": self.of,
            "measures": {name: measure.as_dict() for name, measure in self.measures.items()},
            "left_share": self.left_bias.as_dict() | {"p": self.left_bias_p},
            "sentence": self.sentence,
        }


def make_check(
    prompts: Sequence[PromptRecord],
    first: Answers,
    second: Answers,
    models: tuple[str, str],
    *,
    limit: int = ITEMS,
    seed: int = 0,
) -> HumanCheck:
    """Up to ``limit`` prompts in random order, sides by chance; answers that say the same are left out.

    PreftuneError where nothing is left to choose between.
    """
    met = [
        (prompt, ours[0], theirs[0])
        for prompt, ours, theirs in zip(prompts, first.texts, second.texts, strict=True)
        if ours and theirs and ours[0].split() != theirs[0].split()
    ]
    if not met:
        raise PreftuneError(
            "There is nothing to choose between: the two models' answers are the same, or there are none.",
            where="--human-check",
            mend="Raise --num-completions, or compare other models.",
        )
    draw = random.Random(seed)
    draw.shuffle(met)
    items: list[Item] = []
    sides: dict[str, Side] = {}
    for number, (prompt, ours, theirs) in enumerate(met[:limit], start=1):
        name, side = f"q{number}", draw.choice(("left", "right"))
        left, right = (ours, theirs) if side == "left" else (theirs, ours)
        items.append(Item(name, readable_text(prompt.prompt), left, right))
        sides[name] = side
    return HumanCheck(secrets.token_hex(8), tuple(items), sides, models)


def key_file(page: Path) -> Path:
    """Where the key of a page is kept, beside it."""
    return page.with_name(f"{page.stem}.key.json")


def write_key(check: HumanCheck, page: Path) -> Path:
    """Writes the key beside the page and, for a result that is exported elsewhere, into the cache."""
    write_json(key_file(page), check.key())
    write_json(_cached_key(check.id), check.key())
    return key_file(page)


def read_result(path: str | Path) -> HumanResult:
    """What the exported choices say, by the key beside them or of this machine's own checks.

    PreftuneError where the file is no export of a check, or its key is not found.
    """
    file = Path(path)
    found = _read(file)
    if found.get("format") != FORMAT or not isinstance(found.get("choices"), Mapping):
        mend = "Give the JSON file that the page's button saves."
        raise PreftuneError("This is no result of a blind check.", where=str(file), mend=mend)
    key = _find_key(file, str(found.get("check")))
    return result_of_choices(key["sides"], found["choices"], (key["models"][0], key["models"][1]), str(file))


def result_of_choices(
    sides: Mapping[str, str], choices: Mapping[str, Any], models: tuple[str, str], where: str = "choices"
) -> HumanResult:
    """The first model's wins: of the decided ones with the exact interval (Clopper and Pearson 1934), and ties half."""
    strange = [name for name, choice in choices.items() if name not in sides or choice not in CHOICES]
    if strange:
        raise PreftuneError(
            f"{len(strange)} choices are of no item of this check, such as {strange[0]!r}.",
            where=where,
            mend="The result belongs to another page, or was edited.",
        )
    points = [0.5 if choice == "tie" else float(choice == sides[name]) for name, choice in choices.items()]
    wins, losses = points.count(1.0), points.count(0.0)
    lefts = sum(choice == "left" for choice in choices.values())
    what = f"How often a person who did not know whose it is chose the answer of {models[0]} over that of {models[1]}"
    measures = {
        "human_win_rate": _exact(
            wins, wins + losses, "Win rate by a person", f"{what}; ties left out, exact interval."
        ),
        "human_points": _halved(points, f"{what}; a tie counts half."),
        "human_ties": _exact(len(points) - wins - losses, len(points), "Ties", "Neither was better."),
    }
    bias = _exact(lefts, wins + losses, "Left side chosen", "Of the decided ones; far from 50% is a habit.")
    p = _even_odds(lefts, wins + losses)
    return HumanResult(measures, models, bias, p, len(points), len(sides), _sentence(measures, models, bias, p))


def _exact(hits: int, n: int, title: str, explanation: str) -> Measure:
    from scipy.stats import binomtest

    if n == 0:
        return share(0, 0, title, explanation)
    interval = binomtest(hits, n).proportion_ci(method="exact")
    return Measure(hits / n, float(interval.low), float(interval.high), n, "share", title, explanation)


def _halved(points: Sequence[float], explanation: str) -> Measure:
    """With ties half no exact interval exists; Wilson's is where resampling would be too sure."""
    wins = float(np.sum(points))
    if min(wins, len(points) - wins) < 10:
        return share(wins, len(points), "Points by a person", explanation)
    return bootstrap_mean(points, range(len(points)), "share", "Points by a person", explanation)


def _even_odds(hits: int, n: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(hits, n).pvalue) if n else 1.0


def _sentence(measures: Mapping[str, Measure], models: tuple[str, str], bias: Measure, p: float) -> str:
    rate = measures["human_win_rate"]
    if rate.n == 0:
        return "Nothing was decided."
    said = f"Of {rate.n} decided by a person, {models[0]} won {100 * rate.value:.0f}%"
    said += f" ({100 * rate.low:.0f}% to {100 * rate.high:.0f}%)"
    if rate.low > 0.5 or rate.high < 0.5:
        said += f": {'better' if rate.low > 0.5 else 'worse'} than {models[1]}."
    else:
        said += f": no measurable difference to {models[1]}."
    if p < 0.05:
        said += f" Beware: the left side was chosen in {100 * bias.value:.0f}% (p = {p:.2g}), a habit and no judgement."
    return said


def _find_key(result: Path, check: str) -> dict[str, Any]:
    beside = sorted(result.parent.glob("*.key.json")) + sorted(Path.cwd().glob("*.key.json"))
    for place in (*beside, _cached_key(check)):
        if not place.is_file():
            continue
        try:
            found = _read(place)
        except PreftuneError:  # of another check, and broken
            continue
        models = found.get("models")
        is_whole = isinstance(found.get("sides"), Mapping) and isinstance(models, list) and len(models) == 2
        if found.get("check") == check and is_whole:
            return found
    raise PreftuneError(
        "The key of this blind check is not found.",
        where=str(result),
        mend="Put the NAME.key.json that was written beside the page into the folder of the result.",
    )


def _cached_key(check: str) -> Path:
    from preftune.models.cache import cache_folder

    return cache_folder("human-checks") / f"{hashlib.sha256(check.encode()).hexdigest()[:32]}.key.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreftuneError(f"It cannot be read: {error.strerror}.", where=str(path), mend="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise PreftuneError("This is not JSON.", where=str(path), mend="Export the choices again.") from error
    return found if isinstance(found, dict) else {}
