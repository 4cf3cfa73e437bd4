"""Every path of the score engine gives the scores and gradients of the model's own forward pass on one sequence."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from preftune.errors import PreftuneError
from preftune.models import attention
from preftune.models.adapters import add_adapter, save_model
from preftune.models.layout import Group
from preftune.models.scores import PATHS, ScoreEngine, choose_path, find_score_head, score_items
from preftune.models.scores import Path as ScorePath
from preftune.models.settings import ModelConfig
from tests.models import tiny_models
from tests.models.tiny_scorers import scorer
from tests.tiny_world import make_tokenizer

EVERY_PATH = pytest.mark.parametrize("path", PATHS)
CHEAP_PATHS = pytest.mark.parametrize("path", ["packed", "plain"])
TOKENS = st.lists(st.integers(3, tiny_models.VOCAB - 1), min_size=1, max_size=10)  # 0 would be padding
BATCHES = st.lists(st.builds(lambda p, c, r: Group(p, (c, r)), TOKENS, TOKENS, TOKENS), min_size=1, max_size=4)

# Lengths that matter: a prompt of one token, completions of one, equal prompts, longer than every window.
PAIR_BATCH = [
    Group([5], ([7, 8, 9], [10])),
    Group([3, 4, 5, 6], ([11], [12])),
    Group([3, 4, 5, 6], ([13, 14, 15, 16, 17, 18, 19], [20, 21])),
    Group(list(range(30, 50)), (list(range(50, 62)), list(range(62, 71)))),
]
PATH_OF: dict[str, ScorePath] = {
    "llama": "packed",
    "gpt2": "packed",
    "gemma3": "packed",
    "qwen2": "packed",
    "qwen3": "packed",
    "opt": "packed",
    "mistral": "packed",
    "gemma2": "plain",  # caps its attention scores
    "bloom": "plain",  # positions are a bias made from the 2-D mask
    "falcon": "plain",  # its attention cannot be exchanged
}
BY_EVERY_PATH = [(name, path) for name, best in PATH_OF.items() for path in PATHS[PATHS.index(best) :]]
LORA = ModelConfig(model="unused", use_peft=True, lora_r=4)


# --- the model's own numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "path"), BY_EVERY_PATH)
def test_scores_and_gradients_are_those_of_the_model_on_one_sequence(name: str, path: ScorePath) -> None:
    model = scorer(name)
    _check(model, copy.deepcopy(model).double(), path, PAIR_BATCH)


@CHEAP_PATHS
@settings(max_examples=20, deadline=None)
@given(groups=BATCHES)
def test_any_shapes_give_the_models_own_scores(path: ScorePath, groups: list[Group]) -> None:
    model, wide = _llama()
    _check(model, wide, path, groups)


@pytest.mark.parametrize("name", PATH_OF)
def test_the_cheapest_path_that_fits_is_chosen_and_its_price_told_once(name: str) -> None:
    notes: list[str] = []
    assert ScoreEngine(scorer(name), note=notes.append).path == PATH_OF[name]
    assert len(notes) == (PATH_OF[name] != "packed")
    assert not notes or ("'plain'" in notes[0] and "\n" not in notes[0])


def test_a_head_of_two_layers_is_left_to_the_model_itself() -> None:
    model = scorer("llama")
    model.score = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    notes: list[str] = []
    engine = ScoreEngine(model, note=notes.append)
    assert engine.path == "own" and "more than one matrix" in notes[0]
    _check(model, copy.deepcopy(model).double(), "own", PAIR_BATCH)


def test_a_head_with_a_bias_is_computed_with_it() -> None:
    model = scorer("llama")
    model.score = nn.Linear(32, 1)
    with torch.no_grad():
        model.score.bias.fill_(3.0)
    assert ScoreEngine(model).path == "packed"
    _check(model, copy.deepcopy(model).double(), "packed", PAIR_BATCH)


def test_a_path_with_other_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from preftune.models.layout import Segment

    monkeypatch.setattr(Segment, "sees", lambda segment: torch.ones(segment.length, segment.length).tril().bool())
    model, notes = scorer("llama"), []
    before = model.config._attn_implementation
    assert choose_path(model, notes.append) == "plain"
    assert "differ by" in notes[0]
    assert model.config._attn_implementation == before


# --- which token is read --------------------------------------------------------------------------------


@EVERY_PATH
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_eos_that_also_pads_is_read_where_it_ends_the_answer(name: str, path: ScorePath) -> None:
    """And one inside is no end; token 0, which fills rows, is read like any other too."""
    eos = 2
    model = scorer(name, pad_token_id=eos, eos_token_id=eos)
    groups = [Group([5, eos, 6], ([7, eos, 8, eos], [9, eos])), Group([eos], ([eos, eos, eos], [10, 0]))]
    with torch.no_grad():
        ours = ScoreEngine(model, path=path)(groups)
        truth = torch.stack([_at_last_token(model, row) for row in _rows(groups)])
    assert torch.allclose(ours, truth, rtol=1e-5, atol=1e-5)
    assert model.config.pad_token_id == eos


@EVERY_PATH
def test_what_else_is_in_the_batch_changes_no_score(path: ScorePath) -> None:
    engine = ScoreEngine(scorer("llama"), path=path)
    with torch.no_grad():
        together = engine(PAIR_BATCH)
        alone = torch.cat([engine([Group(g.prompt, (c,))]) for g in PAIR_BATCH for c in g.completions])
        backwards = engine(PAIR_BATCH[::-1]).view(-1, 2).flip(0).reshape(-1)
    assert torch.allclose(together, alone, rtol=1e-5, atol=1e-5)
    assert torch.allclose(together, backwards, rtol=1e-5, atol=1e-5)


@CHEAP_PATHS
def test_bfloat16_makes_no_ties_that_the_model_did_not_make(path: ScorePath) -> None:
    """Scores near 100 lie half a point apart in bfloat16; the head's float32 product keeps them apart."""
    model = scorer("llama").bfloat16()
    with torch.no_grad():
        model.score.weight.mul_(20)
        groups = [Group([5, 6, 7], tuple([token] for token in range(3, 97)))]
        ours, own = (ScoreEngine(model, path=which)(groups) for which in (path, "own"))
    assert ours.dtype == torch.float32
    assert len(set(ours.tolist())) == ours.numel() > len(set(own.tolist()))
    assert (ours - own).abs().max() < 0.1 * own.abs().max()


