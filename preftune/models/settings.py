"""Settings of the model: where it comes from, its precision, and the adapter."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ModelConfig(BaseModel):
    """Names are TRL's ``ModelConfig``, except for the prefix-free ``model``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="",
        description="Causal language model: folder, adapter folder, hub name, or GGUF file.",
        json_schema_extra={"needed": True},
    )
    tokenizer: str | None = Field(default=None, description="Where the tokenizer lies, if not with the model.")
    chat_template_path: str | None = Field(default=None, description="File with a chat template (Jinja) to use.")
    revision: str | None = Field(default=None, description="Revision of a hub model.")
    trust_remote_code: bool = Field(default=False, description="Run code that comes with the model.")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Precision of the weights; auto: bfloat16 where the device computes in it."
    )
    bf16: bool | None = Field(default=None, description="true is dtype bfloat16, false is float32.")
    attn_implementation: str | None = Field(
        default=None, description="transformers' attention for the paths that use it."
    )
    disable_dropout: bool = Field(default=True, description="Dropout off, so that policy and reference start equal.")

    use_peft: bool = Field(default=False, description="Train a LoRA adapter instead of all weights.")
    lora_r: int = Field(default=16, ge=1, description="LoRA rank.")
    lora_alpha: int = Field(default=32, ge=1, description="LoRA scale, divided by the rank.")
    lora_dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout before the adapter; above 0 it adds noise."
    )
    lora_target_modules: tuple[str, ...] = Field(default=("all-linear",), description="Modules that get an adapter.")
    lora_modules_to_save: tuple[str, ...] = Field(default=(), description="Modules trained whole beside the adapter.")
    use_rslora: bool = Field(default=False, description="Scale by the rank's root (rsLoRA).")
    use_dora: bool = Field(default=False, description="Weight-decomposed adapter (DoRA).")

    load_in_4bit: bool = Field(default=False, description="Frozen weights in 4 bits under the adapter (QLoRA).")
    load_in_8bit: bool = Field(default=False, description="Frozen weights in 8 bits under the adapter.")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field(default="nf4", description="The sixteen values of 4 bits.")
    use_bnb_nested_quant: bool = Field(default=False, description="The scales of 4-bit weights quantised too.")

    @model_validator(mode="after")
    def _quantised_weights_are_frozen(self) -> Self:
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other: choose one.")
        name = "load_in_4bit" if self.load_in_4bit else "load_in_8bit"
        if (self.load_in_4bit or self.load_in_8bit) and not self.use_peft:
            raise ValueError(f"{name}: quantised weights cannot be trained whole; add --use_peft.")
        return self
