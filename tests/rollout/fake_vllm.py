"""A stand-in for vLLM: its names and habits as of 0.33, a model of its own that starts as chance has it, no speed.

``Worker`` does the work. ``install`` puts it into ``sys.modules`` as the package, ``FakeServer`` behind HTTP.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from preftune.rollout.decoding import draw
from preftune.rollout.protocol import Sampling


@dataclass
class Worker:
    """Draws with ``model``; ``cached`` is the prefix cache: what a prompt was computed with last."""

    model: Any
    tokenizer: Any
    longest: int
    logprobs_mode: str = "processed_logprobs"
    cached: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    loads: list[list[str]] = field(default_factory=list)
    busy: int = 0  # how often resetting the prefix cache fails

    def reload_weights(self, weights: Any) -> None:
        state = self.model.state_dict()
        names = []
        for name, tensor in weights:
            state[name].copy_(tensor)
            names.append(name)
        self.loads.append(names)

    def reset_prefix_cache(self) -> bool:
        self.busy -= 1
        if self.busy < 0:
            self.cached.clear()
        return self.busy < 0

    def complete(self, prompt: list[int], fields: dict[str, Any]) -> list[dict[str, Any]]:
        assert fields["ignore_eos"] and fields["logprobs"] == 0 and len(prompt) + fields["max_tokens"] <= self.longest
        assert fields["n"] == 1 or fields["temperature"] > 0, "n must be 1 when using greedy sampling"
        return [self._one(prompt, fields, fields["seed"] + number) for number in range(fields["n"])]

    @torch.no_grad()
    def _one(self, prompt: list[int], fields: dict[str, Any], seed: int) -> dict[str, Any]:
        names = ("temperature", "top_p", "top_k", "min_p")
        sampling = Sampling(fields["max_tokens"], **{name: fields[name] for name in names})
        chance = torch.Generator().manual_seed(seed)
        tokens: list[int] = []
        log_probs: list[float] = []
        reason = "length"
        while len(tokens) < fields["max_tokens"]:
            logits = self._logits(prompt, tokens)
            token, log_prob = draw(logits, sampling, torch.rand(1, generator=chance, dtype=torch.float64))
            if self.logprobs_mode == "raw_logprobs":
                log_prob = logits.log_softmax(-1)[:, token]
            tokens.append(int(token))
            log_probs.append(float(log_prob))
            text = self.tokenizer.decode(tokens) if fields["stop"] else ""
            if tokens[-1] in fields["stop_token_ids"] or any(stop in text for stop in fields["stop"]):
                reason = "stop"
                break
        return {"token_ids": tokens, "log_probs": log_probs, "finish_reason": reason}

    def _logits(self, prompt: list[int], tokens: list[int]) -> Tensor:
        key = (*prompt, *tokens)
        if key not in self.cached:
            self.cached[key] = self.model(input_ids=torch.tensor([key])).logits[:, -1].float()
        return self.cached[key]


# --- as a package ---------------------------------------------------------------------------------------


class SamplingParams:
    """Takes what vLLM's takes."""

    def __init__(self, *, detokenize: bool, **fields: Any) -> None:
        known = {"n", "seed", "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids"}
        known |= {"repetition_penalty", "presence_penalty", "frequency_penalty", "ignore_eos", "skip_special_tokens"}
        assert fields.keys() == known | {"logprobs"}
        assert detokenize or not fields["stop"]
        self.detokenize, self.fields = detokenize, fields


