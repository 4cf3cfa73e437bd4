"""Results for people, in the terminal: what a run changed, measures, audits, answers side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

SHOWN_ANSWERS = 3
_LONGEST = 600  # characters of an answer in the terminal


def show_run(summary: Any, report: Path) -> RenderableType:
    """The last screen of a run: figures before and after, answers, where the model is and how to load it."""
    document = summary.evaluation
    before, after = document.get("before", {}), document.get("after", {})
    parts: list[RenderableType] = []
    if after:
        parts += [_headline(before, after, document.get("change", {})), _before_after(before, after)]
        parts += _answers(summary.folder)
    if document.get("reference"):
        parts.append(_reference_line(document["reference"]))
    parts.append(_where(summary, report))
    return Group(*parts)


def measures_table(title: str, measures: Mapping[str, Any]) -> RenderableType:
    """Measures with their intervals and n."""
    table = Table(title=escape(title), title_justify="left")
    for column in ("measure", "value", "95% interval", "n"):
        table.add_column(column, justify="left" if column == "measure" else "right")
    for measure in measures.values():
        data = measure if isinstance(measure, Mapping) else measure.as_dict()
        table.add_row(escape(data["title"]), _value(data), _interval(data), f"{data['n']:,}")
    return table


def answers_table(prompt: str, names: Sequence[str], answers: Sequence[str]) -> RenderableType:
    """One prompt and its answers beside each other."""
    table = Table(show_header=True, expand=True, padding=(0, 1))
    for name in names:
        table.add_column(escape(name), ratio=1, overflow="fold")
    table.add_row(*(escape(_shorten(answer)) for answer in answers))
    return Group(f"\n[bold]Prompt[/bold] {escape(_shorten(prompt))}", table)


def audit_lines(document: Mapping[str, Any]) -> Iterable[RenderableType]:
    """The audit in a few lines, the findings last."""
    rejected = document["rejected"]
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items())
    left_out = f", left out {sum(rejected.values()):,} ({reasons})" if rejected else ""
    yield f"read {document['read']:,} rows, usable {document['used']:,}{left_out}"
    yield (
        f"{document['distinct_prompts']:,} different prompts, {document['duplicates']:,} duplicates, "
        f"{document['contradictions']:,} contradictions, {document['identical']:,} with identical sides"
    )
    longer = document.get("longer_wins")
    if longer and longer.get("n"):
        won = f"{_value(longer)} of pairs (95% interval {_interval(longer)}, n = {longer['n']:,})"
        yield f"the longer answer won in {won}"
    lengths = ", ".join(f"{name} {part['median']:,.0f}" for name, part in document["lengths"].items() if part.get("n"))
    yield f"median characters: {lengths}"
    for finding in document["findings"]:
        colour = {"error": "red", "warning": "yellow"}.get(finding["severity"], "dim")
        rows = f" Rows: {', '.join(map(str, finding['rows'][:5]))}." if finding.get("rows") else ""
        yield (
            f"[{colour}]{finding['severity']}[/{colour}] {escape(finding['title'])}: "
            f"{escape(finding['what'])}{escape(rows)} {escape(finding['remedy'])}"
        )


def _headline(before: Mapping[str, Any], after: Mapping[str, Any], change: Mapping[str, Any]) -> RenderableType:
    """What became of the first measure that was compared with itself: an accuracy, or the held-out loss."""
    name = next((name for name in after if name in before and name in change), None)
    if name is None:
        return ""
    was, now, difference = before[name], after[name], change[name]
    verdict = _verdict(difference, higher_is_better=now["unit"] == "share" or name == "reward")
    text = f"{_told(name, was, now)}\nChange {_signed(difference)}: {verdict}."
    return Panel(text, title="What changed", title_align="left")


def _verdict(difference: Mapping[str, Any], *, higher_is_better: bool) -> str:
    if difference["low"] <= 0 <= difference["high"]:
        return "[yellow]no measurable change[/yellow]: the interval of the change holds zero"
    rose = difference["low"] > 0
    word = "[green]better[/green]" if rose is higher_is_better else "[red]worse[/red]"
    return f"{word}: the whole interval of the change is {'above' if rose else 'below'} zero"


def _told(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    after = f"[bold]{_value(now)}[/bold] (95% interval {_interval(now)})"
    if name != "preference_accuracy":
        return f"{escape(now['title'])}, n = {now['n']:,}: {after}; before training {_value(was)} ({_interval(was)})."
    start = (
        "before training 50%, even odds by construction: the model had no preference against itself"
        if was["low"] == was["high"]
        else f"before training {_value(was)} ({_interval(was)})"
    )
    return f"On {now['n']:,} held-out pairs the model prefers the answer people preferred in {after}; {start}."


def _signed(difference: Mapping[str, Any]) -> str:
    scale, unit = (100, " points") if difference["unit"] == "share" else (1, f" {difference['unit']}".rstrip())
    value, low, high = (scale * difference[key] for key in ("value", "low", "high"))
    shown = "{:+.1f}" if scale == 100 else "{:+.3g}"
    return f"{shown.format(value)}{unit} (95% interval {shown.format(low)} to {shown.format(high)})"


def _before_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> RenderableType:
    table = Table()
    for column in ("on held-out prompts", "before", "after", "95% interval after", "n"):
        table.add_column(column, justify="left" if column.startswith("on") else "right")
    for name, measure in after.items():
        start = _value(before[name]) if name in before else "-"
        table.add_row(escape(measure["title"]), start, _value(measure), _interval(measure), f"{measure['n']:,}")
    return table


def _answers(folder: Path) -> list[RenderableType]:
    path = folder / "samples.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    before = {row["prompt_id"]: row for row in rows if row["stage"] == "before"}
    after = [row for row in rows if row["stage"] == "after" and row["prompt_id"] in before]
    changed = [row for row in after if row["completion"] != before[row["prompt_id"]]["completion"]]
    shown = (changed + [row for row in after if row not in changed])[:SHOWN_ANSWERS]
    return [
        answers_table(row["prompt"], ["before", "after"], [before[row["prompt_id"]]["completion"], row["completion"]])
        for row in shown
    ]


def _reference_line(reference: Mapping[str, Any]) -> str:
    return (
        f"The reference ({reference['kind']}) was checked {reference['checks']} times and did not move: "
        f"{reference['at_start'][:12]}."
    )


def _where(summary: Any, report: Path) -> RenderableType:
    model = summary.folder / "model"
    kind = "SequenceClassification" if summary.evaluation.get("method") == "reward" else "CausalLM"
    is_adapter = (model / "adapter_config.json").is_file()
    family, package = ("AutoPeftModelFor", "peft") if is_adapter else ("AutoModelFor", "transformers")
    code = f'{family}{kind}.from_pretrained("{model}")  # from {package}'
    return Group(f"\nmodel   {model}", f"load    {escape(code)}", f"report  {report}")


def _value(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return "-"
    if measure["unit"] == "share":
        return f"{100 * measure['value']:.1f}%"
    return f"{measure['value']:.3g} {measure['unit']}".rstrip()


def _interval(measure: Mapping[str, Any]) -> str:
    low, high = measure["low"], measure["high"]
    if low is None or high is None or abs(low) == float("inf"):
        return "none"
    if measure["unit"] == "share":
        return f"{100 * low:.1f}% to {100 * high:.1f}%"
    return f"{low:.3g} to {high:.3g}"


def _shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " ..."
