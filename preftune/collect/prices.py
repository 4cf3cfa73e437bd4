"""What a call costs: list prices with their day and source, and the rule by which tokens are estimated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from preftune.errors import PreftuneError

CHARACTERS_PER_TOKEN: Final = 4  # the usual rule for English; other scripts need more tokens
MESSAGE_TOKENS: Final = 8  # what a chat template puts around a message, roughly


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens, at the standard rate: no cache, no batch; long prompts may cost more.

    ``as_of`` and ``source`` say when and where the figures were read.
    """

    input: float
    output: float
    as_of: str | None = None
    source: str | None = None

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """US dollars for so many tokens."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


_CLAUDE = ("2026-11", "https://platform.claude.com/docs/about-claude/models/overview")
_CLAUDE_OLDER = ("2026-11", "https://platform.claude.com/docs/about-claude/models/whats-new-opus-5")
_GPT = ("2026-09", "https://github.com/BerriAI/litellm/discussions/42523, which quotes OpenAI's list")

# Only what was read at the source named; any other model's price is the user's to give.
PRICES: Final[dict[str, Price]] = {
    "claude-fable-5-1": Price(10.0, 50.0, *_CLAUDE),
    "claude-opus-5-5": Price(4.0, 20.0, *_CLAUDE),
    "claude-sonnet-5-5": Price(2.0, 10.0, *_CLAUDE),
    "claude-haiku-5-5": Price(0.10, 0.50, *_CLAUDE),  # prompts up to 100,000 tokens
    "claude-opus-5": Price(5.0, 25.0, *_CLAUDE_OLDER),
    "gpt-6-sol": Price(2.0, 10.0, *_GPT),  # prompts up to 272,000 tokens
    "gpt-6-luna": Price(0.10, 0.50, *_GPT),
}


def find_price(model: str, price_in: float | None, price_out: float | None, *, is_free: bool = False) -> Price | None:
    """The price given, else nothing for what is free, else the table's; None where it is not known.

    A name with a date behind it (claude-haiku-5-5-20261001) has its model's price.
    """
    if (price_in is None) != (price_out is None):
        raise PreftuneError("One price is missing.", mend="Give both --price-in and --price-out.")
    if price_in is not None and price_out is not None:
        if min(price_in, price_out) < 0 or not math.isfinite(price_in + price_out):
            raise PreftuneError(f"A price is {min(price_in, price_out):g}.", mend="Give US dollars, 0 or more.")
        return Price(price_in, price_out)
    if is_free:
        return Price(0.0, 0.0)
    return PRICES.get(re.sub(r"-(\d{8}|\d{4}-\d\d-\d\d)$", "", model))


def estimated_tokens(*texts: str) -> int:
    """The tokens of these messages: a token each 4 characters, and 8 for each message."""
    return sum(math.ceil(len(text) / CHARACTERS_PER_TOKEN) + MESSAGE_TOKENS for text in texts)
