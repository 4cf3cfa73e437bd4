"""The page of a reward model: how sure and how right, length alone, margins; and nothing of it for other runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preftune.evaluate.calibration import (
    accuracy_by_length,
    expected_calibration_error,
    fit_temperature,
    longer_wins,
    margin_histogram,
    reliability_table,
)
from preftune.evaluate.measures import share_of
from preftune.report.calibration_view import view_calibration
from preftune.report.page import write_report
from tests.report.conftest import write_json
from tests.report.pages import ATTACK, Page

N = 400


def tables(scale: float = 3.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run writes of a model ``scale`` times too sure: calibration.json and the measures after."""
    draw = np.random.default_rng(0)
    true = draw.normal(0.6, 1.0, N)
    margins = scale * np.abs(true) * np.where(draw.random(N) < 1 / (1 + np.exp(-np.abs(true))), 1, -1)
    lengths, prompts = draw.integers(-60, 80, N), list(range(N))
    temperature = fit_temperature(margins, prompts)
    buckets = accuracy_by_length(margins, lengths, prompts)
    calibration = {
        "reliability": reliability_table(margins, prompts),
        "by_length_difference": [{"from": b.shortest, "to": b.longest} | b.accuracy.as_dict() for b in buckets],
        "margins": margin_histogram(margins),
        "reliability_at_temperature": reliability_table(margins, prompts, temperature=temperature.value),
        "error_at_temperature": expected_calibration_error(margins, prompts, temperature=temperature.value).as_dict(),
    }
    after = {
        "accuracy": share_of(margins > 0, prompts, "Held-out accuracy", "").as_dict(),
        "calibration_error": expected_calibration_error(margins, prompts).as_dict(),
        "temperature": temperature.as_dict(),
        "longer_wins": longer_wins(lengths, prompts).as_dict(),
    }
    return calibration, after


@pytest.fixture
def reward_run(run: Path) -> Path:
    calibration, after = tables()
    write_json(run / "calibration.json", calibration)
    write_json(run / "eval.json", {"method": "reward", "before": {}, "after": after, "change": {}})
    (run / "config.yaml").write_text("method: reward\n")
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    return run


def report(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_calibration_has_a_section_with_its_charts(reward_run: Path) -> None:
    page = report(reward_run)
    assert page.faults == []
    assert "calibration" in page.ids and page.source.count('href="#calibration"') == 1
    section = page.source[page.source.index('<section id="calibration">') : page.source.index('<section id="answers">')]
    assert section.count('<svg role="img"') == 3
    assert "Reliability diagram of 400 pairs in 15 groups" in section
    for title in ("Sure and right", "Right by difference in length", "Margins"):
        assert f"<h3>{title}</h3>" in section


def test_errors_before_and_after_the_temperature_have_n_and_interval(reward_run: Path) -> None:
    _, after = tables()
    text = report(reward_run).text
    assert f"as scored {100 * after['calibration_error']['value']:.1f}% 95% interval" in text
    assert "divided by the temperature" in text
    assert "as scored, the model is too sure of itself" in text
    assert "It was fitted on these same pairs" in text


def test_a_model_that_is_not_sure_enough_is_told_so() -> None:
    calibration, after = tables(scale=0.4)
    view = view_calibration(calibration, {"after": after})
    assert view is not None
    assert "less sure than it could be" in view.sentences[0]


def test_length_alone_stands_beside_the_accuracy(reward_run: Path) -> None:
    text = report(reward_run).text
    assert "Taking the longer answer is right in" in text and "; the model is right in" in text
    view = view_calibration(*_pair())
    assert view is not None
    assert len(view.lengths) == 5 and sum(measure.n or 0 for _, measure in view.lengths) == N
    assert view.lengths[0][0].startswith("−60 to ") and view.lengths[0][0].endswith(" tokens")


def test_margins_ranked_wrong_are_drawn_in_another_colour(reward_run: Path) -> None:
    view = view_calibration(*_pair())
    assert view is not None
    svg = view.charts[2].svg
    assert "var(--blue)" in svg and "var(--orange)" in svg and "#0a0a" not in svg


def test_other_runs_have_no_such_section(run: Path) -> None:
    page = report(run)
    assert "calibration" not in page.ids and "Calibration" not in page.text


def test_with_few_pairs_no_error_is_claimed(reward_run: Path) -> None:
    calibration, _ = tables()
    kept = {name: calibration[name] for name in ("reliability", "by_length_difference", "margins")}
    write_json(reward_run / "calibration.json", kept)
    write_json(reward_run / "eval.json", {"after": {}})
    text = report(reward_run).text
    assert "No calibration error is told: with fewer than 100 held-out pairs it is mostly chance." in text


@pytest.mark.parametrize(
    "content",
    [
        {"reliability": 3, "margins": [1, None, {"from": 2, "to": 1, "n": 3}], "by_length_difference": {"a": 1}},
        {"reliability": [{"n": "x"}], "margins": [{}], "by_length_difference": [{"from": 1, "to": 2, "value": 0.5}]},
        {ATTACK: ATTACK, "error_at_temperature": {"value": 0.1, "title": ATTACK, "unit": ATTACK}},
        {"reliability": [{"n": 3, "confidence": 0.7, "accuracy": 1e400, "low": 0, "high": 1}]},
    ],
)
def test_any_content_gives_a_sound_page(content: Any, reward_run: Path) -> None:
    (reward_run / "calibration.json").write_text(json.dumps(content))
    assert report(reward_run).faults == []


def test_a_damaged_file_is_named(reward_run: Path) -> None:
    (reward_run / "calibration.json").write_bytes(b'{"reliab')
    assert "calibration.json is damaged" in report(reward_run).text


def test_a_reward_model_is_loaded_as_one(reward_run: Path) -> None:
    assert "AutoModelForSequenceClassification.from_pretrained(path)" in report(reward_run).text
    (reward_run / "model" / "adapter_config.json").write_text("{}")
    assert "AutoPeftModelForSequenceClassification.from_pretrained(path, num_labels=1)" in report(reward_run).text


def _pair() -> tuple[dict[str, Any], dict[str, Any]]:
    calibration, after = tables()
    return calibration, {"after": after}
