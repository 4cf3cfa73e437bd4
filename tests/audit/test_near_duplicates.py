import random
from collections.abc import Iterator

import numpy as np
import pytest

from preftune.audit import sketches
from preftune.audit.near_duplicates import NearDuplicates, audit_near_duplicates, near_duplicates, near_pairs
from preftune.data.records import Pair
from preftune.errors import PreftuneError

VOCABULARY = [f"word{number}" for number in range(5000)]


def text_of(draw: random.Random, words: int = 100) -> str:
    return " ".join(draw.choices(VOCABULARY, k=words))


def changed(text: str, draw: random.Random, words: int) -> str:
    """The text with so many words, far from each other and from the ends, replaced by new ones."""
    parts = text.split()
    step = len(parts) // (words + 1)
    for number in range(words):
        parts[step * (number + 1)] = f"new{draw.randrange(10**9)}"
    return " ".join(parts)


def linked(found: NearDuplicates) -> set[tuple[int, int]]:
    return set(zip(found.left.tolist(), found.right.tolist(), strict=True))


def pair(name: str, prompt: str, chosen: str, rejected: str) -> Pair:
    return Pair(id=name, prompt=prompt, chosen=chosen, rejected=rejected)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_near_copies_are_found_and_no_others(seed: int) -> None:
    # Two words of 100 take 10 of 96 5-grams: Jaccard similarity 86 / 106 = 0.811. Three leave 81 / 111 = 0.73.
    draw = random.Random(seed)
    originals = [text_of(draw) for _ in range(600)]
    near = [changed(text, draw, 2) for text in originals]
    farther = [changed(text, draw, 3) for text in originals[:200]]
    found = near_duplicates(originals + near + farther, seed=seed)
    expected = {(i, i + 600) for i in range(600)}
    assert len(linked(found) & expected) > 0.95 * len(expected)
    assert found.verified.min() >= 0.8
    assert linked(found) <= expected
    assert np.abs(found.estimated - found.verified).mean() < 2 * sketches.standard_error(0.8)


def test_similarity_is_counted_exactly() -> None:
    draw = random.Random(0)
    text = text_of(draw)
    found = near_duplicates([text, changed(text, draw, 1), text.upper() + "!"])
    assert dict(zip(found.right.tolist(), found.verified.tolist(), strict=True)) == {1: 91 / 101, 2: 1.0}
    assert found.groups == ((0, 1, 2),)


def test_without_a_second_look_links_are_estimated() -> None:
    draw = random.Random(0)
    originals = [text_of(draw) for _ in range(100)]
    texts = [*originals, *(changed(text, draw, 1) for text in originals)]

    def once() -> Iterator[str]:
        yield from texts

    found = near_duplicates(once())
    assert np.isnan(found.verified).all() and found.estimated.min() >= 0.8
    assert len(linked(found) & {(i, i + 100) for i in range(100)}) > 90
    again = near_duplicates(once(), look_up=lambda numbers: [texts[number] for number in numbers])
    assert linked(again) == linked(near_duplicates(texts))


@pytest.mark.parametrize("changes", [0, 1], ids=["copies", "near copies"])
def test_many_copies_of_one_text_are_one_group_at_linear_cost(changes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    estimated = sketches.estimated

    def counted(slots, left, right):
        nonlocal compared
        compared += len(left)
        return estimated(slots, left, right)

    monkeypatch.setattr(sketches, "estimated", counted)
    draw = random.Random(0)
    text, n = text_of(draw, 60), 10_000 if changes == 0 else 3_000
    # All changes are at one place, so that any two of the texts differ in one word.
    texts = [text if not changes else text.replace(" ", f" new{number} ", 1) for number in range(n)]
    found = near_duplicates([*texts, "something else altogether"])
    assert found.groups == (tuple(range(n)),)
    assert compared <= n * sketches.BANDS * (sketches.NEIGHBOURS + 1)


def test_the_seed_alone_decides_the_draw() -> None:
    draw = random.Random(0)
    originals = [text_of(draw) for _ in range(100)]
    texts = [*originals, *(changed(text, draw, 2) for text in originals)]
    first, again, other = (near_duplicates(texts, seed=seed) for seed in (1, 1, 2))
    assert (first.estimated == again.estimated).all()
    assert not np.array_equal(first.estimated, other.estimated)


def test_texts_without_words_are_near_to_nothing() -> None:
    assert near_duplicates(["", "", "!!!", "???", "a"]).groups == ()
    assert near_duplicates([]).groups == ()


def test_pairs_are_near_where_each_part_is() -> None:
    draw = random.Random(0)
    prompt, one, two, three = (text_of(draw) for _ in range(4))
    found = near_pairs(
        [
            pair("original", prompt, one, two),
            pair("same prompt", prompt, three, two),
            pair("copy", changed(prompt, draw, 1), changed(one, draw, 1), changed(two, draw, 2)),
            pair("reverse", prompt, two, changed(one, draw, 1)),
        ]
    )
    crossed = dict(zip(zip(found.left.tolist(), found.right.tolist(), strict=True), found.is_crossed, strict=True))
    assert {link for link, is_crossed in crossed.items() if not is_crossed} == {(0, 2)}
    assert (0, 3) in {link for link, is_crossed in crossed.items() if is_crossed}
    assert (found.groups, found.opposed) == (((0, 2),), ((0, 2, 3),))


def test_short_sides_are_not_outvoted_by_a_long_prompt() -> None:
    prompt = text_of(random.Random(0), 500)
    found = near_pairs([pair("1", prompt, "Yes.", "No."), pair("2", prompt, "Perhaps so.", "Never.")])
    assert len(found.left) == 0


def test_the_audit_names_the_rows_and_shows_examples() -> None:
    draw = random.Random(0)
    rows = [pair(f"r{i}", text_of(draw, 50), text_of(draw, 50), text_of(draw, 50)) for i in range(40)]
    first, second = rows[0], rows[1]
    rows.append(pair("again", first.prompt + "!", first.chosen, first.rejected))
    rows.append(pair("nearly", changed(first.prompt, draw, 1), first.chosen, first.rejected))
    rows.append(pair("turned", second.prompt, second.rejected, changed(second.chosen, draw, 1)))
    audit = audit_near_duplicates(rows)
    assert (audit.n, audit.groups, audit.same_words, audit.opposed) == (43, 1, 1, 2)
    assert audit.repeats.value == pytest.approx(2 / 43)
    findings = {finding.id: finding for finding in audit.findings}
    assert findings["near-duplicates"].rows == ("again", "nearly")
    assert findings["near-duplicates"].severity == "warning"
    assert findings["near-contradictions"].rows == ("r1", "turned")
    examples = findings["near-duplicates"].examples
    assert [example["id"] for example in examples] == ["nearly", "again"]
    assert "like r0" in examples[0]["why"] and len(examples[0]["prompt"]) <= 400


def test_healthy_pairs_have_no_findings() -> None:
    draw = random.Random(0)
    audit = audit_near_duplicates([pair(f"r{i}", *(text_of(draw, 20) for _ in range(3))) for i in range(100)])
    assert (audit.findings, audit.groups, audit.repeats.value) == ((), 0, 0.0)


def test_pairs_read_once_are_refused_without_a_second_look() -> None:
    with pytest.raises(PreftuneError, match="look_up"):
        near_pairs(iter([pair("1", "a", "b", "c")]))


def test_an_impossible_threshold_is_refused() -> None:
    with pytest.raises(PreftuneError, match="threshold"):
        near_duplicates(["a"], threshold=1.5)
