"""Tasks of lm-evaluation-harness as measures with n and interval; an extra, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final

import numpy as np

from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure, mean, paired_change, share

INSTALL: Final = 'pip install "preftune[lm-eval]"'
_Values = dict[str, dict[str, float]]  # by metric, each document's value


def require_harness() -> None:
    """PreftuneError with the line that installs it, where it is not there."""
    _harness()


def run_tasks(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None, batch_size: int, seed: int
) -> dict[str, _Values]:
    """By task and metric the value of each document, for a loaded causal model of transformers or peft.

    PreftuneError where the harness is not installed, does not know a task, or cannot get its data.
    """
    harness, wrapper = _harness()
    try:
        found = harness.simple_evaluate(
            model=wrapper(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            tasks=list(tasks),
            limit=limit,
            log_samples=True,
            bootstrap_iters=0,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError, OSError, ConnectionError) as error:
        raise PreftuneError(
            f"The tasks {', '.join(tasks)} cannot be run ({_first_line(error)}).",
            where="--lm-eval",
            mend="`lm-eval ls tasks` lists the names; a task's data needs the network once.",
        ) from error
    return {task: _values(rows) for task, rows in (found or {}).get("samples", {}).items()}


def task_measures(found: Mapping[str, _Values]) -> dict[str, Measure]:
    """The mean of each metric over a task's documents."""
    return {
        f"lm_eval/{task}/{metric}": _measure(f"{task}: {metric}", list(values.values()))
        for task, metrics in found.items()
        for metric, values in metrics.items()
    }


def task_changes(before: Mapping[str, _Values], after: Mapping[str, _Values]) -> dict[str, Measure]:
    """After minus before on the same documents."""
    changes = {}
    for task, metrics in after.items():
        for metric, values in metrics.items():
            was = before.get(task, {}).get(metric, {})
            shared = [name for name in values if name in was]
            if shared:
                unit = "share" if _are_shares(values.values()) else ""
                changes[f"lm_eval/{task}/{metric}"] = paired_change(
                    [was[name] for name in shared],
                    [values[name] for name in shared],
                    unit,
                    f"Change of {task}: {metric}",
                )
    return changes


def _harness() -> tuple[Any, Any]:
    try:
        import lm_eval  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = f"lm-evaluation-harness is not installed ({error})."
        raise PreftuneError(what, where="--lm-eval", mend=INSTALL) from error
    return lm_eval, HFLM


def _values(rows: Sequence[Mapping[str, Any]]) -> _Values:
    """Each metric of a task's documents, those that are one number a document."""
    values: _Values = {}
    for row in rows:
        taken = row.get("filter")
        for metric in row.get("metrics", ()):
            value = row.get(metric)
            if isinstance(value, Real | np.bool_) and np.isfinite(float(value)):
                name = metric if taken in (None, "none") else f"{metric},{taken}"
                values.setdefault(name, {})[str(row.get("doc_id"))] = float(value)
    return values


def _measure(title: str, values: Sequence[float]) -> Measure:
    what = "Mean over the task's documents, by lm-evaluation-harness."
    if _are_shares(values):
        return share(float(np.sum(values)), len(values), title, what)
    return mean(values, "", title, what)


def _are_shares(values: Any) -> bool:
    return set(values) <= {0.0, 1.0}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
