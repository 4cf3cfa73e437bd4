"""The page's server: what it gives to whom, what it refuses, and the file it writes."""

import json
import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from preftune.collect.people_desk import Rules
from preftune.collect.people_guard import Keys, is_local, open_keys, refusal
from preftune.collect.people_items import Item
from preftune.data.read import read_comparisons, read_pairs
from preftune.data.records import Message
from preftune.errors import PreftuneError
from tests.collect.people_site import LOCAL, comparison, gold, visit

ONE = Rules(people_per_item=1)


def test_an_annotator_works_through_everything_and_the_file_has_it(tmp_path: Path) -> None:
    with visit(tmp_path, rules=ONE) as site:
        key = site.join("Ann")
        work = site.get("/api/work", key).json()
        assert (work["name"], work["answered"], work["percent"], work["alone"]) == ("Ann", 0, 0, False)
        while work["item"] is not None:
            answers = [turns[0]["written"] for turns in work["item"]["answers"]]
            good = next(str(place) for place, text in enumerate(answers, 1) if text.startswith("good"))
            work = site.vote(key, work["item"]["number"], good, reason="it is good", strength=3).json()
        assert (work["answered"], work["percent"]) == (6, 100)
    rows = [json.loads(line) for line in site.output.read_text().splitlines()]
    assert len(rows) == 6
    (vote,) = rows[0]["annotators"]
    assert vote.keys() == {"id", "choice", "seconds", "reason", "strength", "shown_first", "time"}
    assert {row["annotators"][0]["choice"] for row in rows} == {"first"}
    assert {row["annotators"][0]["shown_first"] for row in rows} == {"first", "second"}
    assert rows[0]["source"]["kind"] == "human"
    assert len(read_comparisons(site.output).records) == 6
    pairs = read_pairs(site.output).records
    assert all(str(pair.chosen).startswith("good") for pair in pairs)


def test_nothing_of_the_record_but_its_texts_reaches_the_page(tmp_path: Path) -> None:
    record = comparison(1, source="GPT-SECRET", meta={"models": "secret-a_secret-b", "was_chosen": "first"})
    with visit(tmp_path, [Item(record, "first"), gold(1)], Rules(people_per_item=1, gold_every=2)) as site:
        key = site.join("Ann")
        for _ in range(2):
            text = site.get("/api/work", key).text
            assert "secret" not in text.lower() and "gold" not in text and "label" not in text
            answered = site.vote(key, json.loads(text)["item"]["number"])
            assert answered.json()["label"] is None


def test_votes_that_a_record_came_with_stay_and_the_same_name_replaces(tmp_path: Path) -> None:
    earlier = [{"id": "old", "choice": "tie"}, {"id": "Ann", "choice": "both_bad"}]
    record = comparison(1, annotators=earlier, meta={"app": "x"}, source="import")
    with visit(tmp_path, [Item(record)], ONE) as site:
        ann, bob = site.join("Ann"), site.join("Bob")
        number = site.get("/api/work", bob).json()["item"]["number"]
        site.vote(bob, number, "skip", reason="too long")
        site.vote(ann, site.get("/api/work", ann).json()["item"]["number"], "tie")
    (row,) = [json.loads(line) for line in site.output.read_text().splitlines()]
    assert [(vote["id"], vote["choice"]) for vote in row["annotators"]] == [("old", "tie"), ("Ann", "tie")]
    assert row["meta"] == {"app": "x", "skipped": [{"id": "Bob", "reason": "too long"}]}
    assert row["source"]["answers"] == "import"


def test_messages_are_shown_turn_by_turn(tmp_path: Path) -> None:
    turns = tuple(Message(role=role, content=text) for role, text in (("system", "be brief"), ("user", "hi")))
    answer = (Message(role="assistant", content="**hello**"),)
    record = comparison(1).model_copy(update={"prompt": turns, "response_1": answer, "response_2": answer})
    with visit(tmp_path, [Item(record)], ONE) as site:
        item = site.get("/api/work", site.join("Ann")).json()["item"]
    assert [turn["role"] for turn in item["prompt"]] == ["system", "user"]
    assert item["answers"][0][0]["tree"] == [["p", {}, [["strong", {}, ["hello"]]]]]


