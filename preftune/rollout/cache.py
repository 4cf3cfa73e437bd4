"""Keys and values while completions are drawn: a prompt's are held once for all its rows, a row's own grow in place."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

# Tokens that rows have room for to begin with; the room doubles, so that a long limit costs nothing by itself.
FIRST_ROOM = 64


@dataclass
class Layer:
    """A layer's buffers: the groups of a slot lie one after the other.

    Zeros where nothing was written, since what is masked is still multiplied.
    """

    groups: int
    prompt_keys: Float[Tensor, "prompts*groups tokens width"]
    prompt_values: Float[Tensor, "prompts*groups tokens width"]
    keys: Float[Tensor, "rows*groups tokens width"]
    values: Float[Tensor, "rows*groups tokens width"]

    def make_room(self, prompts: tuple[int, int], rows: tuple[int, int]) -> None:
        """For so many slots, and tokens in each; what there is stays."""
        if not _fits(self.prompt_keys, self.groups, prompts):
            self.prompt_keys = _grown(self.prompt_keys, self.groups, prompts)
            self.prompt_values = _grown(self.prompt_values, self.groups, prompts)
        if not _fits(self.keys, self.groups, rows):
            self.keys = _grown(self.keys, self.groups, rows)
            self.values = _grown(self.values, self.groups, rows)


class KeyValueCache:
    """The buffers of all layers. Prompts and rows lie in slots that are kept dense, so that a slice has them all."""

    def __init__(self) -> None:
        self._layers: dict[int, Layer] = {}
        self._prompt_room = self._row_room = (0, 0)  # slots, tokens

    def make_room(self, *, prompts: int, prompt_tokens: int, rows: int) -> None:
        """For so many prompts of at most so many tokens, and so many rows, at once; what there is stays."""
        self._prompt_room = _larger(self._prompt_room, (prompts, prompt_tokens))
        self._row_room = _larger(self._row_room, (rows, FIRST_ROOM))

    def make_room_for_tokens(self, tokens: int) -> None:
        """For rows of so many tokens."""
        rows, room = self._row_room
        while room < tokens:
            room *= 2
        self._row_room = (rows, room)

    def layer(self, number: int, key: Tensor, value: Tensor) -> Layer:
        """The buffers of layer ``number``, whose keys and values are (1, groups, tokens, width)."""
        layer = self._layers.get(number)
        if layer is None:
            empty = [like.new_zeros(0, 0, like.shape[-1]) for like in (key, value)]
            layer = self._layers[number] = Layer(key.shape[1], *empty, *empty)
        layer.make_room(self._prompt_room, self._row_room)
        return layer

    def move_row(self, source: int, target: int, tokens: int) -> None:
        """Puts the first ``tokens`` of a row into another slot."""
        for layer in self._layers.values():
            for buffer in (layer.keys, layer.values):
                _move(buffer, layer.groups, source, target, tokens)

    def move_prompt(self, source: int, target: int, tokens: int) -> None:
        """Puts the first ``tokens`` of a prompt into another slot."""
        for layer in self._layers.values():
            for buffer in (layer.prompt_keys, layer.prompt_values):
                _move(buffer, layer.groups, source, target, tokens)

    def bytes_per_token(self) -> int:
        """Bytes that the keys and values of one token take in all layers; 0 before the first token."""
        return sum(
            layer.groups * buffer.shape[-1] * buffer.element_size()
            for layer in self._layers.values()
            for buffer in (layer.keys, layer.values)
        )

    def clear(self) -> None:
        """Gives the memory back."""
        self._layers.clear()
        self._prompt_room = self._row_room = (0, 0)


def _larger(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), max(one[1], other[1])


def _fits(buffer: Tensor, groups: int, room: tuple[int, int]) -> bool:
    return buffer.shape[0] >= room[0] * groups and buffer.shape[1] >= room[1]


def _grown(buffer: Tensor, groups: int, room: tuple[int, int]) -> Tensor:
    places, tokens, width = buffer.shape
    wider = buffer.new_zeros(max(places, room[0] * groups), max(tokens, room[1]), width)
    wider[:places, :tokens] = buffer
    return wider


def _move(buffer: Tensor, groups: int, source: int, target: int, tokens: int) -> None:
    into, out_of = (slice(slot * groups, (slot + 1) * groups) for slot in (target, source))
    buffer[into, :tokens] = buffer[out_of, :tokens]
