"""The whole evaluation: who answers, what is taken from each, and what is made of it: ``preftune.evaluate(...)``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from preftune.data.records import PromptRecord, readable_text
from preftune.errors import PreftuneError
from preftune.evaluate.answering import Progress
from preftune.evaluate.best_of import BEST_OF, BestOfCurve
from preftune.evaluate.comparing import changes_from_start, differences_of, implicit_preferences
from preftune.evaluate.entrants import Field, Match, line_up
from preftune.evaluate.evaluation import Evaluation, ModelResult
from preftune.evaluate.frontier import Frontier
from preftune.evaluate.gate import Promise, check_gate, read_gate
from preftune.evaluate.gathering import Gathered, Questions, gather_source
from preftune.evaluate.harness import open_tasks, run_tasks, task_measures
from preftune.evaluate.held_out import HeldOut, different_prompts, read_held_out
from preftune.evaluate.human_check import HumanCheck, HumanResult, make_check, read_result
from preftune.evaluate.matches import WIN_RATE, MatchResult
from preftune.evaluate.measures import Measure
from preftune.evaluate.model import model_folder, open_model
from preftune.evaluate.not_taken import CannotTake
from preftune.evaluate.plan import EvaluationPlan, read_plan
from preftune.evaluate.prompting import Prompting, draw_shots, read_system, without
from preftune.evaluate.retention import read_passages
from preftune.evaluate.rewarding import Rewarding, open_rewarding, reward_all
from preftune.evaluate.verdicts import take_verdicts
from preftune.models.settings import ModelConfig

SHOWN: Final = 60  # prompts whose answers go into the document
T = TypeVar("T")


def evaluate(
    models: str | Sequence[str] = (),
    data: object = None,
    *,
    plan: EvaluationPlan | None = None,
    progress: Progress | None = None,
    note: Callable[[str], object] | None = None,
    **settings: Any,
) -> Evaluation:
    """What models are worth on held-out data, with n and 95% intervals.

    ``models`` are model, adapter or run folders, GGUF files or hub names, reward models too. ``data`` are pairs or
    prompts that training never saw; without it, what the first model's run held out. ``settings`` are those of
    EvaluationPlan: win rates need ``judge`` or ``reward``. A measure that cannot be taken is named in ``not_taken``
    and keeps no other from being taken. PreftuneError for what the user can mend.
    """
    plan = plan or read_plan(settings)
    names = [models] if isinstance(models, str) else [str(one) for one in models]
    tell, show = note or (lambda _: None), progress or _no_progress
    promises = () if plan.gate is None else read_gate(plan.gate)
    human = None if plan.human_result is None else read_result(plan.human_result)
    if not names:
        return _of_choices_alone(human, promises)
    return _Work(
        plan, names, read_held_out(data, names, split=plan.split, limit=plan.limit, note=tell), show, tell
    ).run(promises, human)


@dataclass
class _Work:
    """An evaluation under way: what all of its parts need."""

    plan: EvaluationPlan
    names: list[str]
    held_out: HeldOut
    progress: Progress
    note: Callable[[str], object]
    not_taken: dict[str, str] = field(default_factory=dict)
    tasks: Any = None  # the harness's task manager

    def run(self, promises: Sequence[Promise], human: HumanResult | None) -> Evaluation:
        plan = self.plan
        scorers, policies = self._sorted()
        self._check_opponents()
        if plan.lm_eval and policies:
            with self.progress("looking up the tasks of lm-eval", None):
                self.tasks = open_tasks(plan.lm_eval)
        scored = [self._examine_scorer(name) for name in scorers]
        lined_up, questions = self._prepare(policies)
        rewarding = self._open_rewards() if policies else None
        gathered = self._gather(lined_up, questions)
        implicit_preferences(gathered, plan.beta)
        if rewarding is not None:
            self._guarded("reward", lambda: reward_all(rewarding, questions.prompts, gathered, self.progress))
        self._tell_left_out(gathered)
        matches, judging = self._guarded(
            WIN_RATE, lambda: take_verdicts(lined_up, gathered, questions.prompts, rewarding, plan, self)
        ) or ([], {})
        changes = changes_from_start(gathered, rewarding, plan.seed)
        results = [_result(one, changes.get(name, {})) for name, one in gathered.items()]
        frontier = self._frontier(policies, gathered, questions, rewarding)
        curve = self._best_of(gathered, rewarding, policies)
        check = self._check(lined_up, gathered, questions.prompts)
        measures = _named_measures([*results, *scored], matches, lined_up.main, frontier, curve, human)
        return Evaluation(
            source=self.held_out.source,
            pairs=len(self.held_out.pairs),
            prompts=len(questions.prompts),
            models=tuple(self._in_order([*results, *scored])),
            differences=differences_of([one for one in gathered.values() if one.entrant.role == "model"]),
            matches=tuple(matches),
            judging=judging,
            frontier=frontier,
            best_of=curve,
            human=human,
            check=check,
            measures=measures,
            not_taken=self.not_taken,
            gate=check_gate(promises, measures, self.not_taken),
            answers=tuple(_shown(questions.prompts, gathered)),
        )

    def config(self, source: str) -> ModelConfig:
        """How a model is opened."""
        from preftune.config import load_config

        plan = self.plan
        values = {
            "model": model_folder(source),
            "tokenizer": plan.tokenizer,
            "dtype": plan.dtype,
            "trust_remote_code": plan.trust_remote_code,
        }
        return load_config(ModelConfig, file=None, values=values).config

    def _sorted(self) -> tuple[list[str], list[str]]:
        """The reward models among the models, and the others."""
        from preftune.models.reward_models import is_reward_model

        scorers = [name for name in self.names if is_reward_model(self.config(name))]
        return scorers, [name for name in self.names if name not in scorers]

    def _check_opponents(self) -> None:
        """PreftuneError before anything is loaded where one cannot be opened, or cannot answer."""
        from preftune.models.reward_models import is_reward_model

        for flag, names in (("--against", self.plan.against), ("--start", (self.plan.start,))):
            for name in names:
                if name is not None and is_reward_model(self.config(name)):
                    what = f"{name} is a reward model, which writes no answers."
                    raise PreftuneError(what, where=flag, mend="--reward takes it.")

    def _examine_scorer(self, name: str) -> ModelResult:
        from preftune.evaluate.reward_model import examine_scorer
        from preftune.rewards.scoring import open_scorer

        config = self.config(name)
        if not self.held_out.pairs:
            raise PreftuneError("A reward model is measured on pairs.", where=name, mend="Give --data with pairs.")
        with self.progress(f"loading {config.model}", None):
            scorer = open_scorer(config, self.note)
        limits = {"max_length": self.plan.max_length, "batch_size": self.plan.batch_size}
        found = examine_scorer(scorer, self.held_out.pairs, progress=self.progress, **limits)
        return ModelResult(found.name, "reward model", found.measures, left_out=found.left_out)

    def _prepare(self, policies: Sequence[str]) -> tuple[Field, Questions]:
        """Who answers what; the prompts of examples are asked of nobody."""
        plan, pairs, prompts = self.plan, self.held_out.pairs, list(self.held_out.prompts)
        ways: list[Prompting] = []
        if plan.prompting and policies:
            ways.append(Prompting("system-prompt", read_system(plan.prompting_system)))
            if plan.prompting_shots and not pairs:
                self.not_taken["win_rate/few-shot"] = "The data has no pairs, so no answers to show as examples."
            elif plan.prompting_shots:
                chats = bool(prompts) and prompts[0].is_conversational
                shots = draw_shots(pairs, plan.prompting_shots, plan.seed, conversational=chats)
                pairs, prompts = tuple(without(pairs, shots)), without(prompts, shots)
                self.note(
                    f"{len(shots)} prompts are shown as examples and asked of nobody; "
                    f"{len(pairs):,} of {len(self.held_out.pairs):,} pairs are left to measure on"
                )
                ways.append(Prompting("few-shot", None, shots))
        lined_up = Field((), ())
        if policies:
            lined_up = line_up(
                policies,
                against=plan.against,
                start=plan.start,
                wants_start=plan.wants_start,
                prompting=ways,
                note=self.note,
            )
        passages = read_passages(plan.retention_text) if plan.wants_retention else None
        if passages is not None and passages.left_out:
            self.note(f"{passages.left_out} rows of {passages.source} hold no text")
        asked = different_prompts(prompts, plan.num_completions)
        if plan.human_check and lined_up.main is None:
            what = "A blind check compares two models, and there is one."
            raise PreftuneError(what, where="--human-check", mend="Add --against B, or --start.")
        return lined_up, Questions(pairs, asked, passages, plan, lined_up.starts)

    def _open_rewards(self) -> Rewarding | None:
        if not self.plan.reward:
            return None
        with self.progress("loading the rewards", None):
            return open_rewarding(self.plan, self.note)

    def _gather(self, lined_up: Field, questions: Questions) -> dict[str, Gathered]:
        """From every entrant, each source opened once and let go before the next."""
        found: list[Gathered] = []
        for source in dict.fromkeys(one.source for one in lined_up.entrants):
            entrants = [one for one in lined_up.entrants if one.source == source]
            config = self.config(source)
            with self.progress(f"loading {config.model}", None):
                model = open_model(config, self.note)
            found += gather_source(model, entrants, questions, found, self.progress)
            del model
            if self.tasks is not None:
                own = [one for one in found if one.entrant in entrants]
                self._guarded("lm_eval", lambda config=config, own=own: self._run_tasks(config, own))
        asked = {model_folder(name): place for place, name in reversed(list(enumerate(self.names)))}
        found.sort(key=lambda one: asked.get(one.entrant.name, len(asked)))
        return {one.entrant.name: one for one in found}

    def _run_tasks(self, config: ModelConfig, found: Sequence[Gathered]) -> None:
        """lm-evaluation-harness on a model opened anew, as transformers opens it."""
        import torch

        from preftune.models.loading import load_model, load_tokenizer

        model: Any = load_model(config, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        tokenizer = load_tokenizer(config)
        for one in found:
            if one.entrant.prompting is not None:
                continue
            off = model.disable_adapter() if one.entrant.is_base else nullcontext()
            with off, self.progress(f"{', '.join(self.plan.lm_eval)} by {one.entrant.name}", None):
                one.tasks = run_tasks(
                    model,
                    tokenizer,
                    self.plan.lm_eval,
                    limit=self.plan.lm_eval_limit,
                    batch_size=self.plan.batch_size,
                    seed=self.plan.seed,
                    manager=self.tasks,
                    not_taken=self.not_taken,
                )
            one.measures |= task_measures(one.tasks)

    def _tell_left_out(self, gathered: Mapping[str, Gathered]) -> None:
        """Rows that an entrant could not use, which its n lacks."""
        why = "no room within max_length, or refused by the chat template"
        for name, one in gathered.items():
            if one.left_out:
                self.note(f"{name}: {one.left_out:,} pairs left out ({why})")
            if one.answers.left_out:
                self.note(f"{name}: {one.answers.left_out:,} of {len(one.answers.texts):,} prompts not asked ({why})")

    def _frontier(
        self,
        policies: Sequence[str],
        gathered: Mapping[str, Gathered],
        questions: Questions,
        rewarding: Rewarding | None,
    ) -> Frontier | None:
        if not self.plan.frontier or rewarding is None:
            return None
        if not rewarding.scores:
            self.not_taken["frontier"] = "No prompt was answered: num_completions is 0, or none fits max_length."
            return None
        from preftune.evaluate.checkpoint_rewards import measure_frontier

        return self._guarded(
            "frontier",
            lambda: measure_frontier(policies, gathered, questions, rewarding, self.progress, self.note),
        )

    def _best_of(
        self, gathered: Mapping[str, Gathered], rewarding: Rewarding | None, policies: Sequence[str]
    ) -> BestOfCurve | None:
        if not self.plan.best_of_n or rewarding is None or not policies:
            return None
        from preftune.evaluate.rewarding import best_of_start

        return self._guarded(BEST_OF, lambda: best_of_start(gathered, rewarding, self.plan.seed))

    def _check(
        self, lined_up: Field, gathered: Mapping[str, Gathered], prompts: Sequence[PromptRecord]
    ) -> HumanCheck | None:
        if not self.plan.human_check:
            return None
        match = lined_up.main
        assert match is not None  # asked for at the start
        models = (match.subject, match.opponent)
        first, second = (gathered[name].answers for name in models)
        how = {"limit": self.plan.human_items, "seed": self.plan.seed}
        return self._guarded("human_check", lambda: make_check(prompts, first, second, models, **how))

    def _guarded(self, name: str, take: Callable[[], T]) -> T | None:
        """What ``take`` gives; what keeps it from being taken is said and loses no other measure."""
        try:
            return take()
        except (CannotTake, PreftuneError) as reason:
            self.not_taken[name] = str(reason)
            return None

    def _in_order(self, results: Sequence[ModelResult]) -> list[ModelResult]:
        """Models in the order they were asked for, then those beside them."""
        asked = [model_folder(name) for name in self.names]
        own = [one for one in results if one.role in ("model", "reward model")]
        own.sort(key=lambda one: asked.index(one.name) if one.name in asked else len(asked))
        return own + [one for one in results if one not in own]


def _of_choices_alone(human: HumanResult | None, promises: Sequence[Promise]) -> Evaluation:
    if human is None:
        raise PreftuneError("No model is named.", mend="Name a model, or --human-result FILE.")
    measures = dict(human.measures)
    gate = check_gate(promises, measures, {})
    return Evaluation("", 0, 0, (), {}, (), {}, None, None, human, None, measures, {}, gate, ())


def _result(one: Gathered, changes: Mapping[str, Measure]) -> ModelResult:
    lengths = tuple(len(completion.tokens) for completion in one.answers.drawn())
    unasked = one.answers.left_out
    return ModelResult(one.entrant.name, one.entrant.role, one.measures, changes, one.left_out, unasked, lengths)


def _named_measures(
    results: Sequence[ModelResult],
    matches: Sequence[tuple[str, str, str, MatchResult]],
    main: Match | None,
    frontier: Frontier | None,
    curve: BestOfCurve | None,
    human: HumanResult | None,
) -> dict[str, Measure]:
    """The first model's measures by the names that a gate uses."""
    first = next((one for one in results if one.role == "model"), results[0])
    named = dict(first.measures) | {f"change/{name}": measure for name, measure in first.changes.items()}
    own = [(key, result) for subject, _, key, result in matches if subject == first.name]
    for key, result in own:
        named |= {f"{name}/{key}": measure for name, measure in result.measures.items()}
    if main is not None:
        named |= next((result.measures for key, result in own if key == main.key), {})
    if curve is not None and curve.worth is not None:
        named[BEST_OF] = curve.worth
    if frontier is not None:
        named |= {"frontier/best_reward": frontier.best.reward, "frontier/best_kl": frontier.best.kl}
    return named | dict(human.measures if human else {})


def _shown(prompts: Sequence[PromptRecord], gathered: Mapping[str, Gathered]) -> list[dict[str, Any]]:
    """The first prompts with the first answer of everyone."""
    return [
        {
            "prompt": readable_text(record.prompt),
            "completions": {
                name: texts[number][0] if (texts := one.answers.texts)[number] else None
                for name, one in gathered.items()
            },
        }
        for number, record in enumerate(prompts[:SHOWN])
    ]


def _no_progress(description: str, total: float | None) -> Any:
    class Silent:
        def advance(self, n: float = 1, **figures: Any) -> None: ...

    return nullcontext(Silent())
