"""How much memory a run takes at its peak, from what it must hold: weights, optimiser, gradients, activations.

Read off this package's own training (``models/``, ``training/optimizer.py``): bfloat16 weights have float32 masters
and moments, 12 bytes a trained number; float32 ones 8. The reference of a run on pairs is a table, no second model.
A layer keeps for the backward pass, of each position:

    4 width + 2 heads x head_width + 2 key_value_heads x head_width + 2 inner

numbers (3 inner where an adapter lies on the gated block's last product): the inputs of both norms and of every
product, queries, keys, values, and what goes into the gate; beside them the attention scores of segments up to 1,024
tokens that are computed whole. `python -m benchmarks.advise` holds this against real runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from preftune.advise.machine_facts import MIB
from preftune.advise.model_facts import Sizes
from preftune.advise.workload import ONLINE, WITH_VALUES, Shape, Workload
from preftune.models.head import CHUNK_TOKENS, SAVED_PROBABILITIES_BYTES
from preftune.rollout.cache import FIRST_ROOM
from preftune.rollout.engine import CACHE_BYTES, ROWS
from preftune.rollout.packing import PACKED_BYTES

# Python, torch, transformers and what they keep after loading a model: 703 MiB before the first step less 257 of
# weights, in benchmarks/results/offline-amd-epyc-2-cores.json (SFT). A CUDA context takes about as much of the device;
# that was never measured here.
PROCESS_MIB: Final = 450.0
# More with an adapter: of libraries, 65, and of what the passes leave that compare it with its reference beforehand.
PEFT_MIB: Final = 140.0
# What glibc cannot use again where micro-batches differ in shape: a step of 778 positions and then one of 970 grew the
# process by 388 MiB more than the first had taken, of 615 that the second needs (`DPO, LoRA` of `benchmarks.advise`).
FRAGMENTED: Final = 0.35
RECOMPUTED_LAYERS: Final = 6  # whose activations stay in the heap while layers are computed twice (same benchmark)
MASTER, MOMENTS, BANKED = 4, 8, 4  # bytes a trained number
FOUR_BITS, EIGHT_BITS = 0.5 + 4 / 64, 1.0  # bytes a quantised weight, scales included
LINEAR_LAYERS = 7  # of a layer, each with an adapter


@dataclass(frozen=True)
class MemoryEstimate:
    """MiB at the peak, and of what; on a GPU only the larger of ``drawing`` and of what training holds counts."""

    peak: float
    parts: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"peak_mib": self.peak, "parts_mib": dict(self.parts), "notes": list(self.notes)}


def estimate_memory(
    workload: Workload,
    config: Any,
    sizes: Sizes,
    *,
    has_bfloat16: bool,
    device: str = "cpu",
    reward_models: tuple[float, ...] = (),
) -> MemoryEstimate:
    """The peak of training by the settings of ``config``; ``reward_models`` are the parameters of further ones."""
    width = _bytes_a_number(config, has_bfloat16)
    trained = trained_parameters(config, sizes)
    shape = workload.largest
    weights = _weights(config, sizes, width)
    parts = {
        "process": PROCESS_MIB + (PEFT_MIB if config.use_peft else 0.0),
        "weights": weights / MIB,
        "other models": _other_models(workload, config, sizes, width, weights, reward_models) / MIB,
        "optimiser": trained * (MOMENTS + (MASTER if width == 2 else 0)) / MIB,
    }
    held = sum(parts.values())
    activations = _activations(config, sizes, shape, width, device)
    if workload.method in WITH_VALUES:  # the value model's optimiser stands beside the policy's, and both graphs
        own = trained_parameters(config, sizes) - (0 if config.use_peft else sizes.head)
        parts["optimiser"] += own * (MOMENTS + (MASTER if width == 2 else 0)) / MIB
        held = sum(parts.values())
        trained += own
        activations *= 2
    is_banked = workload.micro_batches > 1
    gradients = trained * (BANKED if is_banked or width == 4 else width)
    saved, passing = _head(config, sizes, shape, width)
    if workload.method == "reward":
        saved = passing = 0.0
    if device == "cpu" and workload.largest.positions > workload.typical.positions:
        activations *= 1 + FRAGMENTED
    parts["activations"] = activations / MIB
    parts["head"] = (saved + passing) / MIB
    parts["gradients"] = gradients / MIB
    # The blocks that activations leave are too small for gradients, so both are held when the last of them is made.
    peak = held + (activations + saved + passing + gradients) / MIB
    notes = []
    if workload.method in ONLINE:
        parts["drawing"] = _drawing(workload, config, sizes, width, device) / MIB
        # On a CPU its blocks do not fit training's and stay beside them (`GRPO, LoRA` of `benchmarks.advise`).
        peak = peak + parts["drawing"] if device == "cpu" else max(peak, held + parts["drawing"])
    if device == "cuda":
        notes.append("On a GPU the estimate was never held against a run.")
    return MemoryEstimate(peak, {name: value for name, value in parts.items() if value >= 0.05}, tuple(notes))


def trained_parameters(config: Any, sizes: Sizes) -> int:
    """All of them, or those of the adapter on every linear layer."""
    return config.lora_r * sizes.linear if config.use_peft else sizes.parameters


def _bytes_a_number(config: Any, has_bfloat16: bool) -> int:
    if config.bf16 is not None:
        return 2 if config.bf16 else 4
    if config.dtype != "auto":
        return {"float32": 4, "bfloat16": 2}[config.dtype]
    return 2 if has_bfloat16 else 4


def _weights(config: Any, sizes: Sizes, width: int) -> float:
    if not (config.load_in_4bit or config.load_in_8bit):
        return sizes.parameters * width + (config.lora_r * sizes.linear * width if config.use_peft else 0)
    quantised = FOUR_BITS if config.load_in_4bit else EIGHT_BITS
    return sizes.body * quantised + (sizes.parameters - sizes.body + config.lora_r * sizes.linear) * width


def _other_models(
    workload: Workload, config: Any, sizes: Sizes, width: int, weights: float, reward_models: tuple[float, ...]
) -> float:
    """A reference that lies beside the policy, a value model, and reward models."""
    total = sum(reward_models) * width
    is_priced = getattr(config, "beta", 0) > 0 if workload.method in ("grpo", "rloo") else workload.method in ONLINE
    computes_once = getattr(config, "precompute_ref_log_probs", None)
    offline_live = workload.method not in ONLINE and computes_once is False
    if not config.use_peft and (is_priced or offline_live):
        total += weights
    if getattr(config, "ref_model", None):
        total += weights
    if workload.method in WITH_VALUES and not getattr(config, "share_reward_trunk", False):
        total += weights - sizes.head * width * (sizes.parameters > sizes.body + sizes.head)
    return total


def _activations(config: Any, sizes: Sizes, shape: Shape, width: int, device: str) -> float:
    """Bytes kept for the backward pass of ``shape``."""
    attention = (2 * sizes.heads + 2 * sizes.key_value_heads) * sizes.head_width
    a_position = 4 * sizes.width + attention + (3 if sizes.is_gated and config.use_peft else 2) * sizes.inner
    if config.use_peft:
        a_position += LINEAR_LAYERS * config.lora_r
    scores = shape.scores * sizes.heads if device == "cpu" else 0
    a_layer = (a_position * shape.positions + scores) * width
    if config.gradient_checkpointing:
        return RECOMPUTED_LAYERS * a_layer + sizes.layers * sizes.width * shape.positions * width
    return sizes.layers * a_layer


def _head(config: Any, sizes: Sizes, shape: Shape, width: int) -> tuple[float, float]:
    """Bytes of kept probabilities, and of the logits of a chunk."""
    kept = float(shape.targets) * sizes.vocabulary * width
    passing = min(CHUNK_TOKENS, shape.targets) * sizes.vocabulary * 4.0
    return (kept, passing) if kept <= SAVED_PROBABILITIES_BYTES else (0.0, 2 * passing)


def _drawing(workload: Workload, config: Any, sizes: Sizes, width: int, device: str) -> float:
    """Bytes of keys and values, of logits, and of weights laid out for decoding, while completions are drawn."""
    a_token = 2 * sizes.layers * sizes.key_value_heads * sizes.head_width * width
    prompt = workload.largest.groups[0][0]
    longest, room = config.max_completion_length, FIRST_ROOM
    while room < longest:
        room *= 2
    rows = min(ROWS, workload.drawn, max(1, int(CACHE_BYTES / a_token) // (prompt + longest)))
    prompts = max(1, rows // config.num_generations)
    cache = a_token * (rows * room + prompts * prompt)
    packed = min(sizes.body * width, PACKED_BYTES) if device == "cpu" else 0.0
    return cache + packed + 3.0 * rows * sizes.vocabulary * 4
