"""Comparisons, tables, figures and the report."""
