"""PPO of a small model: answers drawn, scored, and learned from, by the package's own losses and loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from preftune import losses
from preftune.errors import PreftuneError
from preftune.mini.actor_critic import ActorCritic, taken, tempered_log_probs, value_model
from preftune.mini.log_probs import answer_log_probs, device_of, pad
from preftune.mini.model import MiniGPT, RewardModel, refuse_shared_weights
from preftune.mini.ppo_inputs import check_room, check_trainable, read_prompts, read_rewards
from preftune.mini.reward import score_answers
from preftune.mini.sampling import ROWS, draw_answers
from preftune.mini.tokenizer import Example, decode
from preftune.mini.training import Progress, Recipe, require_positive, train_epochs
from preftune.models.reference import Reference, ReferenceGuard
from preftune.models.weights import all_parameters, fingerprint_weights
from preftune.training.loop import Computed

RewardRule: TypeAlias = Callable[[list[str], list[str]], Sequence[float]]  # prompts, answers -> a reward each


@dataclass(frozen=True)
class PPOSettings:
    """What an episode does; as ``ppo_training`` explains it."""

    max_new_tokens: int
    kl_coeff: float
    num_ppo_epochs: int
    cliprange: float
    gamma: float
    lam: float
    vf_coef: float
    temperature: float

    def __post_init__(self) -> None:
        for name in ("num_ppo_epochs", "cliprange", "temperature"):
            require_positive(name, getattr(self, name))
        for name, most in (("kl_coeff", np.inf), ("vf_coef", np.inf), ("gamma", 1.0), ("lam", 1.0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and 0 <= value <= most):
                upper = "" if np.isinf(most) else f" and at most {most:g}"
                raise PreftuneError(f"{name} is {value}.", where=name, mend=f"It must be at least 0{upper}.")


@dataclass(frozen=True)
class Window:
    """The answers of one episode, one a prompt, and for each what its tokens are learned from.

    ``reward`` is their mean reward, ``kl`` their mean KL from the reference, in nats an answer.
    """

    answers: Sequence[Example]
    old: Sequence[Float[Tensor, "tokens"]]
    values: Sequence[Float[Tensor, "tokens"]]
    returns: Sequence[Float[Tensor, "tokens"]]
    advantages: Sequence[Float[Tensor, "tokens"]]
    reward: float
    kl: float


def ppo_training(
    policy: MiniGPT,
    reference: MiniGPT,
    reward: RewardModel | RewardRule,
    prompts: Sequence[str],
    num_episodes: int = 20,
    lr: float = 1.5e-5,
    kl_coeff: float = 0.02,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 32,
    num_ppo_epochs: int = 4,
    cliprange: float = 0.2,
    gamma: float = 1.0,
    lam: float = 0.95,
    vf_coef: float = 0.1,
    temperature: float = 1.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[MiniGPT, list[float], list[float]]:
    """``policy``, trained in place, and by episode the mean reward and the mean KL (nats an answer) of what it drew.

    An episode draws an answer to every prompt, then takes ``num_ppo_epochs`` passes over them in batches of
    ``batch_size``. ``reward`` is a RewardModel or a rule: (prompts, answers) -> a number each, of texts. A token's
    reward is -``kl_coeff`` (log pi - log pi_ref), the last one's also the answer's; advantages are GAE with
    ``gamma`` and ``lam``, whitened over the episode (Schulman et al. 2017, arXiv:1707.06347; Ouyang et al. 2022,
    arXiv:2203.02155). Values, clipped by ``cliprange`` in units of the reward, come from a model trained beside the
    policy: from the reward model's weights, or from the policy's with a head that says 0.

    Figures are of an episode's answers, before it learns from them: the first are the start's. The KL sums the
    divergence over the vocabulary at each place, at ``temperature``. Raises ``PreftuneError`` for a reward that is
    not finite, by prompt, where policy and reference share weights, and if the reference moves.
    """
    require_positive("num_episodes", num_episodes)
    settings = PPOSettings(max_new_tokens, kl_coeff, num_ppo_epochs, cliprange, gamma, lam, vf_coef, temperature)
    recipe = Recipe(num_episodes * num_ppo_epochs, lr, batch_size, seed, progress)
    asked = read_prompts(prompts)
    refuse_shared_weights(policy, reference, "reference")
    if isinstance(reward, RewardModel):
        refuse_shared_weights(policy, reward, "reward model")
    check_trainable(policy)
    check_room(policy, [reference, *([reward] if isinstance(reward, RewardModel) else [])], asked, max_new_tokens)
    both = ActorCritic(policy, value_model(policy, reward))
    draw = partial(draw_window, both, reference, reward, asked, settings)
    rewards, kls = _run(both, reference, draw, recipe, settings)
    return policy, rewards, kls


def _run(
    both: ActorCritic, reference: MiniGPT, draw: Callable[[int], Window], recipe: Recipe, settings: PPOSettings
) -> tuple[list[float], list[float]]:
    """Episode after episode; a pass over a window is an epoch of the loop. ``draw(seed)`` makes a window."""
    guard = ReferenceGuard(_frozen(reference))
    num_episodes = recipe.num_epochs // settings.num_ppo_epochs
    window = draw(episode_seed(recipe.seed, 0))
    rewards, kls = [window.reward], [window.kl]
    passes = 0

    def on_step(step: int, figures: Mapping[str, float]) -> None:
        if recipe.progress is not None:
            recipe.progress(step, {**figures, "reward": window.reward, "kl": window.kl})

    def after_pass() -> None:
        nonlocal window, passes
        guard.check("the end of a pass")
        passes += 1
        if passes % settings.num_ppo_epochs == 0 and len(rewards) < num_episodes:
            window = draw(episode_seed(recipe.seed, len(rewards)))
            rewards.append(window.reward)
            kls.append(window.kl)

    train_epochs(
        both,
        [1] * len(window.answers),
        lambda module, batch: ppo_step(module, window, batch, settings),
        replace(recipe, progress=on_step),
        after_epoch=after_pass,
        weight=lambda item: float(len(window.old[item])),
    )
    return rewards, kls


def episode_seed(seed: int, episode: int) -> int:
    """What draws the answers of an episode: no two seeds share any."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


