"""The votes as comparisons in JSON lines, which ``preftune audit`` and the trainers read; whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from preftune.collect.people_store import StoredAnswer, reading, stored_answers, stored_content
from preftune.durable import explained_errors, sync_file, sync_folder


@dataclass(frozen=True)
class Exported:
    """What an export wrote: records with votes, and the votes on them."""

    records: int
    votes: int


def export_votes(store: Path, output: Path, rubric: str | None = None) -> Exported:
    """Writes a comparison for every item with votes, gold aside, over ``output`` in one stroke.

    A vote is in the record's terms ("first" is ``response_1``); ``shown_first`` says which response its annotator
    saw first. Votes that a record came with stand before the new ones, and an annotator's new vote takes the place of
    an older one. ``rubric`` is the version of the guidelines.
    """
    aside = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    with explained_errors(output):
        try:
            with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                records = votes = 0
                for row, new in comparison_rows(store, rubric):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    records, votes = records + 1, votes + new
            sync_file(aside)
            aside.replace(output)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        sync_folder(output.parent)
    return Exported(records, votes)


def comparison_rows(store: Path, rubric: str | None = None) -> Iterator[tuple[dict[str, Any], int]]:
    """The comparisons of a store as plain dicts, each with the number of its new votes."""
    with reading(store) as connection:
        for number, group in groupby(stored_answers(connection), key=lambda stored: stored.answer.item):
            answers = [stored for stored in group if not stored.is_gold]
            voted = [stored for stored in answers if stored.answer.choice != "skip"]
            if voted:
                skipped = [stored for stored in answers if stored.answer.choice == "skip"]
                yield _row(stored_content(connection, number), voted, skipped, rubric), len(voted)


def _row(
    content: dict[str, Any], voted: list[StoredAnswer], skipped: list[StoredAnswer], rubric: str | None
) -> dict[str, Any]:
    names = {stored.answer.annotator for stored in voted}
    before = [vote for vote in content.get("annotators") or () if vote.get("id") not in names]
    row = content | {"annotators": [*before, *map(_vote, voted)]}
    row["source"] = {
        "kind": "human",
        "prompt_version": rubric,
        "time": _time(max(stored.answer.at for stored in voted)),
        "cost": None,
        **({"answers": content["source"]} if content.get("source") is not None else {}),
    }
    if skipped:
        row["meta"] = (content.get("meta") or {}) | {"skipped": [_skip(stored) for stored in skipped]}
    return row


def _vote(stored: StoredAnswer) -> dict[str, Any]:
    answer = stored.answer
    beside = {"reason": answer.reason, "strength": answer.strength}
    return {
        "id": answer.annotator,
        "choice": answer.choice,
        "seconds": round(answer.seconds, 1),
        **{name: value for name, value in beside.items() if value is not None},
        "shown_first": stored.shown_first,
        "time": _time(answer.at),
    }


def _skip(stored: StoredAnswer) -> dict[str, Any]:
    reason = {"reason": stored.answer.reason} if stored.answer.reason else {}
    return {"id": stored.answer.annotator, **reason}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
