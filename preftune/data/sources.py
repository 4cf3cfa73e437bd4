"""From a file, a folder or a hub name to its raw rows, each with the place where it stands."""

from __future__ import annotations

import csv
import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

from preftune.data.row_parts import RowProblem, row_from_cells, row_from_texts
from preftune.errors import PreftuneError

_BOM = b"\xef\xbb\xbf"
_LARGEST_CELL = 2**30  # characters; the csv module's own limit of 131,072 is less than one long dialogue
_BROKEN_ARCHIVE = (EOFError, gzip.BadGzipFile, zlib.error)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPLIT_NAME = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)
_ROW_COLUMNS = ("chosen", "rejected", "completion", "completions", "messages")  # any of them makes an object a row
_NOT_DATA = {"dataset_info.json", "dataset_infos.json", "config.json"}


@dataclass(frozen=True)
class RawRow:
    """One row as found: its place, its value, and what is wrong where it could not be read at all."""

    where: str
    value: object
    problem: RowProblem | None = None


def open_place(source: str | PathLike[str], split: str = "train") -> Iterator[RawRow]:
    """The rows of a file, a folder or a hub data set; ``split`` is used where there are splits.

    Raises PreftuneError where there is nothing to read; trouble inside a file is a RawRow with its problem.
    """
    name = str(source)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder_rows(path, split)
    if path.exists():
        return _file_rows(_checked(path), path.name)
    if _HUB_NAME.fullmatch(name) and _ending(path) is None and not path.parent.exists():
        return _hub_rows(name, split)
    raise _missing(name, path)


def line_files(source: object, split: str = "train") -> tuple[tuple[Path, str], ...]:
    """The files that a source's rows are read from, with their labels; none unless all are uncompressed JSON lines.

    Such files can be read from any line on, so several readers can share them.
    """
    if not isinstance(source, str | PathLike):
        return ()
    path = Path(source).expanduser()
    if path.is_dir() and not _is_saved(path):
        files = [(file, file.relative_to(path).as_posix()) for file in _files_of_split(_data_files(path), path, split)]
    else:
        files = [(_checked(path), path.name)] if path.is_file() else []
    return tuple(files) if all(_ending(file) in _LINE_ENDINGS for file, _ in files) else ()


def numbered_rows(rows: Iterable[object], label: str = "") -> Iterator[RawRow]:
    """The rows of anything that is not a file of lines, counted from 1."""
    return (RawRow(f"{label} row {number}".lstrip(), row) for number, row in enumerate(rows, 1))


def dataset_rows(dataset: Any, label: str = "") -> Iterator[RawRow]:
    """The rows of a dataset as Python values, whatever arrays its owner asked it for."""
    return numbered_rows(dataset.with_format(None), label)


def choose_split(splits: Any, split: str, where: str | None = None) -> Any:
    """One of a mapping of splits by name; PreftuneError that names them where it is not there."""
    if split in splits:
        return splits[split]
    raise PreftuneError(f'There is no split "{split}".', where=where, mend=f"It has: {', '.join(splits)}.")


def _checked(path: Path) -> Path:
    if _ending(path) is None:
        raise PreftuneError(
            f"Files ending in {path.suffix} are not read." if path.suffix else "The file's name has no ending.",
            where=str(path),
            mend=f"Known endings: {', '.join(_KNOWN_ENDINGS)}.",
        )
    if not path.stat().st_size:
        raise PreftuneError("The file is empty.", where=str(path), mend="Give a file with at least one row.")
    return path


def _ending(path: Path) -> str | None:
    name = path.name.lower()
    return next((ending for ending in _KNOWN_ENDINGS if name.endswith(ending)), None)


def _file_rows(path: Path, label: str) -> Iterator[RawRow]:
    """What cannot be read is a row with a problem, so that what is good before and after it is kept."""
    ending = _ending(path)
    assert ending is not None
    try:
        yield from _READERS[ending.removesuffix(".gz")](path, label)
    except OSError as error:
        reason = error.strerror or _first_line(error)
        mend = "Check the path and its permissions."
        raise PreftuneError(f"It cannot be read: {reason}.", where=str(path), mend=mend) from error


def _json_lines(path: Path, label: str) -> Iterator[RawRow]:
    number = 0
    try:
        with _open_bytes(path) as lines:
            for number, line in enumerate(lines, 1):
                row = line_row(line, number, label)
                if row is not None:
                    yield row
    except _BROKEN_ARCHIVE:
        yield _broken_archive(f"{label}:{number + 1}")


