"""``preftune audit``: what is wrong with preference data."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show


def audit(
    data: str,
    *,
    eval_data: str | None = None,
    tokenizer: str | None = None,
    max_length: int = 1024,
    only: list[str] | None = None,
    skip: list[str] | None = None,
    all_rows: Annotated[bool, Parameter(name="--all")] = False,
    model: str | None = None,
    sample: int | None = None,
    sample_file: Path | None = None,
    answers: Path | None = None,
    open_page: Annotated[bool, Parameter(name="--open")] = False,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    seed: int = 0,
    rejected: Annotated[Path | None, Parameter(help="File for the rows left out, with their reasons.")] = None,
    report: Path | None = None,
    strict: bool = False,
) -> Outcome:
    """What is wrong with preference data, row by row: a ranked list with the mend of each.

    Example:
      preftune audit pairs.jsonl --eval-data test.jsonl --tokenizer Qwen/Qwen3-0.6B --strict
      preftune audit pairs.jsonl --sample 50 --open

    Parameters
    ----------
    data: Pairs, labels, or comparisons with votes: JSONL, JSON, CSV, Parquet, a datasets folder, or a hub name.
    eval_data: Held-out rows, to look for prompts and answers that occur in both.
    tokenizer: Tokenizer by folder or hub name, to see what max_length cuts and how texts become tokens.
    max_length: Most tokens of prompt and answer together in training.
    only: Audits to make beside the basic one, of texts, near-duplicates, leakage, truncation, agreement and so on.
    skip: Audits to leave out.
    all_rows: Look at all rows' texts again; else at 20,000 drawn at random where there are more.
    model: Base model for a cross-fitted reward model in place of the fast one that looks for mislabelled pairs; slow.
    sample: Draw so many rows for a person to judge blind: 50 find a bad set, 200 tell 5% wrong labels from 15%.
    sample_file: File for these rows; by default beside where you are, named after the data.
    answers: What the person said of them: lines with id and choice, or the votes of the annotation page.
    open_page: Serve the sample on the annotation page, and report when it is closed (Ctrl-C).
    split: Split of a hub data set or datasets folder.
    eval_split: The same for eval_data.
    limit: Read at most so many rows.
    seed: Decides what is drawn; a sample's answers need the seed that drew it.
    report: HTML page of the audit, with examples of what was found.
    strict: Exit with 1 where an error is found.
    """
    from preftune.audit.everything import LOOKED_AT
    from preftune.audit.everything import audit as audit_everything
    from preftune.cli.audit_screen import audit_screen

    file = _sample_file(data, sample, sample_file)
    how: dict[str, Any] = {"split": split, "limit": limit, "seed": seed, "progress": progress}
    with ExitStack() as stack:
        found = audit_everything(
            data,
            eval_data=eval_data,
            eval_split=eval_split,
            tokenizer=None if tokenizer is None else _tokenizer(tokenizer),
            max_length=max_length,
            only=only,
            skip=skip or (),
            look_at=None if all_rows else LOOKED_AT,
            fit=None if model is None else _fit(model, seed),
            sample=sample,
            sample_file=file,
            answers=answers,
            on_rejected=None if rejected is None else _rejected_rows(rejected, stack),
            **how,
        )
    document = found.as_dict()
    if report is not None:  # before the screen, which a closed pipe may end
        _write_report(document, report, data)
    for line in audit_screen(document):
        show(line)
    if rejected is not None:
        notify(f"{sum(found.basics.rejected.values()):,} rows left out are listed in {rejected}")
    if file is not None and answers is None:
        document |= _judge(data, file, sample or 0, seed, how) if open_page else _tell_how(data, file, seed)
    return Outcome(document, FOUND_WRONG if strict and found.has_error else DONE)


def show_audit(
    data: str,
    *,
    eval_data: str | None = None,
    split: str = "train",
    limit: int | None = None,
    rejected: Path | None = None,
) -> dict[str, Any]:
    """The basic audit as a document, printed line by line."""
    from preftune.audit.basics import audit_basics
    from preftune.cli.summary import audit_lines
    from preftune.data.read import read_pairs

    reading = read_pairs(data, split=split, limit=limit)
    evaluation = read_pairs(eval_data, split="test").records if eval_data else None
    document = audit_basics(reading, evaluation).as_dict()
    if rejected is not None:
        reading.write_rejected(rejected)
        notify(f"{len(reading.rejected)} rows left out are listed in {rejected}")
    for line in audit_lines(document):
        show(line)
    return document


def _write_report(document: dict[str, Any], path: Path, data: str) -> None:
    from datetime import UTC, datetime

    from preftune.report.audit_page import write_audit_page

    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    notify(f"the page is {write_audit_page(document, path, source=data, made=made)}")


def _sample_file(data: str, sample: int | None, given: Path | None) -> Path | None:
    if sample is None:
        return None
    return given or Path(f"{Path(data).name.split('.')[0]}-sample-{sample}.jsonl")


def _tell_how(data: str, file: Path, seed: int) -> dict[str, Any]:
    votes = file.with_name(f"{file.stem}-answers.jsonl")
    show(f"the sample is in {file}; judge it, and hear what it says:")
    show(f"  preftune annotate {file} -o {votes} --annotators 1 --open")
    show(f"  preftune audit {data} --only person --answers {votes} --seed {seed}")
    return {"sample_file": str(file)}


def _judge(data: str, file: Path, sample: int, seed: int, how: dict[str, Any]) -> dict[str, Any]:
    """Serves the sample until the person is done, and tells what was said of it."""
    from preftune.audit.everything import audit as audit_everything
    from preftune.cli.audit_screen import finding_lines
    from preftune.collect.people import annotate

    votes = file.with_name(f"{file.stem}-answers.jsonl")
    annotate(file, votes, annotators=1, seed=seed, open_browser=True, tell=notify)
    document = audit_everything(data, only=["person"], answers=votes, **how).as_dict()
    for finding in document["findings"]:
        if finding["id"].startswith("wrong-labels"):
            for line in finding_lines(finding):
                show(line)
    return {"sample_file": str(file), "answers": str(votes), "person": document.get("person")}


def _rejected_rows(path: Path, stack: ExitStack) -> Callable[[Any], object]:
    """Writes each row left out as it is met, so that none has to be kept."""
    import json
    from dataclasses import asdict

    from preftune.errors import PreftuneError

    try:
        file = stack.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        what = f"The rows left out cannot be written: {error.strerror}."
        raise PreftuneError(what, where=str(path), mend="Give another path.") from error
    return lambda row: file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")


def _tokenizer(name: str) -> Any:
    from preftune.models.loading import load_tokenizer
    from preftune.models.settings import ModelConfig

    with progress(f"loading the tokenizer of {name}", None):
        return load_tokenizer(ModelConfig(model=name))


def _fit(model: str, seed: int) -> Any:
    from preftune.cli.reward_fit import fit_reward_model

    return fit_reward_model(model, seed)
