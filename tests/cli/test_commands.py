"""The commands as a user types them, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preftune.cli.main import main
from tests.tiny_world import World, pair_rows, write_rows

QUICK = [
    "--per_device_train_batch_size=8",
    "--learning_rate=5e-3",
    "--num_train_epochs=2",
    "--max_new_tokens=8",
    "--num_samples=3",
    "--num_completions=8",
    "--logging_steps=1",
    "--eval_fraction=0.25",
    "--save_steps=2",
    "--dtype=float32",
]


def train(world: World, folder: Path, *more: str, data: Path | None = None) -> int:
    source = data or world.conversational
    return main(["dpo", "--model", str(world.model), "--data", str(source), "--output", str(folder), *QUICK, *more])


def document(text: str) -> dict[str, Any]:
    return json.loads(text)


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(world, folder) == 0
    return folder


@pytest.fixture(scope="module")
def adapter_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "adapter"
    assert train(world, folder, "--use_peft", "--lora_r", "4") == 0
    return folder


def test_a_run_leaves_its_files_and_a_better_model(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    wanted = {"config.yaml", "audit.json", "metrics.jsonl", "samples.jsonl", "eval.json", "report.html", "model"}
    assert wanted <= names
    measured = json.loads((run / "eval.json").read_text())
    before, after = (measured[stage]["preference_accuracy"] for stage in ("before", "after"))
    assert before["value"] == 0.5
    assert after["low"] > before["high"]
    assert after["n"] == before["n"] == 15


def test_json_is_one_document_on_standard_output(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(world, tmp_path / "run", "--json", "--max_steps", "1") == 0
    shown = capsys.readouterr()
    result = document(shown.out)
    assert result["steps"] == 1
    assert Path(result["model"]).is_dir() and Path(result["report"]).is_file()
    assert {"before", "after", "change", "reference"} <= result["evaluation"].keys()


def test_the_last_screen_says_what_changed_and_where_the_model_is(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world, tmp_path / "run")
    shown = " ".join(capsys.readouterr().out.split())
    assert "held-out pairs the model prefers the answer people preferred" in shown
    assert "95% interval" in shown and "KL from the reference" in shown and "Answer length" in shown
    assert shown.count("Prompt Could you") == 3
    assert "from_pretrained" in shown and "report.html" in shown.replace(" ", "")


def test_an_output_folder_with_a_run_is_refused(world: World, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "eval.json").read_bytes()
    assert train(world, run) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert (run / "eval.json").read_bytes() == before


def test_resuming_a_finished_run_says_so(world: World, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(world, run, "--resume") == 2
    assert "finished" in capsys.readouterr().err


def test_bad_rows_are_listed_and_good_ones_are_trained_on(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Any] = pair_rows(40)
    rows[3:3] = ['{"prompt": "cut', {"prompt": "x", "chosen": None, "rejected": "y"}, {"prompt": "x", "chosen": "y"}]
    same = {"prompt": "x", "chosen": "same", "rejected": "same"}
    data = write_rows(tmp_path / "mixed.jsonl", [*rows, same, {"prompt": "x", "chosen": "", "rejected": "y"}])
    assert train(world, tmp_path / "run", "--max_steps", "1", data=data) == 0
    listed = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    assert {row["reason"] for row in listed} == {
        "broken-json",
        "null-field",
        "missing-field",
        "identical-sides",
        "empty-completion",
    }
    assert all("mixed.jsonl" in row["where"] and row["mend"] for row in listed)
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert (audit["read"], audit["used"], sum(audit["rejected"].values())) == (45, 40, 5)
    assert "5 of 45 rows" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"{}\n{}\n", "missing-field"),
        (b"\xff\xfe\x00bad\n", "not-utf-8"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}\n', "identical-sides"),
    ],
)
def test_data_without_a_usable_pair_ends_with_one_clear_message(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_bytes(content)
    assert train(world, tmp_path / "run", data=data) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "bad.jsonl" in told[0] and words in told[0]


def test_messages_without_a_template_are_explained(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    plain = tmp_path / "plain"
    shutil.copytree(world.model, plain)
    (plain / "chat_template.jinja").unlink()
    told = main(["dpo", "--model", str(plain), "--data", str(world.conversational), "--output", str(tmp_path / "run")])
    assert told == 2
    assert "chat template" in capsys.readouterr().err
    template = tmp_path / "template.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}</s>{% endfor %}")
    tokens = ["dpo", "--model", str(plain), "--data", str(world.conversational), "--output", str(tmp_path / "run2")]
    assert main([*tokens, *QUICK, "--max_steps", "1", "--chat_template_path", str(template)]) == 0


def test_prompts_longer_than_the_limit_are_cut_and_counted(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(world, tmp_path / "run", "--max_length", "24", "--max_steps", "1") == 0
    assert "cut the prompt of" in " ".join(capsys.readouterr().err.split())
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["tokens"]["train"]["prompts_cut"] > 0
    assert audit["tokens"]["train"]["lengths"]["prompt"]["max"] < 24


def test_a_yaml_file_of_trl_is_understood_and_the_command_line_goes_over_it(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trl.yaml"
    file.write_text(
        f"model_name_or_path: {world.model}\ndataset_name: {world.standard}\noutput_dir: {tmp_path / 'run'}\n"
        "learning_rate: 1e-6\nbeta: 0.3\nmax_steps: 1\nuse_cpu: true\nbf16: false\neval_strategy: no\n"
    )
    assert main(["dpo", "--config", str(file), *QUICK, "--beta", "0.2"]) == 0
    import yaml

    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["beta"], written["learning_rate"], written["max_steps"]) == (0.2, 5e-3, 1)
    assert written["versions"]["torch"] and written["data_fingerprint"]


def test_eval_compares_models_pair_by_pair(
    world: World, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["eval", str(world.model), str(run), "--data", str(world.conversational), "--dtype", "float32"]
    assert main([*tokens, "--max_new_tokens", "8", "--num_completions", "4", "--json"]) == 0
    result = document(capsys.readouterr().out)
    base, trained = (model["measures"]["ranking_accuracy"] for model in result["models"])
    assert trained["value"] > base["high"]
    (difference,) = result["differences"].values()
    assert difference["value"] == pytest.approx(trained["value"] - base["value"])
    assert difference["low"] > 0


def test_eval_of_an_adapter_has_its_base_as_reference(
    world: World, adapter_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["eval", str(adapter_run), "--data", str(world.conversational), "--dtype", "float32", "--json"]
    assert main([*tokens, "--max_new_tokens", "8", "--num_completions", "4"]) == 0
    measures = document(capsys.readouterr().out)["models"][0]["measures"]
    assert measures["preference_accuracy"]["low"] > 0.5
    assert measures["kl"]["n"] == 4


@pytest.mark.parametrize("method", ["sft", "reward", "ipo", "kto", "orpo", "simpo"])
def test_every_method_is_a_command_that_leaves_a_report(
    method: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--model", str(world.model), "--data", str(world.conversational), "--output", str(tmp_path / "run")]
    assert main([method, *places, *QUICK]) == 0
    told = capsys.readouterr().out
    assert "What changed" in told
    kind = "AutoModelForSequenceClassification" if method == "reward" else "AutoModelForCausalLM"
    assert kind in told
    page = (tmp_path / "run" / "report.html").read_text()
    assert {"sft": "Held-out loss", "reward": "Held-out accuracy"}.get(method, "Held-out preference accuracy") in page


def test_eval_of_a_reward_model_is_of_its_scores(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(world.conversational)]
    assert main(["reward", "--model", str(world.model), *data, "--output", str(tmp_path / "run"), *QUICK]) == 0
    capsys.readouterr()
    assert main(["eval", str(world.model), str(tmp_path / "run"), *data, "--num_completions", "0", "--json"]) == 0
    policy, scorer = document(capsys.readouterr().out)["models"]
    assert "ranking_accuracy" in policy["measures"]
    assert scorer["measures"]["accuracy"]["low"] > 0.6
    assert scorer["measures"]["longer_wins"]["n"] == 60


def test_compare_writes_a_page_and_shows_answers_side_by_side(
    world: World, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "compare.html"
    tokens = ["compare", str(world.model), str(run), "--data", str(world.conversational), "--num_samples", "2"]
    assert main([*tokens, "--max_new_tokens", "8", "--output", str(page)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Prompt") == 2
    assert "Could you" in page.read_text()


def test_compare_takes_prompts_of_ones_own(world: World, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "own.html"
    tokens = ["compare", str(world.model), str(run), "--prompt", "Could you find the river?", "--max_new_tokens", "4"]
    assert main([*tokens, "--output", str(page)]) == 0
    assert "Could you find the river?" in page.read_text()


def test_compare_without_prompts_says_what_it_needs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(world.model), str(world.model)]) == 2
    assert "--data" in capsys.readouterr().err


def test_audit_strict_finds_contradictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pair_rows(20)
    swapped = rows[0] | {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"], "id": "swapped"}
    data = write_rows(tmp_path / "pairs.jsonl", [*rows, swapped])
    assert main(["audit", str(data), "--strict", "--json"]) == 1
    assert document(capsys.readouterr().out)["contradictions"] == 1
    assert main(["audit", str(data)]) == 0


def test_report_writes_the_page_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert "preference accuracy" in (run / "report.html").read_text().lower()
    assert main(["report", str(run / "nowhere")]) == 2
