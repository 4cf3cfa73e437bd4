"""LLM judges over candidates: every comparison asked in both orders, won ones made pairs, all others reported.

    result = judge("candidates.jsonl", [Judge("claude-haiku-5-5", "anthropic")], output=Path("pairs.jsonl"))

What was asked is in the journal beside the output: the same call goes on where a killed one stopped, and pays nothing
twice. Comparisons made = pairs + left out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from preftune.audit.agreement import AgreementAudit, audit_agreement
from preftune.audit.votes import votes_from_table
from preftune.collect.calls import Answer, Budget, Limits, Request, all_answers, in_loop, together
from preftune.collect.chat import Abilities, Chat, Probed, Provider, open_chat
from preftune.collect.journal import Journal, open_journal, request_key
from preftune.collect.judge_audit import JudgeAudit, audit_judge
from preftune.collect.judge_candidates import Candidates, Match, Reading, comparisons_of, read_candidates
from preftune.collect.judge_prompts import BUILT_IN, PROMPT_VERSION, Question, Rubric, rendered
from preftune.collect.judge_records import Bench, questions_of
from preftune.collect.prices import Price, estimated_tokens
from preftune.collect.verdicts import Verdict
from preftune.collect.writing import LeftOut, open_growing
from preftune.data.records import Pair
from preftune.errors import PreftuneError

REPLY_TOKENS: Final = {True: 80, False: 12}  # a verdict with a reason of two sentences, and one without
Tell = Callable[[str, Answer, float], object]


@dataclass(frozen=True)
class Judge:
    """A model that judges. ``extra`` goes into every request; ``price`` None is an unknown one."""

    model: str
    provider: Provider = "openai"
    base_url: str | None = None
    key_env: str | None = None
    price: Price | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class How:
    """How it is judged.

    ``reason`` asks for a reason before the verdict; without, token probabilities say more. ``match``: of more than
    two answers ``all`` pairs, each with the ``first``, or one ``ranking``. ``temperature`` unset is 0 for one sample
    and 1 for several. ``check_injection`` asks again, with the passages escaped, where answers speak to the judge.
    ``max_cost`` is in US dollars.
    """

    rubric: Rubric = BUILT_IN
    reason: bool = True
    samples: int = 1
    match: Match = "all"
    temperature: float | None = None
    max_tokens: int = 2048
    check_injection: bool = True
    limits: Limits = field(default_factory=Limits)
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1:
            raise PreftuneError("samples and max_tokens must be 1 or more.", mend="Give larger numbers.")

    @property
    def heat(self) -> float:
        """The temperature that is asked for."""
        return self.temperature if self.temperature is not None else 0.0 if self.samples == 1 else 1.0


@dataclass(frozen=True)
class Estimate:
    """What a job takes at most, before it begins: calls, tokens by the rule of ``prices``, and US dollars.

    ``unpriced`` are the judges whose price is not known; they are not in ``cost``, which is None if none is known.
    """

    comparisons: int
    calls: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    unpriced: tuple[str, ...]


@dataclass(frozen=True)
class JudgeResult:
    """What became of every comparison, what it cost, and what the verdicts say of the judges.

    ``rejected`` are rows without candidates, as (place, reason, mend). ``calls`` counts those made now, those
    ``kept`` from before, failed ones, and tries. ``spent`` is what this run cost, None where no price is known.
    ``agreement`` is that of several judges with each other.
    """

    read: int
    rejected: tuple[tuple[str, str, str], ...]
    pairs: tuple[Pair, ...]
    left_out: tuple[LeftOut, ...]
    verdicts: tuple[Verdict, ...]
    audits: Mapping[str, JudgeAudit]
    agreement: AgreementAudit | None
    calls: Mapping[str, int]
    spent: float | None
    estimate: Estimate
    abilities: Mapping[str, Abilities]

    def reasons(self) -> dict[str, int]:
        """How many comparisons were left out for each reason, the commonest first."""
        return dict(Counter(one.reason for one in self.left_out).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON can hold it, without the records."""
        return {
            "rows": self.read,
            "rows_rejected": dict(Counter(reason for _, reason, _ in self.rejected)),
            "comparisons": len(self.pairs) + len(self.left_out),
            "pairs": len(self.pairs),
            "left_out": self.reasons(),
            "calls": dict(self.calls),
            "cost": self.spent,
            "estimate": asdict(self.estimate),
            "abilities": {name: asdict(abilities) for name, abilities in self.abilities.items()},
            "judges": {name: audit.as_dict() for name, audit in self.audits.items()},
            "agreement": None if self.agreement is None else asdict(self.agreement),
        }


