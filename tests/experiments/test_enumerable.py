"""The world that can be counted: its exact figures against brute force, and what must hold at its optimum."""

from __future__ import annotations

import copy

import pytest
import torch
from jaxtyping import Float
from scipy.stats import chisquare
from torch import Tensor

from benchmarks.experiments import enumerable
from benchmarks.experiments.enumerable_world import (
    ASK,
    DISTANCE,
    FIRST_SYMBOL,
    LENGTH,
    N_COMPLETIONS,
    N_SYMBOLS,
    PROMPT,
    LogProbs,
    World,
    acts_like_beta,
    exact_log_probs,
    expected,
    kl,
    log_probs_of,
    make_tokenizer,
    make_world,
    number_of,
    objective,
    reward_function,
    standing,
    tilted,
    tokens_of,
)
from benchmarks.experiments.fixed_points import Penalty, conditionals, fixed_point, joined
from benchmarks.experiments.small_models import EOS, PAD
from preftune.losses.kl import bias_corrected_kl, kl_estimate
from preftune.models.layout import Group
from preftune.models.logprobs import LogProbEngine
from preftune.rollout.sample import sample

SEED = 11


@pytest.fixture(scope="module")
def small_world() -> World:
    return make_world(SEED)


def test_probabilities_of_all_completions_sum_to_one(small_world: World) -> None:
    assert len(small_world.reference) == N_COMPLETIONS
    assert float(small_world.reference.exp().sum()) == pytest.approx(1.0, abs=1e-9)


def test_counted_log_probs_are_those_of_the_engine(small_world: World) -> None:
    numbers = torch.randperm(N_COMPLETIONS, generator=torch.Generator().manual_seed(SEED))[:64].tolist()
    engine = LogProbEngine(copy.deepcopy(small_world.start), path="logits")
    with torch.no_grad():
        found = engine([Group([ASK], tuple(tokens_of(number) for number in numbers))]).sums()
    assert found.tolist() == pytest.approx(small_world.reference[numbers].tolist(), abs=1e-4)


def test_drawn_completions_have_six_symbols_and_come_as_often_as_counted(small_world: World) -> None:
    drawn = sample(
        small_world.start, [[ASK]] * 3000, pad_id=PAD, stop_ids=[EOS], max_new_tokens=LENGTH, seed=SEED, batch_size=1500
    )
    numbers = torch.tensor([number_of(one.tokens) for one in drawn])
    for place in range(LENGTH - 1):
        pairs = numbers // N_SYMBOLS ** (LENGTH - 2 - place) % N_SYMBOLS**2
        seen = torch.bincount(pairs, minlength=N_SYMBOLS**2).double()
        others = [dim for dim in range(LENGTH) if dim not in (place, place + 1)]
        chances = small_world.reference.exp().view((N_SYMBOLS,) * LENGTH).sum(others).flatten()
        rare = chances * len(drawn) < 5
        seen, awaited = (torch.cat([of[~rare], of[rare].sum()[None]]) for of in (seen, chances * len(drawn)))
        counted = awaited > 0
        assert chisquare(seen[counted], awaited[counted]).pvalue > 1e-4


def test_numbers_of_completions_and_their_tokens_are_one_to_one() -> None:
    assert [number_of(tokens_of(number)) for number in (0, 1, 6, 46655, 12345)] == [0, 1, 6, 46655, 12345]
    assert tokens_of(1) == [FIRST_SYMBOL] * 5 + [FIRST_SYMBOL + 1]
    for wrong in ([FIRST_SYMBOL] * 5, [FIRST_SYMBOL] * 5 + [EOS]):
        with pytest.raises(ValueError, match="6 symbols"):
            number_of(wrong)


def test_tokenizer_reads_back_what_it_wrote() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer(PROMPT)["input_ids"] == [ASK]
    text = tokenizer.decode(tokens_of(12345))
    assert len(text) == LENGTH
    assert tokenizer(text)["input_ids"] == tokens_of(12345)


def test_rewards_are_a_gain_over_the_reference_and_are_looked_up_by_completion(small_world: World) -> None:
    rewards, reference = small_world.rewards, small_world.reference
    assert expected(reference, rewards) == pytest.approx(0.0, abs=1e-9)
    assert expected(reference, rewards.square()) == pytest.approx(1.0)
    found = reward_function(rewards)(prompts=["?"], completions=["abc"], completion_ids=[tokens_of(77)])
    assert found == [pytest.approx(float(rewards[77]))]


def test_optimum_lies_at_its_distance_and_stands_at_itself(small_world: World) -> None:
    assert kl(small_world.optimum, small_world.reference) == pytest.approx(DISTANCE, abs=1e-6)
    there = standing(small_world, small_world.optimum)
    assert (there.kl_to_optimum, there.reward_share) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    assert standing(small_world, small_world.reference).reward_share == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("size", [0.01, 0.3, 3.0])