def test_autocast_gives_float32_scores_near_the_exact_ones() -> None:
    model = scorer("llama")
    engine = ScoreEngine(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        cast = engine(PAIR_BATCH)
    with torch.no_grad():
        exact = engine(PAIR_BATCH)
    assert cast.dtype == torch.float32
    assert (cast - exact).abs().max() < 0.1 * exact.abs().max()


# --- adapters and folders -------------------------------------------------------------------------------


@EVERY_PATH
def test_an_adapters_head_counts_while_it_is_on_and_only_then(path: ScorePath) -> None:
    bare = scorer("llama")
    adapted = _adapted(copy.deepcopy(bare))
    engine = ScoreEngine(adapted, path=path)
    with torch.no_grad():
        on, truth_on = engine(PAIR_BATCH), _own(adapted.get_base_model(), PAIR_BATCH)
        with adapted.disable_adapter():
            off = engine(PAIR_BATCH)
    assert torch.allclose(on, truth_on, rtol=1e-5, atol=1e-5)
    assert torch.allclose(off, _own(bare, PAIR_BATCH), rtol=1e-5, atol=1e-5)
    assert ((on - off).abs() > 1e-3).all()


def test_an_adapter_trains_itself_and_the_head_and_nothing_else() -> None:
    adapted = _adapted(scorer("llama"))
    ScoreEngine(adapted)(PAIR_BATCH).square().sum().backward()
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "score.modules_to_save" in name for name in trained)
    assert sum("score.modules_to_save" in name for name in trained) == 1
    assert not any("lora" in name and "score" in name for name in trained)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_saved_folders_give_the_same_scores_in_transformers_and_peft(kind: str, tmp_path: Path) -> None:
    model, tokenizer = scorer("llama"), make_tokenizer()
    save_model(model, tokenizer, tmp_path / "base")
    if kind == "lora":
        loaded = tf.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
        model = _adapted(loaded)
    engine = ScoreEngine(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        engine(PAIR_BATCH).tanh().sum().backward()
        optimizer.step()
    with torch.no_grad():
        trained = engine(PAIR_BATCH)
    folder = tmp_path / "trained"
    save_model(model, tokenizer, folder)
    if kind == "full":
        again: Any = tf.AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        again = peft.AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    with torch.no_grad():
        assert torch.allclose(_own(again.eval(), PAIR_BATCH), trained, rtol=1e-5, atol=1e-5)
        assert torch.allclose(_own_padded(again, PAIR_BATCH), trained, rtol=1e-5, atol=1e-5)
    assert not any(path.suffix in (".bin", ".pt", ".pkl") for path in folder.iterdir())
    assert attention.NAME not in (folder / ("config.json" if kind == "full" else "adapter_config.json")).read_text()


# --- scoring items --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Item:
    id: str
    prompt: np.ndarray
    completions: tuple[np.ndarray, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(len(one) for one in self.completions)


def test_items_are_scored_in_their_order_whatever_the_batch() -> None:
    engine = ScoreEngine(scorer("llama")).train()
    items = [
        _Item(str(i), np.array(g.prompt), tuple(np.array(c) for c in g.completions)) for i, g in enumerate(PAIR_BATCH)
    ]
    with torch.no_grad():
        truth = engine(PAIR_BATCH).view(-1, 2).numpy()
    seen: list[int] = []
    for batch_size in (1, 3, 8):
        assert np.allclose(score_items(engine, items, batch_size, seen.append), truth, rtol=1e-5, atol=1e-5)
    assert sum(seen) == 3 * len(items)
    assert engine.training
    assert score_items(engine, [], 4).size == 0


# --- what is no reward model ----------------------------------------------------------------------------


def test_a_language_model_gives_no_scores() -> None:
    with pytest.raises(PreftuneError, match=r"LlamaForCausalLM gives no scores.*load_scorer"):
        ScoreEngine(tiny_models.llama())


def test_a_classifier_of_three_labels_is_refused() -> None:
    config = copy.deepcopy(tiny_models.llama().config)
    config.num_labels = 3  # type: ignore[union-attr, assignment]
    with pytest.raises(PreftuneError, match="3 labels"):
        ScoreEngine(tf.AutoModelForSequenceClassification.from_config(config))


def test_an_encoder_decoder_is_refused() -> None:
    config = tf.T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, num_labels=1)
    with pytest.raises(PreftuneError, match="encoder-decoder"):
        ScoreEngine(tf.T5ForSequenceClassification(config))


@cache
def _llama() -> tuple[Any, Any]:
    model = scorer("llama")
    return model, copy.deepcopy(model).double()


def _adapted(model: Any) -> Any:
    adapted: Any = add_adapter(model, LORA, task="SEQ_CLS")
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "score.modules_to_save" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return adapted


def _rows(groups: list[Group]) -> list[list[int]]:
    return [[*group.prompt, *completion] for group in groups for completion in group.completions]


def _own(model: Any, groups: list[Group]) -> Tensor:
    """transformers' own scores, a sequence at a time, no padding anywhere."""
    return torch.cat([model(input_ids=torch.tensor([row])).logits[:, 0] for row in _rows(groups)])


def _own_padded(model: Any, groups: list[Group]) -> Tensor:
    """transformers' own scores in one batch, padded on the right with the config's padding."""
    rows = _rows(groups)
    width, pad = max(map(len, rows)), model.config.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask).logits[:, 0]


