"""The page of a pipeline: a row a stage with its figures and its page, and rewards against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preftune.errors import PreftuneError
from preftune.report.pipeline_page import write_pipeline_page
from preftune.report.soup_page import write_soup_page
from tests.report.conftest import evaluation, measure, write_json
from tests.report.pages import ATTACK, Page


def make_pipeline(folder: Path, *entries: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / "pipeline.json", {"format": 1, "pipeline": "p.yaml", "stages": list(entries)})
    return folder


def stage(number: int, name: str, status: str = "finished", **more: Any) -> dict[str, Any]:
    return {"number": number, "name": name, "method": name, "folder": f"{number:02d}-{name}", "status": status} | more


def add_run(folder: Path, entry: dict[str, Any], document: dict[str, Any] | None = None) -> None:
    run = folder / entry["folder"]
    run.mkdir()
    (run / "report.html").write_text("<html></html>")
    write_json(run / "eval.json", document or evaluation())


def report(folder: Path) -> Page:
    """The page; its links lead to the stages' own pages, which no other page may."""
    page = Page(write_pipeline_page(folder).read_text(encoding="utf-8"))
    page.faults = [fault for fault in page.faults if "/report.html'" not in fault]
    return page


def two_rewards(helpful: float, brief: float) -> dict[str, Any]:
    def side(x: float, y: float) -> dict[str, Any]:
        return {
            "rewards/helpful": measure(x, x - 0.1, x + 0.1, 64, title="Reward helpful"),
            "rewards/brief": measure(y, y - 0.1, y + 0.1, 64, title="Reward brief"),
        }

    return {"before": side(0.0, 0.0), "after": side(helpful, brief), "change": {}}


def test_each_stage_is_a_row_with_interval_verdict_and_link(tmp_path: Path) -> None:
    entries = [stage(1, "sft"), stage(2, "dpo"), stage(3, "ppo", "waiting")]
    folder = make_pipeline(tmp_path / "out", *entries)
    for entry in entries[:2]:
        add_run(folder, entry)
    page = report(folder)
    assert page.faults == []
    assert "sft, then dpo, then ppo: 2 of 3 stages finished" in page.text
    assert "ppo: not run yet." in page.text
    assert page.source.count('href="01-sft/report.html"') == 1 and 'href="03-ppo' not in page.source
    rows = page.source[page.source.index("<tbody>") : page.source.index("</tbody>")]
    assert rows.count("<tr>") == 3
    assert rows.count("(95% interval") == 0 and rows.count("95% interval 63.8% to 72.9%, n") == 2
    assert rows.count("The whole interval of the difference lies above zero.") == 2
    assert rows.count("not measured") == 2


def test_every_measure_of_a_stage_is_folded_below(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "out", stage(1, "dpo"))
    add_run(folder, stage(1, "dpo"))
    page = report(folder)
    assert "dpo: finished" in page.text
    assert "Perplexity of chosen answers" in page.text and "Answer length" in page.text


@pytest.mark.parametrize(
    ("status", "told"),
    [("stopped", "stopped: the same command goes on"), ("failed", "ended by an error"), ("running", "begun and not")],
)
def test_the_first_stage_that_is_not_finished_is_told(status: str, told: str, tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "out", stage(1, "sft", status, error="pairs.jsonl: no rows"), stage(2, "dpo"))
    page = report(folder)
    assert f"sft: {told}" in page.text
    assert ("pairs.jsonl: no rows" in page.text) is (status == "failed")


def test_two_rewards_are_drawn_against_each_other(tmp_path: Path) -> None:
    entries = [stage(1, "sft"), stage(2, "ppo"), stage(3, "grpo")]
    folder = make_pipeline(tmp_path / "out", *entries)
    add_run(folder, entries[0])
    add_run(folder, entries[1], two_rewards(1.0, -0.5))
    add_run(folder, entries[2], two_rewards(0.5, 0.5))
    page = report(folder)
    assert page.faults == []
    assert "Reward brief (up) against Reward helpful (across)" in page.text
    assert "On the front, from the best upward to the best across: grpo, ppo." in page.text
    assert "Scatter chart of 4 models by two measures; 2 on the front" in page.source
    front = Page(page.source[page.source.index('<section id="front">') : page.source.index("</main>")])
    assert "1. start of ppo 0" in front.text and "4. grpo 0.500" in front.text
    assert front.text.count("95% interval ") == 2 * 4


def test_one_reward_has_no_front(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "out", stage(1, "ppo"))
    add_run(folder, stage(1, "ppo"), {"before": {}, "after": {"rewards/helpful": measure(1, 0, 2)}})
    assert "front" not in report(folder).ids


def test_hostile_names_stay_text_and_lead_nowhere_else(tmp_path: Path) -> None:
    hostile = {"number": ATTACK, "name": ATTACK, "method": ATTACK, "folder": "../../etc", "status": ATTACK}
    failed = stage(2, "dpo", "failed", error=ATTACK)
    folder = make_pipeline(tmp_path / "out", hostile, failed)
    add_run(folder, failed, two_rewards(1, 1) | {"after": {ATTACK: measure(1, 0, 2, title=ATTACK, unit=ATTACK)}})
    page = report(folder)
    assert page.faults == []
    assert "<script" not in page.source and "etc/report.html" not in page.source


def test_damaged_measures_are_told_and_no_pipeline_is_refused(tmp_path: Path) -> None:
    folder = make_pipeline(tmp_path / "out", stage(1, "sft"))
    add_run(folder, stage(1, "sft"))
    (folder / "01-sft" / "eval.json").write_text("{")
    assert "01-sft/eval.json is damaged and was left out." in report(folder).text
    with pytest.raises(PreftuneError, match="holds no pipeline"):
        write_pipeline_page(tmp_path)


def test_the_page_of_a_sweep_shows_every_mixture_and_the_front(tmp_path: Path) -> None:
    soups = [
        {"weights": [1 - share, share], "folder": f"out/{i}", "measures": two_rewards(share, 1 - share)["after"]}
        for i, share in enumerate((0.0, 0.5, 1.0))
    ]
    written = write_soup_page({"models": ["runs/a", "runs/b"], "soups": soups, "made": "now"}, tmp_path / "report.html")
    page = Page(written.read_text(encoding="utf-8"))
    assert page.faults == []
    assert "3 models between a and b" in page.text
    assert "0.50 / 0.50" in page.text
    assert "3 on the front" in page.source
    bare = write_soup_page({"models": ["a", "b"], "soups": [{"weights": [0.5, 0.5]}]}, tmp_path / "bare.html")
    assert Page(bare.read_text(encoding="utf-8")).faults == []
