"""Values are the score head's at the hidden state before each token, by every path, and share a trunk with a reward."""

from __future__ import annotations

import copy
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter, save_model
from preftune.models.layout import Group, Segment
from preftune.models.loading import load_model
from preftune.models.logprobs import LogProbEngine
from preftune.models.merging import load_base
from preftune.models.quantised import is_quantised
from preftune.models.reward_models import load_scorer
from preftune.models.scores import PATHS, ScoreEngine
from preftune.models.scores import Path as ScorePath
from preftune.models.settings import ModelConfig
from preftune.models.values import ValueEngine, adapter_over_reward, load_value_model, reward_beneath
from tests.models import tiny_models
from tests.models.tiny_scorers import scorer
from tests.tiny_world import World, make_tokenizer

CPU = torch.device("cpu")
EVERY_PATH = pytest.mark.parametrize("path", PATHS)
TOKENS = st.lists(st.integers(3, tiny_models.VOCAB - 1), min_size=1, max_size=8)
BATCHES = st.lists(st.builds(lambda p, c, r: Group(p, (c, r)), TOKENS, TOKENS, TOKENS), min_size=1, max_size=3)

# A prompt of one token, completions of one, four completions of one prompt, longer than every window.
GROUPS = [
    Group([5], ([7, 8, 9],)),
    Group([3, 4, 5, 6], ([11], [12, 2], [13, 14, 15, 16, 17], [11])),
    Group(list(range(30, 42)), (list(range(50, 60)),)),
]
WORLD_GROUPS = [Group([1, 80, 90], ([100, 110, 2], [120])), Group([1, 85, 95, 105], ([115, 2],))]
PATH_OF: dict[str, ScorePath] = {"llama": "packed", "gpt2": "packed", "gemma3": "packed", "gemma2": "plain"}
BY_EVERY_PATH = [(name, path) for name, best in PATH_OF.items() for path in PATHS[PATHS.index(best) :]]


# --- the model's own numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), BY_EVERY_PATH)
def test_values_and_gradients_are_the_models_own_on_each_beginning(name: str, path: ScorePath) -> None:
    model = scorer(name)
    _check(model, copy.deepcopy(model).double(), path, GROUPS)


@pytest.mark.parametrize("path", ["packed", "plain"])
@settings(max_examples=10, deadline=None)
@given(groups=BATCHES)
def test_any_shapes_give_the_models_own_values(path: ScorePath, groups: list[Group]) -> None:
    model, wide = _llama()
    _check(model, wide, path, groups)


@pytest.mark.parametrize("name", PATH_OF)
def test_the_cheapest_path_that_fits_is_chosen(name: str) -> None:
    notes: list[str] = []
    assert ValueEngine(scorer(name), note=notes.append).path == PATH_OF[name]
    assert len(notes) == (PATH_OF[name] != "packed")
    assert not notes or notes[0].startswith("values take the 'plain' path")


def test_a_head_of_two_layers_is_left_to_the_model_itself() -> None:
    model = scorer("llama")
    model.score = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    assert ValueEngine(model).path == "own"
    _check(model, copy.deepcopy(model).double(), "own", GROUPS[:2])


def test_a_head_of_zeros_hides_no_wrong_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Segment, "sees", lambda segment: torch.ones(segment.length, segment.length).tril().bool())
    model, notes = scorer("llama"), []
    with torch.no_grad():
        model.score.weight.zero_()
    assert ValueEngine(model, note=notes.append).path == "plain"
    assert "differ by" in notes[0] and not model.score.weight.any()


