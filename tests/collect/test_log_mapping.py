"""The mapping file: what it understands, and how it says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from preftune.collect.log_events import UnknownEvent, events_of_row
from preftune.collect.log_mapping import LogMapping, built_in_mappings, example_mapping, load_mapping
from preftune.data.row_parts import RowProblem
from preftune.errors import PreftuneError

EVENTS = {
    "fields": {"prompt": "q", "answer": "a", "event": "type", "user": "u"},
    "events": {"liked": "thumbs_up", "opened": "ignore"},
}


def write(folder: Path, text: str) -> Path:
    file = folder / "mapping.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", built_in_mappings())
def test_built_in_mappings_can_be_loaded_and_printed(name: str, tmp_path: Path) -> None:
    mapping = load_mapping(name)
    assert mapping.name == name
    assert load_mapping(write(tmp_path, example_mapping(name))).fields == mapping.fields


def test_example_states_the_assumptions_that_hold_without_it() -> None:
    assert load_mapping("events").assumptions == load_mapping("clicks").assumptions


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fields:\n  prompt: q\n  answr: a\nevents: {}", ["mapping.yaml:3", "answr", "Did you mean answer?"]),
        ("fields:\n  prompt: q\n  answer: a\n  event: e\nevents:\n  like: thumb_up\n", [":6", "thumb_up", "thumbs_up"]),
        ("fields:\n  prompt: q\n  event: e\nevents: {like: thumbs_up}\n", ["no answer"]),
        ("fields:\n  answer: a\n  event: e\nevents: {like: thumbs_up}\n", ["no prompt", "constant"]),
        ("fields: {prompt: q, answer: a}\n", ["nothing says what happened".capitalize()]),
        ("fields: {prompt: q, answer: a, event: e}\n", ["Events is missing"]),
        ("fields: {prompt: q, answer: a, event: e}\nevents: {read: dwell}\n", ["no seconds"]),
        ("events: {read: dwell}\n", ["no fields"]),
        ("fields: {prompt: 5, answer: a}\nsignals: {click: c}\n", [":1", "fields.prompt", "column's name"]),
        ("fields: {prompt: q, answer: a}\nsignals: {klick: c}\n", [":2", "klick", "Did you mean click?"]),
        ("fields: {prompt: q, answer: a}\nsignals: {click: c}\nassumptions:\n  cap: 2\n", [":4", "cap"]),
        ("fields: {prompt: q, answer: a}\nsignals: {click: c}\nassumptions: {clik: 0.7}\n", ["Did you mean click?"]),
        ("fields: {prompt: q, answer: a, position: '#'}\nsignals: {click: c}\n", ["no `each`"]),
        ("", ["empty", "--example-mapping"]),
        ("name: x\nfields: {prompt: q, answer: a}\nsignals: {click: c}\n", [":1", "no key name"]),
    ],
)
def test_mapping_that_is_wrong_names_line_and_mend(text: str, said: list[str], tmp_path: Path) -> None:
    with pytest.raises(PreftuneError) as error:
        load_mapping(write(tmp_path, text))
    assert all(part in str(error.value) for part in said), str(error.value)


def test_unknown_mapping_names_the_built_in_ones() -> None:
    with pytest.raises(PreftuneError, match="Did you mean events"):
        load_mapping("event")


def test_paths_lead_into_lists_objects_and_json_text() -> None:
    fields = {"prompt": "request.messages[0].content", "answer": "out.choices[-1].text", "user": "who.id"}
    mapping = LogMapping.model_validate({"fields": fields, "signals": {"click": "hit"}})
    row = {
        "request": {"messages": [{"content": "q"}]},
        "out": '{"choices": [{"text": "no"}, {"text": "yes"}]}',
        "who.id": 7,
        "hit": 1,
    }
    shown, click = events_of_row(row, mapping)
    assert (shown.kind, click.kind) == ("impression", "click")
    assert (click.prompt, click.answer, click.user) == ("q", "yes", "7")


def test_column_values_are_signals_and_others_are_unknown() -> None:
    signals = {"thumbs_up": {"column": "stars", "is": [4, 5]}, "thumbs_down": {"column": "stars", "is": [1, 2]}}
    mapping = LogMapping.model_validate({"fields": {"prompt": "q", "answer": "a"}, "signals": signals})
    row = {"q": "q", "a": "a"}
    assert [event.kind for event in events_of_row(row | {"stars": 5.0}, mapping)] == ["impression", "thumbs_up"]
    for nothing in (None, "", float("nan")):
        assert [event.kind for event in events_of_row(row | {"stars": nothing}, mapping)] == ["impression"]
    with pytest.raises(UnknownEvent, match="Name 3 under"):
        events_of_row(row | {"stars": "3"}, mapping)


def test_items_of_a_list_are_events_with_their_places() -> None:
    row = {"prompt": "q", "results": [{"text": "a", "clicked": 0}, {"text": "b", "clicked": 1, "seconds": 3}]}
    events = events_of_row(row, load_mapping("ranked"))
    assert [(event.kind, event.answer, event.position) for event in events] == [
        ("impression", "a", 1),
        ("impression", "b", 2),
        ("click", "b", 2),
        ("dwell", "b", 2),
    ]


def test_text_and_messages_become_one_kind() -> None:
    mapping = LogMapping.model_validate(EVENTS)
    row = {"q": [{"role": "user", "content": "hi"}], "a": "hello", "type": "liked"}
    (event,) = events_of_row(row, mapping)
    assert event.answer is not None and not isinstance(event.answer, str) and event.answer[0].role == "assistant"


@pytest.mark.parametrize(
    "time", ["2026-01-01T00:00:00Z", "2026-01-01 00:00:00+00:00", 1767225600, 1767225600000, "1767225600"]
)
def test_times_of_all_spellings_are_one(time: object) -> None:
    mapping = LogMapping.model_validate(EVENTS | {"fields": EVENTS["fields"] | {"time": "t"}})
    (event,) = events_of_row({"q": "q", "a": "a", "type": "liked", "t": time}, mapping)
    assert event.time == 1767225600


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q": None}, "missing-field"),
        ({"a": " "}, "empty-answer"),
        ({"a": {"no": 1}}, "wrong-type"),
        ({"type": None}, "null-field"),
        ({"type": "liekd"}, "unknown-event"),
        ({"u": ["x"]}, "wrong-type"),
        ({"a": None}, "missing-field"),
        ({"p": 0}, "bad-value"),
        ({"p": "nan"}, "bad-value"),
        ({"k": 1.5}, "bad-value"),
        ({"t": "yesterday"}, "bad-value"),
    ],
)
def test_bad_value_leaves_out_its_row_with_a_reason(change: dict[str, object], reason: str) -> None:
    fields = EVENTS["fields"] | {"propensity": "p", "position": "k", "time": "t"}
    mapping = LogMapping.model_validate(EVENTS | {"fields": fields})
    with pytest.raises(RowProblem) as problem:
        events_of_row({"q": "q", "a": "a", "type": "liked", "u": "u"} | change, mapping)
    assert problem.value.reason == reason and problem.value.mend


def test_ignored_event_gives_nothing() -> None:
    assert events_of_row({"q": "q", "a": "a", "type": "opened"}, LogMapping.model_validate(EVENTS)) == []
