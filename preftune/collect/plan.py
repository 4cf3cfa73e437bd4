"""What a job will ask for, before it does: calls and tokens at most, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from preftune.collect.constitution_prompts import COMPARISON, CRITIQUE, FROM_CRITIQUE, REVISION
from preftune.collect.prices import Price, estimated_tokens
from preftune.collect.principles import Constitution
from preftune.data.records import Demonstration, Pair, PromptRecord, readable_text

_VERDICT_TOKENS = 16


@dataclass(frozen=True)
class Plan:
    """Calls and tokens of a job, where every text is as long as it may be; ``cost`` in US dollars where it is known.

    Tokens are estimated from characters, by the rule of ``prices``.
    """

    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None = None

    def priced(self, price: Price | None) -> Plan:
        """The plan with its cost."""
        cost = None if price is None else price.cost(self.input_tokens, self.output_tokens)
        return Plan(self.calls, self.input_tokens, self.output_tokens, cost)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON takes it."""
        return asdict(self)


def revision_plan(
    records: Sequence[PromptRecord | Demonstration],
    constitution: Constitution,
    *,
    rounds: int,
    examples: int | None,
    longest: int,
) -> Plan:
    """Of critique and revision; the answer is a call of its own where the record brings none."""
    shown = constitution.examples[: len(constitution.examples) if examples is None else examples]
    before = estimated_tokens(*(turn["content"] for example in shown for turn in example))
    critique = _longest_of(constitution, CRITIQUE, "critique")
    revision = _longest_of(constitution, REVISION, "revision")
    calls = inputs = 0
    for record in records:
        asked = estimated_tokens(readable_text(record.prompt))
        answer = estimated_tokens(readable_text(record.completion)) if isinstance(record, Demonstration) else longest
        if not isinstance(record, Demonstration):
            calls, inputs = calls + 1, inputs + asked
        for turn in range(rounds):
            to_critique = before + asked + (answer if turn == 0 else longest) + critique
            calls, inputs = calls + 2, inputs + to_critique + (to_critique + longest + revision)
    return Plan(calls, inputs, calls * longest)


def comparison_plan(records: Sequence[Pair | PromptRecord], constitution: Constitution, *, longest: int) -> Plan:
    """Of comparisons in both orders; two answers are drawn where the record brings none."""
    question = max(
        estimated_tokens(COMPARISON, one.comparison or FROM_CRITIQUE + one.critique) for one in constitution.principles
    )
    calls = inputs = outputs = 0
    for record in records:
        asked = estimated_tokens(readable_text(record.prompt))
        answers = 2 * longest
        if isinstance(record, Pair):
            answers = estimated_tokens(readable_text(record.chosen), readable_text(record.rejected))
        else:
            calls, inputs, outputs = calls + 2, inputs + 2 * asked, outputs + answers
        calls, inputs, outputs = calls + 2, inputs + 2 * (question + asked + answers), outputs + 2 * _VERDICT_TOKENS
    return Plan(calls, inputs, outputs)


def drawing_plan(records: Sequence[PromptRecord], *, n: int, longest: int) -> Plan:
    """Of ``n`` completions of each prompt, a call each."""
    calls = n * len(records)
    return Plan(calls, n * sum(estimated_tokens(readable_text(record.prompt)) for record in records), calls * longest)


def _longest_of(constitution: Constitution, form: str, name: str) -> int:
    return max(estimated_tokens(form, getattr(one, name)) for one in constitution.principles)
