"""Best of n: which two become a pair, what is left out, and what the figures say."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.collect.best_of_n import Choosing, best_of_given, best_of_n, chosen_two
from preftune.collect.best_of_n_figures import BestOfN, kl_of_best, mean_of_best, mean_over_prompts
from preftune.collect.generation import Text
from preftune.data.read import read_pairs, read_prompts
from preftune.data.records import PromptRecord
from preftune.errors import PreftuneError
from preftune.rewards import open_rewards
from tests.collect.scripted import Scripted, last_turn
from tests.tiny_world import read_rows

PROMPTS = [PromptRecord(prompt=f"Say {number}.", id=f"p{number}") for number in range(7)]
SCORES = st.lists(st.integers(-3, 3).map(float) | st.just(math.nan), min_size=2, max_size=8)


def grade(completions: Sequence[Any], **columns: Any) -> list[float]:
    """The number at the end of the completion."""
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [float(text.split()[-1]) for text in texts]


def numbered(prompt: Any, number: int, seed: int) -> str:
    """Completions worth 0, 1, 2 and again 0, 1, 2."""
    return f"worth {number % 3}"


def made(tmp_path: Path, generator: Scripted, prompts: Any = PROMPTS, rewards: Any = (grade,), **how: Any) -> BestOfN:
    return best_of_n(prompts, generator, open_rewards(list(rewards)), tmp_path / "pairs.jsonl", **how)


# --- figures --------------------------------------------------------------------------------------------


def test_kl_is_the_formulas() -> None:
    assert kl_of_best(1) == 0.0
    assert kl_of_best(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of_best(64) == pytest.approx(math.log(64) - 63 / 64)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_kl_bounds_that_of_a_discrete_sampler_and_meets_it_where_nothing_ties(n: int) -> None:
    def kl(size: int) -> float:
        """Of the best of n equally likely texts of distinct rewards, summed up."""
        at_most = np.arange(size + 1) / size
        best = np.diff(at_most**n)
        return float(np.sum(best * np.log(best * size)))

    assert kl(3) < kl(100) < kl_of_best(n)
    assert kl(200_000) == pytest.approx(kl_of_best(n), abs=1e-4)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=7), st.data())
@settings(max_examples=50)
def test_best_of_k_is_the_mean_over_all_choices_of_k(scores: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, len(scores)))
    wanted = np.mean([max(chosen) for chosen in itertools.combinations(scores, k)])
    assert mean_of_best(scores, k) == pytest.approx(wanted, abs=1e-9)


def test_values_of_one_prompt_are_drawn_together() -> None:
    values = np.random.default_rng(0).normal(size=200).tolist()
    apart = mean_over_prompts(values, [str(n) for n in range(200)], "t", "e", 0)
    together = mean_over_prompts(values * 2, [str(n) for n in range(200)] * 2, "t", "e", 0)
    assert (together.low, together.high) == (pytest.approx(apart.low), pytest.approx(apart.high))
    assert together.n == 400 and apart.low is not None and apart.high is not None
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * np.std(values) / math.sqrt(200), rel=0.1)


def test_too_little_has_no_interval() -> None:
    assert mean_over_prompts([], [], "t", "e", 0).value is None
    one = mean_over_prompts([1.0, 2.0], ["a", "a"], "t", "e", 0)
    assert (one.value, one.low, one.high) == (1.5, None, None)


# --- choosing -------------------------------------------------------------------------------------------


@given(SCORES, st.sampled_from(["extremes", "random", "band"]), st.integers(0, 99))
@settings(max_examples=150)
def test_the_better_is_better_and_fits_the_pairing(scores: list[float], pairing: Any, seed: int) -> None:
    choosing = Choosing(pairing, *((1.0, 2.0) if pairing == "band" else ()), seed=seed)
    best, worst, why = chosen_two(scores, choosing, "ab")
    known = [score for score in scores if not math.isnan(score)]
    gaps = {a - b for a in known for b in known if a > b}
    if why is not None:
        wanted = {"too-few-scores": len(known) < 2, "zero-spread": len(known) >= 2 and not gaps}
        assert wanted.get(why[0], not any(1 <= gap <= 2 for gap in gaps))
        return
    assert scores[best] > scores[worst]
    if pairing == "band":
        assert 1 <= scores[best] - scores[worst] <= 2
    else:
        assert scores[best] == max(known) and (pairing == "random" or scores[worst] == min(known))


def test_among_equals_the_seed_draws_and_reaches_all() -> None:
    scores = [1.0, 0.0, 1.0, 0.0, 0.5]
    drawn = [chosen_two(scores, Choosing(), f"{n:x}")[:2] for n in range(100)]
    assert set(drawn) == {(0, 1), (0, 3), (2, 1), (2, 3)}
    assert drawn == [chosen_two(scores, Choosing(), f"{n:x}")[:2] for n in range(100)]
    assert drawn != [chosen_two(scores, Choosing(seed=1), f"{n:x}")[:2] for n in range(100)]


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ({"pairing": "top"}, "no pairing 'top'"),
        ({"low": 1.0}, "without a band"),
        ({"pairing": "band", "low": 2.0, "high": 1.0}, "from 2 to 1"),
    ],
)
def test_choosings_that_cannot_be_are_refused(how: Any, what: str) -> None:
    with pytest.raises(PreftuneError, match=what):
        Choosing(**how)


# --- drawn completions ----------------------------------------------------------------------------------


def test_the_best_is_preferred_to_the_worst_with_the_gap_as_margin(tmp_path: Path) -> None:
    found = made(tmp_path, Scripted(numbered), n=4)
    pairs = read_pairs(tmp_path / "pairs.jsonl").records
    assert {(pair.chosen, pair.rejected, pair.margin) for pair in pairs} == {("worth 2", "worth 0", 2.0)}
    row = read_rows(tmp_path / "pairs.jsonl")[0]
    assert row["meta"]["scores"] == [0.0, 1.0, 2.0, 0.0] and row["meta"]["n"] == 4
    assert row["source"]["kind"] == "best-of-n" and row["source"]["rewards"] == ["grade"]
    assert row["source"]["model"] == "scripted" and row["source"]["sampling"]["temperature"] == 1.0
    assert (found.best.value, found.mean.value, found.gain.value, found.margin.value) == (2.0, 0.75, 1.25, 2.0)
    assert found.kl == {4: kl_of_best(4)}
    assert [point["reward"]["value"] for point in found.curve] == [
        0.75,
        pytest.approx(mean_of_best([0, 1, 2, 0], 2)),
        2.0,
    ]


def test_completions_without_spread_give_no_pair_and_are_counted(tmp_path: Path) -> None:
    found = made(tmp_path, Scripted(lambda p, number, seed: f"worth {number if 'Say 0' in p else 1}"), n=3)
    assert found.written.reasons() == {"zero-spread": 6} and len(found.written.made) == 1
    assert found.gain.value == pytest.approx(1 / 7) and found.gain.n == 7
    row = read_rows(tmp_path / "pairs.left-out.jsonl")[0]
    assert row["scores"] == [1.0, 1.0, 1.0] and row["completions"] == ["worth 1"] * 3


def test_what_the_length_cut_is_left_aside_and_counted(tmp_path: Path) -> None:
    def cut(prompt: Any, number: int, seed: int) -> Text:
        return Text(f"worth {number}", finished=number < 2)

    found = made(tmp_path, Scripted(cut), n=4)
    assert found.margin.value == 1.0 and found.cut_off.value == 0.5
    assert "the length cut 50% of the completions" in " ".join(found.as_dict()["warnings"])
    kept = made(tmp_path / "kept", Scripted(cut), n=4, choosing=Choosing(keep_cut=True))
    assert kept.margin.value == 3.0


def test_completions_that_did_not_come_or_say_nothing_are_none(tmp_path: Path) -> None:
    def say(prompt: str, number: int, seed: int) -> str | Text:
        if "Say 0" in prompt:
            return Text(None, failure="503") if number else "worth 1"
        return " " if "Say 1" in prompt and number else f"worth {number}"

    found = made(tmp_path, Scripted(say), n=3)
    assert found.written.reasons() == {"failed": 1, "too-few-completions": 1}


def test_several_rewards_are_summed_by_weight_and_kept_apart(tmp_path: Path) -> None:
    def brief(completions: Sequence[str], **columns: Any) -> list[float]:
        return [-float(text.split()[-1]) for text in completions]

    rewards = open_rewards([grade, brief], weights=[1.0, 3.0])
    found = best_of_n(PROMPTS, Scripted(numbered), rewards, tmp_path / "pairs.jsonl", n=3)
    row = found.written.made[0]
    assert row["chosen"] == "worth 0" and row["margin"] == 4.0
    assert row["meta"]["rewards"] == {"grade": [0.0, 1.0, 2.0], "brief": [-0.0, -1.0, -2.0]}


def test_a_reward_that_fails_on_one_completion_spares_the_others(tmp_path: Path) -> None:
    found = made(tmp_path, Scripted(lambda p, number, seed: "worth nothing" if number == 2 else f"worth {number}"), n=4)
    assert {tuple(row["meta"]["scores"]) for row in found.written.made} == {(0.0, 1.0, None, 3.0)}


def test_texts_are_asked_as_chats_where_that_is_wanted(tmp_path: Path) -> None:
    generator = Scripted(numbered)
    made(tmp_path, generator, n=3, is_chat=True)
    assert generator.asked[0] == [{"role": "user", "content": "Say 0."}]
    row = read_rows(tmp_path / "pairs.jsonl")[0]
    assert row["prompt"] == generator.asked[0] and row["chosen"] == [{"role": "assistant", "content": "worth 2"}]


def test_rewards_are_given_the_rows_columns(tmp_path: Path) -> None:
    rows = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "1 + 2?", "answer": "3"}, {"prompt": "Hello?"}]
    generator = Scripted(lambda prompt, number, seed: f"It is {number}.")
    found = made(tmp_path, generator, read_prompts(rows).records, ["accuracy"], n=4, block=2)
    assert [row["chosen"] for row in found.written.made] == ["It is 2.", "It is 3."]
    assert found.written.reasons() == {"too-few-scores": 1}


def test_a_stopped_run_goes_on_to_the_rows_of_one_that_was_not(tmp_path: Path) -> None:
    def seeded(prompt: Any, number: int, seed: int) -> str:
        return f"{last_turn(prompt)} worth {np.random.default_rng([seed, number]).integers(9)}"

    whole = made(tmp_path / "whole", Scripted(seeded), n=4, block=2)
    calls = 0

    def dies(prompt: Any, number: int, seed: int) -> str:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return seeded(prompt, number, seed)

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "half", Scripted(dies), n=4, block=2)
    resumed = made(tmp_path / "half", Scripted(seeded), n=4, block=2)
    assert resumed.written.new == 5
    assert [timeless(row) for row in resumed.written.made] == [timeless(row) for row in whole.written.made]
    assert resumed.gain == whole.gain


def timeless(row: Any) -> str:
    return json.dumps(row | {"source": row["source"] | {"time": None}})


def test_one_completion_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="n is 1"):
        made(tmp_path, Scripted(), n=1)


# --- given completions ----------------------------------------------------------------------------------

SOLVED = [
    {
        "prompt": "What is 2 + 2?",
        "answer": "4",
        "completions": [{"text": "2 + 2 = 4\nA: 4", "model": "m"}, {"text": "A: 5", "model": "m"}],
    },
    {"prompt": "What is 2 + 3?", "answer": "5", "completions": [{"text": "A: 5"}, {"text": "So 5."}]},
]


def test_right_solutions_are_preferred_to_wrong_ones(tmp_path: Path) -> None:
    found = best_of_given(read_prompts(SOLVED).records, open_rewards(["accuracy"]), tmp_path / "a.jsonl")
    (row,) = found.written.made
    assert (row["chosen"], row["rejected"]) == ("2 + 2 = 4\nA: 4", "A: 5") and row["margin"] == 1.0
    assert row["source"]["models"] == {"chosen": "m", "rejected": "m"} and row["source"]["model"] is None
    assert found.written.reasons() == {"zero-spread": 1} and found.kl == {2: kl_of_best(2)}


def test_completions_of_several_models_have_no_kl(tmp_path: Path) -> None:
    texts = [{"text": f"A: {n}", "model": f"m{n}"} for n in (4, 5)]
    rows = read_prompts([SOLVED[0] | {"completions": texts}]).records
    document = best_of_given(rows, open_rewards(["accuracy"]), tmp_path / "a.jsonl").as_dict()
    assert document["kl"]["bound"] is None and document["curve"][0]["kl"] is None


@pytest.mark.parametrize("form", ["column", "beside"])
def test_scores_that_rows_bring_decide_without_a_reward(tmp_path: Path, form: str) -> None:
    texts, scores = ["one", "two", "three"], [0.1, None, 0.9]
    row: dict[str, Any] = {"prompt": "Q?", "completions": texts, "scores": scores}
    if form == "beside":
        both = zip(texts, scores, strict=True)
        row = {"prompt": "Q?", "completions": [{"text": text, "score": score} for text, score in both]}
    found = best_of_given(read_prompts([row]).records, None, tmp_path / "a.jsonl")
    assert found.written.made[0]["chosen"] == "three" and found.written.made[0]["margin"] == pytest.approx(0.8)
    assert found.written.made[0]["source"]["rewards"] == ["given scores"]


def test_rows_whose_completions_cannot_be_read_are_counted(tmp_path: Path) -> None:
    bad: list[Any] = ["one text", [1, 2], [{"say": "x"}, "y"], ["only one"], ["one", "  "]]
    rows: list[Any] = [{"prompt": f"Q{n}?", "completions": value} for n, value in enumerate(bad)]
    rows += [{"prompt": "Qs?", "completions": ["a", "b"], "scores": [1.0]}, {"prompt": "None?"}]
    rows += [{"prompt": "Good?", "completions": ["a", "b"], "scores": [1.0, 0.0]}]
    found = best_of_given(read_prompts(rows).records, None, tmp_path / "a.jsonl")
    assert found.written.reasons() == {"wrong-type": 4, "too-few-completions": 2, "missing-field": 1}
    assert len(found.written.made) == 1
    assert "completions[0]" in read_rows(tmp_path / "a.left-out.jsonl")[1]["mend"]


def test_data_without_completions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PreftuneError, match="No row has completions"):
        best_of_given(PROMPTS, None, tmp_path / "a.jsonl")


def test_words_stand_in_for_tokens_that_nobody_knows(tmp_path: Path) -> None:
    rows = [{"prompt": "Q?", "completions": ["a b c d e f", "a b c"]}]
    rewards = open_rewards(["target_length(target=3)"])
    found = best_of_given(read_prompts(rows).records, rewards, tmp_path / "a.jsonl")
    assert found.written.made[0]["meta"]["scores"] == [-1.0, 0.0]