@torch.no_grad()
def draw_window(
    both: ActorCritic,
    reference: MiniGPT,
    reward: RewardModel | RewardRule,
    prompts: Sequence[str],
    settings: PPOSettings,
    seed: int,
) -> Window:
    """An answer to each prompt, drawn and scored, with values, returns and advantages."""
    answers = draw_answers(both.policy, prompts, settings.max_new_tokens, settings.temperature, seed=seed)
    scores = _scores(reward, prompts, [decode(one.answer) for one in answers])
    parts = [answers[begin : begin + ROWS] for begin in range(0, len(answers), ROWS)]
    measured = [_measure(both, reference, part, settings.temperature) for part in parts]
    old, theirs, values, kls = (torch.cat(column) for column in zip(*measured, strict=True))
    lengths = torch.tensor([len(one.answer) for one in answers])
    priced = losses.token_rewards(losses.kl_estimate(old, theirs, "k1"), scores, lengths, settings.kl_coeff)
    advantages, returns = losses.gae(priced, values, lengths, settings.gamma, settings.lam)
    columns = (one.split(lengths.tolist()) for one in (old, values, returns, losses.whiten(advantages)))
    return Window(answers, *columns, reward=float(scores.mean()), kl=float(kls.mean()))


def ppo_step(module: nn.Module, window: Window, batch: Sequence[int], settings: PPOSettings) -> Computed:
    """``L_pi + vf_coef L_V`` of the answers numbered in ``batch``, a mean over their tokens."""
    answers = [window.answers[i] for i in batch]
    padded = pad(answers, device_of(module))
    log_probs, values = module(padded, settings.temperature)
    old, old_values, returns, advantages = (
        torch.cat([column[i] for i in batch]).to(log_probs)
        for column in (window.old, window.values, window.returns, window.advantages)
    )
    surrogate = losses.clipped_surrogate(log_probs - old, advantages, settings.cliprange, settings.cliprange)
    value_loss = losses.clipped_value_loss(values, old_values, returns, settings.cliprange)
    loss_sum = (surrogate + settings.vf_coef * value_loss).sum()
    return Computed(loss_sum, len(batch), sum(one.length for one in answers), {}, weight=float(len(old)))


def _scores(
    reward: RewardModel | RewardRule, prompts: Sequence[str], answers: Sequence[str]
) -> Float[Tensor, "prompts"]:
    if isinstance(reward, RewardModel):
        given: Sequence[float] = score_answers(reward, list(zip(prompts, answers, strict=True)))
    else:
        given = reward(list(prompts), list(answers))
    return torch.tensor(read_rewards(given, prompts), dtype=torch.float32)


def _measure(
    both: ActorCritic, reference: MiniGPT, answers: Sequence[Example], temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Policy's and reference's log-probs and the values, flat (targets,), and the KL of each answer (answers,)."""
    batch = pad(answers, device_of(both))
    ours, theirs = (tempered_log_probs(model, batch, temperature) for model in (both.policy, reference))
    by_place = (ours.exp() * (ours - theirs)).sum(-1)  # (rows, tokens - 1)
    kls = torch.where(batch.is_answer[:, 1:], by_place, 0.0).sum(1)
    return taken(ours, batch).cpu(), taken(theirs, batch).cpu(), both.value(batch).cpu(), kls.cpu()


def _frozen(reference: MiniGPT) -> Reference:
    """The reference as the guard takes it."""
    weights = partial(all_parameters, reference)
    return Reference("separate model", partial(answer_log_probs, reference), lambda: fingerprint_weights(weights()))
