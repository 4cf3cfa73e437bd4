"""The page of a run in a real browser: 60 screens of hostile text, on a phone, in the dark and printed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preftune.report.page import write_report
from tests.collect.people_browser import CHROMIUM, Page, browser
from tests.report.conftest import make_run, write_json, write_lines
from tests.report.pages import ATTACK
from tests.report.test_findings_page import finding

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]

RUNS = "<script>document.title='RAN'</script><img src=x onerror=\"document.title='RAN'\"><svg onload=alert(1)>"
HOSTILE = (
    *(RUNS, ATTACK, "\u202eabc \u2066def\u2069 end", "W" * 4000, "nul\0 esc\x1b[31m bell\x07 \x9b2J"),
    *(
        "Z\u0351\u0300\u0302" * 300,
        "\u200b" * 500 + "zero",
        "https://" + "a/" * 900,
        "مرحبا بالعالم " * 60,
        "漢字" * 800,
    ),
    *("| a | b |\n" * 40, "</p></article></style></svg>]]><!-- <plaintext>", " " * 3000 + "x", "\n" * 200 + "x"),
)
# Elements that reach beyond the window, apart from tables that scroll by themselves.
OVERFLOWING = """[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll') && !one.closest('svg')
    && one.getBoundingClientRect().right > innerWidth + 1 && one.getBoundingClientRect().width > 0).length"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(hostile_run(folder / "run"))
    with browser(folder / "profile") as tab:
        tab.open(page.as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelector('footer')")
        tab.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
        yield tab


def hostile_run(folder: Path) -> Path:
    run = make_run(folder, steps=2000)
    stages = (("before", 0), ("during", 1000), ("after", 2000))
    rows: list[dict[str, Any]] = [
        {"step": step, "stage": stage, "prompt_id": number, "prompt": text, "completion": text + stage, "tokens": 9}
        for number, text in enumerate(HOSTILE)
        for stage, step in stages
    ]
    write_lines(run / "samples.jsonl", rows)
    write_lines(run / "rejected.jsonl", [{"row": text, "reason": text} for text in HOSTILE])
    found = [
        finding(("error", "warning", "hint")[number % 3], id=f"D{number:02}", title=text[:300], what=text, why=text)
        for number, text in enumerate(HOSTILE * 4)
    ]
    unclear = [{"name": text[:300], "why": f"{text[:300]} {number}"} for number, text in enumerate(HOSTILE)]
    write_json(run / "findings.json", {"findings": found, "checked": ["D01"], "cannot_tell": unclear})
    return run


def test_nothing_runs_and_nothing_is_loaded(tab: Page) -> None:
    assert tab.run("document.title").startswith("Not to be trusted yet")
    assert tab.run("document.scripts.length + document.images.length") == 0
    assert [url for url in tab.requested() if not url.startswith("file://")] == []
    assert len(tab.requested()) == 1 and tab.said() == []


@pytest.mark.parametrize(("width", "is_phone"), [(390, True), (320, True), (1000, False)])
def test_nothing_overflows(width: int, is_phone: bool, tab: Page) -> None:
    tab.look(width, 800, phone=is_phone)
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(OVERFLOWING) == 0
    assert tab.run("document.documentElement.scrollHeight") > 60 * 800 * (390 / width if width > 390 else 1)


def test_long_answers_scroll_by_themselves(tab: Page) -> None:
    tab.look(390, 800, phone=True)
    assert tab.run("Math.max(...[...document.querySelectorAll('.side .text')].map(one => one.clientHeight))") < 500


def test_dark_mode_has_a_dark_ground_and_light_text(tab: Page) -> None:
    brightness = "getComputedStyle(document.body).{}.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)"
    for dark in (True, False):
        tab.look(1000, 800, dark=dark)
        ground, text = tab.run(brightness.format("backgroundColor")), tab.run(brightness.format("color"))
        assert (ground < 150 < 500 < text) if dark else (text < 150 < 500 < ground)


def test_page_prints(tab: Page) -> None:
    printed = base64.b64decode(tab.send("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") > 10


def test_turned_writing_is_shown_and_not_done(tab: Page) -> None:
    assert tab.run("document.body.textContent.includes('\\\\u202eabc \\\\u2066def\\\\u2069 end')")
    assert not tab.run("/[\\u202a-\\u202e\\u2066-\\u2069]/.test(document.body.textContent)")
