"""From answers to records: verdicts gathered until a row's last one is in, then its pairs and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

from preftune.collect.calls import Answer
from preftune.collect.injection import injection_signs
from preftune.collect.judge_candidates import Candidates, Match, Reading, are_alike, comparisons_of
from preftune.collect.judge_prompts import PROMPT_VERSION, Question
from preftune.collect.verdicts import Ruling, Verdict, rule, verdicts_of
from preftune.collect.writing import FAILED, GrowingFile, LeftOut, left_out_file, provenance
from preftune.data.records import Message, Pair, Vote

AT_ONCE: Final = 64  # rows written together; each write waits for the disk
_MENDS: Final = {
    "tie": "Nothing is to be mended: no answer is better, or the orders, samples or judges do not agree.",
    "invalid": "See the reasons; an endpoint that holds the model to a JSON schema gives fewer of them.",
    "refusal": "Have it judged by another model, or by people.",
    "injection": "Read the answers: one speaks to the judge, and wins only where it can.",
    "identical-answers": "Give two different answers.",
    FAILED: "Run the same command again; what was answered is kept.",
}


def questions_of(candidates: Candidates, match: Match, samples: int, check_injection: bool) -> Iterator[Question]:
    """Every question about a row: both orders, each sample, and once more escaped where an answer is suspect."""
    pairs = _distinct(candidates, match)
    if match == "ranking" and len(candidates.answers) > 2:
        everyone = tuple(sorted({place for pair in pairs for place in pair}))
        shown = [everyone] if everyone else []
    else:
        shown = list(pairs)
    for one in shown:
        for sample in range(samples):
            yield Question(candidates, one, sample)
            yield Question(candidates, one[::-1], sample)
        if check_injection and any(injection_signs(candidates.answers[place]) for place in one):
            yield Question(candidates, one, is_escaped=True)
            yield Question(candidates, one[::-1], is_escaped=True)


def _distinct(candidates: Candidates, match: Match) -> list[tuple[int, int]]:
    return [pair for pair in comparisons_of(candidates, match) if not are_alike(candidates, pair)]


class Bench:
    """Where verdicts come in, and records go out as soon as a row has all of its verdicts."""

    def __init__(self, reading: Reading, judges: Sequence[str], rubric: str, match: Match) -> None:
        self.judges, self.rubric = tuple(judges), rubric
        self.match: Match = match
        self.verdicts: list[Verdict] = []
        self.rulings: list[Ruling] = []
        self.pairs: list[Pair] = []
        self.left_out: list[LeftOut] = []
        self.signs: dict[str, tuple[str, ...]] = {}
        self.already = 0  # records that the files had
        self._reading = reading
        self._waiting: dict[str, int] = {}
        self._of_row: dict[str, list[Verdict]] = {}
        self._costs: dict[str, list[float | None]] = {}
        self._made: GrowingFile | None = None
        self._beside: GrowingFile | None = None
        self._unwritten: list[Pair] = []
        self._unreported: list[LeftOut] = []

    def write_to(
        self,
        opened: Callable[..., AbstractContextManager[GrowingFile]],
        output: Path,
        note: Callable[[str], object],
        files: ExitStack,
    ) -> None:
        """Appends to ``output`` and the file beside it from now on, until ``files`` are closed."""
        self._made = files.enter_context(opened(output, note))
        self._beside = files.enter_context(opened(left_out_file(output), note))

    def expect(self, questions: Iterable[Question]) -> None:
        """An answer to each of these will come; rows about which there is nothing to ask are settled."""
        for question in questions:
            self._waiting[question.candidates.id] = self._waiting.get(question.candidates.id, 0) + 1
        for candidates in self._reading.candidates:
            if candidates.id not in self._waiting:
                self._settle(candidates)
        self._unreported += [LeftOut(*row) for row in self._reading.rejected]

    def take(self, question: Question, judge: str, answer: Answer, envelope: str) -> None:
        """An answer; the row's last one settles it."""
        candidates = question.candidates
        row = candidates.id
        self._of_row.setdefault(row, []).extend(verdicts_of(question, judge, answer, envelope))
        self._costs.setdefault(row, []).append(answer.cost)
        self._waiting[row] -= 1
        if self._waiting[row] == 0:
            self._settle(candidates)

    def flush(self) -> None:
        """Writes what was settled and is not in the files yet."""
        if self._beside is not None and self._made is not None:
            known = self._made.ids | self._beside.settled
            self.already += sum(one.id in known for one in [*self._unwritten, *self._unreported])
            self._beside.append([one.as_row() for one in self._unreported if one.id not in known])
            self._made.append([one.as_row() for one in self._unwritten if one.id not in known])
        self._unwritten, self._unreported = [], []

    def _settle(self, candidates: Candidates) -> None:
        verdicts = self._of_row.pop(candidates.id, [])
        costs = self._costs.pop(candidates.id, [])
        cost = sum(one for one in costs if one is not None) if costs and None not in costs else None
        self.verdicts += verdicts
        pairs = comparisons_of(candidates, self.match)
        for pair in pairs:
            self._rule(candidates, pair, verdicts, None if cost is None else cost / len(pairs))
        if len(self._unwritten) + len(self._unreported) >= AT_ONCE:
            self.flush()

    def _rule(self, candidates: Candidates, pair: tuple[int, int], verdicts: list[Verdict], cost: float | None) -> None:
        name = candidates.comparison_id(pair)
        if are_alike(candidates, pair):
            self._leave_out(candidates, pair, "identical-answers", {})
            return
        own = [verdict for verdict in verdicts if verdict.comparison == name]
        suspects = {
            side: signs
            for side, place in zip(("first", "second"), pair, strict=True)
            if (signs := injection_signs(candidates.answers[place]))
        }
        ruling = rule(own, suspects)
        self.rulings.append(ruling)
        if ruling.signs:
            self.signs[name] = ruling.signs
        source = self._source(candidates, ruling, cost)
        if ruling.outcome in ("first", "second"):
            made = _pair(candidates, pair, ruling, source)
            self.pairs.append(made)
            self._unwritten.append(made)
            return
        found = {"source": source, **({"why": ruling.why} if ruling.why else {})}
        self._leave_out(candidates, pair, ruling.outcome, found)

    def _leave_out(self, candidates: Candidates, pair: tuple[int, int], reason: str, found: dict[str, Any]) -> None:
        texts = {
            "prompt": _plain(candidates.prompt),
            "response_1": _plain(candidates.answers[pair[0]]),
            "response_2": _plain(candidates.answers[pair[1]]),
        }
        left = LeftOut(candidates.comparison_id(pair), reason, _MENDS[reason], texts | found)
        self.left_out.append(left)
        self._unreported.append(left)

    def _source(self, candidates: Candidates, ruling: Ruling, cost: float | None) -> dict[str, Any]:
        return provenance(
            "judge",
            model=candidates.writer,
            judge=self.judges[0] if len(self.judges) == 1 else list(self.judges),
            prompt_version=PROMPT_VERSION,
            cost=cost,
            rubric=self.rubric,
            verdicts=dict(ruling.judges),
            probability=ruling.probability,
            **({"signs": list(ruling.signs)} if ruling.signs else {}),
        )


def _pair(candidates: Candidates, pair: tuple[int, int], ruling: Ruling, source: dict[str, Any]) -> Pair:
    """The won comparison; the judges' votes call the row's first answer "first", as ``order`` says."""
    sides = pair if ruling.outcome == "first" else pair[::-1]
    votes = [
        Vote.model_validate({"id": name, "choice": outcome})
        for name, outcome in ruling.judges.items()
        if outcome in ("first", "second", "tie")
    ]
    return Pair(
        prompt=candidates.prompt,
        chosen=candidates.answers[sides[0]],
        rejected=candidates.answers[sides[1]],
        id=candidates.comparison_id(pair),
        source=source,
        annotators=tuple(votes),
        confidence=ruling.confidence,
        meta={**candidates.meta, "order": "chosen" if ruling.outcome == "first" else "rejected"},
    )


def _plain(content: str | tuple[Message, ...]) -> Any:
    return content if isinstance(content, str) else [message.as_row() for message in content]
