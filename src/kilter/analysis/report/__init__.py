"""The report of a study: one self-contained HTML file, a Markdown summary, and every table."""

from kilter.analysis.report.render import render_report

__all__ = ["render_report"]
