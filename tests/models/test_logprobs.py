"""Every engine path gives the numbers and gradients of one sequence after the other in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.losses import dpo
from preftune.models import attention
from preftune.models.layout import Group, Segment
from preftune.models.logprobs import PATHS, LogProbEngine, Path, causal_model, choose_path
from tests.models import tiny_models

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
TOKENS = st.integers(0, tiny_models.VOCAB - 1)
PROMPTS = st.one_of(st.lists(TOKENS, min_size=1, max_size=1), st.lists(TOKENS, min_size=1, max_size=12))
PAIRS = st.builds(lambda p, c, r: Group(p, (c, r)), PROMPTS, PROMPTS, PROMPTS)
BATCHES = st.lists(PAIRS, min_size=1, max_size=4)

# Lengths that matter: a prompt of one token, completions of one, equal prompts, longer than every window.
PAIR_BATCH = [
    Group([5], ([7, 8, 9], [10])),
    Group([3, 4, 5, 6], ([11], [12])),
    Group([3, 4, 5, 6], ([13, 14, 15, 16, 17, 18, 19], [20, 21])),
    Group(list(range(30, 50)), (list(range(50, 62)), list(range(62, 71)))),
]
THREE_COMPLETIONS = [Group([3, 4, 5], ([6, 7], [8], [9, 10, 11]))]

PATH_OF: dict[str, Path] = {
    "llama": "packed",
    "llama_tied": "packed",
    "gpt2": "packed",
    "gemma2": "plain",  # caps its attention scores
    "gemma3": "packed",
    "mistral": "packed",
    "qwen2": "packed",
    "qwen3": "packed",
    "gpt_neox": "packed",
    "phi": "packed",
    "opt": "packed",
    "bloom": "plain",  # positions are a bias made from the 2-D mask
    "falcon": "masked",  # its attention cannot be exchanged
    "mamba": "plain",  # a state runs through the row
}
RARE_PATH_OF: dict[str, Path] = {
    "falcon_alibi": "plain",
    "gpt_neo": "plain",
    "granite": "packed",
    "cohere": "packed",
    "mixtral": "packed",
    "gpt_oss": "plain",  # attention sinks
    "phimoe": "plain",  # a window that its layers do not pass on
}


@EVERY_PATH
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@settings(max_examples=20, deadline=None)
@given(groups=BATCHES)
def test_any_shapes_agree_with_float64(path: Path, adapter: bool, groups: list[Group]) -> None:
    _check_path(_llama(adapter), _llama_in_float64(adapter), path, groups, gradients_within=2e-5)


@EVERY_PATH
@pytest.mark.parametrize("groups", [PAIR_BATCH, THREE_COMPLETIONS], ids=["pairs", "three"])
def test_edge_shapes_agree_with_float64(path: Path, groups: list[Group]) -> None:
    _check_path(_llama(False), _llama_in_float64(False), path, groups)


@pytest.mark.parametrize(
    ("name", "path"), [*(("llama", path) for path in PATHS), ("gemma2", "plain"), ("gemma2", "logits")]
)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_a_temperature_divides_the_logits_on_every_path(name: str, path: Path, temperature: float) -> None:
    """gemma2 caps its logits, and the temperature divides the capped ones."""
    model = getattr(tiny_models, name)()
    _check_path(model, copy.deepcopy(model).double(), path, PAIR_BATCH, 2e-5, temperature)


def test_temperature_zero_has_no_log_probs() -> None:
    with pytest.raises(PreftuneError, match=r"temperature 0.*above 0"):
        LogProbEngine(tiny_models.llama(), temperature=0.0)


@EVERY_PATH
def test_a_disabled_adapter_gives_the_models_own_numbers(path: Path) -> None:
    adapted = _llama(True)
    engine = LogProbEngine(adapted, path=path)
    with torch.no_grad(), adapted.disable_adapter():
        without = engine(PAIR_BATCH).sums()
        again = engine(PAIR_BATCH).sums()
    with torch.no_grad():
        adapter_on = engine(PAIR_BATCH).sums()
        truth = LogProbEngine(tiny_models.llama(), path=path)(PAIR_BATCH).sums()
    assert torch.equal(without, again)
    assert torch.allclose(without, truth, rtol=1e-6)
    assert ((adapter_on - truth).abs() > 1e-2).all()


@pytest.mark.parametrize("name", PATH_OF)
def test_architecture_agrees_on_the_path_chosen_for_it(name: str) -> None:
    _check_architecture(getattr(tiny_models, name), PATH_OF[name])


@pytest.mark.slow  # seconds
@pytest.mark.parametrize("name", RARE_PATH_OF)
def test_rarer_architecture_agrees_on_the_path_chosen_for_it(name: str) -> None:
    _check_architecture(getattr(tiny_models, name), RARE_PATH_OF[name])


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_windows_longer_than_the_probe_are_kept(name: str) -> None:
    """The probe's sequences are shorter than this window, so only the window's own handling can be right."""
    model = getattr(tiny_models, name)(window=16)
    engine = LogProbEngine(model)
    assert engine.path == "packed"
    assert _differs_from_logits(model, engine) < 1e-4


@pytest.mark.parametrize("name", ["phimoe", "gpt_neo"])
def test_windows_the_engine_cannot_see_are_not_trusted_to_a_short_probe(name: str) -> None:
    model = getattr(tiny_models, name)(window=16)
    notes: list[str] = []
    engine = LogProbEngine(model, note=notes.append)
    assert engine.path == "plain" and len(notes) == 1
    assert _differs_from_logits(model, engine) < 1e-4


def test_the_chosen_path_is_told_once_and_with_its_reasons() -> None:
    notes: list[str] = []
    assert choose_path(tiny_models.gemma2(), notes.append) == "plain"
    assert len(notes) == 1 and "\n" not in notes[0]
    assert "'plain'" in notes[0] and "capping" in notes[0] and "sliding window" in notes[0]


def test_a_head_of_two_layers_is_computed_from_the_models_own_logits() -> None:
    model: Any = tiny_models.llama()
    model.lm_head = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, tiny_models.VOCAB))
    notes: list[str] = []
    engine = LogProbEngine(model, note=notes.append)
    assert engine.path == "logits" and len(notes) == 1
    _check_path(model, copy.deepcopy(model).double(), "logits", PAIR_BATCH)


def test_an_adapter_on_the_head_is_not_left_out() -> None:
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    adapted = get_peft_model(tiny_models.llama(), config)
    assert LogProbEngine(adapted).path == "logits"


def test_an_encoder_decoder_is_refused_in_words() -> None:
    with pytest.raises(PreftuneError, match="does not continue its prompt"):
        LogProbEngine(tiny_models.t5())


def test_adapters_of_virtual_tokens_are_refused() -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(PreftuneError, match="virtual tokens"):
        LogProbEngine(get_peft_model(tiny_models.llama(), config))


@EVERY_PATH
def test_bfloat16_stays_near_the_float32_numbers(path: Path) -> None:
    """Tolerance: 0.2 nats a token, 0.06 root mean square, 9% of the gradient (measured: 0.13, 0.042, 6.5%).

    The model's own bfloat16 forward pass is off by as much: the ``logits`` path is held to the same figures.
    """
    wide, narrow = tiny_models.llama(), tiny_models.llama().bfloat16()
    truth, ours = LogProbEngine(wide, path=path)(PAIR_BATCH), LogProbEngine(narrow, path=path)(PAIR_BATCH)
    truth.sums().sum().backward()
    ours.sums().sum().backward()
    assert ours.per_token.dtype == torch.float32
    error = ours.per_token - truth.per_token
    assert error.abs().max() < 0.2 and error.square().mean().sqrt() < 0.06
    assert _relative(_gradient(narrow), _gradient(wide)) < 0.09


@pytest.mark.parametrize("path", ["packed", "masked", "plain"])
def test_autocast_gives_gradients_near_the_float32_ones(path: Path) -> None:
    wide, cast = tiny_models.llama(), tiny_models.llama()
    LogProbEngine(wide, path=path)(PAIR_BATCH).sums().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        sums = LogProbEngine(cast, path=path)(PAIR_BATCH).sums()
    sums.sum().backward()
    assert _relative(_gradient(cast), _gradient(wide)) < 0.08


@EVERY_PATH
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(path: Path, reentrant: bool) -> None:
    plain, checkpointed = tiny_models.llama().train(), tiny_models.llama().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    checkpointed.enable_input_require_grads()  # type: ignore[operator]
    for model in (plain, checkpointed):
        LogProbEngine(model, path=path)(PAIR_BATCH).sums().sum().backward()
    assert _relative(_gradient(checkpointed), _gradient(plain)) < 1e-6


@EVERY_PATH
def test_training_mode_without_dropout_changes_nothing(path: Path) -> None:
    model = tiny_models.gpt2()
    engine = LogProbEngine(model, path=path)
    assert torch.equal(engine.eval()(PAIR_BATCH).per_token, engine.train()(PAIR_BATCH).per_token)


def test_dropout_in_training_mode_is_computed_not_refused() -> None:
    model = tiny_models.gpt2_with_dropout()
    engine = LogProbEngine(model).train()
    assert engine.path == "packed"
    one, other = engine(PAIR_BATCH).sums(), engine(PAIR_BATCH).sums()
    assert not torch.allclose(one, other)
    one.sum().backward()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma2", "falcon", "gpt2"])
def test_generation_is_the_same_after_the_engine_was_made(name: str) -> None:
    model: Any = getattr(tiny_models, name)()
    before = _greedy(model)
    LogProbEngine(model)
    assert _greedy(model) == before


def test_choosing_a_path_leaves_no_trace_but_the_attention() -> None:
    model: Any = tiny_models.llama().train()
    model.model.layers[0].mlp.eval()
    weights = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    generator = torch.get_rng_state()
    LogProbEngine(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert model.training and not model.model.layers[0].mlp.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert attention.NAME not in model.config.to_json_string()


def test_a_refused_path_gives_the_model_its_own_attention_back() -> None:
    model: Any = tiny_models.gemma2()
    before = model.config._attn_implementation
    LogProbEngine(model)
    assert model.config._attn_implementation == before


def test_a_path_with_other_numbers_gives_the_model_its_own_attention_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Segment, "sees", lambda segment: torch.ones(segment.length, segment.length).tril().bool())
    model: Any = tiny_models.llama()
    before = model.config._attn_implementation
    notes: list[str] = []
    assert choose_path(model, notes.append) == "plain"
    assert model.config._attn_implementation == before
    assert notes[0].count("differ by") == 2


@EVERY_PATH
def test_pairs_of_a_batch_do_not_touch_each_other(path: Path) -> None:
    engine = LogProbEngine(tiny_models.llama(), path=path)
    with torch.no_grad():
        together = engine(PAIR_BATCH).sums()
        alone = torch.cat([engine([group]).sums() for group in PAIR_BATCH])
    assert torch.allclose(together, alone, rtol=1e-6)


def test_lengths_and_sums_are_those_of_the_completions() -> None:
    result = LogProbEngine(tiny_models.llama())(PAIR_BATCH)
    assert result.lengths().tolist() == [3, 1, 1, 1, 7, 2, 12, 9]
    assert result.sums()[0].item() == pytest.approx(result.per_token[:3].sum().item(), rel=1e-6)


def _check_architecture(build: Callable[[], nn.Module], path: Path) -> None:
    notes: list[str] = []
    model = build()
    assert choose_path(model, notes.append) == path
    assert len(notes) == (0 if path == "packed" else 1)
    assert not notes or "\n" not in notes[0]
    # transformers' Mamba computes parts of its float64 backward pass in float32, and stumbles over it.
    wide = build() if model.config.model_type == "mamba" else build().double()  # type: ignore[union-attr]
    _check_path(model, wide, path, PAIR_BATCH, gradients_within=2e-5)


def _check_path(
    model: nn.Module,
    wide: nn.Module,
    path: Path,
    groups: list[Group],
    gradients_within: float = 5e-6,
    temperature: float = 1.0,
) -> None:
    """Values, entropies, a DPO loss and all gradients by ``path`` against float64, one sequence at a time."""
    model.zero_grad()
    wide.zero_grad()
    result = LogProbEngine(model, path=path, temperature=temperature)(groups)
    naive = [
        _naive(wide, group.prompt, completion, temperature) for group in groups for completion in group.completions
    ]
    truth, true_entropy = (torch.cat([part[i].double() for part in naive]) for i in (0, 1))
    true_sums = torch.stack([part[0].double().sum() for part in naive])
    assert torch.allclose(result.per_token.double(), truth, rtol=1e-5, atol=1e-5)
    assert torch.allclose(result.entropy.double(), true_entropy, rtol=1e-5, atol=1e-5)
    assert torch.allclose(result.sums().double(), true_sums, rtol=1e-5)
    loss, true_loss = _loss(result.sums()), _loss(true_sums)
    assert loss.item() == pytest.approx(true_loss.item(), rel=2e-6)
    loss.backward()
    true_loss.backward()
    _check_gradients(model, wide, gradients_within)


def _check_gradients(model: nn.Module, wide: nn.Module, together: float) -> None:
    truth = dict(wide.named_parameters())
    largest = max(p.grad.norm().item() for p in truth.values() if p.grad is not None)
    assert _relative(_gradient(model), _gradient(wide)) < together
    for name, parameter in model.named_parameters():
        reference = truth[name].grad
        assert (parameter.grad is None) == (reference is None), name
        if parameter.grad is not None and reference is not None:
            # A tensor whose true gradient all but cancels (a key's bias) holds the rounding of larger terms.
            rounding = 3e-6 * largest
            assert (parameter.grad.double() - reference).norm() < 1e-4 * reference.norm() + rounding, name


def _naive(wide: nn.Module, prompt: Any, completion: Any, temperature: float) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[*prompt, *completion]])
    logits = causal_model(wide)(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    every = (logits / temperature).log_softmax(-1)
    entropy = -(every.exp() * every).sum(-1).detach()
    return every.gather(1, ids[0, len(prompt) :, None])[:, 0], entropy


def _loss(sums: Tensor) -> Tensor:
    """DPO with a reference of zero, and a little of the mean, so that what the sides share has a gradient."""
    chosen, rejected = sums[0::2][: len(sums) // 2], sums[1::2]
    zero = torch.zeros_like(chosen)
    return dpo(chosen, rejected, zero, zero, beta=0.05).mean() - 0.01 * sums.mean()


@cache
def _llama(adapter: bool) -> Any:
    if not adapter:
        return tiny_models.llama()
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(tiny_models.llama(), config)


@cache
def _llama_in_float64(adapter: bool) -> Any:
    return copy.deepcopy(_llama(adapter)).double()


def _differs_from_logits(model: nn.Module, engine: LogProbEngine) -> float:
    with torch.no_grad():
        ours, truth = engine(PAIR_BATCH), LogProbEngine(model, path="logits")(PAIR_BATCH)
    return (ours.per_token - truth.per_token).abs().max().item()


def _greedy(model: Any) -> list[list[int]]:
    prompts = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (prompts != 0).long()
    return model.generate(prompts, attention_mask=mask, do_sample=False, max_new_tokens=12).tolist()


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


def _relative(ours: Tensor, truth: Tensor) -> float:
    return ((ours.double() - truth).norm() / truth.norm()).item()
