"""``preftune make implicit``: what users did, as labels or pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show
from preftune.errors import PreftuneError


def make_implicit(
    logs: str | None = None,
    *,
    mapping: str | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    as_: Annotated[Literal["labels", "pairs"], Parameter(name="--as")] = "labels",
    min_confidence: float = 0.55,
    rejected: Path | None = None,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    example_mapping: Annotated[bool, Parameter(negative=())] = False,
) -> Outcome:
    """Labels or pairs from a log: thumbs, copies, edits, regenerations, clicks, dwell times, session lengths.

    Example:
      preftune make implicit --example-mapping > mapping.yaml
      preftune make implicit events.jsonl --mapping mapping.yaml -o labels.jsonl
      preftune make implicit clicks.csv --mapping clicks --as pairs -o pairs.jsonl

    Parameters
    ----------
    logs: The log: JSONL, JSON, CSV, Parquet, a datasets folder, or a hub name.
    mapping: YAML file that says which column is what, or a built-in one: events, clicks, ranked, chat.
    output: File for the records, written in one stroke when all is read.
    as_: labels judge single answers, pairs say which of two is better.
    min_confidence: Records that are less probably right are not written.
    rejected: File for the rows left out, with their reasons.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    seed: Of the bootstrap behind the intervals of the weighted click rates.
    example_mapping: Print a commented mapping and stop; with --mapping NAME that built-in one.
    """
    from preftune.collect.log_mapping import example_mapping as mapping_text

    if example_mapping:
        text = mapping_text(mapping or "events")
        print(text, end="")
        return Outcome({"mapping": text})
    if logs is None or mapping is None or output is None:
        missing = "a log" if logs is None else "--mapping" if mapping is None else "--output"
        mend = "`preftune make implicit LOGS --mapping FILE -o labels.jsonl`; --example-mapping prints a mapping."
        raise PreftuneError(f"It needs {missing}.", mend=mend)
    from preftune.collect.implicit import implicit

    with progress("Reading the log", None) as bar:
        made = implicit(
            logs,
            mapping,
            output,
            shape=as_,
            min_confidence=min_confidence,
            split=split,
            limit=limit,
            rejected=rejected,
            seed=seed,
            advance=bar.advance,
        )
    if rejected is not None:
        notify(f"{sum(made.reading.left_out.values()):,} rows left out are listed in {rejected}")
    document = made.as_dict()
    for line in _lines(document):
        show(line)
    has_error = any(finding["severity"] == "error" for finding in document["findings"])
    return Outcome(document, FOUND_WRONG if has_error else DONE)


def _lines(document: Mapping[str, Any]) -> Iterable[Any]:
    """The report in a screenful, the findings last."""
    from rich.markup import escape

    yield from map(escape, _row_lines(document))
    yield _signal_table(document)
    yield from map(escape, _place_lines(document["places"]))
    yield from map(escape, _propensity_lines(document["propensities"]))
    for finding in document["findings"]:
        colour = {"error": "red", "warning": "yellow"}.get(finding["severity"], "dim")
        text = " ".join(finding[part] for part in ("what", "evidence", "remedy"))
        yield f"[{colour}]{finding['severity']}[/{colour}] {escape(finding['title'])}: {escape(text)}"


def _row_lines(document: Mapping[str, Any]) -> Iterable[str]:
    rows = document["rows"]
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in rows["left_out"].items())
    yield (
        f"read {rows['read']:,} rows: {rows['used']:,} used, {rows['ignored']:,} ignored by the mapping, "
        f"{sum(rows['left_out'].values()):,} left out{f' ({left_out})' if left_out else ''}"
    )
    desirable = document["desirable"]
    of_them = "" if desirable is None else f", {desirable:,} desirable"
    confidence = document["mean_confidence"]
    mean = "" if confidence is None else f", mean confidence {confidence:.2f}"
    yield f"wrote {document['made']:,} {document['shape']}{of_them}{mean} to {document['output']}"
    for reason, count in document["dropped"].items():
        yield f"no record for {count:,}: {reason}"


def _signal_table(document: Mapping[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title="Signals", title_justify="left")
    for column in ("signal", "events", "right with probability", "rests on"):
        table.add_column(column, justify="right" if column == "events" else "left", overflow="fold")
    for kind, fates in document["events"].items():
        strength = document["signals"].get(kind)
        told = "; ".join(f"{count:,} {fate}" for fate, count in fates.items())
        table.add_row(kind, told, *_strength_cells(kind, strength))
    return table


def _strength_cells(kind: str, strength: Mapping[str, Any] | None) -> tuple[str, str]:
    if strength is None:
        return ("by rater", "rater history") if kind.startswith("thumbs") else ("", "")
    compared = f", {strength['compared']:,} compared" if strength["compared"] else ""
    return f"{strength['accuracy']:.2f}", f"{strength['rests_on']}{compared}"


def _place_lines(places: Mapping[str, Any]) -> Iterable[str]:
    if not places["shown"]:
        return
    yield f"clicks {places['clicks']:,} on {places['shown']:,} shown answers; {places['use']}: {places['reason']}"
    for estimate in (places["examination"], *places["other_estimates"]):
        factors = ", ".join(
            f"{row['position']}: {row['value']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
            for row in estimate["factors"][:10]
        )
        if factors:
            clicks = f"{estimate['clicks']:,} clicks"
            yield f"places seen, relative to the first, by {estimate['method']} ({clicks}): {factors}"


def _propensity_lines(propensities: Mapping[str, Any] | None) -> Iterable[str]:
    if propensities is None:
        return
    yield (
        f"propensities {propensities['least']:.3g} to {propensities['most']:.3g} on {propensities['logged']:,} of "
        f"{propensities['of']:,}; effective sample size {propensities['effective_sample_size']:,.0f}, "
        f"{propensities['clipped_share']:.1%} of the weights clipped"
    )
    rates = propensities["rates"]
    logged, weighted = (
        f"{rate['value']:.3%} ({rate['low']:.3%}-{rate['high']:.3%})"
        for rate in (rates["as_logged"], rates["self_normalised"])
    )
    yield f"click rate as logged {logged}; if a prompt's answers were shown equally often {weighted}"
