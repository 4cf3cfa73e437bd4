"""Every preference loss as a pure function of log-probs; ``losses.dpo(...)`` gives one loss a pair.

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
"""

from preftune.losses.anchored import apo_down, apo_zero, bco_pair, dpop, nca_pair, rpo, sppo_hard
from preftune.losses.divergences import (
    alpha_divergence,
    divergence_score,
    f_dpo,
    forward_kl,
    js_divergence,
    reverse_kl,
)
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

__all__ = [
    "alpha_divergence",
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "bco",
    "bco_pair",
    "bradley_terry",
    "cpo",
    "cpo_hinge",
    "cpo_ipo",
    "discopop",
    "divergence_score",
    "dpo",
    "dpop",
    "exo_pair",
    "f_dpo",
    "forward_kl",
    "hinge",
    "ipo",
    "ipo_target_margin",
    "js_divergence",
    "kto",
    "ld_token_weights",
    "length_regularised",
    "log_odds",
    "log_odds_ratio",
    "log_ratio_margin",
    "mismatched_kl",
    "nca_pair",
    "orpo",
    "reverse_kl",
    "robust",
    "rpo",
    "sft",
    "sigmoid_norm",
    "simpo",
    "sppo_hard",
    "suggested_kto_weights",
    "token_mean_margin",
]