def _at_last_token(model: Any, row: list[int]) -> Tensor:
    hidden = model.base_model(input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row))).last_hidden_state
    return model.score(hidden)[0, -1, 0]


def _check(model: Any, wide: Any, path: ScorePath, groups: list[Group]) -> None:
    """Scores, a Bradley-Terry loss and all gradients by ``path`` against float64, one sequence at a time."""
    model.zero_grad()
    wide.zero_grad()
    ours, truth = ScoreEngine(model, path=path)(groups), _own(wide, groups)
    assert ours.dtype == torch.float32
    # A score is a product of vectors whose lengths, not whose product, set the rounding.
    assert torch.allclose(ours.double(), truth, rtol=1e-5, atol=2e-5 * (1 + float(truth.detach().abs().max())))
    for scores in (ours, truth):
        (-nn.functional.logsigmoid(0.1 * (scores[0::2] - scores[1::2])).mean() + 0.01 * scores.mean()).backward()
    mine, theirs = (torch.cat([_gradient(p) for p in each.parameters()]) for each in (model, wide))
    assert (mine - theirs).norm() < 2e-5 * theirs.norm()
    if find_score_head(model) is not None:
        assert torch.allclose(model.score.weight.grad.double(), wide.score.weight.grad, rtol=1e-4, atol=1e-5)


def _gradient(parameter: nn.Parameter) -> Tensor:
    return (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).double().flatten()
