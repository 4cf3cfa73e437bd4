"""An endpoint that answers every chat after a fixed time, and knows how many it had under way at any moment.

    python -m benchmarks.busy_endpoint LATENCY      prints its port, then serves until its input is closed

GET /times gives when each request was there whole and when its answer was sent, in seconds; any other GET an empty
list.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.request import urlopen

VERDICT = {"reason": "It is more helpful.", "verdict": "A"}


@contextmanager
def endpoint(latency: float) -> Iterator[str]:
    """Its address, for as long as it runs in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.busy_endpoint", str(latency)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.terminate()
        process.communicate()


def times(address: str) -> list[tuple[float, float]]:
    """Begin and end of every answered request so far."""
    with urlopen(f"{address}/times") as answer:
        return [(begin, end) for begin, end in json.load(answer)]


def busy_share(intervals: list[tuple[float, float]], concurrency: int) -> float:
    """Requests under way in the mean, of those allowed, from the begin of the first to the end of the last."""
    begins, ends = zip(*intervals, strict=True)
    return sum(end - begin for begin, end in intervals) / (concurrency * (max(ends) - min(begins)))


async def _serve(latency: float) -> None:
    answered: list[tuple[float, float]] = []

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await _one(reader, writer, latency, answered)
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float, answered: list[tuple[float, float]]
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
    if length:
        await reader.readexactly(int(length[1]))
    if head.startswith("GET"):
        _send(writer, answered if "/times" in head.split("\r\n", 1)[0] else {"object": "list", "data": []})
        return
    begun = time.monotonic()
    await asyncio.sleep(latency)
    _send(writer, _completion())
    await writer.drain()
    answered.append((begun, time.monotonic()))


def _completion() -> dict[str, Any]:
    message = {"role": "assistant", "content": json.dumps(VERDICT)}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "fixed", "choices": choices, "usage": usage}


def _send(writer: asyncio.StreamWriter, document: object) -> None:
    body = json.dumps(document).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
