"""The frame of the command line: flags, exit codes, documents, and what `--help` costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from preftune.cli import screen
from preftune.cli.main import COMMANDS, Command, main
from preftune.cli.output import to_json
from preftune.cli.settings import load_settings, parse_settings, settings_help
from preftune.errors import PreftuneError

ROOT = Path(__file__).resolve().parents[2]

FAKE_COMMANDS = '''
import sys
from typing import Annotated

from cyclopts import Parameter

from preftune.cli.output import Outcome
from preftune.errors import PreftuneError


def audit(
    data: str, *, strict: bool = False, max_rows: int = 10, report_to: list[str] | None = None
) -> Outcome:
    """What is wrong with the data.

    Example:
        preftune audit pairs.jsonl --strict

    Args:
        data: A file of pairs.
        strict: Exit with 1 where an error is found.
    """
    print("seen by people")
    found = {"data": data, "strict": strict, "max_rows": max_rows, "report_to": report_to}
    return Outcome(found, exit_code=1 if strict else 0)


def dpo(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> Outcome:
    return Outcome({"tokens": list(tokens)})


def wrong_input() -> None:
    raise PreftuneError("The prompt is empty.", where="pairs.jsonl:3", mend="Fill it.")


def broken() -> None:
    raise ZeroDivisionError("by\\nzero")


def stopped() -> None:
    raise KeyboardInterrupt


def talkative() -> None:
    for line in range(100_000):
        print(line)


def waiting() -> None:
    import time

    print("ready", file=sys.stderr, flush=True)
    time.sleep(60)
'''

NAMES = ("audit", "dpo", "wrong_input", "broken", "stopped", "talkative", "waiting")
COMMAND_TABLE = {
    name: Command(f"fake_commands:{name}", f"The line of {name}.", takes_settings=name == "dpo") for name in NAMES
}
IN_A_PROCESS = (
    "import sys; from preftune.cli.main import Command, main; "
    f"sys.exit(main(commands={{name: Command('fake_commands:' + name, name) for name in {NAMES!r}}}))"
)


@pytest.fixture
def preftune(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command of the fake module: exit code, standard output, standard error."""
    (tmp_path / "fake_commands.py").write_text(FAKE_COMMANDS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delitem(sys.modules, "fake_commands", raising=False)

    def run(*argv: str) -> tuple[int, str, str]:
        code = main(argv, COMMAND_TABLE)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def in_a_process(tmp_path: Path, *argv: str, code: str = IN_A_PROCESS) -> subprocess.Popen[str]:
    (tmp_path / "fake_commands.py").write_text(FAKE_COMMANDS)
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
    )


# --- help and version -----------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from preftune.cli.main import main; code = main(['--help']); "
        "heavy = {'torch', 'transformers', 'datasets', 'pydantic', 'numpy', 'matplotlib', 'scipy', 'yaml'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); "
        "print([m for m in sys.modules if m.startswith('preftune.') and m not in "
        "('preftune.cli', 'preftune.cli.main', 'preftune.cli.output', 'preftune.errors', 'preftune.methods', "
        "'preftune.methods.registry')], file=sys.stderr); "
        "sys.exit(code)"
    )
    process = in_a_process(tmp_path, code=code)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "[]\n[]\n"
    for name, command in COMMANDS.items():
        assert f" {name} " in out
        assert command.line in out
    assert "Example:\n  preftune demo" in out


