"""``preftune eval``: what models are worth on held-out data, against their start, each other and prompting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from preftune.cli.output import DONE, FOUND_WRONG, Outcome
from preftune.cli.screen import notify, progress, show, warn

Names = Annotated[list[str], Parameter(negative=())]


def evaluate(
    models: Annotated[list[str] | None, Parameter(allow_leading_hyphen=False)] = None,
    /,
    *,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    tokenizer: str | None = None,
    dtype: str = "auto",
    beta: float = 0.1,
    max_length: int = 1024,
    max_new_tokens: int = 128,
    num_completions: int = 32,
    num_answers: int = 1,
    batch_size: int = 8,
    seed: int = 42,
    trust_remote_code: bool = False,
    start: str | None = None,
    against: Names | None = None,
    reward: Names | None = None,
    judge: Names | None = None,
    rubric: Path | None = None,
    reason: bool = True,
    base_url: str | None = None,
    key_env: str | None = None,
    concurrency: int = 16,
    max_cost: float | None = None,
    price_in: float | None = None,
    price_out: float | None = None,
    journal: Path | None = None,
    prompting: bool = False,
    prompting_system: str | None = None,
    prompting_shots: int = 3,
    retention: bool = False,
    retention_text: Path | None = None,
    lm_eval: Names | None = None,
    lm_eval_limit: int | None = None,
    frontier: bool = False,
    best_of_n: int = 0,
    human_check: Path | None = None,
    human_items: int = 50,
    human_result: Path | None = None,
    gate: Path | None = None,
    report: Path | None = None,
    output: Path | None = None,
) -> Outcome:
    """What a model is worth on held-out data, with n and 95% intervals.

    Preference accuracy needs no reference; for an adapter, its base model is the reference, and the implicit
    reward and the KL from it are measured too. Several models are compared pair by pair with the first. With a
    judge or a reward, models are compared with what they started from, with --against, and with prompting. Exits
    with 1 where a promise of the gate is broken.

    Example:
      preftune eval out/model --data heldout.jsonl
      preftune eval out --reward runs/reward/model --prompting --retention --best-of-n 16 --report eval.html
      preftune eval out --against other/model --judge claude-haiku-5-5 --max-cost 2 --gate gate.yaml
      preftune eval runs/beta-0.05 runs/beta-0.2 --reward runs/reward/model --frontier --report eval.html
      preftune eval out --human-check check.html

    Parameters
    ----------
    models: Model folders, adapter folders, run folders, GGUF files or hub names; reward models too.
    data: Pairs or prompts that training never saw; what the run held out if unset.
    split: Split of a hub data set or datasets folder.
    limit: Read at most so many rows.
    tokenizer: Where the tokenizer lies, if not with the model.
    dtype: auto, float32 or bfloat16.
    beta: The beta of the implicit reward.
    max_length: Most tokens of prompt and completion together.
    max_new_tokens: Most tokens of an answer.
    num_completions: Prompts answered at temperature 1, for all that looks at answers; 0 for none.
    num_answers: Answers to each of these prompts.
    batch_size: Pairs computed at once.
    seed: Seed of the answers, examples, sides and resampling.
    trust_remote_code: Run code that comes with the model.
    start: What the models started from; found by itself for adapters and runs.
    against: Other models to win against.
    reward: What is measured of answers: reward model folders, functions by name or place.
    judge: Models that judge answers in pairs and both orders, each MODEL, PROVIDER:MODEL or MODEL@URL.
    rubric: What to judge by: a text file, or YAML with criteria.
    reason: Ask the judge for a reason before the verdict.
    base_url: Address of the judges' endpoint.
    key_env: Environment variable with the key.
    concurrency: Calls to a judge under way at a time.
    max_cost: Stop asking when so many US dollars are spent.
    price_in: US dollars for a million input tokens of the judge.
    price_out: US dollars for a million output tokens.
    journal: Where the judges' answers are kept, so that nothing is paid twice; OUTPUT.journal if unset.
    prompting: Also the untouched start behind a system prompt, and behind examples from the data.
    prompting_system: The system prompt, as text or in a file; a general one if unset.
    prompting_shots: Examples shown; 0 for none.
    retention: Loss on general text before and after, on passages that come with the package.
    retention_text: General text of your own: .txt with blank lines between passages, or .jsonl with text.
    lm_eval: Tasks of lm-evaluation-harness (pip install "preftune[lm-eval]").
    lm_eval_limit: Documents of each task.
    frontier: Reward and KL of each checkpoint of the runs named.
    best_of_n: Draw so many answers of the start a prompt, for the reward of the best of n.
    human_check: Page for a person to choose blindly between the model and its opponent.
    human_items: Most prompts of that page.
    human_result: The choices that the page saved, to be counted.
    gate: YAML file of bounds on measures; exits with 1 where one is broken.
    report: HTML page of the evaluation.
    output: File for the result as JSON.
    """
    from preftune.cli.quiet import quieten_libraries

    quieten_libraries()
    from preftune.cli.eval_choices import judging, named_rewards, verdict_journal
    from preftune.cli.eval_screen import show_evaluation
    from preftune.evaluate.everything import evaluate as measure

    asked = {name: value for name, value in locals().copy().items() if name in _SHARED and value is not None}
    if reward:
        asked["reward"] = named_rewards(reward)
    if judge:
        asked |= judging(
            judge,
            rubric=rubric,
            reason=reason,
            base_url=base_url,
            key_env=key_env,
            concurrency=concurrency,
            max_cost=max_cost,
            prices=(price_in, price_out),
        )
        asked["journal"] = journal or verdict_journal(output, models or [], data)
    if human_check is not None:
        asked["human_check"] = True
    found = measure(models or [], data, progress=progress, note=notify, **asked)
    document = found.as_dict()
    show_evaluation(found, document)
    document |= _write_files(found, document, human_check, report)
    if output is not None:
        from preftune.durable import write_json

        write_json(output, document)
    for kept in found.broken:
        warn(f"promise broken: {kept.promise.sentence()} ({kept.promise.where}). {kept.why}")
    return Outcome(document, FOUND_WRONG if found.broken else DONE)


# The parameters that the evaluation's plan takes under the same name.
_SHARED = frozenset(
    [
        *("split", "limit", "tokenizer", "dtype", "beta", "max_length", "max_new_tokens", "num_completions"),
        *("num_answers", "batch_size", "seed", "trust_remote_code", "start", "against", "reward"),
        *("prompting", "prompting_system", "prompting_shots", "retention", "retention_text", "lm_eval"),
        *("lm_eval_limit", "frontier", "best_of_n", "human_items", "human_result", "gate"),
    ]
)


def _write_files(found: Any, document: dict[str, Any], check: Path | None, report: Path | None) -> dict[str, Any]:
    """The page of the blind check with its key, and the page of the evaluation."""
    written: dict[str, Any] = {}
    if check is not None and found.check is not None:
        from preftune.evaluate.human_check import write_key
        from preftune.report.human_page import write_human_page

        key = write_key(found.check, write_human_page(found.check, check))
        show(f"the blind check of {len(found.check.items)} prompts is {check}; its key, not to be shown, is {key}")
        show("  open it in a browser, choose, save, and then: preftune eval --human-result FILE.json")
        written |= {"human_check": str(check), "human_key": str(key)}
    if report is not None:
        from datetime import UTC, datetime

        from preftune.report.eval_page import write_eval_page

        made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        show(f"the page is {write_eval_page(document, report, made=made)}")
        written["report"] = str(report)
    return written