def judge(
    records: object,
    judges: Sequence[Judge],
    *,
    how: How | None = None,
    output: Path | None = None,
    journal: Path | None = None,
    split: str = "train",
    limit: int | None = None,
    progress: Tell | None = None,
    note: Callable[[str], object] | None = None,
) -> JudgeResult:
    """Has every two answers compared by every judge, in both orders.

    ``records`` are what ``judge_candidates`` reads. Won comparisons are appended to ``output`` as pairs, all others to
    the file beside it, each once however often this is called. ``journal`` is ``output`` with ``.journal`` unless
    named; without both nothing is kept. ``progress`` is told the judge, the answer and US dollars spent. PreftuneError
    where nothing can be judged, and where an endpoint is down, refuses the key or fails all along.
    """
    how, tell = how or How(), note or (lambda _: None)
    reading = read_candidates(records, split=split, limit=limit)
    _check(judges, how)
    place = journal or (None if output is None else output.with_name(f"{output.name}.journal"))
    with ExitStack() as open_files:
        book = None if place is None else open_files.enter_context(open_journal(place))
        bench = Bench(reading, tuple(one.model for one in judges), how.rubric.version, how.match)
        if output is not None:
            bench.write_to(open_growing, output, tell, open_files)
        jobs = [_Job(one, how, reading, book) for one in judges]
        bench.expect(question for job in jobs for several in job.questions.values() for question in several)
        budget = Budget(how.max_cost)
        try:
            in_loop(together([_ask(job, bench, budget, progress) for job in jobs]))
        finally:
            bench.flush()
    return _result(reading, jobs, bench, budget)


def estimate(reading: Reading, judges: Sequence[Judge], how: How) -> Estimate:
    """What judging will take at most; nothing is sent."""
    jobs = [_Job(one, how, reading, None) for one in judges]
    return _estimate(jobs, sum(len(comparisons_of(one, how.match)) for one in reading.candidates))


def example(reading: Reading, how: How) -> Chat:
    """The first question as it would be sent, the envelope's number apart."""
    question = next(iter(questions_of(reading.candidates[0], how.match, 1, False)))
    return _chat(question, how, "0" * 32)


def judge_named(
    name: str,
    *,
    provider: Provider | None = None,
    base_url: str | None = None,
    key_env: str | None = None,
    price: Callable[[str, bool], Price | None] = lambda model, is_free: None,
    extra: Mapping[str, Any] | None = None,
) -> Judge:
    """A judge from ``[PROVIDER:]MODEL[@URL]``; what the name leaves open is by the other arguments.

    Without a provider, a folder on this machine is a local model, a name that begins with claude is Anthropic's, and
    all else speaks OpenAI's protocol. What this machine serves costs nothing.
    """
    model, _, url = name.partition("@http")
    base = f"http{url}" if url else base_url
    prefix, colon, rest = model.partition(":")
    if colon and prefix in ("openai", "anthropic", "local"):
        kind, model = prefix, rest
    else:
        kind = provider or _provider(model, base)
    if not model:
        raise PreftuneError(f"{name!r} names no model.", mend="Write MODEL, PROVIDER:MODEL or MODEL@http://...")
    is_free = kind == "local" or any(here in (base or "") for here in ("//localhost", "//127.", "//[::1]", "//0.0.0.0"))
    return Judge(model, kind, base, key_env, price(model, is_free), dict(extra or {}))


def _provider(model: str, base_url: str | None) -> Provider:
    """Without an address, a folder is a model to load, and a name says whose it is."""
    if base_url is None and Path(model).expanduser().is_dir():
        return "local"
    return "anthropic" if base_url is None and model.startswith("claude") else "openai"


def _check(judges: Sequence[Judge], how: How) -> None:
    names = Counter(one.model for one in judges)
    if not judges or max(names.values()) > 1:
        twice = next((name for name, count in names.items() if count > 1), None)
        what = f"The judge {twice} is named twice." if twice else "No judge is named."
        raise PreftuneError(what, mend="Name each judge once; more samples of one are how.samples.")
    unpriced = [one.model for one in judges if one.price is None]
    if how.max_cost is not None and unpriced:
        mend = "Give --price-in and --price-out, in US dollars for a million tokens."
        raise PreftuneError(f"The price of {unpriced[0]} is not known, so costs cannot be capped.", mend=mend)


class _Job:
    """One judge's questions as requests."""

    def __init__(self, judge: Judge, how: How, reading: Reading, journal: Journal | None) -> None:
        self.judge, self.how, self.journal = judge, how, journal
        self.secret = secrets.token_hex(16) if journal is None else journal.secret()
        self.requests: dict[str, Request[Question]] = {}
        self.questions: dict[str, list[Question]] = {}
        self.model: Probed | None = None
        self.answers: list[Answer] = []
        for candidates in reading.candidates:
            for question in questions_of(candidates, how.match, how.samples, how.check_injection):
                self._add(question)

    def _add(self, question: Question) -> None:
        key = _key(question, self.judge, self.how)
        self.questions.setdefault(key, []).append(question)
        if key not in self.requests:
            chat = _chat(question, self.how, "0" * 32)
            tokens = estimated_tokens(chat.system, chat.user), REPLY_TOKENS[self.how.reason]
            self.requests[key] = Request(key, question, *tokens)

    def envelope(self, key: str) -> str:
        """The number of a request's envelope: the same when it is asked again, and known to nobody before."""
        return hashlib.sha256(f"{self.secret} {key}".encode()).hexdigest()[:32]

    async def call(self, request: Request[Question]) -> Any:
        """The judge's reply to a question."""
        assert self.model is not None
        return await self.model.call(Request(request.key, _chat(request.body, self.how, self.envelope(request.key))))


