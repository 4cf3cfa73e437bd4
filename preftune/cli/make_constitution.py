"""``preftune make constitution``: pairs that a model makes by written principles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from preftune.cli.making import journal_of, planned, read_extra, require_output, tell_made, tell_reading
from preftune.cli.output import Outcome
from preftune.cli.quiet import quieten_libraries
from preftune.cli.screen import notify, progress, show


def make_constitution(
    data: str,
    *,
    model: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    principles: str = "short",
    how: Literal["revise", "compare"] = "revise",
    given: bool = False,
    rounds: int = 1,
    examples: int | None = None,
    min_confidence: float = 0.5,
    temperature: float = 0.8,
    max_new_tokens: int = 512,
    seed: int = 42,
    split: str = "train",
    limit: int | None = None,
    block: int = 16,
    provider: Literal["local", "openai", "anthropic"] | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    concurrency: int = 16,
    requests_per_minute: float | None = None,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    extra: str | None = None,
    journal: Path | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Preference pairs by a constitution, whose name and version each pair carries.

    With --how revise the model answers, criticises its answer by a principle and revises it: the revision is chosen,
    the answer rejected. With --how compare a principle decides between two answers, asked in both orders. The same
    command again goes on where it stopped.

    Example:
      preftune make constitution prompts.jsonl --model Qwen/Qwen3-0.6B -o pairs.jsonl
      preftune make constitution pairs.jsonl --given --how compare --principles mine.yaml --model M -o compared.jsonl

    Parameters
    ----------
    data: Prompts, or with --given rows that bring their answers along.
    model: The model that answers, criticises, revises and compares: a folder or hub name, PROVIDER:MODEL, MODEL@URL.
    output: The pairs, as JSON lines; NAME.left-out.jsonl beside it lists what gave none, with reasons.
    principles: A YAML or JSON file of principles, or "short", the one that comes with preftune.
    how: revise, or compare.
    given: Use the rows' own answers: a completion (of pairs the chosen one) to revise, or both sides to compare.
    rounds: Critiques and revisions one after the other, each by another principle.
    examples: How many of the constitution's examples are shown first; all, where it has any.
    min_confidence: Comparisons below it give no pair.
    temperature: Of answers, critiques and revisions.
    max_new_tokens: Most tokens of each; what is cut gives no pair.
    seed: Draws the texts and the principles.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    block: Prompts worked on together; a killed run loses at most so many.
    provider: openai (its protocol: also vLLM, llama.cpp, Ollama), anthropic, or local. By the name if unset.
    base_url: Address of the model's endpoint, such as http://localhost:8000/v1.
    key_env: Environment variable with the key.
    tokenizer: Where the tokenizer of a local model lies, if not with it.
    dtype: auto, float32 or bfloat16.
    trust_remote_code: Run code that comes with a local model.
    concurrency: Calls of an endpoint under way at once.
    requests_per_minute: The most an endpoint is asked.
    max_cost: End before so many US dollars are spent.
    price_in: US dollars for a million tokens read, where the price is not known.
    price_out: US dollars for a million tokens written.
    extra: JSON that goes into every request, such as '{"reasoning_effort": "low"}'.
    journal: The journal, which keeps each answer of an endpoint; OUTPUT.journal if unset.
    dry_run: Say what would be asked for, and stop.
    """
    from preftune.collect.principles import read_constitution
    from preftune.collect.writer import Writer, opened
    from preftune.rollout.protocol import Sampling

    quieten_libraries()
    require_output(data, output)
    constitution = read_constitution(principles)
    reading = _read(data, how, given, split, limit)
    tell_reading(reading)
    writer = Writer(
        model,
        provider,
        base_url,
        key_env,
        tokenizer,
        dtype,
        trust_remote_code,
        concurrency,
        requests_per_minute,
        max_cost,
        price_in,
        price_out,
        read_extra(extra),
        journal_of(output, journal),
    )
    about = {"data": reading.source, "read": reading.read, "constitution": constitution.version, "model": model}
    if dry_run:
        plan = _plan(reading.records, constitution, how, rounds, examples, max_new_tokens)
        return planned(plan, about, writer)
    with opened(writer, notify) as generator, progress(_DOES[how], len(reading.records)) as bar:
        how_drawn = {
            "sampling": Sampling(max_new_tokens, temperature),
            "seed": seed,
            "block": block,
            "note": notify,
            "done": bar.advance,
        }
        result = _made(
            how, reading.records, generator, constitution, output, rounds, examples, min_confidence, how_drawn
        )
    document = result.as_dict()
    tell_made(document, output, len(reading.records), _FIGURES[how])
    if generator.cost is not None:
        show(f"spent {generator.cost:,.4f} US dollars in this run")
    return Outcome(about | document | {"output": str(output), "cost": generator.cost})


def _read(data: str, how: str, given: bool, split: str, limit: int | None) -> Any:
    from preftune.data.read import read_demonstrations, read_pairs, read_prompts

    if not given:
        return read_prompts(data, split=split, limit=limit)
    return (read_demonstrations if how == "revise" else read_pairs)(data, split=split, limit=limit)


def _plan(records: Any, constitution: Any, how: str, rounds: int, examples: int | None, longest: int) -> Any:
    from preftune.collect.plan import comparison_plan, revision_plan

    if how == "compare":
        return comparison_plan(records, constitution, longest=longest)
    return revision_plan(records, constitution, rounds=rounds, examples=examples, longest=longest)


def _made(
    how: str,
    records: Any,
    generator: Any,
    constitution: Any,
    output: Path,
    rounds: int,
    examples: int | None,
    min_confidence: float,
    how_drawn: dict[str, Any],
) -> Any:
    if how == "compare":
        from preftune.collect.constitution_choices import choose_by_principle

        return choose_by_principle(records, generator, constitution, output, min_confidence=min_confidence, **how_drawn)
    from preftune.collect.constitution import constitution as revise

    return revise(records, generator, constitution, output, rounds=rounds, examples=examples, **how_drawn)


_DOES = {"revise": "criticising and revising", "compare": "comparing by principles"}
_FIGURES = {"revise": ("paired", "longer"), "compare": ("consistent", "first_position", "agreement")}
