"""Does dividing each completion's loss by its length make wrong answers ramble, as Dr. GRPO's authors say?

    python -m benchmarks.experiments.length_bias [--seeds 0 1 2 3 4] [--jobs 2] [--output FILE]

A question has one right and one wrong answer; after the answer any number of dots may follow, which nobody pays for.
The model starts with right answers to a third of the questions' draws and a length that knows nothing of right and
wrong. Where each completion's loss is divided by its own length (``loss_type="grpo"``), a long wrong answer is
discouraged less for each of its tokens than a short one, and a long right one encouraged less: wrong answers are to
grow longer than right ones (Liu et al. 2025, arXiv:2503.20783, section 3.1). With one divisor for all (``dr_grpo``,
``dapo``) an answer's length is worth nothing, and wrong and right ones are to stay alike. A price of the KL (``beta``)
keeps errors in the world: without wrong answers nothing pulls at their length. A seed draws the right answers, the
model and the completions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from torch import nn

from benchmarks.experiments.findings import (
    Claim,
    Result,
    Run,
    about,
    claim_above,
    claims_table,
    experiment,
    figures,
    markdown,
    over_seeds,
    told,
)
from benchmarks.experiments.plots import Curve, Panel
from benchmarks.experiments.small_models import EOS, NOTHING_BESIDE, PAD, character_tokenizer, small_llama
from preftune.rollout.sample import sample

QUESTIONS, ANSWERS = "abcdefghijklmnop", "XY"
RIGHT_AT_FIRST, DOTS_AT_FIRST, LONGEST = 1 / 3, 6, 32
DEMONSTRATIONS, SFT_EPOCHS, SFT_RATE = 4000, 4, 5e-3
GROUP, PROMPTS_A_STEP, STEPS = 8, 16, 300
LOGGED_EVERY = 20
PROBES = 64  # continuations of each question with each answer
LOSSES: Final = {"grpo": 1e-3, "dr_grpo": 1e-3, "dapo": 1e-3}  # and their learning rates
BETA = 0.5
STAYS, SAME_ACCURACY = 0.1, 0.02
SETTINGS = {
    "demonstrations": DEMONSTRATIONS,
    "num_generations": GROUP,
    "prompts_a_step": PROMPTS_A_STEP,
    "steps": STEPS,
    "beta": BETA,
    "learning_rates": LOSSES,
}


def main() -> None:
    """The command."""
    print(tables(experiment(__doc__, "length-bias", SETTINGS, runs_of)))


def runs_of(seed: int, steps: int = STEPS) -> Iterator[Run]:
    """Every loss of a seed, from the same start."""
    right = right_answers(seed)
    start = taught(seed, right)
    for loss in LOSSES:
        path: list[dict[str, float]] = [{"step": 0, **measured(start, right, seed)}]
        trained(start, right, loss, seed, steps, path)
        yield {"seed": seed, "loss": loss, "path": path}


def right_answers(seed: int) -> dict[str, str]:
    """The right answer to each question."""
    draw = np.random.default_rng([seed, *b"answers"])
    return dict(zip(QUESTIONS, (ANSWERS[i] for i in draw.integers(2, size=len(QUESTIONS))), strict=True))


def demonstrations(seed: int, right: dict[str, str]) -> list[dict[str, str]]:
    """Answers right in a third of the cases, with as many dots as a coin that is tossed until it falls says."""
    draw = np.random.default_rng([seed, *b"demonstrations"])
    rows = []
    for question in draw.choice(list(QUESTIONS), size=DEMONSTRATIONS).tolist():
        is_right = draw.random() < RIGHT_AT_FIRST
        answer = right[question] if is_right else _other(right[question])
        dots = min(int(draw.geometric(1 / (DOTS_AT_FIRST + 1))) - 1, LONGEST - 2)
        rows.append({"prompt": question, "completion": answer + "." * dots})
    return rows


def taught(seed: int, right: dict[str, str]) -> nn.Module:
    """A small Llama that answers as the demonstrations do."""
    from preftune import SFTConfig, SFTTrainer

    model = make_policy(seed)
    with TemporaryDirectory(prefix="length-bias-") as folder:
        config = SFTConfig(
            output_dir=f"{folder}/run",
            num_train_epochs=SFT_EPOCHS,
            learning_rate=SFT_RATE,
            per_device_train_batch_size=64,
            seed=seed,
            **NOTHING_BESIDE,
        )
        rows = demonstrations(seed, right)
        SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=make_tokenizer()).train()
    return model


def trained(
    start: nn.Module, right: dict[str, str], loss: str, seed: int, steps: int, path: list[dict[str, float]]
) -> nn.Module:
    """A copy of ``start`` after GRPO with that loss; what it is like on the way goes into ``path``."""
    from preftune import GRPOConfig, GRPOTrainer

    def record(step: int, _: Any) -> None:
        if step % LOGGED_EVERY == 0:
            path.append({"step": step, **measured(trainer.model, right, seed)})

    with TemporaryDirectory(prefix="length-bias-") as folder:
        config = GRPOConfig(
            output_dir=f"{folder}/run",
            loss_type=loss,
            scale_rewards="none",
            num_generations=GROUP,
            per_device_train_batch_size=GROUP * PROMPTS_A_STEP,
            gradient_accumulation_steps=1,
            max_completion_length=LONGEST,
            beta=BETA,
            learning_rate=LOSSES[loss],
            max_steps=steps,
            seed=seed,
            logging_steps=LOGGED_EVERY,
            **NOTHING_BESIDE,
        )
        trainer = GRPOTrainer(
            model=copy.deepcopy(start),
            args=config,
            reward_funcs=[is_right],
            train_dataset=[{"prompt": question, "answer": answer} for question, answer in right.items()],
            processing_class=make_tokenizer(),
            callbacks=[record],
        )
        trainer.train()
        return trainer.model


def is_right(completions: Sequence[str], answer: Sequence[str], **_: Any) -> list[float]:
    """The reward: 1 for the right answer, however many dots follow."""
    return [float(completion.startswith(one)) for completion, one in zip(completions, answer, strict=True)]


def measured(model: nn.Module, right: dict[str, str], seed: int) -> dict[str, float]:
    """The share of right answers, and the mean length of right and of wrong ones, the EOS counted.

    Lengths are of continuations of each question with either answer, so they do not depend on how often it is given.
    """
    found = {}
    for name, of in (("right", lambda one: one), ("wrong", _other)):
        prompts = [_ids(question + of(answer)) for question, answer in right.items() for _ in range(PROBES)]
        drawn = _sampled(model, prompts, seed)
        found[f"length_{name}"] = float(np.mean([1 + len(one.tokens) for one in drawn]))
    drawn = _sampled(model, [_ids(question) for question in right for _ in range(PROBES)], seed)
    answers = [answer for answer in right.values() for _ in range(PROBES)]
    found["accuracy"] = float(np.mean([_ids(a)[0] == one.tokens[0] for a, one in zip(answers, drawn, strict=True)]))
    return found


def make_tokenizer() -> Any:
    """A token a character."""
    return character_tokenizer((".", *QUESTIONS, *ANSWERS))


def make_policy(seed: int) -> Any:
    """A random Llama for these characters."""
    return small_llama(seed, 1 + len(QUESTIONS) + len(ANSWERS), width=32, layers=2)


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Wrong answers end longer than right ones where lengths divide, and only there; accuracy is the same."""
    excess = {loss: _excess(runs, loss) for loss in LOSSES}
    n = len(excess["grpo"])
    found = [claim_above("grpo: wrong answers end longer than right ones by over a tenth", excess["grpo"], [STAYS] * n)]
    for loss in ("dr_grpo", "dapo"):
        apart = [abs(one) for one in excess[loss]]
        found.append(claim_above(f"{loss}: they end within a tenth of each other", [STAYS] * n, apart))
        found.append(claim_above(f"the excess is larger under grpo than under {loss}", excess["grpo"], excess[loss]))
    for loss in ("dr_grpo", "dapo"):
        apart = [abs(one - other) for one, other in zip(_accuracy(runs, "grpo"), _accuracy(runs, loss), strict=True)]
        found.append(claim_above(f"grpo and {loss} end within 2 points of accuracy", [SAME_ACCURACY] * n, apart))
    return found


