"""A model behind an endpoint as a writer: nothing is paid for twice, and what is no text is named."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from preftune.collect.calls import Budget, Limits
from preftune.collect.endpoint_model import EndpointModel
from preftune.collect.journal import open_journal
from preftune.collect.prices import Price
from preftune.collect.writer import Writer, opened
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampling

KEY = "sk-a-secret-key"
SAMPLING = Sampling(20, temperature=0.7)
QUICK = Limits(concurrency=4, retries=1, first_pause=0.01, timeout=20)


class Stub(ThreadingHTTPServer):
    """An endpoint of both protocols that does what the last turn says, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[dict[str, Any]] = []
        self.refuses: str | None = None
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append(body)
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        refuses = self.server.refuses
        if asked.startswith("status") or (refuses is not None and refuses in body):
            said = f"{refuses} is not supported with this model" if refuses else f"no, and the key is {KEY}"
            self._send(int(asked.split()[1]) if refuses is None else 400, {"error": {"message": said}})
        elif self.path.endswith("/messages"):
            reason = "refusal" if asked == "forbidden" else "max_tokens" if asked == "long" else "end_turn"
            content = [{"type": "text", "text": f"to {asked}"}]
            usage = {"input_tokens": 10, "output_tokens": 5}
            self._send(200, {"type": "message", "role": "assistant", "id": "1", "model": "m", "content": content}
                       | {"stop_reason": reason, "usage": usage})  # fmt: skip
        else:
            reason = {"forbidden": "content_filter", "long": "length"}.get(asked, "stop")
            choice: dict[str, Any] = {"index": 0, "finish_reason": reason, "text": f"to {asked}"}
            if "messages" in body:
                choice["message"] = {"role": "assistant", "content": "A" if body.get("logprobs") else f"to {asked}"}
            if body.get("logprobs") and asked != "no probabilities":
                top = [
                    {"token": token, "logprob": p} for token, p in (("A", -0.5), (" A", -3.0), ("B", -1.5), ("C", -4))
                ]
                choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
            usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
            self._send(200, {"id": "1", "object": "x", "model": "m", "choices": [choice], "usage": usage})

    def _send(self, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    pytest.importorskip("openai")
    pytest.importorskip("anthropic")
    pytest.importorskip("tenacity")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def openai(stub: Stub, **settings: Any) -> EndpointModel:
    return EndpointModel("some/model", base_url=f"{stub.url}/v1", **{"limits": QUICK} | settings)


def anthropic(stub: Stub, **settings: Any) -> EndpointModel:
    return EndpointModel("claude", "anthropic", stub.url, **{"limits": QUICK} | settings)


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}]


def test_texts_are_continued_and_chats_answered_in_their_order(stub: Stub) -> None:
    told: list[int] = []
    found = openai(stub).generate(["one", chat("two")], 3, SAMPLING, 1, told.append)
    assert [[one.text for one in several] for several in found] == [["to one"] * 3, ["to two"] * 3]
    assert sum(told) == 6 and all(one.finished for several in found for one in several)
    assert len({body["seed"] for body in stub.received}) == 6
    said = {"temperature": 0.7, "top_p": 1.0, "max_tokens": 20, "repetition_penalty": 1.0}
    assert all(body.items() >= said.items() for body in stub.received)


@pytest.mark.parametrize("kind", [openai, anthropic])
def test_nothing_is_asked_twice_with_a_journal(stub: Stub, tmp_path: Path, kind: Any) -> None:
    prompts = [chat(str(number)) for number in range(6)]
    with open_journal(tmp_path / "j") as journal:
        kind(stub, journal=journal).generate(prompts[:4], 2, SAMPLING, 1)
    assert len(stub.received) == 8
    with open_journal(tmp_path / "j") as journal:
        model = kind(stub, journal=journal, price=Price(1.0, 1.0))
        found = model.generate(prompts, 2, SAMPLING, 1)
    assert len(stub.received) == 12 and [one[0].text for one in found] == [f"to {n}" for n in range(6)]
    assert model.cost == pytest.approx(4 * 15e-6)
    with open_journal(tmp_path / "j") as journal:
        kind(stub, journal=journal).generate(prompts, 2, SAMPLING, 2)
    assert len(stub.received) == 24


@pytest.mark.parametrize("kind", [openai, anthropic])
def test_refusals_cuts_and_faults_are_told_apart(stub: Stub, kind: Any) -> None:
    asked = ["fine", "forbidden", "long", "status 400", "status 500"]
    fine, forbidden, long, *faults = (one for (one,) in kind(stub).generate([chat(a) for a in asked], 1, SAMPLING, 1))
    assert (fine.text, fine.finished) == ("to fine", True)
    assert forbidden.text is None and "refused" in str(forbidden.failure)
    assert (long.text, long.finished) == ("to long", False)
    for fault in faults:
        assert fault.text is None and KEY not in str(fault.failure) and "***" in str(fault.failure)


