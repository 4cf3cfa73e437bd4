"""What of an evaluation set is in the training set already: prompts, prompts all but equal, and answers.

A prompt is near where one training prompt holds four fifths of its 13-grams of words (copied into a longer one; implied
by D24's Jaccard similarity of 0.8), or shares four fifths of all their 5-grams (edited: one word of a hundred leaves
90% of the 5-grams, but only 74% of the 13-grams). Both are counted, not estimated, in time that grows with the training
set. N-grams of many evaluation prompts are a template's and do not count.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from preftune.audit.examples import EXAMPLES, shortened
from preftune.audit.findings import Finding, Share, count_of, share_of
from preftune.audit.gram_index import GramIndex, gram_index, shared_grams
from preftune.audit.shingles import word_grams
from preftune.data.records import Comparison, Demonstration, Label, Pair, Prompt, Record, asked, normal_text
from preftune.data.split import prompt_key

CONTAINED_WORDS, ALIKE_WORDS = 13, 5  # words of an n-gram
NEAR = 0.8  # share of n-grams (D24)
ANSWER_WORDS = 12  # shorter answers are the same by chance: "I don't know."

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
_READ = 2048  # training records at once


@dataclass(frozen=True)
class Leak:
    """A prompt or answer of the evaluation set, the records that hold it, and the training record that does too."""

    rows: tuple[str, ...]
    training: str
    how: str
    text: str
    training_text: str


@dataclass(frozen=True)
class LeakageAudit:
    """What of the evaluation set training holds; ``training`` and ``evaluated`` count records.

    ``exact`` and ``near`` are shares of the distinct prompts, the near ones without the exact; ``answers`` is that of
    the distinct answers of ``ANSWER_WORDS`` words and more which training gives to other prompts.
    """

    training: int
    evaluated: int
    exact: Share
    near: Share
    answers: Share
    exact_prompts: tuple[Leak, ...]
    near_prompts: tuple[Leak, ...]
    same_answers: tuple[Leak, ...]
    findings: tuple[Finding, ...]


def audit_leakage(train: Iterable[Record], evaluation: Sequence[Record]) -> LeakageAudit:
    """Which evaluation prompts and answers are in ``train``, which is read once and not kept."""
    prompts, answers = _prompts(evaluation), _answers(evaluation)
    near = _NearSearch(prompts)
    exact_leaks: dict[str, Leak] = {}
    answer_leaks: dict[int, Leak] = {}
    training = 0
    for block in _blocks(train):
        training += len(block)
        keys = [prompt_key(record) for record in block]
        _meet_prompts(exact_leaks, prompts, block, keys)
        near.meet(block)
        _meet_answers(answer_leaks, answers, block, keys)
    exact = _in_order(exact_leaks, prompts)
    nearly = _in_order({key: leak for key, leak in near.leaks.items() if key not in exact_leaks}, prompts)
    same = _in_order(answer_leaks, answers)
    shares = _shares(len(exact), len(nearly), len(prompts), len(same), len(answers))
    findings = (_exact_finding(exact, shares[0]), _near_finding(nearly, shares[1]), _answer_finding(same, shares[2]))
    kept = tuple(finding for finding in findings if finding is not None)
    return LeakageAudit(training, len(evaluation), *shares, exact, nearly, same, kept)


@dataclass(frozen=True)
class _Held:
    """A distinct prompt or answer of the evaluation set: its text, the records that hold it, their prompts' keys."""

    text: str
    rows: list[str]
    keys: set[str]


def _prompts(evaluation: Sequence[Record]) -> dict[str, _Held]:
    """The distinct prompts by their keys."""
    found: dict[str, _Held] = {}
    for record in evaluation:
        key = prompt_key(record)
        found.setdefault(key, _Held(normal_text(asked(record)), [], {key})).rows.append(record.id)
    return found


def _answers(evaluation: Sequence[Record]) -> dict[int, _Held]:
    """The distinct answers of some length by a hash of their words."""
    found: dict[int, _Held] = {}
    owners, texts = _answer_texts(evaluation)
    grams = word_grams(texts, ALIKE_WORDS)
    for place in np.flatnonzero(grams.words >= ANSWER_WORDS):
        record = evaluation[owners[place]]
        held = found.setdefault(int(grams.whole[place]), _Held(texts[place], [], set()))
        held.rows.append(record.id)
        held.keys.add(prompt_key(record))
    return found


def _answer_texts(records: Sequence[Record]) -> tuple[list[int], list[str]]:
    """All answers, and the place of the record that each one is of."""
    held = [(place, normal_text(answer)) for place, record in enumerate(records) for answer in _answers_of(record)]
    return [place for place, _ in held], [text for _, text in held]


def _answers_of(record: Record) -> tuple[Prompt, ...]:
    if isinstance(record, Pair):
        return record.chosen, record.rejected
    if isinstance(record, Comparison):
        return record.response_1, record.response_2
    return (record.completion,) if isinstance(record, Label | Demonstration) else ()


def _blocks(items: Iterable[T]) -> Iterator[list[T]]:
    source = iter(items)
    while block := list(islice(source, _READ)):
        yield block


def _meet_prompts(
    leaks: dict[str, Leak], prompts: Mapping[str, _Held], block: Sequence[Record], keys: Sequence[str]
) -> None:
    for record, key in zip(block, keys, strict=True):
        if key in prompts and key not in leaks:
            leaks[key] = _leak(prompts[key], record, "the same prompt", normal_text(asked(record)))