def test_no_arguments_show_the_help(preftune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = preftune()
    assert code == 0
    assert "The line of audit." in out


def test_help_of_a_command_has_its_docstring_with_the_example(
    preftune: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = preftune("audit", "--help")
    assert code == 0
    assert "What is wrong with the data." in out
    assert "Example:\n    preftune audit pairs.jsonl --strict" in out
    assert "Exit with 1 where an error is found." in out


def test_help_of_a_training_command_is_left_to_the_command(
    preftune: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, _ = preftune("dpo", "--json", "--help")
    assert code == 0
    assert json.loads(out) == {"tokens": ["--help"]}


def test_version_is_told_wherever_the_flag_stands(preftune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = preftune("audit", "--version")
    assert code == 0
    assert out.startswith("preftune ")
    assert set(json.loads(preftune("--json", "--version")[1])) == {"version"}


# --- documents and exit codes ---------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(4))
def test_json_flag_anywhere_leaves_one_document_on_standard_output(
    preftune: Callable[..., tuple[int, str, str]], position: int
) -> None:
    argv = ["audit", "pairs.jsonl", "--strict"]
    argv.insert(position, "--json")
    code, out, err = preftune(*argv)
    assert code == 1
    assert json.loads(out) == {"data": "pairs.jsonl", "strict": True, "max_rows": 10, "report_to": None}
    assert err == "seen by people\n"


def test_without_json_only_the_command_prints(preftune: Callable[..., tuple[int, str, str]]) -> None:
    assert preftune("audit", "pairs.jsonl") == (0, "seen by people\n", "")


def test_bad_input_is_one_line_and_exit_2(preftune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = preftune("wrong_input")
    assert (code, out, err) == (2, "", "error: pairs.jsonl:3: The prompt is empty. Fill it.\n")


def test_bad_input_is_a_document_too(preftune: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = preftune("wrong_input", "--json")
    assert code == 2
    assert json.loads(out) == {"error": {"what": "The prompt is empty.", "where": "pairs.jsonl:3", "mend": "Fill it."}}
    assert "Traceback" not in err


@pytest.mark.parametrize(("name", "exit_code", "told"), [("broken", 70, "--debug"), ("stopped", 130, "stopped")])
def test_other_ends_are_one_line_with_their_exit_code(
    preftune: Callable[..., tuple[int, str, str]], name: str, exit_code: int, told: str
) -> None:
    code, out, err = preftune(name)
    assert (code, out) == (exit_code, "")
    assert told in err
    assert err.count("\n") == 1
    assert "error" in json.loads(preftune(name, "--json")[1])


def test_debug_shows_the_traceback(preftune: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = preftune("broken", "--debug")
    assert code == 70
    assert "Traceback" in err
    assert "in broken" in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["adit"], "Did you mean `preftune audit`?"),
        (["--jsn"], "Did you mean `preftune --json`?"),
        (["audit"], "--data"),
        (["audit", "x", "y"], "'y'"),
        (["audit", "x", "--strct"], "Did you mean --strict?"),
        (["audit", "x", "--max-rows", "many"], "many"),
    ],
)
def test_wrong_usage_names_the_mistake_and_exits_2(
    preftune: Callable[..., tuple[int, str, str]], argv: list[str], told: str
) -> None:
    code, out, err = preftune(*argv)
    assert (code, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


def test_exit_codes_reach_the_shell(tmp_path: Path) -> None:
    for argv, exit_code in ((("audit", "x"), 0), (("audit", "x", "--strict"), 1), (("wrong_input",), 2)):
        process = in_a_process(tmp_path, *argv)
        process.communicate(timeout=60)
        assert process.returncode == exit_code


def test_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    process = in_a_process(tmp_path, "talkative")
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


def test_interrupt_from_the_keyboard_exits_130(tmp_path: Path) -> None:
    process = in_a_process(tmp_path, "waiting")
    assert process.stderr
    assert process.stderr.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "stopped\n"


# --- spellings of options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["--max_rows", "3"], {"max_rows": 3}),
        (["--max-rows=-3"], {"max_rows": -3}),
        (["--max-rows", "-3"], {"max_rows": -3}),
        (["--strict", "true"], {"strict": True}),
        (["--strict", "false"], {"strict": False}),
        (["--no-strict"], {"strict": False}),
        (["--report_to", "wandb", "tensorboard"], {"report_to": ["wandb", "tensorboard"]}),
    ],
)
def test_options_of_a_plain_command_take_both_spellings(
    preftune: Callable[..., tuple[int, str, str]], argv: list[str], found: dict[str, object]
) -> None:
    _, out, err = preftune("audit", "--json", "--data", "x", *argv)
    assert json.loads(out).items() >= found.items(), err


class TinyConfig(BaseModel):
    """Train on pairs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Model to start from.")
    output_dir: Path = Field(description="Folder of the run.")
    beta: float = Field(0.1, gt=0, description="Weight of the KL term.")
    max_steps: int = Field(-1, description="Optimiser steps; -1 for whole epochs.")
    max_length: int | None = 1024
    bf16: bool | None = None
    gradient_checkpointing: bool = True
    resume: bool | str = False
    loss_type: Literal["sigmoid", "hinge"] = "sigmoid"
    report_to: tuple[str, ...] = ()
    lora_target_modules: str | list[str] = "all-linear"
    lr_scheduler_kwargs: dict[str, float] = {}
    run_name: str | None = None


@pytest.mark.parametrize(
    ("tokens", "given"),
    [
        ("--beta 1e-3", {"beta": 1e-3}),
        ("--max-length=512 --max_steps -1", {"max_length": 512, "max_steps": -1}),
        ("--max_length null", {"max_length": None}),
        ("--bf16", {"bf16": True}),
        ("--bf16 true", {"bf16": True}),
        ("--bf16 no", {"bf16": False}),
        ("--no-bf16 --no_gradient_checkpointing", {"bf16": False, "gradient_checkpointing": False}),
        ("--resume", {"resume": True}),
        ("--resume out/checkpoints/step-3", {"resume": "out/checkpoints/step-3"}),
        ("--report_to a b", {"report_to": ["a", "b"]}),
        ("--report_to none", {"report_to": ["none"]}),
        ("--lora_target_modules q_proj v_proj", {"lora_target_modules": ["q_proj", "v_proj"]}),
        ("--lora_target_modules all-linear", {"lora_target_modules": "all-linear"}),
        ('--lr_scheduler_kwargs {"num_cycles":2}', {"lr_scheduler_kwargs": {"num_cycles": 2}}),
        ("--run_name 12 --output out", {"run_name": "12", "output_dir": "out"}),
        ("-o out", {"output_dir": "out"}),
        ("--model_name_or_path x --no-push_to_hub", {"model_name_or_path": "x", "push_to_hub": False}),
        ("--beta 0.1 --beta 0.2", {"beta": 0.2}),
    ],
)
def test_settings_are_read_by_the_types_of_the_config(tokens: str, given: dict[str, object]) -> None:
    assert parse_settings(tokens.split(), TinyConfig) == given


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ("--bta 1", "There is no setting --bta. Did you mean --beta?"),
        ("--beta", "--beta needs a value: a number."),
        ("--beta 1 2", "--beta takes one value"),
        ("x --beta 1", "'x' follows no option"),
        ("--no-beta", "--beta is no switch"),
        ("--no-bf16 true", "--no-bf16 takes no value"),
        ("--lr_scheduler_kwargs {", "is not a mapping"),
    ],
)
def test_settings_that_cannot_be_read_are_named(tokens: str, told: str) -> None:
    with pytest.raises(PreftuneError) as error:
        parse_settings(tokens.split(), TinyConfig)
    assert told in str(error.value)
    assert error.value.where == "command line"


def test_all_unknown_settings_are_told_at_once() -> None:
    with pytest.raises(PreftuneError) as error:
        parse_settings(["--bta", "1", "--max-stesp", "3"], TinyConfig)
    assert "--beta?" in str(error.value)
    assert "--max_steps?" in str(error.value)


def test_command_line_goes_over_the_config_file(tmp_path: Path) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text("model: small\nbeta: 0.3\nmax_steps: 5\n")
    loaded = load_settings(["--config", str(file), "--beta", "0.5", "--output", "out"], TinyConfig)
    assert (loaded.config.model, loaded.config.beta, loaded.config.max_steps) == ("small", 0.5, 5)
    assert loaded.given == {"model", "beta", "max_steps", "output_dir"}


def test_config_option_without_a_file_is_wrong_usage() -> None:
    with pytest.raises(PreftuneError, match="--config needs a file"):
        load_settings(["--config", "--beta", "1"], TinyConfig)


def test_settings_help_tells_every_field_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = settings_help(TinyConfig)
    for name in TinyConfig.model_fields:
        assert f"--{name}" in text or name == "output_dir"
    assert "--output TEXT" in text
    assert "Weight of the KL term. [default 0.1]" in text
    assert "one of sigmoid, hinge" in text
    assert "Model to start from. [required]" in text
    assert "Example:\n  preftune dpo --model" in text
    assert max(map(len, text.splitlines())) <= 100


# --- documents and screen -------------------------------------------------------------------------------


def test_document_is_strict_json_whatever_it_holds() -> None:
    text = to_json({"nan": float("nan"), "path": Path("a"), "set": {1}, "word": "é", 3: (float("-inf"), True)})
    assert text.isascii()
    assert json.loads(text) == {"nan": None, "path": "a", "set": [1], "word": "é", "3": [None, True]}


def test_progress_off_a_terminal_is_a_line_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, *(float(second) for second in range(1, 1000))])
    monkeypatch.setattr(screen.time, "monotonic", lambda: next(clock))
    with screen.progress("training", total=40) as task:
        for step in range(30):
            task.advance(loss=0.5 + step)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 3 <= len(lines) <= 5
    assert lines[-1].startswith("training: 30/40, ")
    assert "loss=29.5" in lines[-1]
    assert " left" in lines[-1]


def test_progress_on_a_terminal_is_a_bar_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(force_terminal=True, record=True, width=120, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    monkeypatch.setattr(screen, "console", lambda: terminal)
    with screen.progress("training", total=4) as task:
        task.advance(3)
        task.figures(loss=0.25)
    shown = terminal.export_text()
    assert "3/4" in shown
    assert "loss=0.25" in shown


def test_notes_keep_their_line_and_their_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    text = "train.yaml:3: [bold] is kept " + "word " * 60
    screen.notify(text)
    assert capsys.readouterr().err.rstrip("\n") == f"note: {text}"
