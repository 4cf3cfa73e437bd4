"""PPO on the small model: its gradient, its optimum, its reference, and what the price of the KL does."""

from __future__ import annotations

import copy
import math
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preftune.errors import PreftuneError
from preftune.evaluate.measures import mean
from preftune.mini import (
    PREFERENCE_DATA,
    MiniGPT,
    copy_model_weights,
    generate,
    kl_from_reference,
    ppo_training,
    score_answers,
    sft_train,
)
from preftune.mini.actor_critic import ActorCritic, value_model
from preftune.mini.log_probs import answer_log_probs, next_token_log_probs, pad
from preftune.mini.ppo import PPOSettings, draw_window, episode_seed, ppo_step
from preftune.mini.sampling import draw_answers
from preftune.mini.tokenizer import END, decode
from tests.mini.tiny import gpt, policy_and_reference, reward_model

ROOT = Path(__file__).parents[2]
PROMPTS = ["a", "another prompt", "", "and one more"]
SETTINGS = PPOSettings(
    max_new_tokens=8, kl_coeff=0.1, num_ppo_epochs=4, cliprange=0.2, gamma=1.0, lam=0.95, vf_coef=0.1, temperature=1.0
)


def share_of_x(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """A rule whose reward is known: the share of x among the characters of an answer."""
    return [answer.count("x") / max(len(answer), 1) for answer in answers]


def share_of_e(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """The documented rule."""
    return [answer.count("e") / max(len(answer), 1) for answer in answers]


def among(letters: str, seed: int = 1, **sizes: Any) -> MiniGPT:
    """A model that gives these letters and the end, all about as likely."""
    model = gpt(seed, **sizes)
    with torch.no_grad():
        model.head.bias.fill_(-30.0)
        model.head.bias[[*letters.encode(), END]] = 0.0
    return model


def twins(letters: str = "xyz") -> tuple[MiniGPT, MiniGPT]:
    """Policy and reference of equal weights."""
    policy, reference = among(letters), gpt(2)
    copy_model_weights(policy, reference)
    return policy, reference


def test_the_reward_rises_and_the_policy_is_trained_in_place() -> None:
    policy, reference = twins()
    trained, rewards, kls = ppo_training(
        policy, reference, share_of_x, PROMPTS * 4, 12, 3e-3, batch_size=16, max_new_tokens=6
    )
    assert trained is policy
    assert len(rewards) == len(kls) == 12
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3
    assert kls[0] == 0.0 and kls[-1] > 0.1


def test_a_reward_that_knows_nothing_of_the_answer_teaches_nothing() -> None:
    policy, reference = twins()
    draw = torch.Generator().manual_seed(0)
    shares: list[float] = []

    def by_chance(prompts: list[str], answers: list[str]) -> list[float]:
        shares.append(sum(share_of_x(prompts, answers)) / len(answers))
        return torch.rand(len(answers), generator=draw).tolist()

    ppo_training(policy, reference, by_chance, PROMPTS * 4, 12, 3e-3, batch_size=16, max_new_tokens=6)
    assert abs(sum(shares[-3:]) / 3 - shares[0]) < 0.2


def test_the_default_learning_rate_runs_and_moves_the_policy() -> None:
    policy, reference = twins()
    _, rewards, kls = ppo_training(policy, reference, share_of_x, PROMPTS)
    assert len(rewards) == 20 and all(map(math.isfinite, rewards))
    assert kls[0] == 0.0 < kls[-1] < 1.0


def test_a_dearer_divergence_keeps_the_policy_nearer() -> None:
    def run(kl_coeff: float) -> tuple[float, float]:
        policy, reference = twins()
        ppo_training(policy, reference, share_of_x, PROMPTS * 4, 12, 3e-3, kl_coeff, batch_size=16, max_new_tokens=6)
        kl = kl_from_reference(policy, reference, [str(i) for i in range(64)], 6).value
        return kl, sum(share_of_x([], [decode(a.answer) for a in draw_answers(policy, PROMPTS * 16, 6)])) / 64

    (near, near_reward), (far, far_reward) = run(1.0), run(0.02)
    assert far > 3 * near > 0
    assert far_reward > near_reward + 0.1
    assert near < 1  # where it pays, the KL is below what is gained, at most 1, over its price


def test_the_optimum_is_the_one_known_in_closed_form() -> None:
    """With one token an answer, the best policy is pi_ref exp(reward / kl_coeff), normalised (Ziegler 2019, eq. 1)."""
    policy, reference = twins("xyz")
    rewards = {"x": 1.0, "y": 0.5, "z": 0.0, "": 0.0}

    def by_letter(prompts: list[str], answers: list[str]) -> list[float]:
        return [rewards[answer] for answer in answers]

    ppo_training(policy, reference, by_letter, [""] * 128, 30, 3e-3, 0.5, batch_size=128, max_new_tokens=1)
    (example,) = draw_answers(policy, [""], 1)
    batch = pad([example], torch.device("cpu"))
    ours, theirs = (next_token_log_probs(model, batch)[0, 0].exp() for model in (policy, reference))
    tokens = [*b"xyz", END]
    best = theirs[tokens] * torch.tensor([rewards[letter] for letter in ("x", "y", "z", "")]).div(0.5).exp()
    assert torch.allclose(ours[tokens], best / best.sum(), atol=0.08)  # 0.01 to 0.06 over five seeds
    assert not torch.allclose(theirs[tokens], best / best.sum(), atol=0.2)


def test_the_first_step_goes_along_the_true_policy_gradient() -> None:
    """From equal models with a value of 0 and lam 1 it is that of -(r - mean) log pi, token by token, averaged."""
    policy, reference = twins()
    twin = among("xyz")
    answers = draw_answers(twin, PROMPTS, 6, seed=episode_seed(3, 0))
    given = torch.tensor(share_of_x(PROMPTS, [decode(answer.answer) for answer in answers]))
    lengths = torch.tensor([float(len(answer.answer)) for answer in answers])
    advantages = given - (given * lengths).sum() / lengths.sum()
    spread = ((advantages.square() * lengths).sum() / (lengths.sum() - 1)).sqrt()
    (-(advantages / spread * answer_log_probs(twin, answers)).sum() / lengths.sum()).backward()
    ppo_training(policy, reference, share_of_x, PROMPTS, 1, 1e-4, max_new_tokens=6, num_ppo_epochs=1, lam=1.0, seed=3)
    compared = 0
    for moved, before in zip(policy.parameters(), twin.parameters(), strict=True):
        assert before.grad is not None
        clear = before.grad.abs() > 1e-4
        compared += int(clear.sum())
        # AdamW's first step is the learning rate against the gradient's sign
        assert torch.allclose((moved - before)[clear].detach(), -1e-4 * before.grad[clear].sign(), atol=2e-6)
    assert compared > 500


def test_the_ratio_is_one_before_the_first_step_also_at_another_temperature() -> None:
    policy, reference = policy_and_reference()
    both = ActorCritic(policy, value_model(policy, share_of_x))
    for temperature in (1.0, 0.5):
        settings = PPOSettings(8, 0.1, 4, 0.2, 1.0, 0.95, 0.0, temperature)
        window = draw_window(both, reference, share_of_x, PROMPTS, settings, 0)
        log_probs, _ = both(pad(window.answers, torch.device("cpu")), temperature)
        assert torch.allclose(log_probs, torch.cat(list(window.old)), atol=1e-5)
        assert window.kl == 0.0
        computed = ppo_step(both, window, range(4), settings)
        assert computed.loss_sum.item() == pytest.approx(-sum(float(a.sum()) for a in window.advantages), abs=1e-3)


def test_the_kl_is_the_one_that_is_measured_elsewhere() -> None:
    policy, reference = gpt(1), gpt(4)
    both = ActorCritic(policy, value_model(policy, share_of_x))
    window = draw_window(both, reference, share_of_x, PROMPTS, SETTINGS, 5)
    assert window.kl == pytest.approx(kl_from_reference(policy, reference, PROMPTS, 8, seed=5).value, rel=1e-4)


def test_returns_carry_the_reward_and_the_price_of_each_tokens_kl() -> None:
    policy, reference = gpt(1), gpt(4)
    settings = PPOSettings(8, 0.1, 4, 0.2, 1.0, 1.0, 0.1, 1.0)
    both = ActorCritic(policy, value_model(policy, share_of_x))
    window = draw_window(both, reference, lambda p, a: [1.0, 2.0, 3.0, 4.0], PROMPTS, settings, 0)
    gaps = answer_log_probs(policy, window.answers) - answer_log_probs(reference, window.answers)
    first = torch.stack([returns[0] for returns in window.returns])
    assert torch.allclose(first, torch.tensor([1.0, 2.0, 3.0, 4.0]) - 0.1 * gaps.detach(), atol=1e-5)
    assert window.reward == 2.5


def test_the_value_model_starts_from_the_reward_model_or_says_nothing() -> None:
    policy, scorer = gpt(1), reward_model(3)
    batch = pad(draw_answers(policy, PROMPTS, 6), torch.device("cpu"))
    warm, fresh = value_model(policy, scorer), value_model(policy, share_of_x)
    scores = scorer.score(scorer.body(batch.tokens[:, :-1])).squeeze(-1)[batch.is_answer[:, 1:]]
    assert torch.equal(warm(batch), scores)
    assert torch.equal(fresh(batch), torch.zeros_like(scores))
    assert torch.equal(fresh.body(batch.tokens), policy.body(batch.tokens))


def test_values_are_learnt_beside_the_policy() -> None:
    """A rule that always gives 1 teaches the policy nothing and the value model to say 1."""
    policy, reference = twins()
    both = ActorCritic(policy, value_model(policy, share_of_x))
    settings = PPOSettings(6, 0.0, 4, 2.0, 1.0, 1.0, 1.0, 1.0)
    window = draw_window(both, reference, lambda p, a: [1.0] * len(a), PROMPTS, settings, 0)
    optimizer = torch.optim.Adam(both.value.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        ppo_step(both, window, range(4), settings).loss_sum.backward()
        optimizer.step()
    assert (torch.cat(list(window.returns)) == 1).all()
    assert torch.allclose(both.value(pad(window.answers, torch.device("cpu"))), torch.ones(()), atol=0.1)


def test_a_reward_model_rewards_as_it_scores_and_stays_as_it_is() -> None:
    policy, reference = twins()
    scorer = reward_model(3).requires_grad_(False)
    before = [weights.clone() for weights in scorer.state_dict().values()]

    def by_score(prompts: list[str], answers: list[str]) -> list[float]:
        return score_answers(scorer, list(zip(prompts, answers, strict=True)))

    _, rewards, _ = ppo_training(policy, reference, scorer, PROMPTS, 2, 1e-3, max_new_tokens=6)
    _, same, _ = ppo_training(*twins(), by_score, PROMPTS, 1, 1e-3, max_new_tokens=6)
    assert rewards[0] == same[0]
    assert all(map(torch.equal, before, scorer.state_dict().values()))


def test_training_is_the_same_again_and_its_draws_come_from_the_seed() -> None:
    def run(seed: int) -> tuple[list[float], list[Tensor]]:
        policy, reference = twins()
        torch.rand(7)  # what is drawn elsewhere is no matter
        _, _, kls = ppo_training(policy, reference, share_of_x, PROMPTS, 2, 1e-3, batch_size=2, seed=seed)
        return kls, [weights.clone() for weights in policy.state_dict().values()]

    torch.manual_seed(5)
    (kls, weights), (again, same), (other, _) = run(0), run(0), run(3)
    assert kls == again != other
    assert all(map(torch.equal, weights, same))


def test_a_rule_hears_the_prompts_with_the_answers_drawn_to_them() -> None:
    policy, reference = twins()
    heard: list[tuple[list[str], list[str]]] = []

    def rule(prompts: list[str], answers: list[str]) -> list[float]:
        heard.append((prompts, answers))
        return [0.0] * len(answers)

    ppo_training(policy, reference, rule, PROMPTS, 3, 1e-3, max_new_tokens=6)
    assert [prompts for prompts, _ in heard] == [PROMPTS] * 3
    answers = draw_answers(among("xyz"), PROMPTS, 6, seed=episode_seed(0, 0))
    assert heard[0][1] == [decode(answer.answer) for answer in answers]
    assert heard[0][1] != heard[1][1]


def test_progress_hears_of_each_step_its_reward_and_kl() -> None:
    steps: list[tuple[int, set[str]]] = []
    policy, reference = twins()
    ppo_training(
        policy, reference, share_of_x, PROMPTS, 2, batch_size=2, progress=lambda step, f: steps.append((step, set(f)))
    )
    assert steps == [(step, {"loss", "reward", "kl"}) for step in range(1, 2 * 4 * 2 + 1)]


def test_reference_that_moves_stops_the_run() -> None:
    policy, reference = twins()

    def push(step: int, figures: Mapping[str, float]) -> None:
        with torch.no_grad():
            reference.head.bias[0] += 1e-6

    with pytest.raises(PreftuneError, match="reference has moved"):
        ppo_training(policy, reference, share_of_x, PROMPTS, progress=push)


def test_the_reference_stays_bit_for_bit_and_gathers_no_gradient() -> None:
    policy, reference = twins()
    before = [weights.clone() for weights in reference.state_dict().values()]
    ppo_training(policy, reference, share_of_x, PROMPTS, 2, 1e-2, max_new_tokens=6)
    assert all(map(torch.equal, before, reference.state_dict().values()))
    assert all(p.grad is None and p.requires_grad for p in reference.parameters())


def test_shared_weights_are_refused_of_reference_and_of_reward_model() -> None:
    policy, reference = twins()
    with pytest.raises(PreftuneError, match="Policy and reference are the same object"):
        ppo_training(policy, policy, share_of_x, PROMPTS)
    reference.head.bias = policy.head.bias
    with pytest.raises(PreftuneError, match="share 1 of their weights"):
        ppo_training(policy, reference, share_of_x, PROMPTS)
    scorer = reward_model()
    scorer.body = policy.body
    with pytest.raises(PreftuneError, match="reward model would move"):
        ppo_training(policy, gpt(2), scorer, PROMPTS)


def test_a_frozen_policy_is_refused_though_values_could_be_learnt() -> None:
    policy, reference = twins()
    policy.requires_grad_(False)
    with pytest.raises(PreftuneError, match="no weights to train"):
        ppo_training(policy, reference, share_of_x, PROMPTS)


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "much"])
def test_a_reward_that_is_no_number_is_named_by_its_prompt(value: Any) -> None:
    with pytest.raises(PreftuneError, match=r"prompt 2.*'another prompt'"):
        ppo_training(*twins(), lambda prompts, answers: [0.0, value, 0.0, 0.0], PROMPTS)


@pytest.mark.parametrize(
    ("rule", "told"),
    [(lambda p, a: [0.0] * 3, "3 numbers for 4 answers"), (lambda p, a: 1.0, "not a list")],
)
def test_another_number_of_rewards_is_refused(rule: Callable[..., Any], told: str) -> None:
    with pytest.raises(PreftuneError, match=told):
        ppo_training(*twins(), rule, PROMPTS)


@pytest.mark.parametrize(
    ("prompts", "told"), [([], "nothing to answer"), ("one", r"Use \[prompt\]"), (["a", {"prompt": "b"}], "prompt 2")]
)
def test_prompts_that_are_none_are_refused(prompts: Any, told: str) -> None:
    with pytest.raises(PreftuneError, match=told):
        ppo_training(*twins(), share_of_x, prompts)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_episodes", 0),
        ("lr", 0.0),
        ("kl_coeff", -0.1),
        ("kl_coeff", math.nan),
        ("batch_size", 0),
        ("max_new_tokens", 0),
        ("num_ppo_epochs", 0),
        ("cliprange", 0.0),
        ("gamma", 1.1),
        ("lam", -0.1),
        ("vf_coef", math.inf),
        ("temperature", 0.0),
    ],
)
def test_settings_that_cannot_be_are_named(name: str, value: Any) -> None:
    with pytest.raises(PreftuneError) as caught:
        ppo_training(*twins(), share_of_x, PROMPTS, **{name: value})
    assert caught.value.where == name