def line_row(line: bytes, number: int, label: str) -> RawRow | None:
    """The row in line ``number`` of a file of JSON lines; None where the line is blank."""
    content = line_content(line, number)
    return _json_line(content, f"{label}:{number}") if content else None


def line_content(line: bytes, number: int) -> bytes:
    """What line ``number`` of a file holds; nothing where it is blank."""
    content = line.removeprefix(_BOM) if number == 1 else line
    return content if content.strip() else b""


def _json_line(line: bytes, where: str) -> RawRow:
    try:
        return RawRow(where, json.loads(line.decode()))
    except UnicodeDecodeError as error:
        mend = f"Save the file as UTF-8; byte {error.start + 1} here is something else."
        return RawRow(where, line, RowProblem("not-utf-8", None, mend))
    except json.JSONDecodeError as error:
        line_number = f"line {error.lineno}, " if error.lineno > 1 else ""
        mend = f"Mend or delete it; it stops being JSON at {line_number}column {error.colno} ({error.msg})."
        return RawRow(where, line, RowProblem("broken-json", None, mend))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, nesting without end
        mend = f"Mend or delete it; its JSON cannot be read ({type(error).__name__})."
        return RawRow(where, line, RowProblem("broken-json", None, mend))


def _json_document(path: Path, label: str) -> Iterator[RawRow]:
    try:
        with _open_bytes(path) as file:
            content = file.read().removeprefix(_BOM)
    except _BROKEN_ARCHIVE:
        yield _broken_archive(label)
        return
    document = _json_line(content, label)
    if document.problem and _first_line_is_a_row(content):
        yield from _json_lines(path, label)  # many tools call JSON lines .json
        return
    if document.problem:
        yield document
        return
    rows = _rows_of_document(document.value)
    if rows is None:
        yield RawRow(label, document.value, RowProblem("not-a-table", None, _table_mend(document.value)))
        return
    yield from (RawRow(f"{label} row {number}", row) for number, row in enumerate(rows, 1))


def _first_line_is_a_row(content: bytes) -> bool:
    first, _, _ = content.lstrip().partition(b"\n")
    return isinstance(_json_line(first, "").value, dict)


