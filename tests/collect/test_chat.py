"""One question to an endpoint: what it cannot do is left away, faults are told apart, the key is in no message."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from preftune.collect.calls import CallFault, Limits, Reply, Request, run_calls
from preftune.collect.chat import Abilities, Chat, ChatModel, Probed, open_chat
from preftune.collect.chat_local import LocalChat
from preftune.collect.generation import Choice, Text
from preftune.collect.judge_candidates import candidates_of_row
from preftune.collect.judge_prompts import BUILT_IN, Question, rendered
from preftune.errors import PreftuneError
from tests.collect.judge_server import KEY, JudgeServer, running


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    pytest.importorskip("openai")
    with running(JudgeServer()) as one:
        yield one


def chat_of(fault: str = "fine", reason: bool = True) -> Chat:
    row = {"prompt": f"{fault} question", "response_1": "worth 1", "response_2": "worth 2"}
    return rendered(Question(candidates_of_row(row), (0, 1)), BUILT_IN, "f" * 32, reason=reason, max_tokens=50)


def ask(server: JudgeServer, chat: Chat, provider: Any = "openai", abilities: Abilities | None = None) -> Reply:
    async def once() -> Reply:
        model = open_chat(provider, "some/model", server.url.removesuffix("/v1" if provider == "anthropic" else ""))
        try:
            return await model.ask(chat, abilities or model.abilities)
        finally:
            await model.close()

    return asyncio.run(once())


def probed(server: JudgeServer, chats: list[Chat], provider: Any = "openai") -> tuple[Abilities | None, list[Any]]:
    """What a model was found able to do, and the answers."""

    async def all_of_them() -> tuple[Abilities | None, list[Any]]:
        model = open_chat(provider, "m", server.url.removesuffix("/v1" if provider == "anthropic" else ""))
        probe = Probed(model)
        replies = [await probe.call(Request(str(n), chat)) for n, chat in enumerate(chats)]
        await model.close()
        return probe.abilities, replies

    return asyncio.run(all_of_them())


def test_a_question_is_sent_with_its_schema_and_read_with_its_tokens(server: JudgeServer) -> None:
    server.log_probs = True
    reply = ask(server, chat_of())
    assert json.loads(reply.text)["verdict"] == "B" and reply.finish == "stop" and not reply.refused
    assert (reply.input_tokens, reply.output_tokens) == (100, 10)
    assert reply.choices is not None and reply.choices["B"] == pytest.approx(math.log(0.9), abs=1e-4)
    assert reply.choices["A"] == pytest.approx(math.log(0.1), abs=1e-4)
    (sent,) = server.bodies
    assert sent["response_format"]["json_schema"]["schema"]["required"] == ["reason", "verdict"]
    assert (sent["max_tokens"], sent["logprobs"], sent["top_logprobs"]) == (50, True, 20)
    assert "temperature" not in sent
    assert f"Bearer {KEY}" in server.headers[0]


def test_anthropics_protocol_is_spoken_too(server: JudgeServer) -> None:
    pytest.importorskip("anthropic")
    reply = ask(server, chat_of(), "anthropic")
    assert json.loads(reply.text)["verdict"] == "B" and reply.finish == "end_turn" and reply.choices is None
    (sent,) = server.bodies
    assert sent["output_config"]["format"]["schema"]["required"] == ["reason", "verdict"]
    assert sent["system"].startswith("You compare") and sent["messages"][0]["role"] == "user"
    assert ask(server, chat_of("refuses"), "anthropic").refused


@pytest.mark.parametrize(
    ("refuses", "found"),
    [
        (set(), Abilities(log_probs=False)),
        ({"logprobs"}, Abilities(log_probs=False)),
        ({"response_format"}, Abilities("tool", log_probs=False)),
        ({"response_format", "tools"}, Abilities("plain", log_probs=False)),
        ({"response_format", "tools", "logprobs", "temperature"}, Abilities("plain", False, temperature=False)),
        ({"max_tokens"}, Abilities(log_probs=False, max_tokens="max_completion_tokens")),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_what_an_endpoint_refuses_is_left_away_and_that_is_remembered(
    server: JudgeServer, refuses: set[str], found: Abilities
) -> None:
    server.refuses = refuses
    chat = Chat(**{**vars(chat_of()), "temperature": 0.0})
    abilities, replies = probed(server, [chat, chat, chat])
    assert abilities == found
    assert all(json.loads(reply.text)["verdict"] == "B" for reply in replies)
    first = len(server.bodies) - 2
    assert all(not refuses & body.keys() for body in server.bodies[first - 1 :])


def test_a_request_that_cannot_be_taken_at_all_says_nothing_of_the_endpoint(server: JudgeServer) -> None:
    server.status = 400
    with pytest.raises(CallFault, match="400") as caught:
        probed(server, [chat_of()])
    assert caught.value.lasting


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize(("status", "what"), [(401, "does not accept the key"), (403, "forbids"), (404, "not know")])
def test_what_every_call_would_meet_is_an_error_that_names_the_variable(
    server: JudgeServer, provider: str, status: int, what: str
) -> None:
    pytest.importorskip(provider)
    server.status = status
    with pytest.raises(PreftuneError, match=what) as caught:
        ask(server, chat_of(), provider)
    assert KEY not in str(caught.value) and caught.value.__cause__ is None and caught.value.__suppress_context__
    if status != 404:
        assert f"{provider.upper()}_API_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "retry_after", "lasting", "seconds"),
    [
        (429, "7", False, 7.0),
        (429, "soon", False, None),
        (429, "-3", False, None),
        (429, "inf", False, None),
        (503, "1.5", False, 1.5),
        (529, "2", False, 2.0),
        (500, "", False, None),
        (408, "", False, None),
        (400, "", True, None),
        (422, "", True, None),
    ],
)
def test_passing_faults_are_told_from_lasting_ones(
    server: JudgeServer, status: int, retry_after: str, lasting: bool, seconds: float | None
) -> None:
    server.status, server.retry_after = status, retry_after
    with pytest.raises(CallFault) as caught:
        ask(server, chat_of())
    assert (caught.value.lasting, caught.value.retry_after) == (lasting, seconds)
    assert str(status) in caught.value.text and KEY not in caught.value.text


def test_retry_after_may_be_a_date(server: JudgeServer) -> None:
    server.status, server.retry_after = 429, "Wed, 21 Oct 2015 07:28:00 GMT"
    with pytest.raises(CallFault) as caught:
        ask(server, chat_of())
    assert caught.value.retry_after == 0.0


@pytest.mark.parametrize("fault", ["half", "closed", "nothing", "html"])
def test_half_a_reply_is_a_passing_fault_and_comes_whole_the_next_time(server: JudgeServer, fault: str) -> None:
    with pytest.raises(CallFault) as caught:
        ask(server, chat_of(fault))
    assert not caught.value.lasting
    assert json.loads(ask(server, chat_of(fault)).text)["verdict"] == "B"


def test_a_refusal_and_an_empty_reply_are_replies(server: JudgeServer) -> None:
    assert ask(server, chat_of("refuses")).refused
    server.always = "nothing of the kind"
    assert ask(server, chat_of()).text == "nothing of the kind"


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_sign_of_life_is_asked_for_first(server: JudgeServer, provider: Any) -> None:
    pytest.importorskip(provider)

    async def reach(base: str) -> None:
        model = open_chat(provider, "m", base)
        await model.reach()
        await model.close()

    asyncio.run(reach(server.url))
    server.listing = 404  # not every endpoint lists its models
    asyncio.run(reach(server.url))
    server.listing = 401
    with pytest.raises(PreftuneError, match="does not accept the key"):
        asyncio.run(reach(server.url))
    with pytest.raises(PreftuneError, match="does not answer"):
        asyncio.run(reach("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_without_the_package_the_extra_is_named(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, provider, None)
    with pytest.raises(PreftuneError, match=r"preftune\[judge\]"):
        open_chat(provider, "m", "http://127.0.0.1:1")


def test_a_provider_without_a_key_is_an_error_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(PreftuneError, match=r"claude.*no ANTHROPIC_API_KEY"):
        open_chat("anthropic", "claude")


# --- a model in this process ----------------------------------------------------------------------------


class Writer:
    """A generator that writes what the prompt says; it keeps how many it was given at a time."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def generate(self, prompts: Any, n: int, sampling: Any, seed: int, progress: Any = None) -> list[list[Text]]:
        self.batches.append(len(prompts))
        return [
            [Text(None, failure="too long") if "oversized question" in str(p) else Text("A", True)] for p in prompts
        ]

    def choose(self, prompts: Any, options: Any, progress: Any = None) -> list[Choice | None]:
        self.batches.append(len(prompts))
        return [Choice((0.2, 0.7, 0.1), 0.5) for _ in prompts]


def local(chats: list[Chat]) -> tuple[list[Any], Writer]:
    writer = Writer()
    model: ChatModel = LocalChat("m", generator=writer)

    async def call(request: Request[Chat]) -> Reply:
        return await model.ask(request.body, model.abilities)

    requests = [Request(str(n), chat) for n, chat in enumerate(chats)]
    return run_calls(requests, call, Limits(concurrency=8, timeout=None)), writer


def test_a_local_model_answers_in_batches() -> None:
    answers, writer = local([chat_of() for _ in range(20)])
    assert [answer.reply.text for answer in answers] == ["A"] * 20
    assert sum(writer.batches) == 20 and len(writer.batches) <= 6


def test_a_local_model_chooses_by_probability_where_no_reason_is_asked() -> None:
    (answer,), _ = local([chat_of(reason=False)])
    assert answer.reply.text == '{"verdict": "B"}'
    assert math.exp(answer.reply.choices['{"verdict": "B"}']) == pytest.approx(0.35)


def test_a_prompt_that_a_local_model_cannot_take_is_its_own_failure() -> None:
    answers, _ = local([chat_of(), chat_of("oversized")])
    assert answers[0].reply is not None and answers[1].failure == "too long"
