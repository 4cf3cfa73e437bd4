"""The demo's pairs from PandaLM's comparisons, by majority vote.

    python -m benchmarks.make_demo_pairs comparisons.jsonl preftune/demo/pairs.jsonl

A comparison becomes a pair where two or three of its three annotators chose the same answer (ties are left out),
both answers are text and not empty, and the two differ; of equal pairs the first is kept. The winner is `chosen`;
`confidence` is the share of annotators who chose it. Nothing else is selected: not by length, not by how well a model
does on it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def pair_of(comparison: dict[str, Any]) -> dict[str, Any] | None:
    """The comparison as a pair in TRL's conversational form, or None where it decides nothing."""
    winner, votes = Counter(comparison["annotators"]).most_common(1)[0]
    if winner == 0 or votes < 2:
        return None
    chosen, rejected = comparison[f"response_{winner}"], comparison[f"response_{3 - winner}"]
    if not all(isinstance(side, str) and side.strip() for side in (chosen, rejected)):
        return None
    if chosen.strip() == rejected.strip():
        return None
    return {
        "id": comparison["id"],
        "prompt": [{"role": "user", "content": comparison["prompt"]}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "confidence": round(votes / len(comparison["annotators"]), 3),
        "source": "human",
    }


def pairs_in(path: Path) -> Iterator[dict[str, Any]]:
    """Every different pair the file decides."""
    seen: set[tuple[str, ...]] = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        pair = pair_of(json.loads(line))
        if pair is None:
            continue
        texts = tuple(pair[side][0]["content"].strip() for side in ("prompt", "chosen", "rejected"))
        if texts not in seen:
            seen.add(texts)
            yield pair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparisons", type=Path)
    parser.add_argument("pairs", type=Path)
    options = parser.parse_args()
    lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs_in(options.comparisons)]
    options.pairs.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} pairs in {options.pairs}")


if __name__ == "__main__":
    main()
