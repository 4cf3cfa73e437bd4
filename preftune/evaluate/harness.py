"""Tasks of lm-evaluation-harness as measures with n and interval; an extra, imported when it is asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from numbers import Real
from typing import Any, Final, NamedTuple

import numpy as np

from preftune.errors import PreftuneError
from preftune.evaluate.measures import Measure, mean, paired_change, share

INSTALL: Final = 'pip install "preftune[lm-eval]"'
_Values = dict[str, dict[str, float]]  # by metric, each document's value


def open_tasks(tasks: Sequence[str]) -> Any:
    """The harness's task manager, after it loaded ``tasks`` once, so that nothing is measured before they are there.

    A task is a name of the harness or the path of a YAML file. PreftuneError where the harness is not installed, does
    not know a task, or cannot get its data.
    """
    manager = _harness().manager(include_defaults=not all(map(_is_file, tasks)))  # reading these takes seconds
    for task in tasks:
        try:
            with _quiet():
                manager.load([task])
        except Exception as error:  # whatever a task's own code and data raise
            raise _unusable(task, error, manager) from error
    return manager


def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    *,
    limit: int | None,
    batch_size: int,
    seed: int,
    manager: Any = None,
    not_taken: dict[str, str] | None = None,
) -> dict[str, _Values]:
    """By task and metric the value of each document, for a loaded causal model of transformers or peft.

    ``not_taken`` gets the metrics that are no number of a document, such as a perplexity over all. PreftuneError
    where the harness is not installed or a task cannot be run.
    """
    harness = _harness()
    try:
        with _quiet():
            found = harness.evaluate(
                model=harness.wrapper(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
                tasks=list(tasks),
                limit=limit,
                log_samples=True,
                bootstrap_iters=0,
                task_manager=manager,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
    except Exception as error:  # whatever a task's own code and data raise
        raise _unusable(", ".join(tasks), error, manager) from error
    samples = (found or {}).get("samples", {})
    values = {task: _values(rows) for task, rows in samples.items()}
    if not_taken is not None:
        for task, rows in samples.items():
            taken = {name.partition(",")[0] for name in values[task]}
            for metric in sorted({metric for row in rows for metric in row.get("metrics", ())} - taken):
                not_taken[f"lm_eval/{task}/{metric}"] = "It is no number of a document, so it has no interval."
    return values


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


class _Harness(NamedTuple):
    """What is used of the package: its evaluation, its wrapper of a model, and its index of tasks."""

    evaluate: Any
    wrapper: Any
    manager: Any


def _harness() -> _Harness:
    try:
        from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = f"lm-evaluation-harness is not installed ({error})."
        raise PreftuneError(what, where="--lm-eval", mend=INSTALL) from error
    return _Harness(simple_evaluate, HFLM, TaskManager)


@contextmanager
def _quiet() -> Iterator[None]:
    """The harness tells of every default it takes, as warnings; and prints belong to the result alone."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logger.setLevel(before)


def _unusable(task: str, error: Exception, manager: Any) -> PreftuneError:
    known = list(getattr(manager, "all_tasks", ()))
    if task not in known and not _is_file(task) and (near := get_close_matches(task, known, n=3)):
        mend = f"Did you mean {' or '.join(near)}?"
    else:
        mend = (
            "`lm-eval ls tasks` lists the names, and the path of a task's YAML file is taken too; its data comes from "
            "the network, or from local files that its dataset_kwargs name."
        )
    return PreftuneError(f"{task} cannot be run ({_first_line(error)}).", where="--lm-eval", mend=mend)


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


def _is_file(task: str) -> bool:
    return task.endswith((".yaml", ".yml"))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
