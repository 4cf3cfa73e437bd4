"""Metric names of other tools as ours, which are TRL's; and of those nobody knows the nearest that somebody does."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple


class Known(NamedTuple):
    """A name of ours, and what a foreign value is multiplied by to be in its unit."""

    name: str
    scale: float = 1.0


# Names that detectors, charts or people know, as they are; those of evaluations have the prefix eval_ before them.
_NAMES: Final = """
loss grad_norm learning_rate epoch step time entropy mean_token_accuracy num_tokens nll_loss aux_loss
rewards/chosen rewards/rejected rewards/margins rewards/accuracies rewards/strongly_wrong
logps/chosen logps/rejected logits/chosen logits/rejected log_odds_ratio log_odds_chosen
ref_logps/chosen ref_logps/rejected ranking_accuracy rewards/accuracies_confident accuracy_confident num_pairs
accuracy margin min_reward mean_reward max_reward
reward reward_std frac_reward_zero_std group/std_mean reward_len_corr kl kl_coef explained_variance
adv/mean adv/std adv/group_mean_max grad_snr nan_steps step_time
clip_ratio/low_mean clip_ratio/low_min clip_ratio/high_mean clip_ratio/high_max clip_ratio/region_mean
cispo_clip_ratio
completions/mean_length completions/min_length completions/max_length completions/clipped_ratio
completions/mean_terminated_length completions/min_terminated_length completions/max_terminated_length
sampling/sampling_logp_difference/mean sampling/sampling_logp_difference/max
sampling/importance_sampling_ratio/min sampling/importance_sampling_ratio/mean
sampling/importance_sampling_ratio/max
objective/kl objective/entropy objective/non_score_reward objective/rlhf_reward objective/scores
policy/approxkl_avg policy/clipfrac_avg policy/early_stopped loss/policy_avg loss/value_avg
val/clipfrac_avg val/ratio val/ratio_var val/num_eos_tokens
rep/distinct3 rep/unique_prefix pairs/tied dynamic_sampling/drawn dynamic_sampling/useful
gold/score gold/score_se gold/n judge/win_rate judge/win_rate_se human/rate
memory/rss_mib memory/cuda_peak_mib pairs_per_second tokens_per_second
rollout_corr/kl rollout_corr/k3_kl rollout_corr/chi2_token rollout_is_eff_sample_size
"""
OURS: Final = frozenset(_NAMES.split())

_GIB: Final = 1024.0

# What others call it -> what we call it. Of several that mean the same in one log the first of this table is taken.
FOREIGN: Final[Mapping[str, Known]] = {
    # TRL's PPO (to 1.10), and the one before 0.12
    "lr": Known("learning_rate"),
    "policy/entropy_avg": Known("entropy"),
    "env/reward_mean": Known("reward"),
    "env/reward_std": Known("reward_std"),
    "ppo/mean_scores": Known("objective/scores"),
    "ppo/mean_non_score_reward": Known("objective/non_score_reward"),
    "ppo/learning_rate": Known("learning_rate"),
    "ppo/loss/total": Known("loss"),
    "ppo/loss/policy": Known("loss/policy_avg"),
    "ppo/loss/value": Known("loss/value_avg"),
    "ppo/policy/entropy": Known("entropy"),
    "ppo/policy/approxkl": Known("policy/approxkl_avg"),
    "ppo/policy/clipfrac": Known("policy/clipfrac_avg"),
    "ppo/policy/ratio": Known("val/ratio"),
    "ppo/val/clipfrac": Known("val/clipfrac_avg"),
    "ppo/val/var_explained": Known("explained_variance"),
    "objective/kl_coef": Known("kl_coef"),
    # the DPO authors' repository, HALOs
    "loss/train": Known("loss"),
    "loss/eval": Known("eval_loss"),
    "rewards/KL_estimate": Known("kl"),
    "rewards/KL": Known("kl"),
    # verl
    "critic/score/mean": Known("reward"),
    "critic/rewards/mean": Known("objective/rlhf_reward"),
    "critic/advantages/mean": Known("adv/mean"),
    "critic/advantages/std": Known("adv/std"),
    "critic/vf_explained_var": Known("explained_variance"),
    "critic/vf_loss": Known("loss/value_avg"),
    "critic/vf_clipfrac": Known("val/clipfrac_avg"),
    "actor/loss": Known("loss"),
    "actor/entropy": Known("entropy"),
    "actor/entropy_loss": Known("entropy"),
    "actor/pg_loss": Known("loss/policy_avg"),
    "actor/kl_loss": Known("kl"),
    "actor/reward_kl_penalty": Known("kl"),
    "critic/kl": Known("kl"),
    "actor/reward_kl_penalty_coeff": Known("kl_coef"),
    "critic/kl_coeff": Known("kl_coef"),
    "actor/kl_coef": Known("kl_coef"),
    "actor/ppo_kl": Known("policy/approxkl_avg"),
    "actor/pg_clipfrac": Known("policy/clipfrac_avg"),
    "actor/grad_norm": Known("grad_norm"),
    "actor/lr": Known("learning_rate"),
    "actor/lr(1e-4)": Known("learning_rate", 1e-4),
    "response_length/mean": Known("completions/mean_length"),
    "response_length/min": Known("completions/min_length"),
    "response_length/max": Known("completions/max_length"),
    "response_length/clip_ratio": Known("completions/clipped_ratio"),
    "rollout_corr/rollout_is_mean": Known("sampling/importance_sampling_ratio/mean"),
    "rollout_corr/rollout_is_min": Known("sampling/importance_sampling_ratio/min"),
    "rollout_corr/rollout_is_max": Known("sampling/importance_sampling_ratio/max"),
    "rollout_corr/rollout_is_eff_sample_size": Known("rollout_is_eff_sample_size"),
    "perf/max_memory_allocated_gb": Known("memory/cuda_peak_mib", _GIB),
    "perf/cpu_memory_used_gb": Known("memory/rss_mib", _GIB),
    "timing_s/step": Known("step_time"),
    # OpenRLHF
    "actor_lr": Known("learning_rate"),
    "act_lr": Known("learning_rate"),
    "policy_loss": Known("loss/policy_avg"),
    "pg": Known("loss/policy_avg"),
    "critic_loss": Known("loss/value_avg"),
    "cri": Known("loss/value_avg"),
    "entropy_loss": Known("entropy"),
    "policy_entropy": Known("entropy"),
    "actor_grad_norm": Known("grad_norm"),
    "ppo_kl": Known("policy/approxkl_avg"),
    "ppo_clip_ratio": Known("policy/clipfrac_avg"),
    "vllm_kl": Known("rollout_corr/kl"),
    "response_length": Known("completions/mean_length"),
    "glen": Known("completions/mean_length"),
    "truncated": Known("completions/clipped_ratio"),
    "return": Known("objective/rlhf_reward"),
    "ret": Known("objective/rlhf_reward"),
    "rm": Known("reward"),
    "acc_mean": Known("rewards/accuracies"),
    "acc": Known("rewards/accuracies"),
    "chosen_reward": Known("rewards/chosen"),
    "reject_reward": Known("rewards/rejected"),
}

# Names that say nothing of whether learning works, or that only their own tool knows: never told as unknown.
_LEFT_ALONE: Final = re.compile(
    r"rewards/[^/]+/(mean|std|failed)|constraints/.*|gold/.*|judge/.*"
    r"|(actor|critic|perf|timing|timing_s|timing_per_token_ms|prompt_length|response_length\w*|response|global_seqlen"
    r"|training|num_turns|tool_call_counts|tools|val|val-core|val-aux|rollout_corr|rollout|sampling|completions"
    r"|clip_ratio|counters|system|profiling|vespo|ppo|objective|policy|memory|logits|dynamic_sampling)/.*"
    r"|(train|eval|test)?_?(runtime|samples_per_second|steps_per_second|loss|model_preparation_time|tokens_per_second"
    r"|samples|examples_per_second)"
    r"|total_flos|num_input_tokens_seen|examples_per_second|eps|episode|iteration|wall_time|gpt_loss|ptx_loss|ptx"
    r"|loss_mean|values|vals|critic_lr|cri_lr|total_length|tlen|num_actions|generate_length|index_0|seed"
    r"|_?(runtime|timestamp|step|wandb)|global_step|mean_on_all_data.*|.*__(MIN|MAX)"
)
_VERL_HELD_OUT: Final = re.compile(r"val-core/.*/mean@\d+|val/test_score/.*")


def canonical(logged: str) -> Known:
    """Our name of a metric; a name that nobody knows is its own, with what marks an evaluation as our prefix."""
    if logged in OURS:
        return Known(logged)
    if _VERL_HELD_OUT.fullmatch(logged):
        return Known("eval_reward")
    prefix, body = _unprefixed(logged)
    known = FOREIGN.get(body, Known(body))
    if body in OURS:
        known = Known(body)
    if not prefix or known.name.startswith("eval_"):
        return known
    return Known(prefix + known.name, known.scale)


def rank(logged: str) -> int:
    """Of names that mean the same in one log the one with the lowest rank is taken: ours, then the table's order."""
    _, body = _unprefixed(logged)
    return -1 if body in OURS else _order().get(body, len(FOREIGN))


