"""Which checkpoint is best, and from which others it can be told."""

from __future__ import annotations

import numpy as np

from preftune.evaluate.frontier import FrontierPoint, frontier_of
from preftune.evaluate.measures import mean


def point(step: int, rewards: np.ndarray, kl: float) -> FrontierPoint:
    near = mean([kl - 0.01, kl + 0.01], "nats", "KL", "")
    return FrontierPoint("run", step, mean(rewards, "", "Reward", ""), near, near, tuple(rewards))


def test_best_is_marked_and_differences_are_by_prompt() -> None:
    random = np.random.default_rng(0)
    prompts = random.normal(0, 5, 40)  # prompts differ far more than checkpoints do
    start, good, far = prompts, prompts + 1 + random.normal(0, 0.1, 40), prompts + 0.98 + random.normal(0, 0.1, 40)
    frontier = frontier_of([point(0, start, 0.0), point(10, good, 1.0), point(20, far, 4.0)])
    assert frontier is not None
    assert frontier.best.step in (10, 20)
    behind = {one.step: one.behind for one in frontier.points}
    assert behind[0] is not None and behind[0].high < -0.9
    assert "run, the start" not in frontier.sentence().partition("No measurable")[2]
    assert frontier.as_dict()["best"] == frontier.best.name


def test_of_equal_rewards_the_least_kl_is_best() -> None:
    rewards = np.arange(5.0)
    frontier = frontier_of([point(10, rewards, 3.0), point(20, rewards, 1.0)])
    assert frontier is not None and frontier.best.step == 20
    assert "No measurable difference to run, step 10" in frontier.sentence()


def test_points_without_a_reward_make_no_frontier() -> None:
    assert frontier_of([point(0, np.array([np.nan, np.nan]), 0.0)]) is None
