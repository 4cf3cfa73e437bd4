"""Which method a log is of, where nobody says: by its settings, else by what it measures."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_OF_LOSS = {"ipo": "ipo", "simpo": "simpo", "kto_pair": "dpo", "sigmoid": "dpo", "hinge": "dpo", "robust": "dpo"}
_OF_ESTIMATOR = {"grpo": "grpo", "group_norm": "grpo", "dr_grpo": "grpo", "rloo": "rloo", "gae": "ppo"}


def told_method(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    """sft, reward, dpo, ipo, kto, orpo, simpo, ppo, grpo or rloo; None where it cannot be told."""
    said = config.get("method")
    if isinstance(said, str) and said:
        return said
    return _by_config(config) or _by_names(names, config)


def _by_config(config: Mapping[str, Any]) -> str | None:
    estimator = config.get("advantage_estimator") or config.get("adv_estimator")
    if isinstance(estimator, str) and estimator in _OF_ESTIMATOR:
        return _OF_ESTIMATOR[estimator]
    for key, method in (("desirable_weight", "kto"), ("cpo_alpha", None), ("vf_coef", "ppo")):
        if config.get(key) is not None and method:
            return method
    loss = config.get("loss_type")
    loss = loss[0] if isinstance(loss, list | tuple) and len(loss) == 1 else loss
    if isinstance(loss, str) and loss in _OF_LOSS and "num_generations" not in config:
        return _OF_LOSS[loss]
    return None


def _by_names(names: Collection[str], config: Mapping[str, Any]) -> str | None:
    def has(*wanted: str) -> bool:
        return all(name in names or f"eval_{name}" in names for name in wanted)

    if has("loss/value_avg") or has("explained_variance"):
        return "ppo"
    if has("frac_reward_zero_std") or has("reward", "completions/mean_length"):
        return "rloo" if "rloo_k" in config else "grpo"
    if has("log_odds_ratio"):
        return "orpo"
    if has("rewards/chosen", "kl"):
        return "kto"
    if has("rewards/chosen", "logps/chosen"):
        # TRL's CPO and SimPO log a likelihood too and no accuracy of tokens: those two cannot be told apart.
        return None if has("nll_loss") and not has("mean_token_accuracy") else "dpo"
    if has("accuracy", "margin") or has("mean_reward", "max_reward"):
        return "reward"
    return "sft" if has("mean_token_accuracy") else None