def test_going_back_and_changing(tmp_path: Path) -> None:
    with visit(tmp_path, rules=ONE) as site:
        key = site.join("Ann")
        first = site.get("/api/work", key).json()["item"]["number"]
        after = site.vote(key, first, "2", strength=2, reason="why").json()["item"]["number"]
        back = site.get("/api/back", key).json()["item"]
        assert (back["number"], back["answer"]) == (first, {"choice": "2", "strength": 2, "reason": "why"})
        assert site.get(f"/api/back?before={first}", key).json()["item"] is None
        assert site.vote(key, first, "tie").json()["item"]["number"] == after


def test_many_annotators_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    items = [Item(comparison(k)) for k in range(16)]
    with visit(tmp_path, items, Rules(people_per_item=3)) as site:

        def annotate(name: str) -> int:
            key, answered = site.join(name), 0
            while (work := site.get("/api/work", key).json())["item"] is not None:
                for _ in range(2):  # a double click
                    assert site.vote(key, work["item"]["number"], "tie").status_code == 200
                answered += 1
            return answered

        with ThreadPoolExecutor(8) as pool:
            answered = list(pool.map(annotate, [f"person {k}" for k in range(8)]))
    assert sum(answered) == 48
    rows = [json.loads(line) for line in site.output.read_text().splitlines()]
    assert Counter(len(row["annotators"]) for row in rows) == {3: 16}
    assert all(len({vote["id"] for vote in row["annotators"]}) == 3 for row in rows)


