"""What happens at an annotator's wish: the next item, an answer, a look back. Knows nothing of HTTP."""

from __future__ import annotations

import time
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

from preftune.collect.people_items import Item, drawn
from preftune.collect.people_queue import Queue
from preftune.collect.people_store import Answer, Answered, Handed, Side, Store
from preftune.errors import PreftuneError

OnPage: TypeAlias = Literal["1", "2", "tie", "both_bad", "skip"]

LONGEST_NAME: Final = 60
LONGEST_REASON: Final = 4000
MOST_ANNOTATORS: Final = 1000


@dataclass(frozen=True)
class Rules:
    """How the work is shared out.

    ``people_per_item``: votes that each item gets. ``gold_every``: one item of so many is gold while there is any.
    ``blind``: never show what the data's label or the right answer is. ``lease_seconds``: how long an item waits for
    the annotator it was handed to before another may get it.
    """

    people_per_item: int = 3
    shuffle: bool = True
    blind: bool = True
    gold_every: int = 10
    lease_seconds: float = 1800


@dataclass(frozen=True)
class Shown:
    """An item as one annotator sees it, and where they have answered it before, how."""

    number: int
    item: Item
    shown_first: Side
    answer: Answer | None = None


@dataclass(frozen=True)
class Given:
    """An answer as it comes from the page: "1" is what stood first."""

    item: int
    choice: OnPage
    seconds: float
    request: str
    strength: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Standing:
    """How far one annotator and all together have come; ``share`` counts votes on items, gold aside."""

    answered: int
    share: float


class Refused(PreftuneError):
    """A wish that cannot be met now; the work goes on with the next item."""


