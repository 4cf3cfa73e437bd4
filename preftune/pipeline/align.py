"""The whole way from preference pairs to an aligned model, deciding at every turn by figures, with the reasons kept.

SFT where the model was not taught to answer; a judge (a reward model of held-out pairs); DPO at several betas; a test
whether more of DPO would help; if so more of it; where that has come to its end, or it cannot be told, a reward model
and an online method, kept only where the judge prefers its answers; then the gate, on pairs that nothing has looked
at. Called again it goes on where it was stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from preftune.data.read import read_pairs
from preftune.durable import write_file
from preftune.methods.reporting import Reporter
from preftune.pipeline.align_candidates import (
    Exam,
    examine_folder,
    examine_run,
    examine_start,
    save_checkpoint_model,
)
from preftune.pipeline.align_decisions import (
    accuracy_of,
    decide_judge,
    decide_pays,
    decide_plateau,
    decide_try,
)
from preftune.pipeline.align_means import CALLED, decide_means, estimate_method, present_means
from preftune.pipeline.align_options import AlignOptions
from preftune.pipeline.align_record import Decided, Story, open_story
from preftune.pipeline.align_stages import (
    JUDGING,
    LONGER,
    ONLINE,
    REWARD,
    SFT,
    TEST,
    TRAIN,
    VALIDATION,
    Ground,
    decided,
    halfway,
    lay_ground,
    stage_plan,
)
from preftune.pipeline.plan import Plan, Stage
from preftune.pipeline.stages import OnStage, PipelineResult, run_pipeline
from preftune.report.align_page import write_align_page
from preftune.training.run_folder import open_run

OWN_GATE: Final = """# What the aligned model must hold; write your own and give it as --gate.
preference_accuracy: {at_least: 0.5}  # by the low end of its interval: surely better than its start
"""


@dataclass(frozen=True)
class Aligned:
    """Where the way ended: the model, the page, the broken promises of the gate; or the signal that stopped it, and
    the stage it stopped (None: between two).
    """

    folder: Path
    model: Path | None
    report: Path
    document: Mapping[str, Any]
    broken: tuple[str, ...] = ()
    stopped: str | None = None
    stopped_in: str | None = None


class _Stopped(Exception):
    """A stage ended by a signal."""

    def __init__(self, result: PipelineResult) -> None:
        super().__init__()
        self.result = result


def align(options: AlignOptions, reporter: Reporter, *, command: str = "", on_stage: OnStage | None = None) -> Aligned:
    """Goes the whole way into ``options.output``, or on from where an earlier call was stopped.

    PreftuneError for what the user can mend, and where the folder was begun with other options.
    """
    with open_run(options.output, resume=True):
        story = open_story(options.output, options.told())
        story.about["finished"] = False
        story.write()
    try:
        with reporter.progress("looking at data and model", None):
            ground, sizes = lay_ground(
                options.data,
                options.model,
                options.output,
                options.given or {},
                options.seed,
                story.about.get("free_mib"),
            )
        story.about |= {"sizes": sizes, "free_mib": ground.machine.available}
        way = _Way(options, ground, story, reporter, command, on_stage or (lambda stage, summary, report: None))
        return way.go()
    except _Stopped as stop:
        return _stopped_at(story, stop.result.stopped, stop.result.stopped_in)
    except KeyboardInterrupt:  # between the steps of trainings, which end by themselves
        return _stopped_at(story, "SIGINT", None)


def _stopped_at(story: Story, signal: str | None, stage: str | None) -> Aligned:
    story.write()
    return Aligned(story.folder, None, write_align_page(story.folder), {}, stopped=signal, stopped_in=stage)


class _Way:
    """The way under way: the plan, whose stages get their settings as it is decided that they are run."""

    def __init__(
        self, options: AlignOptions, ground: Ground, story: Story, reporter: Reporter, command: str, on_stage: OnStage
    ) -> None:
        self.options, self.ground, self.story = options, ground, story
        self.reporter, self.command, self.on_stage = reporter, command, on_stage
        self.betas = {f"dpo-beta-{beta:g}".replace(".", "p"): beta for beta in options.betas}
        names = [(SFT, "sft"), (JUDGING, "reward"), *((name, "dpo") for name in self.betas), (LONGER, "dpo")]
        self.plan = stage_plan([*names, (REWARD, "reward"), (ONLINE, "online-dpo")], ground)

    def go(self) -> Aligned:
        start = self._start()
        judge = self._judge(start)
        best, folder = self._dpo(start, judge)
        best, folder = self._online(start, judge, best, folder)
        return self._finish(start, judge, best, folder)

    # --- SFT ------------------------------------------------------------------------------------------------

    def _start(self) -> Stage | str:
        """What DPO starts from."""
        about, options = self.ground.about, self.options
        decision = self.story.decide(SFT, "Is SFT needed?", {"sft": options.sft}, self._decide_sft)
        if decision["choice"] != "sft":
            return options.model
        more = {"data": options.sft_data or self.ground.file(TRAIN), "eval_data": None}
        self._settle(SFT, about.name, more if options.sft_data else {**more, "eval_data": self.ground.file(VALIDATION)})
        return self.plan.stage(SFT)

    def _decide_sft(self) -> Decided:
        about, said = self.ground.about, self.options.sft
        figures = {"has_chat_template": about.has_chat_template, "parameters": about.sizes.parameters}
        if said is not None:
            return Decided("sft" if said else "none", "You said so.", figures)
        if about.is_taught:
            return Decided("none", f"The model answers already: {about.why_taught}.", figures)
        why = f"The model was not taught to answer ({about.why_taught}): DPO chooses between answers it may give."
        return Decided("sft", why, figures)

    # --- the judge ------------------------------------------------------------------------------------------

    def _judge(self, start: Stage | str) -> str | None:
        """The folder of a reward model that learned from the deciding pairs; None where it knows nothing surely."""
        more = {"data": self.ground.file(VALIDATION), "eval_data": self.ground.file(TRAIN)}
        self._settle(JUDGING, start, more)
        stage = self.plan.stage(JUDGING)
        accuracy = accuracy_of(stage.folder)
        decision = self.story.decide(
            JUDGING, "Can a judge be trained?", {"accuracy": accuracy}, lambda: decide_judge(accuracy)
        )
        return str(stage.model) if decision["choice"] == "judge" else None

    # --- DPO and its plateau ----------------------------------------------------------------------------------

    def _dpo(self, start: Stage | str, judge: str | None) -> tuple[str, Path]:
        """The best of DPO by name, and the folder its model lies in."""
        first, steps = next(iter(self.betas)), 0
        stages = {_called(beta): name for name, beta in self.betas.items()}
        for name, beta in self.betas.items():
            self._settle(name, start, {"beta": beta}, run=False)
            steps = halfway(self.plan.stage(name), self.ground.data.records)
            more = {"beta": beta, "save_strategy": "steps", "save_steps": float(steps), "save_total_limit": None}
            self._settle(name, start, {**more, "eval_data": self.ground.file(VALIDATION)}, over=True)
        exam = self._exam(judge)
        early = f"{_called(self.betas[first])}, half the steps"

        def decide() -> Decided:
            reference = examine_start(self._source(start), exam)
            found = [examine_run(self.plan.stage(first).folder, steps, early, reference, exam)]
            found += [examine_folder(name, self.plan.stage(at).model, reference, exam) for name, at in stages.items()]
            return decide_plateau(early, found, next(iter(stages)), self.options)

        rests = {"betas": list(self.options.betas), "judge": judge is not None, "steps": steps}
        decision = self.story.decide("plateau", "Would more of DPO help?", rests, decide)
        choice = str(decision["choice"])
        if choice == early:
            folder = self.ground.folder / "half-way"
            if not folder.is_dir():
                save_checkpoint_model(self.plan.stage(first).folder, steps, folder)
            return choice, folder
        if decision["figures"]["verdict"] != "rising":
            return choice, self.plan.stage(stages[choice]).model
        return self._more_of_dpo(start, judge, choice, stages[choice])

    def _more_of_dpo(self, start: Stage | str, judge: str | None, best: str, stage: str) -> tuple[str, Path]:
        """Twice the passes at the best beta, kept where it is surely better."""
        known = self.plan.stage(stage).config
        more = {"beta": self.betas[stage], "num_train_epochs": 2 * known.num_train_epochs}
        more |= {"max_steps": 2 * known.max_steps} if known.max_steps > 0 else {}
        self._settle(LONGER, start, {**more, "eval_data": self.ground.file(VALIDATION)}, over=True)
        exam = self._exam(judge)
        stages = {best: stage, f"{best}, twice the passes": LONGER}

        def decide() -> Decided:
            reference = examine_start(self._source(start), exam)
            found = [examine_folder(name, self.plan.stage(at).model, reference, exam) for name, at in stages.items()]
            return decide_plateau(best, found, best, self.options)

        decision = self.story.decide("plateau-longer", "Did twice the passes help?", {"of": best}, decide)
        choice = str(decision["choice"])
        return choice, self.plan.stage(stages[choice]).model

    # --- online -----------------------------------------------------------------------------------------------

    def _online(self, start: Stage | str, judge: str | None, best: str, folder: Path) -> tuple[str, Path]:
        """What is chosen at last by name, and the folder its model lies in."""
        options = self.options
        verdict = self._last_verdict()
        rests = {"best": best, "judge": judge is not None, "online": options.online, "budget": options.budget_minutes}
        trying = self.story.decide(
            "worth-trying",
            "Is RLHF worth trying?",
            {**rests, "verdict": verdict},
            lambda: decide_try(options.online, judge is not None, verdict, self.story.minutes, options.budget_minutes),
        )
        if trying["choice"] == "no":
            return best, folder
        self._settle(REWARD, start, {"data": self.ground.file(TRAIN), "eval_data": self.ground.file(VALIDATION)})
        reward = self.plan.stage(REWARD)
        accuracy = accuracy_of(reward.folder)

        def takes(method: str) -> tuple[float, float]:
            is_timed = self._left() is not None
            return estimate_method(method, self.ground, folder, is_timed=is_timed, progress=self.reporter.progress)

        means = self.story.decide(
            "means",
            "Are the means there?",
            {**rests, "accuracy": accuracy},
            lambda: decide_means(accuracy, self._online_methods(), present_means(self._left()), takes),
        )
        if means["choice"] == "no":
            return best, folder
        method = str(means["choice"])
        more = {"data": self.ground.file(TRAIN), "eval_data": self.ground.file(VALIDATION)}
        more |= {"reward_funcs": (str(reward.model),), "beta": 0.1, "kl_coef": 0.05}
        self._settle(ONLINE, folder, more, method=method)
        exam = self._exam(judge)
        stage = self.plan.stage(ONLINE)

        def decide() -> Decided:
            reference = examine_start(self._source(start), exam)
            was, now = (
                examine_folder(name, place, reference, exam)
                for name, place in ((best, folder), (CALLED[method], stage.model))
            )
            return decide_pays(was, now)

        paid = self.story.decide("pays", f"Did {CALLED[method]} pay?", {"method": method, "best": best}, decide)
        return (CALLED[method], stage.model) if paid["choice"] == "yes" else (best, folder)

    def _online_methods(self) -> tuple[str, ...]:
        return ("ppo", "online-dpo") if self.options.online == "auto" else (self.options.online,)

    def _last_verdict(self) -> str:
        """Of the test on the longest training that this call came by."""
        plateau = self.story.decisions["plateau"]["figures"]["verdict"]
        longer = self.story.decisions.get("plateau-longer")
        return longer["figures"]["verdict"] if plateau == "rising" and longer is not None else plateau

    def _left(self) -> float | None:
        budget = self.options.budget_minutes
        return None if budget is None else max(0.0, budget - self.story.minutes)

    # --- the end ------------------------------------------------------------------------------------------------

    def _finish(self, start: Stage | str, judge: str | None, best: str, chosen: Path) -> Aligned:
        from preftune.evaluate.everything import evaluate

        folder, options = self.ground.folder, self.options
        gate = options.gate or _own_gate(folder)
        told = str(chosen.relative_to(folder)) if chosen.is_relative_to(folder) else str(chosen)

        def decide() -> Decided:
            found = evaluate(
                str(chosen),
                self.ground.file(TEST),
                progress=self.reporter.progress,
                note=self.reporter.note,
                start=self._source(start),
                reward=() if judge is None else (judge,),
                num_completions=options.prompts,
                max_new_tokens=options.max_new_tokens,
                max_length=self._exam(judge).max_length,
                dtype=self._exam(judge).dtype,
                gate=gate,
                seed=options.seed,
            )
            self.story.about["evaluation"] = found.as_dict()
            broken = [f"{one.promise.sentence()}, and it is {one.why}" for one in found.broken]
            why = (
                "Every promise holds on pairs that nothing has looked at before."
                if not broken
                else "; ".join(broken) + "."
            )
            return Decided("kept" if not broken else "broken", why, {"broken": broken, "promises": len(found.gate)})

        rests = {"chosen": told, "gate": gate.read_text(encoding="utf-8"), "judge": judge is not None}
        decision = self.story.decide("gate", "Does the model keep what is promised?", rests, decide)
        model = folder / "model"
        if not model.is_dir() or self.story.about.get("chosen") != told:
            _copy_model(chosen, model)
        self.story.about |= {"chosen": told, "chosen_name": best, "model": "model"}
        self.story.finish()
        page = write_align_page(folder)
        broken = tuple(decision["figures"]["broken"])
        document = {"decisions": list(self.story.decisions.values()), **self.story.about, "minutes": self.story.minutes}
        return Aligned(folder, model, page, document, broken)

    # --- stages -------------------------------------------------------------------------------------------------

    def _settle(
        self,
        name: str,
        start: Stage | Path | str,
        more: Mapping[str, Any],
        *,
        run: bool = True,
        over: bool = False,
        method: str | None = None,
    ) -> None:
        """Gives the stage its settings and runs what of it is not done; ``over``: ``more`` goes over the user's too."""
        self.plan = decided(self.plan, name, self.ground, start=start, more=more, method=method)
        if over:
            stage = self.plan.stage(name)
            known = {key: value for key, value in more.items() if key in type(stage.config).model_fields}
            changed = replace(stage, config=stage.config.model_copy(update=known))
            stages = tuple(changed if one.name == name else one for one in self.plan.stages)
            self.plan = Plan(self.plan.file, self.plan.output, stages, self.plan.notes)
        if not run:
            return
        result = run_pipeline(
            self.plan,
            self.reporter,
            command=self.command,
            on_stage=self.on_stage,
            only={name},
            write_index=_no_page,
        )
        self.story.write()
        if result.stopped is not None:
            raise _Stopped(result)

    def _source(self, start: Stage | str) -> str:
        return str(start.model) if isinstance(start, Stage) else start

    def _exam(self, judge: str | None) -> Exam:
        config = self.plan.stage(next(iter(self.betas))).config
        options = self.options
        return Exam(
            pairs=read_pairs(self.ground.file(VALIDATION)).records,
            judge=judge,
            max_length=config.max_length or 1024,
            max_new_tokens=options.max_new_tokens,
            prompts=options.prompts,
            dtype=config.dtype,
            seed=options.seed,
            progress=self.reporter.progress,
        )


def _called(beta: float) -> str:
    return f"DPO at beta {beta:g}"


def _copy_model(chosen: Path, model: Path) -> None:
    """It appears whole, whenever the copying is stopped."""
    aside = model.with_name(f".{model.name}-new")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(chosen, aside)
    shutil.rmtree(model, ignore_errors=True)
    aside.rename(model)


def _own_gate(folder: Path) -> Path:
    file = folder / "gate.yaml"
    if not file.is_file():
        write_file(file, OWN_GATE)
    return file


def _no_page(folder: Path) -> Path:
    """The page of the whole way is written at its end."""
    return folder / "report.html"
