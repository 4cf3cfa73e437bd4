"""The annotation page's server: a few files and a small JSON interface over the desk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preftune.collect.people_desk import LONGEST_REASON, Desk, Given, OnPage, Refused, Shown, on_page
from preftune.collect.people_export import Exported
from preftune.collect.people_figures import Figures
from preftune.collect.people_guard import HEADERS, LARGEST_BODY, Keys, is_same, refusal
from preftune.collect.people_texts import Rubric, shown_turns
from preftune.errors import PreftuneError, StorageFullError

PAGE: Final = Path(__file__).parent / "people_page"
_FILES: Final = {
    "/": ("annotate.html", "text/html"),
    "/progress": ("progress.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/annotate.js": ("annotate.js", "text/javascript"),
    "/page/progress.js": ("progress.js", "text/javascript"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}
_SECONDS_BETWEEN_EXPORTS: Final = 15.0
_EXPORT_LOAD: Final = 0.05  # of the time, at most, is spent on writing the file anew
_FIGURES_KEPT: Final = 5.0  # seconds for which figures are shown again


@dataclass(frozen=True)
class Site:
    """What the server serves beside the desk.

    ``local``: only this machine reaches it, so that a name is enough to take part. ``person``: the one who answers,
    who is not asked for a name; ``finish`` is called when they are done.
    """

    keys: Keys
    local: bool
    export: Callable[[], Exported]
    figures: Callable[[], Figures]
    rubric: Rubric | None = None
    person: str | None = None
    finish: Callable[[], None] | None = None


def build_app(desk: Desk, site: Site) -> ASGIApp:
    """The application; within its lifespan votes are exported while they come, and once more when it ends."""
    server = _Server(desk, site)
    routes = [Route(path, partial(_file, *named)) for path, named in _FILES.items()]
    routes += [
        Route("/api/door", server.door),
        Route("/api/join", server.join, methods=["POST"]),
        Route("/api/work", server.work),
        Route("/api/vote", server.vote, methods=["POST"]),
        Route("/api/back", server.back),
        Route("/api/finish", server.finish, methods=["POST"]),
        Route("/api/progress", server.progress),
    ]
    handlers = {
        Refused: partial(_failed, 409),
        StorageFullError: partial(_failed, 507),
        PreftuneError: partial(_failed, 500),
        ValidationError: _invalid,
        HTTPException: _http_error,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=server.lifespan)
    return _guarded(app, local=site.local)


# --- what is asked --------------------------------------------------------------------------------------


class _Join(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=500)] = ""
    key: Annotated[str, Field(max_length=200)] = ""


class _Vote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item: Annotated[StrictInt, Field(ge=0, lt=2**53)]
    choice: OnPage
    seconds: Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
    request: Annotated[str, Field(min_length=8, max_length=64)]
    strength: Annotated[StrictInt, Field(ge=1, le=3)] | None = None
    reason: Annotated[str, Field(max_length=LONGEST_REASON)] | None = None


class _Server:
    """The answers to the page's requests. The desk is touched from the event loop only, so that one wish is met
    after the other; what takes long and needs no desk runs in threads."""

    def __init__(self, desk: Desk, site: Site) -> None:
        self._desk, self._site = desk, site
        self._changed = False  # since the last export
        self._trouble: str | None = None  # why the last export failed
        self._figures: Figures | None = None
        self._figures_at = 0.0
        self._figures_lock = asyncio.Lock()

    async def door(self, request: Request) -> Response:
        return JSONResponse({"alone": self._site.person is not None, "local": self._site.local})

    async def join(self, request: Request) -> Response:
        wish = _Join.model_validate_json(await _body(request))
        site = self._site
        if not site.local and not is_same(wish.key, site.keys.join):
            raise HTTPException(403, "To take part, open the link that you were sent.")
        name = self._desk.join(site.person or wish.name, may_return=site.local)
        return JSONResponse({"name": name, "key": site.keys.personal(name)})

    async def work(self, request: Request) -> Response:
        annotator = self._annotator(request)
        rubric = self._site.rubric
        about = {
            "name": annotator,
            "rubric": rubric and rubric.tree,
            "rubric_version": rubric and rubric.version,
            "alone": self._site.person is not None,
        }
        return JSONResponse(about | await self._next(annotator))

    async def vote(self, request: Request) -> Response:
        annotator = self._annotator(request)
        vote = _Vote.model_validate_json(await _body(request))
        label = self._desk.answer(annotator, Given(**vote.model_dump()))
        self._changed = True
        return JSONResponse({"label": label, **await self._next(annotator)})

    async def back(self, request: Request) -> Response:
        annotator = self._annotator(request)
        number = request.query_params.get("before", "")
        shown = self._desk.before(
            annotator, int(number) if number.isascii() and number.isdecimal() and len(number) < 17 else None
        )
        return JSONResponse({"item": await run_sync(_item, shown), **self._standing(annotator)})

    async def finish(self, request: Request) -> Response:
        self._annotator(request)
        if self._site.finish is not None:
            self._site.finish()
        return JSONResponse({})

    async def progress(self, request: Request) -> Response:
        site = self._site
        if not site.local and not is_same(_bearer(request), site.keys.admin):
            raise HTTPException(403, "Open the link of the progress page that the terminal shows.")
        figures = await self._fresh_figures()
        links = {} if site.local else {name: site.keys.personal(name) for name in self._desk.names}
        return JSONResponse(asdict(figures) | {"trouble": self._trouble, "keys": links})

    async def _next(self, annotator: str) -> dict[str, Any]:
        shown = self._desk.next_for(annotator)
        return {"item": await run_sync(_item, shown), **self._standing(annotator)}

    def _standing(self, annotator: str) -> dict[str, Any]:
        standing = self._desk.standing(annotator)
        # Whole per cent: finer, the step that a gold item does not make could be seen.
        return {"answered": standing.answered, "percent": int(100 * min(standing.share, 1))}

    def _annotator(self, request: Request) -> str:
        name = self._site.keys.annotator_of(_bearer(request))
        if name is None or name not in self._desk.names:
            raise HTTPException(401, "Say first who you are.")
        return name

    async def _fresh_figures(self) -> Figures:
        async with self._figures_lock:
            figures = self._figures
            if figures is None or time.monotonic() - self._figures_at > _FIGURES_KEPT:
                self._figures = figures = await run_sync(self._site.figures)
                self._figures_at = time.monotonic()
            return figures

    # --- the file -------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._export()
        task = asyncio.create_task(self._export_regularly())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if self._changed:
                await self._export()

    async def _export_regularly(self) -> None:
        pause = _SECONDS_BETWEEN_EXPORTS
        while True:
            await asyncio.sleep(pause)
            if self._changed:
                began = time.monotonic()
                await self._export()
                pause = max(_SECONDS_BETWEEN_EXPORTS, (time.monotonic() - began) / _EXPORT_LOAD)

    async def _export(self) -> None:
        self._changed = False
        try:
            await run_sync(self._site.export)
        except PreftuneError as error:
            # The votes are safe in the store; the server goes on, and the page of progress says it.
            self._changed, self._trouble = True, str(error)
        else:
            self._trouble = None


# --- what is answered -----------------------------------------------------------------------------------


def _item(shown: Shown | None) -> dict[str, Any] | None:
    """An item as the page shows it; neither ids nor labels nor anything else of the record leave the server."""
    if shown is None:
        return None
    comparison = shown.item.comparison
    responses = [comparison.response_1, comparison.response_2]
    if shown.shown_first == "second":
        responses.reverse()
    answer = shown.answer
    return {
        "number": shown.number,
        "prompt": shown_turns(comparison.prompt, "user"),
        "answers": [shown_turns(response, "assistant") for response in responses],
        "answer": answer
        and {
            "choice": on_page(answer.choice, shown.shown_first),
            "strength": answer.strength,
            "reason": answer.reason,
        },
    }


async def _file(name: str, kind: str, request: Request) -> Response:
    return Response((PAGE / name).read_bytes(), media_type=kind)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise HTTPException(413, "That is too long.")
    return bytes(body)


def _bearer(request: Request) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


async def _failed(status: int, request: Request, error: PreftuneError) -> Response:
    return JSONResponse({"error": error.what, "mend": error.mend}, status)


async def _invalid(request: Request, error: ValidationError) -> Response:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return JSONResponse({"error": f"The request is not understood: {place} {first['msg']}.", "mend": None}, 400)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail, "mend": None}, error.status_code)


def _guarded(app: ASGIApp, *, local: bool) -> ASGIApp:
    """The application behind ``refusal``, with the headers that keep a browser from doing more than it should."""
    extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        why = refusal(scope["method"], _headers(scope), local=local)
        answer = app if why is None else JSONResponse({"error": why, "mend": None}, 403)
        await answer(scope, receive, send_with_headers)

    return guard


def _headers(scope: Scope) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
