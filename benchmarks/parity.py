"""How far are the losses of a run from TRL's, step by step?

    python -m benchmarks.parity [--steps 50] [--output benchmarks/results/parity.json]
    python -m benchmarks.parity --table          rewrites docs/parity.md from the results at hand

Trains the tests' tiny model (two layers, float32) by every method and loss that both have, in TRL's trainer and here,
from the same weights on the same 60 rows in the same order, and keeps the largest difference of each figure that both
log, over all steps: relative where TRL's figure is above 1. The cases are those of tests/parity, which asserts the same
at fewer steps. Exits with 1 where a difference that should be rounding is more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.table import between_markers

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "parity.json"
DOCUMENT = HERE.parent / "docs" / "parity.md"


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="write the tables only")
    options = parser.parse_args(argv)
    if not options.table:
        result = {"machine": describe_machine(), "steps": options.steps, **compare(options.steps)}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(_as_text(result), encoding="utf-8")
    result = json.loads(options.output.read_text(encoding="utf-8"))
    document = DOCUMENT.read_text(encoding="utf-8")
    for name in ("agree", "differ"):
        document = between_markers(document, name, table(result, name))
    DOCUMENT.write_text(document, encoding="utf-8")
    return 1 if any(case["beyond"] for case in result["agree"]) else 0


def compare(steps: int) -> dict[str, list[dict[str, Any]]]:
    """All cases: those that should agree, and those that should not."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRL_EXPERIMENTAL_SILENCE": "1"}
    warnings.simplefilter("ignore")
    import torch

    from tests.parity.cases import DIFFERENT, PRINCIPAL, VARIANTS
    from tests.parity.side_by_side import make_start
    from tests.tiny_world import make_world

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        folder = Path(name)
        os.environ["PREFTUNE_CACHE"] = str(folder / "cache")
        start = make_start(make_world(folder / "world"), folder / "scorer")
        return {
            kind: [_compared(case, start, folder / f"{kind}-{number}", steps) for number, case in enumerate(cases)]
            for kind, cases in (("agree", (*PRINCIPAL, *VARIANTS)), ("differ", DIFFERENT))
        }


def table(result: Mapping[str, Any], kind: str) -> str:
    """The cases of ``kind`` as a table in Markdown, under a line that says what was run with what."""
    found, versions = result[kind], result["machine"]["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("trl", "transformers", "torch"))
    head = f"{result['steps']} steps each; {named}; {result['machine']['date'][:10]}."
    if kind == "differ":
        rows = [(case["name"], case["note"], _figure(case["furthest"]["loss"])) for case in found]
        return "\n".join([head, "", *_markdown(("run", "what TRL does", "largest difference of the loss"), rows)])
    titles = ("run", "what it takes to agree", "loss", "gradient norm", "furthest of the other figures")
    return "\n".join([head, "", *_markdown(titles, [_agreement(case) for case in found])])


def _compared(case: Any, start: Any, folder: Path, steps: int) -> dict[str, Any]:
    from tests.parity.side_by_side import beyond, both_curves, furthest

    folder.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):  # TRL's trainer prints its log
        ours, theirs = both_curves(case, start, folder, steps)
    found = furthest(ours, theirs, case.aside)
    print(f"{case.name}: loss {found['loss']:.1e}", flush=True)
    return {
        "name": case.name,
        "note": case.note,
        "settings": {"both": dict(case.both), "preftune": dict(case.ours), "trl": dict(case.theirs)},
        "furthest": found,
        "beyond": sorted(beyond(found)),
        "losses": {"preftune": [row["loss"] for row in ours], "trl": [row["loss"] for row in theirs]},
    }


def _as_text(result: Mapping[str, Any]) -> str:
    """JSON with each list of numbers on a line of its own."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[\s+([-+\d.e,\s]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


def _agreement(case: Mapping[str, Any]) -> tuple[str, ...]:
    found = dict(case["furthest"])
    loss, norm = found.pop("loss"), found.pop("grad_norm")
    others = {name: gap for name, gap in found.items() if name != "learning_rate"}
    worst = max(others, key=lambda name: others[name], default=None)
    told = "-" if worst is None else f"{_figure(others[worst])} ({worst})"
    return case["name"], case["note"] or "-", _figure(loss), _figure(norm), told


def _figure(gap: float) -> str:
    return f"{gap:.1e}"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles), *rows)]


if __name__ == "__main__":
    raise SystemExit(main())
