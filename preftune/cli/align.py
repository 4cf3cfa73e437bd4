"""``preftune align``: the whole way from preference pairs to an aligned model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show


def align(
    *,
    model: str,
    data: str,
    output: Path,
    betas: list[float] | None = None,
    sft: bool | None = None,
    sft_data: str | None = None,
    online: Literal["auto", "never", "ppo", "online-dpo"] = "auto",
    budget_minutes: float | None = None,
    gate: Path | None = None,
    config: Annotated[Path | None, Parameter(help="YAML file with settings for every stage that knows them.")] = None,
    matters: float = 0.02,
    prompts: int = 64,
    max_new_tokens: int = 128,
    seed: int = 42,
) -> Outcome:
    """The whole way: SFT if needed, DPO, its plateau, RLHF if it pays, the gate, and a page with the reasons.

    Called again with the same options it goes on where it was stopped. Exits with 1 where the gate is broken.

    Example:
      preftune align --model Qwen/Qwen3-0.6B --data pairs.jsonl --output aligned
      preftune align --model Qwen/Qwen3-0.6B --data pairs.jsonl --output aligned --budget-minutes 120 --gate gate.yaml

    Parameters
    ----------
    model: What it starts from: folder or hub name.
    data: Preference pairs; 20% decide, by prompt, and 15% are looked at once, at the end.
    output: Folder of the way: a folder a stage, align.json, report.html, and the model.
    betas: Betas of DPO that are tried; 0.1, 0.3 and 0.03.
    sft: Begin with SFT (--no-sft: do not); by default where the model was not taught to answer.
    sft_data: Demonstrations for it; by default the preferred answers.
    online: The method after DPO, where it is worth trying.
    budget_minutes: Time for all calls together; an online method is tried where it fits into what is left.
    gate: YAML file of promises, as for `preftune eval --gate`.
    matters: The gain of held-out accuracy that would be worth more training.
    prompts: Held-out prompts that are answered to compare candidates.
    max_new_tokens: Most tokens of these answers.
    seed: Decides the split and everything drawn.
    """
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.summary import show_run
    from preftune.methods.reporting import Reporter
    from preftune.pipeline.align import align as go
    from preftune.pipeline.align_options import BETAS, AlignOptions
    from preftune.training.stopping import exit_code

    options = AlignOptions(
        model=model,
        data=data,
        output=output,
        betas=tuple(betas or BETAS),
        sft=sft,
        sft_data=sft_data,
        online=online,
        budget_minutes=budget_minutes,
        gate=gate,
        matters=matters,
        prompts=prompts,
        max_new_tokens=max_new_tokens,
        seed=seed,
        given=_settings(config),
    )

    def on_stage(stage: Any, summary: Any, report: Path) -> None:
        show(f"\n[bold]{stage.name}[/bold]")
        show(show_run(summary, report))

    found = go(options, Reporter(notify, progress), on_stage=on_stage)
    if found.stopped is not None:
        where = "" if found.stopped_in is None else f" in stage {found.stopped_in}"
        notify(f"stopped by {found.stopped}{where}; the same command goes on")
        document = {"folder": str(found.folder), "stopped": found.stopped, "stopped_in": found.stopped_in}
        return Outcome(document, exit_code(found.stopped))
    _tell(found)
    document = {"folder": str(found.folder), "model": str(found.model), "report": str(found.report), **found.document}
    return Outcome(document | {"broken": list(found.broken)}, FOUND_WRONG if found.broken else DONE)


def _tell(found: Any) -> None:
    from rich.markup import escape

    for decision in found.document["decisions"]:
        show(f"\n[bold]{escape(decision['title'])}[/bold] {escape(str(decision['choice']))}")
        show(f"  {escape(decision['why'])}")
    show(f"\nmodel   {found.model}\nreport  {found.report}")


def _settings(config: Path | None) -> dict[str, Any]:
    """The file's settings, of which each stage takes those it knows; PreftuneError names those that none knows."""
    from preftune.config import known_keys, one_error, unknown_key
    from preftune.methods.registry import METHODS
    from preftune.yaml_file import construct, line_of, read_mapping

    if config is None:
        return {}
    root, problems = read_mapping(config)
    classes = [METHODS[method].config_class() for method in ("dpo", "reward", "ppo", "online-dpo", "sft")]
    known = {key for cls in classes for key in known_keys(cls)}
    nodes = [] if root is None else root.value
    strays = [key for key, _ in nodes if key.value not in known]
    problems = [*problems, *(unknown_key(key.value, classes[0], f"{config}:{line_of(key)}") for key in strays)]
    if problems:
        raise one_error(problems)
    return {} if root is None else construct(root)
