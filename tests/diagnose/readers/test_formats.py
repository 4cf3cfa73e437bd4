"""Each format read against files as its own tool writes them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from preftune.diagnose.readers.console import parse_console
from preftune.diagnose.readers.find import read_log
from preftune.diagnose.readers.wandb_run import read_wandb_file
from preftune.diagnose.series import RunLog
from preftune.errors import PreftuneError

FIXTURES = Path(__file__).parent / "fixtures"


def only(path: Path) -> RunLog:
    (log,) = read_log(path)
    return log


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- ours -----------------------------------------------------------------------------------------------


def test_our_run_is_read_whole(tmp_path: Path) -> None:
    run = tmp_path / "mine"
    rows = [{"step": i, "epoch": i / 5, "time": 1e9, "loss": 0.7 - i / 50, "kl": None} for i in range(1, 6)]
    write_rows(run / "metrics.jsonl", [*rows, {"step": 5, "eval_loss": 0.6}])
    write(run / "config.yaml", "method: dpo\nbeta: 0.1\nparameters: {trained: 7, all: 9}\n")
    write(run / "eval.json", json.dumps({"steps": 5}))
    sample = {"step": 5, "stage": "after", "prompt_id": "a", "completion": "well", "tokens": 1, "finished": True}
    write_rows(run / "samples.jsonl", [sample, {"no": "sample"}])
    log = only(run)
    assert (log.name, log.tool, log.method, log.last_step) == ("mine", "preftune", "dpo", 5)
    assert log.series["eval_loss"].steps.tolist() == [5]
    assert log.get("kl") is None
    assert log.config["parameters"] == {"trained": 7, "all": 9}
    assert log.documents["eval"] == {"steps": 5}
    assert [(one.step, one.text, one.tokens, one.finished) for one in log.samples] == [(5, "well", 1, True)]
    assert log.notes == []


def test_half_written_log_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "metrics.jsonl", '{"step": 1, "loss": 0.7}\n{"step": 2, "lo')
    log = only(path.parent)
    assert log.series["loss"].values.tolist() == [0.7]
    assert "metrics.jsonl: its last line is half written and was left out." in log.notes


def test_damaged_lines_and_files_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / "metrics.jsonl", '{"step": 1, "loss": 0.7}\nnonsense\n[1]\n{"step": 2, "loss": 0.6}\n')
    write(run / "config.yaml", "method: [")
    write(run / "eval.json", "{")
    log = only(run)
    assert log.series["loss"].steps.tolist() == [1, 2]
    assert list(log.notes) == [
        "metrics.jsonl: 2 lines could not be read and were left out (first: line 2).",
        "config.yaml is damaged and was left out.",
        "eval.json is damaged and was left out.",
        "The method cannot be told from the log: checks for all of them are made.",
    ]


# --- transformers and TRL -------------------------------------------------------------------------------


def test_trls_folder_gives_its_newest_checkpoint_and_the_settings_of_its_event_file() -> None:
    """``make_fixtures`` made it with TRL 1.16 and transformers 5.23."""
    pytest.importorskip("tensorboard")
    log = only(FIXTURES / "trl-dpo")
    assert (log.name, log.tool, log.method) == ("trl-dpo", "trl", "dpo")
    assert log.series["loss"].steps.tolist() == list(range(1, 13))
    assert log.series["eval_rewards/margins"].steps.tolist() == [6, 12]
    assert log.series["loss"].values[0] == pytest.approx(0.6931, abs=1e-3)
    assert (log.config["beta"], log.config["learning_rate"], log.config["max_steps"]) == (0.1, 1e-3, 12)
    assert [note for note in log.notes if "not known" in note] == []


def test_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for step in (6, 12):
        write(tmp_path / f"checkpoint-{step}" / "trainer_state.json", state(step))
    write(tmp_path / "checkpoint-18" / "trainer_state.json", state(18)[:200])
    log = only(tmp_path)
    assert log.last_step == 12
    assert any("checkpoint-18/trainer_state.json could not be read" in note for note in log.notes)


def test_state_without_history_is_no_log(tmp_path: Path) -> None:
    write(tmp_path / "trainer_state.json", '{"log_history": []}')
    with pytest.raises(PreftuneError, match="nothing was logged yet"):
        read_log(tmp_path)
    write(tmp_path / "trainer_state.json", '{"epoch": 1}')
    with pytest.raises(PreftuneError, match="no log_history"):
        read_log(tmp_path / "trainer_state.json")


def test_completions_of_trls_online_trainers_are_samples(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    (tmp_path / "completions").mkdir()
    write(tmp_path / "trainer_state.json", state(4))
    table = {
        "step": [4, 4],
        "prompt": [[{"role": "user", "content": "Why?"}], [{"role": "user", "content": "How?"}]],
        "completion": [[{"role": "assistant", "content": "So."}], [{"role": "assistant", "content": "Thus."}]],
        "accuracy": [1.0, 0.0],
        "format": [0.5, None],
        "advantage": [0.7, -0.7],
    }
    parquet.write_table(pa.table(table), tmp_path / "completions" / "completions_00004.parquet")
    (tmp_path / "completions" / "completions_00008.parquet").write_bytes(b"PAR1 cut")
    log = only(tmp_path)
    assert [(one.step, one.prompt_id, one.text, one.reward) for one in log.samples] == [
        (4, "Why?", "So.", 1.5),
        (4, "How?", "Thus.", 0.0),
    ]
    assert "completions_00008.parquet is damaged and was left out." in log.notes


def state(steps: int) -> str:
    history = [
        {"step": i, "epoch": i / 6, "loss": 1 / i, "grad_norm": 1.0, "learning_rate": 1e-5} for i in range(1, steps + 1)
    ]
    return json.dumps({"global_step": steps, "max_steps": 20, "log_history": history})


# --- TensorBoard ----------------------------------------------------------------------------------------


def test_event_file_of_the_trainer_is_the_same_run() -> None:
    pytest.importorskip("tensorboard")
    log = only(FIXTURES / "trl-dpo" / "runs")
    assert (log.tool, log.method, log.config["beta"]) == ("tensorboard", "dpo", 0.1)
    assert log.series["loss"].steps.tolist() == list(range(1, 13))
    assert log.series["eval_rewards/margins"].logged_as == "eval/rewards/margins"


def test_tensorboard_that_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("preftune.diagnose.readers.tensorboard_events.import_module", missing)
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"")
    with pytest.raises(PreftuneError, match=r"pip install 'preftune\[tracking\]'"):
        read_log(tmp_path)
    log = only(FIXTURES / "trl-dpo")  # its curves need no TensorBoard, its settings do
    assert log.last_step == 12 and "beta" not in log.config
    assert any("holds no settings" in note for note in log.notes)


def test_torn_event_file_is_read_to_its_last_record(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    whole = next((FIXTURES / "trl-dpo").rglob("*tfevents*")).read_bytes()
    (tmp_path / "events.out.tfevents.2.host").write_bytes(whole[: int(0.8 * len(whole))])
    log = only(tmp_path)
    assert 0 < log.last_step < 12
    assert any("half written or damaged" in note for note in log.notes)


def test_event_files_of_two_runs_in_one_folder_are_two_and_of_a_resume_one(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for folder, begins in (("two", (1, 1)), ("resumed", (1, 8))):
        for number, first in enumerate(begins):
            event_file(tmp_path / folder, number, range(first, first + 10))
    assert [log.name for log in read_log(tmp_path / "two")] == ["two (1)", "two (2)"]
    log = only(tmp_path / "resumed")
    assert log.series["loss"].steps.tolist() == list(range(1, 18))
    assert log.series["loss"].values[9] == 101.0  # the later file's third
    assert "Resumed at step 8: the later figures are read." in log.notes


def event_file(folder: Path, number: int, steps: range) -> None:
    """Records as TensorBoard frames them; checksums are not looked at."""
    import os

    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{number}.host"
    with path.open("wb") as file:
        for place, step in enumerate(steps):
            value = Summary.Value(tag="train/loss", simple_value=float(place + 99 * number))
            record = Event(step=step, summary=Summary(value=[value])).SerializeToString()
            file.write(struct.pack("<QI", len(record), 0) + record + b"\0\0\0\0")
    os.utime(path, (1000 + number, 1000 + number))


# --- Weights & Biases -----------------------------------------------------------------------------------
# Written here by the format of wandb/sdk/internal/datastore.py and wandb/proto/wandb_internal.proto: a header, records
# in blocks of 32 KiB, each a Record whose field 2 is a HistoryRecord and whose field 17 is a RunRecord.


def test_wandb_file_gives_history_and_settings_across_blocks(tmp_path: Path) -> None:
    folder = tmp_path / "wandb" / "offline-run-20261121_101500-abc"
    rows = [{"train/loss": 1 / i, "train/global_step": 10 * i, "text": "x" * 400} for i in range(1, 201)]
    write_wandb(folder / "run-abc.wandb", rows, {"beta": 0.2, "_wandb": 1})
    log = only(tmp_path / "wandb")
    assert (log.name, log.tool, log.config) == (folder.name, "wandb", {"beta": 0.2})
    assert log.series["loss"].steps.tolist() == list(range(10, 2001, 10))
    assert log.series["loss"].values[3] == 0.25


def test_torn_wandb_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_wandb(tmp_path / "run-abc.wandb", [{"loss": float(i)} for i in range(1, 50)], {})
    path.write_bytes(path.read_bytes()[:-20])
    notes: list[str] = []
    rows, _ = read_wandb_file(path, notes)
    assert [row["loss"] for row in rows] == [float(i) for i in range(1, 49)]
    assert [row["_step"] for row in rows][:3] == [0, 1, 2]
    assert notes == ["run-abc.wandb: its end is half written or damaged and was left out."]


def test_summary_alone_is_one_point_and_says_how_to_export(tmp_path: Path) -> None:
    files = tmp_path / "run-1" / "files"
    write(files / "wandb-summary.json", json.dumps({"train/loss": 0.3, "_step": 90, "_wandb": {"runtime": 4}}))
    write(files / "config.yaml", "beta:\n  value: 0.3\n_wandb:\n  value: {}\n")
    log = only(tmp_path / "run-1")
    assert (log.series["loss"].steps.tolist(), log.config) == ([90], {"beta": 0.3})
    assert any("scan_history()" in note for note in log.notes)


def write_wandb(path: Path, rows: list[dict[str, Any]], config: dict[str, Any]) -> Path:
    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    def varint(value: int) -> bytes:
        out = b""
        while value > 127:
            out, value = out + bytes([value & 127 | 128]), value >> 7
        return out + bytes([value])

    def items(values: dict[str, Any]) -> bytes:
        return b"".join(
            field(1, field(2, key.encode()) + field(16, json.dumps(value).encode())) for key, value in values.items()
        )

    records = [field(17, field(4, items(config)))]
    records += [field(2, items(row) + field(2, b"\x08" + varint(i))) for i, row in enumerate(rows)]
    content = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
    for record in records:
        kinds = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}
        is_first = True
        while record or is_first:
            left = 32768 - len(content) % 32768
            if left < 7:
                content += b"\0" * left
                continue
            part, record = record[: left - 7], record[left - 7 :]
            content += struct.pack("<IHB", 0, len(part), kinds[is_first, not record]) + part
            is_first = False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- what trainers print --------------------------------------------------------------------------------

# As verl's concat_dict_to_str prints it, with the colours and the prefix of Ray's actors.
VERL = """
(pid=1) INFO starting
\x1b[36m(TaskRunner pid=1)\x1b[0m step:1 - global_seqlen/mean:274260.8 - actor/entropy:0.364 - actor/kl_loss:0.0013 \
- actor/grad_norm:0.167 - actor/lr:1e-06 - critic/score/mean:np.float64(0.576) - critic/advantages/mean:-0.066 \
- response_length/mean:424.5 - response_length/clip_ratio:0.0737 - perf/max_memory_allocated_gb:2.5
(TaskRunner pid=1) step:2 - actor/entropy:nan - critic/score/mean:0.61 - val-core/openai/gsm8k/reward/mean@1:0.5 - bad
(TaskRunner pid=1) step:3 - actor/ent
"""

# As OpenRLHF's PPO trainer prints its status (logger.info) ...
OPENRLHF = """
(PPOTrainer pid=7) INFO ppo_trainer.py:120] ✨ Global step 1: {'policy_loss': 0.024, 'reward': 0.4, 'kl': 0.01, \
'response_length': 211.5, 'actor_lr': 5e-07, 'timing/generation': 41.2}
(PPOTrainer pid=7) INFO ppo_trainer.py:120] ✨ Global step 2: {'policy_loss': -0.01, 'reward': nan, 'kl': 0.02}
"""
# ... and as its DPO trainer's bar does (step_bar.set_postfix).
_BAR = "Train step of epoch {}:   1%| | {}/200 [00:01<03:19,  1.00s/it, loss={}, acc={}, chosen_reward={}]"
OPENRLHF_BARS = "\r".join(
    [_BAR.format(0, 1, 0.693, 0.5, 0), _BAR.format(0, 2, 0.68, 0.75, 0.1), _BAR.format(1, 1, 0.5, 1, "1e-1")]
)

# As transformers' ProgressCallback prints; version 5 writes the numbers as text.
TRANSFORMERS = (
    "  5%|▌ | 10/200 [00:10<03:10,  1.00it/s]\n"
    "{'loss': '0.69', 'grad_norm': '1.2', 'learning_rate': '9e-06', 'epoch': '0.05'}\n"
    " 10%|█ | 20/200 [00:20<03:00,  1.00it/s]\n"
    "{'loss': 0.51, 'grad_norm': nan, 'learning_rate': 8e-06, 'epoch': 0.1}\n"
)


def test_verls_console_is_read(tmp_path: Path) -> None:
    log = only(write(tmp_path / "grpo.log", VERL))
    assert (log.tool, log.series["entropy"].steps.tolist()) == ("verl", [1, 2])
    assert log.series["reward"].values.tolist() == [0.576, 0.61]
    assert log.series["kl"].values.tolist() == [0.0013]
    assert log.series["memory/cuda_peak_mib"].values.tolist() == [2560.0]
    assert log.series["eval_reward"].values.tolist() == [0.5]
    assert log.series["completions/clipped_ratio"].values.tolist() == [0.0737]


def test_verls_file_logger_is_read(tmp_path: Path) -> None:
    rows = [{"step": i, "data": {"actor/entropy": 0.5, "critic/score/mean": i / 10}} for i in (1, 2)]
    assert only(write_rows(tmp_path / "run.jsonl", rows)).series["reward"].values.tolist() == [0.1, 0.2]


def test_openrlhfs_status_is_read(tmp_path: Path) -> None:
    log = only(write(tmp_path / "ppo.log", OPENRLHF))
    assert (log.tool, log.series["reward"].steps.tolist()) == ("openrlhf", [1, 2])
    assert log.series["completions/mean_length"].values.tolist() == [211.5]
    assert log.series["learning_rate"].values.tolist() == [5e-7]


def test_openrlhfs_bars_are_read_over_epochs() -> None:
    rows, tool = parse_console(OPENRLHF_BARS)
    assert (tool, [row["step"] for row in rows]) == ("openrlhf", [1, 2, 201])
    assert (rows[2]["chosen_reward"], rows[1]["acc"]) == (0.1, 0.75)


def test_transformers_dictionaries_get_the_step_of_the_bar() -> None:
    rows, tool = parse_console(TRANSFORMERS)
    assert (tool, [row["step"] for row in rows]) == ("transformers", [10, 20])
    assert rows[0]["loss"] == 0.69 and rows[1]["grad_norm"] != rows[1]["grad_norm"]


def test_text_of_no_trainer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="No line of it is one that"):
        read_log(write(tmp_path / "app.log", "hello\nworld step: 3\n"))


# --- tables ---------------------------------------------------------------------------------------------


def test_csv_with_empty_cells_is_read(tmp_path: Path) -> None:
    log = only(write(tmp_path / "a.csv", "step,train/loss,eval/loss\n1,0.7,\n2,0.6,0.65\n3,,\n"))
    assert log.series["loss"].steps.tolist() == [1, 2]
    assert log.series["eval_loss"].values.tolist() == [0.65]


def test_chart_exported_from_wandb_holds_several_runs(tmp_path: Path) -> None:
    text = (
        '"Step","a run - train/loss","a run - train/loss__MIN","b - train/loss"\n'
        '"1","0.7","0.6","0.8"\n"2","0.5","0.4",""\n"3","0.4","0.3","0.6"\n'
    )
    logs = read_log(write(tmp_path / "export.csv", text))
    found = {log.name: log.series["loss"].values.tolist() for log in logs}
    assert found == {"export (a run)": [0.7, 0.5, 0.4], "export (b)": [0.8, 0.6]}


def test_table_downloaded_from_tensorboard_has_its_metric_in_its_name(tmp_path: Path) -> None:
    text = "Wall time,Step,Value\n1.0,10,0.7\n2.0,20,0.6\n"
    log = only(write(tmp_path / "run-x-tag-train_loss.csv", text))
    assert log.series["loss"].steps.tolist() == [10, 20]


def test_list_of_rows_in_json_is_read(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]
    assert only(write(tmp_path / "history.json", json.dumps(rows))).last_step == 2


# --- places ---------------------------------------------------------------------------------------------


def test_every_run_of_a_folder_is_found_and_named(tmp_path: Path) -> None:
    for name in ("a", "b/a"):
        write_rows(tmp_path / name / "metrics.jsonl", [{"step": 1, "loss": 0.7}])
    write(tmp_path / "trl" / "checkpoint-3" / "trainer_state.json", state(3))
    write(tmp_path / "notes.csv", "this,is\nno,log\n")
    logs = read_log(tmp_path)
    assert sorted(log.name for log in logs) == ["a", "b/a", "trl"]
    assert any("Left out: " in note and "It holds no metric" in note for note in logs[0].notes)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda path: None, "There is nothing here."),
        (lambda path: path.mkdir(), "No training log is in this folder."),
        (lambda path: path.write_bytes(b"\x89PNG\0\0\0"), "It is no text file."),
        (lambda path: path.write_text("Dear diary,\n"), "It is no training log that is known."),
        (lambda path: path.write_text(""), "It is no training log that is known."),
    ],
)
def test_what_is_no_log_is_refused_in_a_sentence(made: Any, told: str, tmp_path: Path) -> None:
    made(tmp_path / "thing")
    with pytest.raises(PreftuneError) as caught:
        read_log(tmp_path / "thing")
    assert caught.value.what == told
    assert caught.value.where == str(tmp_path / "thing")
