"""Writes the report of a study: `report.html`, `summary.md` and `tables/`."""

import base64
import hashlib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kilter.analysis.comparisons import Measured
from kilter.analysis.findings import Findings
from kilter.analysis.missing import missing_of
from kilter.analysis.report.accounting import accounts, cost
from kilter.analysis.report.answers import prompts
from kilter.analysis.report.contrasts import COMPARISON_HEADS, comparison_tables, forests, matrices
from kilter.analysis.report.curves import POINTS_PER_LINE, parent_curves, size_curves, training_curves
from kilter.analysis.report.index import SCENARIO_TITLES, Index
from kilter.analysis.report.lineage import lineage, problems, versions
from kilter.analysis.report.methods import method_rows
from kilter.analysis.report.models import held_out_tables, model_rows
from kilter.analysis.report.palette import palette_css
from kilter.analysis.report.scores import score_tables
from kilter.analysis.report.summary import summary_markdown
from kilter.analysis.report.tokens import token_rows
from kilter.analysis.report.verdict import verdict_section
from kilter.analysis.results import StudyResults
from kilter.analysis.sizes import shortfalls
from kilter.analysis.tables import tables_of, write_tables
from kilter.analysis.verdict import FEW_STEPS


def render_report(
    results: StudyResults,
    findings: Findings,
    output: Path,
    *,
    now: datetime | None = None,
    measured: Measured | None = None,
) -> Path:
    """Write the report of a study into a folder: `report.html`, `summary.md` and `tables/`.

    Args:
        results: the study's results.
        findings: what the statistics say of them.
        output: the folder; made if it is missing.
        now: the date that the report bears; by default the present.
        measured: per-document values already read, to share them with `analyse`.

    Returns:
        The path of `report.html`.

    Raises:
        StageFailed: the models disagree on a benchmark's primary metric.
    """
    output.mkdir(parents=True, exist_ok=True)
    index = Index(results, findings, measured)
    date = now or datetime.now(UTC)
    page = output / "report.html"
    page.write_text(report_html(index, date), encoding="utf-8", newline="\n")
    (output / "summary.md").write_text(summary_markdown(index, date), encoding="utf-8", newline="\n")
    write_tables(tables_of(results, findings, index.measured), output / "tables")
    return page


def report_html(index: Index, date: datetime) -> str:
    """Return the report as one self-contained page that fetches nothing and runs only its own script."""
    script = _asset("script.js")
    environment = Environment(
        loader=PackageLoader("kilter.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown_prompts, further_prompts = prompts(index)
    return environment.get_template("report.html.j2").render(
        results=index.results,
        findings=index.findings,
        date=date,
        # The page's own style and script are trusted; every other value goes through autoescape.
        style=Markup(palette_css() + _asset("style.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=_script_hash(script),
        scenario_titles=SCENARIO_TITLES,
        benchmarks=index.benchmarks,
        verdict=verdict_section(index),
        problems=problems(index),
        missing=missing_of(index.results),
        shortfalls=shortfalls(index.results),
        score_tables=score_tables(index),
        forests=forests(index),
        size_curves=size_curves(index),
        matrices=matrices(index),
        comparison_tables=comparison_tables(index),
        comparison_heads=COMPARISON_HEADS,
        models=model_rows(index),
        methods=method_rows(index),
        few_steps_limit=FEW_STEPS,
        training_curves=training_curves(index),
        parent_curves=parent_curves(index),
        points_per_line=POINTS_PER_LINE,
        held_out=held_out_tables(index),
        prompts=shown_prompts,
        further_prompts=further_prompts,
        token_rows=token_rows(index.results.golden_rows),
        accounts=accounts(index.results.data),
        cost=cost(index),
        lineage=lineage(index),
        versions=versions(index),
    )


def _asset(name: str) -> str:
    return resources.files("kilter.analysis.report").joinpath("templates", name).read_text(encoding="utf-8")


def _script_hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
