"""Demonstrations put together into packs of like length, so that steps cost alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from preftune.data.tokens import TokenDemonstration


@dataclass(frozen=True)
class Bin:
    """Demonstrations that are computed together; they do not see each other."""

    members: tuple[TokenDemonstration, ...]

    @property
    def id(self) -> str:
        return "+".join(member.id for member in self.members)

    @property
    def length(self) -> int:
        return sum(member.length for member in self.members)

    @property
    def learned(self) -> int:
        """Tokens that count in the loss."""
        return sum(member.learned for member in self.members)


def pack(demonstrations: Sequence[TokenDemonstration], size: int | None) -> list[Bin]:
    """Bins of at most ``size`` tokens by best fit, longest first (Johnson 1974); no demonstration is cut for it."""
    if size is None:
        return [Bin((one,)) for one in demonstrations]
    rooms: dict[int, list[int]] = {}  # free tokens: bins with so many
    contents: list[list[TokenDemonstration]] = []
    for one in sorted(demonstrations, key=lambda one: -one.length):
        fitting = min((room for room, bins in rooms.items() if room >= one.length and bins), default=None)
        if fitting is None:
            number, room = len(contents), max(size, one.length)
            contents.append([])
        else:
            number, room = rooms[fitting].pop(), fitting
        contents[number].append(one)
        rooms.setdefault(room - one.length, []).append(number)
    return [Bin(tuple(members)) for members in contents]