def test_prompts_that_lose_their_beginning_are_counted() -> None:
    with pytest.warns(UserWarning, match="1 of 2 prompts leave no room for 8 new tokens within max_seq_len=48"):
        ppo_training(*twins(), share_of_x, ["short", "x" * 60], 1, max_new_tokens=8)


def test_a_model_with_less_room_than_is_needed_is_refused_and_one_with_enough_is_not() -> None:
    policy, reference = twins()
    small = reward_model(max_seq_len=24)
    with pytest.raises(PreftuneError, match="up to 30 tokens"):
        ppo_training(policy, reference, small, ["x" * 23], 1, max_new_tokens=6)
    ppo_training(policy, reference, small, ["x" * 10], 1, max_new_tokens=6)


@pytest.mark.slow  # a minute and a half
@pytest.mark.parametrize("seed", range(5))
def test_the_reward_rises_clear_of_noise_whatever_the_seed(seed: int) -> None:
    """The documented example with other weights and draws: 0.09 to 0.11 at first, 0.32 to 0.44 after 19 episodes."""
    start = MiniGPT(embed_dim=64, num_layers=2, ff_dim=256, seed=seed)
    sft_train(start, PREFERENCE_DATA, num_epochs=10, lr=3e-3, seed=seed)
    policy = copy.deepcopy(start)
    prompts = [pair["prompt"] for pair in PREFERENCE_DATA[:32]]
    policy, rewards, kls = ppo_training(
        policy, start, share_of_e, prompts, lr=3e-4, kl_coeff=0.02, batch_size=16, max_new_tokens=24, seed=seed
    )
    before, after = (
        mean(share_of_e(prompts * 4, generate(model, prompts * 4, 24, seed=99)), "", "share", "of e")
        for model in (start, policy)
    )
    assert after.low > before.high + 0.1
    assert sum(rewards[-3:]) > 2 * sum(rewards[:3])
    assert kls[-1] < 20


def documented(number: int) -> dict[str, Any]:
    """What the page's examples with PPO leave behind."""
    page = (ROOT / "docs" / "mini.md").read_text()
    blocks = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "ppo_training(" in block]
    world: dict[str, Any] = {}
    exec(blocks[number], world)
    return world


@pytest.mark.slow  # a minute
def test_the_documented_rule_is_learnt_as_far_as_the_price_allows() -> None:
    found = documented(0)["found"]
    rewards, kls = ([curves[number][-1] for curves in found.values()] for number in (0, 1))
    assert rewards == sorted(rewards, reverse=True) and kls == sorted(kls, reverse=True)
    assert rewards[0] > 0.6 and rewards[2] < 0.2 and kls[2] < 3


@pytest.mark.slow  # half a minute
def test_the_documented_reward_model_comes_to_score_higher() -> None:
    world = documented(1)
    assert world["rewards"][-1] > world["rewards"][0] + 1.5
    assert world["kls"][-1] < 8


def test_ctrl_c_ends_the_training_as_anywhere_else() -> None:
    with pytest.raises(KeyboardInterrupt):
        ppo_training(*twins(), share_of_x, PROMPTS, progress=lambda step, f: signal.raise_signal(signal.SIGINT))
