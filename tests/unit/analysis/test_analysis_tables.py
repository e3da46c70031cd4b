"""The report's tables and their files."""

import csv
import io
import math

import pyarrow.parquet as pq
import pytest
from study_results import HOSTILE, study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.table_files import csv_text, format_value, markdown, parquet_table
from kilter.analysis.tables import Cell, Column, Table, tables_of, write_tables


@pytest.fixture(scope="module")
def results():
    return study_results(documents=60)


@pytest.fixture(scope="module")
def findings(results):
    return analyse(results)


@pytest.fixture(scope="module")
def tables(results, findings):
    return {table.name: table for table in tables_of(results, findings)}


def records(table):
    names = [column.name for column in table.columns]
    return [dict(zip(names, row, strict=True)) for row in table.rows]


def test_every_table_is_there_with_its_rows(results, findings, tables):
    assert set(tables) == {
        "verdict",
        "scores-sft",
        "scores-base",
        "scores-instruct",
        "scores",
        "scores-by-size",
        "comparisons",
        "chosen",
        "models",
        "held-out",
        "data",
        "cost",
        "lineage",
    }
    assert len(tables["comparisons"].rows) == len(findings.comparisons)
    assert len(tables["models"].rows) == len(results.models) == 39
    assert len(tables["held-out"].rows) == 36
    assert len(tables["lineage"].rows) == len(tables["cost"].rows) == len(results.stages)
    assert len(tables["scores"].rows) == sum(len(model.scores) for model in results.models)
    assert len(tables["scores-by-size"].rows) == 3 * 4 * 5 * (3 + 1)


def test_a_scenario_shows_the_parent_and_each_method_with_intervals_and_marks(results, findings, tables):
    table = tables["scores-sft"]
    rows = records(table)
    assert [row["model"] for row in rows] == ["sft", "dpo", "ipo", "kto", "cpo"]
    cell = rows[1]["kilter_arithmetic"]
    score = next(
        score.value
        for model in results.models
        if model.name == "sft dpo all"
        for score in model.scores
        if score.benchmark == "kilter_arithmetic"
    )
    comparison = next(each for each in findings.comparisons if each.benchmark == "kilter_arithmetic")
    assert cell.score == pytest.approx(100 * score)
    assert cell.low < cell.score < cell.high
    assert cell.difference == pytest.approx(100 * comparison.difference)
    assert cell.mark == ("helped" if comparison.helped else "")
    assert rows[0]["kilter_arithmetic"].mark == ""
    assert str(Cell(55.04, 49.3, 60.6, mark="hurt")) == "55.0 [49.3, 60.6] hurt"


def test_few_steps_have_a_warning_beside_the_size(tables):
    warned = {row["model"]: row["warning"] for row in records(tables["models"])}
    assert warned["sft dpo 250"] == "fewer than 50 steps"
    assert warned["sft dpo all"] == ""


def test_comparisons_are_shown_in_per_cent(findings, tables):
    row, comparison = records(tables["comparisons"])[0], findings.comparisons[0]
    assert row["unit"] == "%"
    assert row["difference"] == pytest.approx(100 * comparison.difference)
    assert row["smallest_detectable"] == pytest.approx(100 * comparison.smallest_detectable)
    assert row["p_corrected"] == comparison.p_corrected


def test_data_accounts_add_up(tables):
    rows = [row for row in records(tables["data"]) if row["data"] == "preference"]
    counts = {row["what"]: row["rows"] for row in rows if row["rows"] is not None}
    left = counts["rows in"] - sum(rows for what, rows in counts.items() if what.startswith("dropped"))
    assert left - counts["held out"] == counts["rows out"]


def test_tables_of_three_seeds_show_the_mean():
    results = study_results(documents=30, scenarios=("sft",), sizes=("all",), seeds=(0, 1, 2))
    tables = {table.name: table for table in tables_of(results, analyse(results))}
    scores = [
        score.value
        for model in results.models
        if model.method == "dpo"
        for score in model.scores
        if score.benchmark == "kilter_arithmetic"
    ]
    cell = records(tables["scores-sft"])[1]["kilter_arithmetic"]
    assert cell.score == pytest.approx(100 * sum(scores) / 3)
    assert {row["models"] for row in records(tables["scores-by-size"])} == {1, 3}


def test_each_table_is_written_three_times(tmp_path, tables):
    paths = write_tables(tuple(tables.values()), tmp_path / "new" / "tables")
    assert {path.suffix for path in paths} == {".md", ".csv", ".parquet"}
    assert len(paths) == 3 * len(tables)
    for table in tables.values():
        folder = tmp_path / "new" / "tables"
        stored = pq.read_table(folder / f"{table.name}.parquet")
        assert stored.column_names == [column.name for column in table.columns]
        assert stored.num_rows == len(table.rows)
        read = list(csv.reader((folder / f"{table.name}.csv").read_text(encoding="utf-8").splitlines()))
        assert read[0] == stored.column_names
        assert len(read) == len(table.rows) + 1


def test_text_that_a_spreadsheet_would_run_is_disarmed_and_numbers_are_left_alone():
    hostile = ("=1+1", "+1", "-1", "@SUM(A1)", "\tcmd", "\rcmd", 'a, "b"\nc')
    table = Table(
        "t",
        "t",
        (Column("text", "Text"), Column("number", "Number", "number")),
        tuple((text, -1.5) for text in hostile),
    )
    read = list(csv.reader(io.StringIO(csv_text(table), newline="")))[1:]
    for row, text in zip(read, hostile[:6], strict=False):
        assert row == [f"'{text}", "-1.5"]
    assert read[6] == [hostile[6], "-1.5"]


def test_markdown_keeps_hostile_text_in_its_cell():
    table = Table("t", "T", (Column("text", "Te|xt"),), ((HOSTILE + " | a\nb",),))
    lines = markdown(table).splitlines()
    assert len(lines) == 5
    assert "<script>" not in lines[4]
    assert lines[4].replace("\\|", "").count("|") == 2


def test_values_are_written_for_people():
    assert format_value(Column("a", "A", "count"), 12345) == "12,345"
    assert format_value(Column("a", "A", "number", digits=1), 3.14159) == "3.1"
    assert format_value(Column("a", "A", "number"), math.inf) == "none"
    assert format_value(Column("a", "A", "p"), 0.00001) == "< 0.0001"
    assert format_value(Column("a", "A", "p"), 0.00042) == "0.0004"
    assert format_value(Column("a", "A", "p"), 0.042) == "0.042"
    assert format_value(Column("a", "A", "flag"), True) == "yes"
    assert format_value(Column("a", "A", "bytes"), 3 * 2**20) == "3 MiB"
    assert format_value(Column("a", "A", "seconds"), 61.25) == "61.2"
    assert format_value(Column("a", "A"), None) == ""


def test_parquet_keeps_types():
    columns = (
        Column("c", "C", "count"),
        Column("n", "N", "number"),
        Column("f", "F", "flag"),
        Column("x", "X", "cell"),
    )
    stored = parquet_table(Table("t", "t", columns, ((1, 0.5, True, Cell(1.0, None, None)), (None, None, None, None))))
    assert [str(kind) for kind in stored.schema.types] == ["int64", "double", "bool", "string"]
    assert stored.to_pylist()[1] == {"c": None, "n": None, "f": None, "x": None}


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="row 0 of table t has 2 values for 1 columns"):
        Table("t", "t", (Column("a", "A"),), ((1, 2),))
