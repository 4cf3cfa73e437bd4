"""People choose: a web page that shows two answers side by side, and the votes as comparisons."""

from __future__ import annotations

import getpass
import socket
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preftune.audit.person_sample import Answer
from preftune.collect.people_desk import Desk, Rules
from preftune.collect.people_export import Exported, export_votes
from preftune.collect.people_figures import Figures, figures_of
from preftune.collect.people_guard import Keys, is_local, open_keys
from preftune.collect.people_items import Items, read_gold, read_items
from preftune.collect.people_store import Store, open_store, reading, stored_answers
from preftune.collect.people_texts import Rubric
from preftune.data.records import Comparison, Pair
from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Tell = Callable[[str], object]

_EXTRA = 'pip install "preftune[annotate]"'
_LONGEST_RUBRIC = 200_000  # characters


@dataclass(frozen=True)
class Annotation:
    """What is there when the page is closed: the file of votes, its size, and the figures of all."""

    output: Path
    exported: Exported
    figures: Figures


def annotate(
    data: object,
    output: str | PathLike[str],
    *,
    annotators: int = 3,
    host: str = "127.0.0.1",
    port: int = 8765,
    seed: int = 0,
    shuffle: bool = True,
    rubric: str | PathLike[str] | None = None,
    gold: object | None = None,
    gold_every: int = 10,
    blind: bool = True,
    split: str = "train",
    limit: int | None = None,
    open_browser: bool = False,
    tell: Tell = print,
) -> Annotation:
    """Serves the page until it is stopped (Ctrl-C), and writes the votes to ``output`` as comparisons.

    ``data`` is anything that pairs or comparisons are read from; labels are not shown. Each item gets the votes of
    ``annotators`` different people. Votes are committed at once to ``output`` with the ending .sqlite, from which
    the same call goes on after any end; ``output`` itself is written anew every few seconds. ``gold`` items, whose
    answer is known, are mixed in, one in ``gold_every``. Without ``blind`` the page tells after each answer what
    the data or gold says. Where ``host`` is not this machine's own, taking part needs the link that ``tell`` is told.

    Raises PreftuneError where nothing can be shown, the port is taken, or another server has the same file open.
    """
    rules = Rules(people_per_item=annotators, shuffle=shuffle, blind=blind, gold_every=gold_every)
    _check(rules)
    work = _Work(_output(output), rules, seed=seed, rubric=_read_rubric(rubric), tell=tell)
    read = partial(read_items, data, split=split, limit=limit)
    return _serve(work, read, gold, host, port, open_browser=open_browser)


def judge_sample(
    records: Iterable[Pair | Comparison],
    answers_path: str | PathLike[str],
    open_browser: bool = True,
    tell: Tell = print,
) -> tuple[Answer, ...]:
    """One person's answers on a few records whose labels are not shown.

    "first" is a comparison's ``response_1``, and of a pair its chosen side. The page ends when the person says so or
    by Ctrl-C; what is answered by then is given, and the same path goes on from there.
    """
    records = list(records)
    rules = Rules(people_per_item=1)
    work = _Work(_output(answers_path), rules, seed=0, person=_own_name(), tell=tell)
    _serve(work, partial(read_items, records), None, "127.0.0.1", 0, open_browser=open_browser)
    return tuple(_answers(work.store_path, {record.id for record in records if isinstance(record, Pair)}))


@dataclass(frozen=True)
class _Work:
    """What is asked of whom and where it goes."""

    output: Path
    rules: Rules
    seed: int
    rubric: Rubric | None = None
    person: str | None = None
    tell: Tell = print

    @property
    def store_path(self) -> Path:
        return self.output.with_suffix(".sqlite")


def _serve(
    work: _Work, read: Callable[..., Items], gold: object | None, host: str, port: int, *, open_browser: bool
) -> Annotation:
    _require_packages()
    with closing(_bound(host, port)) as listener:
        address = _address(host, listener.getsockname()[1])
        with open_store(work.store_path, seed=work.seed, served_at=f"at {address}") as store:
            _take_in(store, read(seed=store.seed), read_gold(gold) if gold is not None else Items((), ()), work)
            keys = open_keys(work.output.with_suffix(".key"))
            desk = Desk(store, work.rules)
            figures = partial(figures_of, store.path, people_per_item=work.rules.people_per_item)
            export = partial(export_votes, store.path, work.output, work.rubric and work.rubric.version)
            server = _server(desk, keys, work, is_local(host), export, lambda: figures(names=desk.names))
            link = _tell_links(address, keys, work, local=is_local(host))
            if open_browser:
                webbrowser.open(link)  # the socket listens already; the browser waits until it is served
            with suppress(KeyboardInterrupt):  # which the server raises again after it has ended in good order
                server.run(sockets=[listener])
            return Annotation(work.output, export(), figures(names=desk.names))


