"""A pair as an example beside a finding: its texts for people, cut."""

from __future__ import annotations

from preftune.data.records import Pair, Prompt, readable_text

EXAMPLES = 5  # beside a finding
EXAMPLE_CHARACTERS = 400


def example_of(pair: Pair, why: str) -> dict[str, str]:
    """The pair's id and texts, and why it is shown."""
    texts = {name: shortened(getattr(pair, name)) for name in ("prompt", "chosen", "rejected")}
    return {"id": pair.id, **texts, "why": why}


def shortened(content: Prompt) -> str:
    """The text for people, at most ``EXAMPLE_CHARACTERS`` long."""
    text = readable_text(content)
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[: EXAMPLE_CHARACTERS - 1]}…"