def _meet_answers(
    leaks: dict[int, Leak], answers: Mapping[int, _Held], block: Sequence[Record], keys: Sequence[str]
) -> None:
    owners, texts = _answer_texts(block)
    whole = word_grams(texts, ALIKE_WORDS).whole
    for place in np.flatnonzero(np.isin(whole, np.fromiter(answers, np.uint64, len(answers)))):
        answer, owner = int(whole[place]), owners[place]
        if answer not in leaks and keys[owner] not in answers[answer].keys:
            leaks[answer] = _leak(answers[answer], block[owner], "the same answer to another prompt", texts[place])


def _leak(held: _Held, record: Record, how: str, text: str) -> Leak:
    return Leak(tuple(dict.fromkeys(held.rows)), record.id, how, shortened(held.text), shortened(text))


class _NearSearch:
    """The nearest training prompt so far of each evaluation prompt, where it is near."""

    def __init__(self, prompts: Mapping[str, _Held]) -> None:
        self.leaks: dict[str, Leak] = {}
        self._held = list(prompts.items())
        texts = [held.text for held in prompts.values()]
        self._contained, self._alike = gram_index(texts, CONTAINED_WORDS), gram_index(texts, ALIKE_WORDS)
        self._nearest = np.zeros(len(texts))

    def meet(self, block: Sequence[Record]) -> None:
        """Holds a block of training records against all prompts."""
        texts = [normal_text(asked(record)) for record in block]
        for index, what in ((self._contained, "holds {:.0%} of its 13-grams"), (self._alike, "{:.0%} of 5-grams")):
            for row, prompt, share in _near(index, texts):
                if share > self._nearest[prompt]:
                    key, held = self._held[prompt]
                    self._nearest[prompt] = share
                    self.leaks[key] = _leak(held, block[row], what.format(share), texts[row])


def _near(index: GramIndex, texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """Text, indexed text and share of n-grams, of those that are near."""
    found = shared_grams(index, texts)
    is_contained = index.words == CONTAINED_WORDS
    whole = found.indexed_size if is_contained else found.indexed_size + found.text_size - found.shared
    shares = found.shared / whole
    near = shares >= NEAR
    return zip(found.text[near].tolist(), found.indexed[near].tolist(), shares[near].tolist(), strict=True)


def _in_order(leaks: Mapping[K, Leak], held: Iterable[K]) -> tuple[Leak, ...]:
    return tuple(leaks[key] for key in held if key in leaks)


def _shares(exact: int, near: int, prompts: int, answers: int, long_answers: int) -> tuple[Share, Share, Share]:
    of_prompts = "Share of the distinct evaluation prompts"
    return (
        share_of(
            exact, prompts, "Evaluation prompts in training", f"{of_prompts} that are training prompts, case aside."
        ),
        share_of(
            near,
            prompts,
            "Evaluation prompts nearly in training",
            f"{of_prompts} of which a training prompt holds {NEAR:.0%} of the {CONTAINED_WORDS}-grams of words, or "
            f"shares {NEAR:.0%} of the {ALIKE_WORDS}-grams; equal ones are left out.",
        ),
        share_of(
            answers,
            long_answers,
            "Evaluation answers to other training prompts",
            f"Share of the distinct evaluation answers of {ANSWER_WORDS} words and more that training has under "
            "another prompt, word for word.",
        ),
    )


def _exact_finding(leaks: Sequence[Leak], share: Share) -> Finding | None:
    if not leaks:
        return None
    return Finding(
        id="leaked-prompts",
        severity="error",
        title="Evaluation prompts in the training data",
        what="Prompts of the evaluation set also occur in training, so its accuracy measures memory too.",
        evidence=f"{len(leaks):,} of {count_of(share.n, 'evaluation prompt')}.",
        rows=_rows(leaks),
        remedy="Split by prompt, or take these pairs out of the evaluation set.",
        share=share,
        examples=_examples(leaks),
    )


def _near_finding(leaks: Sequence[Leak], share: Share) -> Finding | None:
    if not leaks:
        return None
    return Finding(
        id="near-leaked-prompts",
        severity="warning",
        title="Evaluation prompts nearly in the training data",
        what="A split by prompt keeps equal prompts together, not those that differ in a few words or a preface.",
        evidence=f"{len(leaks):,} of {count_of(share.n, 'evaluation prompt')}, besides equal ones.",
        rows=_rows(leaks),
        remedy=(
            "Take them out of the evaluation set, or group near prompts before splitting: "
            "preftune.audit.near_duplicates gives the groups."
        ),
        share=share,
        examples=_examples(leaks),
    )


def _answer_finding(leaks: Sequence[Leak], share: Share) -> Finding | None:
    if not leaks:
        return None
    return Finding(
        id="leaked-answers",
        severity="warning",
        title="Evaluation answers given to other training prompts",
        what="An answer that training has labelled can be judged from memory, whatever its prompt is.",
        evidence=f"{len(leaks):,} of {count_of(share.n, 'distinct evaluation answer')} of some length.",
        rows=_rows(leaks),
        remedy="See whether they are stock phrases; if not, take these pairs out of the evaluation set.",
        share=share,
        examples=_examples(leaks),
    )


def _rows(leaks: Iterable[Leak]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row for leak in leaks for row in leak.rows))


def _examples(leaks: Iterable[Leak]) -> tuple[dict[str, str], ...]:
    return tuple(
        {"id": leak.rows[0], "text": leak.text, "training": leak.training_text, "why": f"{leak.training}: {leak.how}"}
        for leak in islice(leaks, EXAMPLES)
    )
