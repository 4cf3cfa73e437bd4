"""What trainers print: verl's lines, OpenRLHF's status and bars, transformers' dictionaries.

Formats as of verl's ``concat_dict_to_str`` (verl/utils/logger/aggregate_logger.py), OpenRLHF's
``logger.info(f"... Global step {n}: {status}")`` (openrlhf/trainer/ppo_trainer.py) and the postfix of its bars
(dpo_trainer.py, rm_trainer.py), and the dictionaries that transformers' ``ProgressCallback`` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preftune.diagnose.readers.assemble import log_of_rows
from preftune.diagnose.readers.rows import split_runs
from preftune.diagnose.readers.text import plain_name, read_text
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf|NaN|Infinity)"
_NUMPY = re.compile(rf"np\.\w+\(({_NUMBER})\)")
_VERL = re.compile(r"(?:^|\s)step:(\d+) - (\S.*)")
_OPENRLHF = re.compile(r"Global step (\d+)[^:{]*: ?(\{.*\})")
_ENTRY = re.compile(rf"'([^']+)': '?(?:tensor\()?({_NUMBER})'?")
_DICTIONARY = re.compile(r"\{'[^{}]*\}")
_BAR = re.compile(rf"\| *(\d+)/(\d+) \[[^\]]*?((?:, ?[\w/]+={_NUMBER})+)\]")
_EPOCH = re.compile(r"epoch (\d+):")
_COUNT = re.compile(r"^\s*\d+%\|[^|]*\| *(\d+)/(\d+) \[")  # bars of loading and of mapping have a name before
_POSTFIX = re.compile(rf"([\w/]+)=({_NUMBER})")


def read_console(path: Path) -> list[RunLog]:
    """The runs of a console log; raises ``PreftuneError`` where no line is of a known format."""
    rows, tool = parse_console(read_text(path))
    if not rows:
        raise PreftuneError(
            "No line of it is one that verl, OpenRLHF or transformers prints.",
            where=str(path),
            mend="Give a file of metrics: JSONL, CSV, trainer_state.json, TensorBoard's or W&B's.",
        )
    return [log_of_rows(plain_name(path).stem, tool, one) for one in split_runs(rows)]


def parse_console(text: str) -> tuple[list[dict[str, Any]], str]:
    """Rows, each with its step, and the tool that printed them: the one whose lines are most."""
    lines = re.split(r"[\r\n]+", _NUMPY.sub(r"\1", _ANSI.sub("", text)))
    found = {
        "verl": list(_verl(lines)),
        "openrlhf": list(_openrlhf(lines)),
        "transformers": list(_dictionaries(lines)),
    }
    tool = max(found, key=lambda name: len(found[name]))
    if found[tool]:
        return found[tool], tool
    return list(_bars(lines)), "openrlhf"


def _verl(lines: list[str]) -> Iterator[dict[str, Any]]:
    """``(TaskRunner pid=7) step:3 - actor/entropy:0.41 - critic/score/mean:0.25``."""
    for line in lines:
        match = _VERL.search(line) if "step:" in line else None
        if match is None:
            continue
        entries = (part.rpartition(":") for part in match[2].split(" - "))
        row: dict[str, Any] = {name.strip(): value for name, colon, raw in entries if colon and (value := _number(raw))}
        if row:
            yield {"step": int(match[1]), **{name: float(value) for name, value in row.items()}}


def _openrlhf(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        match = _OPENRLHF.search(line) if "Global step" in line else None
        if match is not None:
            row = {name: float(value) for name, value in _ENTRY.findall(match[2])}
            if row:
                yield {"step": int(match[1]), **row}


def _dictionaries(lines: list[str]) -> Iterator[dict[str, Any]]:
    """``{'loss': 0.69, 'grad_norm': 1.2, 'epoch': 0.1}``: the step is what the bar before it has reached."""
    reached, total, printed, rows = 0, 0, 0, []
    for line in lines:
        if bar := _COUNT.search(line):
            count, of = int(bar[1]), int(bar[2])
            total = total or of  # the first is the training's; an evaluation's has another end
            if of == total:
                reached = max(reached, count) if count > 1 else count
        if "'epoch':" not in line:
            continue
        for match in _DICTIONARY.finditer(line):
            row = {name: float(value) for name, value in _ENTRY.findall(match[0])}
            if "epoch" in row:
                printed += 1
                rows.append((reached, printed, row))
    has_bars = len({at for at, _, _ in rows}) > len(rows) / 2
    for at, number, row in rows:
        yield {"step": at if has_bars else number, **row}


def _bars(lines: list[str]) -> Iterator[dict[str, Any]]:
    """``Train step of epoch 0:  12%|█| 12/100 [00:10<01:00, 1.2it/s, loss=0.69, acc=0.5]``."""
    for line in lines:
        match = _BAR.search(line) if "=" in line else None
        if match is None:
            continue
        said = _EPOCH.search(line)
        epoch, count, total = int(said[1]) if said else 0, int(match[1]), int(match[2])
        row = {name: float(value) for name, value in _POSTFIX.findall(match[3])}
        if row:
            yield {"step": epoch * total + count, **row}


def _number(raw: str) -> str | None:
    match = re.match(rf"\s*({_NUMBER})(?=$|[\s,\[(])", raw)
    return match[1] if match else None