def is_known(name: str) -> bool:
    """True for a canonical name that something here reads, or that is known to be of no interest."""
    body = name.removeprefix("eval_")
    return body in OURS or body in FOREIGN or _LEFT_ALONE.fullmatch(body) is not None


def is_ours(name: str) -> bool:
    """True for a canonical name that detectors or charts may read."""
    body = name.removeprefix("eval_")
    return body in OURS or re.fullmatch(r"rewards/[^/]+/(mean|std)", body) is not None


def nearest(name: str) -> str | None:
    """The known name most like this one, None where none is like it."""
    close = difflib.get_close_matches(name.removeprefix("eval_"), sorted(OURS | FOREIGN.keys()), n=1, cutoff=0.6)
    return close[0] if close else None


def told_unknown(names: Iterable[str], most: int = 6) -> str:
    """``foo (like loss?), bar and 3 more``: the names that nobody knows; empty where there is none."""
    unknown = sorted(name for name in names if not is_known(name))
    told = [f"{name} (like {near}?)" if (near := nearest(name)) else name.strip() or "''" for name in unknown[:most]]
    return ", ".join(told) + (f" and {len(unknown) - most} more" if len(unknown) > most else "")


def _unprefixed(logged: str) -> tuple[str, str]:
    """``eval_`` or nothing, and the name without what W&B, TensorBoard or a tool put before it."""
    name = logged
    for mark in ("train/", "Train/", "training/metrics/"):
        name = name.removeprefix(mark)
    prefix = ""
    for mark in ("eval/", "eval_", "test/", "valid/", "validation/"):
        if name.startswith(mark) and name not in FOREIGN:
            prefix, name = "eval_", name.removeprefix(mark).removeprefix("eval_")
            break
    # The DPO authors' repository: rewards_train/chosen, logps_eval/rejected.
    found = re.fullmatch(r"(rewards|logps|logits)_(train|eval)/(.+)", name)
    if found:
        name = f"{found[1]}/{found[3]}"
        prefix = "eval_" if found[2] == "eval" else prefix
    return prefix, name


@cache
def _order() -> Mapping[str, int]:
    return {name: place for place, name in enumerate(FOREIGN)}
