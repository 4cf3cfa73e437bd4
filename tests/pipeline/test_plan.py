"""A pipeline file: what it comes to, and that what is wrong is told with its place before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from preftune.errors import PreftuneError
from preftune.methods.registry import METHODS
from preftune.pipeline.plan import Plan, read_plan
from tests.pipeline.tiny_pipelines import QUICK, write_pipeline
from tests.tiny_world import World

ROOT = Path(__file__).parents[2]


def plan_of(world: World, folder: Path, *stages: dict[str, Any], **top: Any) -> Plan:
    return read_plan(write_pipeline(world, folder, *stages, **top))


def problem(world: World, folder: Path, *stages: dict[str, Any], **top: Any) -> str:
    with pytest.raises(PreftuneError) as error:
        plan_of(world, folder, *stages, **top)
    return str(error.value)


def problem_of_text(folder: Path, text: str) -> str:
    file = folder / "pipeline.yaml"
    file.write_text(text)
    with pytest.raises(PreftuneError) as error:
        read_plan(file)
    return str(error.value)


# --- what it comes to -----------------------------------------------------------------------------------


def test_a_stage_starts_from_the_last_policy_before_it(world: World, tmp_path: Path) -> None:
    plan = plan_of(world, tmp_path, {"sft": None}, {"reward": {}}, {"dpo": {"beta": 0.3}})
    out = tmp_path / "out"
    assert [stage.config.model for stage in plan.stages] == [str(world.model), *[str(out / "01-sft" / "model")] * 2]
    assert [stage.folder for stage in plan.stages] == [out / "01-sft", out / "02-reward", out / "03-dpo"]
    assert [dict(stage.uses) for stage in plan.stages] == [{}, *[{str(out / "01-sft" / "model"): "sft"}] * 2]


def test_defaults_go_to_the_stages_that_know_them_and_stages_go_over_them(world: World, tmp_path: Path) -> None:
    defaults = QUICK | {"data": str(world.standard), "beta": 0.2, "max_steps": 5}
    plan = plan_of(world, tmp_path, {"sft": {}}, {"dpo": {"max_steps": 7}}, {"ipo": {"beta": 0.5}}, defaults=defaults)
    assert [stage.config.max_steps for stage in plan.stages] == [5, 7, 5]
    assert [getattr(stage.config, "beta", None) for stage in plan.stages] == [None, 0.2, 0.5]
    assert "beta" in plan.stages[1].given and "model" not in plan.stages[1].given


def test_names_of_earlier_stages_stand_for_their_models(world: World, tmp_path: Path) -> None:
    second = {"dpo": {"name": "polish", "ref_model": "sft", "model": str(world.model)}}
    plan = plan_of(world, tmp_path, {"sft": {}}, {"dpo": {}}, second)
    polish = plan.stage("polish")
    assert polish.folder.name == "03-polish"
    assert polish.config.model == str(world.model)
    assert getattr(polish.config, "ref_model", None) == str(plan.stage("sft").model)
    assert set(polish.uses.values()) == {"sft"}


def test_a_reward_model_goes_on_from_a_reward_model(world: World, tmp_path: Path) -> None:
    again = {"reward": {"name": "again", "model": "reward"}}
    assert plan_of(world, tmp_path, {"reward": {}}, again).stage("again").uses


def test_output_of_the_command_goes_over_the_files(world: World, tmp_path: Path) -> None:
    plan = read_plan(write_pipeline(world, tmp_path, {"sft": {}}), tmp_path / "other")
    assert plan.stages[0].folder == tmp_path / "other" / "01-sft"


def test_names_of_trl_are_understood_and_told_once(world: World, tmp_path: Path) -> None:
    plan = plan_of(world, tmp_path, {"sft": {"train_dataset": str(world.standard)}}, {"dpo": {"use_cache": False}})
    assert [note.partition(":")[0].split()[:2] for note in plan.notes] == [["stage", "sft"], ["stage", "dpo"]]
    assert all(any(word in note for note in plan.notes) for word in ("train_dataset", "use_cache"))


def test_words_are_read_by_what_the_setting_takes(world: World, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        f"output_dir: {tmp_path}\nmodel: {world.model}\n"
        f"stages:\n  - sft: {{data: {world.standard}, eval_strategy: no, run_name: 12, learning_rate: 1e-6}}\n"
    )
    config = read_plan(file).stages[0].config
    assert (config.eval_strategy, config.run_name, config.learning_rate) == ("no", "12", 1e-6)


EXAMPLES = sorted(ROOT.joinpath("examples").glob("*.yaml"))
PIPELINES = [path for path in EXAMPLES if "\nstages:" in path.read_text()]


@pytest.mark.parametrize("file", PIPELINES, ids=lambda path: path.name)
def test_recipes_are_valid_plans(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert len(read_plan(file).stages) > 1


@pytest.mark.parametrize("file", sorted({*EXAMPLES} - {*PIPELINES}), ids=lambda path: path.name)
def test_other_recipes_are_settings_of_the_method_they_are_named_after(file: Path) -> None:
    settings = METHODS[file.stem].config_class()(**yaml.safe_load(file.read_text()))
    assert ROOT.joinpath(settings.data).is_file()  # type: ignore[attr-defined]


# --- what is wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "stages is not given"),
        ("- a\n", "pipeline.yaml:1: A config is a list of `key: value` lines."),
        ("stages: [\n", "This is not YAML"),
        ("stages: []\n", "pipeline.yaml:1: stages is no list."),
        ("output: x\nstages: [{sft: {}}]\n", "pipeline.yaml:1: A pipeline has no key output. Did you mean output_dir?"),
        ("stages:\n- sft\n", "pipeline.yaml:2: This is no stage. A stage is `- METHOD"),
        ("stages:\n- sft: {}\n- sfd: {}\n", "pipeline.yaml:3: There is no method sfd. Did you mean sft?"),
        ("stages:\n- sft:\n  data: x\n", "Beside sft stands data: a stage has one key, its method. Indent"),
        ("stages:\n- sft: 3\n", "The settings of sft are no mapping."),
        ("stages:\n- dpo: {}\n- dpo: {}\n", "Two stages are called dpo, in lines 2 and 3. Name one, for example"),
        ("stages:\n- dpo: {name: a/b}\n", "'a/b' cannot be the name of a stage."),
        ("stages:\n- sft: {output_dir: x}\n", "output_dir is no setting of a stage."),
        ("defaults: {resume: true}\nstages:\n- sft: {}\n", "resume is no setting of a stage."),
        ("defaults: {model: x}\nstages:\n- sft: {}\n", "model is no default. Put it at the top of the file"),
        ("defaults: {bta: 1}\nstages:\n- dpo: {}\n", "pipeline.yaml:1: No stage has a setting bta. Did you mean beta?"),
        ("defaults: 3\nstages:\n- sft: {}\n", "defaults is no mapping."),
        ("stages:\n- sft: {}\nstages:\n- sft: {}\n", "stages is given twice, in lines 1 and 3. Keep one."),
        ("stages:\n- sft: {data: x.jsonl}\n", "output_dir is not given. Give --output, or a line"),
    ],
)
def test_a_file_of_another_form_is_told_with_its_line(text: str, told: str, tmp_path: Path) -> None:
    assert told in problem_of_text(tmp_path, text)


def test_every_wrong_setting_is_told_at_once_with_stage_and_line(world: World, tmp_path: Path) -> None:
    stages = ({"sft": {"max_stesp": 3}}, {"dpo": {"beta": -1, "loss_type": "sigmod"}})
    lines = problem(world, tmp_path, *stages).splitlines()
    text = (tmp_path / "pipeline.yaml").read_text().splitlines()
    assert len(lines) == 3
    for word, stage in (("max_stesp", "sft"), ("beta", "dpo"), ("loss_type", "dpo")):
        (line,) = [line for line in lines if word in line]
        number = next(i for i, content in enumerate(text, start=1) if f"{word}:" in content)
        assert line.startswith(f"stage {stage} of {tmp_path / 'pipeline.yaml'}:{number}: ")
    assert "Did you mean max_steps?" in lines[0]


def test_data_and_models_that_are_not_there_are_told(world: World, tmp_path: Path) -> None:
    gone = str(world.standard.with_name("standart.jsonl"))
    told = problem(world, tmp_path, {"sft": {"data": gone}}, {"dpo": {"ref_model": "./nowhere"}})
    assert f"data {gone}: There is no such file or folder. Near it: standard.jsonl" in told
    assert "ref_model ./nowhere: There is no such model folder." in told
    assert not (tmp_path / "out").exists()


def test_a_setting_that_is_needed_is_asked_for_in_its_stage(world: World, tmp_path: Path) -> None:
    told = problem(world, tmp_path, {"sft": {}}, defaults=QUICK)
    assert "stage sft of" in told and "data is not given. Add a line `data: ...` to it." in told


def test_the_first_stage_needs_a_model(world: World, tmp_path: Path) -> None:
    file = write_pipeline(world, tmp_path, {"sft": {}})
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("model:")))
    with pytest.raises(PreftuneError, match="model is not given"):
        read_plan(file)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([{"dpo": {"ref_model": "sft"}}, {"sft": {}}], "ref_model: sft does not come before this stage."),
        ([{"dpo": {"ref_model": "dpo"}}], "ref_model: dpo does not come before this stage."),
        (
            [{"reward": {}}, {"dpo": {"model": "reward"}}],
            "model: stage reward trains a reward model, and a policy is wanted.",
        ),
        ([{"reward": {}}, {"dpo": {"ref_model": "reward"}}], "ref_model: stage reward trains a reward model"),
    ],
)
def test_a_model_of_the_wrong_stage_is_told(
    stages: list[dict[str, Any]], told: str, world: World, tmp_path: Path
) -> None:
    assert told in problem(world, tmp_path, *stages)


@pytest.mark.skipif("ppo" not in METHODS, reason="needs an online method")
def test_rewards_are_reward_models_of_earlier_stages_or_what_they_are_anywhere(world: World, tmp_path: Path) -> None:
    rewards = {"ppo": {"reward_funcs": ["reward", "length"]}}
    plan = plan_of(world, tmp_path, {"sft": {}}, {"reward": {}}, rewards)
    ppo = plan.stage("ppo")
    assert getattr(ppo.config, "reward_funcs", None) == (str(plan.stage("reward").model), "length")
    assert sorted(ppo.uses.values()) == ["reward", "sft"]
    wrong = {"ppo": {"reward_funcs": ["sft"]}}
    assert "stage sft trains a policy, and a reward model is wanted" in problem(world, tmp_path, {"sft": {}}, wrong)


def test_a_stage_that_is_asked_for_and_not_there_is_told(world: World, tmp_path: Path) -> None:
    plan = plan_of(world, tmp_path, {"sft": {}}, {"dpo": {}})
    with pytest.raises(PreftuneError, match=r"There is no stage dop\. Did you mean dpo\?"):
        plan.stage("dop")
