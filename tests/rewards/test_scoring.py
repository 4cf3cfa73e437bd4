"""Scores of answers from a folder: the tokens of training, the model's own numbers, in the order asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from preftune.data.records import Pair
from preftune.data.tokens import tokenize_pairs
from preftune.errors import PreftuneError
from preftune.models.adapters import save_model
from preftune.models.layout import Group
from preftune.models.reward_models import load_scorer
from preftune.models.scores import score_items
from preftune.models.settings import ModelConfig
from preftune.rewards import Calibration, Scorer, open_scorer, score, score_texts
from preftune.rewards.scoring import read_calibration
from tests.tiny_world import World, make_tokenizer, pair_rows

PROMPTS = ["Could you find the river?", "Could you open the very old letter number 12 for me?", "Could you count?"]
COMPLETIONS = [" certainly", " never a letter in here, never at all", " certainly the count can be done"]


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of the tiny world, its head drawn and not trained."""
    torch.manual_seed(0)
    model = load_scorer(ModelConfig(model=str(world.model), dtype="float32"), torch.device("cpu"))
    with torch.no_grad():
        model.score.weight.mul_(5)  # type: ignore[union-attr, operator]
    place = tmp_path_factory.mktemp("reward") / "model"
    save_model(model, make_tokenizer(), place)
    return place


@pytest.fixture(scope="module")
def scorer(folder: Path) -> Scorer:
    return open_scorer(ModelConfig(model=str(folder), dtype="float32"))


def test_a_score_is_transformers_own_on_the_same_tokens(folder: Path, scorer: Scorer) -> None:
    model: Any = tf.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = make_tokenizer()
    expected = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        ids = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            expected.append(model(torch.tensor([ids])).logits.item())
    found = score(scorer, PROMPTS, COMPLETIONS)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(found) > 0.1


def test_a_folder_is_scored_like_its_open_model(folder: Path, scorer: Scorer) -> None:
    assert np.allclose(score(folder, PROMPTS[:1], COMPLETIONS[:1]), score(scorer, PROMPTS[:1], COMPLETIONS[:1]), 0.05)


@pytest.mark.parametrize("conversational", [False, True])
def test_training_and_scoring_see_the_same_tokens(scorer: Scorer, conversational: bool) -> None:
    """The scores of pairs as a run would measure them, against those of their sides scored one by one."""
    pairs = [Pair.model_validate(row) for row in pair_rows(8, conversational=conversational)]
    tokens = tokenize_pairs(pairs, scorer.tokenizer)
    expected = score_items(scorer.engine, tokens.pairs, 4)
    for side, name in enumerate(("chosen", "rejected")):
        found = score(scorer, [pair.prompt for pair in pairs], [getattr(pair, name) for pair in pairs])
        assert np.allclose(found, expected[:, side], rtol=1e-5, atol=1e-5)


def test_order_and_batch_size_change_no_score(scorer: Scorer) -> None:
    truth = score(scorer, PROMPTS, COMPLETIONS)
    for batch_size in (1, 2):
        assert np.allclose(score(scorer, PROMPTS, COMPLETIONS, batch_size=batch_size), truth, rtol=1e-5, atol=1e-5)
    assert np.allclose(score(scorer, PROMPTS[::-1], COMPLETIONS[::-1]), truth[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pad", ["</s>", "<pad>"])
def test_a_tokenizer_that_pads_on_the_left_or_with_eos_changes_no_score(scorer: Scorer, pad: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.padding_side, tokenizer.pad_token = "left", pad
    left = Scorer(scorer.name, scorer.engine, tokenizer)
    assert np.array_equal(score(left, PROMPTS, COMPLETIONS), score(scorer, PROMPTS, COMPLETIONS))


def test_chat_messages_are_scored_through_the_template(scorer: Scorer) -> None:
    chat = score(scorer, [[{"role": "user", "content": PROMPTS[0]}]], [[{"role": "assistant", "content": "certainly"}]])
    text = f"<|user|>\n{PROMPTS[0]}</s>\n<|assistant|>\ncertainly</s>"
    ids = make_tokenizer()(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        expected = scorer.engine([Group(ids[:5], (ids[5:],))]).numpy()
    assert np.allclose(chat, expected, rtol=1e-5, atol=1e-5)


def test_an_answer_that_cannot_be_scored_is_named_and_costs_the_others_nothing(scorer: Scorer) -> None:
    messages = [{"role": "user", "content": "hi"}]
    found = score_texts(scorer, [PROMPTS[0], messages, 3, PROMPTS[1]], [COMPLETIONS[0], "text", " x", COMPLETIONS[1]])  # type: ignore[list-item]
    assert np.isnan(found.values).tolist() == [False, True, True, False]
    assert [dropped.id for dropped in found.dropped] == ["1", "2"]
    assert np.allclose(found.values[[0, 3]], score(scorer, PROMPTS[:2], COMPLETIONS[:2]), rtol=1e-5, atol=1e-5)
    with pytest.raises(PreftuneError, match="No answer can be scored"):
        score(scorer, [messages], ["text"])


def test_a_long_answer_is_cut_as_in_training(scorer: Scorer) -> None:
    cut = score(scorer, PROMPTS[1:2], COMPLETIONS[1:2], max_length=12)
    assert np.isfinite(cut).all() and not np.allclose(cut, score(scorer, PROMPTS[1:2], COMPLETIONS[1:2]))


def test_progress_counts_every_answer(scorer: Scorer) -> None:
    seen: list[int] = []
    score_texts(scorer, PROMPTS, COMPLETIONS, batch_size=2, progress=seen.append)
    assert sum(seen) == 3


def test_nothing_to_score_is_no_error(scorer: Scorer) -> None:
    assert score(scorer, [], []).shape == (0,)


def test_unequal_lists_are_refused(scorer: Scorer) -> None:
    with pytest.raises(PreftuneError, match="3 prompts and 1 completions"):
        score(scorer, PROMPTS, COMPLETIONS[:1])


def test_a_language_model_scores_nothing(world: World) -> None:
    with pytest.raises(PreftuneError, match="not a reward model"):
        score(world.model, PROMPTS, COMPLETIONS)


# --- calibration ----------------------------------------------------------------------------------------


def test_scores_are_centred_and_scaled_by_the_calibration_beside_the_model(scorer: Scorer) -> None:
    calibrated = Scorer(scorer.name, scorer.engine, scorer.tokenizer, Calibration(mean=0.5, temperature=2.0))
    raw = score(scorer, PROMPTS, COMPLETIONS)
    assert np.allclose(score(calibrated, PROMPTS, COMPLETIONS), (raw - 0.5) / 2)


def test_the_calibration_is_read_from_the_models_folder(tmp_path: Path) -> None:
    assert read_calibration(tmp_path) == Calibration(0.0, 1.0)
    (tmp_path / "reward.json").write_text(json.dumps({"mean": -1.5, "temperature": 3, "pairs": 100}))
    assert read_calibration(tmp_path) == Calibration(-1.5, 3.0)


@pytest.mark.parametrize("content", ["{", "[1]", '{"mean": "much"}', '{"temperature": 0}', '{"mean": NaN}'])
def test_a_calibration_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "reward.json").write_text(content)
    with pytest.raises(PreftuneError, match=r"reward\.json.*calibration"):
        read_calibration(tmp_path)
