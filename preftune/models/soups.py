"""Weights between aligned models: "rewarded soups" (Rame et al. 2023, arXiv:2306.04488).

Models trained from one start towards different goals lie near enough that the mean of their weights is a model too,
and weighing them trades one goal for another without training. For whole models that is the mean of each tensor. For
LoRA adapters it is the mean of the updates, sum of w_i s_i B_i A_i, and not of A and B apart, whose product would mix
every model with every other: the ranks are put side by side, so the update is exact and the soup's rank is the sum.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from preftune.durable import explained_errors, write_json
from preftune.errors import PreftuneError
from preftune.models.adapters import is_adapter
from preftune.models.tensor_files import Stored, StoredTensors, stored_tensors, write_tensors

SOUP_FILE = "soup.json"
_WEIGHTS, _ADAPTER = "model.safetensors", "adapter_model.safetensors"
_SUM_TOLERANCE = 1e-6
_SHOWN = 4  # differences told at once
# Of a model's config what says nothing of how its weights are used.
_INDIFFERENT: Final = frozenset(
    {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "bos_token_id", "eos_token_id",
     "pad_token_id"}
)  # fmt: skip
# Of an adapter's config what may differ, and what the soup gets anew.
_OF_RANK = ("r", "lora_alpha", "use_rslora")
_ADAPTER_INDIFFERENT: Final = frozenset(
    {*_OF_RANK, "inference_mode", "lora_dropout", "peft_version", "revision", "auto_mapping", "base_model_name_or_path"}
)
# Not of the soup: calibrations and cards belong to the models that went in.
_NOT_COPIED: Final = frozenset({"README.md", "reward.json", SOUP_FILE, ".lock"})
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".index.json")


def interpolate(folders: Sequence[Path], weights: Sequence[float], output: Path) -> Path:
    """The model folder ``output``, whose weights are the weighted mean of those of ``folders``.

    All are whole models of one architecture, or LoRA adapters of one base. One tensor of each is in memory at a time;
    the mean is computed in float32 (float64 for float64), and each tensor keeps its dtype, the widest where models
    differ. A model with weight 0 adds nothing; with weight 1 the soup has its very bits. Tokenizer and config are
    the first model's; ``soup.json`` says what went in. Raises PreftuneError where the models do not fit together.
    """
    folders = [Path(folder).expanduser() for folder in folders]
    _require_weights(folders, weights)
    kinds = {is_adapter(str(folder)) for folder in folders}
    if len(kinds) > 1:
        raise PreftuneError(
            "Whole models and adapters do not mix.",
            where=", ".join(map(str, folders)),
            mend="Give only whole models, or only adapters of one base.",
        )
    if output.exists():
        raise PreftuneError("There is something here already.", where=str(output), mend="Choose another --output.")
    aside = output.with_name(f".{output.name}-new")
    shutil.rmtree(aside, ignore_errors=True)
    with explained_errors(output):
        aside.mkdir(parents=True)
        try:
            (_mix_adapters if kinds == {True} else _mix_models)(folders, weights, aside)
            _copy_beside(folders[0], aside)
            sources = [{"model": str(f), "weight": float(w)} for f, w in zip(folders, weights, strict=True)]
            write_json(aside / SOUP_FILE, {"soup_of": sources})
            aside.rename(output)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    return output


def sweep_weights(steps: int) -> list[tuple[float, float]]:
    """The weights of two models at ``steps`` equal distances, from all of the first to all of the second."""
    if steps < 2:
        raise PreftuneError(f"A sweep has at least 2 steps, not {steps}.", where="--steps")
    return [(1 - second, second) for second in (number / (steps - 1) for number in range(steps))]


def _require_weights(folders: Sequence[Path], weights: Sequence[float]) -> None:
    if len(folders) < 2:
        raise PreftuneError("A soup is made of two models or more.", mend="For example preftune soup A B -o OUT.")
    if len(weights) != len(folders):
        what = f"There are {len(folders)} models and {len(weights)} weights."
        raise PreftuneError(what, where="--weights", mend="Give one each, for example 0.5,0.5.")
    total = math.fsum(weights)
    if not all(map(math.isfinite, weights)) or abs(total - 1) > _SUM_TOLERANCE:
        told = ", ".join(f"{weight:g}" for weight in weights)
        raise PreftuneError(f"The weights {told} sum to {total:g}, not to 1.", where="--weights")
    for folder in folders:
        if not folder.is_dir():
            raise PreftuneError("There is no such model folder.", where=str(folder), mend="Check the path.")


# --- whole models ---------------------------------------------------------------------------------------


def _mix_models(folders: Sequence[Path], weights: Sequence[float], aside: Path) -> None:
    _require_same_config(folders, "config.json", _INDIFFERENT, "architecture")
    _require_same_vocabulary(folders)
    models = [stored_tensors(folder) for folder in folders]
    _require_same_tensors(folders, models)
    layout = {name: _widest([model[name] for model in models]) for name in models[0]}

    def mixed(name: str) -> Tensor:
        return _mean([model[name] for model in models], weights, layout[name].dtype, name)

    write_tensors(aside / _WEIGHTS, layout, mixed)


def _require_same_tensors(folders: Sequence[Path], models: Sequence[StoredTensors]) -> None:
    first = models[0]
    for folder, model in zip(folders[1:], models[1:], strict=True):
        if lacking := sorted(first.keys() - model.keys()):
            raise _misfit(f"it has no {lacking[0]}{_and_more(lacking)}, which the first has", folders[0], folder)
        if stray := sorted(model.keys() - first.keys()):
            raise _misfit(f"it has {stray[0]}{_and_more(stray)}, which the first has not", folders[0], folder)
        for name, stored in model.items():
            if stored.shape != first[name].shape:
                shapes = f"{name} is {_times(stored.shape)} and there {_times(first[name].shape)}"
                raise _misfit(shapes, folders[0], folder)


def _widest(stored: Sequence[Stored]) -> Stored:
    dtype = stored[0].dtype
    for one in stored[1:]:
        dtype = torch.promote_types(dtype, one.dtype)
    return Stored(stored[0].file, stored[0].name, stored[0].shape, dtype)


def _mean(stored: Sequence[Stored], weights: Sequence[float], dtype: torch.dtype, name: str) -> Tensor:
    """The weighted mean in ``dtype``; tensors of whole numbers must be equal."""
    if not dtype.is_floating_point:
        first, *others = (one.read() for one in stored)
        if not all(torch.equal(first, other) for other in others):
            raise PreftuneError(
                f"{name} holds whole numbers that differ: they have no mean.", where=str(stored[0].file)
            )
        return first
    if max(one.dtype.itemsize for one in stored) < 2:
        what = f"{name} is stored in {str(dtype).removeprefix('torch.')}: quantised weights have no plain mean."
        raise PreftuneError(what, where=str(stored[0].file), mend="Give models in float32 or bfloat16.")
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    total: Tensor | None = None
    for one, weight in zip(stored, weights, strict=True):
        if weight == 0:
            continue
        part = one.read().to(precision)
        part = part if weight == 1 else part * weight
        total = part if total is None else total + part
    assert total is not None  # the weights sum to 1
    return total.to(dtype)


# --- adapters -------------------------------------------------------------------------------------------


def _mix_adapters(folders: Sequence[Path], weights: Sequence[float], aside: Path) -> None:
    configs = [_read_json(folder / "adapter_config.json") for folder in folders]
    _require_same_base(folders, configs)
    _require_same_config(folders, "adapter_config.json", _ADAPTER_INDIFFERENT, "kind of adapter")
    for folder, config in zip(folders, configs, strict=True):
        _require_plain_lora(folder, config)
    models = [stored_tensors(folder, _ADAPTER) for folder in folders]
    used = [number for number, weight in enumerate(weights) if weight != 0]
    if len(used) == 1:  # its own rank and scale, and so its very bits
        used_config, scales = configs[used[0]], [1.0]
    else:
        rank = sum(int(configs[number]["r"]) for number in used)
        used_config = configs[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False}
        scales = [weights[number] * _scale(configs[number]) for number in used]
    models = [models[number] for number in used]
    _require_same_names([folders[number] for number in used], models)
    layout = {name: _side_by_side([model[name] for model in models]) for name in models[0]}
    shares = [weights[number] for number in used]

    def mixed(name: str) -> Tensor:
        stored = [model[name] for model in models]
        along = _rank_dimension(name)
        if along is None:  # heads and other modules that were trained whole
            return _mean(stored, shares, layout[name].dtype, name)
        factors = scales if along == 1 else [1.0] * len(stored)
        parts = [one.read().float() * factor for one, factor in zip(stored, factors, strict=True)]
        return torch.cat(parts, along).to(layout[name].dtype)

    write_tensors(aside / _ADAPTER, layout, mixed)
    write_json(aside / "adapter_config.json", used_config | {"inference_mode": True})


def _side_by_side(stored: Sequence[Stored]) -> Stored:
    along, widest = _rank_dimension(stored[0].name), _widest(stored)
    if along is None:
        return widest
    shape = list(widest.shape)
    shape[along] = sum(one.shape[along] for one in stored)
    return Stored(widest.file, widest.name, tuple(shape), widest.dtype)


def _rank_dimension(name: str) -> int | None:
    """Where the rank lies: rows of A, columns of B; None for tensors that are no part of a product."""
    if ".lora_A." in name or ".lora_embedding_A" in name:
        return 0
    return 1 if ".lora_B." in name or ".lora_embedding_B" in name else None


def _scale(config: Mapping[str, Any]) -> float:
    """What peft multiplies BA by."""
    rank = int(config["r"])
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _require_same_base(folders: Sequence[Path], configs: Sequence[Mapping[str, Any]]) -> None:
    bases = [str(config.get("base_model_name_or_path") or "") for config in configs]
    for folder, base in zip(folders[1:], bases[1:], strict=True):
        if base != bases[0] and _resolved(base) != _resolved(bases[0]):
            what = f"its base is {base or 'not said'} and the first one's {bases[0] or 'not said'}"
            raise _misfit(what, folders[0], folder, "Adapters of one base can be mixed; merge others into theirs.")


def _resolved(base: str) -> Path | str:
    return Path(base).resolve() if Path(base).exists() else base


def _require_plain_lora(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises for adapters whose update is no product of two matrices with one scale."""
    kind = str(config.get("peft_type") or "LORA")
    what = {
        f"it is {kind}": kind != "LORA",
        "it is DoRA, whose lengths do not add up": bool(config.get("use_dora")),
        "its products have biases": bool(config.get("lora_bias")),
        "its modules have ranks of their own": bool(config.get("rank_pattern") or config.get("alpha_pattern")),
    }
    found = next((words for words, applies in what.items() if applies), None)
    if found is not None:
        raise PreftuneError(
            f"This adapter cannot be mixed: {found}.",
            where=str(folder),
            mend="Merge each adapter into its base and give the whole models.",
        )


