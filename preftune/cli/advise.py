"""``preftune advise``: which method, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show

_SHOWN_FINDINGS = 5


def advise(
    data: str,
    *,
    model: str | None = None,
    eval_data: str | None = None,
    output: Path | None = None,
    run_output: str = "out",
    objectives: int = 1,
    explore: bool = False,
    least_resources: bool = False,
    full: bool = False,
    reward: list[str] | None = None,
    epochs: float | None = None,
    taught: Annotated[bool | None, Parameter(negative="--base")] = None,
    probe: int = 0,
    timing: bool = True,
    gpu_memory: float | None = None,
    split: str = "train",
    eval_split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> Outcome:
    """Which method these data, this model and this machine call for, with the reasons, what it takes, and a config.

    Exits with 1 where nothing can be advised.

    Example:
      preftune advise pairs.jsonl
      preftune advise pairs.jsonl --model Qwen/Qwen3-0.6B --output config.yaml
      preftune advise sums.jsonl --model Qwen/Qwen3-0.6B --probe 16
      preftune advise pairs.jsonl --model Qwen/Qwen3-4B --gpu-memory 80

    Parameters
    ----------
    data: Pairs, comparisons, labels, demonstrations or prompts: a file, a folder or a hub name.
    model: The model to train, by folder or hub name; it is looked at, not loaded.
    eval_data: Held-out rows; without it a tenth of the prompts is counted as held out.
    output: File for the config, ready for `preftune METHOD --config`, or `preftune run` where there are stages.
    run_output: Folder that the config names for the run.
    objectives: Goals at once, such as helpful and harmless: more than one asks for scores.
    explore: The model is to go beyond the answers in the data.
    least_resources: One lean run is wanted above all.
    full: Train all weights, where they fit, instead of an adapter.
    reward: Rewards for prompts without right answers, as `preftune grpo --reward_funcs` takes them.
    epochs: Passes over the data; by default what is advised.
    taught: The model answers already (--base: it does not), where its name and template mislead.
    probe: Let the model answer so many checkable prompts, to see how often it is right; needs the model's weights.
    timing: Time layers of the model on this machine (--no-timing: skip it).
    gpu_memory: Plan for a GPU with so many GiB, not for this machine; nothing is timed.
    split: Split of a hub data set or datasets folder.
    eval_split: The same for eval_data.
    limit: Read at most so many rows.
    seed: Decides what is drawn.
    """
    from preftune.advise.advice import advise as advise_on
    from preftune.advise.advice import write_config
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    found = advise_on(
        data,
        model,
        eval_data=eval_data,
        objectives=objectives,
        explore=explore,
        least_resources=least_resources,
        full=full,
        rewards=reward or (),
        epochs=epochs,
        taught=taught,
        probe=probe,
        timing=timing,
        gpu_memory=gpu_memory,
        output=run_output,
        split=split,
        eval_split=eval_split,
        limit=limit,
        seed=seed,
        progress=progress,
    )
    for line in _screen(found):
        show(line)
    document = found.as_dict()
    if found.method is not None and output is not None:
        notify(f"the config is {write_config(found, output)}")
        document |= {"config": str(output)}
    command = found.next_command(None if output is None else str(output))
    _next(command, found, output, data, model)
    return Outcome(document | {"next": command}, DONE if found.method is not None else FOUND_WRONG)


def _next(command: str, found: Any, output: Path | None, data: str, model: str | None) -> None:
    """What to type next, in one line each, so that it can be copied."""
    show("\n[bold]Next[/bold]")
    if found.method is not None and output is None:
        named = ["--model", model] if model else []
        print("  " + shlex.join(["preftune", "advise", data, *named, "--output", "config.yaml"]))
    print(f"  {command}")


def _screen(found: Any) -> Iterator[Any]:
    from rich.markup import escape
    from rich.padding import Padding

    yield _headline(found)
    for one in found.refusals:
        yield f"  {escape(one.refuse)}"
        yield f"  [bold]Instead[/bold] {escape(one.remedy)}"
    if found.decided:
        yield "\n[bold]Why[/bold]"
    for one in found.decided:
        yield Padding(f"{escape(one.why)}\n[dim]{escape(one.rule.id)}: {escape(one.rule.source)}[/dim]", (0, 0, 0, 2))
    yield from _risks(found)
    yield from _possible(found)
    if found.method is not None:
        yield from _estimates(found)
        yield _settings_table(found)
    yield _facts_table(found)


def _headline(found: Any) -> str:
    from rich.markup import escape

    if found.method is None:
        return "[bold red]Nothing is advised[/bold red]" + ("" if found.refusals else ": no rule speaks for a method.")
    stages = ", then ".join(_called(stage, found) for stage in found.stages)
    how = "with LoRA" if found.recipe.settings.get("use_peft") else "all weights"
    return f"[bold green]{escape(stages)}[/bold green], {how}"


def _called(method: str, found: Any) -> str:
    names = {"sft": "SFT", "reward": "a reward model", "online-dpo": "online DPO", "simpo": "SimPO"}
    name = names.get(method, method.upper())
    if method == "dpo" and found.recipe.settings.get("loss_type") == ["robust"]:
        return "robust DPO"
    return name


def _risks(found: Any) -> Iterator[Any]:
    from rich.markup import escape
    from rich.padding import Padding

    if not found.risks:
        return
    yield "\n[bold]Risks[/bold]"
    for one in found.risks:
        yield Padding(f"[yellow]{escape(one.warn)}[/yellow] {escape(one.remedy)}", (0, 0, 0, 2))
    told = [finding for finding in found.data.findings if finding.severity == "error"]
    for finding in told[:_SHOWN_FINDINGS]:
        yield Padding(f"[red]{escape(finding.title)}[/red] {escape(finding.remedy)}", (0, 0, 0, 2))


def _possible(found: Any) -> Iterator[Any]:
    from rich.markup import escape
    from rich.padding import Padding

    if not found.possible:
        return
    yield "\n[bold]Also possible[/bold]"
    for one in found.possible:
        yield Padding(f"{escape(_called(one.rule.method, found))}: {escape(one.why)}", (0, 0, 0, 2))


def _estimates(found: Any) -> Iterator[str]:
    memory, duration = found.estimates.memory, found.estimates.duration
    yield "\n[bold]Takes[/bold], by estimate"
    if memory is None:
        yield "  Give --model for memory and time."
        return
    parts = ", ".join(f"{name} {value:,.0f}" for name, value in memory.parts.items())
    yield f"  memory  {memory.peak:,.0f} MiB at the peak of training, of {found.machine.available:,.0f} free ({parts})"
    if duration is not None:
        workload = found.recipe.workload(found.data)
        steps = f"{workload.steps:,} steps of {duration.step:.2g} s"
        yield f"  time    {_clock(duration.seconds)} for {steps}, measuring not included"
        for note in duration.notes:
            yield f"          [dim]{note}[/dim]"
    for note in memory.notes:
        yield f"          [dim]{note}[/dim]"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _settings_table(found: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"Settings of {found.stages[-1]}", title_justify="left", show_header=False)
    for name, value in found.recipe.settings.items():
        text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        table.add_row(escape(name), escape(text))
    return table


def _facts_table(found: Any) -> Any:
    from rich.markup import escape
    from rich.table import Table

    data, model, machine = found.data, found.model, found.machine
    table = Table(title="What was found", title_justify="left", show_header=False)
    rejected = sum(data.rejected.values())
    table.add_row(
        "data",
        f"{data.records:,} {data.kind}s, {data.prompts:,} different prompts"
        + (f", {rejected:,} rows left out" if rejected else ""),
    )
    points = data.length_percentiles()
    counted = "" if data.counted else ", estimated from characters"
    for name, spread in points.items():
        if name != "together":
            table.add_row(f"tokens of a {name}", f"median {spread['50']:.0f}, 95% {spread['95']:.0f}{counted}")
    shares = (data.noise, data.evidence, data.agreement, data.longer_wins, data.desirable, data.checkable)
    for share in shares:
        if share is not None and share.value is not None:
            table.add_row(escape(share.title), _share(share))
    if data.kind == "pair" and (data.noise is None or data.noise.value is None):
        table.add_row("Flipped labels", "cannot be told from these data")
    if found.success is not None:
        groups = ", ".join(f"{size}: {dead:.0%}" for size, dead in found.success.as_dict()["dead_groups"].items())
        table.add_row(
            "the model is right", f"{found.success.rate:.0%} ({found.success.low:.0%} to {found.success.high:.0%})"
        )
        table.add_row("groups without a signal", f"by completions a prompt {groups}")
    if model is not None:
        taught = "answers already" if model.is_taught else "not taught to answer"
        size = f"{model.sizes.parameters / 1e6:,.0f} million parameters, {model.sizes.layers} layers"
        table.add_row("model", escape(f"{size}; {taught}: {model.why_taught}"))
    precision = "bfloat16" if machine.has_bfloat16 else "float32"
    free = f"{machine.available / 1024:.1f} GiB free"
    table.add_row("machine", escape(f"{machine.name}, {machine.cores} cores, {free}, {precision}"))
    for note in data.notes:
        table.add_row("note", escape(note))
    return table


def _share(share: Any) -> str:
    ends = "" if share.low is None else f" ({share.low:.0%} to {share.high:.0%}, n = {share.n:,})"
    return f"{share.value:.0%}{ends}"
