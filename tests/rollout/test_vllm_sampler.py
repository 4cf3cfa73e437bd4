"""vLLM as a sampler, in both of its modes, against a stand-in with the same names (``fake_vllm``)."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter
from preftune.models.layout import Group
from preftune.models.logprobs import completion_log_probs
from preftune.models.settings import ModelConfig
from preftune.rollout import vllm_server
from preftune.rollout.protocol import Drawn, Sampling
from preftune.rollout.vllm_requests import requests_for
from preftune.rollout.vllm_sampler import VllmSampler, VllmSettings, open_vllm
from tests.models import tiny_models as tiny
from tests.rollout.fake_vllm import FakeServer, Worker, install, serving
from tests.tiny_world import make_model, make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
LONGEST = 64
Open = Callable[..., VllmSampler]


def _model(**changes: Any) -> Any:
    return make_model(len(TOKENIZER), spread=0.3, **changes)


def _sharp() -> Any:
    """A model that is sure of what it says, so that another's log-probs differ by far."""
    return make_model(len(TOKENIZER), spread=1.0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "PAUSE", 0.001)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_NO_USAGE_STATS", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return install(monkeypatch)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Serves a model of the right shape with weights of its own."""
    with serving(Worker(_model(seed=9), TOKENIZER, LONGEST)) as running:
        yield running


@pytest.fixture(params=["colocate", "server"])
def mode(request: pytest.FixtureRequest, llm: Any, server: FakeServer) -> VllmSettings:
    if request.param == "server":
        return VllmSettings(mode="server", server_base_url=server.url)
    return VllmSettings(max_model_length=LONGEST)


def _open(model: nn.Module, settings: VllmSettings, stop_ids: Sequence[int] = (2,), **others: Any) -> VllmSampler:
    return open_vllm(model, TOKENIZER, settings, stop_ids=stop_ids, **others)


def _adapted(model: nn.Module) -> Any:
    return add_adapter(model, ModelConfig(model="tiny", use_peft=True, lora_r=4)).eval()


def _own(model: nn.Module, prompts: Sequence[list[int]], drawn: list[list[Drawn]], temperature: float = 1.0) -> Any:
    groups = [Group(p, tuple(one.tokens for one in several)) for p, several in zip(prompts, drawn, strict=True)]
    with torch.no_grad():
        return completion_log_probs(model, groups, "logits", temperature).per_token.numpy()


def _given(drawn: list[list[Drawn]]) -> np.ndarray:
    return np.concatenate([one.log_probs for several in drawn for one in several])


def _tokens(drawn: list[list[Drawn]]) -> list[list[list[int]]]:
    return [[one.tokens for one in several] for several in drawn]


# --- both modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_log_probs_are_the_policys_at_the_temperature_drawn_at(mode: VllmSettings, temperature: float) -> None:
    model = _model()
    drawn = _open(model, mode).sample(PROMPTS, 3, Sampling(12, temperature), 5)
    assert [len(several) for several in drawn] == [3, 3, 3]
    np.testing.assert_allclose(_given(drawn), _own(model, PROMPTS, drawn, temperature), atol=1e-4)
    assert all(one.log_probs.dtype == np.float32 and len(one.tokens) <= 12 for several in drawn for one in several)


def test_draws_follow_from_seed_place_and_number(mode: VllmSettings) -> None:
    sampler = _open(_model(), mode)
    drawn = _tokens(sampler.sample(PROMPTS, 2, Sampling(8), 3))
    assert _tokens(sampler.sample(PROMPTS, 2, Sampling(8), 3)) == drawn
    assert [several[:2] for several in _tokens(sampler.sample(PROMPTS, 4, Sampling(8), 3))] == drawn
    assert _tokens(sampler.sample(PROMPTS[:2], 2, Sampling(8), 3)) == drawn[:2]
    assert _tokens(sampler.sample(PROMPTS, 2, Sampling(8), 4)) != drawn


def test_the_same_prompt_twice_is_drawn_for_twice(mode: VllmSettings) -> None:
    first, second = _tokens(_open(_model(), mode).sample([[5, 6], [5, 6]], 6, Sampling(8), 0))
    assert not any(one in second for one in first)


def test_the_callers_generators_go_on_as_if_nothing_was_drawn(mode: VllmSettings) -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    random.seed(4), np.random.seed(4), torch.manual_seed(4)
    expected = numbers()
    random.seed(4), np.random.seed(4), torch.manual_seed(4)
    sampler = _open(_model(), mode)
    sampler.sample(PROMPTS, 2, Sampling(4), 3)
    sampler.sync()
    assert numbers() == expected


