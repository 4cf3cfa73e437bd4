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
OURS = "preftune"
TITLES = {
    OURS: "preftune",
    "trl-best": "TRL, best CPU settings",
    "trl-bf16": "TRL, best CPU settings, base in bfloat16",
    "trl-default": "TRL, defaults",
}
VERSIONS = ("preftune", "trl", "torch", "transformers", "peft", "python")
DTYPES = {"bf16-full": "bfloat16", "bf16-lora": "bfloat16", "fp32-full": "float32"}

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
    """Tokens that are not padding, the prompt counted with both of its completions."""
    timed = _timed(sample, lengths, batch_size)
    return sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in timed) / sum(sample["step_seconds"])


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
    return "\n\n".join(part for part in parts if part)


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
    """Rewrites the README from all results."""
    readme, files = HERE / "README.md", sorted((HERE / "results").glob("dpo-*.json"))
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    body = "\n\n".join(tables(result) for result in found) or "No results yet: `python -m benchmarks.dpo --help`."
    readme.write_text(between_markers(readme.read_text(encoding="utf-8"), "dpo", body), encoding="utf-8")
    print(f"{readme.name}: tables of {len(found)} result file(s)")


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
    data = result["data"]
    return all(
        sample["tokens"] == data["tokens"] and sample.get("fingerprint", data["fingerprint"]) == data["fingerprint"]
        for sample in result["samples"]
    )


def _setting(result: Mapping[str, Any], setting: str) -> str:
    samples = [sample for sample in result["samples"] if sample["setting"] == setting]
    names = [name for name in TITLES if any(sample["contender"] == name for sample in samples)]
    others = [name for name in names if name != OURS]
    ratios = [_ratio_row(samples, setting, other, result["options"]["batch_size"]) for other in others]
    return "\n\n".join(
        part
        for part in (
            f"#### {setting}",
            _figures(result, samples, names, setting),
            _markdown(["preftune against", "pairs/s, times", "target", "peak memory, times", "target"], ratios),
            _losses(result["samples"], setting, names),
        )
        if part
    )


def _figures(result: Mapping[str, Any], samples: Sequence[Sample], names: Sequence[str], setting: str) -> str:
    batch_size, lengths = result["options"]["batch_size"], result["data"]["lengths"]
    peaks = [one[DTYPES[setting]] for one in result["matmul_gflops"]]
    columns: dict[str, tuple[Measure, int]] = {
        "pairs/s": (lambda s: pairs_per_second(s, batch_size), 2),
        "tokens/s": (lambda s: tokens_per_second(s, lengths, batch_size), 0),
        "GFLOP/s": (lambda s: needed_gflops(s, result), 0),
        "of matmul, %": (lambda s: 100 * needed_gflops(s, result) / peaks[s["round"]], 0),
        "peak MiB, training": (lambda s: s["peak_training_mib"], 0),
        "peak MiB, process": (lambda s: s["peak_process_mib"], 0),
        "import, s": (lambda s: s["import_seconds"], 1),
        "load and references, s": (lambda s: s["preparation_seconds"], 1),
        "first step, s": (lambda s: s["first_step_seconds"], 1),
        "start to first step, s": (lambda s: s["start_to_first_step_seconds"], 1),
        "cores busy": (lambda s: s["cores_busy"], 2),
    }
    rows = [
        [TITLES[name]] + [_cell([s for s in samples if s["contender"] == name], *column) for column in columns.values()]
        for name in names
    ]
    return _markdown(["", *columns], rows)


def _cell(samples: Sequence[Sample], measure: Measure, digits: int) -> str:
    values = [value for sample in samples if (value := measure(sample)) is not None]
    return spread(values).text(digits) if values else "-"


def _ratio_row(samples: Sequence[Sample], setting: str, other: str, batch_size: int) -> list[str]:
    target = TARGETS.get((setting, other))
    speeds = round_ratios(samples, lambda s: pairs_per_second(s, batch_size), OURS, other)
    memories = round_ratios(samples, lambda s: s["peak_training_mib"], OURS, other)
    return [
        TITLES[other],
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


def _losses(samples: Sequence[Sample], setting: str, names: Sequence[str]) -> str:
    """How far the losses of a step lie apart; beside bfloat16, how far each lies from float32."""
    whom = "Largest difference of a step's loss from preftune's{}: {}."
    told = _apart(samples, setting, names, (setting, OURS))
    parts = [whom.format("", told)] if told else []
    if setting == "bf16-full" and (from_exact := _apart(samples, setting, names, EXACT)):
        parts.append(whom.format(" in float32", from_exact))
    return " ".join(parts)


def _apart(samples: Sequence[Sample], setting: str, names: Sequence[str], other: Place) -> str:
    found = {
        name: largest_loss_difference(samples, (setting, name), other) for name in names if (setting, name) != other
    }
    return "; ".join(f"{TITLES[name]} {value:.1e}" for name, value in found.items() if value is not None)


def _commands(commands: Mapping[str, Any]) -> str:
    rows = [[title, spread(seconds).text(2), str(len(seconds))] for title, seconds in commands.items()]
    return "#### Commands\n\n" + _markdown(["from the command's start", "seconds", "runs"], rows) if rows else ""


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
