"""Every loss as a pure function of log-probs; ``losses.dpo(...)`` gives one loss a pair.

No model, no config, no reduction: tensors in, one loss an item out. Log-probs are sums over completion tokens, in nats;
arguments called ``*_mean`` are means over tokens. Each docstring gives the equation, its paper, and the loss at the
start of training, where policy and reference agree.

- `pairwise`: DPO's margin. `dpo` (label_smoothing makes it conservative DPO), `robust`, `ipo`, `hinge`,
  `sigmoid_norm`, `exo_pair`, `discopop`.
- `anchored`: each side held by itself. `dpop`, `rpo`, `nca_pair`, `bco_pair`, `sppo_hard`, `apo_zero`, `apo_down`.
- `lengths`: against paying for length. `length_regularised` (R-DPO), `ld_token_weights` (LD-DPO).
- `transport`: whole distributions of margins. `aot`, `aot_unpaired`.
- `divergences`: DPO beyond the reverse KL. `f_dpo`, and `divergence_score` for any other loss of the margin.
- `unpaired`: thumbs up or down. `kto` with `mismatched_kl` and `suggested_kto_weights`, `bco`.
- `reference_free`: `sft`, `orpo`, `simpo`, `alphapo`, `cpo`, `cpo_hinge`, `cpo_ipo`.
- `ranking`: reward models. `bradley_terry`.

Online, on the policy's own completions, everything is a number a token, flat, without padding:

- `advantages`: from rewards. `group_advantages` (GRPO), `leave_one_out` (RLOO), `batch_normalised` (REINFORCE++), `gae`
  of `token_rewards` (PPO), `whiten`; `tied_groups`, `frac_zero_variance`, `zero_variance_probability`, `gradient_snr`.
- `policy_gradient`: `clipped_surrogate` with `is_clipped` and `clip_fractions`, `cispo`, `sapo`; ratios of whole
  sequences `sequence_log_ratio`, `gspo_token_log_ratio`, `sequence_sum_log_ratio`; `importance_weights`;
  `token_weights` and `divisor` of a step.
- `kl`: `kl_estimate` by estimator, `bias_corrected_kl`, `probability_ratio`, `adapted_kl_coef`.
- `value`: `clipped_value_loss`, `explained_variance`.
"""

from preftune.losses.advantages import (
    batch_normalised,
    frac_zero_variance,
    gae,
    gradient_snr,
    group_advantages,
    leave_one_out,
    tied_groups,
    token_rewards,
    whiten,
    zero_variance_probability,
)
from preftune.losses.anchored import apo_down, apo_zero, bco_pair, dpop, nca_pair, rpo, sppo_hard
from preftune.losses.divergences import (
    alpha_divergence,
    divergence_score,
    f_dpo,
    forward_kl,
    js_divergence,
    reverse_kl,
)
from preftune.losses.kl import adapted_kl_coef, bias_corrected_kl, kl_estimate, probability_ratio
from preftune.losses.lengths import ld_token_weights, length_regularised
from preftune.losses.pairwise import (
    discopop,
    dpo,
    exo_pair,
    hinge,
    ipo,
    ipo_target_margin,
    log_ratio_margin,
    robust,
    sigmoid_norm,
    token_mean_margin,
)
from preftune.losses.policy_gradient import (
    cispo,
    clip_fractions,
    clipped_surrogate,
    divisor,
    gspo_token_log_ratio,
    importance_weights,
    is_clipped,
    sapo,
    sequence_log_ratio,
    sequence_sum_log_ratio,
    token_weights,
)
from preftune.losses.ranking import bradley_terry
from preftune.losses.reference_free import (
    alphapo,
    cpo,
    cpo_hinge,
    cpo_ipo,
    log_odds,
    log_odds_ratio,
    orpo,
    sft,
    simpo,
)
from preftune.losses.transport import aot, aot_unpaired
from preftune.losses.unpaired import bco, kto, mismatched_kl, suggested_kto_weights
from preftune.losses.value import clipped_value_loss, explained_variance

__all__ = [
    "adapted_kl_coef",
    "alpha_divergence",
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "batch_normalised",
    "bco",
    "bco_pair",
    "bias_corrected_kl",
    "bradley_terry",
    "cispo",
    "clip_fractions",
    "clipped_surrogate",
    "clipped_value_loss",
    "cpo",
    "cpo_hinge",
    "cpo_ipo",
    "discopop",
    "divergence_score",
    "divisor",
    "dpo",
    "dpop",
    "exo_pair",
    "explained_variance",
    "f_dpo",
    "forward_kl",
    "frac_zero_variance",
    "gae",
    "gradient_snr",
    "group_advantages",
    "gspo_token_log_ratio",
    "hinge",
    "importance_weights",
    "ipo",
    "ipo_target_margin",
    "is_clipped",
    "js_divergence",
    "kl_estimate",
    "kto",
    "ld_token_weights",
    "leave_one_out",
    "length_regularised",
    "log_odds",
    "log_odds_ratio",
    "log_ratio_margin",
    "mismatched_kl",
    "nca_pair",
    "orpo",
    "probability_ratio",
    "reverse_kl",
    "robust",
    "rpo",
    "sapo",
    "sequence_log_ratio",
    "sequence_sum_log_ratio",
    "sft",
    "sigmoid_norm",
    "simpo",
    "sppo_hard",
    "suggested_kto_weights",
    "tied_groups",
    "token_mean_margin",
    "token_rewards",
    "token_weights",
    "whiten",
    "zero_variance_probability",
]