def _rows_of_document(document: object) -> list[Any] | None:
    """The rows in a JSON document: a list, an object that holds one list of objects, columns, or one row."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    if _is_column_table(document):
        return [dict(zip(document, cells, strict=True)) for cells in zip(*document.values(), strict=True)]
    if any(name in document for name in _ROW_COLUMNS):
        return [document]
    lists = [value for name, value in document.items() if isinstance(value, list) and name != "prompt"]
    tables = [rows for rows in lists if any(isinstance(row, dict) for row in rows)]
    if not tables and (isinstance(document.get("text"), str) or "prompt" in document):
        return [document]
    return tables[0] if len(tables) == 1 else None


def _is_column_table(document: Mapping[str, Any]) -> bool:
    contents = [document[name] for name in (*_ROW_COLUMNS, "prompt", "text") if name in document]
    # A list of messages under "chosen" is one row; a column holds texts or lists.
    if not contents or any(not isinstance(column, list) or _holds_objects(column) for column in contents):
        return False
    return all(isinstance(column, list) and len(column) == len(contents[0]) for column in document.values())


def _holds_objects(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, dict) for value in values)


def _table_mend(document: object) -> str:
    keys = f"; it has the keys {', '.join(map(str, list(document)[:8]))}" if isinstance(document, dict) else ""
    return f"Make the file a list of objects, or an object with one such list{keys}."


def _comma_separated(path: Path, label: str) -> Iterator[RawRow]:
    return _cells(path, label, ",")


def _tab_separated(path: Path, label: str) -> Iterator[RawRow]:
    return _cells(path, label, "\t")


def _cells(path: Path, label: str, delimiter: str) -> Iterator[RawRow]:
    csv.field_size_limit(max(csv.field_size_limit(), _LARGEST_CELL))
    # Bytes that are not UTF-8 become lone surrogates here and are refused by the row that holds them.
    with _open_bytes(path) as file:
        lines = _counted_lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            where = f"{label}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                mend = f"Mend the quotes or delimiters there ({error}); what follows may have been swallowed."
                yield RawRow(where, None, RowProblem("broken-csv", None, mend))
                continue
            except _BROKEN_ARCHIVE:
                yield _broken_archive(where)
                return
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = cells
                continue
            yield _table_row(header, cells, where)


def _counted_lines(file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file):
        content = line.removeprefix(_BOM) if number == 0 else line
        yield content.decode("utf-8", errors="surrogateescape")


def _table_row(header: list[str], cells: list[str], where: str) -> RawRow:
    if len(cells) > len(header):
        mend = f"Quote the cell with the delimiter in it; {len(cells)} cells meet {len(header)} columns."
        return RawRow(where, cells, RowProblem("wrong-columns", None, mend))
    row = {name.strip(): cell for name, cell in zip(header, cells, strict=False)}
    spoilt = [name for name, cell in row.items() if not _is_encodable(cell)]
    if spoilt:
        return RawRow(where, row, RowProblem("not-utf-8", spoilt[0], "Save the file as UTF-8."))
    return RawRow(where, row_from_texts(row))


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet(path: Path, label: str) -> Iterator[RawRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            batches = table.iter_batches(batch_size=1024)
            for number, row in enumerate((row for batch in batches for row in _batch_rows(batch)), 1):
                yield _parquet_row(row, f"{label} row {number}")
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        mend = f"Write the file again; it is damaged here ({_first_line(error)})."
        yield RawRow(f"{label} row {number + 1}", None, RowProblem("broken-file", None, mend))


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch, None where one holds text that is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def _parquet_row(row: dict[str, Any] | None, where: str) -> RawRow:
    if row is None:
        return RawRow(where, None, RowProblem("not-utf-8", None, "Save the text as UTF-8."))
    return RawRow(where, row_from_cells(row))


def _open_bytes(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb"))


def _broken_archive(where: str) -> RawRow:
    mend = "Compress the file again; the archive is damaged or cut off here."
    return RawRow(where, None, RowProblem("broken-file", None, mend))


def _folder_rows(folder: Path, split: str) -> Iterator[RawRow]:
    if _is_saved(folder):
        return _saved_rows(folder, split)
    files = _files_of_split(_data_files(folder), folder, split)
    return (row for path in files for row in _file_rows(path, path.relative_to(folder).as_posix()))


def _is_saved(folder: Path) -> bool:
    """True for a folder that ``save_to_disk`` wrote."""
    return any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))


def _data_files(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _NOT_DATA]
    data = [path for path in found if _ending(path) and path.stat().st_size and not _is_hidden(path, folder)]
    if data:
        return data
    mend = f"Known endings: {', '.join(_KNOWN_ENDINGS)}."
    raise PreftuneError("The folder holds no data.", where=str(folder), mend=mend)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _files_of_split(files: list[Path], folder: Path, split: str) -> list[Path]:
    """The files named after the split, where files are named after splits; else all of them."""
    named = {path: match[0].lower() for path in files if (match := _SPLIT_NAME.match(path.name))}
    if not named:
        return files
    chosen = [path for path in files if path.name.lower().startswith(split.lower())]
    if chosen:
        return chosen
    present = ", ".join(sorted(set(named.values())))
    raise PreftuneError(f'There is no split "{split}".', where=str(folder), mend=f"The folder has: {present}.")


def _saved_rows(folder: Path, split: str) -> Iterator[RawRow]:
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises many kinds for a damaged folder
        what = f"The saved data set cannot be opened: {_first_line(error)}"
        raise PreftuneError(what, where=str(folder), mend="Save it again with save_to_disk.") from error
    chosen = choose_split(saved, split, str(folder)) if isinstance(saved, dict) else saved
    return dataset_rows(chosen, folder.name)


def _hub_rows(name: str, split: str) -> Iterator[RawRow]:
    import datasets

    try:
        loaded: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, permission, name, split: each its own kind in the library
        what = f"There is no such file, and no data set of this name can be loaded: {_first_line(error)}"
        mend = "Check the name, the split and the network, or give a file."
        raise PreftuneError(what, where=name, mend=mend) from error
    return dataset_rows(loaded, name)


def _missing(source: str, path: Path) -> PreftuneError:
    if not path.parent.is_dir():
        mend = f"The folder {path.parent} does not exist either; check the path."
        return PreftuneError("There is no such file or folder.", where=source, mend=mend)
    present = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    near = difflib.get_close_matches(path.name, present, n=3, cutoff=0.5) or present[:3]
    mend = f"Near it: {', '.join(near)}." if near else f"The folder {path.parent} is empty."
    return PreftuneError("There is no such file or folder.", where=source, mend=mend)


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


_READERS: dict[str, Callable[[Path, str], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_document,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".parquet": _parquet,
}
_LINE_ENDINGS = (".jsonl", ".ndjson")
_KNOWN_ENDINGS = (*_READERS, ".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz")
