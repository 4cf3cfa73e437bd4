"""Evaluations and comparisons in the terminal: figures first, and the verdict where the eye ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from preftune.cli.screen import notify, show
from preftune.cli.summary import answers_table, measures_table

_WORTH_A_LINE: Final = ("reward", "mean_length", "retention_loss", "ranking_accuracy", "repetition", "distinct_2")


def show_evaluation(found: Any, document: Mapping[str, Any]) -> None:
    """Measures of each model, what changed from the start, who wins, the frontier, best of n, the gate, the verdict."""
    from preftune.report.eval_verdict import eval_verdict, short_names, wins_of

    names = short_names(document["models"])
    for one in found.models:
        place = "" if one.role in ("start", "prompted") or names[one.name] == one.name else f" ({one.name})"
        show(measures_table(f"{names[one.name]}{place}", one.measures))
    for one in found.models:
        changes = {name: one.changes[name] for name in _WORTH_A_LINE if name in one.changes}
        if changes and one.role == "model":
            show(measures_table(f"{names[one.name]} against its start, on the same items", changes))
    for name, difference in found.differences.items():
        first = next(one for one in found.models if one.role == "model")
        show(measures_table(f"{names[name]} against {names[first.name]}", {"difference": difference}))
    _show_wins(wins_of(document, names))
    if found.frontier is not None:
        _show_frontier(found.frontier)
    if found.best_of is not None:
        _show_best_of(found.best_of)
    if found.human is not None:
        show(measures_table("Blind check by a person", found.human.measures))
    _show_not_taken(found.not_taken)
    if found.gate:
        _show_gate(found.gate)
    verdict = eval_verdict(document)
    colour = "[red]" if verdict.is_alarm else ""
    show(f"\n[bold]{colour}{escape(verdict.headline)}.[/]")
    for sentence in verdict.sentences:
        show(escape(sentence))


def show_comparison(comparison: Mapping[str, Any]) -> None:
    """Measures of both models, their answers, who wins, and what could not be used."""
    from preftune.report.eval_verdict import short_names, who_won
    from preftune.report.measures import read_measure

    short = short_names(comparison["models"])
    names = [short[one["name"]] for one in comparison["models"]]
    for name, measures in zip(names, comparison["measures"], strict=True):
        if measures:
            show(measures_table(name, measures))
    if comparison["differences"]:
        show(measures_table(f"{names[1]} minus {names[0]}, on the same items", comparison["differences"]))
    for answer in comparison["answers"]:
        said = [text if text is not None else "(not asked)" for text in answer["completions"]]
        show(answers_table(answer["prompt"], names, said))
    for one in comparison["models"]:
        for key, noun in (("left_out", "pairs"), ("unasked", "prompts")):
            if one[key]:
                why = "no room within max_length, or refused by the chat template"
                notify(f"{one['name']}: {one[key]:,} {noun} left out ({why})")
    _show_not_taken(comparison["not_taken"])
    win = comparison["win_rate"]
    if win is not None and win["measures"]:
        show(measures_table(f"{names[1]} against {names[0]}", win["measures"]))
        rate = read_measure("win_rate", win["measures"]["win_rate"])
        assert rate is not None
        show(f"[bold]{escape(who_won(names[1], names[0], rate))}.[/bold]\n{escape(win['sentence'])}")


def _show_wins(wins: Sequence[Any]) -> None:
    if not wins:
        return
    table = _table("Who wins", "comparison", "win rate", "95% interval", "equal lengths", "ties", "n")
    for win in wins:
        rate = win.rate
        if rate is None:
            table.add_row(escape(f"{win.model} against {win.against}"), "none", "", "", "", "0")
            continue
        interval = f"{100 * rate.low:.1f}% to {100 * rate.high:.1f}%"
        even = "-" if win.controlled is None else f"{100 * win.controlled.value:.1f}%"
        ties = "-" if win.ties is None else f"{100 * win.ties.value:.1f}%"
        name = escape(f"{win.model} against {win.against}")
        table.add_row(name, f"{100 * rate.value:.1f}%", interval, even, ties, f"{rate.n:,}")
    show(table)
    for remark in dict.fromkeys(win.remark for win in wins):
        show(f"  {escape(remark)}")


def _show_not_taken(not_taken: Mapping[str, str]) -> None:
    """Each reason once, with all that it kept from being taken."""
    reasons: dict[str, list[str]] = {}
    for name, why in not_taken.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        notify(f"{', '.join(names)}: not taken. {why}")


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
