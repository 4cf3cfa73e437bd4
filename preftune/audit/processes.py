"""Blocks examined by a few processes of our own, in order and with little at hand at a time.

They are started as ``python -m preftune.audit.processes`` and spoken to over pipes. ``multiprocessing`` would run the
user's main script again in each of them, training and all where the script has no ``__main__`` guard.
"""

from __future__ import annotations

import gc
import os
import queue
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from typing import IO, TypeAlias

from preftune.audit.blocks import Block, Piece, examine, examine_request, piece_of, request_of
from preftune.audit.columns import AuditedKind

MOST_PROCESSES = 8
_ALONE = 3  # so many blocks are done sooner here than processes start
_LENGTH = struct.Struct("<Q")
_Process: TypeAlias = "subprocess.Popen[bytes]"


def examined(blocks: Iterable[Block], kind: AuditedKind, processes: int | None = None) -> Iterator[tuple[Block, Piece]]:
    """Each block and what it gave, in order; ``processes`` defaults to the cores of the machine.

    A block whose process dies is examined here, so that what is wrong with it is told here.
    """
    count = processes or min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, MOST_PROCESSES)
    rest = iter(blocks)
    first = list(islice(rest, _ALONE))
    if len(first) < _ALONE or count < 2 or not sys.executable:
        yield from ((block, examine(block, kind)) for block in chain(first, rest))
        return
    yield from _shared(chain(first, rest), kind, count)


def _shared(blocks: Iterable[Block], kind: AuditedKind, count: int) -> Iterator[tuple[Block, Piece]]:
    running = [_start() for _ in range(count)]
    idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
    for process in running:
        idle.put(process)
    waiting: deque[tuple[Block, Future[Piece]]] = deque()
    try:
        with ThreadPoolExecutor(count) as threads:
            for block in blocks:
                waiting.append((block, threads.submit(_examine_there, block, kind, idle)))
                if len(waiting) > 2 * count:
                    done, piece = waiting.popleft()
                    yield done, piece.result()
            while waiting:
                done, piece = waiting.popleft()
                yield done, piece.result()
    finally:
        for process in running:
            _stop(process)


def _examine_there(block: Block, kind: AuditedKind, idle: queue.SimpleQueue[_Process | None]) -> Piece:
    request = request_of(block, kind)
    if request is None:
        return examine(block, kind)
    process = idle.get()
    answer = None
    if process is not None:
        with suppress(OSError, EOFError):
            answer = _ask(process, request)
    idle.put(process if answer is not None else None)  # None stands for one that died: its share is done here
    return examine(block, kind) if answer is None else piece_of(answer)


def _start() -> _Process:
    paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 (an entry may be empty)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "preftune.audit.processes"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _stop(process: _Process) -> None:
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe:
                pipe.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask(process: _Process, request: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    _send(process.stdin, request)
    answer = _receive(process.stdout)
    if answer is None:
        raise EOFError
    return answer


def _send(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)) + message)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    """The next message; None where the other side has gone."""
    length = pipe.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(length)
    message = pipe.read(size)
    return message if len(message) == size else None


def _serve() -> None:
    """Answers requests on standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a stop is the parent's to tell
    gc.disable()  # a block's records are in no circles; looking for some took half of the reading's time
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    while (request := _receive(sys.stdin.buffer)) is not None:
        _send(answers, examine_request(request))


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        _serve()