# --- who may do what ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/work", "/api/back", "/api/vote", "/api/finish"])
@pytest.mark.parametrize("key", ["", "nonsense", "QW5u.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "join", "admin", "stranger"])
def test_without_a_personal_key_nothing_is_given(tmp_path: Path, path: str, key: str) -> None:
    with visit(tmp_path, local=False) as site:
        named = {"join": site.keys.join, "admin": site.keys.admin, "stranger": site.keys.personal("Never Joined")}
        key = named.get(key, key)
        body = {"item": 1, "choice": "tie", "seconds": 1, "request": "12345678"}
        answer = site.get(path, key) if path in ("/api/work", "/api/back") else site.post(path, body, key)
        assert answer.status_code == 401
        assert answer.json().keys() == {"error", "mend"}


def test_from_elsewhere_taking_part_needs_the_link(tmp_path: Path) -> None:
    with visit(tmp_path, local=False, address="http://lab.example:8765") as site:
        assert site.get("/").status_code == 200  # the empty page
        for key in ("", "wrong", site.keys.personal("Ann"), site.keys.admin):
            assert site.post("/api/join", {"name": "Ann", "key": key}).status_code == 403
        assert site.post("/api/join", {"name": "Ann", "key": site.keys.join}).status_code == 200
        taken = site.post("/api/join", {"name": "ann", "key": site.keys.join})
        assert taken.status_code == 409 and "personal link" in taken.json()["mend"]


def test_progress_is_for_who_serves(tmp_path: Path) -> None:
    with visit(tmp_path, local=False) as site:
        own = site.join("Ann")
        for key in ("", own, site.keys.join):
            assert site.get("/api/progress", key).status_code == 403
        figures = site.get("/api/progress", site.keys.admin).json()
        assert figures["keys"] == {"Ann": own}
    with visit(tmp_path) as site:
        assert site.get("/api/progress").json()["keys"] == {}


def test_one_person_alone_needs_no_name_and_can_finish(tmp_path: Path) -> None:
    with visit(tmp_path, rules=ONE, person="me") as site:
        assert site.get("/api/door").json() == {"alone": True, "local": True}
        key = site.post("/api/join", {}).json()["key"]
        assert site.get("/api/work", key).json()["alone"] is True
        assert site.post("/api/finish", {}, key).status_code == 200
        assert site.finished == [True]


@pytest.mark.parametrize(
    ("method", "headers", "is_refused"),
    [
        ("GET", {"host": "127.0.0.1:8765"}, False),
        ("GET", {"host": "localhost:9999"}, False),  # through a tunnel
        ("GET", {"host": "[::1]:8765"}, False),
        ("GET", {"host": "evil.example:8765"}, True),  # DNS rebinding
        ("GET", {"host": "127.0.0.1.evil.example"}, True),
        ("GET", {"host": "[::1"}, True),
        ("GET", {}, True),
        ("POST", {"host": "localhost:8765", "origin": "http://localhost:8765"}, False),
        ("POST", {"host": "localhost:8765", "origin": "http://localhost:3000"}, True),
        ("POST", {"host": "localhost:8765", "origin": "http://evil.example"}, True),
        ("POST", {"host": "localhost:8765", "origin": "null"}, True),
        ("POST", {"host": "localhost:8765"}, True),
        ("POST", {"host": "evil.example", "origin": "http://evil.example"}, True),
        ("DELETE", {"host": "localhost:8765", "origin": "http://evil.example"}, True),
    ],
)
def test_requests_of_other_sites_are_refused(method: str, headers: dict[str, str], is_refused: bool) -> None:
    written = {"content-type": "application/json; charset=utf-8"} | headers
    assert (refusal(method, written, local=True) is not None) is is_refused
    if method == "POST" and not is_refused:
        for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            assert refusal(method, written | {"content-type": other}, local=True) is not None


def test_refused_requests_change_nothing(tmp_path: Path) -> None:
    with visit(tmp_path) as site:
        for headers in ({"origin": "http://evil.example"}, {"host": "evil.example", "origin": "http://evil.example"}):
            answer = site.client.post("/api/join", json={"name": "Eve"}, headers=headers)
            assert answer.status_code == 403
        assert site.get("/api/progress").json()["annotators"] == []


@pytest.mark.parametrize("path", ["/", "/progress", "/page/page.css", "/api/work", "/nothing", "/api/door"])
def test_every_answer_carries_the_headers_that_keep_scripts_out(tmp_path: Path, path: str) -> None:
    with visit(tmp_path) as site:
        headers = site.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "require-trusted-types-for" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/page/../people.py", "/page/..%2fpeople.py", "/page/", "/people_page/page.js"])
def test_only_the_pages_own_files_are_served(tmp_path: Path, path: str) -> None:
    with visit(tmp_path) as site:
        assert site.get(path).status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "3"},
        {"choice": None},
        {"item": "1"},
        {"item": 2**70},
        {"seconds": -1},
        {"seconds": "NaN"},
        {"strength": 4},
        {"strength": True},
        {"request": "short"},
        {"reason": "x" * 4001},
        {"reason": "\ud800"},
        {"more": 1},
    ],
)
def test_a_vote_that_is_none_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with visit(tmp_path, rules=ONE) as site:
        key = site.join("Ann")
        number = site.get("/api/work", key).json()["item"]["number"]
        body = {"item": number, "choice": "tie", "seconds": 1.0, "request": "12345678"} | change
        headers = {"origin": LOCAL, "authorization": f"Bearer {key}", "content-type": "application/json"}
        answer = site.client.post("/api/vote", content=json.dumps(body), headers=headers)
        assert answer.status_code in (400, 409), answer.text
        assert site.get("/api/work", key).json()["answered"] == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 50_000, b'"' + b"x" * 70_000 + b'"'])
def test_a_body_that_is_none_is_refused(tmp_path: Path, body: bytes) -> None:
    with visit(tmp_path) as site:
        headers = {"origin": LOCAL, "content-type": "application/json"}
        assert site.client.post("/api/join", content=body, headers=headers).status_code in (400, 413)


