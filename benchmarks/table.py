"""The tables of benchmarks/README.md, written from the raw samples in benchmarks/results/.

    python -m benchmarks.table          rewrites what stands between the markers of the README

Every figure is derived here from what a run recorded; nothing is kept that could disagree with the samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
OURS, OURS_AS_TRL = "preftune", "preftune-as-trl"
TRL = ("trl-best", "trl-bf16", "trl-default")
TITLES = {
    OURS: "preftune",
    OURS_AS_TRL: "preftune, likelihood of the prompt too",
    "trl-best": "TRL, best CPU settings",
    "trl-bf16": "TRL, best CPU settings, base in bfloat16",
    "trl-default": "TRL, defaults",
}
METHODS = {"sft": "SFT", "reward": "Reward model", "kto": "KTO", "orpo": "ORPO"}
BESIDE_DPO = {"dpo": "DPO", "orpo": "ORPO", "simpo": "SimPO"}
ADAPTERS = {"bf16-lora": "LoRA", "bf16-qlora": "QLoRA, 4 bits"}
VERSIONS = ("preftune", "trl", "torch", "transformers", "peft", "python")
DTYPES = {"bf16-full": "bfloat16", "bf16-lora": "bfloat16", "fp32-full": "float32"}

RATIOS = ("pairs/s, times", "target", "peak memory, times", "target")
EXACT = ("fp32-full", OURS)

Sample = Mapping[str, Any]
Measure = Callable[[Sample], float | None]
Place = tuple[str, str]  # setting and contender


@dataclass(frozen=True)
class Target:
    """What preftune is to reach against a contender: at least this speed, at most this memory."""

    speed: float
    memory: float | None = None


TARGETS = {
    ("bf16-full", "trl-best"): Target(4.5, 0.42),
    ("bf16-full", "trl-default"): Target(10.0),
    ("bf16-lora", "trl-best"): Target(4.0, 0.32),
    ("fp32-full", "trl-best"): Target(3.2),
}
OFFLINE_TARGET = Target(1.5, 0.6)


@dataclass(frozen=True)
class Spread:
    """Smallest, middle and largest of some values."""

    low: float
    middle: float
    high: float

    def text(self, digits: int) -> str:
        """``2.31 (2.20–2.45)``; one number where there is only one value."""
        low, middle, high = (f"{value:,.{digits}f}" for value in (self.low, self.middle, self.high))
        return middle if self.low == self.high else f"{middle} ({low}–{high})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(min(values), median(values), max(values))


def round_ratios(samples: Iterable[Sample], measure: Measure, over: str, under: str) -> list[float]:
    """``measure`` of one contender over that of another, round by round: what drifts with the machine cancels.

    Rounds that lack one of the two, or its figure, are left out.
    """
    by_place = {(sample["round"], sample["contender"]): measure(sample) for sample in samples}
    ratios = []
    for number in sorted({number for number, _ in by_place}):
        ours, theirs = by_place.get((number, over)), by_place.get((number, under))
        if ours is not None and theirs:
            ratios.append(ours / theirs)
    return ratios


def pairs_per_second(sample: Sample, batch_size: int) -> float:
    """Over the timed steps, which leave out the first."""
    return batch_size * len(sample["step_seconds"]) / sum(sample["step_seconds"])


def tokens_per_second(sample: Sample, lengths: Sequence[Sequence[int]], batch_size: int) -> float:
    """Tokens that are not padding, the prompt counted with both of its completions; SFT has the chosen one only."""
    timed = _timed(sample, lengths, batch_size)
    if sample.get("method") == "sft":
        tokens = sum(prompt + chosen for prompt, chosen, _ in timed)
    else:
        tokens = sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in timed)
    return tokens / sum(sample["step_seconds"])


def needed_gflops(sample: Sample, result: Mapping[str, Any]) -> float:
    """Arithmetic that the timed pairs need, however a contender computes them, in GFLOP/s.

    ``6 (body * positions + head * targets)`` with the parameters of the layers and of the LM head; positions
    are the prompt once and each completion without its last token, targets all completion tokens. 2 of the 6
    are the forward pass, 2 the gradients of activations, 2 those of weights, which LoRA does not need.
    """
    model, batch_size = result["model"], result["options"]["batch_size"]
    timed = _timed(sample, result["data"]["lengths"], batch_size)
    positions = sum(prompt + chosen + rejected - 2 for prompt, chosen, rejected in timed)
    targets = sum(chosen + rejected for _, chosen, rejected in timed)
    factor = 4 if sample["setting"].endswith("lora") else 6
    work = factor * (model["body_parameters"] * positions + model["head_parameters"] * targets)
    return work / sum(sample["step_seconds"]) / 1e9


def largest_loss_difference(samples: Iterable[Sample], one: Place, other: Place) -> float | None:
    """Over all steps and rounds, between two (setting, contender); None where they share no round."""
    losses = {((sample["setting"], sample["contender"]), sample["round"]): sample["losses"] for sample in samples}
    differences = [
        abs(mine - theirs)
        for place, number in losses
        if place == one and (other, number) in losses
        for mine, theirs in zip(losses[one, number], losses[other, number], strict=True)
    ]
    return max(differences) if differences else None


def tables(result: Mapping[str, Any]) -> str:
    """Everything a run measured, as Markdown."""
    settings = list(dict.fromkeys(sample["setting"] for sample in result["samples"]))
    parts = [_about(result), *(_setting(result, setting) for setting in settings), _commands(result["commands"])]
    return _paragraphs(*parts)


def offline_tables(result: Mapping[str, Any]) -> str:
    """Everything that a run of ``benchmarks.offline`` measured, as Markdown."""
    parts = [
        _about(result),
        *(_method(result, method) for method in METHODS),
        _beside(result, "bf16-full", "method", BESIDE_DPO, "Methods without a reference, in preftune"),
        _beside(result, None, "setting", ADAPTERS, "Quantised weights under the adapter (DPO, in preftune)"),
        _failures(result),
    ]
    return _paragraphs(*parts)


def between_markers(text: str, name: str, body: str) -> str:
    """``text`` with ``body`` in the place of what stands between the markers of ``name``.

    Raises ``ValueError`` where the markers are not there once each, in order.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"The markers {begin} and {end} should stand in the text once each, in this order.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n\n{body}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Rewrites the README from all results; a part whose markers it lacks is left out, and said."""
    from benchmarks.data import data_tables
    from benchmarks.family import section
    from benchmarks.grpo import grpo_tables
    from benchmarks.online_runs import section as online_section
    from benchmarks.ppo_memory import memory_table
    from benchmarks.rollout import rollout_tables

    readme = HERE / "README.md"
    for name, pattern, write in (
        ("dpo", "dpo-*.json", tables),
        ("offline", "offline-*.json", offline_tables),
        ("family", "family*.json", section),
        ("rollout", "rollout-*.json", rollout_tables),
        ("grpo", "grpo-*.json", grpo_tables),
        ("ppo_memory", "ppo-memory*.json", memory_table),
        ("online_runs", "online-runs*.json", online_section),
        ("data", "data-*.json", data_tables),
    ):
        text = readme.read_text(encoding="utf-8")
        if f"<!-- {name}: begin -->" not in text:
            print(f"{readme.name}: no markers for {name}")
            continue
        found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((HERE / "results").glob(pattern))]
        body = "\n\n".join(map(write, found)) or f"No results yet: `python -m benchmarks.{name} --help`."
        readme.write_text(between_markers(text, name, body), encoding="utf-8")
        print(f"{readme.name}: {name}, {len(found)} result file(s)")


