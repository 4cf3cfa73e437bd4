"""How commands open the models they are given by name."""

from __future__ import annotations

from typing import Any

from preftune.cli.screen import notify, progress


def model_config(name: str, tokenizer: str | None, dtype: str, trust_remote_code: bool) -> Any:
    """The settings of a model folder, run folder, GGUF file or hub name."""
    from preftune.config import load_config
    from preftune.evaluate.model import model_folder
    from preftune.models.settings import ModelConfig

    values = {
        "model": model_folder(name),
        "tokenizer": tokenizer,
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
    }
    return load_config(ModelConfig, file=None, values=values).config


def open_policy(config: Any) -> Any:
    """The model and its tokenizer, with a note while it loads."""
    from preftune.evaluate.model import open_model

    with progress(f"loading {config.model}", None):
        return open_model(config, notify)


def require_policy(name: str, config: Any) -> None:
    """PreftuneError, before anything is loaded, where there is no such model or it writes no answers."""
    from preftune.errors import PreftuneError
    from preftune.models.reward_models import is_reward_model

    if is_reward_model(config):
        what = f"{name} is a reward model, which writes no answers."
        raise PreftuneError(what, mend="--reward takes it, and `preftune eval` measures it.")
