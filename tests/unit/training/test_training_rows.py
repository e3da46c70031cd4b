"""Prepared rows and the reference values that belong to them: what fits is joined, what does not is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_training

from kilter.data.schemas import PREPARED_PAIRS, REFERENCE_PAIRS
from kilter.errors import StageFailed
from kilter.training.rows import join_reference, read_pairs, whole_blocks


@pytest.fixture
def pairs(tmp_path):
    return tiny_training.write_pairs(tmp_path / "train.parquet", 20)


def reference_table(rows, start=0, stop=None):
    own = slice(start, stop)
    count = len(rows.positions[own])
    return pa.table(
        {
            "position": rows.positions[own],
            "row_id": rows.row_ids[own],
            "chosen_logp": -rows.positions[own] - 0.25,
            "chosen_tokens": rows.chosen.lengths[own],
            "chosen_logp_shorter": np.zeros(count),
            "rejected_logp": -rows.positions[own] - 0.5,
            "rejected_tokens": rows.rejected.lengths[own],
            "rejected_logp_shorter": np.zeros(count),
        },
        schema=REFERENCE_PAIRS,
    )


def write(table, path):
    pq.write_table(table, path)
    return path


def test_values_are_found_by_position_in_shards_of_any_order(pairs, tmp_path):
    rows = read_pairs(pairs)
    shards = [
        write(reference_table(rows, 10).take(np.arange(10)[::-1].copy()), tmp_path / "b"),
        write(reference_table(rows, 0, 10), tmp_path / "a"),
    ]
    found = join_reference(rows, np.arange(20), shards)
    assert (found.chosen == -rows.positions - 0.25).all()
    assert (found.rejected == -rows.positions - 0.5).all()


def test_rows_that_are_not_used_need_no_value(pairs, tmp_path):
    rows = read_pairs(pairs)
    found = join_reference(rows, np.arange(5), [write(reference_table(rows, 0, 5), tmp_path / "a")])
    assert np.isfinite(found.chosen[:5]).all()
    assert np.isnan(found.chosen[5:]).all()


def test_a_missing_row_is_refused(pairs, tmp_path):
    rows = read_pairs(pairs)
    with pytest.raises(StageFailed, match="lack 1 of 20 rows, the first at position 19"):
        join_reference(rows, np.arange(20), [write(reference_table(rows, 0, 19), tmp_path / "a")])


def test_an_empty_shard_has_no_rows(pairs, tmp_path):
    rows = read_pairs(pairs)
    with pytest.raises(StageFailed, match="lack 20 of 20"):
        join_reference(rows, np.arange(20), [write(reference_table(rows, 20), tmp_path / "a")])


def test_overlapping_shards_are_refused(pairs, tmp_path):
    rows = read_pairs(pairs)
    shards = [write(reference_table(rows), tmp_path / "a"), write(reference_table(rows, 5, 6), tmp_path / "b")]
    with pytest.raises(StageFailed, match="overlap"):
        join_reference(rows, np.arange(20), shards)


@pytest.mark.parametrize(("column", "value"), [("row_id", "other"), ("chosen_tokens", 99), ("rejected_tokens", 99)])
def test_values_of_other_data_are_refused(pairs, tmp_path, column, value):
    rows = read_pairs(pairs)
    table = reference_table(rows)
    values = table[column].to_pylist()
    values[7] = value
    index = table.schema.get_field_index(column)
    table = table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))
    with pytest.raises(StageFailed, match="made from other data: row and tokens at position 7"):
        join_reference(rows, np.arange(20), [write(table, tmp_path / "a")])


def test_values_that_are_not_finite_are_refused(pairs, tmp_path):
    rows = read_pairs(pairs)
    table = reference_table(rows)
    index = table.schema.get_field_index("rejected_logp")
    table = table.set_column(index, "rejected_logp", pa.array([float("nan")] * 20))
    with pytest.raises(StageFailed, match="not all finite"):
        join_reference(rows, np.arange(20), [write(table, tmp_path / "a")])


def test_a_size_is_the_first_positions(pairs):
    assert read_pairs(pairs, 7).positions.tolist() == list(range(7))


def test_a_size_above_the_data_is_refused(pairs):
    with pytest.raises(StageFailed, match="holds 20 rows, 21 were asked for"):
        read_pairs(pairs, 21)


def test_an_answer_without_tokens_is_refused(pairs, tmp_path):
    table = pq.read_table(pairs).to_pydict()
    table["rejected_ids"][3] = []
    path = write(pa.table(table, schema=PREPARED_PAIRS), tmp_path / "empty.parquet")
    with pytest.raises(StageFailed, match="no tokens in the rejected answer, the first at position 3"):
        read_pairs(path)


def test_rows_out_of_order_are_refused(pairs, tmp_path):
    path = write(pq.read_table(pairs).take([1, 0]), tmp_path / "turned.parquet")
    with pytest.raises(StageFailed, match="not in the order"):
        read_pairs(path)


def test_a_subset_uses_its_whole_blocks_only(pairs):
    # Twenty rows in blocks of eight: two whole blocks, and four rows without one.
    assert [block.tolist() for block in whole_blocks(pairs, read_pairs(pairs))] == [list(range(8)), list(range(8, 16))]
    assert [block.tolist() for block in whole_blocks(pairs, read_pairs(pairs, 15))] == [list(range(8))]
    assert whole_blocks(pairs, read_pairs(pairs, 7)) == []


def test_a_partner_outside_its_block_is_refused(pairs, tmp_path):
    table = pq.read_table(pairs).to_pydict()
    table["mismatched"][2] = 12
    path = write(pa.table(table, schema=PREPARED_PAIRS), tmp_path / "astray.parquet")
    with pytest.raises(StageFailed, match="from outside its block"):
        whole_blocks(path, read_pairs(path))


def test_the_real_blocks_of_the_data_package_are_whole(tmp_path):
    # Prompts with one to three pairs each, as real sets have them.
    blocks = pytest.importorskip("kilter.data.blocks")
    prompts = np.repeat(np.arange(30, dtype=np.uint64), np.random.default_rng(0).integers(1, 4, 30))
    block, mismatched = blocks.exchange_blocks(prompts)
    table = pq.read_table(tiny_training.write_pairs(tmp_path / "plain.parquet", len(prompts))).to_pydict()
    table |= {"block": block, "mismatched": mismatched}
    path = write(pa.table(table, schema=PREPARED_PAIRS), tmp_path / "train.parquet")
    found = whole_blocks(path, read_pairs(path))
    assert sum(len(members) for members in found) == len(prompts)
    assert len(whole_blocks(path, read_pairs(path, len(prompts) - 1))) == len(found) - 1
