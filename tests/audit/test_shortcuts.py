import json

import numpy as np
import pytest

from preftune.audit.shortcut_measures import shown_first
from preftune.audit.shortcuts import audit_shortcuts
from preftune.data.records import Message, Pair

WORDS = [f"word{number}" for number in range(50)]


def text(draw: np.random.Generator, words: int) -> str:
    return " ".join(draw.choice(WORDS, words)) + "."


def plain(rows: int, seed: int) -> list[Pair]:
    """Pairs whose sides were drawn alike."""
    draw = np.random.default_rng(seed)
    sides = [(text(draw, draw.integers(5, 30)), text(draw, draw.integers(5, 30))) for _ in range(rows)]
    return [Pair(prompt=f"q {row}", chosen=one, rejected=other, id=str(row)) for row, (one, other) in enumerate(sides)]


def changed(pair: Pair, **update) -> Pair:
    return pair.model_copy(update=update)


def finding(pairs: list[Pair], name: str, **options):
    return next((one for one in audit_shortcuts(pairs, **options).findings if one.id == name), None)


def test_sides_drawn_alike_have_hardly_ever_a_shortcut() -> None:
    found = [audit_shortcuts(plain(400, seed)).findings for seed in range(10)]
    assert sum(map(bool, found)) <= 2


def test_a_length_trainer_is_named_with_its_coefficient() -> None:
    draw = np.random.default_rng(0)
    pairs = []
    for pair in plain(600, 0):
        sides = sorted([pair.chosen, pair.rejected], key=len, reverse=draw.random() < 0.8)
        pairs.append(changed(pair, chosen=sides[0], rejected=sides[1]))
    audit = audit_shortcuts(pairs)
    assert audit.longer_wins.value == pytest.approx(0.8, abs=0.05)
    assert audit.length is not None and audit.length.z > 8 and audit.length.low > 0.5
    assert audit.rules[0].alone.value == pytest.approx(0.8, abs=0.05) and audit.rules[0].name == "length"
    assert audit.together is not None and audit.together.low > 0.7
    ids = {one.id: one.severity for one in audit.findings}
    assert ids["length-shortcut"] == "warning" and ids["form-predicts-label"] == "warning"


def test_the_slice_that_carries_the_length_is_named() -> None:
    pairs = []
    for pair in plain(600, 1):
        longer_first = sorted([pair.chosen, pair.rejected], key=len, reverse=True)
        is_judge = int(pair.id) % 3 == 0
        sides = longer_first if is_judge else [pair.chosen, pair.rejected]
        meta = {"task": "mail" if is_judge else "code"}
        pairs.append(changed(pair, chosen=sides[0], rejected=sides[1], source=f"{is_judge}", meta=meta))
    audit = audit_shortcuts(pairs, by=["task"])
    clear = {(one.field, one.value) for one in audit.slices if one.p < 0.05}
    assert ("source", "True") in clear and ("task", "mail") in clear
    assert not any(field == "turns" for field, _ in clear)
    assert "task = mail" in (finding(pairs, "length-by-slice", by=["task"]).evidence)


def test_a_form_that_wins_is_named_and_length_is_held_equal() -> None:
    pairs = [changed(pair, chosen="- " + pair.chosen) if int(pair.id) % 2 else pair for pair in plain(400, 2)]
    audit = audit_shortcuts(pairs)
    rule = next(rule for rule in audit.rules if rule.name == "list items")
    assert (rule.wins.value, rule.wins.n) == (1.0, 200) and rule.p < 1e-6
    assert rule.alone.value == pytest.approx(0.75, abs=0.01)
    assert audit.length_controlled is not None and abs(audit.length_controlled.z) < 3
    assert "list items" in finding(pairs, "format-shortcut").evidence


def test_an_opening_that_loses_is_named_with_its_rows() -> None:
    pairs = [
        changed(pair, rejected="As an AI " + pair.rejected) if int(pair.id) < 60 else pair for pair in plain(400, 3)
    ]
    found = finding(pairs, "opening-shortcut")
    assert "as an ai" in found.evidence and found.share.value == 0.0 and found.share.n == 60
    assert found.rows == tuple(str(row) for row in range(60)) and len(found.examples) <= 5


def test_the_place_shown_is_tested_where_it_is_known() -> None:
    draw = np.random.default_rng(0)
    pairs = [changed(pair, meta={"order": "chosen" if draw.random() < 0.65 else "rejected"}) for pair in plain(400, 4)]
    audit = audit_shortcuts(pairs)
    assert audit.first_shown_wins.n == 400 and audit.first_shown_p is not None and audit.first_shown_p < 1e-4
    assert finding(pairs, "position-shortcut").title.startswith("The answer shown first")
    unknown = audit_shortcuts(plain(400, 4))
    assert unknown.first_shown_wins.n == 0 and unknown.first_shown_p is None


@pytest.mark.parametrize(
    ("order", "side"),
    [
        ("chosen", "chosen"),
        ("rejected", "rejected"),
        ("rejected-first", "rejected"),
        (["second", "first"], "rejected"),
        ("first", "chosen"),
        (None, None),
        (3, None),
        ("left", None),
        ([], None),
    ],
)
def test_order_is_read_in_the_forms_it_is_written(order, side) -> None:
    assert shown_first(Pair(prompt="q", chosen="a", rejected="b", meta={"order": order})) == side


def test_few_pairs_are_not_called_healthy() -> None:
    audit = audit_shortcuts(plain(60, 5))
    assert audit.together is None and audit.length is None and audit.rules == ()
    assert [one.id for one in audit.findings] == ["shortcuts-unknown"]
    assert audit_shortcuts([]).findings[0].id == "shortcuts-unknown"


def test_copies_of_a_prompt_widen_the_interval() -> None:
    pairs = plain(150, 6)
    copied = [changed(pair, id=f"{pair.id}-{copy}") for pair in pairs for copy in range(4)]
    once, four = audit_shortcuts(pairs).longer_wins, audit_shortcuts(copied).longer_wins
    assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=0.005)


def test_turns_are_a_slice_and_the_audit_is_json() -> None:
    pairs = []
    for pair in plain(300, 7):
        turns = 1 + int(pair.id) % 2
        prompt = tuple(Message(role="user", content=f"{pair.prompt} {turn}") for turn in range(turns))
        answers = {side: (Message(role="assistant", content=getattr(pair, side)),) for side in ("chosen", "rejected")}
        pairs.append(changed(pair, prompt=prompt, **answers))
    audit = audit_shortcuts(pairs)
    assert {one.value for one in audit.slices if one.field == "turns"} == {"1", "2"}
    json.dumps(audit.as_dict(), allow_nan=False)
