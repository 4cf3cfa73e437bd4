"""What a model is, read off its files without loading a weight."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from preftune.errors import PreftuneError
from preftune.models.adapters import is_adapter, saved_adapter
from preftune.models.loading import find_config, load_tokenizer, resolve_source
from preftune.models.settings import ModelConfig

# Words by which the names of models that were taught to answer are known; a chat template alone is no proof, since
# some base models come with one.
_TAUGHT: Final = ("instruct", "chat", "-it", "assistant", "sft", "dpo", "rlhf", "zephyr", "tulu")
_UNTAUGHT: Final = ("base", "pretrain")


@dataclass(frozen=True)
class Sizes:
    """The sizes that memory and time follow from; ``body`` counts the parameters of the layers, ``head`` of the head.

    ``linear`` is the sum of inputs and outputs over the linear layers that an adapter goes on: a LoRA of rank r has
    r times as many parameters. ``inner`` is the width inside the feed-forward block, ``is_gated`` whether it has two
    projections into it.
    """

    parameters: int
    body: int
    head: int
    layers: int
    width: int
    heads: int
    key_value_heads: int
    head_width: int
    inner: int
    is_gated: bool
    vocabulary: int
    linear: int


@dataclass(frozen=True)
class ModelFacts:
    """A model by its files; ``is_taught`` is True where it answers already, and ``why_taught`` says what tells."""

    name: str
    architecture: str
    sizes: Sizes
    positions: int | None
    has_chat_template: bool
    is_taught: bool
    why_taught: str
    experts: int = 0

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**vars(self), "sizes": vars(self.sizes)}


def read_model(model: str, *, is_taught: bool | None = None) -> ModelFacts:
    """The facts of a model folder, adapter folder or hub name; PreftuneError where there is none.

    ``is_taught`` says what names and templates can only suggest.
    """
    config = ModelConfig(model=model)
    place = base_of(model)
    found = find_config(place, config)
    tokenizer = load_tokenizer(config)
    text = found.get_text_config()
    taught, why = _taught(model, bool(tokenizer.chat_template), is_taught)
    return ModelFacts(
        name=model,
        architecture=next(iter(getattr(found, "architectures", None) or []), str(found.model_type)),
        sizes=sizes_of(found, _stored_parameters(place)),
        positions=getattr(text, "max_position_embeddings", None),
        has_chat_template=bool(tokenizer.chat_template),
        is_taught=taught,
        why_taught=why,
        experts=int(getattr(text, "num_local_experts", None) or getattr(text, "num_experts", None) or 0),
    )


def sizes_of(config: Any, parameters: int | None = None) -> Sizes:
    """The sizes that transformers' config implies; ``parameters`` where they were counted.

    The module is made without memory (torch's meta device), so every architecture counts as it is.
    """
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(config)
        except (ValueError, KeyError, TypeError) as error:
            what = f"No causal language model is made from this config ({str(error).splitlines()[0]})."
            raise PreftuneError(what, where=str(getattr(config, "model_type", ""))) from error
    counted = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    embedding: Any = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    vocabulary, width = embedding.weight.shape
    is_tied = output is not None and output.weight is embedding.weight
    embedded = vocabulary * width * (1 if is_tied or output is None else 2)
    heads = int(text.num_attention_heads)
    inner = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * width
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return Sizes(
        parameters=parameters or counted,
        body=counted - embedded,
        head=vocabulary * width,
        layers=int(text.num_hidden_layers),
        width=width,
        heads=heads,
        key_value_heads=int(getattr(text, "num_key_value_heads", None) or heads),
        head_width=int(getattr(text, "head_dim", None) or width // heads),
        inner=int(inner),
        is_gated=bool(names & {"gate_proj", "gate_up_proj", "w3"}),
        vocabulary=vocabulary,
        linear=sum(sum(shape) for shape in _linear_shapes(model, output)),
    )


def _linear_shapes(model: Any, output: Any) -> Iterable[tuple[int, int]]:
    """(inputs, outputs) of every linear layer but the head, GPT-2's transposed ones among them."""
    for module in model.modules():
        kind = type(module).__name__
        if kind in ("Linear", "Conv1D") and module is not output and module.weight.ndim == 2:
            first, second = module.weight.shape
            yield first, second


def base_of(model: str) -> str:
    """Where the weights lie: of an adapter those of its base."""
    if not is_adapter(model):
        return resolve_source(model)
    return resolve_source(str(saved_adapter(Path(model).expanduser()).base_model_name_or_path))


def _stored_parameters(place: str) -> int | None:
    """Numbers in the safetensors files of a local folder, by their headers; None where there are none."""
    files = sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else []
    total = 0
    for file in files:
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                count = 1
                for length in entry["shape"]:
                    count *= length
                total += count
    return total or None


def _taught(model: str, has_template: bool, said: bool | None) -> tuple[bool, str]:
    if said is not None:
        return said, "you say so"
    name = Path(model).resolve().name.lower() if Path(model).exists() else model.lower()
    names = (name, model.rstrip("/").rpartition("/")[2].lower())  # a link keeps what it is called
    if any(word in one for one in names for word in _UNTAUGHT):
        return False, f"it is called {names[1]}"
    if any(word in one for one in names for word in _TAUGHT):
        return has_template, f"it is called {names[1]}" if has_template else "it has no chat template"
    return has_template, "it has a chat template" if has_template else "it has no chat template"
