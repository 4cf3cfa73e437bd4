"""Whether the data and models that a stage names are there, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from preftune.data.sources import open_place
from preftune.errors import PreftuneError
from preftune.methods.settings import RunConfig
from preftune.models.loading import resolve_source

DATA_SETTINGS = ("data", "eval_data")
_DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz")


def check_places(config: RunConfig, uses: Mapping[str, str], place: str) -> None:
    """Raises where data or a model of the config is not there; hub names are left to the run."""
    for field in DATA_SETTINGS:
        source = getattr(config, field)
        if source and not is_remote(source):
            with _told(field, place):
                open_place(source)
    for field in ("model", "ref_model", "reward_model", "value_model"):
        source = getattr(config, field, None)
        if isinstance(source, str) and source and source not in uses:
            with _told(field, place):
                _require_model(source)


def is_remote(data: str) -> bool:
    """True for what can only be the name of a hub data set."""
    path = Path(data).expanduser()
    return not path.exists() and not path.parent.exists() and not path.name.lower().endswith(_DATA_ENDINGS)


def _require_model(source: str) -> None:
    if source.endswith(".gguf") and Path(source).expanduser().is_file():
        return  # resolving it would convert it
    resolve_source(source)


@contextmanager
def _told(field: str, place: str) -> Iterator[None]:
    """Names the setting and its place in an error about what it names."""
    try:
        yield
    except PreftuneError as error:
        what = f"{field} {error.where}: {error.what}"
        raise PreftuneError(what, where=place, mend=error.mend) from error
