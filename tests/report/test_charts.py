"""Training curves as inline SVG."""

from __future__ import annotations

import pytest

from preftune.report.charts import CHARTS, _running_mean, training_charts
from tests.report.pages import Page

ROWS = [{"step": step, "loss": 0.7 - step / 1000, "rewards/accuracies": 0.5} for step in range(200)]


def test_only_charts_with_data_are_drawn() -> None:
    assert [drawing.title for drawing in training_charts(ROWS)] == ["Loss", "Reward accuracy"]
    assert training_charts([]) == []
    assert training_charts([{"step": 1, "loss": None, "unknown": 3}]) == []


def test_what_was_not_finite_is_marked_where_it_was() -> None:
    """null is what our log holds of such a figure."""
    (drawing,) = training_charts([{"step": step, "loss": None if step > 7 else 0.5} for step in range(1, 11)])
    assert "3 logged values were not finite (red ticks)." in drawing.note


def test_running_mean_is_of_what_lies_behind() -> None:
    values = [1e20, *(float(i % 7) for i in range(200))]
    expected = [sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1]) for i in range(len(values))]
    assert _running_mean(values, 10) == pytest.approx(expected)
    assert _running_mean([3.0, 5.0], 10) == [3.0, 4.0]


def test_ids_differ_between_charts() -> None:
    page = Page("".join(drawing.svg for drawing in training_charts(ROWS)))
    assert page.faults == []
    assert page.ids


def test_colours_come_from_the_page() -> None:
    svg = training_charts(ROWS)[0].svg
    assert "var(--blue)" in svg and "var(--muted)" in svg
    assert "#0a0a" not in svg and "<style" not in svg


def test_label_tells_the_curve_but_no_bare_share() -> None:
    loss, accuracy = training_charts(ROWS)
    assert 'aria-label="Loss, line chart over steps 0 to 199: training from 0.700 to 0.501"' in loss.svg
    assert 'aria-label="Reward accuracy, line chart over steps 0 to 199: training"' in accuracy.svg
    assert [entry.last for entry in (*loss.legend, *accuracy.legend)] == ["0.501", ""]


def test_a_spike_survives_thinning() -> None:
    rows = [{"step": step, "grad_norm": 500.0 if step == 7777 else 1.0} for step in range(20_000)]
    (drawing,) = training_charts(rows)
    assert "Logarithmic axis." in drawing.note
    assert len(drawing.svg) < 60_000


def test_chart_names_are_unique() -> None:
    names = [chart.name for chart in CHARTS]
    assert len(set(names)) == len(names)
