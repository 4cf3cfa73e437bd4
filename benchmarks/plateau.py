"""How often is the plateau test of `preftune align` wrong, at the sizes that people have?

    python -m benchmarks.plateau [--repeats 2000]

Flags of right and wrong are drawn for an earlier model and three later ones, two pairs a prompt, and the test is asked.
Where the earlier model is right in 65% of the pairs, each later one has another answer in 15% of them, `gain` more of
which are right; half of the changes are common to all later ones, and half are common to the pairs of a prompt. With a
judge the test is made at half the level, as here by `--level 0.025`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.table import markdown
from preftune.pipeline.plateau import LEVEL, find_plateau

PROMPTS: Final = (30, 60, 150, 500, 2000)
GAINS: Final = (-0.05, 0.0, 0.02, 0.05, 0.1)
PAIRS, LATER, RIGHT, CHANGED = 2, 3, 0.65, 0.15
VERDICTS: Final = ("rising", "plateau", "falling", "cannot tell")


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plateau", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--level", type=float, default=LEVEL)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "plateau.json")
    options = parser.parse_args(argv)
    rows = [
        {"prompts": prompts, "gain": gain, **rates(prompts, gain, options.repeats, options.level)}
        for prompts in PROMPTS
        for gain in GAINS
    ]
    result = {"question": (__doc__ or "").partition("\n")[0], "repeats": options.repeats, "level": options.level}
    options.output.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(plateau_table(rows))
    return 0


def rates(prompts: int, gain: float, repeats: int, level: float = LEVEL) -> dict[str, float]:
    """The share of draws that come to each verdict."""
    found: Counter[str] = Counter()
    for number in range(repeats):
        scores = draw_scores(prompts, gain, np.random.default_rng([prompts, round(1000 * (gain + 1)), number]))
        keys = np.repeat(np.arange(prompts), PAIRS).tolist()
        found[find_plateau("earlier", scores, keys, level=level, are_shares=True, seed=number).verdict] += 1
    return {verdict: found[verdict] / repeats for verdict in VERDICTS}


def draw_scores(prompts: int, gain: float, draw: np.random.Generator) -> dict[str, Any]:
    """Flags of the earlier model and of LATER ones that are right in ``gain`` more."""
    n = prompts * PAIRS
    earlier = draw.random(n) < RIGHT
    chance = np.where(earlier, (CHANGED - gain) / 2 / RIGHT, (CHANGED + gain) / 2 / (1 - RIGHT))
    common = _uniform(prompts, draw)
    scores = {"earlier": earlier.astype(float)}
    for number in range(LATER):
        drawn = np.where(draw.random(n) < 0.5, common, _uniform(prompts, draw))
        scores[f"later {number + 1}"] = (earlier ^ (drawn < chance)).astype(float)
    return scores


def _uniform(prompts: int, draw: np.random.Generator) -> np.ndarray:
    """A number for each pair; half of them that of their prompt."""
    own, of_prompt = draw.random(prompts * PAIRS), np.repeat(draw.random(prompts), PAIRS)
    return np.where(draw.random(prompts * PAIRS) < 0.5, own, of_prompt)


def plateau_table(rows: Sequence[dict[str, Any]]) -> str:
    """As Markdown."""
    head = ["prompts (two pairs each)", "true gain, points", *VERDICTS]
    return markdown(
        head,
        [[f"{r['prompts']:,}", f"{100 * r['gain']:+.0f}", *(f"{r[name]:.1%}" for name in VERDICTS)] for r in rows],
    )


if __name__ == "__main__":
    sys.exit(main())