def _timed(sample: Sample, lengths: Sequence[Sequence[int]], batch_size: int) -> Sequence[Sequence[int]]:
    """The pairs of the timed steps: pairs are taken in order, and the first step's are not timed."""
    return lengths[batch_size : batch_size * (1 + len(sample["step_seconds"]))]


def _about(result: Mapping[str, Any]) -> str:
    machine, data, model, options = (result[key] for key in ("machine", "data", "model", "options"))
    known = machine["versions"]
    versions = ", ".join(f"{name} {known[name]}" for name in VERSIONS if known.get(name, "absent") != "absent")
    rates = result["matmul_gflops"]
    matmul = ", ".join(f"{name} {spread([one[name] for one in rates]).text(0)}" for name in rates[0])
    prompts, completions = sum(p for p, _, _ in data["lengths"]), sum(c + r for _, c, r in data["lengths"])
    same = "the same on every side" if _tokens_agree(result) else "**not the same on every side**"
    lines = (
        f"### {machine['cpu']}, {machine['cores']} cores, {machine['date'][:10]}",
        "",
        f"{versions}. Matrix product of 2048, GFLOP/s, once a round: {matmul}.",
        f"{model['name']} ({model['parameters'] / 1e6:,.1f} million parameters); {data['pairs']} pairs of "
        f"{prompts + completions:,} tokens ({2 * prompts + completions:,} with the prompt in both sequences), {same}; "
        f"batch {options['batch_size']}, {data['pairs'] // options['batch_size'] - 1} timed steps a run, "
        f"{options['rounds']} round(s). Figures are medians over rounds, with the range in brackets.",
    )
    return "\n".join(lines)


