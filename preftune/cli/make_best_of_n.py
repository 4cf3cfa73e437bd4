"""``preftune make best-of-n``: pairs that a reward makes of several completions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from preftune.cli.making import journal_of, planned, read_extra, require_output, tell_made, tell_reading
from preftune.cli.output import Outcome
from preftune.cli.quiet import quieten_libraries
from preftune.cli.screen import notify, progress, show
from preftune.errors import PreftuneError


def make_best_of_n(
    data: str,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    model: str | None = None,
    rewards: Annotated[list[str] | None, Parameter(negative=())] = None,
    reward_weights: Annotated[list[float] | None, Parameter(negative=())] = None,
    n: int = 8,
    pairing: Literal["extremes", "random", "band"] = "extremes",
    margin_low: float | None = None,
    margin_high: float | None = None,
    keep_cut: bool = False,
    chat: bool = False,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 512,
    seed: int = 42,
    split: str = "train",
    limit: int | None = None,
    block: int = 8,
    max_length: int | None = None,
    batch_size: int = 16,
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
    """Preference pairs from several completions of each prompt, a better one over a worse one by a reward.

    With --model it draws the completions; without, the rows bring them along in a column "completions", each a text or
    an object with text and, where known, score. Says how far the best of n is from the sampler (KL), and what reward it
    gains. The same command again goes on where it stopped.

    Example:
      preftune make best-of-n prompts.jsonl --model Qwen/Qwen3-0.6B --chat --rewards runs/reward/model -o pairs.jsonl
      preftune make best-of-n solutions.jsonl --rewards accuracy -o pairs.jsonl

    Parameters
    ----------
    data: Prompts, with the columns that the rewards need, or with completions.
    output: The pairs, as JSON lines; NAME.left-out.jsonl beside it lists what gave none, with reasons.
    model: The model that draws completions: a folder or hub name, PROVIDER:MODEL, or MODEL@URL.
    rewards: What scores them: reward model folders, names such as accuracy, module:function, judge:MODEL. Unset: the
      rows' own scores.
    reward_weights: One for each reward; 1 where none are given.
    n: Completions drawn of each prompt.
    pairing: extremes pairs the best with the worst, random the best with any worse one, band two within a margin.
    margin_low: The least difference in reward of a band.
    margin_high: The largest.
    keep_cut: Also use completions that the length cut.
    chat: Ask prompts that are texts as a user's message, and write the pairs as chats.
    temperature: Of the draws; 1 is the model's own distribution.
    top_p: Share of the distribution drawn from.
    max_new_tokens: Most tokens of a completion.
    seed: Draws the completions, and one pair where several fit.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    block: Prompts worked on together; a killed run loses at most so many.
    max_length: Most tokens that a reward model reads.
    batch_size: Completions that a reward model scores at once.
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
    from preftune.collect.best_of_n import Choosing, best_of_given, best_of_n
    from preftune.data.read import read_prompts
    from preftune.rewards import split_specs

    quieten_libraries()
    require_output(data, output)
    choosing = Choosing(pairing, margin_low, margin_high, keep_cut, seed)
    specs = [spec for text in rewards or () for spec in split_specs(text)]
    if model is not None and not specs:
        raise PreftuneError("Nothing says which completion is better.", mend="Name what does: --rewards accuracy.")
    reading = read_prompts(data, split=split, limit=limit)
    tell_reading(reading)
    about = {"data": reading.source, "read": reading.read, "model": model, "rewards": specs or None}
    if model is None:
        if dry_run:
            show(f"{len(reading.records):,} rows would be scored; nothing was written")
            return Outcome({"dry_run": True, **about})
        scored = _open_rewards(specs, reward_weights, max_length, batch_size) if specs else None
        with progress("choosing completions", len(reading.records)) as bar:
            result = best_of_given(
                reading.records,
                scored,
                output,
                choosing=choosing,
                reward_names=specs,
                note=notify,
                done=bar.advance,
            )
        return _told(result, output, len(reading.records), about, None)

    from preftune.collect.writer import Writer, opened
    from preftune.rollout.protocol import Sampling

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
    if dry_run:
        return _planned(reading.records, writer, n, max_new_tokens, about)
    scored = _open_rewards(specs, reward_weights, max_length, batch_size)
    with opened(writer, notify) as generator, progress("drawing and scoring", len(reading.records)) as bar:
        result = best_of_n(
            reading.records,
            generator,
            scored,
            output,
            n=n,
            choosing=choosing,
            reward_names=specs,
            sampling=Sampling(max_new_tokens, temperature, top_p),
            is_chat=chat,
            block=block,
            note=notify,
            done=bar.advance,
        )
    return _told(result, output, len(reading.records), about, generator.cost)


def _open_rewards(specs: list[str], weights: list[float] | None, max_length: int | None, batch_size: int) -> Any:
    from preftune.rewards import open_rewards

    return open_rewards(specs, weights, note=notify, max_length=max_length, batch_size=batch_size)


def _planned(records: Any, writer: Any, n: int, longest: int, about: dict[str, Any]) -> Outcome:
    from preftune.collect.best_of_n_figures import kl_of_best
    from preftune.collect.plan import drawing_plan

    show(f"the best of {n} is at most {kl_of_best(n):.3f} nats from the sampler")
    return planned(drawing_plan(records, n=n, longest=longest), about, writer)


def _told(result: Any, output: Path, asked: int, about: dict[str, Any], cost: float | None) -> Outcome:
    document = result.as_dict()
    tell_made(document, output, asked, ("best", "mean", "gain", "margin", "longer", "cut_off"))
    bound = document["kl"]["bound"]
    for size, nats in (bound or {}).items():
        show(f"KL of the best of {size} from the sampler: at most {nats:.3f} nats")
    if bound is None:
        show("KL from the sampler: not given, for the completions are several models'")
    if cost is not None:
        show(f"spent {cost:,.4f} US dollars in this run")
    return Outcome(about | document | {"output": str(output), "cost": cost})
