"""The order of training: every row as often as it should, whole blocks, the same from the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilter.errors import StageFailed
from kilter.training.schedule import block_schedule, row_schedule

SIZES = st.integers(1, 60)


def rows_of_equal_length(rows, *arguments):
    return row_schedule(np.full(rows, 7), *arguments)


@given(rows=SIZES, epochs=st.integers(1, 3), batch=st.integers(1, 20), micro=st.integers(1, 20), seed=st.integers(0, 9))
def test_each_row_is_trained_once_an_epoch_and_every_step_but_the_last_is_full(rows, epochs, batch, micro, seed):
    schedule = rows_of_equal_length(rows, epochs, batch, micro, seed)
    stream = np.concatenate(schedule.micro_batches)
    for epoch in range(epochs):
        assert sorted(stream[epoch * rows : (epoch + 1) * rows]) == list(range(rows))
    per_step = schedule.rows_per_step()
    assert schedule.steps == len(per_step)
    assert (per_step[:-1] == batch).all()
    assert 0 < per_step[-1] <= batch
    assert schedule.micro_batch <= micro
    assert sum(per_step) == epochs * rows


@given(rows=st.integers(2, 60), seed=st.integers(0, 9))
def test_the_order_follows_from_the_seed_alone(rows, seed):
    first, again = (rows_of_equal_length(rows, 2, 8, 4, seed) for _ in range(2))
    assert first.digest() == again.digest()
    assert all((one == other).all() for one, other in zip(first.micro_batches, again.micro_batches, strict=True))


def test_another_seed_and_another_epoch_are_other_orders():
    first, other = rows_of_equal_length(50, 2, 50, 50, 0), rows_of_equal_length(50, 2, 50, 50, 1)
    assert first.digest() != other.digest()
    assert (first.micro_batches[0] != first.micro_batches[1]).any()


def test_the_split_into_micro_batches_does_not_change_the_order():
    orders = [np.concatenate(rows_of_equal_length(37, 1.5, 8, micro, 3).micro_batches) for micro in (1, 2, 3, 8)]
    assert all((order == orders[0]).all() for order in orders)


def test_half_an_epoch_is_half_of_the_rows():
    assert sum(rows_of_equal_length(40, 0.5, 8, 4, 0).rows_per_step()) == 20


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(StageFailed, match="nothing to train on"):
        rows_of_equal_length(0, 1, 8, 4, 0)


@given(
    sizes=st.lists(st.integers(8, 15), min_size=1, max_size=20),
    batch=st.integers(8, 64),
    micro=st.integers(1, 32),
    seed=st.integers(0, 9),
)
def test_blocks_are_never_split_and_never_lost(sizes, batch, micro, seed):
    ends = np.cumsum(sizes)
    blocks = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    schedule = block_schedule(blocks, 1, batch, micro, seed)
    assert sorted(np.concatenate(schedule.micro_batches)) == list(range(sum(sizes)))
    for rows in schedule.micro_batches:
        touched = {int(np.searchsorted(ends, row, side="right")) for row in rows}
        assert len(rows) == sum(sizes[block] for block in touched)
    assert schedule.batch_unit == "block"


def test_the_effective_batch_counts_pairs_as_near_as_blocks_allow():
    blocks = [np.arange(start, start + 8) for start in range(0, 800, 8)]
    assert block_schedule(blocks, 1, 32, 8, 0).effective_batch == 32
    assert block_schedule(blocks, 1, 32, 16, 0).accumulation == 2
    assert block_schedule(blocks, 1, 20, 8, 0).effective_batch == 16
    assert block_schedule(blocks, 1, 4, 2, 0).effective_batch == 8


def test_tokens_are_counted_for_each_step():
    lengths = np.arange(10) + 1
    schedule = row_schedule(lengths, 1, 4, 2, 0)
    assert schedule.tokens_per_step(lengths).sum() == 55
    assert schedule.tokens_per_step(lengths)[0] == lengths[np.concatenate(schedule.micro_batches[:2])].sum()


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=60), micro=st.integers(1, 8), seed=st.integers(0, 9))
def test_rows_of_a_step_are_sorted_by_length_but_stay_in_their_step(lengths, micro, seed):
    sizes = np.array(lengths)
    schedule = row_schedule(sizes, 1, 8, micro, seed)
    equal = rows_of_equal_length(len(sizes), 1, 8, micro, seed)
    for start in range(0, len(schedule.micro_batches), schedule.accumulation):
        step, other = (np.concatenate(one.micro_batches[start : start + one.accumulation]) for one in (schedule, equal))
        assert sorted(step) == sorted(other)
        assert sizes[step].tolist() == sorted(sizes[step], reverse=True)


@given(
    rows=SIZES,
    batch=st.integers(1, 20),
    micro=st.integers(1, 20),
    processes=st.integers(1, 5),
    epochs=st.sampled_from([1, 1.5, 2]),
)
def test_dealt_to_processes_each_step_has_the_same_rows_and_every_process_as_many_slots(
    rows, batch, micro, processes, epochs
):
    schedule = rows_of_equal_length(rows, epochs, batch, micro, 0)
    deal = schedule.dealt_to(processes)
    assert len(deal.steps) == schedule.steps
    for step, wanted in enumerate(schedule.rows_per_step()):
        start = step * schedule.accumulation
        whole = np.concatenate(schedule.micro_batches[start : start + schedule.accumulation])
        assert sorted(deal.rows_of_step(step)) == sorted(whole)
        assert len(whole) == wanted
        assert all(len(slot) == processes for slot in deal.steps[step])
    assert deal.micro_batch <= schedule.micro_batch
    assert all(len(step) == deal.accumulation for step in deal.steps[:-1])
    assert len(deal.steps[-1]) <= deal.accumulation
    slots = [[len(slots) for slots in deal.of_process(number)] for number in range(processes)]
    assert all(other == slots[0] for other in slots)


def test_dealt_to_one_process_the_micro_batches_are_the_schedule_s_own():
    schedule = rows_of_equal_length(37, 2, 8, 4, 0)
    mine = [rows for step in schedule.dealt_to(1).of_process(0) for rows in step]
    assert all((one == other).all() for one, other in zip(mine, schedule.micro_batches, strict=True))


def test_a_full_step_that_divides_by_the_processes_leaves_none_idle():
    deal = rows_of_equal_length(64, 1, 32, 4, 0).dealt_to(2)
    assert deal.accumulation == 4
    assert {len(rows) for step in deal.steps for slot in step for rows in slot} == {4}


def test_dealt_to_processes_blocks_stay_whole():
    blocks = [np.arange(start, start + 8) for start in range(0, 72, 8)]
    schedule = block_schedule(blocks, 1, 32, 8, 0)
    deal = schedule.dealt_to(3)
    whole = {tuple(block) for block in blocks}
    assert deal.accumulation == 2
    assert {tuple(rows) for step in deal.steps for slot in step for rows in slot} == {*whole, ()}


@pytest.mark.parametrize("rows", [5, 16, 100])
def test_a_budget_of_steps_is_as_many_whatever_the_rows(rows):
    lengths = np.arange(rows) + 1
    schedule = row_schedule(lengths, 1.0, 8, 4, 0, steps=7)
    assert schedule.steps == 7
    assert schedule.rows_per_step().tolist() == [8] * 7
    counts = np.bincount(np.concatenate(schedule.micro_batches), minlength=rows)
    assert counts.max() - counts.min() <= 1
    blocks = [np.arange(start, start + 8) for start in range(0, 8 * rows, 8)]
    assert block_schedule(blocks, 1.0, 16, 8, 0, steps=7).steps == 7
