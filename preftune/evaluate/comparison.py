"""Two models on the same prompts: their answers beside each other, and their accuracy on the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from preftune.data.records import Message, Pair, readable_text
from preftune.data.tokens import encode_prompt, tokenize_pairs
from preftune.evaluate.answers import answer_lengths
from preftune.evaluate.model import OpenModel, answer
from preftune.evaluate.preferences import RANKING, ranking_accuracy, score_pairs


def compare_models(
    load: Callable[[str], OpenModel],
    names: Sequence[str],
    pairs: Sequence[Pair],
    prompts: Sequence[Pair],
    *,
    num_samples: int,
    temperature: float,
    max_length: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
    progress: Callable[[str, int], Any],
) -> dict[str, Any]:
    """The comparison as a document: models, measures of each, answers a prompt.

    Prompts are those of ``prompts``, or the first ``num_samples`` different ones of ``pairs``. Models are
    loaded one after the other, so that memory holds one at a time.
    """
    asked = list(prompts) or _first_different(pairs, num_samples)
    measures, answers = [], []
    for name in names:
        model = load(name)
        tokens = [encode_prompt(pair, model.tokenizer) for pair in asked]
        completions = answer(
            model,
            tokens,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            progress=progress,
        )
        lengths = answer_lengths(completions)
        found = {}
        if pairs:
            usable = tokenize_pairs(pairs, model.tokenizer, max_length=max_length).pairs
            with progress(f"scoring pairs with {name}", len(usable)) as bar:
                found[RANKING] = ranking_accuracy(score_pairs(model.engine, usable, batch_size, bar.advance))
        measures.append({key: measure.as_dict() for key, measure in (found | lengths).items()})
        answers.append([model.tokenizer.decode(c.tokens, skip_special_tokens=True) for c in completions])
    return {
        "models": [{"name": name, "path": name} for name in names],
        "measures": measures,
        "answers": [
            {
                "prompt": readable_text(pair.prompt),
                "completions": [model_answers[number] for model_answers in answers],
                "chosen": readable_text(pair.chosen) if pairs else None,
            }
            for number, pair in enumerate(asked)
        ],
        "n": len(asked),
    }


def own_prompts(texts: Sequence[str]) -> list[Pair]:
    """A user's prompts, each as a chat of one turn; the sides are never looked at."""
    return [
        Pair(
            prompt=(Message(role="user", content=text),),
            chosen=(Message(role="assistant", content="-"),),
            rejected=(Message(role="assistant", content="--"),),
        )
        for text in texts
    ]


def _first_different(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    found: dict[str, Pair] = {}
    for pair in pairs:
        if len(found) < limit:
            found.setdefault(readable_text(pair.prompt), pair)
    return list(found.values())
