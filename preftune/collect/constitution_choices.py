"""Pairs by a constitution: of two answers the one that a principle prefers, asked in both orders.

Bai et al. 2022 (2212.08073), section 4.1: the model's probabilities of the options, as a soft label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from preftune.audit.findings import Share, share_of
from preftune.collect.constitution import BLOCK, KIND, SAMPLING, answer_of, drawn_principles
from preftune.collect.constitution_prompts import COMPARISON_VERSION, OPTIONS, comparison_chat
from preftune.collect.generation import Choice, Generator, Text, chat_of, no_text, require_sampling, seed_of
from preftune.collect.principles import Constitution, Principle
from preftune.collect.writing import LeftOut, Note, Row, Written, item_id, provenance, write_in_blocks
from preftune.data.records import Completion, Pair, Prompt, PromptRecord, content_row, normal_text, readable_text
from preftune.errors import PreftuneError
from preftune.rollout.protocol import Sampling

ENOUGH: Final = 20
LEAST_CONSISTENT: Final = 0.8
LEAST_MASS: Final = 0.05  # below it the model wanted to say something else than A or B


@dataclass(frozen=True)
class Chosen:
    """What came of the candidates; ``agreement`` is with the labels that pairs brought along."""

    written: Written
    constitution: str
    items: int
    consistent: Share
    first_position: Share
    agreement: Share
    by_principle: Mapping[str, Mapping[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """Counts, the judge's own figures with their intervals, and what each principle led to."""
        return {
            "constitution": self.constitution,
            "items": self.items,
            "made": len(self.written.made),
            "new": self.written.new,
            "left_out": self.written.reasons(),
            "consistent": asdict(self.consistent),
            "first_position": asdict(self.first_position),
            "agreement": asdict(self.agreement),
            "by_principle": self.by_principle,
            "warnings": list(self.warnings()),
        }

    def warnings(self) -> Iterator[str]:
        """What speaks against the judge, a sentence each; D31 of the reliability figures."""
        consistent, first, agreement = self.consistent, self.first_position, self.agreement
        if consistent.n and consistent.n < ENOUGH:
            yield f"{consistent.n} comparisons are too few to tell how consistent the judge is"
        elif consistent.value is not None and consistent.value < LEAST_CONSISTENT:
            yield f"the judge kept its choice in only {100 * consistent.value:.0f}% when the order turned"
        if first.n >= ENOUGH and first.value in (0.0, 1.0):
            yield f"the judge chose the answer shown {'first' if first.value else 'second'} every time"
        elif first.low is not None and first.high is not None and not first.low <= 0.5 <= first.high:
            yield f"position sways the judge: the answer shown first won in {100 * (first.value or 0):.0f}%"
        if agreement.high is not None and agreement.high < 0.5:
            yield "the judge reverses more of the given labels than it keeps"


def choose_by_principle(
    candidates: Sequence[Pair | PromptRecord],
    generator: Generator,
    principles: Constitution,
    output: Path,
    *,
    judge: Generator | None = None,
    min_confidence: float = 0.5,
    sampling: Sampling = SAMPLING,
    seed: int = 42,
    block: int = BLOCK,
    note: Note | None = None,
    done: Callable[[int], object] | None = None,
) -> Chosen:
    """Appends to ``output`` a pair for each two answers of which a principle prefers one.

    Of pairs the two sides are compared, whatever their label; a prompt alone is answered twice by ``generator``. A
    principle is drawn by ``seed``, and ``judge`` (``generator`` where there is none) is asked by it in both orders.
    Where the orders disagree, where its mean probability is below ``min_confidence``, or where a reply is no verdict,
    there is no pair; the row beside the output says why. ``confidence`` is that mean, where probabilities are known.
    """
    require_sampling(sampling)
    if not 0.5 <= min_confidence < 1:
        raise PreftuneError(f"min_confidence is {min_confidence}.", mend="It is at least 0.5 and below 1.")
    asking = _Asking(generator, judge or generator, principles, min_confidence, sampling, seed)
    items = {item_id(asking.job, record): record for record in candidates}
    written = write_in_blocks(output, items, asking.pairs, block=block, note=note, done=done)
    return _summary(written, principles, len(items))


