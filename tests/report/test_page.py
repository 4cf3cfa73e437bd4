"""The page of a run: what it tells, what it says is missing, and that foreign text stays text."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from preftune.errors import PreftuneError
from preftune.report.page import write_report
from preftune.report.run_files import FILES
from tests.report.conftest import HASH, evaluation, measure, write_json, write_lines
from tests.report.pages import ATTACK, Page


def report(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_whole_run_gives_a_sound_page(run: Path) -> None:
    page = report(run)
    assert page.faults == []
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(later - sooner <= 1 for sooner, later in itertools.pairwise(page.headings))
    assert page.source.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert page.source.count('<svg role="img" aria-label="') == page.source.count("<svg") == 12
    assert "Nothing: every file of the run was there and whole." in page.text


def test_nothing_is_loaded_and_scripts_are_forbidden(run: Path) -> None:
    source = write_report(run).read_text(encoding="utf-8")
    assert "http" not in source.replace("http-equiv", "")
    assert "@import" not in source and "url(//" not in source
    assert "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'" in source


def test_sections_come_in_their_order(run: Path) -> None:
    ids = [name for name in report(run).ids if not name[-1].isdigit() and len(name) < 12]
    expected = "measures answers training data findings reference settings model missing"
    assert [name for name in ids if name in expected.split()] == expected.split()


def test_headline_and_table_show_figures_with_interval_and_n(run: Path) -> None:
    text = report(run).text
    assert "Preference accuracy rose from 51.7% to 68.5%" in text
    assert "68.5% (95% interval 63.8% to 72.9%, n = 400)" in text
    assert "+16.8 points (95% interval +10.6 to +22.9, n = 400)" in text
    assert "The whole interval of the difference lies above zero." in text
    assert "No clear change: Answer length, Perplexity of chosen answers." in text


def test_answers_stand_side_by_side(run: Path) -> None:
    page = report(run)
    assert page.source.count('<article class="exchange">') == 5
    assert "The first 4 of 5 held-out prompts" in page.text
    assert "cut off at the length limit" in page.text


def test_audit_findings_and_settings_are_told(run: Path) -> None:
    text = report(run).text
    for told in (
        "3,958 of 4,000 rows were used.",
        "57.3% 95% interval 55.8% to 58.8%, n = 3,958",
        "KL still rises at the end",
        "Lengths in tokens, train",
        "3,562 3 9 24.5 88 301",
        "its hash was the same at 6 checks",
        "Rows: 118, 642, 1204, 3377",
        "The first 8 of 42 rows left out",
        "per_device_train_batch_size 8",
        "transformers 5.23.0",
        "preftune dpo --model preftune/embedded",
    ):
        assert told in text


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named_and_the_rest_shown(run: Path, name: str) -> None:
    (run / name).unlink()
    page = report(run)
    assert page.faults == []
    assert f"{name} is not there" in page.text


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b'{"step": 1, "los', b"\xff\xfe\x00{[", b"12\n", b'"text"\n'])
def test_damaged_file_is_named_and_the_rest_shown(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    if name != "metrics.jsonl":
        (run / "metrics.jsonl").write_text('{"step": 1}\n')  # charts are not what this is about
    page = report(run)
    assert page.faults == []
    assert f"{name} is damaged" in page.text or f"{name}: 1 line could not be read" in page.text


def test_torn_last_line_loses_only_itself(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 241, "loss": 0.')
    text = report(run).text
    assert "metrics.jsonl: 1 line could not be read and left out (first: line 241)." in text
    assert "240 steps" in text


def test_file_that_is_a_folder_is_named(run: Path) -> None:
    (run / "eval.json").unlink()
    (run / "eval.json").mkdir()
    assert "eval.json could not be opened" in report(run).text


def test_empty_or_absent_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="holds no run"):
        write_report(tmp_path)
    with pytest.raises(PreftuneError, match="no run folder"):
        write_report(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_each_file_alone_is_enough_for_a_page(run: Path, tmp_path: Path) -> None:
    for name in FILES:
        alone = tmp_path / name.replace(".", "-")
        alone.mkdir()
        (alone / name).write_bytes((run / name).read_bytes())
        assert report(alone).faults == []


def test_hostile_text_stays_text_everywhere(run: Path) -> None:
    poison_run(run)
    hostile = run.with_name("<script>alert('name')</script>".replace("/", "⁄") + "\"'>")
    run.rename(hostile)
    page = report(hostile)
    assert page.faults == []
    assert "<script" not in page.source and "<img" not in page.source
    assert page.source.count("&lt;script&gt;alert(1)") > 20
    assert "{{ 7*7 }}" in page.text


def poison_run(run: Path) -> None:
    """Puts the attack into every text and key of every file."""
    for name in ("audit.json", "eval.json", "findings.json"):
        write_json(run / name, poisoned(json.loads((run / name).read_text())))
    (run / "config.yaml").write_text(yaml.safe_dump(poisoned(yaml.safe_load((run / "config.yaml").read_text()))))
    for name in ("metrics.jsonl", "samples.jsonl", "rejected.jsonl"):
        rows = [json.loads(line) for line in (run / name).read_text().splitlines()][-20:]
        write_lines(run / name, [{**poisoned(row), "stage": row.get("stage", ATTACK)} for row in rows])


def poisoned(value: Any) -> Any:
    """The same shape; every text carries the attack, every mapping has a hostile key beside its own."""
    if isinstance(value, dict):
        kept = {key: poisoned(part) for key, part in value.items()}
        twin = {f"{ATTACK} {key}": poisoned(part) for key, part in itertools.islice(value.items(), 1)}
        return kept | twin
    if isinstance(value, list):
        return [poisoned(part) for part in value]
    return f"{value} {ATTACK}" if isinstance(value, str) else value


def test_unprintable_text_is_made_visible(run: Path) -> None:
    answer = "nul \0, escape \x1b[31m, lone \ud800, carriage \r\nreturn, \u202eturned\u2069"
    write_lines(run / "samples.jsonl", [{"step": 0, "stage": "before", "prompt": answer, "completion": answer}])
    source = write_report(run).read_text(encoding="utf-8")
    assert "nul ␀, escape ␛[31m, lone \\ud800, carriage \nreturn, \\u202eturned\\u2069" in source


def test_share_without_n_or_interval_is_never_printed(run: Path) -> None:
    bare = {"value": 0.8642, "title": "Win rate", "unit": "share"}
    write_json(run / "eval.json", {"before": {"win_rate": bare}, "after": {"win_rate": {**bare, "n": 40}}})
    audit = {"read": 10, "used": 10, "agreement_rate": 0.8642, "longer_wins": bare}
    (run / "metrics.jsonl").write_text('{"step": 1, "rewards/accuracies": 0.8642}\n')
    findings = [{"title": "Noisy", "evidence": {"flip_rate": 0.8642, "pairs": 12}}]
    write_json(run / "audit.json", audit)
    write_json(run / "findings.json", findings)
    page = report(run)
    assert "86.4" not in page.source and "0.864" not in page.source
    assert "Win rate cannot be judged: n or an interval is missing" in page.text
    assert page.source.count("not printed: n or interval is missing") >= 4


def test_row_lost_silently_is_told(run: Path) -> None:
    audit = json.loads((run / "audit.json").read_text())
    write_json(run / "audit.json", {**audit, "used": 3950})
    expected = "The counts do not add up: 4,000 rows read, 3,950 used, 42 left out."
    assert expected in report(run).text


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ({"at_start": HASH, "at_end": HASH, "checks": 6}, "its hash was the same at 6 checks"),
        ({"at_start": HASH, "at_end": HASH}, "its hash was the same at 2 checks"),
        ({"at_start": HASH, "at_end": HASH, "checks": 1}, "Not checked"),
        ({"at_start": HASH, "at_end": HASH[::-1], "checks": 6}, "The reference moved"),
        ({"at_start": HASH, "revision": "0123abcd"}, "Not checked"),
        (None, "Not checked"),
    ],
)
def test_reference_check_compares_all_hashes(run: Path, reference: Any, expected: str) -> None:
    (run / "config.yaml").write_text(yaml.safe_dump({"reference": reference}))
    for name in ("metrics.jsonl", "eval.json"):
        (run / name).unlink()
    assert expected in report(run).text


def test_reference_hash_of_the_evaluation_counts_too(run: Path) -> None:
    write_json(run / "eval.json", {**evaluation(), "reference": {"end": "0" * 32}})
    assert "The reference moved" in report(run).text


def test_loading_code_follows_the_kind_of_model(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    assert "AutoModelForCausalLM.from_pretrained(path)" in report(run).text
    (run / "model" / "adapter_config.json").write_text("{}")
    assert "from peft import AutoPeftModelForCausalLM" in report(run).text
    for file in (run / "model").iterdir():
        file.unlink()
    text = report(run).text
    assert "newest checkpoint is of step 240" in text and "model/ holds no model" in text


def test_non_finite_figures_are_counted_not_drawn(run: Path) -> None:
    rows = [{"step": step, "loss": float("nan") if step == 3 else 0.5, "nan_steps": 1} for step in range(1, 6)]
    write_lines(run / "metrics.jsonl", [*rows, {"step": 6, "loss": 10**400, "kl": "high"}])
    page = report(run)
    assert page.faults == []
    assert "2 logged values were not finite" in page.text
    assert "1 step left out because the loss or gradient was not finite." in page.text


def test_metric_that_was_never_finite_is_told(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [{"step": step, "loss": None, "kl": 0.1} for step in range(1, 6)])
    text = report(run).text
    assert "Logged, and at no step finite: loss." in text and "KL from the reference" in text


def test_deep_and_cyclic_settings_do_not_hang(run: Path) -> None:
    (run / "config.yaml").write_text("a: &a [*a]\nb: &b {c: *b}\nd: {e: {f: {g: {h: {i: 1}}}}}\n")
    (run / "metrics.jsonl").unlink()
    assert report(run).faults == []


def test_full_disk_keeps_the_old_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "metrics.jsonl").unlink()
    old = write_report(run).read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(PreftuneError, match=r"report\.html"):
        write_report(run)
    monkeypatch.undo()
    assert (run / "report.html").read_bytes() == old
    assert not list(run.glob(".report*"))


def test_measure_with_an_impossible_interval_gets_no_verdict(run: Path) -> None:
    upside_down = measure(0.6, 0.9, 0.1, unit="share")
    write_json(run / "eval.json", {"before": {"accuracy": upside_down}, "after": {"accuracy": upside_down}})
    assert "Accuracy cannot be judged" in report(run).text


def test_text_colours_have_contrast_in_light_and_dark() -> None:
    style = (Path(__file__).parents[2] / "preftune/report/templates/style.css").read_text()
    palettes = [dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in style.split(":root {")[1:3]]
    assert len(palettes) == 2
    for palette in palettes:
        for name in ("ink", "muted", "accent", "blue", "orange", "grey", "alarm", "caution"):
            for ground in ("paper", "raised"):
                assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio, 1 to 21."""
    darker, lighter = sorted(luminance(colour) for colour in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    parts = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