def tables(result: Result) -> str:
    """The result as Markdown."""
    runs, settings = result["runs"], result["settings"]
    parts = [
        about(result, "length_bias"),
        f"{settings['steps']} steps of {settings['prompts_a_step']} questions with {settings['num_generations']} "
        f"completions each, beta {settings['beta']:g}; means over {len(result['seeds'])} seeds with 95% intervals.",
        _length_table(runs),
        claims_table(claims(runs), 1, 100, "%"),
    ]
    return "\n\n".join(parts)


def plot(result: Result) -> Sequence[Panel]:
    """Lengths of wrong and of right answers on the way."""
    panels = []
    for kind in ("wrong", "right"):
        curves = []
        for colour, loss in enumerate(LOSSES):
            paths = figures(result["runs"], "path", loss=loss)
            steps = [point["step"] for point in paths[0]]
            measures = [over_seeds([path[i][f"length_{kind}"] for path in paths]) for i in range(len(steps))]
            values, lows, highs = ([getattr(one, name) for one in measures] for name in ("value", "low", "high"))
            curves.append(Curve(loss, steps, values, lows, highs, colour))
        panels.append(Panel(f"Length of {kind} answers", "step", "tokens", curves, bottom=0.0))
    return panels


def _excess(runs: Sequence[Run], loss: str) -> list[float]:
    """By what share wrong answers are longer than right ones at the end."""
    ends = [path[-1] for path in figures(runs, "path", loss=loss)]
    return [end["length_wrong"] / end["length_right"] - 1 for end in ends]


def _accuracy(runs: Sequence[Run], loss: str) -> list[float]:
    return [path[-1]["accuracy"] for path in figures(runs, "path", loss=loss)]


def _length_table(runs: Sequence[Run]) -> str:
    rows = []
    for loss in LOSSES:
        paths = figures(runs, "path", loss=loss)
        cells = [
            told(over_seeds([path[at][name] for path in paths]), digits, scale)
            for name, digits, scale in (("length_wrong", 2, 1), ("length_right", 2, 1), ("accuracy", 1, 100))
            for at in (0, -1)
        ]
        rows.append([loss, *cells])
    header = ["", "wrong, at first", "wrong, at the end", "right, at first", "right, at the end"]
    return markdown([*header, "accuracy at first, %", "at the end, %"], rows)


def _sampled(model: nn.Module, prompts: list[list[int]], seed: int) -> list[Any]:
    return sample(
        model, prompts, pad_id=PAD, stop_ids=[EOS], max_new_tokens=LONGEST, seed=seed, batch_size=len(prompts)
    )


def _ids(text: str) -> list[int]:
    return make_tokenizer()(text)["input_ids"]


def _other(answer: str) -> str:
    return ANSWERS[1 - ANSWERS.index(answer)]


if __name__ == "__main__":
    main()
