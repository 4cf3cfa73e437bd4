"""GRPO's and RLOO's losses of TRL 1.16 and ours, for the same log-probs: value, gradient of each token, figures.

TRL's trainers compute on padded rectangles, ours on flat tokens. The log-probs are handed to both, so that only the
losses are compared; one test goes through a model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preftune import losses
from tests.tiny_world import World, make_tokenizer

pytest.importorskip("trl")
pytestmark = pytest.mark.parity

LENGTHS = torch.tensor([5, 3, 7, 1, 4, 6])
WIDTH, PROMPT_WIDTH, GROUP, LONGEST = 8, 3, 3, 16
MASK = torch.arange(WIDTH) < LENGTHS[:, None]
SEQUENCE = torch.repeat_interleave(torch.arange(len(LENGTHS)), LENGTHS)
NAN = math.nan


@dataclass(frozen=True)
class Case:
    """Settings by TRL's names; ``corrected``: the sampler was not the trainer, ``on_policy``: TRL keeps no old ones."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    corrected: str = ""
    on_policy: bool = False


CASES = [
    *(Case(name, {"loss_type": name}) for name in ("grpo", "bnpo", "dr_grpo", "dapo", "sapo")),
    *(Case(f"{name} on-policy", {"loss_type": name}, on_policy=True) for name in ("dapo", "sapo")),
    Case("cispo", {"loss_type": "cispo", "epsilon_high": 1.5}),
    Case("cispo on-policy", {"loss_type": "cispo", "epsilon_high": 5.0}, on_policy=True),
    Case("sapo, temperatures", {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 3.0}),
    Case("luspo", {"loss_type": "luspo", "importance_sampling_level": "sequence"}),
    Case("luspo by token", {"loss_type": "luspo"}),
    Case("clip-higher", {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}),
    Case("two-sided", {"loss_type": "dapo", "delta": 1.5}),
    Case(
        "gspo",
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03, "epsilon_high": 0.04},
    ),
    Case("gspo, two-sided", {"loss_type": "dapo", "importance_sampling_level": "sequence", "delta": 1.3}),
    Case("kl", {"loss_type": "grpo", "beta": 0.3}),
    Case("kl, bias corrected", {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": True}),
    Case(
        "kl, bias corrected by sequence",
        {
            "loss_type": "dr_grpo",
            "beta": 0.3,
            "use_bias_correction_kl": True,
            "importance_sampling_level": "sequence",
        },
    ),
    Case("corrected by token", {"loss_type": "dapo", "beta": 0.3}, corrected="token_truncate"),
    Case("corrected by sequence", {"loss_type": "grpo"}, corrected="sequence_mask"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_gradient_and_figures_are_trls_grpo(case: Case, world: World, tmp_path: Path) -> None:
    trainer, data = grpo_trainer(world, tmp_path, case), Data.drawn()
    padded = data.new.clone().requires_grad_()
    hand_over(trainer, padded)
    theirs = trainer._compute_loss(trainer.model, data.padded(trainer, case))
    flat = data.new[MASK].requires_grad_()
    ours = our_loss(trainer, data, case, flat)

    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    agree(*torch.autograd.grad(ours, flat), *torch.autograd.grad(theirs, padded))
    figures = trainer._metrics["eval"]
    if "clip_ratio/low_mean" in figures and case.settings.get("importance_sampling_level") != "sequence":
        ratio = flat.detach() - (flat.detach() if case.on_policy else data.old[MASK])
        shares = losses.clip_fractions(ratio, data.spread(), trainer.epsilon_low, trainer.epsilon_high)
        assert [share.item() for share in shares] == pytest.approx(
            [figures["clip_ratio/low_mean"][0], figures["clip_ratio/high_mean"][0]], abs=1e-6
        )


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo", "cispo", "sapo"])
def test_two_micro_batches_of_a_step_are_trls(loss_type: str, world: World, tmp_path: Path) -> None:
    """As many sequences in each: where they differ TRL's mean of means weighs the sequences of a short one more."""
    case = Case(loss_type, {"loss_type": loss_type, "epsilon_high": 2.0, "gradient_accumulation_steps": 2})
    trainer, data = grpo_trainer(world, tmp_path, case), Data.drawn()
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 2
    padded = data.new.clone().requires_grad_()
    theirs = torch.zeros(())
    for rows in (slice(0, 3), slice(3, 6)):
        hand_over(trainer, padded[rows])
        part = {name: one if one.dim() == 0 else one[rows] for name, one in data.padded(trainer, case).items()}
        theirs = theirs + trainer._compute_loss(trainer.model, part)
    flat = data.new[MASK].requires_grad_()
    ours = our_loss(trainer, data, case, flat)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    agree(*torch.autograd.grad(ours, flat), *torch.autograd.grad(theirs, padded))


def test_gradient_of_a_models_weights_is_trls(world: World, tmp_path: Path) -> None:
    case = Case("whole", {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": True})
    trainer, data = grpo_trainer(world, tmp_path, case), Data.drawn()
    model = load(world)
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(10, 60, (len(LENGTHS), PROMPT_WIDTH), generator=generator)
    completions = torch.randint(10, 60, (len(LENGTHS), WIDTH), generator=generator).masked_fill(~MASK, 0)
    ids = torch.cat([prompts, completions], 1)
    attention = torch.cat([torch.ones_like(prompts), MASK.long()], 1)
    logits = model(input_ids=ids, attention_mask=attention).logits[:, PROMPT_WIDTH - 1 : -1].float()
    log_probs = logits.log_softmax(-1).gather(-1, completions[..., None])[..., 0]

    drift = 0.3 * torch.randn(log_probs.shape, generator=generator)
    data = Data(data.new, log_probs.detach() + drift, log_probs.detach() - drift, data.sampler, data.advantages)
    inputs = data.padded(trainer, case) | {"prompt_ids": prompts, "completion_ids": completions}
    theirs = trainer._compute_loss(trainer.model, inputs)
    ours = our_loss(trainer, data, case, log_probs[MASK])
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    ours.backward()
    theirs.backward()
    for (name, one), (_, other) in zip(model.named_parameters(), trainer.model.named_parameters(), strict=True):
        assert one.grad is not None and other.grad is not None, name
        assert (one.grad - other.grad).abs().max().item() < 1e-5, name


@pytest.mark.parametrize("epsilons", [(0.2, None), (0.1, 0.6)])
def test_loss_and_gradient_are_trls_rloo(epsilons: tuple[float, float | None], world: World, tmp_path: Path) -> None:
    from trl import RLOOConfig, RLOOTrainer

    settings = {"beta": 0.0, "epsilon": epsilons[0], "epsilon_high": epsilons[1]}
    trainer, data = make_trainer(RLOOTrainer, RLOOConfig, world, tmp_path, settings), Data.drawn()
    padded = data.new.clone().requires_grad_()
    hand_over(trainer, padded)
    inputs = data.padded(trainer, Case("rloo")) | {"old_logps": (data.old * MASK).sum(1)}
    theirs = trainer._compute_loss(trainer.model, inputs)

    flat = data.new[MASK].requires_grad_()
    ratio = losses.sequence_sum_log_ratio(flat - data.old[MASK], SEQUENCE, len(LENGTHS))
    bounds = (trainer.epsilon_low, trainer.epsilon_high)
    ours = losses.clipped_surrogate(ratio, data.advantages, *bounds).mean()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    agree(*torch.autograd.grad(ours, flat), *torch.autograd.grad(theirs, padded))
    figures = trainer._metrics["eval"]
    shares = losses.clip_fractions(ratio.detach(), data.advantages, *bounds)
    assert [share.item() for share in shares] == pytest.approx(
        [figures["clip_ratio/low_mean"][0], figures["clip_ratio/high_mean"][0]]
    )
    assert sum(share.item() for share in shares) > 0, "nothing was clipped: the comparison says little"


REWARDS = torch.tensor([[1.0, 0.0, 2.5], [0.5, NAN, -1.0], [3.0, 3.0, 3.0], [NAN, 2.0, NAN], [NAN] * 3])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_group_advantages_are_trls(scale: Any) -> None:
    assert losses.group_advantages(REWARDS, scale).tolist() == close(trl_group_advantages(REWARDS, scale))


@pytest.mark.parametrize("normalize", [False, True])
def test_leave_one_out_advantages_are_trls(normalize: bool) -> None:
    """Missing rewards, whose advantage is 0 by then, are put back before normalising: they count in no mean."""
    rewards = REWARDS[:3]
    ours = losses.leave_one_out(rewards)
    if normalize:
        ours = losses.batch_normalised(ours.masked_fill(rewards.isnan(), NAN))
    assert ours.tolist() == close(trl_leave_one_out(rewards, normalize))


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_importance_weights_are_trls(mode: Any) -> None:
    data = Data.drawn()
    sampler = data.sampler.clone()
    sampler[2, 3] = NAN
    theirs = trl_importance_weights(data.old, sampler, mode, 0.8, 1.5).expand(MASK.shape)[MASK]
    arguments = (data.old[MASK], sampler[MASK], SEQUENCE, len(LENGTHS))
    assert losses.importance_weights(*arguments, mode, cap=1.5, floor=0.8).tolist() == close(theirs)


RESTATED = {
    "GRPOTrainer": (
        "advantages = rewards - mean_grouped_rewards",
        "advantages = advantages / (std_rewards + 1e-4)",
        "std_rewards = nanstd(rewards.view(-1, num_generations), dim=1)",
        "std_rewards = nanstd(rewards).expand_as(rewards)",
        "per_token_logps_diff = (old_per_token_logps - sampling_per_token_logps) * mask",
        "per_sequence_logps_diff = per_token_logps_diff.sum(dim=-1, keepdim=True)",
        "advantages = torch.nan_to_num(advantages, nan=0.0)",
    ),
    "RLOOTrainer": (
        "baselines = (grouped_sum - grouped_rewards) / (scorable_counts - 1)",
        "advantages = (advantages - torch.nanmean(advantages)) / (nanstd(advantages) + 1e-4)",
        "advantages = torch.nan_to_num(advantages, nan=0.0)",
    ),
}


@pytest.mark.parametrize("name", RESTATED)
def test_what_is_restated_here_is_still_trls(name: str) -> None:
    """Advantages are computed in the midst of generation, so their formulas are repeated below, from 1.16.0."""
    import trl

    source = inspect.getsource(getattr(trl, name)._generate_and_score_completions)
    assert [line for line in RESTATED[name] if line not in source] == []


def trl_group_advantages(rewards: Tensor, scale: str) -> Tensor:
    """trl/trainer/grpo_trainer.py 1.16.0, lines 2760 to 2810."""
    from trl.trainer.utils import nanstd

    deviation = nanstd(rewards, dim=1, keepdim=True) if scale == "group" else nanstd(rewards)
    advantages = rewards - rewards.nanmean(1, keepdim=True)
    return torch.nan_to_num(advantages if scale == "none" else advantages / (deviation + 1e-4), nan=0.0)


def trl_leave_one_out(rewards: Tensor, normalize: bool) -> Tensor:
    """trl/trainer/rloo_trainer.py 1.16.0, lines 1685 to 1699."""
    from trl.trainer.utils import nanstd

    counts = (~rewards.isnan()).sum(1, keepdim=True)
    advantages = rewards - (rewards.nansum(1, keepdim=True) - rewards) / (counts - 1)
    if normalize:
        advantages = (advantages - advantages.nanmean()) / (nanstd(advantages) + 1e-4)
    return torch.nan_to_num(advantages, nan=0.0)


def trl_importance_weights(old: Tensor, sampler: Tensor, mode: str, floor: float, cap: float) -> Tensor:
    """trl/trainer/grpo_trainer.py 1.16.0, lines 2672 to 2720; (rows, 1) or (rows, tokens)."""
    difference = torch.nan_to_num((old - sampler) * MASK, nan=0.0)
    ratio = (difference.sum(-1, keepdim=True) if mode.startswith("sequence") else difference).exp()
    if mode.endswith("truncate"):
        return ratio.clamp(floor, cap)
    return ratio.masked_fill((ratio < floor) | (ratio > cap), 0.0)


@dataclass(frozen=True)
class Data:
    """Log-probs of a batch as padded rows, numbers in the padding too, and an advantage a row."""

    new: Tensor
    old: Tensor
    reference: Tensor
    sampler: Tensor
    advantages: Tensor

    @classmethod
    def drawn(cls) -> Data:
        generator = torch.Generator().manual_seed(0)
        new = -torch.rand(MASK.shape, generator=generator) * 4 - 0.1
        moved = [new + spread * torch.randn(new.shape, generator=generator) for spread in (0.4, 0.5)]
        sampler = moved[0] + 0.2 * torch.randn(new.shape, generator=generator)
        return cls(new, *moved, sampler, torch.tensor([1.2, -0.7, -0.5, 0.0, 0.9, -1.3]))

    def padded(self, trainer: Any, case: Case) -> dict[str, Tensor]:
        """The batch as TRL's ``_compute_loss`` takes it."""
        rows = len(LENGTHS)
        found = {
            "prompt_ids": torch.ones(rows, PROMPT_WIDTH, dtype=torch.long),
            "prompt_mask": torch.ones(rows, PROMPT_WIDTH, dtype=torch.long),
            "completion_ids": torch.ones(rows, WIDTH, dtype=torch.long),
            "completion_mask": MASK.long(),
            "advantages": self.advantages,
            "num_items_in_batch": LENGTHS.sum(),
            "ref_per_token_logps": self.reference,
        }
        if not case.on_policy:
            found["old_per_token_logps"] = self.old
        if case.corrected:
            floor, cap = 0.8, trainer.args.vllm_importance_sampling_clip_max
            found["importance_sampling_ratio"] = trl_importance_weights(
                self.old, self.sampler, case.corrected, floor, cap
            )
        return found

    def spread(self) -> Tensor:
        return self.advantages[SEQUENCE]


def our_loss(trainer: Any, data: Data, case: Case, new: Tensor) -> Tensor:
    """The step's loss from flat log-probs, put together as a method does."""
    args, rows = trainer.args, len(LENGTHS)
    token_ratio = new - (new.detach() if case.on_policy else data.old[MASK])
    by_sequence = args.importance_sampling_level == "sequence"
    ratio = losses.sequence_log_ratio(token_ratio, SEQUENCE, rows) if by_sequence else token_ratio
    per_token = policy_loss(args, new, ratio, data.spread())
    if case.corrected:
        mode: Any = case.corrected
        cap = args.vllm_importance_sampling_clip_max
        arguments = (data.old[MASK], data.sampler[MASK], SEQUENCE, rows)
        per_token = per_token * losses.importance_weights(*arguments, mode, cap=cap, floor=0.8)
    if args.beta:
        reference = data.reference[MASK]
        corrected = args.use_bias_correction_kl
        kl = losses.bias_corrected_kl(new, reference, ratio) if corrected else losses.kl_estimate(new, reference)
        per_token = per_token + args.beta * kl
    weights = losses.token_weights(args.loss_type, SEQUENCE, LENGTHS)
    return (weights * per_token).sum() / losses.divisor(args.loss_type, LENGTHS, args.max_completion_length)


def policy_loss(args: Any, new: Tensor, ratio: Tensor, advantages: Tensor) -> Tensor:
    if args.loss_type == "cispo":
        return losses.cispo(new, ratio, advantages, args.epsilon_high)
    if args.loss_type == "sapo":
        return losses.sapo(ratio, advantages, args.sapo_temperature_pos, args.sapo_temperature_neg)
    high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    return losses.clipped_surrogate(ratio, advantages, args.epsilon, high, args.delta)


def grpo_trainer(world: World, folder: Path, case: Case) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    trainer = make_trainer(GRPOTrainer, GRPOConfig, world, folder, {"beta": 0.0} | case.settings)
    trainer.use_vllm = bool(case.corrected)  # else the loss reads no weights; nothing is generated here
    return trainer


def make_trainer(
    trainer_class: Any, config: Callable[..., Any], world: World, folder: Path, settings: dict[str, Any]
) -> Any:
    from datasets import Dataset

    arguments = config(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=len(LENGTHS) // settings.get("gradient_accumulation_steps", 1),
        num_generations=GROUP,
        max_completion_length=LONGEST,
        **settings,
    )
    return trainer_class(
        model=load(world),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        processing_class=make_tokenizer(),
        train_dataset=Dataset.from_list([{"prompt": "one"}, {"prompt": "two"}]),
    )


def load(world: World) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)


def hand_over(trainer: Any, log_probs: Tensor) -> None:
    """Makes ``log_probs`` those that the trainer finds."""
    entropy = torch.zeros_like(log_probs).detach()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, entropy, None)


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Flat and padded gradients are the same, and padding has none."""
    assert theirs[MASK].abs().max() > 1e-3
    assert (ours - theirs[MASK]).abs().max().item() < 1e-6
    assert (theirs[~MASK] == 0).all()


def close(values: Tensor) -> Any:
    return pytest.approx(values.tolist(), abs=1e-5) if values.dim() == 1 else [close(row) for row in values]