def test_no_key_is_written_to_a_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with visit(tmp_path, local=False) as site:
        key = site.join("Ann")
        site.get("/api/work", key)
        site.get("/api/work", key + "x")
        site.vote(key, 17)
        keys = [key, site.keys.join, site.keys.admin]
    secret = (tmp_path / "votes.key").read_text().strip()
    assert not [each for each in (*keys, secret) if each in caplog.text]
    assert secret not in repr(site.keys)
    assert not any(each.encode() in (tmp_path / "votes.sqlite").read_bytes() for each in (*keys, secret))


def test_keys_outlive_a_restart_and_are_their_owners_only(tmp_path: Path) -> None:
    first, second = open_keys(tmp_path / "a.key"), open_keys(tmp_path / "a.key")
    assert (first.join, first.admin, first.personal("Ann")) == (second.join, second.admin, second.personal("Ann"))
    assert (tmp_path / "a.key").stat().st_mode & 0o077 == 0
    assert open_keys(tmp_path / "b.key").join != first.join
    (tmp_path / "a.key").write_text("cut off")
    with pytest.raises(PreftuneError, match="cut off"):
        open_keys(tmp_path / "a.key")


@pytest.mark.parametrize("name", ["Ann", "Zoë 山田", "a.b", "x" * 60])
def test_a_personal_key_names_its_owner_and_nobody_else(name: str) -> None:
    keys, others = Keys(b"one secret" * 4), Keys(b"another" * 6)
    key = keys.personal(name)
    assert keys.annotator_of(key) == name
    assert others.annotator_of(key) is None
    assert keys.annotator_of(key[:-1]) is None
    assert keys.annotator_of(keys.personal("Bob").partition(".")[0] + "." + key.partition(".")[2]) is None


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("lab", False)],
)
def test_which_hosts_are_this_machine_only(host: str, expected: bool) -> None:
    assert is_local(host) is expected


# --- progress -------------------------------------------------------------------------------------------


def test_progress_counts_gold_sides_and_agreement(tmp_path: Path) -> None:
    items = [Item(comparison(k)) for k in range(20)] + [gold(k) for k in range(2)]
    with visit(tmp_path, items, Rules(people_per_item=2)) as site:
        for name, is_right in (("Right", True), ("Left", False)):
            key = site.join(name)
            while (item := site.get("/api/work", key).json()["item"]) is not None:
                texts = [turns[0]["written"] for turns in item["answers"]]
                good = "1" if texts[0].startswith("good") else "2"
                site.vote(key, item["number"], good if is_right else "1")
        figures = site.get("/api/progress").json()
    assert (figures["items"], figures["complete"], figures["votes"], figures["wanted"]) == (20, 20, 40, 40)
    right, left = figures["annotators"]
    assert (right["name"], right["votes"], right["gold"]) == ("Right", 20, 2)
    assert right["right_on_gold"]["value"] == 1.0
    assert left["shown_first"]["value"] == 1.0
    assert right["shown_first"]["low"] < 0.5 < right["shown_first"]["high"]
    assert right["with_the_others"]["n"] == 20
    titles = [share["title"] for share in figures["agreement"]]
    assert "Krippendorff's alpha" in titles
    agreed = next(share for share in figures["agreement"] if share["title"] == "Two people agree")
    assert agreed["value"] == pytest.approx(right["with_the_others"]["value"])


def test_an_export_that_fails_stops_nobody_and_is_said(tmp_path: Path) -> None:
    with visit(tmp_path, rules=ONE) as site:
        site.output.unlink()
        site.output.mkdir()  # a folder where the file should go
        (site.output / "x").touch()
        key = site.join("Ann")
        answer = site.vote(key, site.get("/api/work", key).json()["item"]["number"])
        assert answer.status_code == 200
    with visit(tmp_path, rules=ONE) as site:
        figures = site.get("/api/progress").json()
        assert figures["votes"] == 1
        assert "votes.jsonl" in figures["trouble"]