# --- a block --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Two:
    """Two different answers to one prompt, and the principle that decides between them."""

    name: str
    record: Pair | PromptRecord
    prompt: Prompt | list[dict[str, Any]]
    answers: tuple[Completion | list[dict[str, Any]], Completion | list[dict[str, Any]]]
    texts: tuple[str, str]
    principle: Principle

    def asked(self, swapped: bool) -> list[dict[str, Any]]:
        """The question with the first answer as A, or as B where ``swapped``."""
        first, second = reversed(self.texts) if swapped else self.texts
        return comparison_chat(chat_of(content_row(self.record)["prompt"]), first, second, self.principle)


@dataclass(frozen=True)
class _Asking:
    generator: Generator
    judge: Generator
    constitution: Constitution
    min_confidence: float
    sampling: Sampling
    seed: int

    @property
    def job(self) -> dict[str, Any]:
        """What decides which records come out."""
        return {
            "kind": KIND,
            "model": self.generator.name,
            "judge": self.judge.name,
            "constitution": self.constitution.version,
            "prompt_version": COMPARISON_VERSION,
            "min_confidence": self.min_confidence,
            "sampling": asdict(self.sampling),
            "seed": self.seed,
        }

    def pairs(self, members: Sequence[tuple[str, Pair | PromptRecord]], number: int) -> list[Row | LeftOut]:
        """The pair of each member, or why there is none."""
        spent = self._spent()
        found = self._candidates(members, seed_of(self.seed, number))
        two = [one for one in found if isinstance(one, _Two)]
        questions = [one.asked(swapped) for one in two for swapped in (False, True)]
        choices = iter(self.judge.choose(questions, OPTIONS) if questions else [])
        verdicts = {one.name: (next(choices), next(choices)) for one in two}
        cost = None if spent is None else ((self._spent() or 0.0) - spent) / len(members)
        return [self._outcome(one, *verdicts[one.name], cost) if isinstance(one, _Two) else one for one in found]

    def _spent(self) -> float | None:
        costs = {id(one): one.cost for one in (self.generator, self.judge)}.values()
        return None if all(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs)

    def _candidates(self, members: Sequence[tuple[str, Pair | PromptRecord]], seed: int) -> list[_Two | LeftOut]:
        bare = [(name, record) for name, record in members if isinstance(record, PromptRecord)]
        refused = {name: one for name, record in bare if isinstance(one := answer_of(record), LeftOut)}
        asked = {name: chat_of(content_row(record)["prompt"]) for name, record in bare if name not in refused}
        drawn = self.generator.generate(list(asked.values()), 2, self.sampling, seed) if asked else []
        texts = dict(zip(asked, drawn, strict=True))
        return [
            LeftOut(name, refused[name].reason, refused[name].mend)
            if name in refused
            else self._given(name, record)
            if isinstance(record, Pair)
            else self._drawn(name, record, texts[name])
            for name, record in members
        ]

    def _given(self, name: str, record: Pair) -> _Two | LeftOut:
        texts = readable_text(record.chosen), readable_text(record.rejected)
        return self._two(name, record, record.prompt, (record.chosen, record.rejected), texts)

    def _drawn(self, name: str, record: PromptRecord, texts: Sequence[Text]) -> _Two | LeftOut:
        prompt = chat_of(content_row(record)["prompt"])
        for one in texts:
            if one.text is None:
                return LeftOut(name, *no_text(one, "answer"), {"prompt": prompt})
        found = {"prompt": prompt, "answers": [one.text for one in texts]}
        if not all(one.finished for one in texts):
            mend = "An answer has no end within the length allowed: raise --max-new-tokens."
            return LeftOut(name, "cut-off", mend, found)
        first, second = ((one.text or "").strip() for one in texts)
        if not first or not second:
            return LeftOut(name, "no-answer", "An answer is empty; there is nothing to compare.", found)
        answers = ([{"role": "assistant", "content": first}], [{"role": "assistant", "content": second}])
        return self._two(name, record, prompt, answers, (first, second))

    def _two(self, name: str, record: Any, prompt: Any, answers: Any, texts: tuple[str, str]) -> _Two | LeftOut:
        if normal_text(texts[0]) == normal_text(texts[1]):
            found = {"prompt": content_row(record)["prompt"], "answers": list(texts)}
            return LeftOut(name, "identical", "Both answers say the same; raise --temperature.", found)
        (principle,) = drawn_principles(name, self.constitution, 1)
        return _Two(name, record, prompt, answers, texts, principle)

    def _outcome(self, two: _Two, forth: Choice | None, back: Choice | None, cost: float | None) -> Row | LeftOut:
        """``forth`` is the choice with the first answer as A, ``back`` with it as B."""
        shown = {
            "principle": two.principle.id,
            "a_first": forth and forth.probabilities[0],
            "a_second": back and back.probabilities[0],
            "mass": [choice and choice.mass for choice in (forth, back)],
        }
        found = {"prompt": content_row(two.record)["prompt"], "answers": list(two.texts), "verdict": shown}
        if not _is_verdict(forth) or not _is_verdict(back):
            return LeftOut(
                two.name, "invalid", "The judge did not say A or B, or could not be asked; try another.", found
            )
        assert forth is not None and back is not None
        first = (forth.probabilities[0] + back.probabilities[1]) / 2
        if not _agree(forth, back):
            return LeftOut(two.name, "inconsistent", "The judge chose by position; try another model.", found)
        confidence = max(first, 1 - first)
        if confidence < self.min_confidence:
            return LeftOut(two.name, "unsure", f"Its confidence is {confidence:.3f}; lower --min-confidence.", found)
        kept = (0, 1) if first > 0.5 else (1, 0)
        return self._pair(two, kept, shown, confidence if forth.mass is not None else None, cost)

    def _pair(self, two: _Two, kept: tuple[int, int], shown: Row, confidence: float | None, cost: float | None) -> Row:
        is_given = isinstance(two.record, Pair)
        source = provenance(
            KIND,
            model=None if is_given else self.generator.name,
            judge=self.judge.name,
            prompt_version=COMPARISON_VERSION,
            cost=cost,
            method="comparison",
            constitution=self.constitution.name,
            constitution_version=self.constitution.version,
            principles=[two.principle.id],
            **({} if is_given else {"sampling": asdict(self.sampling)}),
            seed=self.seed,
        )
        label = {"label": "kept" if kept == (0, 1) else "reversed"} if is_given else {}
        fields = {
            "id": two.name,
            "prompt": two.prompt,
            "chosen": two.answers[kept[0]],
            "rejected": two.answers[kept[1]],
            "source": source,
            "confidence": confidence,
            "meta": {"prompt_id": two.record.id, "verdict": shown, **label},
        }
        return Pair.model_validate(fields).as_row()


