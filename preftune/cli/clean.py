"""``preftune clean``: the data again, without what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show


def clean(
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    drop: list[str] | None = None,
    keep: list[str] | None = None,
    min_confidence: float | None = None,
    turn_below: float | None = None,
    soft_labels: bool = False,
    balance_lengths: bool = False,
    eval_data: str | None = None,
    model: str | None = None,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Repaired preference data; every row that is left out is written beside it with its reason.

    Without options rows without words, pairs whose sides say the same, repeats, and what is labelled both ways are
    left out. Comparisons with several people's votes become the pairs that the votes decide.

    Example:
      preftune clean pairs.jsonl -o clean.jsonl
      preftune clean votes.jsonl -o clean.jsonl --min-confidence 0.7
      preftune clean pairs.jsonl -o soft.jsonl --soft-labels --drop near-duplicates secret

    Parameters
    ----------
    data: Pairs, labels, or comparisons with votes: JSONL, JSON, CSV, Parquet, a datasets folder, or a hub name.
    output: File for the rows that are kept; those left out go to NAME.left-out.jsonl beside it.
    drop: Further reasons to leave rows out: near-duplicates, near-contradictions, mislabelled, leaked-prompts and
        near-leaked-prompts (with --eval-data), or a mark of the text such as special-token, mojibake, html, refusal,
        email, secret.
    keep: Of the usual reasons those that are none here: blank-texts, identical-sides, duplicates, contradictions.
    min_confidence: Leave out labels that are right with less than this probability, by votes and by the mislabel
        audit; rows of which nothing is known are kept and counted.
    turn_below: Turn labels that are right with less than this probability, such as 0.1.
    soft_labels: Write each label's probability into the row as confidence; train with --use_confidence.
    balance_lengths: Leave rows out at random until the longer answer wins half of the pairs.
    eval_data: Held-out rows whose prompts should not be among these.
    model: Base model of which reward models are trained and cross-fitted to judge the labels; slow.
    split: Split of a hub data set or datasets folder.
    eval_split: The same for eval_data.
    limit: Read at most so many rows.
    seed: Decides what is drawn.
    """
    from preftune.audit.clean import Repairs
    from preftune.audit.clean import clean as clean_data
    from preftune.audit.row_reasons import DEFAULT, check_reasons

    check_reasons(keep or ())
    usual = tuple(name for name in DEFAULT if name not in (keep or ()))
    repairs = Repairs(
        drop=(*usual, *(name for name in drop or () if name not in usual)),
        min_confidence=min_confidence,
        turn_below=turn_below,
        soft_labels=soft_labels,
        balance_lengths=balance_lengths,
    )
    with progress("reading", None) as bar:
        found = clean_data(
            data,
            output,
            repairs,
            eval_data=eval_data,
            split=split,
            eval_split=eval_split,
            limit=limit,
            fit=None if model is None else _fit(model, seed),
            seed=seed,
            advance=bar.advance,
        )
    document = found.as_dict()
    for line in _lines(document):
        show(line)
    notify(f"what was left out is in {found.left_out_file}")
    return Outcome(document)


def _lines(document: dict[str, Any]) -> list[str]:
    from preftune.cli.audit_screen import shown_share

    lines = [f"{document['kept']:,} of {document['read']:,} rows kept in {document['output']}"]
    lines += [f"  {count:,} left out for {reason}" for reason, count in document["left_out"].items()]
    counted = {"turned": "labels turned", "softened": "labels softened", "unknown": "labels of which nothing is known"}
    lines += [f"  {document[name]:,} {what}" for name, what in counted.items() if document[name]]
    for name in ("before", "after"):
        audit = document[name]
        share = audit.get("longer_wins")
        longer = f"; the longer answer wins {shown_share(share)}" if share and share["value"] is not None else ""
        lines.append(
            f"{name}: {audit['used']:,} rows of {audit['distinct_prompts']:,} prompts, {audit['duplicates']:,} "
            f"repeats, {audit['contradictions']:,} contradictions{longer}"
        )
    return lines


def _fit(model: str, seed: int) -> Any:
    from preftune.cli.reward_fit import fit_reward_model

    return fit_reward_model(model, seed)