class Desk:
    """The work of all annotators on one store. Every method is called from one thread."""

    def __init__(self, store: Store, rules: Rules, now: Callable[[], float] = time.time) -> None:
        self._store, self.rules, self._now = store, rules, now
        self._names = {_folded(name): name for name in store.annotators()}
        self._items = set(store.numbers(is_gold=False))
        self._gold = store.numbers(is_gold=True)
        people, shuffle = rules.people_per_item, rules.shuffle
        self._queue = Queue(store.numbers(is_gold=False), people, seed=store.seed, shuffle=shuffle)
        self._open: dict[str, Handed] = {}  # what each annotator was handed and has not answered
        self._gold_seen: dict[str, set[int]] = {}
        self._turns: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._votes: Counter[int] = Counter()  # of each item, gold and skips aside
        for handed in store.handed():
            self._replay(handed)

    @property
    def names(self) -> list[str]:
        """The annotators, in the order of joining."""
        return list(self._names.values())

    def join(self, name: str, *, may_return: bool) -> str:
        """Takes a person in and gives the name they are known by; ``may_return``: also one that is known."""
        tidy = " ".join(unicodedata.normalize("NFC", name).split())
        if not tidy or len(tidy) > LONGEST_NAME or not tidy.isprintable():
            raise Refused("The name cannot be used.", mend=f"Give 1 to {LONGEST_NAME} letters that can be printed.")
        known = self._names.get(_folded(tidy))
        if known is not None:
            if not may_return:
                mend = "If it is yours, open your personal link; otherwise choose another name."
                raise Refused("Somebody has joined under this name.", mend=mend)
            return known
        if len(self._names) >= MOST_ANNOTATORS:
            raise Refused(f"There are {MOST_ANNOTATORS:,} annotators, and no room for more.")
        self._store.join(tidy, self._now())
        self._names[_folded(tidy)] = tidy
        return tidy

    def next_for(self, annotator: str) -> Shown | None:
        """The item to show now: the one that is open, gold in its turn, or the queue's; None where all is done."""
        self._release_expired()
        handed = self._still_open(annotator)
        if handed is None:
            number = self._due_gold(annotator)
            number = self._queue.next_for(annotator) if number is None else number
            if number is None:
                return None
            handed = self._hand_out(number, annotator)
        return Shown(handed.item, self._store.item(handed.item), handed.shown_first)

    def answer(self, annotator: str, given: Given) -> OnPage | None:
        """Keeps an answer; gives, where the rules are not blind, what the data or gold says, as on the page.

        The same request twice is one answer, and another on the same item takes the place of the first. Refused
        where the item was not handed to this annotator, or has got its votes from others meanwhile.
        """
        handed = self._store.handed_to(annotator, given.item)
        if handed is None:
            raise Refused("This item was not handed to you.", mend="Go on with the next one.")
        if not self._store.has_request(annotator, given.request):
            self._record(handed, given)
        label = None if self.rules.blind else self._store.item(given.item).label
        return label and on_page(label, handed.shown_first)

    def before(self, annotator: str, number: int | None) -> Shown | None:
        """The item that this annotator answered last, or last before ``number``; None where there is none."""
        if not self.rules.blind:
            raise Refused("Answers are final here: what the data says was shown.", mend="Go on with the next one.")
        at = None if number is None else self._store.handed_to(annotator, number)
        handed = self._store.answered_before(annotator, at.turn if at else None)
        if handed is None:
            return None
        answer = self._store.answer(handed.item, annotator)
        return Shown(handed.item, self._store.item(handed.item), handed.shown_first, answer)

    def standing(self, annotator: str) -> Standing:
        """How far this annotator and all together have come."""
        wanted = len(self._items) * self.rules.people_per_item
        return Standing(self._answered[annotator], self._votes.total() / wanted if wanted else 1.0)

    @property
    def is_complete(self) -> bool:
        """Whether every item has its votes."""
        people = self.rules.people_per_item
        return all(self._votes[number] >= people for number in self._items)

    # --- handing out ------------------------------------------------------------------------------------

    def _release_expired(self) -> None:
        now = self._now()
        for handed in list(self._open.values()):
            if 0 < handed.until < now:
                self._expire(handed)

    def _expire(self, handed: Handed) -> None:
        """Another may have the item; whoever it was handed to may still answer while there is room."""
        self._queue.release(handed.item, handed.annotator)
        self._open[handed.annotator] = replace(handed, until=0.0)

    def _still_open(self, annotator: str) -> Handed | None:
        """What the annotator was handed before and may still answer, kept for them once more."""
        handed = self._open.get(annotator)
        if handed is None:
            return None
        if not self._may_answer(handed.item, annotator):
            del self._open[annotator]
            return None
        return self._keep(replace(handed, until=self._now() + self.rules.lease_seconds))

    def _may_answer(self, number: int, annotator: str) -> bool:
        return number not in self._items or self._queue.has_room(number, annotator)

    def _due_gold(self, annotator: str) -> int | None:
        """A gold item where it is this annotator's turn for one: once, at a place drawn, in every so many items."""
        left = [number for number in self._gold if number not in self._gold_seen.get(annotator, ())]
        block, place = divmod(self._turns[annotator], self.rules.gold_every)
        if not left or place != drawn(self._store.seed, "gold", annotator, block) % self.rules.gold_every:
            return None
        return min(left, key=lambda number: drawn(self._store.seed, "gold item", annotator, number))

    def _hand_out(self, number: int, annotator: str) -> Handed:
        side: Side = "second" if drawn(self._store.seed, "shown", annotator, number) & 1 else "first"
        now = self._now()
        turn = self._turns[annotator] + 1
        return self._keep(Handed(number, annotator, turn, side, now, now + self.rules.lease_seconds))

    def _keep(self, handed: Handed) -> Handed:
        self._store.hand_out(handed)
        self._take_note(handed)
        return handed

    def _replay(self, handed: Handed) -> None:
        """What was handed out before this server began."""
        self._take_note(handed)
        if handed.choice is not None:
            self._count(handed, handed.choice, None)
        elif handed.until < self._now():
            self._expire(handed)

    def _take_note(self, handed: Handed) -> None:
        self._turns[handed.annotator] = max(handed.turn, self._turns[handed.annotator])
        self._open[handed.annotator] = handed
        self._queue.hold(handed.item, handed.annotator)
        if handed.item not in self._items:
            self._gold_seen.setdefault(handed.annotator, set()).add(handed.item)

    # --- answers ----------------------------------------------------------------------------------------

    def _record(self, handed: Handed, given: Given) -> None:
        annotator = handed.annotator
        before = self._store.answer(handed.item, annotator)
        if before is not None and not self.rules.blind:
            raise Refused("Answers are final here: what the data says was shown.", mend="Go on with the next one.")
        adds_a_vote = given.choice != "skip" and (before is None or before.choice == "skip")
        if adds_a_vote and not self._may_answer(handed.item, annotator):
            raise Refused("The item has got all its votes from others meanwhile.", mend="Go on with the next one.")
        now = self._now()
        seconds = given.seconds + (before.seconds if before else 0.0)
        answer = Answer(
            item=handed.item,
            annotator=annotator,
            choice=_in_record_terms(given.choice, handed.shown_first),
            seconds=min(seconds, max(now - handed.at, 0.0)),
            at=now,
            request=given.request,
            strength=given.strength if given.choice in ("1", "2") else None,
            reason=given.reason or None,
        )
        self._store.record(answer)
        self._count(handed, answer.choice, before.choice if before else None)

    def _count(self, handed: Handed, choice: Answered, before: Answered | None) -> None:
        annotator, number = handed.annotator, handed.item
        if (held := self._open.get(annotator)) and held.item == number:
            del self._open[annotator]
        self._answered[annotator] += before is None
        if choice == "skip":
            self._queue.release(number, annotator)
        else:
            self._queue.hold(number, annotator)
        if number in self._items:
            self._votes[number] += (choice != "skip") - (before not in (None, "skip"))


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()


def _in_record_terms(choice: OnPage, shown_first: Side) -> Answered:
    if choice == "1":
        return shown_first
    if choice == "2":
        return "second" if shown_first == "first" else "first"
    return choice


def on_page(choice: Answered, shown_first: Side) -> OnPage:
    """The choice as the annotator saw it."""
    if choice in get_args(Side):
        return "1" if choice == shown_first else "2"
    return choice  # type: ignore[return-value]  # tie, both_bad and skip are called the same