@EVERY_PATH
def test_values_lie_where_log_probs_lie_and_are_scores_of_what_stands_before(path: ScorePath) -> None:
    model = scorer("llama")
    with torch.no_grad():
        values = ValueEngine(model, path=path)(GROUPS)
        where = LogProbEngine(tiny_models.llama())(GROUPS).sequence
        parts = [values[where == i] for i in range(6)]
        prompts = [group.prompt for group in GROUPS for _ in group.completions]
        ends = [(p, one) for p, one in zip(prompts, _completions(GROUPS), strict=True) if len(one) > 1]
        scores = ScoreEngine(model)([Group(prompt, (one[:-1],)) for prompt, one in ends])
    assert [len(part) for part in parts] == [len(one) for one in _completions(GROUPS)]
    assert torch.allclose(torch.stack([part[-1] for part in parts if len(part) > 1]), scores, rtol=1e-5, atol=1e-5)
    firsts = torch.stack([part[0] for part in parts[1:5]])  # of one prompt: before the first token nothing differs
    assert torch.allclose(firsts, firsts[:1].expand(4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["packed", "plain"])
def test_bfloat16_models_give_float32_values(path: ScorePath) -> None:
    model = scorer("llama")
    with torch.no_grad():
        exact = ValueEngine(model, path=path)(GROUPS)
        ours = ValueEngine(model.bfloat16(), path=path)(GROUPS)
    assert ours.dtype == torch.float32
    assert (ours - exact).abs().quantile(0.75) < 0.05 * exact.abs().max()
    assert not torch.equal(ours, ours.bfloat16().float())


def test_a_language_model_gives_no_values() -> None:
    with pytest.raises(PreftuneError, match="LlamaForCausalLM gives no scores"):
        ValueEngine(tiny_models.llama())


# --- where a value model starts -------------------------------------------------------------------------


def test_a_language_model_starts_with_no_opinion_and_learns(world: World) -> None:
    model = load_value_model(_config(world.model), CPU)
    engine = ValueEngine(model)
    assert torch.equal(engine(WORLD_GROUPS), torch.zeros(6))
    (engine(WORLD_GROUPS) - 1).square().sum().backward()
    assert model.score.weight.grad.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_a_language_models_adapter_is_merged_under_a_head_of_zeros(world: World, tmp_path: Path) -> None:
    adapted = _perturbed(add_adapter(load_model(_config(world.model), CPU), _config(world.model, use_peft=True)))
    save_model(adapted, make_tokenizer(), tmp_path)
    model: Any = load_base(_config(tmp_path), CPU, load_value_model).model
    ids = torch.tensor([WORLD_GROUPS[0].prompt])
    ours, truth = (each.base_model(ids).last_hidden_state for each in (model, adapted.get_base_model()))
    assert torch.allclose(ours, truth, rtol=1e-4, atol=1e-5)
    assert not model.score.weight.any()


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_reward_model_keeps_its_head(world: World, tmp_path: Path, kind: str) -> None:
    reward = _save_reward(world, tmp_path / "reward", adapter=kind == "adapter")
    with torch.no_grad():
        ours = ValueEngine(load_base(_config(tmp_path / "reward"), CPU, load_value_model).model)(WORLD_GROUPS)
        truth = ValueEngine(reward, path="own")(WORLD_GROUPS)
    assert truth.abs().min() > 0
    assert torch.allclose(ours, truth, rtol=1e-4, atol=1e-5)


# --- one trunk with the reward model --------------------------------------------------------------------


def test_values_start_as_the_rewards_own_head_and_move_away_from_it() -> None:
    bare = scorer("llama")
    values, rewards = _shared(copy.deepcopy(bare))
    with torch.no_grad():
        scores, start = ScoreEngine(copy.deepcopy(bare))(GROUPS), values(GROUPS)
    assert torch.allclose(start, ValueEngine(bare)(GROUPS), rtol=1e-6, atol=1e-6)
    assert torch.equal(rewards(GROUPS), scores)
    optimizer = torch.optim.SGD([p for p in values.parameters() if p.requires_grad], lr=1e-3)
    values.train()
    for _ in range(3):
        optimizer.zero_grad()
        values(GROUPS).square().mean().backward()
        assert torch.equal(rewards(GROUPS), scores)  # between gradients and their step
        optimizer.step()
    assert torch.equal(rewards(GROUPS), scores)
    assert values.training and not rewards(GROUPS).requires_grad
    assert ((values(GROUPS) - start).abs() > 1e-4).all()


def test_the_adapter_and_its_head_are_trained_and_nothing_else() -> None:
    values, rewards = _shared(scorer("llama"))
    rewards(GROUPS)
    values(GROUPS).square().sum().backward()
    trained = {name for name, p in values.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "score.modules_to_save" in name for name in trained)
    assert sum("score.modules_to_save" in name for name in trained) == 1
    with_gradient = {name for name, p in values.model.named_parameters() if p.grad is not None}
    assert with_gradient == trained


def test_the_rewards_dropout_stays_off_while_the_value_trains() -> None:
    bare = scorer("gpt2", embd_pdrop=0.5)
    values, rewards = _shared(bare)
    values.train()
    assert torch.equal(rewards(GROUPS), rewards(GROUPS))
    assert not torch.equal(values(GROUPS), values(GROUPS))


def test_a_saved_value_adapter_continues_where_it_stopped(world: World, tmp_path: Path) -> None:
    _save_reward(world, tmp_path / "reward", adapter=False)
    reward = load_scorer(_config(tmp_path / "reward"), CPU)
    values = adapter_over_reward(reward, _config(tmp_path / "reward", use_peft=True, lora_r=4))
    _perturbed(values.model)
    save_model(values.model, make_tokenizer(), tmp_path / "value")
    with torch.no_grad():
        again = ValueEngine(load_base(_config(tmp_path / "value"), CPU, load_value_model).model)(WORLD_GROUPS)
        assert torch.allclose(again, values(WORLD_GROUPS), rtol=1e-4, atol=1e-5)


def test_a_reward_adapter_is_to_be_merged_first() -> None:
    adapted = add_adapter(scorer("llama"), LORA, task="SEQ_CLS")
    with pytest.raises(PreftuneError, match=r"adapter itself.*load_base"):
        adapter_over_reward(adapted, LORA)
    with pytest.raises(PreftuneError, match=r"shares no weights.*adapter_over_reward"):
        reward_beneath(ValueEngine(scorer("llama")))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize("way", ["load_in_4bit", "load_in_8bit"])
def test_a_quantised_reward_model_carries_a_value_adapter(world: World, tmp_path: Path, way: str) -> None:
    _save_reward(world, tmp_path / "reward", adapter=False)
    config = _config(tmp_path / "reward", use_peft=True, lora_r=4, **{way: True})
    base = load_base(config, CPU, load_scorer).model
    assert is_quantised(base)
    with torch.no_grad():
        scores = ScoreEngine(base)(WORLD_GROUPS)
        own = ValueEngine(base, path="own")(WORLD_GROUPS)
    values = adapter_over_reward(base, config)
    rewards = reward_beneath(values)
    assert values.path == "packed"
    assert torch.allclose(values(WORLD_GROUPS), own, rtol=1e-4, atol=1e-4)
    values(WORLD_GROUPS).square().sum().backward()
    with torch.no_grad():
        for parameter in values.parameters():
            if parameter.requires_grad:
                parameter.sub_(0.1 * parameter.grad)
    assert torch.allclose(rewards(WORLD_GROUPS), scores, rtol=1e-6)
    assert not torch.allclose(values(WORLD_GROUPS), own, rtol=1e-2)


LORA = ModelConfig(model="unused", use_peft=True, lora_r=4)


def _config(model: Path | str, **settings: Any) -> ModelConfig:
    return ModelConfig(**{"model": str(model), "dtype": "float32"} | settings)


def _shared(reward: Any) -> tuple[ValueEngine, ScoreEngine]:
    values = adapter_over_reward(reward, LORA)
    return values, reward_beneath(values)


def _save_reward(world: World, folder: Path, *, adapter: bool) -> Any:
    torch.manual_seed(3)
    model = load_scorer(_config(world.model), CPU)
    if adapter:
        model = _perturbed(add_adapter(model, _config(world.model, use_peft=True, lora_r=4), task="SEQ_CLS"))
    save_model(model, make_tokenizer(), folder)
    return model


def _perturbed(adapted: Any) -> Any:
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return adapted


@cache
def _llama() -> tuple[Any, Any]:
    model = scorer("llama")
    return model, copy.deepcopy(model).double()


def _completions(groups: list[Group]) -> list[Any]:
    return [completion for group in groups for completion in group.completions]


def _naive(model: Any, groups: list[Group]) -> Tensor:
    """transformers' own scores of the prompt with each beginning of each completion, one at a time."""
    beginnings = [[*g.prompt, *one[:t]] for g in groups for one in g.completions for t in range(len(one))]
    return torch.cat([model(input_ids=torch.tensor([row])).logits[:, 0] for row in beginnings])


def _check(model: Any, wide: Any, path: ScorePath, groups: list[Group]) -> None:
    """Values, a squared loss and all gradients by ``path`` against float64, a beginning at a time."""
    model.zero_grad()
    wide.zero_grad()
    ours, truth = ValueEngine(model, path=path)(groups), _naive(wide, groups)
    assert ours.dtype == torch.float32 and ours.shape == truth.shape
    # A value is a product of vectors whose lengths, not whose product, set the rounding.
    assert torch.allclose(ours.double(), truth, rtol=1e-5, atol=1e-5 * (1 + float(truth.detach().abs().max())))
    for values in (ours, truth):
        (values - torch.linspace(-1, 1, len(values))).square().mean().backward()
    mine, theirs = (torch.cat([_gradient(p) for p in each.parameters()]) for each in (model, wide))
    assert (mine - theirs).norm() < 2e-5 * theirs.norm()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).double().flatten()