def test_any_change_of_the_optimum_costs_beta_times_its_kl(small_world: World, size: float) -> None:
    noise = torch.randn(N_COMPLETIONS, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    changed = (small_world.optimum + size * noise).log_softmax(0)
    lost = float(objective(small_world, small_world.optimum) - objective(small_world, changed))
    assert lost == pytest.approx(small_world.beta * kl(changed, small_world.optimum), rel=1e-9)
    assert lost > 0


def test_best_objective_is_beta_times_the_log_of_the_normaliser(small_world: World) -> None:
    log_z = float((small_world.reference + small_world.rewards / small_world.beta).logsumexp(0))
    assert float(objective(small_world, small_world.optimum)) == pytest.approx(small_world.beta * log_z)


def test_policy_of_another_beta_is_known_by_it(small_world: World) -> None:
    other = tilted(small_world.reference, small_world.rewards, 1.3 * small_world.beta)
    assert acts_like_beta(small_world, other) == pytest.approx(1.3 * small_world.beta)


def test_conditionals_of_every_prefix_make_the_whole_again(small_world: World) -> None:
    steps = conditionals(small_world.reference)
    assert [step.numel() for step in steps] == [6, 36, 216, 1296, 7776, 46656]
    assert all(torch.allclose(step.exp().sum(-1), torch.ones((), dtype=torch.float64)) for step in steps)
    assert torch.allclose(joined(steps), small_world.reference)


def test_penalty_of_the_sequence_ends_at_the_optimum_and_those_of_tokens_near_it(small_world: World) -> None:
    ends = {penalty: _end(small_world, penalty) for penalty in ("sequence", "reverse", "forward")}
    assert torch.allclose(ends["sequence"], small_world.optimum, atol=1e-9)
    apart = {penalty: kl(end, small_world.optimum) for penalty, end in ends.items()}
    assert 1e-4 < apart["reverse"] < 0.05
    assert apart["forward"] > 0.05


@pytest.mark.parametrize("loss", ["k2", "corrected k3", "k3", "k2 of the sequence"])
def test_mean_gradient_is_zero_at_the_fixed_point_and_nowhere_near(small_world: World, loss: str) -> None:
    ends: Penalty = {"k3": "forward", "k2 of the sequence": "sequence"}.get(loss, "reverse")  # type: ignore[assignment]
    assert _steepest(small_world, _end(small_world, ends), loss) < 1e-7
    others = [other for other in ("sequence", "reverse", "forward") if other != ends]
    assert min(_steepest(small_world, _end(small_world, other), loss) for other in others) > 1e-4


def test_exact_gradient_climbs_and_leaves_its_start_as_it_was(small_world: World) -> None:
    begun = objective(small_world, small_world.reference)
    risen = log_probs_of(enumerable.ascended(small_world, steps=12)).detach()
    assert float(objective(small_world, risen)) > float(begun) + 0.1
    assert torch.equal(exact_log_probs(small_world.start), small_world.reference)


@pytest.mark.slow
def test_exact_gradient_comes_as_near_as_is_asked_of_the_methods(small_world: World) -> None:
    there = standing(small_world, log_probs_of(enumerable.ascended(small_world)).detach())
    assert there.kl_to_optimum < enumerable.NEAR / 2
    assert there.reward_share == pytest.approx(1, abs=enumerable.WITHIN / 2)


def test_trainer_moves_the_policy_towards_the_optimum_and_tells_the_way(small_world: World) -> None:
    path: list[dict[str, float]] = []
    before = standing(small_world, small_world.reference)
    policy = enumerable.trained(small_world, enumerable.CONTENDERS["RLOO"], 20, path)
    after = standing(small_world, exact_log_probs(policy))
    assert after.kl_to_optimum < 0.6 * before.kl_to_optimum
    assert after.reward_share > 0.4
    assert path == []  # nothing is recorded before the first of the recorded steps


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in enumerable.CONTENDERS.items() if one.is_unbiased])
def test_trainer_ends_at_the_optimum(small_world: World, name: str) -> None:
    policy = exact_log_probs(enumerable.trained(small_world, enumerable.CONTENDERS[name]))
    there = standing(small_world, policy)
    assert there.kl_to_optimum < enumerable.NEAR
    assert there.reward_share == pytest.approx(1, abs=enumerable.WITHIN)


def _end(world: World, penalty: Penalty) -> LogProbs:
    return fixed_point(world.reference, world.rewards, world.beta, penalty)


def _steepest(world: World, policy: LogProbs, loss: str) -> float:
    """The largest entry of the loss's mean gradient, over all completions, by a table of logits; 0 where it rests."""
    tables = [step.clone().requires_grad_() for step in conditionals(policy)]
    own, given = (
        _by_token(steps) for steps in ([table.log_softmax(-1) for table in tables], conditionals(world.reference))
    )
    chances = policy.exp()
    gained = world.rewards * own.sum(0)
    if loss == "k2 of the sequence":
        paid = kl_estimate(own.sum(0), given.sum(0), "k2")
    elif loss == "corrected k3":
        paid = bias_corrected_kl(own, given, own - own.detach()).sum(0)
    else:
        paid = kl_estimate(own, given, loss).sum(0)  # type: ignore[arg-type]
    (chances * (world.beta * paid - gained)).sum().backward()
    return max(float(table.grad.abs().max()) for table in tables)  # type: ignore[union-attr]


def _by_token(steps: list[Tensor]) -> Float[Tensor, "places completions"]:
    return torch.stack(
        [
            step.repeat_interleave(N_COMPLETIONS // step.numel()) if step.dim() < LENGTH else step.flatten()
            for step in steps
        ]
    )
