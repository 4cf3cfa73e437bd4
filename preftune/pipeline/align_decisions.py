"""The turns of the whole way, each a function of figures that gives what was decided and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from preftune.evaluate.measures import Measure, paired_change
from preftune.pipeline.align_candidates import Candidate
from preftune.pipeline.align_options import AlignOptions
from preftune.pipeline.align_record import Decided
from preftune.pipeline.plateau import LEVEL, Plateau, find_plateau


def decide_judge(accuracy: Mapping[str, Any]) -> Decided:
    """Whether a reward model of the deciding pairs knows anything surely."""
    if accuracy and accuracy["low"] > 0.5:
        why = f"A reward model of the deciding pairs is right in {told_accuracy(accuracy)} of pairs it never saw."
        return Decided("judge", why, {"accuracy": dict(accuracy)})
    why = f"A reward model of the deciding pairs is not surely better than a coin: {told_accuracy(accuracy)}."
    return Decided("none", why, {"accuracy": dict(accuracy)})


def decide_plateau(earlier: str, found: Sequence[Candidate], otherwise: str, options: AlignOptions) -> Decided:
    """By accuracy on the held-out pairs, and by the judge's reward of answers where there is one.

    ``otherwise`` is chosen where nothing is surely better or worse. What the judge alone likes helps only where
    people's pairs do not surely say the contrary. Two tests share the chance of error of one.
    """
    has_rewards = len(found[0].reward) > 0
    level = LEVEL / 2 if has_rewards else LEVEL
    pairs = find_plateau(
        earlier,
        {one.name: one.right for one in found},
        list(found[0].prompts),
        matters=options.matters,
        level=level,
        are_shares=True,
        seed=options.seed,
    )
    figures: dict[str, Any] = {"accuracy": pairs.as_dict(), "candidates": [_figures_of(one) for one in found]}
    tests = [pairs]
    if has_rewards:
        tests.append(_by_reward(earlier, found, level, options))
        figures["reward"] = tests[-1].as_dict()
    told = "; ".join(
        f"by {what}, {test.sentence()}" for what, test in zip(("accuracy", "the judge"), tests, strict=False)
    )
    rising = next((test for test in tests if test.verdict == "rising"), None)
    if rising is not None and not _surely_falls(pairs, rising.best):
        figures["verdict"] = "rising"
        return Decided(rising.best, f"More helps: {told}.", figures)
    if pairs.verdict == "falling":
        figures["verdict"] = "falling"
        return Decided(earlier, f"It went too far: {told}.", figures)
    sure = all(test.verdict == "plateau" for test in tests)
    figures["verdict"] = "plateau" if sure else "cannot tell"
    why = "DPO has come to its end" if sure else "Nothing shows that more of DPO would help"
    return Decided(otherwise, f"{why}: {told}.", figures)


def _surely_falls(pairs: Plateau, name: str | None) -> bool:
    difference = pairs.differences.get(name or "")
    return difference is not None and difference.high < 0


def _by_reward(earlier: str, found: Sequence[Candidate], level: float, options: AlignOptions) -> Plateau:
    """The test on the judge's rewards; a tenth of their deviation is what matters."""
    known = np.isfinite(np.stack([one.reward for one in found])).all(0)
    rewards = {one.name: one.reward[known] for one in found}
    matters = 0.1 * float(rewards[earlier].std()) if known.sum() > 1 else 0.0
    return find_plateau(
        earlier, rewards, list(range(int(known.sum()))), matters=matters, level=level, seed=options.seed
    )


def decide_try(online: str, has_judge: bool, verdict: str, minutes: float, budget: float | None) -> Decided:
    """Whether a reward model and an online method are worth their time; ``verdict`` is that of the last plateau test.

    Where DPO is still rising it is the cheaper way on, unless a method was asked for by name.
    """
    if online == "never":
        return Decided("no", "You said never.", {})
    if not has_judge:
        return Decided("no", "Without a judge nothing would tell whether it pays.", {})
    if budget is not None and minutes >= budget:
        return Decided("no", f"{minutes:.0f} of {budget:g} minutes are spent.", {"minutes": minutes})
    if verdict == "rising" and online == "auto":
        why = "Twice the passes of DPO still helped, so more of DPO comes first: more pairs, or a larger"
        return Decided("no", f"{why} num_train_epochs in --config. (--online ppo tries it all the same.)", {})
    ended = {
        "plateau": "DPO has come to its end on these pairs",
        "rising": "You asked for it",
        "falling": "More of DPO did harm",
    }.get(verdict, "Nothing shows that more of DPO would help")
    why = f"{ended}; an online method learns from the model's own fresh answers, and the judge will say if it paid."
    return Decided("yes", why, {"minutes": minutes})


def decide_pays(was: Candidate, now: Candidate) -> Decided:
    """Where the judge surely prefers its answers, and accuracy on the pairs has not surely fallen."""
    known = np.isfinite(was.reward) & np.isfinite(now.reward)
    reward = paired_change(was.reward[known], now.reward[known], "", "Change of the judge's reward")
    right = paired_change(was.right, now.right, "share", "Change of held-out accuracy", list(was.prompts))
    figures: dict[str, Any] = {"reward": reward.as_dict(), "accuracy": right.as_dict()}
    figures["candidates"] = [_figures_of(one) for one in (was, now)]
    told = (
        f"the judge's reward changed by {reward}, accuracy by {right}, length from {was.length:.0f} to {now.length:.0f}"
    )
    if not reward.low > 0:
        return Decided("no", f"It does not surely pay: {told}.", figures)
    if right.high < 0:
        return Decided(
            "no", f"The judge likes it and people's pairs do not: {told}. That is how rewards are hacked.", figures
        )
    return Decided("yes", f"It pays: {told}.", figures)


def _figures_of(one: Candidate) -> dict[str, Any]:
    from preftune.evaluate.measures import mean, share_of

    right = share_of(one.right, list(one.prompts), "Held-out preference accuracy", "")
    known = one.reward[np.isfinite(one.reward)]
    reward = mean(known, "", "The judge's reward", "") if len(known) > 1 else None
    return {
        "name": one.name,
        "accuracy": right.as_dict(),
        "reward": None if reward is None else reward.as_dict(),
        "length": one.length,
    }


def accuracy_of(folder: Path) -> dict[str, Any]:
    """A reward model's held-out accuracy, by its run's files; empty where nothing was measured."""
    import json

    after = json.loads((folder / "eval.json").read_text(encoding="utf-8")).get("after") or {}
    found = after.get("accuracy") or {}
    return {key: found[key] for key in ("value", "low", "high", "n")} if found else {}


def told_accuracy(accuracy: Mapping[str, Any]) -> str:
    """It with its interval, in words."""
    if not accuracy:
        return "not measured"
    return str(Measure(accuracy["value"], accuracy["low"], accuracy["high"], accuracy["n"], "share", "", ""))
