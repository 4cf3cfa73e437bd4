"""vLLM in this process, beside the policy on its device.

Its engine runs in the caller's own thread, so the weights are handed over as the tensors they are, one layer at a time:
nothing is copied but into vLLM's own.
"""

from __future__ import annotations

import copy
import importlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch

from preftune.errors import PreftuneError
from preftune.rollout.protocol import Drawn, Sampling
from preftune.rollout.vllm_requests import Request, Weights, drawn
from preftune.training import rng

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in another process could take no tensors over
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def open_in_process(inner: Any, tokenizer: Any, *, memory: float, longest: int | None, sleeps: bool) -> InProcess:
    """An engine for models like ``inner``, its weights still to be loaded.

    It takes ``memory`` of the device's (a part of 1), and prompts with their completions of up to ``longest`` tokens,
    or what the model's config says. Where it ``sleeps``, it gives all memory back after each draw.
    """
    vllm = _vllm()
    folder = TemporaryDirectory(prefix="preftune-vllm-")
    _write_settings(inner, tokenizer, folder.name)
    arguments: dict[str, Any] = {
        "model": folder.name,
        "load_format": "dummy",
        "dtype": str(inner.dtype).removeprefix("torch."),
        "max_model_len": longest,
        "gpu_memory_utilization": memory,
        "enable_prefix_caching": True,
        "enable_sleep_mode": sleeps,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        "skip_tokenizer_init": tokenizer is None,
        "seed": 0,
    }
    with _generators_kept():
        try:
            llm = vllm.LLM(**arguments)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            lines = str(error).strip().splitlines()
            raise PreftuneError(
                f"vLLM could not be started ({lines[0][:300] if lines else type(error).__name__}).",
                where="vllm_mode colocate",
                mend="If memory is short, lower vllm_gpu_memory_utilization or vllm_max_model_length.",
            ) from error
    return InProcess(llm, vllm.SamplingParams, folder, sleeps, inner.device.type == "cpu")


@dataclass
class InProcess:
    """``vllm.LLM``; ``folder`` holds what it reads config and tokenizer from, as long as it lives."""

    llm: Any
    sampling_params: Callable[..., Any]
    folder: TemporaryDirectory[str]
    sleeps: bool
    is_on_cpu: bool
    starts_with_weights: bool = False
    lacks_weights: bool = False

    @property
    def longest(self) -> int:
        """As ``Engine`` has it."""
        return self.llm.llm_engine.model_config.max_model_len

    def complete(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        stop_ids: Sequence[int],
        progress: Callable[[int], object] | None,
    ) -> list[list[Drawn]]:
        """As ``Engine`` has it."""
        prompts = [{"prompt_token_ids": request.prompt} for request in requests]
        settings = [
            self.sampling_params(**request.fields(sampling, stop_ids), detokenize=bool(sampling.stop))
            for request in requests
        ]
        with _generators_kept():
            outputs = self.llm.generate(prompts, settings, use_tqdm=_bar(progress) if progress else False)
        completions = [
            [_drawn(one, stop_ids) for one in sorted(output.outputs, key=lambda one: one.index)] for output in outputs
        ]
        if [len(several) for several in completions] != [request.n for request in requests]:
            raise PreftuneError("vLLM gave other than the completions it was asked for.", mend="Its own log says why.")
        if self.sleeps:
            self.llm.sleep(level=2)
            self.lacks_weights = True
        return completions

    def load(self, weights: Weights) -> None:
        """As ``Engine`` has it."""
        with _generators_kept():
            if self.lacks_weights:
                torch.cuda.empty_cache()
                self.llm.wake_up(tags=["weights"])
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
            if self.lacks_weights:
                self.llm.wake_up(tags=["kv_cache"])
            if not self.llm.reset_prefix_cache():
                raise PreftuneError("vLLM keeps what it computed of prompts with the weights before.")
        self.lacks_weights = False


def _vllm() -> Any:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] != "0":
        raise PreftuneError(
            "vLLM in this process needs its engine here too.", mend="Unset VLLM_ENABLE_V1_MULTIPROCESSING."
        )
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise PreftuneError(
            f"vLLM is not installed, or cannot be loaded ({str(error).splitlines()[0][:200]}).",
            where="use_vllm",
            mend="pip install 'preftune[vllm]', or draw with --vllm_mode server, which needs it on the server only.",
        ) from error


def _write_settings(inner: Any, tokenizer: Any, folder: str) -> None:
    """Config and tokenizer of the model in memory, whatever it was loaded from or made of."""
    config = copy.deepcopy(inner.config)
    vars(config).pop("quantization_config", None)  # its weights come whole
    config.architectures = [type(inner).__name__]
    config.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _drawn(output: Any, stop_ids: Sequence[int]) -> Drawn:
    tokens = list(output.token_ids)
    given = output.logprobs or []
    log_probs = [place[token].logprob for token, place in zip(tokens, given, strict=False)]
    return drawn(tokens, log_probs, output.finish_reason, stop_ids, "vLLM in this process")


def _bar(progress: Callable[[int], object]) -> Callable[..., Any]:
    """What vLLM takes for its own progress bar, telling ``progress`` of completions instead of drawing."""
    from tqdm import tqdm

    class Told(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            progress(int(n or 0))
            return super().update(n)

    return partial(Told, file=io.StringIO())


@contextmanager
def _generators_kept() -> Iterator[None]:
    """vLLM seeds every generator of the process when it starts; training goes on with its own numbers."""
    states, threads = rng.capture(), torch.get_num_threads()
    try:
        yield
    finally:
        rng.restore(*states)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