def test_sync_hands_over_what_an_update_changed(mode: VllmSettings) -> None:
    model = _model()
    sampler = _open(model, mode)
    before = sampler.sample(PROMPTS, 2, Sampling(12), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    stale = sampler.sample(PROMPTS, 2, Sampling(12), 5)
    assert _tokens(stale) == _tokens(before)
    sampler.sync()
    drawn = sampler.sample(PROMPTS, 2, Sampling(12), 5)
    np.testing.assert_allclose(_given(drawn), _own(model, PROMPTS, drawn), atol=1e-4)


def test_adapters_go_merged_and_stay_apart_here(mode: VllmSettings) -> None:
    model = _adapted(_model())
    sampler = _open(model, mode)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sampler.sync()
    drawn = sampler.sample(PROMPTS, 2, Sampling(12), 5)
    np.testing.assert_allclose(_given(drawn), _own(model, PROMPTS, drawn), atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_that_did_not_move_are_not_sent_again(mode: VllmSettings, llm: Any, server: FakeServer) -> None:
    model = _adapted(_model())
    sampler = _open(model, mode)
    worker = llm.opened[0].worker if mode.mode == "colocate" else server.worker
    sampler.sync()
    assert len(worker.loads) == 1
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad).add_(1e-3)
    sampler.sync()
    assert len(worker.loads) == 2


def test_a_stop_token_ends_and_stays(mode: VllmSettings) -> None:
    model = _model()
    usual = _open(model, mode).sample(PROMPTS, 4, Sampling(10), 1)
    stop = usual[0][0].tokens[2]
    for several in _open(model, mode, stop_ids=[stop]).sample(PROMPTS, 4, Sampling(10), 1):
        for one in several:
            assert one.finished == (one.tokens[-1] == stop)
            assert stop not in one.tokens[:-1]
            assert one.finished or len(one.tokens) == 10


def test_a_stop_string_ends_after_the_token_that_completes_it(mode: VllmSettings) -> None:
    sampler = _open(_model(), mode)
    drawn = [one for several in sampler.sample(PROMPTS, 4, Sampling(16, stop=("e", "th")), 1) for one in several]
    assert any(one.finished for one in drawn)
    for one in drawn:
        text, shorter = TOKENIZER.decode(one.tokens), TOKENIZER.decode(one.tokens[:-1])
        assert one.finished == ("e" in text or "th" in text)
        assert "e" not in shorter and "th" not in shorter


def test_greedy_draws_are_the_likeliest_with_log_probs_of_temperature_1(mode: VllmSettings) -> None:
    model = _model()
    told: list[int] = []
    drawn = _open(model, mode).sample(PROMPTS, 2, Sampling(8, temperature=0.0), 1, told.append)
    assert sum(told) == 6
    assert all(one.tokens == two.tokens for one, two in drawn)
    np.testing.assert_allclose(_given(drawn), _own(model, PROMPTS, drawn), atol=1e-4)


def test_completions_end_where_vllms_room_ends(mode: VllmSettings) -> None:
    drawn = _open(_model(), mode, stop_ids=[]).sample([[5] * (LONGEST - 3)], 2, Sampling(10), 1)
    assert [(len(one.tokens), one.finished) for one in drawn[0]] == [(3, False), (3, False)]


@pytest.mark.parametrize(("prompt", "reason"), [([], "no tokens"), ([5] * LONGEST, "vLLM takes 64")])
def test_a_prompt_that_cannot_be_continued_is_named(mode: VllmSettings, prompt: list[int], reason: str) -> None:
    with pytest.raises(PreftuneError, match=rf"prompt 1.*{reason}"):
        _open(_model(), mode).sample([[5], prompt], 1, Sampling(4), 0)


def test_progress_is_told_of_every_completion(mode: VllmSettings) -> None:
    told: list[int] = []
    sampler = _open(_model(), mode)
    sampler.sample(PROMPTS, 4, Sampling(3), 0, told.append)
    assert sum(told) == 12
    assert sampler.sample([], 4, Sampling(3), 0, told.append) == []


def test_log_probs_before_the_temperature_are_found_out(
    mode: VllmSettings, llm: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _sharp()
    server.worker.logprobs_mode = "raw_logprobs"
    original = llm.__init__

    def raw(self: Any, *given: Any, **arguments: Any) -> None:
        original(self, *given, **arguments | {"logprobs_mode": "raw_logprobs"})

    monkeypatch.setattr(llm, "__init__", raw)
    with pytest.raises(PreftuneError, match=r"before temperature.*processed_logprobs"):
        _open(model, mode)


def test_weights_that_do_not_arrive_are_found_out(
    mode: VllmSettings, llm: Any, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "reload_weights", lambda self, weights: list(weights))
    with pytest.raises(PreftuneError, match="another model than the policy"):
        _open(_sharp(), mode)


def test_a_tied_head_that_no_update_reaches_is_refused(mode: VllmSettings) -> None:
    tied = _model(tie_word_embeddings=True)
    with pytest.raises(PreftuneError, match="copy of an LM head"):
        _open(tied, mode)


def test_seeds_of_neighbouring_prompts_are_far_apart() -> None:
    found = requests_for([[1]] * 500, 64, Sampling(4), 0, 64)
    seeds = sorted(request.seed for request in found)
    assert min(b - a for a, b in pairwise(seeds)) > 64
    assert seeds[0] >= 0 and seeds[-1] + 64 < 2**63
    assert [r.seed for r in requests_for([[1]], 1, Sampling(4), -1, 64)] != [found[0].seed]


# --- in this process ------------------------------------------------------------------------------------


def test_vllm_is_opened_on_the_policys_own_settings(llm: Any) -> None:
    model = _model().to(torch.bfloat16)
    sampler = _open(model, VllmSettings(gpu_memory_utilization=0.4))
    arguments = llm.opened[0].arguments
    assert arguments["dtype"] == "bfloat16" and arguments["gpu_memory_utilization"] == 0.4
    assert arguments["enable_prefix_caching"] and arguments["logprobs_mode"] == "processed_logprobs"
    assert sampler.engine.longest == 256


def test_without_a_tokenizer_none_is_asked_of_vllm(llm: Any) -> None:
    sampler = open_vllm(tiny.llama(), None, VllmSettings(), stop_ids=[2])
    assert llm.opened[0].arguments["skip_tokenizer_init"]
    assert len(sampler.sample(PROMPTS, 1, Sampling(4), 0)) == 3


def test_memory_given_back_is_filled_again_before_the_next_draw(llm: Any) -> None:
    model = _model()
    sampler = _open(model, VllmSettings(enable_sleep_mode=True))
    assert llm.opened[0].awake == set()
    first = sampler.sample(PROMPTS, 2, Sampling(6), 0)
    sampler.sync()
    sampler.sync()
    again = sampler.sample(PROMPTS, 2, Sampling(6), 0)
    assert _tokens(again) == _tokens(first) and llm.opened[0].awake == set()
    np.testing.assert_allclose(_given(again), _own(model, PROMPTS, again), atol=1e-4)


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    with pytest.raises(PreftuneError, match=r"use_vllm.*preftune\[vllm\]"):
        _open(_model(), VllmSettings())


def test_an_engine_that_does_not_start_is_explained(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *given: Any, **arguments: Any) -> None:
        raise ValueError("Free memory on device is less than desired\nmore")

    monkeypatch.setattr(llm, "__init__", full)
    with pytest.raises(PreftuneError, match=r"Free memory on device.*vllm_gpu_memory_utilization"):
        _open(_model(), VllmSettings())


def test_an_engine_in_another_process_is_refused(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with pytest.raises(PreftuneError, match="VLLM_ENABLE_V1_MULTIPROCESSING"):
        _open(_model(), VllmSettings())


def test_several_processes_need_a_server(llm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preftune.rollout.vllm_sampler.processes", lambda: 2)
    with pytest.raises(PreftuneError, match=r"one process.*--vllm_mode server"):
        _open(_model(), VllmSettings())


# --- a server -------------------------------------------------------------------------------------------


def _settings(server: FakeServer, **others: Any) -> VllmSettings:
    return VllmSettings(mode="server", server_base_url=server.url, **others)


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_hands_over_and_all_wait(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    model = _model()
    sampler = _open(model, _settings(server))
    waited: list[int] = []
    monkeypatch.setattr("preftune.rollout.vllm_sampler.processes", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: rank)
    monkeypatch.setattr("torch.distributed.barrier", lambda: waited.append(len(server.worker.loads)))
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    sampler.sync()
    sampler.sample(PROMPTS, 1, Sampling(4), 0)
    assert waited == [2 - rank] and len(server.worker.loads) == 2 - rank


def test_the_weights_files_are_gone_when_the_server_has_read_them(server: FakeServer, tmp_path: Path) -> None:
    _open(_model(), _settings(server, weights_folder=tmp_path))
    assert [folder.parent for folder in server.folders] == [tmp_path]
    assert list(tmp_path.iterdir()) == []


def test_large_models_go_in_several_files(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "FILE_BYTES", 20_000)
    written: list[str] = []
    original = vllm_server._write
    monkeypatch.setattr(vllm_server, "_write", lambda *given: written.append(given[1]) or original(*given))
    model = _model()
    _open(model, _settings(server))
    assert len(written) > 2
    assert sorted(server.worker.loads[0]) == sorted(model.state_dict())


def test_a_folder_without_room_is_named(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(PreftuneError, match=r"no room for the weights.*--vllm_weights_folder"):
        _open(_model(), _settings(server))


@pytest.mark.parametrize("faults", [[0, 503, 429], [502, 504, 0]])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/collective_rpc", "/reset_prefix_cache"])
def test_passing_faults_are_tried_again(server: FakeServer, path: str, faults: list[int]) -> None:
    model = _model()
    sampler = _open(model, _settings(server))
    wanted = sampler.sample([PROMPTS[0]], 2, Sampling(6), 3)
    server.faults[path] = list(faults)
    if path == "/v1/models":
        sampler = _open(model, _settings(server))
    elif path != "/v1/completions":
        with torch.no_grad():
            model.lm_head.weight.mul_(1.0001)
        sampler.sync()
    assert _tokens(sampler.sample([PROMPTS[0]], 2, Sampling(6), 3)) == _tokens(wanted)
    assert server.faults[path] == []


def test_a_server_that_stays_away_is_named_with_its_url(server: FakeServer) -> None:
    sampler = _open(_model(), _settings(server))
    server.faults["/v1/completions"] = [503] * 99
    with pytest.raises(PreftuneError, match=rf"{server.url}.*503.*--resume"):
        sampler.sample([PROMPTS[0]], 2, Sampling(6), 3)
    assert len(server.faults["/v1/completions"]) == 99 - vllm_server.TRIES


def test_what_the_server_refuses_is_said_in_its_words(server: FakeServer) -> None:
    sampler = _open(_model(), _settings(server))
    server.faults["/v1/completions"] = [400]
    with pytest.raises(PreftuneError, match=r"refused /v1/completions \(400.*as told"):
        sampler.sample([PROMPTS[0]], 2, Sampling(6), 3)
    assert not server.faults["/v1/completions"]


def test_a_server_that_is_not_there_is_named_before_training() -> None:
    noted: list[str] = []
    settings = VllmSettings(mode="server", server_base_url="http://127.0.0.1:9", server_timeout=0.0)
    with pytest.raises(PreftuneError, match=r"http://127\.0\.0\.1:9.*No vLLM server answers.*vllm serve"):
        _open(_model(), settings, note=noted.append)


def test_a_server_that_is_still_starting_is_waited_for(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server.time, "sleep", lambda _: None)
    server.faults["/health"] = [503, 0, 503]
    noted: list[str] = []
    _open(_model(), _settings(server, server_timeout=60.0), note=noted.append)
    assert len(noted) == 1 and server.url in noted[0]


def test_a_server_without_development_mode_is_told_how_to_start(server: FakeServer) -> None:
    server.development = False
    with pytest.raises(PreftuneError, match=r"cannot take weights over.*VLLM_SERVER_DEV_MODE=1"):
        _open(_model(), _settings(server))


def test_a_server_that_cannot_read_the_weights_is_named(server: FakeServer) -> None:
    server.faults["/collective_rpc"] = [500]
    with pytest.raises(PreftuneError, match=r"could not take the weights over.*as told.*--vllm_weights_folder"):
        _open(_model(), _settings(server))


def test_old_prefixes_are_never_drawn_with(server: FakeServer) -> None:
    server.worker.busy = 2
    _open(_model(), _settings(server))
    server.worker.busy = 99
    with pytest.raises(PreftuneError, match="other requests are under way"):
        _open(_model(), _settings(server))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"finish_reason": "abort"}, "broke a completion off"),
        ({"token_ids": None}, "not as vLLM's"),
        ({"token_ids": []}, "broke a completion off"),
        ({"logprobs": None}, "not as vLLM's"),
        ({"logprobs": {"token_logprobs": [-1.0]}}, "1 log-probs of"),
        ({"prompt_token_ids": [5]}, "not as vLLM's"),
    ],
)
def test_an_answer_that_lacks_something_is_no_completion(server: FakeServer, change: Any, reason: str) -> None:
    sampler = _open(_model(), _settings(server), stop_ids=[])
    server.changes = change
    with pytest.raises(PreftuneError, match=reason):
        sampler.sample([PROMPTS[0]], 2, Sampling(6), 3)


def test_another_machines_server_needs_a_folder_both_see() -> None:
    settings = VllmSettings(mode="server", server_base_url="http://gpu.example:8000")
    with pytest.raises(PreftuneError, match=r"another machine.*--vllm_weights_folder"):
        _open(_model(), settings)
    with pytest.raises(PreftuneError, match="no URL"):
        _open(_model(), VllmSettings(mode="server", server_base_url="localhost:8000"))


def test_the_key_of_the_environment_goes_along(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sampler = _open(_model(), _settings(server))
    assert "secret" not in repr(sampler)
