"""The report's tables."""

from kilter.analysis.table_files import Cell, Column, Table, Value, format_value, markdown, p_text, write_tables

__all__ = ["Cell", "Column", "Table", "Value", "format_value", "markdown", "p_text", "write_tables"]