def _is_verdict(choice: Choice | None) -> bool:
    return choice is not None and (choice.mass is None or choice.mass >= LEAST_MASS)


def _agree(forth: Choice, back: Choice) -> bool:
    """Whether the same answer won in both orders."""
    return (forth.probabilities[0] - 0.5) * (back.probabilities[1] - 0.5) > 0


# --- the summary ----------------------------------------------------------------------------------------


def _summary(written: Written, constitution: Constitution, n: int) -> Chosen:
    rows = [(row["meta"]["verdict"], "paired") for row in written.made]
    rows += [(row["verdict"], str(row["reason"])) for row in written.left_out if "verdict" in row]
    valid = [(verdict, outcome) for verdict, outcome in rows if outcome != "invalid"]
    shown = [verdict[name] for verdict, _ in valid for name in ("a_first", "a_second")]
    consistent = sum(outcome != "inconsistent" for _, outcome in valid)
    labels = [row["meta"]["label"] for row in written.made if "label" in row["meta"]]
    used = {one.id: Counter() for one in constitution.principles}
    for verdict, outcome in rows:
        used[verdict["principle"]][outcome] += 1
    return Chosen(
        written,
        constitution.version,
        n,
        share_of(consistent, len(valid), "Consistent verdicts", "The same answer won in both orders."),
        share_of(
            sum(a > 0.5 for a in shown),
            len(shown),
            "First answer wins",
            "Showings in which the answer shown first won; 0.5 where position does not matter.",
        ),
        share_of(labels.count("kept"), len(labels), "Agreement with given labels", "Pairs whose given label was kept."),
        {name: dict(counts) for name, counts in used.items() if counts},
    )
