"""``preftune stress``: which data problem costs most on this task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show


def stress(
    data: str,
    *,
    model: str | None = None,
    only: list[str] | None = None,
    shares: list[float] | None = None,
    seeds: int | None = None,
    report: Path | None = None,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Which data problem costs most here: small models are trained on data spoilt in doses, and judged on rows that
    are not.

    Example:
      preftune stress pairs.jsonl --report stress.html
      preftune stress pairs.jsonl --only noise "less data" --shares 0.25 0.5

    Parameters
    ----------
    data: Preference pairs: a file, a folder or a hub name.
    model: Base model for a small reward model a training, in place of the fast built-in one; slow.
    only: Problems to try: noise, length bias, duplication, less data.
    shares: Shares of the rows to disturb; problems are compared at 0.25.
    seeds: Trainings of each kind, each with other held-out prompts; 10, or 3 with a model.
    report: HTML page with the curves.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    seed: Decides what is drawn.
    """
    from preftune.advise.stress import AXES, SEEDS
    from preftune.advise.stress import stress as measure

    fit, named = None, {}
    if model is not None:
        from preftune.cli.reward_fit import fit_reward_model

        fit, named = fit_reward_model(model, seed), {"model": model}
        shares = shares or [0.25]
    count = seeds or (SEEDS if model is None else 3)
    trainings = count * (1 + sum(len(shares or AXES[name].shares) for name in only or AXES if name in AXES))
    with progress("training on spoilt data", trainings) as bar:
        found = measure(
            data,
            fit=fit,
            axes=only,
            shares=shares,
            seeds=count,
            split=split,
            limit=limit,
            seed=seed,
            progress=bar.advance,
            **named,
        )
    document = found.as_dict()
    show(f"[bold]{found.headline}[/bold]\n{found.verdict}")
    show(_table(found))
    show(
        f"{found.pairs:,} pairs, about {found.held_out:,} held out a seed, {found.seeds} seeds; model: {found.model}. "
        "Brackets are 95% intervals over seeds."
    )
    if report is not None:
        from preftune.report.stress_page import write_stress_page

        notify(f"the page is {write_stress_page(document, report)}")
    return Outcome(document)


def _table(found: Any) -> Any:
    from rich.table import Table

    from preftune.advise.disturbances import AXES

    table = Table(title="Held-out accuracy", title_justify="left")
    for column in ("problem", "share of the rows", "accuracy", "cost, points"):
        table.add_column(column, justify="left" if column == "problem" else "right")
    whole = found.undisturbed
    table.add_row("none", "", f"{whole.value:.1%} ({whole.low:.1%} to {whole.high:.1%})", "")
    for name, curve in found.curves.items():
        for number, dose in enumerate(curve):
            accuracy, cost = dose.accuracy, dose.cost
            table.add_row(
                f"{name}: {AXES[name].what}" if number == 0 else "",
                f"{dose.share:.0%}",
                f"{accuracy.value:.1%} ({accuracy.low:.1%} to {accuracy.high:.1%})",
                f"{100 * cost.value:+.1f} ({100 * cost.low:+.1f} to {100 * cost.high:+.1f})",
            )
    return table
