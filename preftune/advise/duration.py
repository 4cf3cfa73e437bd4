"""How long a run takes: a few layers as wide as the model's are timed on this machine, the rest follows by counting.

A training step of a model of one layer and of one with LAYERS of them, on a micro-batch of the run's own shape, give
the time of a layer and of what is not in layers (head, loss); the optimiser is timed on numbers of its own. Drawing
completions is timed the same way, by the package's own sampler. So every path that ``models/`` would take is in the
figure, and nothing of the model itself is loaded. `python -m benchmarks.advise` holds this against real runs.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from preftune.advise.workload import ONLINE, WITH_VALUES, Lengths, Workload

LAYERS: Final = 4
REPEATS: Final = 3
BUSY: Final = 0.8  # of the threads' time; where less of it was ours, other work was running
_OPTIMISED: Final = 2**22  # numbers
_DRAWN_TOKENS: Final = 12
_MOST_POSITIONS: Final = 4_096  # of the micro-batch that is timed; longer ones count in proportion


@dataclass(frozen=True)
class Speed:
    """Seconds on this machine: of a micro-batch's forward and backward pass, of the optimiser a trained number, and of
    a step of decoding all rows at once. ``busy`` is how far other work took the cores away: 1 is not at all.
    """

    micro_batch: float
    optimiser: float
    decoding: float
    forward: float
    busy: float
    gflops: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dict(vars(self))


@dataclass(frozen=True)
class DurationEstimate:
    """Seconds of the whole training, of a step, and of what; measuring before and after is not in it."""

    seconds: float
    step: float
    parts: Mapping[str, float]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"seconds": self.seconds, "seconds_a_step": self.step, "parts": dict(self.parts), "notes": [*self.notes]}


def estimate_duration(workload: Workload, trained: int, speed: Speed) -> DurationEstimate:
    """The time of the workload's steps, and of the reference's log-probs before them."""
    several = 2.0 if workload.method in WITH_VALUES else 1.0
    compute = workload.micro_batches * speed.micro_batch * several
    if workload.method == "kto":
        compute += workload.micro_batches * speed.forward  # of the mismatched answers
    parts = {
        "forward and backward": compute,
        "optimiser": trained * several * speed.optimiser,
    }
    if workload.reference == "live":
        parts["reference"] = workload.micro_batches * speed.forward
    if workload.method in ONLINE:
        window = workload.passes
        rows = min(64, workload.drawn)
        decoding = speed.decoding * (workload.drawn / rows) * workload.largest.groups[0][1]
        parts["drawing"] = decoding / window
        looks = {"ppo": 4.0, "online-dpo": 1.0}.get(workload.method, 0.0)  # old, reference, value and reward model
        parts["log-probs of what was drawn"] = looks * workload.micro_batches * speed.forward / window
    step = sum(parts.values())
    total = step * workload.steps
    if workload.reference == "once":
        micro = workload.items / max(1, len(workload.typical.groups))
        parts["reference, once"] = micro * speed.forward
        total += parts["reference, once"]
    notes = (
        ("Other work was running: the times are those of an idle machine, by processor seconds.",)
        if speed.busy < BUSY
        else ()
    )
    if workload.method in ONLINE:
        notes = (*notes, "As if every completion had as many tokens as it may.")
    return DurationEstimate(total, step, parts, notes)


def measure_speed(model: str, config: Any, workload: Workload) -> Speed:
    """The speed of this machine on layers of ``model`` under the settings of ``config``; takes seconds."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    groups, part = _timed_groups(workload)
    cpu, wall = time.process_time(), time.perf_counter()
    training = _by_layers(model, config, workload, lambda engine: _training_seconds(engine, groups, workload))
    forward = _by_layers(model, config, workload, lambda engine: _forward_seconds(engine, groups))
    decoding = 0.0
    if workload.method in ONLINE:
        decoding = _by_layers(model, config, workload, lambda engine: _decoding_seconds(engine, workload))
    optimiser = _optimiser_seconds(config, device)
    busy = (time.process_time() - cpu) / (time.perf_counter() - wall) / max(1, torch.get_num_threads())
    return Speed(
        micro_batch=training / part,
        optimiser=optimiser,
        decoding=decoding,
        forward=forward / part,
        busy=min(1.0, busy) if device.type == "cpu" else 1.0,
        gflops=_useful_flops(model, config, workload) / (training / part) / 1e9,
    )


def _timed_groups(workload: Workload) -> tuple[list[Lengths], float]:
    """The groups of the typical micro-batch, as many as fit a short timing, and what share of it they are."""
    kept: list[Lengths] = []
    for group in workload.typical.groups:
        if kept and sum(map(sum, kept)) + sum(group) > _MOST_POSITIONS:
            break
        kept.append(group)
    return kept, sum(map(sum, kept)) / sum(map(sum, workload.typical.groups))


def _by_layers(model: str, config: Any, workload: Workload, measure: Callable[[Any], float]) -> float:
    """What ``measure`` says of the whole model, by what it says of models of one and of LAYERS layers."""
    found = _config_of(model, config)
    text = found.get_text_config()
    layers = int(text.num_hidden_layers)
    if layers <= LAYERS:
        return measure(_engine(found, layers, config, workload))
    one, several = (measure(_engine(found, number, config, workload)) for number in (1, LAYERS))
    return one + (layers - 1) * max(0.0, several - one) / (LAYERS - 1)