def test_what_is_not_supported_is_left_away_and_said(stub: Stub) -> None:
    stub.refuses, notes = "temperature", list[str]()
    model = openai(stub, note=notes.append, limits=Limits(concurrency=1, retries=0))
    assert [one[0].text for one in model.generate([chat("a"), chat("b")], 1, SAMPLING, 1)] == ["to a", "to b"]
    assert len(stub.received) == 3 and "takes no temperature" in notes[0] and len(notes) == 1


def test_another_name_for_the_length_is_tried(stub: Stub) -> None:
    stub.refuses = "max_tokens"
    openai(stub).generate([chat("a")], 1, SAMPLING, 1)
    assert stub.received[-1]["max_completion_tokens"] == 20


def test_an_endpoint_that_refuses_all_or_is_not_there_ends_the_job(stub: Stub) -> None:
    with pytest.raises(PreftuneError, match="does not accept the key") as caught:
        openai(stub).generate([chat("status 401")], 1, SAMPLING, 1)
    assert KEY not in str(caught.value)
    gone = EndpointModel("m", base_url="http://127.0.0.1:9/v1", limits=QUICK)
    with pytest.raises(PreftuneError, match="failed"):
        gone.generate([chat("a")], 1, SAMPLING, 1)


def test_a_last_few_that_fail_spoil_nothing_that_succeeded(stub: Stub) -> None:
    model = openai(stub)
    model.generate([chat("fine")], 1, SAMPLING, 1)
    (found,) = model.generate([chat("status 400")], 1, SAMPLING, 2)
    assert found[0].text is None and "failed" in str(found[0].failure)


def test_the_cap_ends_the_job_before_it_is_passed(stub: Stub, tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        model = openai(stub, journal=journal, price=Price(0.0, 1e6), budget=Budget(60.0), limits=Limits(concurrency=1))
        with pytest.raises(PreftuneError, match=r"cap of 60\.00 US dollars.*--max-cost"):
            model.generate([chat(str(n)) for n in range(20)], 1, SAMPLING, 1)
        assert model.cost is not None and 20 <= model.cost <= 60 and len(journal) == len(stub.received)


def test_choices_are_the_first_tokens_probabilities_where_they_are_told(stub: Stub) -> None:
    told, untold = openai(stub).choose([chat("which?"), chat("no probabilities")], ("A", "B"))
    a, b = 2.718281828**-0.5 + 2.718281828**-3.0, 2.718281828**-1.5
    assert told is not None and told.mass == pytest.approx(a + b)
    assert told.probabilities == (pytest.approx(a / (a + b)), pytest.approx(b / (a + b)))
    assert untold is not None and untold.probabilities == (1.0, 0.0) and untold.mass is None


def test_anthropic_is_given_the_system_apart_and_continues_no_text(stub: Stub) -> None:
    anthropic(stub).generate([chat("two")], 1, Sampling(20, temperature=1.5), 1)
    (body,) = stub.received
    assert body["system"] == "Be kind." and body["messages"] == [{"role": "user", "content": "two"}]
    assert body["temperature"] == 1.0 and body["max_tokens"] == 20
    with pytest.raises(PreftuneError, match=r"continues no text.*--chat"):
        anthropic(stub).generate(["two"], 1, SAMPLING, 1)


def test_a_model_is_where_its_name_says(tmp_path: Path) -> None:
    where = {
        "Qwen/Qwen3-0.6B": "local",
        str(tmp_path): "local",
        "claude-haiku-5-5": "anthropic",
        "gpt-6-luna": "openai",
        "qwen@http://localhost:8000/v1": "openai",
        "anthropic:some": "anthropic",
    }
    assert {name: Writer(name).named.provider for name in where} == where
    assert Writer("m", base_url="http://localhost:1/v1").named.provider == "openai"
    assert Writer("m", provider="anthropic").named.provider == "anthropic"


def test_a_cap_needs_a_price(stub: Stub) -> None:
    unknown = Writer("some/model", "openai", "http://far.example/v1", max_cost=1.0)
    with pytest.raises(PreftuneError, match="price of some/model is not known"), opened(unknown):
        pass
    with pytest.raises(PreftuneError, match="on this machine has no price"), opened(Writer("some/model", max_cost=1.0)):
        pass
