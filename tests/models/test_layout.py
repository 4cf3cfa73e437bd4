"""What each target is predicted from, for every way of laying groups out, against the sequences alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preftune.errors import PreftuneError
from preftune.models.layout import Group, Layout, Segment, lay_out

TOKENS = st.lists(st.integers(1, 96), min_size=1, max_size=6)
GROUPS = st.lists(st.builds(Group, TOKENS, st.lists(TOKENS, min_size=1, max_size=4).map(tuple)), min_size=1)
EVERY_WAY = pytest.mark.parametrize("share_prompt", [True, False])
EVERY_FORM = pytest.mark.parametrize("pad_to_rows", [True, False])
EVERY_END = pytest.mark.parametrize("keep_last", [True, False])


@EVERY_WAY
@EVERY_FORM
@EVERY_END
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS.filter(lambda groups: len(groups) <= 5))
def test_every_target_is_predicted_from_exactly_the_tokens_before_it(
    groups: list[Group], share_prompt: bool, pad_to_rows: bool, keep_last: bool
) -> None:
    layout = lay_out(groups, share_prompt=share_prompt, pad_to_rows=pad_to_rows, keep_last=keep_last)
    expected = [
        ([*group.prompt, *completion[:index]], completion[index], sequence)
        for sequence, (group, completion) in enumerate(_sequences(groups))
        for index in range(len(completion))
    ]
    assert _predictions(layout) == expected
    assert layout.n_sequences == sum(len(group.completions) for group in groups)


@EVERY_WAY
@EVERY_FORM
@EVERY_END
@settings(max_examples=20, deadline=None)
@given(groups=GROUPS.filter(lambda groups: len(groups) <= 5))
def test_a_sequences_last_input_sees_the_whole_sequence(
    groups: list[Group], share_prompt: bool, pad_to_rows: bool, keep_last: bool
) -> None:
    layout = lay_out(groups, share_prompt=share_prompt, pad_to_rows=pad_to_rows, keep_last=keep_last)
    wholes = [[*group.prompt, *completion] for group, completion in _sequences(groups)]
    assert [_seen(layout, place) for place in layout.last.tolist()] == [
        whole if keep_last else whole[:-1] for whole in wholes
    ]


@EVERY_WAY
@EVERY_FORM
@settings(max_examples=25, deadline=None)
@given(groups=GROUPS)
def test_mask_is_causal_within_a_branch_and_shut_between_branches(
    groups: list[Group], share_prompt: bool, pad_to_rows: bool
) -> None:
    layout = lay_out(groups, share_prompt=share_prompt, pad_to_rows=pad_to_rows)
    owners = _owners(layout)
    mask = layout.attention_mask_4d()
    rows, width = layout.input_ids.shape
    for row in range(rows):
        for query in range(width):
            for key in range(width):
                assert mask[row, 0, query, key].item() == _may_see(owners[row], query, key)


@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_a_packed_row_holds_each_prompt_once_and_nothing_else(groups: list[Group]) -> None:
    layout = lay_out(groups, share_prompt=True, pad_to_rows=False)
    assert layout.input_ids.shape == (1, sum(group.input_length for group in groups))
    assert layout.attention_mask().all()
    assert [segment.stop for segment in layout.segments[:-1]] == [s.start for s in layout.segments[1:]]


@EVERY_WAY
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_a_completions_last_token_is_no_input(groups: list[Group], share_prompt: bool) -> None:
    marked = [
        Group(group.prompt, tuple([*completion[:-1], 0] for completion in group.completions)) for group in groups
    ]  # 0 occurs nowhere else
    layout = lay_out(marked, share_prompt=share_prompt, pad_to_rows=True, pad_id=1)
    assert not (layout.input_ids == 0).any()
    assert int((layout.targets == 0).sum()) == layout.n_sequences


@EVERY_WAY
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS, pad_id=st.integers(0, 96))
def test_padding_stands_at_the_end_and_is_masked(groups: list[Group], pad_id: int, share_prompt: bool) -> None:
    layout = lay_out(groups, share_prompt=share_prompt, pad_to_rows=True, pad_id=pad_id)
    mask = layout.attention_mask()
    assert mask.sum(1).tolist() == [segment.length for segment in layout.segments]
    assert all(before >= after for row in mask.tolist() for before, after in pairwise(row))
    assert (layout.input_ids[mask == 0] == pad_id).all()
    assert len(layout.segments) == layout.input_ids.shape[0]


@EVERY_FORM
@settings(max_examples=40, deadline=None)
@given(groups=GROUPS)
def test_no_softmax_is_over_nothing(groups: list[Group], pad_to_rows: bool) -> None:
    mask = lay_out(groups, share_prompt=True, pad_to_rows=pad_to_rows).attention_mask_4d()
    assert mask.diagonal(dim1=-2, dim2=-1).all()


def test_two_completions_of_one_prompt_by_hand() -> None:
    layout = lay_out([Group([7, 8], ([1, 2, 3], [4, 5]))], share_prompt=True, pad_to_rows=False)
    assert layout.input_ids.tolist() == [[7, 8, 1, 2, 4]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 2]]
    assert layout.targets.tolist() == [1, 2, 3, 4, 5]
    assert layout.predicted_from.tolist() == [1, 2, 3, 1, 4]
    assert layout.sequence.tolist() == [0, 0, 0, 1, 1]
    assert layout.last.tolist() == [3, 4]
    assert layout.segments == (Segment(row=0, start=0, prompt=2, completions=(2, 1)),)
    assert layout.segments[0].sees().int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


def test_two_completions_with_their_last_tokens_by_hand() -> None:
    layout = lay_out([Group([7, 8], ([1, 2, 3], [4]))], share_prompt=True, pad_to_rows=False, keep_last=True)
    assert layout.input_ids.tolist() == [[7, 8, 1, 2, 3, 4]]
    assert layout.position_ids.tolist() == [[0, 1, 2, 3, 4, 2]]
    assert layout.last.tolist() == [4, 5]
    assert layout.predicted_from.tolist() == [1, 2, 3, 1]
    assert layout.segments == (Segment(row=0, start=0, prompt=2, completions=(3, 1)),)


@pytest.mark.parametrize("empty", [Group([], ([1],)), Group([1], ([2], [])), Group([1], ())])
def test_groups_with_nothing_to_predict_are_refused(empty: Group) -> None:
    with pytest.raises(PreftuneError, match="group 1"):
        lay_out([Group([1], ([2],)), empty], share_prompt=True, pad_to_rows=True)


def _sequences(groups: list[Group]) -> list[tuple[Group, list[int]]]:
    return [(group, list(completion)) for group in groups for completion in group.completions]


def _predictions(layout: Layout) -> list[tuple[list[int], int, int]]:
    """(tokens seen in the order of their positions, target, sequence) of each target."""
    return [
        (_seen(layout, source), target, sequence)
        for source, target, sequence in zip(
            layout.predicted_from.tolist(), layout.targets.tolist(), layout.sequence.tolist(), strict=True
        )
    ]


def _seen(layout: Layout, place: int) -> list[int]:
    """The tokens that the one at the flat index sees, itself included, in the order of their positions."""
    row, column = divmod(place, layout.input_ids.shape[1])
    seen = layout.attention_mask_4d()[row, 0, column]
    positions = layout.position_ids[row][seen]
    order = positions.argsort()
    assert positions[order].tolist() == list(range(len(positions)))
    assert layout.position_ids[row, column] == positions.max()
    return layout.input_ids[row][seen][order].tolist()


def _owners(layout: Layout) -> list[list[tuple[int, int] | None]]:
    """Of each token: its segment and branch (-1 for the prompt); None for padding."""
    owners: list[list[tuple[int, int] | None]] = [[None] * layout.input_ids.shape[1] for _ in layout.input_ids]
    for index, segment in enumerate(layout.segments):
        branches = [-1] * segment.prompt
        for branch, length in enumerate(segment.completions):
            branches += [branch] * length
        for offset, branch in enumerate(branches):
            owners[segment.row][segment.start + offset] = (index, branch)
    return owners


def _may_see(owners: list[tuple[int, int] | None], query: int, key: int) -> bool:
    asker, asked = owners[query], owners[key]
    if asker is None or asked is None:
        return query == key
    return key <= query and asker[0] == asked[0] and asked[1] in (-1, asker[1])


def test_lengths_of_tensors_agree() -> None:
    layout = lay_out([Group([1], ([2],)), Group([3, 4], ([5, 6], [7]))], share_prompt=False, pad_to_rows=True)
    assert layout.targets.shape == layout.predicted_from.shape == layout.sequence.shape == torch.Size([4])