def _config_of(model: str, config: Any) -> Any:
    from preftune.advise.model_facts import base_of
    from preftune.models.loading import find_config

    return find_config(base_of(model), config)


def _engine(found: Any, layers: int, config: Any, workload: Workload) -> Any:
    """A model of so many layers with weights of no meaning, as a run would hold it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from preftune.models.adapters import add_adapter
    from preftune.models.lean_modules import make_lean
    from preftune.models.loading import weight_dtype
    from preftune.models.logprobs import LogProbEngine
    from preftune.models.scores import ScoreEngine

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    short = copy.deepcopy(found)
    text = short.get_text_config()
    text.num_hidden_layers = layers
    if isinstance(getattr(text, "layer_types", None), list):
        text.layer_types = text.layer_types[:layers]
    is_score = workload.method == "reward"
    if is_score:
        short.num_labels, short.pad_token_id = 1, 0
    maker = AutoModelForSequenceClassification if is_score else AutoModelForCausalLM
    with torch.random.fork_rng():
        network = maker.from_config(short).to(device, weight_dtype(config, device)).eval()
    network.requires_grad_(not config.use_peft)
    if config.use_peft:
        network = add_adapter(network, config, task="SEQ_CLS" if is_score else "CAUSAL_LM")
    if config.gradient_checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    make_lean(network)
    return ScoreEngine(network) if is_score else LogProbEngine(network)


def _training_seconds(engine: Any, groups: list[Lengths], workload: Workload) -> float:
    made = _tokens(groups, engine)

    def step() -> None:
        found = engine(made)
        (found.sum() if workload.method == "reward" else found.sums().sum()).backward()
        engine.zero_grad(set_to_none=True)

    engine.train()
    return _least(step)


def _forward_seconds(engine: Any, groups: list[Lengths]) -> float:
    import torch

    made = _tokens(groups, engine)
    engine.eval()

    def step() -> None:
        with torch.no_grad():
            engine(made)

    return _least(step)


def _decoding_seconds(engine: Any, workload: Workload) -> float:
    """Of one token for each of the rows that a window draws at once; the prompts' own time is left in."""
    from preftune.rollout.engine import open_sampler
    from preftune.rollout.protocol import Sampling

    group = workload.largest.groups[0]
    rows = min(64, workload.drawn)
    several = max(1, len(group) - 1)
    prompts = [[2 + i % 7] * group[0] for i in range(max(1, rows // several))]
    sampler = open_sampler(engine.model, None, stop_ids=())

    def draw(tokens: int) -> Callable[[], object]:
        return lambda: sampler.sample(prompts, several, Sampling(tokens), 0)

    few, many = _least(draw(_DRAWN_TOKENS // 3)), _least(draw(_DRAWN_TOKENS))
    length = group[1]
    each = max(0.0, many - few) / (_DRAWN_TOKENS - _DRAWN_TOKENS // 3)
    return each + max(0.0, few - each * (_DRAWN_TOKENS // 3)) / length


def _tokens(groups: list[Lengths], engine: Any) -> list[Any]:
    import numpy as np

    from preftune.models.layout import Group

    draw = np.random.default_rng(0)
    vocabulary = int(_text_config(engine).vocab_size)
    return [
        Group(
            draw.integers(3, vocabulary, prompt).tolist(),
            tuple(draw.integers(3, vocabulary, one).tolist() for one in completions),
        )
        for prompt, *completions in groups
    ]


def _text_config(engine: Any) -> Any:
    from preftune.models.paths import causal_model

    inner: Any = causal_model(engine.model)
    return inner.config.get_text_config()


def _optimiser_seconds(config: Any, device: Any) -> float:
    """A trained number's share of an update, of the gradient's norm among it."""
    import torch

    from preftune.models.loading import weight_dtype
    from preftune.training.optimizer import MasterAdamW, gradient_norm

    weights = torch.zeros(_OPTIMISED, device=device, dtype=weight_dtype(config, device)).normal_()
    optimizer = MasterAdamW([weights], 1e-6)
    gradient = torch.full_like(weights, 1e-3)

    def update() -> None:
        weights.grad = gradient.clone()
        gradient_norm(optimizer.gradients())
        optimizer.step()

    return _least(update) / _OPTIMISED


def _useful_flops(model: str, config: Any, workload: Workload) -> float:
    """6 a weight and position, or 4 where the weights are frozen; without attention scores."""
    from preftune.advise.model_facts import sizes_of

    sizes = sizes_of(_config_of(model, config))
    head = 0 if workload.method == "reward" else sizes.head * workload.typical.targets
    return (4 if config.use_peft else 6) * (sizes.body * workload.typical.positions + head)


def _least(work: Callable[[], object]) -> float:
    """Seconds of the quickest of some calls after a first one.

    Where other work takes the cores away, the processor seconds over the threads: what it would be without.
    """
    import torch

    is_cuda, threads = torch.cuda.is_available(), max(1, torch.get_num_threads())
    work()
    found = []
    for _ in range(REPEATS):
        begun, spent = time.perf_counter(), time.process_time()
        work()
        if is_cuda:
            torch.cuda.synchronize()
        wall, busy = time.perf_counter() - begun, (time.process_time() - spent) / threads
        found.append(busy if not is_cuda and busy < BUSY * wall else wall)
    return min(found)
