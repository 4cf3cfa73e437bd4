"""The settings of what draws completions: how they are drawn, and by which engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from preftune.methods.settings import RunConfig
from preftune.rollout.protocol import Sampling
from preftune.rollout.vllm_sampler import VllmSettings


class SamplerConfig(RunConfig):
    """A run that draws completions; names are TRL's."""

    max_completion_length: int = Field(default=256, ge=1, description="Most tokens of a completion.")
    temperature: float = Field(
        default=1.0, gt=0, description="Of sampling, and of every log-prob the loss compares it with."
    )
    top_p: float = Field(default=1.0, gt=0, le=1, description="Draw from the likeliest tokens of this mass; 1: all.")
    top_k: int = Field(default=0, ge=0, description="Draw from so many likeliest tokens; 0: all.")
    min_p: float = Field(default=0.0, ge=0, lt=1, description="Leave out tokens this much less likely than the top.")
    stop: tuple[str, ...] = Field(default=(), description="Strings that end a completion.")

    use_vllm: bool = Field(default=False, description="vLLM draws, instead of the built-in sampler.")
    vllm_mode: Literal["colocate", "server"] = Field(
        default="colocate", description="vLLM beside the policy in this process, or a server of its own."
    )
    vllm_server_base_url: str = Field(default="http://localhost:8000", description="Where the server is.")
    vllm_server_timeout: float = Field(default=240.0, gt=0, description="Seconds to wait for the server to be up.")
    vllm_weights_folder: str | None = Field(
        default=None, description="Folder that server and training see, for weights; unset: /dev/shm."
    )
    vllm_gpu_memory_utilization: float = Field(
        default=0.3, gt=0, le=1, description="Part of the device's memory that vLLM takes beside the policy."
    )
    vllm_max_model_length: int | None = Field(
        default=None, ge=2, description="Most tokens of prompt and completion in vLLM; unset: max_length."
    )
    vllm_enable_sleep_mode: bool = Field(
        default=False, description="vLLM gives its memory back while the policy is trained."
    )

    @model_validator(mode="after")
    def _is_asked_for(self) -> Self:
        if self.vllm_mode == "server" and not self.use_vllm:
            raise ValueError("vllm_mode: server does nothing without --use_vllm.")
        return self

    @property
    def sampling(self) -> Sampling:
        """How completions are drawn in training."""
        return Sampling(
            self.max_completion_length, self.temperature, self.top_p, self.top_k, self.min_p, tuple(self.stop)
        )

    @property
    def vllm(self) -> VllmSettings:
        """How vLLM is opened."""
        folder = self.vllm_weights_folder
        return VllmSettings(
            mode=self.vllm_mode,
            server_base_url=self.vllm_server_base_url,
            server_timeout=self.vllm_server_timeout,
            weights_folder=None if folder is None else Path(folder).expanduser(),
            gpu_memory_utilization=self.vllm_gpu_memory_utilization,
            max_model_length=self.vllm_max_model_length or self.max_length,
            enable_sleep_mode=self.vllm_enable_sleep_mode,
        )
