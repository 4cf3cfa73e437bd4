"""Findings on the page of a run: the verdict, the stretches on the curves, differences and spreads of answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from preftune.report.page import write_report
from preftune.report.word_differences import word_differences
from tests.report.conftest import evaluation, make_run, write_json, write_lines
from tests.report.pages import ATTACK, Page


def finding(severity: str = "warning", **more: Any) -> dict[str, Any]:
    return {
        "id": "D08",
        "severity": severity,
        "certainty": "likely",
        "title": "KL explodes",
        "what": "The policy leaves its reference ever faster.",
        "why": "The price of the KL is too low.",
        "remedy": "Raise beta.",
        "first_step": 120,
        "last_step": 180,
        "evidence": "KL at the end 61.5 (bound 50)",
        "figures": [{"series": "kl", "what": "KL at the end", "value": 61.5, "bound": 50}],
        "rows": [],
        **more,
    }


def report(run: Path, *findings: dict[str, Any], **diagnosis: Any) -> Page:
    write_json(run / "findings.json", {"findings": list(findings), **diagnosis})
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.faults == []
    return page


def headline(page: Page) -> str:
    found = re.search(r"<h1[^>]*>(.*?)</h1>", page.source)
    assert found
    return found[1]


def test_error_comes_before_any_claim(run: Path) -> None:
    page = report(run, finding("warning", id="D04", title="Cut"), finding("error"))
    assert headline(page) == "Not to be trusted yet: KL explodes"
    assert "Measured all the same: preference accuracy rose from 51.7% to 68.5%." in page.text
    assert '<h1 class="is-error">' in page.source


def test_warning_stands_beside_the_claim(run: Path) -> None:
    assert headline(report(run, finding())).endswith("from 51.7% to 68.5%, with a warning: KL explodes")
    assert headline(report(run, finding(), finding(id="D04"))).endswith("to 68.5%, with 2 warnings")
    assert headline(report(run, finding("hint"))).endswith("from 51.7% to 68.5%")


def test_what_was_looked_for_and_what_cannot_be_told_is_said(run: Path) -> None:
    unclear = [{"id": "D01", "name": "reward hacking", "why": "The log has no gold/score."}]
    page = report(run, checked=["D08", "D09"], cannot_tell=unclear)
    assert "2 kinds of trouble were looked for in the curves; of 1 more nothing can be told." in page.text
    assert "reward hacking (gold/score) The log has none of these" in page.text


def test_finding_tells_its_steps_cause_and_certainty(run: Path) -> None:
    text = report(run, finding()).text
    assert "KL explodes D08, steps 120 to 180, likely" in text
    assert "Likely cause: The price of the KL is too low." in text
    assert "Evidence: KL at the end 61.5 (bound 50)" in text


def test_stretch_is_shaded_on_the_curves_it_was_seen_on_and_no_others(run: Path) -> None:
    plain = report(run).source
    page = report(run, finding("error"), finding(id="D09", first_step=240, last_step=240))
    shaded = [chart for chart in figures(page.source) if "opacity: 0.12" in chart]
    assert len(shaded) == 1 and "KL from the reference" in shaded[0]
    assert shaded[0].count("opacity: 0.12") == 2
    assert "var(--alarm)" in shaded[0] and "var(--caution)" in shaded[0]
    assert ">D08<" in shaded[0] and ">D09<" in shaded[0]
    assert "Shaded: D08, KL explodes, steps 120 to 180." in page.text
    assert "opacity: 0.12" not in plain


def test_foreign_findings_file_puts_nothing_into_a_drawing(run: Path) -> None:
    hostile = finding(id=ATTACK, title=ATTACK, why=ATTACK, certainty=ATTACK, figures=[{"series": "kl"}, 7, ATTACK])
    odd = [finding(first_step="x"), finding(last_step=None), finding(figures=ATTACK), {"severity": ATTACK}, 3]
    page = report(run, hostile, *odd, checked=ATTACK, cannot_tell=[{"name": ATTACK, "why": ATTACK}, ATTACK])
    assert not any(ATTACK[:20] in chart.partition("</svg>")[0].partition("<svg")[2] for chart in figures(page.source))


def test_words_that_differ_are_marked_on_both_sides(run: Path) -> None:
    rows = [
        {"step": step, "stage": stage, "prompt_id": 1, "prompt": "Why?", "completion": text}
        for step, stage, text in ((0, "before", "The cat <b>sat</b> down."), (9, "after", "The dog <b>sat</b> up."))
    ]
    write_lines(run / "samples.jsonl", rows)
    source = report(run).source
    assert "The <mark>cat</mark> &lt;b&gt;sat&lt;/b&gt; <mark>down</mark>." in source
    assert "The <mark>dog</mark> &lt;b&gt;sat&lt;/b&gt; <mark>up</mark>." in source


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("same words", "same words", ([], [])),
        ("one two three", "four five six", ([], [])),
        ("", "something", ([], [])),
        ("a b c d", "a b x d", (["c"], ["x"])),
        ("a b", "a  b", ([], [])),
        ("a b c", "a b c and more", ([], [" and more"])),
        ("so " * 400, "so " * 399 + "much", ([], [])),  # too many places where it could be the same
    ],
)
def test_differences_of_words(before: str, after: str, marked: tuple[list[str], list[str]]) -> None:
    sides = word_differences(before, after)
    assert tuple([text for text, differs in side if differs] for side in sides) == marked
    assert ("".join(text for text, _ in sides[0]), "".join(text for text, _ in sides[1])) == (before, after)


def test_spreads_of_both_moments_are_drawn(run: Path) -> None:
    spread = {"before": [float(i % 7) for i in range(40)], "after": [float(i % 5) + 4 for i in range(40)]}
    few = {"before": [1.0] * 3, "after": [2.0] * 3}
    write_json(run / "eval.json", evaluation() | {"spreads": {"reward": spread, "length": few, "gold": 7}})
    page = report(run)
    assert "Rewards before and after" in page.text and "Lengths before and after" not in page.text
    assert "n = 40 and 40, medians 3 and 6." in page.text


def test_lengths_come_from_samples_where_nothing_else_has_them(run: Path) -> None:
    rows = [
        {"step": 0, "stage": stage, "prompt_id": i, "prompt": "Why?", "completion": "So.", "tokens": i + more}
        for stage, more in (("before", 0), ("after", 9))
        for i in range(20)
    ]
    write_lines(run / "samples.jsonl", rows)
    assert "Lengths before and after" in report(run).text


def test_page_of_ten_thousand_steps_is_small(tmp_path: Path) -> None:
    run = make_run(tmp_path / "long", steps=10_000)
    write_json(run / "findings.json", {"findings": [finding(first_step=4000, last_step=9000)]})
    assert write_report(run).stat().st_size < 5e6


def figures(source: str) -> list[str]:
    return re.findall(r"<figure>.*?</figure>", source, flags=re.DOTALL)