def _take_in(store: Store, items: Items, gold: Items, work: _Work) -> None:
    for note in (*items.notes, *gold.notes):
        work.tell(note)
    gone = store.take_in([*items.items, *gold.items])
    if gone:
        work.tell(f"{gone:,} items with answers are not in this data; they stay in {store.path.name} and in the votes.")
    if work.rubric:
        store.put_setting(f"rubric {work.rubric.version}", work.rubric.text)
    if store.seed != work.seed:
        work.tell(f"The seed is {store.seed}, with which {store.path.name} was begun.")


def _server(
    desk: Desk,
    keys: Keys,
    work: _Work,
    local: bool,
    export: Callable[[], Exported],
    figures: Callable[[], Figures],
) -> Any:
    import uvicorn

    from preftune.collect.people_app import Site, build_app

    def finish() -> None:
        server.should_exit = True

    alone = work.person is not None
    site = Site(keys, local, export, figures, work.rubric, work.person, finish if alone else None)
    server = uvicorn.Server(_config(build_app(desk, site)))
    return server


def _config(app: ASGIApp) -> Any:
    import uvicorn

    return uvicorn.Config(
        app,
        log_level="error",
        access_log=False,  # no request is written down anywhere
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        limit_concurrency=1000,
        lifespan="on",
        ws="none",
    )


def _tell_links(address: str, keys: Keys, work: _Work, *, local: bool) -> str:
    """Says where the page is; keys stand after the #, which no browser sends and no proxy logs."""
    if work.person is not None:
        work.tell(f"Judge at {address}/ and say there when you are done; Ctrl-C ends too.")
        return f"{address}/"
    link, progress = f"{address}/", f"{address}/progress"
    if not local:
        link, progress = f"{link}#join={keys.join}", f"{progress}#admin={keys.admin}"
        work.tell("Connections are not encrypted; outside a network you trust, put a server with TLS before it.")
    work.tell(f"Annotators: {link}")
    work.tell(f"Progress:   {progress}")
    work.tell(f"Votes:      {work.output} (Ctrl-C ends; the same command goes on)")
    return link


def _answers(store: Path, pairs: set[str]) -> Iterator[Answer]:
    """The answers on the items of the data, those on pairs in terms of their sides."""
    with reading(store) as connection:
        ids = dict(connection.execute("SELECT number, id FROM items WHERE in_data = 1"))
        for stored in stored_answers(connection):
            answer = stored.answer
            if answer.item not in ids:
                continue
            name, choice = ids[answer.item], answer.choice
            if name in pairs and stored.label == "second":  # the chosen side was made response_2
                choice = {"first": "second", "second": "first"}.get(choice, choice)
            yield Answer(name, choice, answer.seconds)


# --- what is given --------------------------------------------------------------------------------------


def _check(rules: Rules) -> None:
    if rules.people_per_item < 1:
        raise PreftuneError(
            f"annotators is {rules.people_per_item}.", mend="Give the votes that each item gets, from 1."
        )
    if rules.gold_every < 2:
        raise PreftuneError(f"gold_every is {rules.gold_every}.", mend="Give 2 or more: one item of so many is gold.")


def _output(output: str | PathLike[str]) -> Path:
    path = Path(output)
    if path.suffix != ".jsonl":
        raise PreftuneError("The votes are written as JSON lines.", where=str(path), mend="Let its name end in .jsonl.")
    return path


def _read_rubric(path: str | PathLike[str] | None) -> Rubric | None:
    if path is None:
        return None
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PreftuneError(
            f"The rubric cannot be read ({reason}).", where=str(path), mend="Give a text file."
        ) from error
    if not text.strip() or len(text) > _LONGEST_RUBRIC:
        mend = f"Write what is better than what, in up to {_LONGEST_RUBRIC:,} characters."
        raise PreftuneError("The rubric is empty or too long to be read.", where=str(path), mend=mend)
    return Rubric(text)


def _require_packages() -> None:
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise PreftuneError(f"The annotation page needs the package {error.name}.", mend=_EXTRA) from error
    del starlette, uvicorn


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=256
        )
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        mend = "Choose another --port (0 takes a free one), or an address of this machine as --host."
        raise PreftuneError(
            f"The page cannot be served there ({reason}).", where=f"{host}:{port}", mend=mend
        ) from error


def _address(host: str, port: int) -> str:
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _own_name() -> str:
    try:
        return getpass.getuser()[:60]
    except (OSError, KeyError):
        return "auditor"
