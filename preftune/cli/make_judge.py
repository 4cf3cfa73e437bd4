"""``preftune make judge``: candidates judged by language models, and the judges' own audit."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show, warn
from preftune.errors import PreftuneError

if TYPE_CHECKING:
    from preftune.collect.judge import Estimate, How, Judge, JudgeResult


def make_judge(
    candidates: str,
    *,
    judge: Annotated[list[str], Parameter(negative=())],
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("pairs.jsonl"),
    provider: Literal["openai", "anthropic", "local"] | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    rubric: Path | None = None,
    reason: bool = True,
    samples: int = 1,
    match: Literal["all", "first", "ranking"] = "all",
    temperature: float | None = None,
    max_tokens: int = 2048,
    injection_check: bool = True,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    timeout: float = 120.0,
    retries: int = 6,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    extra: str | None = None,
    journal: Path | None = None,
    split: str = "train",
    limit: int | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Candidates compared by language models, in both orders; what wins becomes pairs.

    Ties, replies that are no verdict, refusals and failures are listed beside the pairs with their reason. Answers
    are kept in a journal: the same command goes on where a killed one stopped, and pays nothing twice. At the end the
    judge is audited: does its verdict hold when the order turns, does length sway it, do people agree with it.
    Exits with 1 where not one pair came of it.

    Example:
      preftune make judge candidates.jsonl --judge claude-haiku-5-5 -o pairs.jsonl --max-cost 5
      preftune make judge candidates.jsonl --judge qwen3@http://localhost:8000/v1 --no-reason -o pairs.jsonl
      preftune make judge candidates.jsonl --judge gpt-6-luna claude-haiku-5-5 --dry-run

    Parameters
    ----------
    candidates: Rows with prompt, response_1 and response_2, or completions (a list), or pairs to judge again.
    judge: One or several, each MODEL, PROVIDER:MODEL or MODEL@URL; a folder is a model on this machine.
    output: The pairs; what gave none is beside it, in NAME.left-out.jsonl.
    provider: openai (its protocol: also vLLM, llama.cpp, Ollama), anthropic, or local. By the name if unset.
    base_url: Address of the judges' endpoint, such as http://localhost:8000/v1.
    key_env: Environment variable with the key; OPENAI_API_KEY or ANTHROPIC_API_KEY if unset.
    rubric: What to judge by: a text file, or YAML with criteria.
    reason: Ask for a reason before the verdict; without, token probabilities say how sure the judge is.
    samples: Verdicts a judge gives in each order.
    match: Of more than two answers: all pairs, each with the first, or one ranking.
    temperature: 0 for one sample and 1 for several if unset.
    max_tokens: Longest reply, the thoughts of reasoning models included.
    injection_check: Ask again with the passages escaped where an answer speaks to the judge.
    concurrency: Calls under way at a time, of each judge.
    requests_per_minute: Most calls a minute, of each judge.
    tokens_per_minute: Most tokens a minute, of each judge, as estimated.
    timeout: Seconds that one try may take.
    retries: How often a failed call is repeated.
    max_cost: Stop asking when so many US dollars are spent.
    price_in: US dollars for a million input tokens, where the judge is not in the table of prices.
    price_out: US dollars for a million output tokens.
    extra: JSON that goes into every request, such as '{"reasoning_effort": "low"}'.
    journal: The journal; OUTPUT.journal if unset.
    split: Split of a hub data set or datasets folder.
    limit: Judge at most so many rows.
    dry_run: Show the estimate and one question, and send nothing.
    """
    from preftune.collect.calls import Limits
    from preftune.collect.judge import How, judge_named
    from preftune.collect.judge import judge as run_judge
    from preftune.collect.judge_prompts import load_rubric
    from preftune.collect.prices import find_price

    limits = Limits(concurrency, requests_per_minute, tokens_per_minute, timeout, retries)
    how = How(
        rubric=load_rubric(rubric),
        reason=reason,
        samples=samples,
        match=match,
        temperature=temperature,
        max_tokens=max_tokens,
        check_injection=injection_check,
        limits=limits,
        max_cost=max_cost,
    )
    judges = [
        judge_named(
            name,
            provider=provider,
            base_url=base_url,
            key_env=key_env,
            price=lambda model, is_free: find_price(model, price_in, price_out, is_free=is_free),
            extra=_extra(extra),
        )
        for name in judge
    ]
    expected = _announce(candidates, judges, how, split=split, limit=limit, dry_run=dry_run)
    if dry_run:
        return Outcome(expected)
    with progress("judging", expected["estimate"]["calls"]) as bar:
        meter = _Meter(bar)
        result = run_judge(
            candidates,
            judges,
            how=how,
            output=output,
            journal=journal,
            split=split,
            limit=limit,
            progress=meter.tell,
            note=notify,
        )
    _show_result(result, output)
    document = result.as_dict() | {"output": str(output), "rubric": how.rubric.version}
    return Outcome(document, DONE if result.pairs else FOUND_WRONG)


