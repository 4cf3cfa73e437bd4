"""The reference: where its log-probs come from, and that a movement of it does not go unseen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preftune.data.records import Pair
from preftune.data.tokens import TokenPair, tokenize_pairs
from preftune.errors import PreftuneError
from preftune.models.adapters import add_adapter
from preftune.models.cache import cache_folder
from preftune.models.logprobs import LogProbEngine
from preftune.models.reference import (
    FrozenModel,
    Reference,
    ReferenceGuard,
    adapter_off,
    computed_once,
    groups_of,
    live,
    separate_model,
    starting_weights,
)
from preftune.models.settings import ModelConfig
from tests.tiny_world import make_model, make_tokenizer, pair_rows

TOKENIZER = make_tokenizer()
PAIRS: tuple[TokenPair, ...] = tokenize_pairs([Pair(**row) for row in pair_rows(10)], TOKENIZER).pairs


def _engine(seed: int = 0, **changes: Any) -> LogProbEngine:
    return LogProbEngine(make_model(len(TOKENIZER), seed=seed, **changes))


def _engine_with_adapter() -> LogProbEngine:
    model = make_model(len(TOKENIZER)).requires_grad_(False)
    engine = LogProbEngine(add_adapter(model, ModelConfig(model="unused", use_peft=True, lora_r=4)))
    _shake_adapter(engine)
    return engine


def _shake_adapter(engine: LogProbEngine) -> None:
    """As training does: B, zero at first, is no longer."""
    with torch.no_grad():
        for parameter in engine.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


# --- movements ------------------------------------------------------------------------------------------


def _edit_weight(engine: LogProbEngine) -> None:
    with torch.no_grad():
        engine.model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6  # type: ignore[union-attr, index]


def _swap_rows(engine: LogProbEngine) -> None:
    with torch.no_grad():
        weight = engine.model.lm_head.weight  # type: ignore[union-attr]
        weight[[7, 8]] = weight[[8, 7]]  # type: ignore[index]


def _edit_buffer(engine: LogProbEngine) -> None:
    engine.model.model.rotary_emb.inv_freq.mul_(2)  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("move", [_edit_weight, _swap_rows, _edit_buffer])
def test_live_reference_that_moves_is_found(move: Callable[[LogProbEngine], None]) -> None:
    engine = _engine()
    guard = ReferenceGuard(live(separate_model(engine)))
    guard.check("step 1")
    move(engine)
    with pytest.raises(PreftuneError, match=r"separate model.*has moved: at step 2") as raised:
        guard.check("step 2")
    assert raised.value.mend is not None


def test_adapter_whose_base_moves_is_found_and_training_the_adapter_is_no_movement() -> None:
    engine = _engine_with_adapter()
    guard = ReferenceGuard(live(adapter_off(engine)))
    _shake_adapter(engine)
    guard.check("step 1")
    with torch.no_grad():
        engine.model.get_base_model().model.norm.weight[0] += 1e-6  # type: ignore[operator]
    with pytest.raises(PreftuneError, match="adapter switched off"):
        guard.check("step 2")


def test_table_that_is_edited_is_found() -> None:
    table = computed_once(starting_weights(_engine()), PAIRS, batch_size=4, key="")
    guard = ReferenceGuard(table)
    _table_of(table)[3, 1] += 1e-4
    with pytest.raises(PreftuneError, match="log-probs computed once"):
        guard.check("step 1")


def test_table_does_not_follow_the_policy() -> None:
    engine = _engine()
    table = computed_once(starting_weights(engine), PAIRS, batch_size=4, key="")
    guard, before = ReferenceGuard(table), table.log_probs(PAIRS).clone()
    _edit_weight(engine)
    guard.check("step 1")
    assert torch.equal(table.log_probs(PAIRS), before)
    assert guard.record() == {
        "kind": "log-probs computed once, starting weights",
        "at_start": guard.at_start,
        "at_end": guard.at_start,
        "checks": 2,
    }


# --- the same numbers from every source -----------------------------------------------------------------


def test_adapter_switched_off_gives_the_base_models_log_probs() -> None:
    """And only for as long as the reference is asked."""
    engine, plain = _engine_with_adapter(), _engine()
    policy = engine(groups_of(PAIRS)).sums()
    expected = plain(groups_of(PAIRS)).sums().view(-1, 2)
    found = live(adapter_off(engine)).log_probs(PAIRS)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-5)
    assert not torch.allclose(policy.view(-1, 2), expected, atol=1e-2)
    assert torch.equal(engine(groups_of(PAIRS)).sums(), policy)


@pytest.mark.parametrize("source", [starting_weights, separate_model])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_table_equals_the_live_reference(source: Callable[[LogProbEngine], FrozenModel], batch_size: int) -> None:
    """In whatever order and company pairs are asked for."""
    engine = _engine()
    table = computed_once(source(engine), PAIRS, batch_size=batch_size, key="")
    order = [7, 0, 7, 3]
    asked = [PAIRS[i] for i in order]
    assert torch.allclose(table.log_probs(asked), live(source(engine)).log_probs(asked), rtol=1e-6, atol=1e-5)
    assert torch.equal(table.log_probs(asked), table.log_probs(PAIRS)[order])


def test_reference_is_asked_without_gradients_dropout_or_training_mode() -> None:
    engine = _engine()
    engine.model.model.embed_tokens.register_forward_hook(  # type: ignore[union-attr]
        lambda module, _, output: torch.nn.functional.dropout(output, 0.5, training=module.training)
    )
    engine.train()
    reference = live(starting_weights(engine))
    assert not reference.log_probs(PAIRS).requires_grad
    assert torch.equal(reference.log_probs(PAIRS), reference.log_probs(PAIRS))
    assert engine.training
    separate_model(engine)
    assert not any(parameter.requires_grad for parameter in engine.parameters())


def test_pairs_of_one_id_keep_their_own_log_probs() -> None:
    """Ids may repeat in the data."""
    twins = [replace(pair, id="same") for pair in PAIRS]
    table = computed_once(starting_weights(_engine()), twins, batch_size=4, key="")
    assert len({tuple(row) for row in table.log_probs(twins).tolist()}) == len(PAIRS)


def test_pair_the_table_does_not_hold_is_a_key_error() -> None:
    table = computed_once(starting_weights(_engine()), PAIRS[:3], batch_size=4, key="")
    with pytest.raises(KeyError):
        table.log_probs(PAIRS[3:4])


def test_no_pairs_make_an_empty_table() -> None:
    table = computed_once(starting_weights(_engine()), [], batch_size=4, key="")
    assert table.log_probs([]).shape == (0, 2)


# --- the cache ------------------------------------------------------------------------------------------


def test_table_in_the_cache_is_read_without_asking_the_model() -> None:
    model = starting_weights(_engine())
    first = computed_once(model, PAIRS, batch_size=4, key="")
    told: list[int] = []
    again = computed_once(replace(model, log_probs=_never), PAIRS, batch_size=4, key="", progress=told.append)
    assert torch.equal(first.log_probs(PAIRS), again.log_probs(PAIRS))
    assert first.fingerprint() == again.fingerprint()
    assert told == [len(PAIRS)]


def test_cache_is_keyed_by_weights_tokens_and_path() -> None:
    engine = _engine()
    model = starting_weights(engine)
    computed_once(model, PAIRS, batch_size=4, key="packed float32")
    with pytest.raises(AssertionError):
        computed_once(replace(model, log_probs=_never), PAIRS, batch_size=4, key="packed bfloat16")
    with pytest.raises(AssertionError):
        computed_once(replace(model, log_probs=_never), PAIRS[::-1], batch_size=4, key="packed float32")
    _edit_weight(engine)
    with pytest.raises(AssertionError):
        computed_once(replace(model, log_probs=_never), PAIRS, batch_size=4, key="packed float32")


def test_cache_is_keyed_by_settings_that_are_no_weights() -> None:
    """The same weights with another norm epsilon are another model."""
    computed_once(starting_weights(_engine()), PAIRS, batch_size=4, key="")
    other = starting_weights(_engine(rms_norm_eps=1e-2))
    with pytest.raises(AssertionError):
        computed_once(replace(other, log_probs=_never), PAIRS, batch_size=4, key="")
    computed_once(replace(starting_weights(_engine()), log_probs=_never), PAIRS, batch_size=4, key="")


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_damaged_cache_file_is_computed_anew(damage: bytes | None) -> None:
    model = starting_weights(_engine())
    first = computed_once(model, PAIRS, batch_size=4, key="")
    (file,) = cache_folder("reference").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-8] if damage is None else damage)
    again = computed_once(model, PAIRS, batch_size=4, key="")
    assert torch.equal(first.log_probs(PAIRS), again.log_probs(PAIRS))
    assert computed_once(replace(model, log_probs=_never), PAIRS, batch_size=4, key="").kind == first.kind


@pytest.mark.parametrize(
    ("set_to", "expected"),
    [
        ({"PREFTUNE_CACHE": "{tmp}/mine"}, "{tmp}/mine/a/b"),
        ({"XDG_CACHE_HOME": "{tmp}/xdg"}, "{tmp}/xdg/preftune/a/b"),
        ({"HOME": "{tmp}/home"}, "{tmp}/home/.cache/preftune/a/b"),
    ],
)
def test_cache_folder_follows_the_environment(
    set_to: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in set_to.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    folder = cache_folder("a", "b")
    assert str(folder) == expected.format(tmp=tmp_path)
    assert folder.is_dir()


def _table_of(reference: Reference) -> Tensor:
    cells = [cell.cell_contents for cell in reference.log_probs.__closure__ or ()]  # type: ignore[attr-defined]
    (table,) = (cell for cell in cells if isinstance(cell, Tensor))
    return table


def _never(groups: Sequence[Any]) -> Tensor:
    raise AssertionError("the model was asked")
