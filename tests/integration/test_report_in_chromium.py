"""The report in a real browser: no errors, nothing that models wrote does anything, and it works where it is shown."""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from study_results import study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.report import render_report
from kilter.analysis.results import Generation

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=4000",
)
ATTACKS = (
    '<script>document.title = "broken"</script>',
    "</script><img src=x onerror=\"document.title = 'broken'\">",
    "</pre></div><svg onload=\"document.title = 'broken'\">",
)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("KILTER_REQUIRE_CHROMIUM") != "1",
    reason="no chromium is installed (KILTER_REQUIRE_CHROMIUM=1 makes this an error)",
)


def browse(address: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page and return its document after its scripts ran, and what it wrote to the console."""
    assert CHROMIUM is not None, "KILTER_REQUIRE_CHROMIUM=1, but no chromium is installed"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The report of a study whose models answer with attacks."""
    results = study_results(documents=30)
    answers = tuple(Generation(f"{attack} ?", attack) for attack in ATTACKS)
    results = replace(
        results,
        name="in the browser",
        models=tuple(replace(model, generations=answers) for model in results.models),
    )
    return render_report(results, analyse(results), tmp_path_factory.mktemp("report"))


def probe(report: Path, folder: Path, width: int, code: str) -> dict:
    """Run code beside the report, shown in a frame of a width; `page` is its document, `told` what to return."""
    outer = folder / "outer.html"
    outer.write_text(
        f"<!DOCTYPE html><pre id=told></pre><iframe id=frame style='border:0;width:{width}px;height:900px' "
        f'srcdoc="{html.escape(report.read_text(encoding="utf-8"))}"></iframe>'
        f"<script>frame.onload = () => {{ const page = frame.contentDocument, told = {{}}; {code};"
        "document.getElementById('told').textContent = JSON.stringify(told); };</script>",
        encoding="utf-8",
    )
    document, console = browse(outer.as_uri(), folder / "profile", f"--window-size={width + 40},1000")
    assert console == []
    told = re.search(r'<pre id="told">(.*?)</pre>', document, re.DOTALL)
    assert told is not None
    return json.loads(html.unescape(told.group(1)))


def test_what_models_wrote_does_nothing_and_the_console_stays_silent(report, tmp_path):
    document, console = browse(report.as_uri(), tmp_path / "profile")
    assert console == []
    assert "<title>in the browser · alignment study</title>" in document
    assert 'class="scripted"' in document
    for attack in ATTACKS:
        assert html.escape(attack, quote=False) in document


def test_the_console_would_tell_of_a_foreign_script(report, tmp_path):
    changed = tmp_path / "changed.html"
    text = report.read_text(encoding="utf-8").replace("</main>", f"{ATTACKS[0]}</main>")
    changed.write_text(text, encoding="utf-8")
    document, console = browse(changed.as_uri(), tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
    assert "<title>broken</title>" not in document


def test_the_page_works_in_a_sandboxed_frame(report, tmp_path):
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(report.read_text(encoding="utf-8"))}"></iframe>',
        encoding="utf-8",
    )
    _, console = browse(outer.as_uri(), tmp_path / "profile")
    assert console == []


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_the_address_can_ask_for_colours(report, tmp_path, theme):
    document, console = browse(f"{report.as_uri()}#theme={theme}", tmp_path / "profile")
    assert console == []
    assert f'data-theme="{theme}"' in document


@pytest.mark.parametrize("width", [400, 800, 1200])
def test_wide_tables_scroll_in_their_box_and_never_the_page(report, tmp_path, width):
    told = probe(
        report,
        tmp_path,
        width,
        "page.querySelectorAll('details').forEach((one) => { one.open = true; });"
        "told.width = page.documentElement.scrollWidth; told.inner = frame.contentWindow.innerWidth;"
        "told.boxes = [...page.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth).length",
    )
    assert told["inner"] == width
    assert told["width"] <= width
    assert told["boxes"] > 0


def test_a_lineage_link_opens_its_row_in_a_page_of_its_own(report, tmp_path):
    anchor = re.search(r'<td class="score[^"]*"><a href="#([^"]+)"', report.read_text(encoding="utf-8"))
    assert anchor is not None
    document, console = browse(f"{report.as_uri()}#{anchor.group(1)}", tmp_path / "profile")
    assert console == []
    assert f'<tr id="{anchor.group(1)}" class="target">' in document
    before = document[: document.index(f'<tr id="{anchor.group(1)}"')]
    assert before.rindex('<details class="block" open="">') > before.rindex("</details>")


def test_sorting_filtering_colours_and_lineage_answer_to_clicks(report, tmp_path):
    told = probe(
        report,
        tmp_path,
        1200,
        """
        const table = page.getElementById('comparisons-parent');
        const column = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[3].dataset.sort));
        table.tHead.rows[0].cells[3].querySelector('button').click();
        told.rising = column();
        table.tHead.rows[0].cells[3].querySelector('button').click();
        told.falling = column();
        const box = page.querySelector('[data-filter="comparisons-parent"]');
        box.value = 'DPO kilter_arithmetic';
        box.dispatchEvent(new frame.contentWindow.Event('input'));
        told.shown = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.textContent);
        const background = () => frame.contentWindow.getComputedStyle(page.body).backgroundColor;
        page.querySelector('[data-set-theme=dark]').click();
        told.dark = background();
        page.querySelector('[data-set-theme=light]').click();
        told.light = background();
        const link = page.querySelector('td.score a');
        link.click();
        const row = page.getElementById(link.hash.slice(1));
        told.open = row.closest('details').open;
        told.place = row.getBoundingClientRect().top;
        told.same = frame.contentDocument === page
        """,
    )
    assert told["rising"] == sorted(told["rising"])
    assert told["falling"] == sorted(told["rising"], reverse=True)
    assert len(told["shown"]) == 3
    assert all("DPO" in text and "kilter_arithmetic" in text for text in told["shown"])
    assert told["dark"] != told["light"]
    assert told["open"]
    assert 0 <= told["place"] < 900
    assert told["same"]