def _tokens_agree(result: Mapping[str, Any]) -> bool:
    """Whether every run trained on the tokens that were drawn, as its method takes them."""

    def agrees(sample: Sample) -> bool:
        drawn = result["data"].get("by_method", {}).get(sample.get("method"), result["data"])
        found = sample["tokens"], sample.get("fingerprint", drawn["fingerprint"])
        return found == (drawn["tokens"], drawn["fingerprint"])

    return all(map(agrees, result["samples"]))


def _setting(result: Mapping[str, Any], setting: str) -> str:
    samples = [sample for sample in result["samples"] if sample["setting"] == setting]
    names = [name for name in TITLES if any(sample["contender"] == name for sample in samples)]
    batch_size = result["options"]["batch_size"]
    ratios = [
        [TITLES[other], *_held_against(samples, OURS, other, batch_size, TARGETS.get((setting, other)))]
        for other in names
        if other != OURS
    ]
    return _paragraphs(
        f"#### {setting}",
        _figures(samples, _named(TITLES, names), _measures(result, DTYPES[setting])),
        markdown(["preftune against", *RATIOS], ratios),
        _losses(result["samples"], setting, names),
    )


def _method(result: Mapping[str, Any], method: str) -> str:
    """A method beside TRL; each of preftune's runs is held against TRL's, losses where they are the same loss."""
    samples = [one for one in result["samples"] if (one["method"], one["setting"]) == (method, "bf16-full")]
    names = [name for name in TITLES if any(sample["contender"] == name for sample in samples)]
    if "trl-best" not in names:
        return ""
    batch_size, ours = result["options"]["batch_size"], [name for name in names if name not in TRL]
    ratios = [[TITLES[name], *_held_against(samples, name, "trl-best", batch_size, OFFLINE_TARGET)] for name in ours]
    same_loss = OURS_AS_TRL if OURS_AS_TRL in names else OURS
    return _paragraphs(
        f"#### {METHODS[method]}",
        _figures(samples, _named(TITLES, names), _measures(result)),
        markdown(["against TRL, best CPU settings", *RATIOS], ratios),
        _losses(samples, "bf16-full", (same_loss, "trl-best"), same_loss),
    )


def _beside(result: Mapping[str, Any], setting: str | None, key: str, titles: Mapping[str, str], heading: str) -> str:
    """preftune's runs that differ in ``key``, each held against the first of ``titles``."""
    samples = [
        {**sample, "contender": sample[key]}
        for sample in result["samples"]
        if sample["contender"] == OURS and sample[key] in titles and setting in (None, sample["setting"])
    ]
    names = [name for name in titles if any(sample["contender"] == name for sample in samples)]
    first = next(iter(titles))
    if first not in names or len(names) < 2:
        return ""
    batch_size = result["options"]["batch_size"]
    rows = [[titles[name], *_held_against(samples, name, first, batch_size)] for name in names if name != first]
    return _paragraphs(
        f"#### {heading}",
        _figures(samples, _named(titles, names), _measures(result)),
        markdown([f"against {titles[first]}", *RATIOS], rows),
    )


def _named(titles: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: titles[name] for name in names}


def _paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


def _figures(samples: Sequence[Sample], titles: Mapping[str, str], measures: Mapping[str, tuple[Measure, int]]) -> str:
    """A row a contender, a column a measure with its digits."""
    rows = [
        [title] + [_cell([s for s in samples if s["contender"] == name], *measure) for measure in measures.values()]
        for name, title in titles.items()
    ]
    return markdown(["", *measures], rows)


