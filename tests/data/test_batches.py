"""Every example once an epoch, whatever the batch, the accumulation and the number of processes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from preftune.data.batches import BatchPlan, by_length, epoch_order

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(tuple)
PLANS = st.builds(
    BatchPlan,
    lengths=LENGTHS,
    batch_size=st.integers(1, 9),
    accumulation=st.integers(1, 5),
    processes=st.integers(1, 6),
    seed=st.integers(0, 2**32),
    strategy=st.sampled_from(["random", "sequential"]),
)


@given(PLANS, st.integers(0, 2))
def test_an_epoch_has_every_example_once(plan: BatchPlan, epoch: int) -> None:
    """But for those that fill up a last step with fewer examples than processes."""
    drawn = Counter(i for step in _steps(plan, epoch) for i in plan.members(step))
    n, rest = len(plan.lengths), len(plan.lengths) % plan.per_step
    borrowed = max(plan.processes - rest, 0) if rest else 0
    assert set(drawn) == set(range(n))
    assert sum(drawn.values()) == n + borrowed
    if plan.processes == 1:
        assert set(drawn.values()) == {1}


@given(PLANS, st.integers(0, 40))
def test_parts_of_the_processes_are_disjoint_and_cover_the_step(plan: BatchPlan, step: int) -> None:
    parts = [i for process in range(plan.processes) for part in plan.micro_batches(step, process) for i in part]
    assert sorted(parts) == sorted(plan.members(step))
    assert len(parts) <= plan.per_step


@given(PLANS, st.integers(0, 40))
def test_every_process_has_work_in_every_step(plan: BatchPlan, step: int) -> None:
    counts = []
    for process in range(plan.processes):
        parts = plan.micro_batches(step, process)
        assert parts
        assert all(1 <= len(part) <= plan.batch_size for part in parts)
        assert len(parts) <= plan.accumulation
        counts.append(len(parts))
    assert max(counts) - min(counts) <= 1


@given(PLANS, st.integers(0, 40))
def test_longest_examples_come_first(plan: BatchPlan, step: int) -> None:
    """Over the processes in turn, as the parts were dealt."""
    dealt = [plan.micro_batches(step, process) for process in range(plan.processes)]
    rounds = [parts[turn] for turn in range(plan.accumulation) for parts in dealt if turn < len(parts)]
    lengths = [plan.lengths[i] for part in rounds for i in part]
    assert lengths == sorted(lengths, reverse=True)


@given(PLANS, st.integers(0, 40))
def test_a_step_is_a_pure_function_of_the_plan(plan: BatchPlan, step: int) -> None:
    again = BatchPlan(**vars(plan))
    plan.micro_batches(step + 1)
    assert again.micro_batches(step) == plan.micro_batches(step)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 4))
def test_cutting_a_step_otherwise_leaves_its_examples(lengths: tuple[int, ...], batch: int, accumulation: int) -> None:
    """So that batch 1 with accumulation 8 trains on what batch 8 does."""
    one = BatchPlan(lengths, batch, accumulation)
    other = BatchPlan(lengths, 1, batch * accumulation)
    assert [one.members(step) for step in range(one.steps_per_epoch)] == [
        other.members(step) for step in range(other.steps_per_epoch)
    ]


def test_epochs_and_seeds_differ_in_order_and_sequential_ones_do_not() -> None:
    orders = [tuple(epoch_order(100, seed, epoch, "random")) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert list(epoch_order(5, 3, 7, "sequential")) == [0, 1, 2, 3, 4]


def test_a_single_example_serves_every_process() -> None:
    plan = BatchPlan((7,), batch_size=4, processes=3)
    assert [plan.micro_batches(0, process) for process in range(3)] == [[[0]], [[0]], [[0]]]


@given(LENGTHS, st.integers(1, 9))
def test_batches_by_length_hold_every_example_once(lengths: tuple[int, ...], size: int) -> None:
    batches = by_length(lengths, size)
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == size for batch in batches[:-1])


def _steps(plan: BatchPlan, epoch: int) -> range:
    return range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)


def test_largest_is_the_micro_batch_with_the_most_tokens() -> None:
    plan = BatchPlan((5, 1, 9, 2, 8, 1, 1), batch_size=2, accumulation=1, strategy="sequential")
    assert plan.largest() == [2, 3]
    assert plan.largest(steps=1) is None  # only the first step is to come
    assert plan.largest(steps=100) == [2, 3]


def test_largest_is_none_where_the_first_step_has_it() -> None:
    assert BatchPlan((9, 1, 5, 2), batch_size=2, accumulation=1, strategy="sequential").largest() is None
