"""PPO for language models (Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022, arXiv:2203.02155)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune import losses
from preftune.errors import PreftuneError
from preftune.methods.across import gathered, over_all
from preftune.methods.carried import Together
from preftune.methods.context import Context
from preftune.methods.critic import ActorCritic, load_critic, per_token_values, reward_under_critic
from preftune.methods.experience import Experience, branches, split_by_length
from preftune.methods.group_policy import gather_batch, shared_figures
from preftune.methods.job import Job
from preftune.methods.kl_control import KLControl
from preftune.methods.online import Online, open_online
from preftune.methods.ppo_settings import PPOConfig
from preftune.methods.rollout_figures import Sums, window_figures
from preftune.methods.windows import Portion, TakePrompts, Window, drawn_in_windows
from preftune.training.loop import Computed


def prepare(context: Context[Any]) -> Job[Any]:
    """A run of PPO."""
    config: PPOConfig = context.config
    if config.share_reward_trunk and (config.value_model or first_reward_model(config) is None):
        raise PreftuneError(
            "share_reward_trunk needs a reward model's folder among the rewards, and no other value_model.",
            where="--share_reward_trunk",
            mend="Name the folder in --reward_funcs, or leave share_reward_trunk out.",
        )
    folder = first_reward_model(config)
    critic = load_critic(context, folder)
    shared = {folder: reward_under_critic(context, critic, folder)} if folder and config.share_reward_trunk else {}
    online = open_online(context, needs_reference=True, opened=shared)
    control = KLControl(config.kl_coef, config.kl_target, config.kl_horizon)

    def make(number: int, take: TakePrompts) -> Window:
        judged = online.draw(take, number)
        combined = online.objective.combined(judged)
        figures = {**window_figures(judged, combined), **online.objective.learn(judged)}
        scores = combined if config.reward_clip_range is None else np.clip(combined, *config.reward_clip_range)
        experiences = online.experiences(judged, keep_old=True, known=np.isfinite(scores).astype(float))
        values = per_token_values(critic.engine, experiences, config.per_device_eval_batch_size)
        learned, own = with_advantages(online, experiences, values, np.nan_to_num(scores), control.coef)
        kl = gathered(context.accelerator, [own["objective/kl"]])
        mean_kl = sum(total for total, _ in kl) / max(sum(weight for _, weight in kl), 1.0)
        control.learn(mean_kl, sum(int(weight) for _, weight in kl))
        return Window(learned, {**figures, **own})

    def weight(one: Experience) -> float:
        return float(len(one.completion)) if is_known(one) else 0.0

    kept = Together({"objective": online.objective, "kl": control})
    supply = drawn_in_windows(context, len(online.collector.prompts), make, Portion(weight, is_known), kept)

    def save(folder: Path) -> None:
        online.policy.save(folder)
        critic.save(folder.with_name("value_model"))

    engine = ActorCritic(online.policy.engine, critic.engine)
    return online.job("ppo", supply, ppo_step(config), engine=engine, save=save)


def first_reward_model(config: PPOConfig) -> str | None:
    """The first of the rewards that is a model's folder."""
    return next((one for one in config.reward_funcs if _is_model_folder(Path(one).expanduser())), None)


def is_known(one: Experience) -> bool:
    """False for a completion whose reward could not be had."""
    return bool(one.per_token["known"][0])


def with_advantages(
    online: Online,
    experiences: Sequence[Experience],
    values: Sequence[np.ndarray],
    scores: Float[np.ndarray, "samples"],
    kl_coef: float,
) -> tuple[list[Experience], Sums]:
    """Experiences with values, returns and advantages by GAE over rewards that price the KL, and what to log."""
    config: PPOConfig = online.context.config
    old, reference, value = (
        torch.from_numpy(np.concatenate(arrays)).double()
        for arrays in (
            [one.per_token["old"] for one in experiences],
            [one.per_token["reference"] for one in experiences],
            values,
        )
    )
    lengths = torch.tensor([len(one.completion) for one in experiences])
    known = torch.repeat_interleave(torch.tensor([is_known(one) for one in experiences]), lengths)
    kl = losses.kl_estimate(old, reference, config.kl_estimator)
    rewards = losses.token_rewards(kl, torch.from_numpy(scores), lengths, kl_coef)
    if config.whiten_rewards:
        rewards = _whitened(online, rewards, known, shift_mean=False)
    advantages, returns = losses.gae(rewards, value, lengths, config.gamma, config.lam)
    raw = advantages
    if config.whiten_advantages:
        advantages = _whitened(online, advantages, known, shift_mean=True)
    columns = [split_by_length(one, experiences) for one in (value, returns, advantages)]
    learned = [
        one.having(values=v, returns=g, advantages=a) for one, v, g, a in zip(experiences, *columns, strict=True)
    ]
    n, has_reward = float(len(experiences)), np.array([is_known(one) for one in experiences])
    earned, k1 = float(scores[has_reward].sum()), float((old - reference).sum())
    figures: Sums = {
        "objective/kl": (k1, n),
        "objective/non_score_reward": (-kl_coef * float(kl.sum()), n),
        "objective/scores": (earned, float(has_reward.sum())),
        "objective/rlhf_reward": (earned - kl_coef * float(kl[known].sum()), float(has_reward.sum())),
        "kl_coef": (kl_coef, 1.0),
        "adv/mean": (float(raw.mean()), 1.0),
        "adv/std": (float(raw.std()), 1.0),
        "explained_variance": (float(losses.explained_variance(value[known], returns[known]).nan_to_num()), 1.0),
    }
    return learned, figures


def ppo_step(config: PPOConfig) -> Callable[[nn.Module, Sequence[Experience]], Computed]:
    """``L = L_pi + c_v L_V``, means over tokens."""

    def compute(module: nn.Module, experiences: Sequence[Experience]) -> Computed:
        scores, values = module(branches(experiences))
        batch = gather_batch(scores, experiences)
        known = batch.per_token("known")
        policy = losses.clipped_surrogate(batch.log_ratio, batch.advantages, config.cliprange, config.cliprange)
        value = losses.clipped_value_loss(
            values, batch.per_token("values"), batch.per_token("returns"), config.cliprange_value
        )
        below, above = losses.is_clipped(batch.log_ratio, batch.advantages, config.cliprange, config.cliprange)
        far = (values - batch.per_token("values")).abs() > config.cliprange_value
        n = float(known.sum())
        metrics = {
            "loss/policy_avg": ((known * policy).detach().sum(), n),
            "loss/value_avg": ((known * value).detach().sum(), n),
            "policy/clipfrac_avg": ((known * (below | above)).sum(), n),
            "val/clipfrac_avg": ((known * far).sum(), n),
        }
        loss_sum = (known * (policy + config.vf_coef * value)).sum()
        tokens = sum(one.length for one in experiences)
        return Computed(loss_sum, len(experiences), tokens, {**shared_figures(batch), **metrics}, weight=max(n, 1e-9))

    return compute


def _is_model_folder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _whitened(
    online: Online, values: Float[Tensor, "targets"], known: Tensor, *, shift_mean: bool
) -> Float[Tensor, "targets"]:
    """Whitened over the tokens of all processes whose completions have a reward."""

    def whiten(everyone: Float[np.ndarray, "all"]) -> Float[np.ndarray, "all"]:
        return losses.whiten(torch.from_numpy(everyone), shift_mean).numpy() if len(everyone) else everyone

    found = values.clone()
    found[known] = torch.from_numpy(over_all(online.context.accelerator, values[known].numpy(), whiten))
    return found
