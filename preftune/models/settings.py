"""Settings of the model: where it comes from, its precision, and the adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ModelConfig(BaseModel):
    """Names are TRL's ``ModelConfig``, except for the prefix-free ``model``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Causal language model: folder, adapter folder, hub name, or GGUF file.")
    tokenizer: str | None = Field(None, description="Where the tokenizer lies, if not with the model.")
    chat_template_path: str | None = Field(None, description="File with a chat template (Jinja) to use.")
    revision: str | None = Field(None, description="Revision of a hub model.")
    trust_remote_code: bool = Field(False, description="Run code that comes with the model.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the weights; auto: bfloat16 where the device computes in it."
    )
    bf16: bool | None = Field(None, description="true is dtype bfloat16, false is float32.")
    attn_implementation: str | None = Field(None, description="transformers' attention for the paths that use it.")
    disable_dropout: bool = Field(True, description="Dropout off, so that policy and reference start equal.")

    use_peft: bool = Field(False, description="Train a LoRA adapter instead of all weights.")
    lora_r: int = Field(16, ge=1, description="LoRA rank.")
    lora_alpha: int = Field(32, ge=1, description="LoRA scale, divided by the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter; above 0 it adds noise.")
    lora_target_modules: tuple[str, ...] = Field(("all-linear",), description="Modules that get an adapter.")
    lora_modules_to_save: tuple[str, ...] = Field((), description="Modules trained whole beside the adapter.")
    use_rslora: bool = Field(False, description="Scale by the rank's root (rsLoRA).")
    use_dora: bool = Field(False, description="Weight-decomposed adapter (DoRA).")
