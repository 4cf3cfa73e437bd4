"""The built-in sampler against transformers' generate and the log-prob engine, on both of its paths."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter
from preftune.models.layout import Group
from preftune.models.lean_modules import make_lean
from preftune.models.logprobs import LogProbEngine
from preftune.models.settings import ModelConfig
from preftune.rollout.engine import BuiltInSampler, open_sampler
from preftune.rollout.protocol import Drawn, Sampling
from tests.models import tiny_models as tiny
from tests.tiny_world import make_model, make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15, 16], [17, 18], [19, 20, 21, 22, 23]]
CACHED = [
    tiny.llama,
    tiny.llama_tied,
    tiny.qwen2,
    tiny.qwen3,
    tiny.gpt2,
    tiny.gpt_neox,
    tiny.opt,
    tiny.phi,
    tiny.granite,
    tiny.cohere,
    tiny.mixtral,
]
OTHERS = [tiny.gemma2, tiny.mistral, tiny.phimoe, tiny.gpt_neo, tiny.gpt_oss, tiny.bloom, tiny.falcon, tiny.mamba]
BOTH = [tiny.llama, tiny.mistral]


def _open(model: Any, **settings: Any) -> BuiltInSampler:
    return open_sampler(model, TOKENIZER, **{"stop_ids": [2]} | settings)  # type: ignore[return-value]


def _sample(model: Any, n: int = 2, prompts: Sequence[list[int]] = PROMPTS, **settings: Any) -> list[list[Drawn]]:
    opening = {name: settings.pop(name) for name in ("rows", "stop_ids", "cache_bytes") if name in settings}
    seed = settings.pop("seed", 0)
    return _open(model, **opening).sample(prompts, n, Sampling(**{"max_new_tokens": 12} | settings), seed)


def _tokens(drawn: list[list[Drawn]]) -> list[list[list[int]]]:
    return [[one.tokens for one in group] for group in drawn]


def _flat(drawn: list[list[Drawn]]) -> list[Drawn]:
    return [one for group in drawn for one in group]


def _greedy(model: Any, prompt: list[int]) -> list[int]:
    model.generation_config = settings = GenerationConfig(
        max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=[2]
    )
    return model.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("build", CACHED, ids=lambda build: build.__name__)
def test_greedy_tokens_are_those_of_generate(build: Callable[[], Any]) -> None:
    told: list[str] = []
    sampler = _open(build(), note=told.append, rows=3)
    assert (sampler.path, told) == ("cached", [])
    drawn = sampler.sample(PROMPTS, 2, Sampling(12, temperature=0.0), seed=0)
    expected = [_greedy(build(), prompt) for prompt in PROMPTS]
    assert _tokens(drawn) == [[tokens, tokens] for tokens in expected]
    assert len({tuple(tokens) for tokens in expected}) > 1


@pytest.mark.parametrize("build", OTHERS, ids=lambda build: build.__name__)
def test_models_that_do_not_allow_our_cache_draw_by_generate(build: Callable[[], Any]) -> None:
    told: list[str] = []
    model = build()
    before = model.config._attn_implementation
    sampler = _open(model, note=told.append)
    assert (sampler.path, len(told)) == ("generate", 1)
    assert "'generate'" in told[0] and "\n" not in told[0]
    assert model.config._attn_implementation == before
    drawn = sampler.sample(PROMPTS[:1], 2, Sampling(12, temperature=0.0), seed=0)
    expected = _greedy(build(), PROMPTS[0])
    assert _tokens(drawn) == [[expected, expected]]


def test_encoder_decoders_are_refused() -> None:
    with pytest.raises(PreftuneError, match="encoder-decoder"):
        _open(tiny.t5())


@pytest.mark.parametrize("build", [*BOTH, tiny.gpt2, tiny.granite, tiny.gemma2], ids=lambda build: build.__name__)
def test_log_probs_are_those_of_the_log_prob_engine(build: Callable[[], Any]) -> None:
    drawn = _sample(build(), n=3, rows=4)
    groups = [Group(prompt, tuple(one.tokens for one in group)) for prompt, group in zip(PROMPTS, drawn, strict=True)]
    with torch.no_grad():
        expected = LogProbEngine(build())(groups).per_token
    found = np.concatenate([one.log_probs for group in drawn for one in group])
    assert found.dtype == np.float32
    assert np.abs(found - expected.numpy()).max() < 1e-5
    assert len({tuple(one.tokens) for group in drawn for one in group}) > 10


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.6}, {"temperature": 1.7}, {"temperature": 0.8, "top_k": 5}, {"top_p": 0.5}, {"min_p": 0.3}],
)
def test_log_probs_are_of_the_distribution_drawn_from(settings: dict[str, Any]) -> None:
    model = tiny.llama()
    kept = []
    for prompt, group in zip(PROMPTS, _sample(model, **settings), strict=True):
        for one in group:
            with torch.no_grad():
                logits = tiny.llama()(torch.tensor([prompt + one.tokens])).logits[0, len(prompt) - 1 : -1].double()
            probabilities = (logits / settings.get("temperature", 1.0)).softmax(-1)
            for row, token, log_prob in zip(probabilities, one.tokens, one.log_probs, strict=True):
                ordered = row.sort(descending=True).values
                size = settings.get("top_k", len(row))
                if "top_p" in settings:
                    size = int((ordered.cumsum(-1) < settings["top_p"]).sum()) + 1
                if "min_p" in settings:
                    size = int((ordered >= settings["min_p"] * ordered[0]).sum())
                kept.append(size)
                assert row[token] >= ordered[size - 1] - 1e-9
                assert float(log_prob) == pytest.approx(float((row[token] / ordered[:size].sum()).log()), abs=1e-5)
    assert len(set(kept)) > 1 or "temperature" in settings


@pytest.mark.parametrize("build", BOTH, ids=lambda build: build.__name__)
def test_draws_do_not_depend_on_what_is_drawn_beside_them(build: Callable[[], Any]) -> None:
    model = build()
    whole = _tokens(_sample(model, n=3))
    for rows in (1, 2, 7):
        assert _tokens(_sample(model, n=3, rows=rows)) == whole
    assert _tokens(_sample(model, n=2)) == [group[:2] for group in whole]
    assert _tokens(_sample(model, n=3, prompts=PROMPTS[:2])) == whole[:2]
    assert _tokens(_sample(model, n=3, prompts=[PROMPTS[0], PROMPTS[2] * 3]))[0] == whole[0]
    assert _tokens(_sample(model, n=3, max_new_tokens=5)) == [[one[:5] for one in group] for group in whole]


def test_draws_follow_seed_prompt_number_and_completion_number() -> None:
    model = tiny.llama()
    first, second = _tokens(_sample(model, n=2, prompts=[PROMPTS[0]] * 2))
    other, _ = _tokens(_sample(model, n=2, prompts=[PROMPTS[0]] * 2, seed=1))
    assert len({tuple(one) for one in (*first, *second, *other)}) == 6


def test_frequencies_of_sequences_are_those_of_the_model() -> None:
    """Two tokens each: nine sequences of a vocabulary of three, against the product of their probabilities."""
    model = make_model(3, spread=0.2)
    n, prompt = 4000, [1, 0, 2]
    (drawn,) = _sample(model, n=n, prompts=[prompt], max_new_tokens=2, stop_ids=[], rows=500)
    expected = torch.zeros(3, 3, dtype=torch.float64)
    with torch.no_grad():
        first = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        for token in range(3):
            then = model(torch.tensor([[*prompt, token]])).logits[0, -1].double().softmax(-1)
            expected[token] = n * first[token] * then
    counts = torch.zeros(3, 3)
    for one in drawn:
        counts[one.tokens[0], one.tokens[1]] += 1
    assert expected.min() > 5
    assert float(((counts - expected).square() / expected).sum()) < 8 + 4 * 16**0.5


@pytest.mark.parametrize("build", BOTH, ids=lambda build: build.__name__)
def test_completions_end_with_the_first_of_several_stop_tokens(build: Callable[[], Any]) -> None:
    model = build()
    free = _sample(model, stop_ids=[])
    stops = {free[0][0].tokens[3], free[2][1].tokens[5]}
    for whole, cut in zip(_flat(free), _flat(_sample(model, stop_ids=sorted(stops))), strict=True):
        places = [place for place, token in enumerate(whole.tokens, 1) if token in stops]
        end = places[0] if places else 12
        assert (cut.tokens, cut.finished) == (whole.tokens[:end], bool(places))
        assert np.allclose(cut.log_probs, whole.log_probs[:end], atol=1e-5)
        assert not whole.finished


@pytest.mark.parametrize("window", [None, 6])
def test_completions_end_with_the_token_that_completes_a_stop_string(window: int | None) -> None:
    config = {"vocab_size": len(TOKENIZER), "sliding_window": window}
    model: Any = tiny._build(MistralConfig, MistralForCausalLM, tiny.GATED | config)
    assert _open(model).path == ("generate" if window else "cached")
    with torch.no_grad():  # only letters, which are tokens of one character each and of several
        for token in range(len(TOKENIZER)):
            if not TOKENIZER.decode([token]).isascii() or token in TOKENIZER.all_special_ids:
                model.lm_head.weight[token] = 0.0
    free = _sample(model, stop_ids=[], temperature=0.5)
    texts = [[TOKENIZER.decode([token]) for token in one.tokens] for one in _flat(free)]
    stop = texts[0][3][-1] + texts[0][4][0]  # over the boundary of two tokens
    stopped = _flat(_sample(model, stop_ids=[], temperature=0.5, stop=("never seen", stop)))
    for whole, pieces, cut in zip(_flat(free), texts, stopped, strict=True):
        places = [end for end in range(1, 13) if stop in "".join(pieces[:end])]
        assert cut.tokens == whole.tokens[: places[0] if places else 12]
        assert cut.finished is bool(places)
    assert stopped[0].finished
    with pytest.raises(PreftuneError, match="stop: "):
        open_sampler(model, None, stop_ids=[]).sample(PROMPTS, 1, Sampling(3, stop=("a",)), 0)


def test_every_prompt_is_computed_once_and_ended_rows_cost_nothing() -> None:
    model = tiny.llama()
    sampler = _open(model, rows=6, stop_ids=range(2, 12))
    passes: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: passes.append(inputs[0].numel()))
    drawn = sampler.sample(PROMPTS, 4, Sampling(12), seed=0)
    lengths = [len(one.tokens) for group in drawn for one in group]
    assert len(set(lengths)) > 3
    assert sum(passes) == sum(map(len, PROMPTS)) + sum(length - 1 for length in lengths)


def test_rows_beside_each_other_are_limited_by_number_and_by_memory() -> None:
    model = tiny.llama()
    steps: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda _, inputs, __: steps.append(inputs[0].numel()))
    per_token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, groups, width, bytes

    def widest(**limits: int) -> int:
        sampler = _open(model, stop_ids=[], **limits)
        steps.clear()
        sampler.sample([[5]] * 3, 8, Sampling(4), seed=0)
        return max(steps)

    assert widest(rows=64) == 24
    assert widest(rows=7) == 7
    assert widest(cache_bytes=9 * (1 + 4) * per_token) == 9
    assert widest(cache_bytes=0) == 1


def test_buffers_are_used_again_without_a_trace() -> None:
    model = tiny.llama()
    sampler = _open(model, rows=5)
    calls = [(PROMPTS, 3, 20), (PROMPTS[:1], 1, 3), ([[7] * 40, [8] * 2], 2, 80), (PROMPTS, 3, 20)]
    for prompts, n, tokens in calls:
        found = sampler.sample(prompts, n, Sampling(tokens), seed=3)
        assert _tokens(found) == _tokens(_open(model).sample(prompts, n, Sampling(tokens), seed=3))


def test_weights_are_those_of_the_moment() -> None:
    model = tiny.llama()
    sampler = _open(model)
    before = _tokens(sampler.sample(PROMPTS, 1, Sampling(12, temperature=0.0), 0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    sampler.sync()
    after = _tokens(sampler.sample(PROMPTS, 1, Sampling(12, temperature=0.0), 0))
    assert after != before
    assert after == [[_greedy(model, prompt)] for prompt in PROMPTS]


def test_adapter_takes_part_and_can_be_switched_off() -> None:
    base = _tokens(_sample(make_model(97, spread=0.5)))
    model = add_adapter(make_model(97, spread=0.5), ModelConfig(model="unused", use_peft=True))
    sampler = _open(model)
    assert _tokens(sampler.sample(PROMPTS, 2, Sampling(12), 0)) == base
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    assert sampler.path == "cached"
    adapted = sampler.sample(PROMPTS, 2, Sampling(12), 0)
    assert _tokens(adapted) != base
    groups = [Group(prompt, tuple(one.tokens for one in group)) for prompt, group in zip(PROMPTS, adapted, strict=True)]
    with torch.no_grad():
        expected = LogProbEngine(model)(groups).per_token.numpy()
    assert np.abs(np.concatenate([one.log_probs for group in adapted for one in group]) - expected).max() < 1e-5
    with model.disable_adapter():  # type: ignore[operator]
        assert _tokens(sampler.sample(PROMPTS, 2, Sampling(12), 0)) == base


@pytest.mark.parametrize("build", BOTH, ids=lambda build: build.__name__)
def test_the_caller_finds_everything_as_it_was(build: Callable[[], Any]) -> None:
    model = build()
    engine = LogProbEngine(model)
    model.train()
    model.model.layers[0].eval()
    attention, settings = model.config._attn_implementation, model.generation_config
    modes = [module.training for module in model.modules()]
    forwards = [vars(module).get("forward") for module in model.modules()]
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    drawn = _sample(engine.model)
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert (np.random.get_state()[1] == generators[2]).all()
    assert [module.training for module in model.modules()] == modes
    assert [vars(module).get("forward") for module in model.modules()] == forwards
    assert (model.config._attn_implementation, model.generation_config) == (attention, settings)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    groups = [Group(PROMPTS[0], (drawn[0][0].tokens,))]
    engine(groups).per_token.sum().backward()  # the log-prob engine goes on with its own attention


def test_dropout_is_off_while_drawing() -> None:
    model = tiny.gpt2_with_dropout().train()
    assert _tokens(_sample(model)) == _tokens(_sample(model.eval()))


def test_completions_end_with_the_models_positions() -> None:
    """A prompt of n tokens leaves positions for n more inputs: the last token drawn needs none."""
    for model in (tiny.gpt2(), tiny.llama(max_position_embeddings=128), tiny.mistral()):
        (drawn, short, full) = _sample(
            model, n=1, prompts=[[5] * 120, [6] * 3, [7] * 128], max_new_tokens=20, stop_ids=[]
        )
        assert [len(one.tokens) for one in (*drawn, *short, *full)] == [9, 20, 1]
        assert not any(one.finished for one in (*drawn, *short, *full))
        with pytest.raises(PreftuneError, match=r"prompt 1: The prompt has 129 tokens.*128 positions"):
            _sample(model, prompts=[[5], [5] * 129])


def test_prompts_without_tokens_are_refused() -> None:
    with pytest.raises(PreftuneError, match="prompt 1: The prompt has no tokens"):
        _sample(tiny.llama(), prompts=[[5], []])


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": -0.1},
        {"min_p": 2.0},
        {"n": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(PreftuneError, match=f"{name}: .* is out of range"):
        _sample(tiny.llama(), **settings)


def test_nothing_asked_nothing_drawn() -> None:
    for build in BOTH:
        assert _sample(build(), prompts=[]) == []
        assert _sample(build(), n=0) == [[]] * len(PROMPTS)


@pytest.mark.parametrize("build", BOTH, ids=lambda build: build.__name__)
def test_progress_counts_completions(build: Callable[[], Any]) -> None:
    told: list[int] = []
    _open(build(), rows=4).sample(PROMPTS, 2, Sampling(12), 0, told.append)
    assert sum(told) == 10
    assert len(told) > 1


@pytest.mark.parametrize("build", BOTH, ids=lambda build: build.__name__)
def test_model_that_gives_no_numbers_is_refused_and_leaves_no_trace(build: Callable[[], Any]) -> None:
    model = build()
    sampler = _open(model)
    expected = _tokens(sampler.sample(PROMPTS, 2, Sampling(12), 0))
    weight = model.model.layers[0].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(PreftuneError, match="not finite"):
        sampler.sample(PROMPTS, 2, Sampling(12), 0)
    with torch.no_grad():
        weight.copy_(kept)
    assert _tokens(sampler.sample(PROMPTS, 2, Sampling(12), 0)) == expected


@pytest.mark.parametrize("build", [tiny.llama, tiny.qwen2, tiny.gpt2], ids=lambda build: build.__name__)
def test_bfloat16_draws_with_log_probs_near_those_of_the_log_prob_engine(build: Callable[[], Any]) -> None:
    model = build().bfloat16()
    make_lean(model)
    sampler = _open(model, rows=4)
    assert sampler.path == "cached"
    drawn = sampler.sample(PROMPTS, 3, Sampling(12), 0)
    groups = [Group(prompt, tuple(one.tokens for one in group)) for prompt, group in zip(PROMPTS, drawn, strict=True)]
    with torch.no_grad():
        expected = LogProbEngine(model)(groups).per_token.numpy()
    found = np.concatenate([one.log_probs for group in drawn for one in group])
    assert found.dtype == np.float32
    assert np.quantile(np.abs(found - expected), 0.9) < 0.15
