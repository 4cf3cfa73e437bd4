"""The whole way from preference pairs to an aligned model, deciding at every turn by figures, with the reasons kept.

SFT where the model was not taught to answer; a judge (a reward model of held-out pairs); DPO at several betas; a test
whether more of DPO would help; if so more of it, else a reward model and an online method, kept only where the judge
prefers its answers; then the gate, on pairs that nothing has looked at. Called again it goes on where it was stopped.
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
from preftune.pipeline.align_candidates import Exam, examine_folder, examine_run, save_checkpoint_model
from preftune.pipeline.align_decisions import (
    accuracy_of,
    decide_judge,
    decide_pays,
    decide_plateau,
    told_accuracy,
)
from preftune.pipeline.align_options import AlignOptions
from preftune.pipeline.align_record import Decided, Story, open_story
from preftune.pipeline.align_stages import (
    JUDGE,
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
    settings_for,
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
    """Where the way ended: the model, the page, the broken promises of the gate; or which stage was stopped."""

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
        story.write()
    ground, sizes = lay_ground(options.data, options.model, options.output, options.given or {}, options.seed)
    story.about["sizes"] = sizes
    way = _Way(options, ground, story, reporter, command, on_stage or (lambda stage, summary, report: None))
    try:
        return way.go()
    except _Stopped as stop:
        story.write()
        page = write_align_page(options.output)
        result = stop.result
        return Aligned(options.output, None, page, {}, stopped=result.stopped, stopped_in=result.stopped_in)


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
        chosen = self._online(start, judge, best, folder)
        return self._finish(start, judge, chosen)

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
        """The folder of a reward model that learned from the held-out pairs; None where it knows nothing surely."""
        more = {"data": self.ground.file(JUDGE), "eval_data": self.ground.file(TRAIN)}
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
        first = next(iter(self.betas))
        steps = 0
        for name, beta in self.betas.items():
            self._settle(name, start, {"beta": beta}, run=False)
            steps = halfway(self.plan.stage(name), self.ground.data.records)
            more = {"beta": beta, "save_strategy": "steps", "save_steps": float(steps), "save_total_limit": None}
            self._settle(name, start, {**more, "eval_data": self.ground.file(VALIDATION)}, over=True)
        exam = self._exam(judge)
        early = f"{first}, half the steps"

        def decide() -> Decided:
            found = [examine_run(self.plan.stage(first).folder, steps, early, exam)]
            source = self._source(start)
            found += [examine_folder(name, self.plan.stage(name).model, source, exam) for name in self.betas]
            return decide_plateau(early, found, first, self.options)

        rests = {"betas": list(self.options.betas), "judge": judge is not None, "steps": steps}
        decision = self.story.decide("plateau", "Would more of DPO help?", rests, decide)
        choice = str(decision["choice"])
        if choice == early:
            folder = self.ground.folder / "half-way"
            if not folder.is_dir():
                save_checkpoint_model(self.plan.stage(first).folder, steps, folder)
            return choice, folder
        if decision["figures"]["verdict"] != "rising":
            return choice, self.plan.stage(choice).model
        return self._more_of_dpo(start, judge, choice)

    def _more_of_dpo(self, start: Stage | str, judge: str | None, best: str) -> tuple[str, Path]:
        """Twice the passes at the best beta, kept where it is surely better."""
        known = self.plan.stage(best).config
        more = {"beta": self.betas[best], "num_train_epochs": 2 * known.num_train_epochs}
        more |= {"max_steps": 2 * known.max_steps} if known.max_steps > 0 else {}
        self._settle(LONGER, start, {**more, "eval_data": self.ground.file(VALIDATION)}, over=True)
        exam = self._exam(judge)

        def decide() -> Decided:
            source = self._source(start)
            found = [examine_folder(name, self.plan.stage(name).model, source, exam) for name in (best, LONGER)]
            return decide_plateau(best, found, best, self.options)

        decision = self.story.decide("plateau-longer", "Did twice the passes help?", {"of": best}, decide)
        choice = LONGER if decision["figures"]["verdict"] == "rising" else best
        return choice, self.plan.stage(choice).model

    # --- online -----------------------------------------------------------------------------------------------

    def _online(self, start: Stage | str, judge: str | None, best: str, folder: Path) -> Path:
        """The folder of the model that is chosen at last."""
        options = self.options
        rests = {"best": best, "judge": judge is not None, "online": options.online, "budget": options.budget_minutes}
        gate = self.story.decide("worth-trying", "Is RLHF worth trying?", rests, lambda: self._decide_try(judge))
        if gate["choice"] == "no":
            return folder
        self._settle(REWARD, start, {"data": self.ground.file(TRAIN), "eval_data": self.ground.file(JUDGE)})
        reward = self.plan.stage(REWARD)
        accuracy = accuracy_of(reward.folder)
        means = self.story.decide(
            "means",
            "Are the means there?",
            {**rests, "accuracy": accuracy},
            lambda: self._decide_means(accuracy, folder),
        )
        if means["choice"] == "no":
            return folder
        method = str(means["choice"])
        more = {"data": self.ground.file(TRAIN), "eval_data": self.ground.file(VALIDATION)}
        more |= {"reward_funcs": (str(reward.model),), "beta": 0.1, "kl_coef": 0.05}
        self._settle(ONLINE, folder, more, method=method)
        exam = self._exam(judge)
        stage = self.plan.stage(ONLINE)

        def decide() -> Decided:
            source = self._source(start)
            was, now = (
                examine_folder(name, place, source, exam) for name, place in ((best, folder), (method, stage.model))
            )
            return decide_pays(was, now)

        paid = self.story.decide("pays", f"Did {_called(method)} pay?", {"method": method, "best": best}, decide)
        return stage.model if paid["choice"] == "yes" else folder

    def _decide_try(self, judge: str | None) -> Decided:
        if self.options.online == "never":
            return Decided("no", "You said never.", {})
        if judge is None:
            return Decided("no", "Without a judge nothing would tell whether it pays.", {})
        spent, budget = self.story.minutes, self.options.budget_minutes
        if budget is not None and spent >= budget:
            return Decided("no", f"{spent:.0f} of {budget:g} minutes are spent.", {"minutes": spent})
        verdict = self.story.decisions["plateau"]["figures"]["verdict"]
        ended = "DPO has come to its end on these pairs" if verdict == "plateau" else "More of DPO is not known to help"
        why = f"{ended}; an online method learns from the model's own fresh answers, and the judge will say if it paid."
        return Decided("yes", why, {"minutes": spent})

    def _decide_means(self, accuracy: Mapping[str, Any], folder: Path) -> Decided:
        """By the reward model's accuracy, and the memory and minutes that the estimates say it takes."""
        figures: dict[str, Any] = {"reward_model_accuracy": accuracy}
        if not accuracy or accuracy["low"] <= 0.5:
            return Decided(
                "no", f"The reward model is not surely better than a coin: {told_accuracy(accuracy)}.", figures
            )
        asked = ("ppo", "online-dpo") if self.options.online == "auto" else (self.options.online,)
        refused = []
        for method in asked:
            memory, minutes = self._takes(method, folder)
            free, left = self.ground.machine.available, self._left()
            figures[method] = {"memory_mib": memory, "free_mib": free, "minutes": minutes, "left": left}
            if memory > free:
                refused.append(f"{_called(method)} would take {memory:,.0f} MiB of {free:,.0f} free")
            elif left is not None and minutes > left:
                refused.append(f"{_called(method)} would take {minutes:.0f} minutes of {left:.0f} left")
            else:
                time = "" if left is None else f" and {minutes:.0f} of {left:.0f} minutes"
                why = f"The reward model is right in {told_accuracy(accuracy)}; {_called(method)} takes an estimated "
                return Decided(method, f"{why}{memory:,.0f} of {free:,.0f} MiB{time}.", figures)
        return Decided("no", "; ".join(refused) + ".", figures)

    def _takes(self, method: str, folder: Path) -> tuple[float, float]:
        """MiB and minutes of an online method, by the estimates."""
        from preftune.advise.duration import estimate_duration, measure_speed
        from preftune.advise.memory import estimate_memory, trained_parameters
        from preftune.advise.workload import plan_workload
        from preftune.methods.registry import METHODS

        ground, sizes = self.ground, self.ground.about.sizes
        more = {"reward_funcs": ("length",), "eval_data": ground.file(VALIDATION)}
        config = METHODS[method].config_class()(**settings_for(method, ground, str(folder), more), output_dir="-")
        workload = plan_workload(method, config, ground.data.lengths, ground.data.records, ground.data.prompts)
        memory = estimate_memory(
            workload,
            config,
            sizes,
            has_bfloat16=ground.machine.has_bfloat16,
            device=ground.machine.device,
            reward_models=(float(sizes.parameters),),
        )
        if self._left() is None:
            return memory.peak, 0.0
        with self.reporter.progress(f"timing layers for {_called(method)}", None):
            speed = measure_speed(ground.model, config, workload)
        return memory.peak, estimate_duration(workload, trained_parameters(config, sizes), speed).seconds / 60

    def _left(self) -> float | None:
        budget = self.options.budget_minutes
        return None if budget is None else max(0.0, budget - self.story.minutes)

    # --- the end ------------------------------------------------------------------------------------------------

    def _finish(self, start: Stage | str, judge: str | None, chosen: Path) -> Aligned:
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
            broken = [one.promise.sentence() for one in found.broken]
            why = "Every promise holds on pairs that nothing has looked at before." if not broken else "; ".join(broken)
            return Decided("kept" if not broken else "broken", why, {"broken": broken, "promises": len(found.gate)})

        rests = {"chosen": told, "gate": gate.read_text(encoding="utf-8"), "judge": judge is not None}
        decision = self.story.decide("gate", "Does the model keep what is promised?", rests, decide)
        model = folder / "model"
        if not model.is_dir() or self.story.about.get("chosen") != told:
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(chosen, model)
        self.story.about |= {"chosen": told, "model": "model", "finished": True}
        self.story.write()
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


def _called(method: str) -> str:
    return {"ppo": "PPO", "online-dpo": "online DPO"}[method]


def _own_gate(folder: Path) -> Path:
    file = folder / "gate.yaml"
    if not file.is_file():
        write_file(file, OWN_GATE)
    return file


def _no_page(folder: Path) -> Path:
    """The page of the whole way is written at its end."""
    return folder / "report.html"