def _extra(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise PreftuneError(f"{text!r} is no JSON object.", where="--extra", mend="Such as '{\"top_k\": 1}'.")
    return value


def _announce(
    candidates: str, judges: list[Judge], how: How, *, split: str, limit: int | None, dry_run: bool
) -> dict[str, Any]:
    """The estimate, shown; in a dry run with one question as it would be sent."""
    from dataclasses import asdict

    from preftune.collect.judge import estimate, example
    from preftune.collect.judge_candidates import read_candidates

    reading = read_candidates(candidates, split=split, limit=limit)
    expected = estimate(reading, judges, how)
    for line in _estimate_lines(expected, judges):
        (show if dry_run else notify)(line)
    chat = example(reading, how)
    if dry_run:
        show(f"\nOne question of {expected.calls:,}; the number of the envelope is drawn anew for each.\n")
        for role, text in (("system", chat.system), ("user", chat.user)):
            show(f"--- {role} ---")
            print(text, flush=True)
    return {
        "rows": reading.read,
        "rows_rejected": len(reading.rejected),
        "estimate": asdict(expected),
        "rule": "4 characters a token and 8 tokens a message; a reply of 80 tokens, of 12 without a reason",
        "example": {"system": chat.system, "user": chat.user},
    }


def _estimate_lines(expected: Estimate, judges: list[Judge]) -> list[str]:
    lines = [
        f"{expected.comparisons:,} comparisons, {expected.calls:,} calls, about {expected.input_tokens:,} tokens in "
        f"and {expected.output_tokens:,} out (4 characters a token; what reasoning models think comes on top)"
    ]
    for one in judges:
        price = one.price
        if price is not None and price.source is not None:
            told = f"{price.input:g} and {price.output:g} US dollars for a million tokens in and out"
            lines.append(f"{one.model}: {told} ({price.as_of}, {price.source})")
    if expected.unpriced:
        lines.append(f"no price is known for {', '.join(expected.unpriced)}: give --price-in and --price-out")
    if expected.cost is not None:
        lines.append(f"about {expected.cost:.4f} US dollars, if nothing is in the journal yet")
    return lines


class _Meter:
    """Counts answers for the bar, a few times a second."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._count, self._last, self._failed, self._kept = bar, 0, 0.0, 0, 0

    def tell(self, judge: str, answer: Any, spent: float) -> None:
        """One answer more."""
        self._count += 1
        self._failed += answer.reply is None
        self._kept += answer.kept
        now = time.monotonic()
        if now - self._last > 0.2 or answer.reply is None:
            figures = {"cost": f"${spent:.4f}", "failed": self._failed} | ({"kept": self._kept} if self._kept else {})
            self._bar.advance(self._count, **figures)
            self._count, self._last = 0, now


def _show_result(result: JudgeResult, output: Path) -> None:
    from preftune.collect.writing import left_out_file

    left = ", ".join(f"{reason} {count:,}" for reason, count in result.reasons().items())
    total = len(result.pairs) + len(result.left_out)
    show(f"{total:,} comparisons: {len(result.pairs):,} pairs in {output}")
    if left:
        show(f"  left out, in {left_out_file(output)}: {left}")
    if result.rejected:
        show(f"  {len(result.rejected):,} of {result.read:,} rows hold no candidates")
    calls = result.calls
    cost = "" if result.spent is None else f"; {result.spent:.4f} US dollars"
    show(f"  calls: {calls['made']:,} made in {calls['tries']:,} tries, {calls['kept']:,} kept from before{cost}")
    if calls["not_asked"]:
        warn(f"the cap on costs was reached: {calls['not_asked']:,} questions were not asked")
    for name, audit in result.audits.items():
        show(f"\n{name}")
        for share in _shares(audit):
            show(f"  {share}")
        for finding in audit.findings:
            show(f"  {finding.severity}: {finding.title}. {finding.evidence}")
    if result.agreement is not None:
        alpha = result.agreement.alpha
        told = "cannot be told" if alpha.value is None else f"{alpha.value:.3f} on {alpha.n:,} comparisons"
        show(f"\njudges among themselves: Krippendorff's alpha {told}")


def _shares(audit: Any) -> list[str]:
    people = audit.people
    wanted = [audit.consistency, audit.position, audit.ties, audit.invalid, audit.refusals, audit.first_wins]
    if people is not None:
        wanted += [share for share in (people.agreement, people.ceiling, people.majority) if share is not None]
    lines = []
    for share in wanted:
        if share.value is None:
            lines.append(f"{share.title}: cannot be told")
            continue
        bounds = "" if share.low is None else f" ({share.low:.1%} to {share.high:.1%})"
        lines.append(f"{share.title}: {share.value:.1%}{bounds} of {share.n:,}")
    return lines