def _measures(result: Mapping[str, Any], dtype: str | None = None) -> dict[str, tuple[Measure, int]]:
    """The columns of a table of figures; with ``dtype`` (DPO, whose need is known) those of arithmetic too."""
    batch_size, lengths = result["options"]["batch_size"], result["data"]["lengths"]
    arithmetic: dict[str, tuple[Measure, int]] = {
        "GFLOP/s": (lambda s: needed_gflops(s, result), 0),
        "of matmul, %": (lambda s: 100 * needed_gflops(s, result) / result["matmul_gflops"][s["round"]][dtype], 0),
    }
    return {
        "pairs/s": (lambda s: pairs_per_second(s, batch_size), 2),
        "tokens/s": (lambda s: tokens_per_second(s, lengths, batch_size), 0),
        **(arithmetic if dtype else {}),
        "peak MiB, training": (lambda s: s["peak_training_mib"], 0),
        "peak MiB, process": (lambda s: s["peak_process_mib"], 0),
        "import, s": (lambda s: s["import_seconds"], 1),
        "load and references, s": (lambda s: s["preparation_seconds"], 1),
        "first step, s": (lambda s: s["first_step_seconds"], 1),
        "start to first step, s": (lambda s: s["start_to_first_step_seconds"], 1),
        "cores busy": (lambda s: s["cores_busy"], 2),
    }


def _cell(samples: Sequence[Sample], measure: Measure, digits: int) -> str:
    values = [value for sample in samples if (value := measure(sample)) is not None]
    return spread(values).text(digits) if values else "-"


def _held_against(
    samples: Sequence[Sample], over: str, under: str, batch_size: int, target: Target | None = None
) -> list[str]:
    """The cells under ``RATIOS``: speed and memory of ``over``, in those of ``under``, and whether that will do."""
    speeds = round_ratios(samples, lambda s: pairs_per_second(s, batch_size), over, under)
    memories = round_ratios(samples, lambda s: s["peak_training_mib"], over, under)
    return [
        spread(speeds).text(2) if speeds else "-",
        _verdict(speeds, "≥", target.speed if target else None),
        spread(memories).text(2) if memories else "-",
        _verdict(memories, "≤", target.memory if target else None),
    ]


def _verdict(ratios: Sequence[float], sign: str, target: float | None) -> str:
    if target is None or not ratios:
        return ""
    is_met = median(ratios) >= target if sign == "≥" else median(ratios) <= target
    return f"{sign} {target:g}: {'met' if is_met else 'missed'}"


def _losses(samples: Sequence[Sample], setting: str, names: Sequence[str], base: str = OURS) -> str:
    """How far the losses of a step lie apart; beside bfloat16, how far each lies from float32."""
    whom = "Largest difference of a step's loss from {}{}: {}."
    told = _apart(samples, setting, names, (setting, base))
    title = "preftune's" if base == OURS else f"that of {TITLES[base]}"
    parts = [whom.format(title, "", told)] if told else []
    if setting == "bf16-full" and (from_exact := _apart(samples, setting, names, EXACT)):
        parts.append(whom.format("preftune's", " in float32", from_exact))
    return " ".join(parts)


def _apart(samples: Sequence[Sample], setting: str, names: Sequence[str], other: Place) -> str:
    found = {
        name: largest_loss_difference(samples, (setting, name), other) for name in names if (setting, name) != other
    }
    return "; ".join(f"{TITLES[name]} {value:.1e}" for name, value in found.items() if value is not None)


def _commands(commands: Mapping[str, Any]) -> str:
    rows = [[title, spread(seconds).text(2), str(len(seconds))] for title, seconds in commands.items()]
    return "#### Commands\n\n" + markdown(["from the command's start", "seconds", "runs"], rows) if rows else ""


def _failures(result: Mapping[str, Any]) -> str:
    lines = [f"- round {one['round'] + 1}: {one['what'].splitlines()[0]}" for one in result.get("failures", ())]
    return "\n".join(["#### Runs that failed", "", *lines]) if lines else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are figures; nothing without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
