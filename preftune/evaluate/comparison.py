"""Two models on the same prompts: their answers beside each other, who wins, and their accuracy on the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from preftune.data.records import Message, PromptRecord, readable_text
from preftune.data.split import prompt_key
from preftune.data.tokens import tokenize_pairs
from preftune.errors import PreftuneError
from preftune.evaluate.answering import Progress, draw_answers
from preftune.evaluate.answers import answer_lengths
from preftune.evaluate.comparing import pair_changes
from preftune.evaluate.entrants import Entrant, Field, Match, name_in_measures
from preftune.evaluate.gathering import Gathered
from preftune.evaluate.held_out import HeldOut, different_prompts
from preftune.evaluate.matches import WIN_RATE
from preftune.evaluate.model import OpenModel
from preftune.evaluate.plan import EvaluationPlan
from preftune.evaluate.preferences import RANKING, ranking_accuracy, score_pairs
from preftune.evaluate.rewarding import Rewarding, open_rewarding, reward_all, reward_changes
from preftune.evaluate.verdicts import take_verdicts


@dataclass
class _Setting:
    """What verdicts are told to, and where reasons are kept."""

    progress: Progress
    note: Callable[[str], object]
    not_taken: dict[str, str] = field(default_factory=dict)


def compare_models(
    load: Callable[[str], OpenModel],
    names: tuple[str, str],
    data: HeldOut,
    plan: EvaluationPlan,
    *,
    temperature: float,
    progress: Progress,
    note: Callable[[str], object],
) -> dict[str, Any]:
    """The comparison as a document: models, measures of each, what differs, who wins, and answers a prompt.

    Asked are the first ``plan.num_completions`` different prompts. Models are loaded one after the other, so that
    memory holds one at a time. With a judge or a reward in the plan the second model is the one that wins or loses.
    What a model cannot be asked, or used on, is counted and loses nothing else.
    """
    prompts = different_prompts(data.prompts, plan.num_completions)
    rewarding = open_rewarding(plan, note) if plan.reward else None
    both = [
        _answered(load(name), Entrant(name, role, name), data, prompts, plan, temperature, progress)
        for name, role in zip(names, ("opponent", "model"), strict=True)
    ]
    if prompts and not any(one.answers.drawn() for one in both):
        raise PreftuneError("None of the prompts can be asked.", mend="Raise --max-length, or look at the template.")
    setting = _Setting(progress, note)
    win = _win(both, prompts, plan, rewarding, setting)
    first, second = both
    differences = pair_changes(first, second)
    if rewarding is not None:
        differences |= reward_changes(rewarding, first, second, plan.seed)
    preferred = {prompt_key(pair): readable_text(pair.chosen) for pair in reversed(data.pairs)}
    return {
        "models": [
            {
                "name": one.entrant.name,
                "path": one.entrant.name,
                "left_out": one.left_out,
                "unasked": one.answers.left_out,
            }
            for one in both
        ],
        "measures": [{key: measure.as_dict() for key, measure in one.measures.items()} for one in both],
        "differences": {key: measure.as_dict() for key, measure in differences.items()},
        "win_rate": win,
        "not_taken": setting.not_taken,
        "answers": [
            {
                "prompt": readable_text(record.prompt),
                "completions": [next(iter(one.answers.texts[number]), None) for one in both],
                "chosen": preferred.get(prompt_key(record)),
            }
            for number, record in enumerate(prompts)
        ],
        "n": len(prompts),
    }


def own_prompts(texts: Sequence[str]) -> HeldOut:
    """A user's prompts, each as a chat of one turn."""
    return HeldOut((), tuple(PromptRecord(prompt=(Message(role="user", content=text),)) for text in texts), "prompts")


def _answered(
    model: OpenModel,
    entrant: Entrant,
    data: HeldOut,
    prompts: Sequence[PromptRecord],
    plan: EvaluationPlan,
    temperature: float,
    progress: Progress,
) -> Gathered:
    answers = draw_answers(
        model,
        prompts,
        n=1,
        max_length=plan.max_length,
        max_new_tokens=plan.max_new_tokens,
        seed=plan.seed,
        progress=progress,
        temperature=temperature,
    )
    one = Gathered(entrant, {}, answers)
    if data.pairs:
        _score(one, model, data, plan, progress)
    if drawn := answers.drawn():
        one.measures |= answer_lengths(drawn)
    return one


def _score(one: Gathered, model: OpenModel, data: HeldOut, plan: EvaluationPlan, progress: Progress) -> None:
    try:
        tokens = tokenize_pairs(data.pairs, model.tokenizer, max_length=plan.max_length)
    except PreftuneError:  # none of them can be used
        one.left_out = len(data.pairs)
        return
    with progress(f"scoring pairs with {model.name}", len(tokens.pairs)) as bar:
        one.scores = score_pairs(model.engine, tokens.pairs, plan.batch_size, bar.advance)
    one.ids, one.left_out = tuple(pair.id for pair in tokens.pairs), len(tokens.dropped)
    one.measures[RANKING] = ranking_accuracy(one.scores)


def _win(
    both: Sequence[Gathered],
    prompts: Sequence[PromptRecord],
    plan: EvaluationPlan,
    rewarding: Rewarding | None,
    setting: _Setting,
) -> dict[str, Any] | None:
    """The second model's win rate over the first; None without a judge or reward, or where none could be taken."""
    if not plan.wants_verdicts:
        return None
    first, second = (one.entrant for one in both)
    if first.name == second.name:
        setting.not_taken[WIN_RATE] = "The two models are one."
        return None
    lined_up = Field((second, first), (Match(second.name, first.name, name_in_measures(first.name), "opponent"),))
    gathered = {one.entrant.name: one for one in both}
    try:
        if rewarding is not None:
            reward_all(rewarding, prompts, gathered, setting.progress)
        matches, judging = take_verdicts(lined_up, gathered, prompts, rewarding, plan, setting)
    except PreftuneError as reason:
        setting.not_taken[WIN_RATE] = str(reason)
        return None
    for subject, opponent, _, result in matches:
        setting.not_taken.update(result.not_taken)
        return {"model": subject, "against": opponent, **result.as_dict(), "judging": dict(judging)}
    return None
