"""The page of the blind check in a real browser: choices, reloading, and texts that would like to run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from preftune.evaluate.human_check import FORMAT, HumanCheck, Item, result_of_choices
from preftune.report.human_page import write_human_page
from tests.collect.people_browser import CHROMIUM, browser
from tests.collect.people_browser import Page as Tab

HOSTILE = (
    "</script><script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "<!--<script>",
    "\u2028window.hacked=1\x00\ud800",
    "{{ 7*7 }} ${window.hacked=1} __proto__",
)


def made(count: int = 5) -> HumanCheck:
    items = [
        Item(f"q{n}", f"{HOSTILE[n % 5]} {n}", f"left {n} {HOSTILE[n % 5]}", f"right {HOSTILE[n % 5]}")
        for n in range(count)
    ]
    return HumanCheck("abc123", tuple(items), {one.id: "left" for one in items}, ("secret-model", "base-model"))


def test_page_tells_neither_names_nor_sides_and_loads_nothing(tmp_path: Path) -> None:
    source = write_human_page(made(), tmp_path / "check.html").read_text(encoding="utf-8")
    assert "secret-model" not in source and "base-model" not in source
    assert "http:" not in source and "https:" not in source
    material = source.partition('id="material">')[2].partition("</script>")[0]
    assert "<" not in material
    content = json.loads(material)
    assert content["items"][0]["left"] == f"left 0 {HOSTILE[0]}"
    assert "sides" not in content


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if CHROMIUM is None:
        pytest.skip("no browser")
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_choices_are_kept_over_a_reload_and_saved(tab: Tab, tmp_path: Path) -> None:
    check = made()
    address = write_human_page(check, tmp_path / "check.html").as_uri()
    tab.open(address)
    tab.wait("document.getElementById('standing').textContent.startsWith('0 of 5')")
    tab.press("1")
    tab.press("2")
    tab.run("document.querySelector('[data-choice=right]').click()")
    tab.open("about:blank")
    tab.wait("location.href == 'about:blank'")
    tab.open(address)
    tab.wait("document.getElementById('standing').textContent.startsWith('3 of 5')")
    assert tab.run("document.getElementById('left').textContent").startswith("left 3")
    tab.run("document.getElementById('back').click()")
    assert tab.run("document.querySelector('[aria-pressed=true]').dataset.choice") == "right"
    tab.press("3")
    tab.press("1")
    tab.press("1")
    tab.wait("!document.getElementById('done').hidden")
    saved = json.loads(tab.run("exported()"))
    assert (saved["format"], saved["check"]) == (FORMAT, check.id)
    assert saved["choices"] == {"q0": "left", "q1": "tie", "q2": "right", "q3": "left", "q4": "left"}
    assert result_of_choices(check.sides, saved["choices"], check.models).measures["human_win_rate"].value == 0.75
    assert tab.run("window.hacked ?? null") is None
    assert tab.run("document.querySelectorAll('main script, main img').length") == 0
    assert tab.said() == []
