"""An evaluation in the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from preftune.cli.screen import notify, show
from preftune.cli.summary import measures_table

_WORTH_A_LINE = ("reward", "mean_length", "retention_loss", "ranking_accuracy", "repetition", "distinct_2")


def show_evaluation(found: Any) -> None:
    """Measures of each model, what changed from the start, who wins, the frontier, best of n, the gate."""
    for one in found.models:
        show(measures_table(one.name if one.role == "model" else f"{one.name} ({one.role})", one.measures))
    for one in found.models:
        changes = {name: one.changes[name] for name in _WORTH_A_LINE if name in one.changes}
        if changes and one.role == "model":
            show(measures_table(f"{one.name} against its start, on the same items", changes))
    for name, difference in found.differences.items():
        first = next(one for one in found.models if one.role == "model")
        show(measures_table(f"{name} against {first.name}", {"difference": difference}))
    _show_wins(found)
    if found.frontier is not None:
        _show_frontier(found.frontier)
    if found.best_of is not None:
        _show_best_of(found.best_of)
    if found.human is not None:
        show(measures_table("Blind check by a person", found.human.measures))
        show(escape(found.human.sentence))
    for name, why in found.not_taken.items():
        notify(f"{name} was not taken: {why}")
    if found.gate:
        _show_gate(found.gate)


def _show_wins(found: Any) -> None:
    for subject, opponent, _, result in found.matches:
        show(measures_table(f"{subject} against {opponent}", result.measures))
        show(f"  {escape(result.size.sentence())}")
        if result.missing:
            missing = ", ".join(f"{reason} {count:,}" for reason, count in result.missing.items())
            show(f"  without a verdict: {escape(missing)}")


def _show_frontier(frontier: Any) -> None:
    table = _table("Reward and KL of the checkpoints", "checkpoint", "reward", "95% interval", "KL, nats", "n")
    for one in frontier.points:
        name = f"[bold]{escape(one.name)}[/bold], best" if one.is_best else escape(one.name)
        interval = f"{one.reward.low:.3g} to {one.reward.high:.3g}"
        table.add_row(name, f"{one.reward.value:.3g}", interval, f"{one.kl.value:.3g}", f"{one.reward.n:,}")
    show(table)
    show(escape(frontier.sentence()))


def _show_best_of(curve: Any) -> None:
    table = _table("The best of n answers of the start", "n", "reward", "95% interval", "KL at most, nats")
    for one in curve.points:
        interval = f"{one.reward.low:.3g} to {one.reward.high:.3g}"
        table.add_row(str(one.n), f"{one.reward.value:.3g}", interval, f"{one.kl:.2f}")
    show(table)
    show(escape(curve.sentence))


def _show_gate(gate: Any) -> None:
    broken = sum(not one.is_kept for one in gate)
    show(f"\ngate: {len(gate) - broken} of {len(gate)} promises kept")
    for one in gate:
        mark = "[green]kept[/green]" if one.is_kept else "[red]broken[/red]"
        show(f"  {mark} {escape(one.promise.sentence())}: {escape(one.why)}")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
