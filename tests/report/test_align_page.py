"""The page of the whole way: the verdict first, then each turn with its answer, and nothing that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from preftune.errors import PreftuneError
from preftune.report.align_page import write_align_page
from tests.report.conftest import write_json
from tests.report.pages import ATTACK, Page

SHARE = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 90, "unit": "share", "title": "Right", "explanation": ""}


def turn(name: str, choice: str, **figures: Any) -> dict[str, Any]:
    return {"name": name, "title": f"{name}?", "choice": choice, "why": f"why {name}", "figures": figures}


def page_of(folder: Path, **document: Any) -> Page:
    write_json(folder / "align.json", {"format": 1, "options": {}, "decisions": [], "minutes": 3.2} | document)
    return Page(write_align_page(folder).read_text(encoding="utf-8"))


def test_the_verdict_stands_first_with_its_figures(tmp_path: Path) -> None:
    gate = [{"measure": "preference_accuracy", "at_least": 0.5, "by": "low", "kept": True, "why": "70%"}]
    measures = {"preference_accuracy": SHARE, "win_rate": SHARE | {"value": 0.6, "low": 0.45, "high": 0.75, "n": 40}}
    evaluation = {"measures": measures, "gate": gate}
    page = page_of(tmp_path, finished=True, chosen_name="DPO at beta 0.1", evaluation=evaluation)
    assert not page.faults
    assert "The model keeps what was promised Chosen is DPO at beta 0.1." in page.text
    assert "preferred in 70.0% (60.0% to 80.0%, n = 90)" in page.text
    assert "start's in 60.0% (45.0% to 75.0%, n = 40)" in page.text
    assert "at least 0.5, by the low end of its interval" in page.text


def test_each_question_is_answered_in_words(tmp_path: Path) -> None:
    turns = [
        turn("sft", "none"),
        turn("plateau", "DPO at beta 0.3", verdict="cannot tell", candidates=[{"name": ATTACK, "accuracy": SHARE}]),
        turn("means", "online-dpo"),
        turn("pays", "no"),
    ]
    page = page_of(tmp_path, decisions=turns)
    assert not page.faults
    assert "sft? No." in page.text and "plateau? It cannot be told; on with DPO at beta 0.3." in page.text
    assert "means? Yes, for online DPO." in page.text and "pays? No." in page.text


def test_a_way_that_was_stopped_says_so_and_nothing_of_a_model(tmp_path: Path) -> None:
    page = page_of(tmp_path, finished=False, chosen_name="DPO at beta 0.1", evaluation={"measures": {"x": SHARE}})
    assert "On the way" in page.text and "Chosen" not in page.text


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="holds no way"):
        write_align_page(tmp_path)
