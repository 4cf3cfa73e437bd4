"""Where the chance in a completion comes from: numbers of its own, whatever is drawn beside it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_WORD = 2**64  # a larger seed, or a negative one, is taken modulo this


def uniforms(seed: int, prompt: int, completion: int, count: int) -> Float[np.ndarray, "count"]:
    """The first ``count`` numbers in [0, 1) of a completion, one a token; float64, the same on every machine.

    Philox is a block cipher over a counter (Salmon et al. 2011, doi:10.1145/2063384.2063405): the seed is its key,
    prompt and completion are the counter's high words, so that no two completions ever share a number.
    """
    key, counter = (np.array(words, dtype=np.uint64) for words in ([seed % _WORD, 0], [0, 0, completion, prompt]))
    bits = np.random.Philox(key=key, counter=counter)
    return (bits.random_raw(count) >> np.uint64(11)) * 2.0**-53
