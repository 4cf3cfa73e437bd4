"""Verdicts: only what is one is one, both orders must agree, and what is none never wins and is never a tie."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preftune.collect.calls import Answer, Reply
from preftune.collect.judge_candidates import Candidates
from preftune.collect.judge_prompts import Question
from preftune.collect.verdicts import Verdict, consistent_pairs, read_reply, rule, soft_verdict, verdicts_of

NUMBER = "f" * 32


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ('{"reason": "so", "verdict": "A"}', ((0,), (1,))),
        ('{"verdict": "B"}', ((1,), (0,))),
        ('{"verdict": "tie", "reason": ""}', ((0, 1),)),
        ('```json\n{"verdict": "A"}\n```', ((0,), (1,))),
        ('<think>B? {"verdict": "B"}</think>\n{"verdict": "A"}', ((0,), (1,))),
        (" A\n", ((0,), (1,))),
        ("tie", ((0, 1),)),
    ],
)
def test_a_verdict_is_read(text: str, order: Any) -> None:
    found = read_reply(Reply(text), 2)
    assert found.fault is None and found.order == order


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A is better",
        "The verdict is A.",
        "[[A]]",
        "AB",
        "a",
        "Tie",
        '{"verdict": "a"}',
        '{"verdict": "C"}',
        '{"verdict": "A|B"}',
        '{"verdict": ["A"]}',
        '{"verdict": null}',
        '{"verdict": true}',
        '{"verdict": "A", "verdict": "B"}',
        '{"verdict": "A"} {"verdict": "B"}',
        '{"verdict": "A", "winner": "A"}',
        '{"Verdict": "A"}',
        '{"reason": ["x"], "verdict": "A"}',
        '{"reason": "so"}',
        '["A"]',
        '{"verdict": "A"',
        'x <think></think>{"verdict": "A"}',
        "{" * 5000,
        "[" * 50_000,
        '{"reason": "' + "x" * 200_000 + '", "verdict": "A"}',
    ],
    ids=lambda text: text[:24],
)
def test_a_malformed_reply_is_invalid(text: str) -> None:
    found = read_reply(Reply(text), 2)
    assert found.fault == "invalid" and found.order == () and found.reason


@given(st.text())
def test_no_reply_breaks_the_reading(text: str) -> None:
    found = read_reply(Reply(text), 2)
    assert found.fault is not None or found.order in (((0,), (1,)), ((1,), (0,)), ((0, 1),))


def test_a_refusal_is_a_kind_of_its_own() -> None:
    assert read_reply(Reply("", "refusal", refused=True), 2).fault == "refusal"
    assert read_reply(Reply('{"verdict": "A"}', "content_filter", refused=True), 2).fault == "refusal"
    assert read_reply(Reply("I'm sorry, but I can't compare these."), 2).fault == "refusal"
    assert read_reply(Reply("I cannot assist with that."), 2).fault == "refusal"
    assert read_reply(Reply("I think A is better."), 2).fault == "invalid"


def test_a_reply_that_was_cut_says_so() -> None:
    assert "cut off" in read_reply(Reply('{"reason": "it beg', "length"), 2).reason


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"ranking": ["B", "A", "C"]}', None),
        ('{"ranking": ["B", "A"]}', "invalid"),
        ('{"ranking": ["B", "A", "A"]}', "invalid"),
        ('{"ranking": ["B", "A", "C", "D"]}', "invalid"),
        ('{"ranking": "BAC"}', "invalid"),
        ('{"verdict": "A"}', "invalid"),
        ("A", "invalid"),
    ],
)
def test_a_ranking_has_every_answer_once(text: str, fault: str | None) -> None:
    assert read_reply(Reply(text), 3).fault == fault


def test_probabilities_of_tokens_make_a_soft_verdict() -> None:
    assert soft_verdict({"A": math.log(0.6), "B": math.log(0.2), "t": math.log(0.2)}) == pytest.approx(0.7)
    assert soft_verdict({"A": math.log(0.4), "B": math.log(0.1), "The": math.log(0.5)}) == pytest.approx(0.8)
    assert soft_verdict({"A": math.log(0.1), "The": math.log(0.9)}) is None
    assert soft_verdict({'A"': math.log(0.5), ' "B"'.strip(): math.log(0.1), "tie": math.log(0.2)}) == pytest.approx(
        6 / 7
    )
    whole = {'{"verdict": "A"}': math.log(0.3), '{"verdict": "B"}': math.log(0.1), '{"verdict": "tie"}': -40.0}
    assert soft_verdict(whole) == pytest.approx(0.75)


def test_verdicts_are_about_the_answers_and_not_their_places() -> None:
    candidates = Candidates("row", "p", ("one", "other!"))
    reply = Reply('{"verdict": "A"}', choices={"A": math.log(0.9), "B": math.log(0.1)})
    (plain,) = verdicts_of(Question(candidates, (0, 1)), "m", Answer("k", reply), NUMBER)
    (turned,) = verdicts_of(Question(candidates, (1, 0)), "m", Answer("k", reply), NUMBER)
    assert (plain.kind, plain.is_swapped, plain.lengths) == ("first", False, (3, 6))
    assert (turned.kind, turned.is_swapped, turned.lengths) == ("second", True, (3, 6))
    assert plain.first_probability == pytest.approx(0.9) and turned.first_probability == pytest.approx(0.1)


def test_a_ranking_gives_a_verdict_for_every_two() -> None:
    candidates = Candidates("row", "p", ("x", "y", "z"))
    reply = Reply('{"ranking": ["B", "A", "C"]}')
    found = verdicts_of(Question(candidates, (2, 1, 0)), "m", Answer("k", reply), NUMBER)  # shown z y x: y, z, x
    assert {one.comparison: (one.kind, one.is_swapped) for one in found} == {
        "row/1-2": ("second", True),
        "row/1-3": ("second", True),
        "row/2-3": ("first", True),
    }


def test_a_reply_with_the_envelopes_number_is_a_sign() -> None:
    question = Question(Candidates("row", "p", ("x", "y")), (0, 1))
    (told,) = verdicts_of(question, "m", Answer("k", Reply(f'{{"reason": "{NUMBER}", "verdict": "A"}}')), NUMBER)
    assert told.signs == ("canary",) and told.kind == "first"
    (failed,) = verdicts_of(question, "m", Answer("k", None, "500"), NUMBER)
    assert (failed.kind, failed.reason, failed.signs) == ("failed", "500", ())


# --- rulings --------------------------------------------------------------------------------------------


def made(*kinds: str, judge: str = "m", escaped: bool = False, probability: float | None = None) -> list[Verdict]:
    """Verdicts of one judge, sample after sample, each in both orders."""
    return [
        Verdict("row", judge, kind, bool(n % 2), n // 2, probability, escaped)  # pyright: ignore[reportArgumentType]
        for n, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "outcome"),
    [
        (("first", "first"), "first"),
        (("second", "second"), "second"),
        (("tie", "tie"), "tie"),
        (("first", "second"), "tie"),
        (("first", "tie"), "tie"),
        (("first", "invalid"), "invalid"),
        (("invalid", "first"), "invalid"),
        (("invalid", "invalid"), "invalid"),
        (("first", "refusal"), "refusal"),
        (("refusal", "refusal"), "refusal"),
        (("first", "failed"), "failed"),
        (("first",), "failed"),
    ],
)
def test_only_what_both_orders_say_counts(kinds: tuple[str, ...], outcome: str) -> None:
    assert rule(made(*kinds)).outcome == outcome


def test_most_samples_decide_and_faults_do_not_vote() -> None:
    assert rule(made("first", "first", "first", "first", "second", "second")).outcome == "first"
    assert rule(made("first", "first", "second", "second")).outcome == "tie"
    assert rule(made("first", "first", "invalid", "first", "refusal", "refusal")).outcome == "first"
    assert rule(made("first", "first", "first", "second", "second", "first")).outcome == "tie"


def test_most_judges_decide() -> None:
    two = made("first", "first") + made("second", "second", judge="n")
    assert rule(two).outcome == "tie"
    three = rule(two + made("first", "first", judge="o"))
    assert three.outcome == "first" and three.judges == {"m": "first", "n": "second", "o": "first"}
    assert rule(made("first", "first") + made("invalid", "tie", judge="n")).outcome == "first"


def test_confidence_is_laplaces_rule_over_the_readings() -> None:
    assert rule(made("first", "first")).confidence == pytest.approx(3 / 4)
    assert rule(made(*["first"] * 6)).confidence == pytest.approx(7 / 8)
    assert rule(made("first", "first", probability=0.9)).confidence == pytest.approx(2.8 / 4)
    assert rule(made("second", "second", probability=0.1)).confidence == pytest.approx(2.8 / 4)
    assert rule(made("tie", "tie")).confidence is None
    three = made("first", "first") + made("second", "second", judge="n") + made("first", "first", judge="o")
    assert rule(three).confidence == pytest.approx(5 / 8)


@given(st.lists(st.sampled_from(["first", "second", "tie", "invalid", "refusal", "failed"]), min_size=2, max_size=8))
def test_a_fault_never_makes_a_winner(kinds: list[str]) -> None:
    """Whatever wins, wins without the faults as well, and some sample says so in both orders."""
    ruling = rule(made(*kinds))
    if ruling.outcome in ("first", "second"):
        samples = [kinds[n : n + 2] for n in range(0, len(kinds), 2)]
        assert [ruling.outcome] * 2 in samples
        assert ruling.confidence is not None and 0 < ruling.confidence < 1
    if ruling.outcome == "tie":
        assert any(kind in ("first", "second", "tie") for kind in kinds)


def test_a_win_that_goes_with_the_passages_is_no_win() -> None:
    plain = made("first", "first")
    signs = {"first": ("own-verdict",)}
    assert rule(plain + made("second", "second", escaped=True), signs).outcome == "injection"
    assert rule(plain + made("tie", "tie", escaped=True), signs).outcome == "injection"
    assert rule(plain + made("first", "first", escaped=True), signs).outcome == "first"
    kept = rule(plain + made("invalid", "failed", escaped=True), signs)
    assert kept.outcome == "first" and kept.signs == ("own-verdict",)
    assert rule(plain + made("second", "second", escaped=True), {"second": ("own-verdict",)}).outcome == "first"


def test_pairs_of_orders_leave_out_what_is_no_verdict() -> None:
    found = consistent_pairs([*made("first", "second", "first", "invalid"), *made("tie", "tie", escaped=True)])
    assert [(one.is_swapped, other.is_swapped) for one, other in found] == [(False, True)]