def _require_same_names(folders: Sequence[Path], models: Sequence[StoredTensors]) -> None:
    first = models[0]
    for folder, model in zip(folders[1:], models[1:], strict=True):
        if different := sorted(first.keys() ^ model.keys()):
            what = f"{different[0]}{_and_more(different)} is in one of them only"
            raise _misfit(what, folders[0], folder, "Train both with the same --lora_target_modules.")
        for name, stored in model.items():
            along = _rank_dimension(name)
            ours, theirs = (_without(shape, along) for shape in (first[name].shape, stored.shape))
            if ours != theirs:
                raise _misfit(
                    f"{name} is {_times(stored.shape)} and there {_times(first[name].shape)}", folders[0], folder
                )


def _without(shape: Sequence[int], dimension: int | None) -> tuple[int, ...]:
    return tuple(size for place, size in enumerate(shape) if place != dimension)


# --- do they fit together -------------------------------------------------------------------------------


def _require_same_config(folders: Sequence[Path], name: str, indifferent: frozenset[str], what: str) -> None:
    first = _read_json(folders[0] / name)
    for folder in folders[1:]:
        other = _read_json(folder / name)
        found = [
            f"{key} is {_told(other.get(key))} and there {_told(first.get(key))}"
            for key in sorted((first.keys() | other.keys()) - indifferent)
            if _comparable(other.get(key)) != _comparable(first.get(key))
        ]
        if found:
            raise _misfit(f"their {what} differs: {'; '.join(found[:_SHOWN])}", folders[0], folder)