class LLM:
    """Seeds every generator as it starts, which vLLM's does in the caller's process too."""

    opened: list[LLM]

    def __init__(self, model: str, **arguments: Any) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        _seed_everything(0)
        torch.rand(1)
        assert arguments["load_format"] == "dummy"
        config = AutoConfig.from_pretrained(model)
        self.arguments = arguments
        dtype = getattr(torch, arguments["dtype"])
        own = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
        assert config.architectures == [type(own).__name__]
        tokenizer = None if arguments["skip_tokenizer_init"] else AutoTokenizer.from_pretrained(model)
        longest = arguments["max_model_len"] or config.max_position_embeddings
        self.worker = Worker(own, tokenizer, longest, arguments["logprobs_mode"])
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=longest))
        self.awake = {"weights", "kv_cache"}
        LLM.opened.append(self)

    def generate(self, prompts: list[Any], settings: list[SamplingParams], use_tqdm: Any) -> list[Any]:
        assert self.awake == {"weights", "kv_cache"}
        random.random(), torch.rand(1), np.random.rand()  # whoever does this in vLLM is not to be noticed
        bar = (
            use_tqdm(total=len(prompts), desc="Processed prompts", dynamic_ncols=True, postfix="") if use_tqdm else None
        )
        outputs = []
        for prompt, wanted in zip(prompts, settings, strict=True):
            found = self.worker.complete(prompt["prompt_token_ids"], wanted.fields)
            outputs.append(SimpleNamespace(outputs=[_completion(number, one) for number, one in enumerate(found)]))
            if bar is not None:
                bar.postfix = f"{1 / (bar.format_dict['elapsed'] or 1):.0f}"
                bar.update(len(found))
        if bar is not None:
            bar.close()
        return outputs

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[None]:
        assert method == "reload_weights" and "weights" in self.awake
        self.worker.reload_weights(kwargs["weights_iterator"])
        return [None]

    def reset_prefix_cache(self) -> bool:
        return self.worker.reset_prefix_cache()

    def sleep(self, level: int) -> None:
        assert level == 2 and self.arguments["enable_sleep_mode"]
        self.awake.clear()
        for parameter in self.worker.model.parameters():
            parameter.data.fill_(float("nan"))

    def wake_up(self, tags: list[str]) -> None:
        self.awake.update(tags)


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """``import vllm`` gives the stand-in; the engines that are opened are in ``LLM.opened``."""
    module = ModuleType("vllm")
    LLM.opened = []
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return LLM


def _completion(number: int, found: dict[str, Any]) -> Any:
    log_probs = [
        {token: SimpleNamespace(logprob=log_prob)}
        for token, log_prob in zip(found["token_ids"], found["log_probs"], strict=True)
    ]
    return SimpleNamespace(
        index=number, token_ids=tuple(found["token_ids"]), logprobs=log_probs, finish_reason=found["finish_reason"]
    )


def _seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


# --- as a server ----------------------------------------------------------------------------------------


class FakeServer(ThreadingHTTPServer):
    """``vllm serve`` with development mode. ``faults`` are statuses to answer with first, by path; 0 hangs up."""

    daemon_threads = True

    def __init__(self, worker: Worker) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.worker, self.lock = worker, threading.Lock()
        self.faults: dict[str, list[int]] = {}
        self.changes: dict[str, Any] = {}
        self.received: list[tuple[str, Any]] = []
        self.folders: list[Path] = []
        self.development, self.device = True, "cpu"
        self.url = f"http://127.0.0.1:{self.server_port}"

    def paths(self) -> list[str]:
        return [path for path, _ in self.received]

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        if path == "/health":
            return 200, None
        if path == "/v1/models":
            return 200, {"data": [{"id": "served", "max_model_len": self.worker.longest}]}
        if path == "/v1/completions":
            found = [self._choice(i, one, body) for i, one in enumerate(self.worker.complete(body["prompt"], body))]
            return 200, {"choices": found[::-1]}
        if not self.development:
            return 404, {"detail": "Not Found"}
        if path == "/server_info?config_format=json":
            return 200, {"vllm_config": {"device_config": {"device": self.device}}}
        if path == "/collective_rpc":
            return self._reload(body)
        if path == "/reset_prefix_cache":
            return 200, {"success": self.worker.reset_prefix_cache()}
        return 404, {"detail": "Not Found"}

    def _reload(self, body: Any) -> tuple[int, Any]:
        assert body["method"] == "reload_weights"
        folder = Path(body["kwargs"]["weights_path"])
        self.folders.append(folder)
        files = sorted(folder.glob("*.safetensors"))
        self.worker.reload_weights(named for file in files for named in load_file(file).items())
        return 200, {"results": [None]}

    def _choice(self, number: int, found: dict[str, Any], body: Any) -> dict[str, Any]:
        assert body["model"] == "served" and body["return_token_ids"]
        return {
            "index": number,
            "text": "",
            "token_ids": found["token_ids"],
            "prompt_token_ids": body["prompt"],
            "logprobs": {"token_logprobs": found["log_probs"]},
            "finish_reason": found["finish_reason"],
        } | self.changes


class _Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_GET(self) -> None:
        self._reply(None)

    def do_POST(self) -> None:
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _reply(self, body: Any) -> None:
        server = self.server
        with server.lock:
            server.received.append((self.path, body))
            faults = server.faults.get(self.path, [])
            status = faults.pop(0) if faults else None
            answer = (
                (status, {"error": {"message": "as told"}}) if status is not None else server.answer(self.path, body)
            )
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        content = b"" if answer[1] is None else json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(worker: Worker) -> Iterator[FakeServer]:
    """The server, until the block ends."""
    server = FakeServer(worker)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
