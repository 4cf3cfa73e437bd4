import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.data.read import Reading, fingerprint, read_demonstrations, read_labels, read_pairs, read_prompts
from preftune.data.records import Demonstration, Label, Pair
from preftune.errors import PreftuneError

GOOD = {"prompt": "q", "chosen": "yes", "rejected": "no"}


def test_every_row_is_either_a_record_or_reported(tmp_path: Path) -> None:
    circle: dict[str, Any] = {"prompt": "q", "chosen": "a"}
    circle["self"] = circle
    bad: list[Any] = [circle, {"chosen": "\ud800"}, {("a", "b"): 1}, 3.5, GOOD | {"chosen": "no"}]
    reading = read_pairs([GOOD, *bad])
    assert reading.read == 6 == len(reading.records) + len(reading.rejected)
    assert [row.where for row in reading.rejected] == [f"row {number}" for number in range(2, 7)]
    assert reading.reasons() == {"missing-field": 2, "not-utf-8": 1, "not-an-object": 1, "identical-sides": 1}
    reading.write_rejected(tmp_path / "rejected.jsonl")
    written = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["reason"] for row in written] == [row.reason for row in reading.rejected]
    assert json.loads(written[-1]["raw"]) == GOOD | {"chosen": "no"}
    with pytest.raises(PreftuneError, match="cannot be written"):
        reading.write_rejected(tmp_path / "nowhere" / "rejected.jsonl")


def test_a_long_row_is_shortened_in_the_report() -> None:
    reading = read_pairs([GOOD, {"prompt": "long " * 1000}])
    assert len(reading.rejected[0].raw) == 300 and reading.rejected[0].raw.endswith("…")


def test_the_limit_counts_rows_read() -> None:
    reading = read_pairs([GOOD, {}, GOOD, GOOD], limit=3)
    assert (reading.read, len(reading.records)) == (3, 2)
    with pytest.raises(PreftuneError, match="limit is 0"):
        read_pairs([GOOD], limit=0)


def test_pairs_are_taken_as_they_are() -> None:
    pair = Pair(**GOOD, confidence=0.5, source={"kind": "human"})
    assert read_pairs([pair]).records == (pair,)


@pytest.mark.parametrize("source", [5, GOOD, None, b"bytes"])
def test_what_is_no_source_is_refused(source: object) -> None:
    with pytest.raises(PreftuneError, match="cannot be read from"):
        read_pairs(source)


def test_the_fingerprint_follows_content_and_order() -> None:
    first, second = Pair(**GOOD), Pair(**GOOD | {"prompt": "other"})
    assert fingerprint([first, second]) == fingerprint([Pair(**GOOD, id="named", meta={"a": 1}), second])
    others = [[second, first], [first], [first, second, second], [Pair(**GOOD, margin=1.0), second]]
    assert len({fingerprint(pairs) for pairs in [[first, second], *others]}) == 5


def test_ten_thousand_mangled_rows_lose_nothing_and_stop_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines, untouched = [], []
    for number in range(10_000):
        row = good_row(number)
        if rng.random() < 0.3:
            untouched.append(row["id"])
            lines.append(json.dumps(row).encode())
        else:
            lines.append(rng.choice(MUTATIONS)(row, rng).replace(b"\n", b" "))
    path = tmp_path / "mangled.jsonl"
    path.write_bytes(b"\n".join(lines))
    reading = read_pairs(path)
    assert reading.read == sum(bool(line.removeprefix(b"\xef\xbb\xbf").strip()) for line in lines)
    surviving = {pair.id for pair in reading.records}
    assert set(untouched) <= surviving
    assert len(reading.reasons()) >= 8
    assert all(row.mend and row.where.startswith("mangled.jsonl:") for row in reading.rejected)
    reading.write_rejected(tmp_path / "rejected.jsonl")
    for pair in reading.records:
        json.dumps(pair.as_row(), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.parametrize("read", [read_pairs, read_labels, read_demonstrations, read_prompts])
def test_mangled_rows_of_all_kinds_are_records_or_reported(
    tmp_path: Path, read: Callable[[object], Reading[Any]]
) -> None:
    rng = random.Random(0)
    lines = []
    for number in range(2_000):
        row = rng.choice(KINDS[read])(number)
        is_whole = rng.random() < 0.3
        mutation = whole if is_whole else rng.choice(MUTATIONS)
        lines.append(mutation(row, rng).replace(b"\n", b" "))
    path = tmp_path / "mangled.jsonl"
    path.write_bytes(b"\n".join(lines))
    reading = read(path)
    assert reading.read == sum(bool(line.removeprefix(b"\xef\xbb\xbf").strip()) for line in lines)
    assert reading.used_rows is not None and reading.used_rows + len(reading.rejected) == reading.read
    assert len(reading.reasons()) >= 8 and len(reading.records) >= 500
    assert len({row.where for row in reading.rejected}) == len(reading.rejected)
    for record in reading.records:
        json.dumps(record.as_row(), ensure_ascii=False, allow_nan=False).encode()
    assert len(fingerprint(reading.records)) == 64


def test_the_fingerprint_of_pairs_is_the_one_of_earlier_runs_and_labels_count() -> None:
    pair = Pair(**GOOD, confidence=0.5)
    row = GOOD | {"confidence": 0.5, "margin": None}
    assert fingerprint([pair]) == hashlib.sha256(json.dumps(row, sort_keys=True).encode() + b"\n").hexdigest()
    answers = {"prompt": "q", "completion": "yes"}
    records = [Label(**answers, label=True), Label(**answers, label=False), Demonstration(**answers)]
    assert len({fingerprint([record]) for record in records}) == 3


def whole(row: dict[str, Any], rng: random.Random) -> bytes:
    return json.dumps(row).encode()


def good_label(number: int) -> dict[str, Any]:
    label = (True, False, 1, 0, -1, "true")[number % 6]
    if number % 2:
        return {"id": str(number), "prompt": f"q {number}", "completion": "yes", "label": label}
    turns = [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": "yes"}]
    return {"prompt": turns[:1], "completion": turns[1:], "label": label, "confidence": 0.9, "meta": {"a": 1}}


def good_demonstration(number: int) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"q {number}"}, {"role": "assistant", "content": "yes"}]
    rows = ({"messages": turns * 2}, {"text": f"text {number}"}, {"prompt": f"q {number}", "completion": "yes"})
    return {"id": str(number), "source": "log", **rows[number % 3]}


