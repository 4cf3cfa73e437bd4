"""A small annotation site for tests, without a network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from preftune.collect.people_app import Site, build_app
from preftune.collect.people_desk import Desk, Rules
from preftune.collect.people_export import export_votes
from preftune.collect.people_figures import figures_of
from preftune.collect.people_guard import Keys, open_keys
from preftune.collect.people_items import Item
from preftune.collect.people_store import open_store
from preftune.collect.people_texts import Rubric
from preftune.data.records import Comparison

LOCAL = "http://127.0.0.1:8765"


def comparison(k: int, **changes: Any) -> Comparison:
    return Comparison(prompt=f"q {k}", response_1=f"good {k}", response_2=f"bad {k}", id=f"secret-id-{k}", **changes)


@dataclass
class Visit:
    """The open site: its client, its keys, and where its files lie."""

    client: Any  # a TestClient
    keys: Keys
    output: Path
    finished: list[bool]

    def post(self, path: str, body: Any, key: str = "", **headers: str) -> Any:
        origin = str(self.client.base_url).rstrip("/")
        return self.client.post(path, json=body, headers={"origin": origin} | bearer(key) | headers)

    def get(self, path: str, key: str = "", **headers: str) -> Any:
        return self.client.get(path, headers=bearer(key) | headers)

    def join(self, name: str) -> str:
        return self.post("/api/join", {"name": name, "key": self.keys.join}).json()["key"]

    def vote(self, key: str, number: int, choice: str = "1", **more: Any) -> Any:
        body = {"item": number, "choice": choice, "seconds": 2.5, "request": f"{number}-{choice}-{len(more)}"} | more
        return self.post("/api/vote", body, key)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


@contextmanager
def site_app(
    folder: Path,
    items: Sequence[Item] | None = None,
    rules: Rules | None = None,
    *,
    local: bool = True,
    rubric: str | None = None,
    person: str | None = None,
) -> Iterator[tuple[Any, Visit]]:
    """The application over ``folder``, and a visit whose client is still to come."""
    rules = rules or Rules(people_per_item=2)
    output, finished = folder / "votes.jsonl", []
    with open_store(folder / "votes.sqlite", seed=0) as store:
        store.take_in(items if items is not None else [Item(comparison(k), "first") for k in range(6)])
        desk, keys = Desk(store, rules), open_keys(folder / "votes.key")
        figures = partial(figures_of, store.path, people_per_item=rules.people_per_item)
        site = Site(
            keys,
            local,
            partial(export_votes, store.path, output),
            lambda: figures(names=desk.names),
            Rubric(rubric) if rubric else None,
            person,
            lambda: finished.append(True),
        )
        yield build_app(desk, site), Visit(None, keys, output, finished)


@contextmanager
def visit(
    folder: Path,
    items: Sequence[Item] | None = None,
    rules: Rules | None = None,
    *,
    address: str = LOCAL,
    **options: Any,
) -> Iterator[Visit]:
    """The site over ``folder``, in its lifespan."""
    with site_app(folder, items, rules, **options) as (app, opened), TestClient(app, base_url=address) as client:
        opened.client = client
        yield opened


def gold(k: int) -> Item:
    return replace(Item(comparison(1000 + k), "first"), is_gold=True)
