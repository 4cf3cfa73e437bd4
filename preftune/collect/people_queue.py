"""Who gets which item next: so many different people an item, none twice, overlapping with everybody in turn."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice

from preftune.collect.people_items import drawn

_CANDIDATES = 32  # begun items among which the one whose people have met the annotator least is taken
_UNFINISHED_EACH = 4  # begun items for each annotator that may wait for somebody who has met their people less
_LOOKED_AT = 512  # places looked at for them; as they fill up, the oldest is taken, so that none waits for ever


class Queue:
    """The items in the order in which they are begun, and who holds or has answered each.

    Items that somebody has begun are finished before many others are opened. All of it is in memory and follows from
    what the store keeps; nothing here reads or writes.
    """

    def __init__(self, items: Sequence[int], people_per_item: int, *, seed: int, shuffle: bool) -> None:
        self._order = sorted(items, key=lambda item: drawn(seed, "order", item)) if shuffle else list(items)
        self._wanted = people_per_item
        self._seed, self._shuffle = seed, shuffle
        self._holders: dict[int, set[str]] = {item: set() for item in self._order}
        self._seen: dict[str, set[int]] = defaultdict(set)
        self._met: dict[str, Counter[str]] = defaultdict(Counter)  # how many items two people share
        self._unfinished = 0  # items that some hold, but too few
        self._untouched = 0  # where in the order the items begin that nobody was ever handed
        self._begun: list[int] = []  # in the order of events; an item that becomes free again is there again
        self._begun_at: dict[str, int] = defaultdict(int)  # before it, nothing is left for this annotator

    def next_for(self, annotator: str) -> int | None:
        """The item to hand out now; None where nothing is left for this annotator. It is not held yet."""
        begun = min(self._candidates(annotator), key=lambda item: self._acquaintance(item, annotator), default=None)
        if begun is not None and not self._can_wait(begun, annotator):
            return begun
        untouched = self._next_untouched(annotator)
        return begun if untouched is None else untouched

    def hold(self, item: int, annotator: str) -> None:
        """The item counts as this annotator's, who is working on it or has answered."""
        self._seen[annotator].add(item)
        holders = self._holders.get(item)
        if holders is None or annotator in holders:  # gold, or no longer in the data
            return
        for other in holders:
            self._met[annotator][other] += 1
            self._met[other][annotator] += 1
        if not holders:
            self._begun.append(item)
        holders.add(annotator)
        self._unfinished += self._is_unfinished(holders) - self._is_unfinished(holders - {annotator})

    def release(self, item: int, annotator: str) -> None:
        """The annotator will not answer; another gets the item. It is not handed to this one again."""
        self._seen[annotator].add(item)
        holders = self._holders.get(item)
        if holders is None:
            return
        if annotator in holders:
            holders.remove(annotator)
            self._unfinished += self._is_unfinished(holders) - self._is_unfinished(holders | {annotator})
            for other in holders:
                self._met[annotator][other] -= 1
                self._met[other][annotator] -= 1
        self._begun.append(item)

    def has_room(self, item: int, annotator: str) -> bool:
        """Whether an answer of this annotator would not be one too many."""
        holders = self._holders.get(item)
        return holders is None or annotator in holders or len(holders) < self._wanted

    def _next_untouched(self, annotator: str) -> int | None:
        while self._untouched < len(self._order):
            item = self._order[self._untouched]
            if not self._holders[item] and item not in self._seen[annotator]:
                return item
            self._untouched += 1
        return None

    def _candidates(self, annotator: str) -> list[int]:
        """Some of the items that others have begun and that this annotator may add to, each once."""
        begin = self._begun_at[annotator]
        while begin < len(self._begun) and not self._is_open(self._begun[begin], annotator):
            begin += 1
        self._begun_at[annotator] = begin
        window = self._begun[begin : begin + _LOOKED_AT]
        return list(dict.fromkeys(islice((item for item in window if self._is_open(item, annotator)), _CANDIDATES)))

    def _is_open(self, item: int, annotator: str) -> bool:
        return item not in self._seen[annotator] and len(self._holders[item]) < self._wanted

    def _acquaintance(self, item: int, annotator: str) -> tuple[int, int]:
        met = sum(self._met[annotator][other] for other in self._holders[item])
        return met, drawn(self._seed, "tie", annotator, item) if self._shuffle else 0

    def _can_wait(self, item: int, annotator: str) -> bool:
        """Whether the item is better left to somebody else: its people are not those this annotator has met least.

        Without it, people of equal pace would share all their items with the same few.
        """
        others = [other for other in self._seen if other != annotator]
        if self._unfinished >= _UNFINISHED_EACH * (len(others) + 1):
            return False
        met, holders = self._met[annotator], self._holders[item]
        return sum(met[other] for other in holders) > len(holders) * min(met[other] for other in others)

    def _is_unfinished(self, holders: set[str]) -> bool:
        return 0 < len(holders) < self._wanted
