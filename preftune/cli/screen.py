"""What people see while a command works: notes, warnings and progress, all on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, Protocol

from rich.console import Console, RenderableType
from rich.markup import escape

SECONDS_BETWEEN_LINES: Final = 10.0


class Progress(Protocol):
    """A running task: ``advance`` counts, ``figures`` shows numbers beside the count."""

    def advance(self, n: float = 1, **figures: Any) -> None: ...

    def figures(self, **figures: Any) -> None: ...


@cache
def console() -> Console:
    """The console on standard error, whatever ``sys.stderr`` is at the time of printing."""
    return Console(stderr=True, highlight=False)


def show(renderable: RenderableType) -> None:
    """Prints a result for people on standard output; under ``--json`` it goes to standard error."""
    Console(highlight=False).print(renderable)


def notify(text: str) -> None:
    """One line that the user should know and need not act on."""
    _line(f"[dim]note:[/dim] {escape(text)}")


def warn(text: str) -> None:
    """One line about something that may spoil the result."""
    _line(f"[yellow]warning:[/yellow] {escape(text)}")


def tell_error(text: str) -> None:
    """The error, in red, as many lines as it has."""
    for line in text.splitlines() or [""]:
        _line(f"[red]error:[/red] {escape(line)}")


def _line(markup: str) -> None:
    console().print(markup, soft_wrap=True)  # a log keeps its line in one piece


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Progress]:
    """A bar with elapsed and remaining time on a terminal, a plain line every ten seconds elsewhere.

    Of a task inside another one nothing stays on the screen, and short ones get no line.
    """
    inside = bool(_OPEN)
    if not console().is_terminal:
        lines = _Lines(description, total)
        with _opened(lines):
            yield lines
        if not inside or lines.was_told:
            lines.finish()
        return
    if inside:
        with _OPEN[0].part(description, total) as part:
            yield part
        return
    with _bar() as bar:
        task = _Bar(bar, description, total)
        with _opened(task):
            yield task


_OPEN: Final[list[Any]] = []  # the task that is running, where there is one


@contextmanager
def _opened(task: Any) -> Iterator[None]:
    _OPEN.append(task)
    try:
        yield
    finally:
        _OPEN.remove(task)


def _bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=console(),
        redirect_stdout=False,  # standard output is the command's, or the JSON document's
    )


class _Bar:
    """A task of rich's progress bar."""

    def __init__(self, bar: Any, description: str, total: float | None) -> None:
        self._bar, self._figures = bar, {}
        self._task = bar.add_task(escape(description), total=total, figures="")

    @contextmanager
    def part(self, description: str, total: float | None) -> Iterator[_Bar]:
        """A task beneath this one, which goes when it is done."""
        part = _Bar(self._bar, f"  {description}", total)
        try:
            yield part
        finally:
            self._bar.remove_task(part._task)

    def advance(self, n: float = 1, **figures: Any) -> None:
        self._bar.advance(self._task, n)
        if figures:
            self.figures(**figures)

    def figures(self, **figures: Any) -> None:
        self._figures |= figures
        self._bar.update(self._task, figures=escape(_figures(self._figures)))


class _Lines:
    """Plain lines for logs: at most one in ten seconds, and one at the end."""

    def __init__(self, description: str, total: float | None) -> None:
        self._description, self._total, self._done = description, total, 0.0
        self._figures: dict[str, Any] = {}
        self._start = self._last = time.monotonic()
        self._told: float | None = None  # the count in the last line

    @property
    def was_told(self) -> bool:
        """True once a line was printed."""
        return self._told is not None

    def advance(self, n: float = 1, **figures: Any) -> None:
        self._done += n
        self.figures(**figures)

    def figures(self, **figures: Any) -> None:
        self._figures |= figures
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._print()

    def finish(self) -> None:
        if self._told != self._done or not self._done:
            self._print()

    def _print(self) -> None:
        self._last, self._told = time.monotonic(), self._done
        elapsed = self._last - self._start
        count = f"{self._done:g}" + (f"/{self._total:g}" if self._total else "")
        left = (self._total or 0) - self._done
        times = f"{_clock(elapsed)} elapsed"
        if self._done and left > 0:
            times += f", {_clock(elapsed / self._done * left)} left"
        told = f"{self._description}: {count}, {times} {_figures(self._figures)}"
        print(told.rstrip(), file=sys.stderr, flush=True)


def _figures(figures: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in figures.items()
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
