"""Everything that is known, under the names that rules ask for; what is not known is None."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

from preftune.advise.data_facts import DataFacts
from preftune.advise.model_facts import ModelFacts
from preftune.advise.rules import Value
from preftune.advise.success import Success
from preftune.audit.findings import Share

NOISY: Final = 0.05  # flipped labels by the low end of their interval, as the audit's own warning
PAIRS_FOR_A_RUN: Final = 200  # 50 steps of four: what the demo trains on; fewer are gone through again
EVAL_FRACTION: Final = 0.1


@dataclass(frozen=True)
class Wishes:
    """What only the user can say.

    ``objectives`` is the number of goals, ``explores`` whether the model is to go beyond the answers in the data,
    ``least_resources`` whether one lean run is wanted above all, ``full`` whether all weights are to be trained.
    ``rewards`` are named for methods that learn online; ``epochs`` are passes over the data, None for the advised.
    """

    objectives: int = 1
    explores: bool = False
    least_resources: bool = False
    full: bool = False
    rewards: tuple[str, ...] = ()
    epochs: float | None = None
    eval_data: str | None = None


def known_facts(
    data: DataFacts, model: ModelFacts | None, wishes: Wishes, success: Success | None = None
) -> dict[str, Value]:
    """The facts that decide on a method."""
    epochs = wishes.epochs or advised_epochs(data.records)
    checked = None if data.checkable is None else data.checkable.value
    held_out = data.held_out if wishes.eval_data else round(EVAL_FRACTION * data.records)
    facts: dict[str, Value] = {
        "paired": data.kind == "pair",
        "labelled": data.kind == "label",
        "demonstrated": data.kind == "demonstration",
        "prompts_only": data.kind == "prompt",
        "records": data.records,
        "prompts": data.prompts,
        "conversational": data.conversational,
        "duplicates": data.duplicates,
        "contradictions": data.contradictions,
        "leaked": data.leaked_prompts,
        "undecided": data.undecided,
        "unusable": sum(data.rejected.values()) / max(1, data.read),
        "has_confidence": data.has_confidence,
        "checkable": checked if checked is not None else 0.0,
        "has_reward": bool(wishes.rewards) or (checked or 0.0) >= 0.8,
        "explores": wishes.explores or wishes.objectives > 1,
        "least_resources": wishes.least_resources,
        "epochs": epochs,
        "held_out": held_out,
        "seen_difference": None if not held_out else 1.96 * math.sqrt(0.25 / held_out),
        **_noise(data.noise),
        **_share("evidence", data.evidence),
        **_share("agreement", data.agreement),
        **_share("longer_wins", data.longer_wins),
        **_share("desirable", data.desirable),
        **_rarer(data.desirable),
        **_model(model),
        **({"success_known": False} if success is None else success.facts()),
    }
    return facts


def advised_epochs(records: int) -> float:
    """Passes over the data: one, unless so few records would be over before anything is learned."""
    return float(max(1, math.ceil(PAIRS_FOR_A_RUN / max(1, records))))


def _share(name: str, share: Share | None) -> dict[str, Value]:
    if share is None or share.value is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: share.value, f"{name}_low": share.low, f"{name}_high": share.high}


def _noise(noise: Share | None) -> dict[str, Value]:
    found = _share("noise", noise)
    low, value = found["noise_low"], found["noise"]
    is_noisy = isinstance(low, float) and low > NOISY
    scatter = 1 / (1 - 2 * value) if isinstance(value, float) and value < 0.5 else None
    return {**found, "noisy": is_noisy, "noise_known": value is not None, "robust_scatter": scatter}


def _rarer(desirable: Share | None) -> dict[str, Value]:
    """KTO's weight of the rarer kind, by which both kinds count alike; None where there is one kind only."""
    share = None if desirable is None else desirable.value
    if share is None or not 0 < share < 1:
        return {"rarer_weight": None}
    return {"rarer_weight": round(max(share, 1 - share) / min(share, 1 - share), 2)}


def _model(model: ModelFacts | None) -> dict[str, Value]:
    if model is None:
        return {"model_known": False, "taught": True}
    return {
        "model_known": True,
        "taught": model.is_taught,
        "why_taught": model.why_taught,
        "has_template": model.has_chat_template,
        "parameters_millions": model.sizes.parameters / 1e6,
        "experts": model.experts,
    }


def plan_facts(recipe: Any, estimates: Any, data: DataFacts, available: float | None) -> dict[str, Value]:
    """The facts of a plan that is made: whether it fits, how long it takes, what it cuts."""
    most = recipe.settings.get("max_length")
    longest = [max((one[0] + c for c in one[1:]), default=sum(one)) for one in data.lengths]
    cut = sum(length > most for length in longest) / len(longest) if most and longest else 0.0
    facts: dict[str, Value] = {"max_length": most, "cut": cut, "peak_share": None, "hours": None}
    if estimates.memory is not None and available:
        facts |= {
            "peak_share": estimates.memory.peak / available,
            "peak_gib": estimates.memory.peak / 1024,
            "available_gib": available / 1024,
        }
    if estimates.duration is not None:
        facts["hours"] = estimates.duration.seconds / 3600
    return facts
