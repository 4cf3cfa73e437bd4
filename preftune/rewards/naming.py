"""Rewards by what names them: a function's name, a place in Python, a reward model's folder, a judge, a callable."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from pydantic import ValidationError

from preftune.errors import PreftuneError
from preftune.rewards.calling import Asked, Member, Outcome, Problem, Rewards, function_member, one_by_one_member
from preftune.rewards.functions import FUNCTIONS, TRL_NAMES
from preftune.rewards.specs import Spec, parse_spec, read_mapping

if TYPE_CHECKING:
    from preftune.rewards.scoring import Scorer

JUDGE: Final = "judge:"
TIMEOUT: Final = 60.0
WORKERS: Final = 8


def open_rewards(
    specs: Sequence[str | Callable[..., Any] | Mapping[str, Any] | Scorer],
    weights: Sequence[float] | None = None,
    *,
    note: Callable[[str], object] | None = None,
    max_length: int | None = None,
    batch_size: int = 16,
    timeout: float | None = TIMEOUT,
    workers: int = WORKERS,
) -> Rewards:
    """The rewards that ``specs`` name, ready to be asked, with their weights (1 where none are given).

    A spec is a name of ``functions.FUNCTIONS``, ``module:function``, ``path/file.py:function``, the folder of a reward
    model, an opened ``scoring.Scorer``, ``judge:MODEL``, a callable (sync or async), or a mapping of ``reward`` with
    arguments, ``weight`` and ``name``. ``timeout`` (seconds) is for one call of a user's function or a judge; without
    it functions run in the caller's thread. ``workers`` is how many answers a judge is sent at once; ``max_length``
    (tokens) and ``batch_size`` are for reward models.
    """
    if timeout is not None and not timeout > 0:
        raise PreftuneError(f"The time-out of rewards is {timeout} s.", mend="It must be above 0.")
    if isinstance(specs, str) or not specs:
        raise PreftuneError("No rewards are given.", mend="Give a list of them; `accuracy` is one.")
    read = [_read(spec) for spec in specs]
    chosen = _weights(read, weights)
    names = _distinct_names([spec.name or _short_name(spec.place, function) for spec, function in read])
    opening = partial(_open, note=note, max_length=max_length, batch_size=batch_size, timeout=timeout, workers=workers)
    members = [opening(name, spec, function) for name, (spec, function) in zip(names, read, strict=True)]
    return Rewards(tuple(members), chosen)


def _read(spec: str | Callable[..., Any] | Mapping[str, Any] | Scorer) -> tuple[Spec, Any]:
    """The spec, and the function where it is one itself."""
    if isinstance(spec, Mapping):
        return read_mapping(spec), None
    if isinstance(spec, str):
        return (Spec(spec) if Path(spec).expanduser().is_dir() and spec not in FUNCTIONS else parse_spec(spec)), None
    if "torch" in sys.modules and isinstance(spec, sys.modules["torch"].nn.Module):
        raise PreftuneError("A reward is given as a model.", mend="Give the folder it is saved in, tokenizer included.")
    if not callable(spec) and not _is_scorer(spec):
        raise PreftuneError(f"A reward is given as {spec!r}.", mend="Give a name, a place, a mapping or a function.")
    return Spec(""), spec


def _is_scorer(given: Any) -> TypeGuard[Scorer]:
    """True for an opened reward model; without importing what opens one."""
    scoring = sys.modules.get("preftune.rewards.scoring")
    return scoring is not None and isinstance(given, scoring.Scorer)


def _open(
    name: str,
    spec: Spec,
    function: Callable[..., Any] | None,
    *,
    note: Callable[[str], object] | None,
    max_length: int | None,
    batch_size: int,
    timeout: float | None,
    workers: int,
) -> Member:
    known = TRL_NAMES.get(spec.place, spec.place)
    if _is_scorer(function):
        return scorer_member(name, function, max_length=max_length, batch_size=batch_size)
    if function is not None:
        return function_member(name, function, timeout=timeout)
    if known in FUNCTIONS:
        return function_member(name, _made(spec.place, FUNCTIONS[known], spec.arguments), timeout=None)
    if spec.place.startswith(JUDGE):
        return _judge_member(name, spec, timeout, workers)
    if Path(spec.place).expanduser().is_dir():
        _require_no_arguments(spec, "A reward model")
        return _model_member(name, Path(spec.place).expanduser(), note, max_length, batch_size)
    if ":" in spec.place:
        return function_member(name, _bound(spec.place, _imported(spec.place), spec.arguments), timeout=timeout)
    raise _unknown(spec.place)


# --- named functions and judges -------------------------------------------------------------------------


def _made(place: str, maker: Callable[..., Callable[..., Any]], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        return maker(**arguments)
    except ValidationError as error:
        problems = "; ".join(_problem(one["loc"], one["msg"]) for one in error.errors())
        raise PreftuneError(f"The reward {place} cannot be made: {problems}.", mend=_takes(place, maker)) from error


def _problem(place: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(str(part) for part in place)}: {message[:1].lower()}{message[1:]}"


def _takes(place: str, maker: Callable[..., Any]) -> str:
    parameters = inspect.signature(maker).parameters.values()
    if not parameters:
        return f"{place} takes no arguments."
    shown = ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
    return f"It takes {place}({shown})."


def _judge_member(name: str, spec: Spec, timeout: float | None, workers: int) -> Member:
    from preftune.rewards.judge import open_judge

    opened = _made(
        spec.place, open_judge, {"model": spec.place.removeprefix(JUDGE), "timeout": timeout} | spec.arguments
    )
    return one_by_one_member(name, opened, workers=workers, timeout=timeout)


# --- reward models --------------------------------------------------------------------------------------


def scorer_member(name: str, scorer: Scorer, *, max_length: int | None, batch_size: int) -> Member:
    """An opened reward model as a reward; it is given texts, for its vocabulary may be another than the policy's."""
    from preftune.rewards.scoring import score_texts

    def ask(asked: Asked) -> list[Outcome]:
        scores = score_texts(scorer, asked.prompts, asked.completions, batch_size=batch_size, max_length=max_length)
        why = {int(dropped.id): dropped.reason for dropped in scores.dropped}
        return [
            float(value) if math.isfinite(value) else Problem(why.get(number, f"the score is {value}"))
            for number, value in enumerate(scores.values)
        ]

    return Member(name, ask, own_thread=False)