async def _ask(job: _Job, bench: Bench, budget: Budget, progress: Tell | None) -> None:
    """All of a judge's questions: one first, which finds out what the endpoint can do."""
    judge = job.judge
    model = open_chat(
        judge.provider,
        judge.model,
        judge.base_url,
        key_env=judge.key_env,
        timeout=job.how.limits.timeout,
        extra=judge.extra,
    )
    fact = f"abilities of {judge.provider} {judge.model} at {judge.base_url} {job.how.reason}"
    known = None if job.journal is None else job.journal.fact(fact)
    job.model = Probed(model, Abilities(**known) if isinstance(known, dict) else None)

    def end(answer: Answer) -> None:
        job.answers.append(answer)
        for question in job.questions[answer.key]:
            bench.take(question, judge.model, answer, job.envelope(answer.key))
        if progress is not None:
            progress(judge.model, answer, budget.spent)

    requests = list(job.requests.values())
    settings: dict[str, Any] = {"budget": budget, "price": judge.price}
    try:
        missing = [one for one in requests if job.journal is None or job.journal.answer(one.key) is None]
        if missing:
            await model.reach()
        if missing and job.model.abilities is None:
            await all_answers(missing[:1], job.call, job.how.limits, job.journal, end, **settings)
            requests = [one for one in requests if one.key != missing[0].key]
            if job.journal is not None and job.model.abilities is not None:
                job.journal.remember(fact, asdict(job.model.abilities))
        await all_answers(requests, job.call, job.how.limits, job.journal, end, **settings)
    finally:
        await model.close()


def _chat(question: Question, how: How, envelope: str) -> Chat:
    chat = rendered(question, how.rubric, envelope, reason=how.reason, max_tokens=how.max_tokens)
    return replace(chat, temperature=how.heat)


def _key(question: Question, judge: Judge, how: How) -> str:
    candidates = question.candidates
    return request_key(
        {
            "model": judge.model,
            "provider": judge.provider,
            "prompt_version": PROMPT_VERSION,
            "rubric": how.rubric.version,
            "prompt": _plain(candidates.prompt),
            "shown": [_plain(candidates.answers[place]) for place in question.shown],
            "escaped": question.is_escaped,
            "sample": question.sample,
            "reason": how.reason,
            "temperature": how.heat,
            "max_tokens": how.max_tokens,
            "extra": dict(judge.extra),
        }
    )


def _plain(content: Any) -> Any:
    return content if isinstance(content, str) else [message.as_row() for message in content]


def _estimate(jobs: Iterable[_Job], comparisons: int) -> Estimate:
    jobs = list(jobs)
    requests = [request for job in jobs for request in job.requests.values()]
    costs = [
        sum(job.judge.price.cost(one.input_tokens, one.output_tokens) for one in job.requests.values())
        for job in jobs
        if job.judge.price is not None
    ]
    return Estimate(
        comparisons,
        len(requests),
        sum(one.input_tokens for one in requests),
        sum(one.output_tokens for one in requests),
        sum(costs) if costs else None,
        tuple(job.judge.model for job in jobs if job.judge.price is None),
    )


def _result(reading: Reading, jobs: Sequence[_Job], bench: Bench, budget: Budget) -> JudgeResult:
    people = {one.comparison_id((0, 1)): one.votes for one in reading.candidates if one.votes}
    verdicts = bench.verdicts
    answers = [answer for job in jobs for answer in job.answers]
    audits = {
        job.judge.model: audit_judge(
            [verdict for verdict in verdicts if verdict.judge == job.judge.model], people, injected=bench.signs
        )
        for job in jobs
    }
    is_priced = any(job.judge.price is not None for job in jobs)
    return JudgeResult(
        read=reading.read,
        rejected=reading.rejected,
        pairs=tuple(bench.pairs),
        left_out=tuple(bench.left_out),
        verdicts=tuple(verdicts),
        audits=audits,
        agreement=_agreement(bench) if len(jobs) > 1 else None,
        calls={
            "made": sum(not one.kept and one.tries > 0 for one in answers),
            "kept": sum(one.kept for one in answers),
            "failed": sum(one.reply is None and one.tries > 0 for one in answers),
            "not_asked": sum(one.reply is None and one.tries == 0 for one in answers),
            "tries": sum(one.tries for one in answers if not one.kept),
        },
        spent=budget.spent if is_priced else None,
        estimate=_estimate(jobs, len(bench.pairs) + len(bench.left_out)),
        abilities={
            job.judge.model: job.model.abilities
            for job in jobs
            if job.model is not None and job.model.abilities is not None
        },
    )


def _agreement(bench: Bench) -> AgreementAudit:
    """How far the judges agree with each other."""
    rows = [
        (ruling.comparison, name, outcome)
        for ruling in bench.rulings
        for name, outcome in ruling.judges.items()
        if outcome in ("first", "second", "tie")
    ]
    return audit_agreement(votes_from_table(rows))


__all__ = ["Candidates", "Estimate", "How", "Judge", "JudgeResult", "estimate", "example", "judge", "judge_named"]
