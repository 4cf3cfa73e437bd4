"""vLLM as the sampler: beside the policy in this process, or behind a server that takes over the policy's weights.

The policy stays where it is trained; before completions are drawn, its weights as they are go to vLLM under the names
of a checkpoint, adapters merged, by vLLM's own ``reload_weights``. What vLLM then says of a few completions is compared
with the policy's own log-probs before training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from preftune.errors import PreftuneError
from preftune.models.handover import checkpoint_tensors
from preftune.models.layout import Group
from preftune.models.logprobs import completion_log_probs
from preftune.models.paths import causal_model, probe_groups, refuse_unfit
from preftune.models.weights import fingerprint_weights
from preftune.rollout.protocol import Drawn, Sampling
from preftune.rollout.vllm_requests import Engine, requests_for

PROBE = Sampling(max_new_tokens=32, temperature=2.0)  # at 1, plain log-probs and those drawn from are the same
GREEDY_BELOW = 1e-5  # as vLLM has it
# Nats. In bfloat16 two engines differ by 0.01 to 0.05 on most tokens; of other weights, by several.
TOLERANCE = 0.25


@dataclass(frozen=True)
class VllmSettings:
    """Names are those of TRL's settings, without ``vllm_``.

    ``server_base_url`` and ``server_timeout`` (seconds to wait for it to be up) and ``weights_folder`` are for the mode
    ``server``; the folder, new ones within it rather, has to be one that the server sees under the same path, and is
    found where none is named and the server runs on this machine. The others are for ``colocate``: which part of the
    device's memory vLLM takes, most tokens of a prompt with its completion, and whether it gives its memory back while
    the policy is trained.
    """

    mode: Literal["colocate", "server"] = "colocate"
    server_base_url: str = "http://localhost:8000"
    server_timeout: float = 240.0
    weights_folder: Path | None = None
    gpu_memory_utilization: float = 0.3
    max_model_length: int | None = None
    enable_sleep_mode: bool = False


def open_vllm(
    model: nn.Module,
    tokenizer: Any,
    settings: VllmSettings,
    *,
    stop_ids: Sequence[int],
    note: Callable[[str], object] | None = None,
) -> VllmSampler:
    """A sampler by vLLM, holding ``model``'s weights already, its log-probs compared with the model's.

    Every process of a distributed run opens one. Raises ``PreftuneError`` where vLLM is not installed, a server is
    not up in time or cannot take weights over, and where the two disagree.
    """
    refuse_unfit(model)
    engine = _engine(model, tokenizer, settings, note or (lambda _: None))
    _refuse_stale_head(causal_model(model), engine)
    sampler = VllmSampler(model, engine, sorted(stop_ids))
    sampler.sync()
    _require_agreement(sampler, settings)
    return sampler


@dataclass
class VllmSampler:
    """Draws with ``engine``, which has the weights that ``model`` had at the last ``sync``."""

    model: nn.Module
    engine: Engine
    stop_ids: Sequence[int]
    _fingerprint: str | None = field(default=None, repr=False)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        sampling: Sampling,
        seed: int,
        progress: Callable[[int], object] | None = None,
    ) -> list[list[Drawn]]:
        """As ``protocol.Sampler`` has it, but for rounding: vLLM's depends on what is drawn beside a completion.

        Where that moves a draw, it moves the rest of the completion. VLLM_BATCH_INVARIANT=1 takes it away where vLLM
        has the kernels.
        """
        requests = requests_for(prompts, n, sampling, seed, self.engine.longest)
        if not requests or not n:
            return [[] for _ in requests]
        if self.engine.lacks_weights:
            self._hand_over()
        if sampling.temperature >= GREEDY_BELOW:
            return self.engine.complete(requests, sampling, self.stop_ids, progress)
        tell = None if progress is None else lambda done: progress(done * n)
        alone = [replace(request, n=1) for request in requests]  # vLLM refuses to draw the same several times
        return [one * n for one in self.engine.complete(alone, sampling, self.stop_ids, tell)]

    def sync(self) -> None:
        """Hands the model's weights over, unless none has moved since."""
        trained = ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)
        fingerprint = fingerprint_weights(trained)
        if fingerprint != self._fingerprint or self.engine.lacks_weights:
            self._hand_over()
            self._fingerprint = fingerprint

    def _hand_over(self) -> None:
        """By the first process of a distributed run; the others have the same weights, and the same server."""
        several = processes() > 1
        if not several or torch.distributed.get_rank() == 0:
            self.engine.load(checkpoint_tensors(self.model))
        if several:
            torch.distributed.barrier()


def processes() -> int:
    """How many processes train together."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _engine(model: nn.Module, tokenizer: Any, settings: VllmSettings, note: Callable[[str], object]) -> Engine:
    if settings.mode == "server":
        from preftune.rollout.vllm_server import open_server

        return open_server(settings.server_base_url, settings.server_timeout, settings.weights_folder, note)
    if processes() > 1:
        raise PreftuneError(
            "vLLM beside the policy is for one process.",
            where="vllm_mode",
            mend="Start a server and draw with --vllm_mode server.",
        )
    from preftune.rollout.vllm_in_process import open_in_process

    return open_in_process(
        causal_model(model),
        tokenizer,
        memory=settings.gpu_memory_utilization,
        longest=settings.max_model_length,
        sleeps=settings.enable_sleep_mode,
    )


def _refuse_stale_head(inner: Any, engine: Engine) -> None:
    """vLLM on a CPU packs an LM head anew when it is loaded, and one that is tied to the embeddings never is again."""
    head, embeddings = inner.get_output_embeddings(), inner.get_input_embeddings()
    if not engine.is_on_cpu or getattr(head, "weight", None) is not embeddings.weight:
        return
    if embeddings.weight.requires_grad or not engine.starts_with_weights:
        raise PreftuneError(
            "vLLM on a CPU keeps a copy of an LM head that is tied to the embeddings, and no update reaches it.",
            where=type(inner).__name__,
            mend="Draw with the built-in sampler, or on a GPU.",
        )


def _require_agreement(sampler: VllmSampler, settings: VllmSettings) -> None:
    """Raises where vLLM's log-probs of its own completions are not the policy's."""
    prompts = [list(group.prompt) for group in probe_groups(causal_model(sampler.model))]
    found = sampler.sample(prompts, 2, PROBE, 0)
    groups = [Group(prompt, tuple(one.tokens for one in two)) for prompt, two in zip(prompts, found, strict=True)]
    given = torch.cat([torch.from_numpy(one.log_probs) for two in found for one in two])
    if _differences(sampler.model, groups, given, PROBE.temperature) <= TOLERANCE:
        return
    is_raw = _differences(sampler.model, groups, given, 1.0) <= TOLERANCE
    what = "gives log-probs before temperature and truncation" if is_raw else "draws from another model than the policy"
    mend = "Start it with --logprobs-mode processed_logprobs." if is_raw else "Start it on the model that is trained."
    where = settings.server_base_url if settings.mode == "server" else None
    raise PreftuneError(f"vLLM {what}.", where=where, mend=mend)


def _differences(model: nn.Module, groups: Sequence[Group], given: torch.Tensor, temperature: float) -> float:
    """The upper quartile of the absolute differences, in nats: single tokens amplify rounding."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            own = completion_log_probs(model, groups, "logits", temperature).per_token
    finally:
        for module in training:
            module.training = True
    differences = (own.float().cpu() - given).abs().nan_to_num(float("inf"))
    return float(differences.quantile(0.75))
