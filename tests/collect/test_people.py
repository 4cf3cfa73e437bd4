"""The whole of it: a page served, judged over HTTP, ended, and gone on with."""

import json
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preftune.audit.person_sample import audit_sample, blind
from preftune.collect.people import annotate, judge_sample
from preftune.collect.people_items import read_gold, read_items
from preftune.data.records import Comparison, Pair
from preftune.errors import PreftuneError


def pairs(n: int) -> list[Pair]:
    return [Pair(prompt=f"q {k}", chosen=f"good {k}", rejected=f"bad {k}", id=f"p{k}") for k in range(n)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ask(address: str, path: str, body: Any = None, key: str = "") -> Any:
    headers = {"Origin": address, "Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def judge(address: str, choose: Callable[[list[str]], str], most: int = 1000) -> None:
    """One person at the page, who reads both texts."""
    key = ask(address, "/api/join", {"name": "me"})["key"]
    work = ask(address, "/api/work", key=key)
    for _ in range(most):
        if work["item"] is None:
            break
        texts = [turns[0]["written"] for turns in work["item"]["answers"]]
        number = work["item"]["number"]
        vote = {"item": number, "choice": choose(texts), "seconds": 1.0, "request": f"request {number}"}
        work = ask(address, "/api/vote", vote, key)
    ask(address, "/api/finish", {}, key)


def judged(folder: Path, records: list[Any], choose: Callable[[list[str]], str], most: int = 1000) -> tuple[Any, ...]:
    """What judge_sample gives while somebody chooses so."""
    told: queue.Queue[str] = queue.Queue()

    def person() -> None:
        while not (found := re.search(r"http://[\d.:]+", told.get(timeout=120))):
            pass
        judge(found[0], choose, most)

    thread = threading.Thread(target=person)
    thread.start()
    try:
        return judge_sample(records, folder / "answers.jsonl", open_browser=False, tell=told.put)
    finally:
        thread.join(120)


def the_good_one(texts: list[str]) -> str:
    return "1" if texts[0].startswith("good") else "2"


def test_a_person_judges_pairs_without_seeing_labels(tmp_path: Path) -> None:
    flipped = [Pair(prompt="q x", chosen="bad x", rejected="good x", id="wrong")]
    answers = judged(tmp_path, [*pairs(5), *flipped], the_good_one)
    assert {answer.id: answer.choice for answer in answers} == dict.fromkeys([f"p{k}" for k in range(5)], "first") | {
        "wrong": "second"
    }


def test_the_blind_sample_of_the_label_audit_is_judged_and_gone_on_with(tmp_path: Path) -> None:
    sample = pairs(8)
    comparisons = [blind(pair, 3) for pair in sample]
    first = judged(tmp_path, comparisons, the_good_one, most=3)
    assert len(first) == 3
    left = next(pair for pair in sample if pair.id not in {answer.id for answer in first})
    number = left.id[1:]
    answers = judged(tmp_path, comparisons, lambda texts: "skip" if number in texts[0] else the_good_one(texts))
    found = audit_sample(sample, answers, seed=3)
    assert (found.judged, found.wrong, found.skipped, found.unknown) == (7, (), 1, 0)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_however_the_server_is_stopped_the_file_has_every_vote(tmp_path: Path, ending: signal.Signals) -> None:
    data = write_lines(tmp_path / "pairs.jsonl", [pair.as_row() for pair in pairs(4)])
    script = "import sys; from preftune.collect.people import annotate; "
    script += "annotate(sys.argv[1], sys.argv[2], port=0, annotators=1, tell=lambda text: print(text, flush=True))"
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "votes.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r"http://[\d.:]+", process.stdout.readline())
    assert found is not None
    judge(found[0], the_good_one, most=3)
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert len((tmp_path / "votes.jsonl").read_text().splitlines()) == 3


# --- what cannot be served ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"annotators": 0}, "annotators is 0"),
        ({"output": "votes.json"}, "JSON lines"),
        ({"rubric": "nowhere.md"}, "rubric cannot be read"),
        ({"data": []}, "no rows"),
        ({"gold": [{"prompt": "p", "response_1": "a", "response_2": "b"}]}, "No gold item has a known answer"),
        ({"gold_every": 1}, "gold_every is 1"),
        ({"host": "203.0.113.7"}, "cannot be served there"),
        ({"port": 70000}, "cannot be served there"),
    ],
)
def test_what_cannot_be_served_is_said_before(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    given = {"data": pairs(2), "output": "votes.jsonl", "port": 0} | changes
    data, output = given.pop("data"), tmp_path / given.pop("output")
    with pytest.raises(PreftuneError, match=what):
        annotate(data, output, tell=lambda _: None, **given)


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PreftuneError, match="--port"):
        annotate(pairs(1), tmp_path / "votes.jsonl", port=taken.getsockname()[1], tell=lambda _: None)


