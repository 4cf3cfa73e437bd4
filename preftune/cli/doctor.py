"""``preftune doctor``: what is wrong with training runs, ours and other tools'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.cli.output import BAD_INPUT, DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, show, tell_error

if TYPE_CHECKING:
    from preftune.diagnose.series import RunLog
    from preftune.errors import PreftuneError


def doctor(
    *runs: Path,
    output: Path | None = None,
    only: list[str] | None = None,
    strict: bool = False,
) -> Outcome:
    """What is wrong with a training run: ours, or the logs of TRL, TensorBoard, W&B, verl, OpenRLHF.

    The verdict comes first, then each finding with its steps, its figures, how sure it is and what helps, then what
    cannot be told. Exit code 1 where an error or a warning is found, 0 where none is, 2 where nothing can be told of
    one of the runs.
    What `preftune audit --json` and `preftune make judge --json` have printed can be named with a run, or alone.

    Example:
      preftune doctor out
      preftune doctor out audit.json judge.json
      preftune doctor trl-output/ wandb/run-20261121_101500-abc123 verl.log

    Parameters
    ----------
    runs: Folders of runs, log files, or audits; a folder may hold several runs.
    output: File for the findings as JSON; into a run's own folder findings.json is written in any case.
    only: Findings to look for, by id (D13) or part of the name.
    strict: Exit with 1 for a hint too.
    """
    from preftune.cli.doctor_screen import doctor_screen
    from preftune.errors import PreftuneError

    if not runs:
        raise PreftuneError("No run is given.", mend="Give a run's folder or a log file: preftune doctor out")
    read, problems = _read(runs)
    if not read:
        raise problems[0]
    documents = _documents(read, only)
    for number, document in enumerate(documents):
        if number:
            show("")
        for line in doctor_screen(document, is_one=len(documents) == 1):
            show(line)
    whole = documents[0] if len(documents) == 1 and not problems else {"runs": documents}
    if problems:
        whole = {**whole, "problems": [str(problem) for problem in problems]}
        for problem in problems:
            tell_error(str(problem))
    if output is not None:
        _write(output, whole)
    codes = {_exit_code(document, strict) for document in documents} | ({BAD_INPUT} if problems else set())
    return Outcome(whole, FOUND_WRONG if FOUND_WRONG in codes else max(codes))


def _read(paths: Sequence[Path]) -> tuple[list[tuple[Path, list[RunLog]]], list[PreftuneError]]:
    """The runs at each path, and what is wrong with the paths that cannot be read."""
    from preftune.diagnose.readers.find import read_log
    from preftune.errors import PreftuneError

    read, problems = [], []
    for path in dict.fromkeys(paths):
        try:
            read.append((path, read_log(path)))
        except PreftuneError as error:
            problems.append(error)
    return read, problems


def _documents(read: Sequence[tuple[Path, list[RunLog]]], only: list[str] | None) -> list[dict[str, Any]]:
    """The findings of every run; audits that are named beside runs are taken as theirs."""
    from preftune.diagnose.doctor import diagnose
    from preftune.diagnose.record import findings_document

    beside = [logs[0] for path, logs in read if path.is_file() and not logs[0].series]
    runs = [(path, [log for log in logs if not any(log is one for one in beside)]) for path, logs in read]
    if any(logs for _, logs in runs):
        runs = [(path, [_with(log, beside) for log in logs]) for path, logs in runs]
    else:
        runs = read
    documents: list[dict[str, Any]] = []
    for path, logs in runs:
        for log in logs:
            document = {"path": str(path), **findings_document(log, diagnose(log))}
            if only:
                document = _restricted(document, only)
            elif len(logs) == 1:
                _keep(path, document)
            documents.append(document)
    return documents


def _with(log: RunLog, beside: Sequence[RunLog]) -> RunLog:
    """The run with the documents that were named with it."""
    from dataclasses import replace

    from preftune.errors import PreftuneError

    if len({one.tool for one in beside}) < len(beside):
        names = " and ".join(one.name for one in beside)
        raise PreftuneError(f"Several audits of a kind are named: {names}.", mend="Name one of data and one of judges.")
    notes = [f"{one.name} is taken for an audit of what this run was trained on." for one in beside]
    documents = {name: document for one in beside for name, document in one.documents.items()}
    return replace(log, documents={**log.documents, **documents}, notes=[*log.notes, *notes])


def _keep(path: Path, document: dict[str, Any]) -> None:
    """Writes findings.json into a run's own folder; one that may only be read can be looked at all the same."""
    from preftune.diagnose.readers.own_run import is_own_run
    from preftune.diagnose.record import write_findings
    from preftune.errors import PreftuneError

    if not is_own_run(path):
        return
    try:
        write_findings(path, {key: value for key, value in document.items() if key != "path"})
    except PreftuneError as error:
        notify(f"findings.json was not written: {error}")


def _restricted(document: dict[str, Any], only: list[str]) -> dict[str, Any]:
    """The document with what was asked for; PreftuneError where nothing is called so."""
    from preftune.diagnose.detectors import DETECTORS
    from preftune.diagnose.telling import verdict_of
    from preftune.errors import PreftuneError

    def wanted(*told: Any) -> bool:
        return any(one.lower() in str(text).lower() for one in only for text in told)

    meant = {one.id for one in DETECTORS if wanted(one.id, one.name)}
    found = [one for one in document["findings"] if one["id"] in meant or wanted(one["title"])]
    if not meant and not found:
        raise PreftuneError(
            f"No detector is called {', '.join(only)}.", where="--only", mend="docs/doctor.md lists them."
        )
    unclear = [one for one in document["cannot_tell"] if one["id"] in meant]
    checked = [one for one in document["checked"] if one in meant or any(one == finding["id"] for finding in found)]
    verdict = verdict_of([(one["severity"], one["title"]) for one in found], len(checked), len(unclear))
    if not (unclear or checked):
        verdict = f"Nothing was looked for: {', '.join(sorted(meant))} is not meant for this kind of run."
    return {**document, "verdict": verdict, "findings": found, "cannot_tell": unclear, "checked": checked}


def _exit_code(document: dict[str, Any], strict: bool) -> int:
    """Of a log without a single finite value nothing but that can be told, so it is bad input, whatever is found."""
    from preftune.diagnose.readers.assemble import NOTHING_FINITE

    if NOTHING_FINITE in document["notes"]:
        return BAD_INPUT
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