def _model_member(
    name: str, folder: Path, note: Callable[[str], object] | None, max_length: int | None, batch_size: int
) -> Member:
    from preftune.models.settings import ModelConfig
    from preftune.rewards.scoring import open_scorer

    scorer = open_scorer(ModelConfig(model=str(folder)), note=note)
    return scorer_member(name, scorer, max_length=max_length, batch_size=batch_size)


# --- functions of the user ------------------------------------------------------------------------------


def _imported(place: str) -> Callable[..., Any]:
    """The function at ``module:function`` or ``path/file.py:function``."""
    where, _, name = place.rpartition(":")
    try:
        module = _module_of_file(Path(where).expanduser()) if where.endswith(".py") else importlib.import_module(where)
    except PreftuneError:
        raise
    except Exception as error:
        raise PreftuneError(
            f"The reward {place} cannot be imported ({type(error).__name__}: {error}).",
            mend="Give an installed module, or a file as path/file.py:function.",
        ) from error
    try:
        function = attrgetter(name)(module)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [key for key in vars(module) if not key.startswith("_")], 1)
        raise PreftuneError(
            f"There is no function {name!r}.", where=where, mend=f"Did you mean {near[0]}?" if near else None
        ) from error
    if not callable(function):
        raise PreftuneError(f"{name} is no function.", where=where)
    return function


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise PreftuneError("There is no such file.", where=str(path), mend="A reward is path/file.py:function.")
    name = f"preftune_reward_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look themselves up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _bound(place: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    if not arguments:
        return function
    try:
        inspect.signature(function).bind_partial(**arguments)
    except TypeError as error:
        raise PreftuneError(f"The reward {place} does not take what it is given: {error}.") from error
    except ValueError:  # it does not say what it takes
        pass
    return partial(function, **arguments)


def _require_no_arguments(spec: Spec, kind: str) -> None:
    if spec.arguments:
        raise PreftuneError(f"{kind} takes no arguments, and {spec.place} has {', '.join(spec.arguments)}.")


# --- names and weights ----------------------------------------------------------------------------------


def _short_name(place: str, function: Callable[..., Any] | None) -> str:
    """The name for metrics: the function's, the folder's (of DIR/model that of DIR), or judge."""
    if _is_scorer(function):
        return _short_name(function.name, None)
    if function is not None:
        inner = function.func if isinstance(function, partial) else function
        return getattr(inner, "__name__", type(inner).__name__)
    if place in TRL_NAMES or place in FUNCTIONS:
        return place
    if place.startswith(JUDGE):
        return "judge"
    folder = Path(place).expanduser()
    if folder.is_dir():
        resolved = folder.resolve()
        return resolved.parent.name if resolved.name == "model" else resolved.name
    return place.rpartition(":")[2]


def _distinct_names(names: Sequence[str]) -> list[str]:
    """The names fit for a metric's name, the second of a kind with _2 behind it."""
    distinct: list[str] = []
    for name in (re.sub(r"[^\w.-]+", "_", name).strip("_") or "reward" for name in names):
        free = (candidate for n in range(1, len(names) + 2) if (candidate := name if n == 1 else f"{name}_{n}"))
        distinct.append(next(candidate for candidate in free if candidate not in distinct))
    return distinct


def _weights(read: Sequence[tuple[Spec, Any]], weights: Sequence[float] | None) -> tuple[float, ...]:
    own = [spec.weight for spec, _ in read]
    if weights is None:
        chosen = [1.0 if weight is None else float(weight) for weight in own]
    elif any(weight is not None for weight in own):
        raise PreftuneError("Weights are given twice, in the rewards and beside them.", mend="Leave one out.")
    elif len(weights) != len(read):
        raise PreftuneError(
            f"There are {len(weights)} weights for {len(read)} rewards.",
            mend="Give one weight a reward, in their order.",
        )
    else:
        chosen = [float(weight) for weight in weights]
    if not all(math.isfinite(weight) for weight in chosen) or not any(chosen):
        raise PreftuneError(f"The weights of the rewards are {chosen}.", mend="They must be finite and not all 0.")
    return tuple(chosen)


def _unknown(place: str) -> PreftuneError:
    near = difflib.get_close_matches(place, [*FUNCTIONS, *TRL_NAMES], 1)
    guess = f"Did you mean {near[0]}? " if near else ""
    return PreftuneError(
        f"There is no reward {place!r}.",
        mend=f"{guess}Known are {', '.join(FUNCTIONS)}; a reward can also be module:function, path/file.py:function, "
        f"the folder of a reward model, or {JUDGE}MODEL.",
    )