def test_a_missing_package_is_said_with_the_line_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(PreftuneError, match=r"pip install \"preftune\[annotate\]\""):
        annotate(pairs(1), tmp_path / "votes.jsonl", tell=lambda _: None)


# --- what is asked --------------------------------------------------------------------------------------


def test_no_place_in_the_file_gives_the_label_away() -> None:
    items = read_items(pairs(200), seed=0).items
    swapped = [item for item in items if item.label == "second"]
    assert 70 <= len(swapped) <= 130
    assert all(item.comparison.response_2 == f"good {item.id[1:]}" for item in swapped)
    assert all(item.comparison.meta == {"was_chosen": item.label} for item in items)
    assert items == read_items(pairs(200), seed=0).items
    assert items != read_items(pairs(200), seed=1).items


def test_votes_on_a_pair_keep_their_sides() -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "annotators": [{"id": "x", "choice": "first"}]}
    for name in map(str, range(20)):
        (item,) = read_items([row | {"id": name}], seed=0).items
        assert (item.comparison.response_1, item.label) == ("a", "first")


def test_repeated_and_shared_ids_are_told_and_lose_no_row() -> None:
    same, other = pairs(1)[0], Pair(prompt="other", chosen="a", rejected="b", id="p0")
    found = read_items([same, same, other, other.model_copy(update={"prompt": "third"})], seed=0)
    assert [item.id for item in found.items] == ["p0", "p0/2", "p0/3"]
    assert len(found.notes) == 2 and "1 of the rows repeat" in found.notes[0] and "2 of the rows" in found.notes[1]


def test_rows_that_cannot_be_shown_are_told(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", [pairs(1)[0].as_row(), {"prompt": "p", "chosen": "a"}])
    found = read_items(str(path), seed=0)
    assert len(found.items) == 1
    assert "1 of 2 rows cannot be shown (missing-field 1), first data.jsonl:2" in found.notes[0]


def test_gold_is_the_chosen_side_or_what_most_chose() -> None:
    (gold,) = read_gold(pairs(1)).items
    assert gold.is_gold and gold.id == "gold/p0"
    right = gold.comparison.response_1 if gold.label == "first" else gold.comparison.response_2
    assert right == "good 0"
    votes = [{"id": name, "choice": choice} for name, choice in (("x", "tie"), ("y", "tie"), ("z", "first"))]
    voted = Comparison(prompt="p", response_1="a", response_2="b", annotators=votes)  # type: ignore[arg-type]
    divided = voted.model_copy(update={"annotators": (voted.annotators[0], voted.annotators[2]), "id": "divided"})
    found = read_gold([voted, divided])
    assert [item.label for item in found.items] == ["tie"]
    assert "1 gold rows have no answer" in found.notes[-1]


def test_a_generator_of_comparisons_is_read_once_and_whole() -> None:
    rows = ({"id": str(k), "prompt": f"p {k}", "response_1": "a", "response_2": "b"} for k in range(3))
    assert [item.id for item in read_items(rows, seed=0).items] == ["0", "1", "2"]