def _require_same_vocabulary(folders: Sequence[Path]) -> None:
    """Raises where a token has another number; models without a tokenizer.json are not looked at."""
    present = [folder for folder in folders if (folder / "tokenizer.json").is_file()]
    if len(present) < 2:
        return
    first = _vocabulary(present[0])
    for folder in present[1:]:
        other = _vocabulary(folder)
        if first != other:
            token = min(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))
            what = f"their vocabularies differ: {token!r} is {_number(other, token)} and there {_number(first, token)}"
            raise _misfit(what, present[0], folder)


def _vocabulary(folder: Path) -> dict[str, Any]:
    document = _read_json(folder / "tokenizer.json")
    words = document.get("model", {}).get("vocab") or {}
    if isinstance(words, list):  # of a unigram model: token and score
        words = {str(entry[0]): number for number, entry in enumerate(words)}
    return words | {str(token.get("content")): token.get("id") for token in document.get("added_tokens") or []}


def _number(vocabulary: Mapping[str, Any], token: str) -> str:
    return f"number {vocabulary[token]}" if token in vocabulary else "no token"


def _comparable(value: Any) -> Any:
    """Names, such as those of target modules, are listed in any order, by peft also twice; figures are not."""
    return set(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PreftuneError(
            f"There is no {file.name} here.", where=str(file.parent), mend="Give a model folder."
        ) from error
    except (OSError, ValueError) as error:
        raise PreftuneError(f"It cannot be read ({error}).", where=str(file)) from error
    if not isinstance(content, dict):
        raise PreftuneError("It should hold named values.", where=str(file))
    return content


def _misfit(
    what: str, first: Path, other: Path, mend: str = "Give models that were trained from one start."
) -> PreftuneError:
    return PreftuneError(f"It does not go with {first}: {what}.", where=str(other), mend=mend)


def _and_more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _told(value: Any) -> str:
    text = "not said" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _copy_beside(source: Path, target: Path) -> None:
    """Tokenizer, template, generation settings: every file that holds no weights and is not written already."""
    for path in sorted(source.iterdir()):
        is_weight = path.name.endswith(_WEIGHT_ENDINGS)
        if path.is_file() and not is_weight and path.name not in _NOT_COPIED and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
