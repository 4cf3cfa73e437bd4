"""``preftune doctor``: what is wrong with training runs, ours and other tools'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preftune.cli.output import BAD_INPUT, DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, show


def doctor(
    *runs: Path,
    output: Path | None = None,
    only: list[str] | None = None,
    strict: bool = False,
) -> Outcome:
    """What is wrong with a training run: ours, or the logs of TRL, TensorBoard, W&B, verl, OpenRLHF.

    The verdict comes first, then each finding with its steps, its figures, how sure it is and what helps, then what
    cannot be told. Exit code 1 where an error or a warning is found, 0 where none is, 2 where nothing can be told.

    Example:
      preftune doctor out
      preftune doctor trl-output/ wandb/run-20261121_101500-abc123 verl.log

    Parameters
    ----------
    runs: Folders of runs, or log files; a folder may hold several runs.
    output: File for the findings as JSON; into a run's own folder findings.json is written in any case.
    only: Findings to look for, by id (D13) or part of the name.
    strict: Exit with 1 for a hint too.
    """
    from preftune.cli.doctor_screen import doctor_screen
    from preftune.errors import PreftuneError

    if not runs:
        raise PreftuneError("No run is given.", mend="Give a run's folder or a log file: preftune doctor out")
    documents = [document for run in runs for document in _documents(run, only)]
    for number, document in enumerate(documents):
        if number:
            show("")
        for line in doctor_screen(document, is_one=len(documents) == 1):
            show(line)
    whole = documents[0] if len(documents) == 1 else {"runs": documents}
    if output is not None:
        _write(output, whole)
    return Outcome(whole, max(_exit_code(document, strict) for document in documents))


def _documents(path: Path, only: list[str] | None) -> list[dict[str, Any]]:
    from preftune.diagnose.doctor import diagnose
    from preftune.diagnose.readers.find import read_log
    from preftune.diagnose.readers.own_run import is_own_run
    from preftune.diagnose.record import findings_document, write_findings
    from preftune.errors import PreftuneError

    logs = read_log(path)
    documents = []
    for log in logs:
        document = {"path": str(path), **findings_document(log, diagnose(log))}
        if only:
            document = _restricted(document, only)
        elif len(logs) == 1 and is_own_run(path):
            try:
                write_findings(path, {key: value for key, value in document.items() if key != "path"})
            except PreftuneError as error:  # a run that may only be read can be looked at all the same
                notify(f"findings.json was not written: {error}")
        documents.append(document)
    return documents


def _restricted(document: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """The document with what was asked for; PreftuneError where nothing is called so."""
    from preftune.errors import PreftuneError

    def wanted(*told: Any) -> bool:
        return any(one.lower() in str(text).lower() for one in only for text in told)

    found = [one for one in document["findings"] if wanted(one["id"], one["title"])]
    unclear = [one for one in document["cannot_tell"] if wanted(one["id"], one["name"])]
    checked = [one for one in document["checked"] if wanted(one)]
    if not (found or unclear or checked):
        raise PreftuneError(
            f"No detector is called {', '.join(only)}.", where="--only", mend="docs/doctor.md lists them."
        )
    return {**document, "findings": found, "cannot_tell": unclear, "checked": checked}


def _exit_code(document: dict[str, Any], strict: bool) -> int:
    grave = ("error", "warning", "hint") if strict else ("error", "warning")
    if any(one["severity"] in grave for one in document["findings"]):
        return FOUND_WRONG
    return DONE if document["checked"] else BAD_INPUT


def _write(path: Path, document: dict[str, Any]) -> None:
    from preftune.durable import explained_errors, write_json

    with explained_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    notify(f"the findings are in {path}")
