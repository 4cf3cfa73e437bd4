"""Promises: what holds, what is broken, and what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftune.errors import PreftuneError
from preftune.evaluate.gate import check_gate, read_gate
from preftune.evaluate.measures import Measure

RATE = Measure(0.6, 0.52, 0.68, 150, "share", "Win rate", "")


def gate(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "gate.yaml"
    file.write_text(text)
    return file


def test_the_end_that_is_hard_to_pass_counts_unless_another_is_named(tmp_path: Path) -> None:
    promises = read_gate(
        gate(
            tmp_path,
            "win_rate: {at_least: 0.55}\nlc_win_rate: {at_least: 0.55, by: value}\n"
            "ties: {at_most: 0.65}\nreward: {at_least: 0.5, at_most: 0.7}\n",
        )
    )
    assert [one.by for one in promises] == ["low", "value", "high", "low", "high"]
    kept = check_gate(promises, dict.fromkeys(("win_rate", "lc_win_rate", "ties", "reward"), RATE), {})
    assert [one.is_kept for one in kept] == [False, True, False, True, True]
    assert kept[0].found == 0.52
    assert kept[0].promise.sentence() == "win_rate at least 0.55 by the low end of its interval"


def test_what_was_not_taken_breaks_its_promise_and_says_why(tmp_path: Path) -> None:
    promises = read_gate(
        gate(
            tmp_path,
            "lc_win_rate: {at_least: 0.1}\nretention_loss: {at_most: 9}\nwin_rate: {at_least: 0.1}\n"
            "kl: {at_most: 1}\nrewards/length: {at_least: -1}\n",
        )
    )
    endless = Measure(0.4, float("-inf"), float("inf"), 1, "nats", "KL", "")
    nothing = Measure(float("nan"), 0.0, 1.0, 0, "share", "Win rate", "")
    kept = check_gate(promises, {"kl": endless, "win_rate": nothing}, {"lc_win_rate": "Length decides."})
    assert not any(one.is_kept for one in kept)
    assert [one.why for one in kept] == [
        "Length decides.",
        "It was not measured: it needs --retention.",
        "It was not measured: it needs a start or --against, and --judge or --reward.",
        "It has no interval: n is 1.",
        "It was not measured: it needs --reward.",
    ]


def test_unknown_measures_are_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match=r"gate.yaml:2: There is no measure win_rat. Did you mean win_rate?"):
        read_gate(gate(tmp_path, "# first\nwin_rat: {at_least: 0.5}\n"))
    read_gate(gate(tmp_path, "change/retention_loss: {at_most: 0.1}\nwin_rate/few-shot: {at_least: 0.5}\n"))
    read_gate(gate(tmp_path, "lm_eval/arc_easy/acc: {at_least: 0.5}\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "promises nothing"),
        ("- a\n", "key: value"),
        ("win_rate: 0.5\n", "no mapping"),
        ("win_rate: {}\n", "no bound"),
        ("win_rate: {at_least: high}\n", "must be a number"),
        ("win_rate: {at_least: .nan}\n", "must be a number"),
        ("win_rate: {atleast: 0.5}\n", "atleast of win_rate is not known"),
        ("win_rate: {at_least: 0.5, by: end}\n", "low, value or high"),
        ("win_rate: {at_least: 0.5}\nwin_rate: {at_least: 0.6}\n", "twice"),
        ("win_rate: {at_least: 0.5\n", "not YAML"),
    ],
)
def test_mistakes_are_told_with_their_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(PreftuneError, match=words) as caught:
        read_gate(gate(tmp_path, text))
    assert "gate.yaml" in str(caught.value)


def test_a_gate_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="cannot be read"):
        read_gate(tmp_path / "none.yaml")


def test_every_documented_name_is_a_measure() -> None:
    from preftune.evaluate.measure_names import MEASURES, is_measure

    for name in MEASURES:
        plain = name.format(reward="length", opponent="start", task="arc", metric="acc", measure="kl")
        assert is_measure(plain), plain
    assert not is_measure("change/nothing") and not is_measure("kl/x")


def test_the_page_lists_every_measure() -> None:
    from preftune.evaluate.measure_names import MEASURES

    page = Path(__file__).parents[2].joinpath("docs/evaluation.md").read_text(encoding="utf-8")
    listed = page.partition("| name | is |")[2].partition("\n\n")[0]
    assert [line.split("`")[1] for line in listed.splitlines()[2:]] == list(MEASURES)


def test_a_name_beside_those_that_were_measured_is_told_them(tmp_path: Path) -> None:
    measures: dict[str, Measure] = dict.fromkeys(["win_rate/start", "win_rate/base", "lm_eval/arc/acc"], RATE)
    file = tmp_path / "gate.yaml"
    file.write_text("win_rate/bse: {at_least: 0}\nlm_eval/arc/acc_norm: {at_least: 0}\n")
    first, second = check_gate(read_gate(file), measures, {})
    assert "but win_rate/start, win_rate/base" in first.why
    assert "but lm_eval/arc/acc." in second.why
