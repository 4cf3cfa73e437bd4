"""Answers as transformers would give them, whatever company a prompt is in."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from preftune.models.adapters import add_adapter
from preftune.models.lean_modules import make_lean
from preftune.models.logprobs import LogProbEngine
from preftune.models.settings import ModelConfig
from preftune.rollout.sample import Completion, sample, stop_token_ids
from tests.tiny_world import make_model, make_tokenizer

TOKENIZER = make_tokenizer()
PROMPTS = [TOKENIZER(text)["input_ids"] for text in ("a", "Could you find the river number 12?", "open it", "b")]
STOPS = [2]


def _model(**changes: Any) -> Any:
    """With weights so large that answers differ; under the engine, as in a run."""
    model = make_model(len(TOKENIZER), spread=0.5, **changes)
    make_lean(model)
    LogProbEngine(model)
    return model


def _sample(model: Any, prompts: list[list[int]] = PROMPTS, **settings: Any) -> list[Completion]:
    return sample(
        model, prompts, **{"pad_id": 0, "stop_ids": STOPS, "max_new_tokens": 12, "temperature": 0.0} | settings
    )


def test_greedy_answers_are_transformers_row_by_row() -> None:
    plain = make_model(len(TOKENIZER), spread=0.5)
    settings = GenerationConfig(max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=STOPS)
    found = _sample(_model())
    for prompt, completion in zip(PROMPTS, found, strict=True):
        expected = plain.generate(torch.tensor([prompt]), generation_config=settings)[0, len(prompt) :].tolist()
        assert completion.prompt == prompt
        assert completion.tokens == expected
    assert len({tuple(completion.tokens) for completion in found}) == len(PROMPTS)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
def test_greedy_answers_do_not_depend_on_the_batch(batch_size: int) -> None:
    model = _model()
    told: list[int] = []
    assert _sample(model, batch_size=batch_size, progress=told.append) == _sample(model)
    assert _sample(model, PROMPTS[::-1], batch_size=batch_size) == _sample(model)[::-1]
    assert sum(told) == len(PROMPTS)


def test_adapter_takes_part_in_the_answer() -> None:
    engine = LogProbEngine(add_adapter(_model(), ModelConfig(model="unused", use_peft=True)))
    before = _sample(engine.model)
    with torch.no_grad():
        for name, parameter in engine.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5, generator=torch.Generator().manual_seed(0))
    assert _sample(engine.model) != before
    assert before == _sample(_model())


def test_answer_ends_with_its_first_stop_token() -> None:
    """Made a stop token, the third token of an answer ends it."""
    model = _model()
    free = _sample(model, stop_ids=[2, 3])
    stop = free[1].tokens[2]
    cut = _sample(model, stop_ids=[2, stop])
    for whole, answer in zip(free, cut, strict=True):
        places = [number for number, token in enumerate(whole.tokens) if token in (2, stop)]
        end = places[0] + 1 if places else 12
        assert answer.tokens == whole.tokens[:end]
        assert answer.finished is bool(places)
    assert cut[1].finished


def test_padding_may_be_the_stop_token() -> None:
    """As for tokenizers without a padding token."""
    model = _model()
    stop = _sample(model)[1].tokens[2]
    assert _sample(model, pad_id=stop, stop_ids=[stop]) == _sample(model, stop_ids=[stop])


def test_without_stop_tokens_answers_run_to_the_limit() -> None:
    assert all((len(c.tokens), c.finished) == (12, False) for c in _sample(_model(), stop_ids=[]))


def test_draws_follow_the_seed_and_leave_the_callers_generators_alone() -> None:
    model = _model()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    one, again, other = (_sample(model, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


def test_draws_come_from_the_whole_distribution() -> None:
    """Frequencies of a first token against its probability: neither top-k, nor top-p, nor what the model came with."""
    model = _model()
    model.generation_config.top_k, model.generation_config.top_p = 1, 0.1
    model.generation_config.repetition_penalty = 5.0
    n, prompt = 4000, PROMPTS[1]
    with torch.no_grad():
        probabilities = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    drawn = _sample(model, [prompt] * n, temperature=1.0, max_new_tokens=1, batch_size=n)
    counts = torch.bincount(torch.tensor([c.tokens[0] for c in drawn]), minlength=len(probabilities))
    common = probabilities * n > 5
    expected = torch.cat([probabilities[common], probabilities[~common].sum()[None]]) * n
    found = torch.cat([counts[common], counts[~common].sum()[None]])
    chi_square = float(((found - expected).square() / expected).sum())
    freedom = int(common.sum())
    assert freedom > 20
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_settings_the_model_came_with_do_not_bend_greedy_answers() -> None:
    plain, bent = _model(), _model()
    expected = _sample(plain)
    bent.generation_config.suppress_tokens = sorted({token for answer in expected for token in answer.tokens})
    bent.generation_config.repetition_penalty = 5.0
    assert _sample(bent) == expected


def test_temperature_sharpens() -> None:
    model = _model()
    cold = _sample(model, temperature=1e-4, seed=5)
    assert cold == _sample(model)


def test_model_keeps_its_mode_and_settings() -> None:
    model = _model().train()
    settings = model.generation_config
    _sample(model, temperature=1.0)
    assert model.training
    assert model.generation_config is settings
    with pytest.raises(IndexError):
        _sample(model, [[10_000]])
    assert model.training
    assert model.generation_config is settings


def test_stop_tokens_are_those_of_model_and_tokenizer() -> None:
    model = _model()
    model.generation_config.eos_token_id = [5, 4]
    assert stop_token_ids(model, TOKENIZER) == [2, 4, 5]
    model.generation_config.eos_token_id = None
    assert stop_token_ids(model, TOKENIZER) == [2]
    model.generation_config.eos_token_id = 7
    assert stop_token_ids(add_adapter(model, ModelConfig(model="unused", use_peft=True)), TOKENIZER) == [2, 7]


def test_no_prompts_no_answers() -> None:
    assert _sample(_model(), []) == []
