"""vLLM behind its own OpenAI-compatible server, which takes the policy's weights over through a folder.

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --host 127.0.0.1 --logprobs-mode processed_logprobs

Development mode is what opens /collective_rpc, and by it the workers' ``reload_weights``: each reads its share of the
new weights from safetensors files that lie in memory (/dev/shm) where trainer and server share a machine, else in a
folder both see. vLLM's other way, NCCL or CUDA IPC between trainer and workers (/update_weights), is faster from device
to device but needs vLLM, its very torch and a device of its own in the trainer too; this way needs neither, with any
number of workers, and was chosen because it can be checked anywhere.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor

from preftune.durable import explained_errors
from preftune.endpoints import all_at_once
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Drawn, Sampling
from preftune.rollout.vllm_requests import Request, Weights, drawn

AT_ONCE = 64  # requests under way; the server has its own queue
TRIES = 4
PAUSE = 1.0  # seconds before the second try, doubled before each further one
GENERATING = 3600.0  # seconds that one prompt's completions, or a hand-over, may take
ASKING = 10.0
FILE_BYTES = 2**30
START = "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs"
_PASSING = (429, 502, 503, 504)


class _Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, " ".join(text.split())[:300]
        super().__init__(f"{status}: {self.text}")


def open_server(
    base_url: str, patience: float, folder: Path | None, note: Callable[[str], object] = lambda _: None
) -> Server:
    """The server at ``base_url``, up within ``patience`` seconds, its weights still to be loaded.

    ``folder`` is where weights are put for it; needed where the server runs on another machine.
    """
    address = base_url.rstrip("/").removesuffix("/v1")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PreftuneError(f"{base_url!r} is no URL of a server.", mend="Write it like http://localhost:8000.")
    is_here = parts.hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0")
    if folder is None and not is_here:
        raise PreftuneError(
            "The weights have to reach a server on another machine.",
            where=base_url,
            mend="Name a folder that both machines see under the same path: --vllm_weights_folder.",
        )
    _wait_until_up(address, patience, note)
    served = _call(address, "/v1/models", timeout=ASKING)
    try:
        info = _call(address, "/server_info?config_format=json", timeout=ASKING, explains=False)
    except _Refused as refused:
        raise _unable(address, refused) from None
    try:
        card = served["data"][0]
        name, longest = str(card["id"]), int(card["max_model_len"])
        device = str(info["vllm_config"]["device_config"]["device"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PreftuneError(
            "The server does not describe its model as vLLM does.", where=address, mend=f"Start it by: {START}"
        ) from error
    return Server(address, name, longest, folder, device == "cpu")


@dataclass
class Server:
    """A server at ``address`` that serves the model ``name``; ``folder`` as for ``open_server``."""

    address: str
    name: str
    longest: int
    folder: Path | None
    is_on_cpu: bool
    starts_with_weights: bool = True
    lacks_weights: bool = False

    def complete(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_ids: Sequence[int],
        progress: Callable[[int], object] | None,
    ) -> list[list[Drawn]]:
        """As ``Engine`` has it: a request a prompt, since those sent together would share their seed."""
        tell = None if progress is None else partial(progress, requests[0].n)
        return all_at_once(lambda one: self._completions(one, sampling, stop_ids), requests, AT_ONCE, tell)

    def load(self, weights: Weights) -> None:
        """As ``Engine`` has it."""
        with _temporary_folder(self.folder) as folder:
            for number, tensors in enumerate(_files(weights)):
                _write(folder, f"model-{number:05}.safetensors", tensors)
            body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            try:
                _call(self.address, "/collective_rpc", body, GENERATING, explains=False)
            except _Refused as refused:
                raise _unable(self.address, refused) from None
        self._forget_prompts()

    def _completions(self, request: Request, sampling: Sampling, stop_ids: Sequence[int]) -> list[Drawn]:
        body = request.fields(sampling, stop_ids) | {
            "model": self.name,
            "prompt": request.prompt,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,  # a token of half a character is no JSON text
        }
        reply = _call(self.address, "/v1/completions", body, GENERATING)
        try:
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            if len(choices) != request.n or choices[0].get("prompt_token_ids", request.prompt) != request.prompt:
                raise ValueError(f"{len(choices)} completions of another prompt or number")
            parts = [(one["token_ids"], one["logprobs"]["token_logprobs"], one["finish_reason"]) for one in choices]
            return [drawn(*part, stop_ids, self.address) for part in parts]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PreftuneError(
                f"The server's answer is not as vLLM's ({type(error).__name__}: {str(error)[:100]}).",
                where=self.address,
                mend="Use vLLM 0.32 or newer.",
            ) from error

    def _forget_prompts(self) -> None:
        """What was computed of prompts with other weights would be taken for these."""
        for last in (False, False, True):
            reply = _call(self.address, "/reset_prefix_cache", {}, ASKING)
            if not isinstance(reply, dict) or reply.get("success", True):
                return
            if not last:
                time.sleep(PAUSE)
        raise PreftuneError(
            "vLLM keeps what it computed of prompts with the weights before: other requests are under way.",
            where=self.address,
            mend="Give the trainer a server of its own.",
        )


def _unable(address: str, refused: _Refused) -> PreftuneError:
    """The server may draw, and will not take weights over."""
    if refused.status in (404, 405):
        what, mend = "The server cannot take weights over.", f"Start it in development mode: {START}"
    else:
        what = f"The server could not take the weights over ({refused.text or refused.status})."
        mend = "It must serve the model that is trained, and see the folder of weights (--vllm_weights_folder)."
    return PreftuneError(what, where=address, mend=mend)


def _wait_until_up(address: str, patience: float, note: Callable[[str], object]) -> None:
    """Asks for /health, at first soon again."""
    end, pause, told = time.monotonic() + patience, 0.5, False
    while True:
        try:
            _once(address, "/health", None, ASKING)
            return
        except ValueError:  # whoever that is, it is up
            return
        except (_Refused, OSError, http.client.HTTPException) as error:
            left = end - time.monotonic()
            if left <= 0:
                raise PreftuneError(
                    f"No vLLM server answers after {patience:g} s ({error}).",
                    where=address,
                    mend=f"Start one: {START}",
                ) from error
        if not told:
            note(f"waiting for the vLLM server at {address}, {patience:g} s at most")
            told = True
        time.sleep(min(pause, left))
        pause = min(2 * pause, 5.0)


def _call(address: str, path: str, body: Any = None, timeout: float = GENERATING, *, explains: bool = True) -> Any:
    """The answer, tried again where another try may help.

    A lost connection is also met by another try: draws depend on their seeds, and loading twice is loading. Raises
    ``PreftuneError`` with the server's own words, or ``_Refused`` where those are the caller's to explain.
    """
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE * 2 ** (number - 1) * random.uniform(0.75, 1.25))
        is_last = number == TRIES - 1
        try:
            return _once(address, path, body, timeout)
        except _Refused as refused:
            if refused.status in _PASSING and not is_last:
                continue
            if not explains:
                raise
            raise _lost(address, f"The vLLM server refused {path} ({refused}).") from refused
        except TimeoutError as error:
            raise _lost(address, f"The vLLM server has not answered {path} in {timeout:g} s.") from error
        except (OSError, http.client.HTTPException) as error:
            if is_last:
                raise _lost(address, f"The vLLM server is gone ({error}); tried {TRIES} times.") from error
        except ValueError as error:
            raise _lost(address, f"The vLLM server's answer to {path} is not JSON.") from error
    raise AssertionError("every try returns or raises")


def _lost(address: str, what: str) -> PreftuneError:
    return PreftuneError(what, where=address, mend="See its log; a run is taken up again with --resume.")


def _once(address: str, path: str, body: Any, timeout: float) -> Any:
    headers = {"Content-Type": "application/json"}
    if os.environ.get("VLLM_API_KEY"):  # as the server itself reads it
        headers["Authorization"] = f"Bearer {os.environ['VLLM_API_KEY']}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        raise _Refused(error.code, error.read().decode(errors="replace")) from None
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    return json.loads(content) if content else None


# --- the weights' folder --------------------------------------------------------------------------------


@contextmanager
def _temporary_folder(parent: Path | None) -> Iterator[Path]:
    """Gone with its files when the server has read them."""
    place = parent or _in_memory() or Path(tempfile.gettempdir())
    with explained_errors(place):
        folder = Path(tempfile.mkdtemp(prefix="preftune-weights-", dir=place))
    folder.chmod(0o755)  # the server may be another user's
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_memory() -> Path | None:
    shared = Path("/dev/shm")
    return shared if shared.is_dir() and os.access(shared, os.W_OK) else None


def _files(weights: Weights) -> Iterator[dict[str, Tensor]]:
    """The weights on the CPU, in portions of about ``FILE_BYTES``: no more than one of them is held here."""
    portion: dict[str, Tensor] = {}
    size = 0
    for name, tensor in weights:
        portion[name] = tensor.to("cpu", copy=True).contiguous()
        size += portion[name].nbytes
        if size >= FILE_BYTES:
            yield portion
            portion, size = {}, 0
    if portion:
        yield portion


def _write(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    size = sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if free < size + 2**20:
        raise PreftuneError(
            f"There is no room for the weights: {free / 2**30:.1f} GiB are free.",
            where=str(folder.parent),
            mend="Name another folder that the server sees: --vllm_weights_folder.",
        )
    with explained_errors(folder):
        save_file(tensors, folder / name, metadata={"format": "pt"})