def good_prompt(number: int) -> dict[str, Any]:
    prompt = f"q {number}" if number % 2 else [{"role": "user", "content": f"q {number}"}]
    return {"id": str(number), "prompt": prompt, "answer": number, "meta": {"topic": "tests"}}


def good_group(number: int) -> dict[str, Any]:
    return {"prompt": f"q {number}", "completions": ["a", "b", "c"], "ranks": [1, 2, number % 4], "id": number}


def good_row(number: int) -> dict[str, Any]:
    if number % 2:
        return {"id": str(number), "prompt": f"q {number}", "chosen": "yes", "rejected": "no", "margin": 1.5}
    return {
        "id": str(number),
        "prompt": [{"role": "user", "content": f"q {number}"}],
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "annotators": [{"id": "ann", "choice": "first", "seconds": 3.5}],
        "confidence": 0.9,
        "meta": {"topic": "tests"},
    }


def junk(rng: random.Random, depth: int = 0) -> Any:
    leaves: list[Any] = [None, True, -1, 1e308, 10**30, "", " ", "text", "\ud83d", float("nan"), [], {}]
    if depth > 3 or rng.random() < 0.5:
        return rng.choice(leaves)
    inner = [junk(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ["role", "content", "id", "choice", "tool_calls", "x"]
    return inner if rng.random() < 0.5 else {rng.choice(keys): value for value in inner}


def delete_field(row: dict[str, Any], rng: random.Random) -> bytes:
    row.pop(rng.choice(list(row)))
    return json.dumps(row).encode()


def null_field(row: dict[str, Any], rng: random.Random) -> bytes:
    return json.dumps(row | {rng.choice(list(row)): None}).encode()


def junk_field(row: dict[str, Any], rng: random.Random) -> bytes:
    return json.dumps(row | {rng.choice([*row, "other"]): junk(rng)}).encode()


def junk_message(row: dict[str, Any], rng: random.Random) -> bytes:
    turns = [junk(rng), {"role": junk(rng), "content": junk(rng)}, {"role": "assistant", "content": "x"}]
    return json.dumps(row | {rng.choice(["prompt", "chosen", "rejected"]): rng.sample(turns, 2)}).encode()


def deep_field(row: dict[str, Any], rng: random.Random) -> bytes:
    depth = rng.choice([10, 70, 500, 100_000])
    return b'{"prompt": "q", "chosen": "a", "rejected": "b", "x": ' + b"[" * depth + b"]" * depth + b"}"


def truncate(row: dict[str, Any], rng: random.Random) -> bytes:
    line = json.dumps(row).encode()
    return line[: rng.randrange(len(line))]


def random_bytes(row: dict[str, Any], rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(200))


def spoil_bytes(row: dict[str, Any], rng: random.Random) -> bytes:
    line = bytearray(json.dumps(row).encode())
    for _ in range(rng.randrange(1, 4)):
        line[rng.randrange(len(line))] = rng.randrange(256)
    return bytes(line)


def other_document(row: dict[str, Any], rng: random.Random) -> bytes:
    return json.dumps(junk(rng)).encode()


MUTATIONS: list[Callable[[dict[str, Any], random.Random], bytes]] = [
    delete_field,
    null_field,
    junk_field,
    junk_message,
    truncate,
    random_bytes,
    spoil_bytes,
    other_document,
    deep_field,
]

KINDS: dict[Callable[..., Any], list[Callable[[int], dict[str, Any]]]] = {
    read_pairs: [good_row, good_group],
    read_labels: [good_label, good_row],
    read_demonstrations: [good_demonstration, good_label, good_row],
    read_prompts: [good_prompt, good_demonstration, good_row, good_group],
}
