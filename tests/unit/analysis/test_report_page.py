"""The report is one page whose numbers link to their lineage, and in which text from models does nothing."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from study_results import BENCHMARKS, SyntheticBenchmark, study_results

from kilter.analysis.analyse import analyse
from kilter.analysis.comparisons import Measured
from kilter.analysis.findings import Findings, Verdict
from kilter.analysis.report import render_report
from kilter.analysis.report.curves import POINTS_PER_LINE, thinned, training_curves
from kilter.analysis.report.index import Index
from kilter.analysis.report.render import report_html
from kilter.analysis.report.summary import summary_markdown
from kilter.analysis.report.tokens import token_rows
from kilter.analysis.report.verdict import verdict_section
from kilter.analysis.results import DataAccount, Generation, GoldenRow, StudyResults
from kilter.analysis.sizes import shortfalls, sizes_in_pairs

DATE = datetime(2026, 11, 23, 12, 30, tzinfo=UTC)
PAYLOAD = '<script>document.title="broken"</script></script><img src=x onerror="x()">"\'><svg onload=x()>{{ 7*7 }}|`*'
VOID = frozenset({"meta", "link", "br", "input", "img", "hr"})


class Page(HTMLParser):
    """The page's elements in order, with their attributes and the text directly in them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def links(self) -> list[str]:
        return [attributes["href"] for tag, attributes in self.elements if tag == "a" and "href" in attributes]


def html_of(results: StudyResults, findings: Findings | None = None) -> str:
    measured = Measured()
    return report_html(Index(results, findings or analyse(results, measured), measured), DATE)


@pytest.fixture(scope="module")
def study() -> tuple[StudyResults, Findings]:
    results = study_results(documents=60)
    return results, analyse(results)


@pytest.fixture(scope="module")
def page_text(study) -> str:
    return html_of(*study)


@pytest.fixture(scope="module")
def page(page_text) -> Page:
    return Page(page_text)


def test_the_page_is_well_formed_and_its_anchors_are_unique(page):
    assert page.unbalanced == []
    assert page.open == []
    assert len(page.ids()) == len(set(page.ids()))


def test_every_link_within_the_page_has_its_target(page):
    assert set(page.links()) <= {f"#{identifier}" for identifier in page.ids()}


def test_the_page_asks_for_nothing_from_outside(page, page_text):
    fetching = [
        attributes[name]
        for tag, attributes in page.elements
        for name in ("src", "srcset", "href", "data", "action", "poster")
        if tag not in {"a"} and name in attributes
    ]
    assert fetching == ["data:,"]
    assert "@import" not in page_text
    assert "url(" not in page_text
    assert "localStorage" not in page_text


def test_the_policy_allows_only_the_page_s_own_script(page):
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_sections_come_in_the_order_of_the_contents(page):
    contents = [link[1:] for link in page.links() if link[1:] in _sections(page)]
    first = list(dict.fromkeys(contents[1:]))
    assert _sections(page) == first
    assert first[0] == "verdict"


def _sections(page: Page) -> list[str]:
    return [attributes["id"] for tag, attributes in page.elements if tag == "section" and "id" in attributes]


def test_every_score_links_to_the_stage_that_measured_it(study, page_text):
    results, _ = study
    cells = re.findall(r'<td class="score[^"]*"><a href="#([^"]+)"', page_text)
    aligned = sum(model.method is not None for model in results.models)
    parents = 4
    assert len(cells) == len(BENCHMARKS) * (2 * parents + aligned + 12)
    index = Index(results, Findings((), (), (), "single checkpoints (one seed)"))
    for model in results.models:
        for benchmark in index.benchmarks:
            anchor = index.score_anchor(model, benchmark)
            row = re.search(rf'<tr id="{anchor}".*?</tr>', page_text, re.DOTALL).group()
            assert f"&#34;task&#34;: &#34;{benchmark}&#34;" in row
            assert model.key in row


def test_a_score_without_an_evaluation_stage_links_to_its_model(study):
    results, _ = study
    alone = replace(results, stages=tuple(stage for stage in results.stages if stage.stage != "evaluate"))
    index = Index(alone, Findings((), (), (), "single checkpoints (one seed)"))
    model = results.models[0]
    assert index.score_anchor(model, index.benchmarks[0]) == index.anchor(model.key) != "lineage"


def test_the_verdict_comes_first_with_its_sentences_and_counts(study, page):
    _, findings = study
    parents = [one for one in findings.comparisons if one.family == "parent"]
    better = sum(one.helped for one in parents)
    assert f"Of {len(parents)} differences from a parent model, {better} " in page.text
    for verdict in findings.verdicts:
        assert verdict.text in page.text


def test_significance_is_written_out_and_not_only_coloured(study, page_text):
    results, findings = study
    for comparison in findings.comparisons:
        if comparison.family == "parent" and (comparison.helped or comparison.hurt):
            index = Index(results, findings)
            difference = index.text(comparison.metric, comparison.difference, signed=True)
            words = f"▲ {difference} better" if comparison.helped else f"▼ {difference} worse"
            assert f'<span class="delta">{words}</span>' in page_text


def test_missing_stages_and_scores_are_named_at_the_top(study):
    results, findings = study
    model = results.models[-1]
    cut = replace(model, scores=tuple(score for score in model.scores if score.benchmark != "kilter_truth"))
    results = replace(results, models=(*results.models[:-1], cut))
    text = html_of(results, findings)
    top = Page(text[: text.index('id="verdict"')]).text
    assert "Incomplete: 2 results are missing" in top
    assert "the loss became NaN at step 14" in top
    assert "It has no score on kilter_truth" in top
    assert ">missing</span>" in text


def test_stages_that_waited_for_a_failed_one_are_counted_there(study):
    results, _ = study
    model = results.models[-1]
    stages = tuple(
        replace(stage, state="missing", error="the disk is full" if stage.stage == "align" else "not run")
        if model.key in (f"{stage.stage}/{stage.key}", stage.inputs.get("model"))
        else stage
        for stage in results.stages
    )
    failed = replace(model, scores=(), samples=None, curve=None, held_out={}, training={}, pairs=None, generations=())
    results = replace(results, stages=stages, models=(*results.models[:-1], failed))
    text = html_of(results, analyse(results))
    top = Page(text[: text.index('id="verdict"')]).text
    assert "Incomplete: 7 results are missing (2 align and 5 evaluate)" in top
    assert "7 results are missing (2 align and 5 evaluate); what needs them is not shown." in Page(text).text
    assert "the disk is full (5 stages that need it did not run.)" in top


def test_the_cards_count_what_the_headline_counts(study):
    results, findings = study
    section = verdict_section(Index(results, findings))
    counted = {
        kind: sum(
            len(verdict.comparisons)
            for verdict in findings.verdicts
            if verdict.kind == kind and verdict.comparisons[0].family == "parent"
        )
        for kind in ("helped", "hurt", "cannot tell")
    }
    numbers = [int(number) for number in re.findall(r"\d+", section.headline)]
    assert numbers[0] == sum(counted.values())
    assert numbers[1:4] == list(counted.values())
    for group, differences in zip(section.groups, counted.values(), strict=True):
        evidence = sum(len(sentence.evidence) for sentence in group.sentences)
        assert evidence == differences
        assert group.tally.endswith(f"{differences} difference{'' if differences == 1 else 's'}")
    assert f"{len(section.groups[2].sentences)} statements about " in section.groups[2].tally


def test_what_sft_did_by_itself_stands_apart(study):
    section = verdict_section(Index(*study))
    assert section.sft
    assert all(sentence.text.startswith("SFT by itself ") for sentence in section.sft)
    others = [sentence for group in section.groups for sentence in group.sentences] + list(section.between)
    assert not any("SFT by itself" in sentence.text for sentence in others)


def test_a_method_that_leaves_out_pairs_is_shown_at_the_size_that_was_asked_for():
    results = study_results(documents=20, scenarios=("sft",))
    short = replace(
        results,
        models=tuple(
            replace(model, pairs=model.pairs - model.pairs % 32) if model.method == "kto" else model
            for model in results.models
        ),
    )
    assert sizes_in_pairs(short) == {250: 250, 1000: 1000, "all": 4000}
    note = "KTO leaves out an incomplete last block: 224 of 250 pairs, 992 of 1,000 pairs."
    assert shortfalls(short) == (note,)
    assert shortfalls(results) == ()
    text = html_of(short)
    assert note in Page(text).text
    for changed in ("KTO · 224", "224 pairs</li>", ">224<", ">992<"):
        assert changed not in text.replace('data-sort="224">224<', "").replace('data-sort="992">992<', "")
    assert "KTO · 250" in text
    ticks = [re.findall(r'class="tick"[^>]*>(250|224|1k|992|4k)<', page) for page in (text, html_of(results))]
    assert ticks[0] == ticks[1] != []


def test_the_largest_training_set_is_drawn_strongest():
    results = study_results(documents=20, scenarios=("sft",), methods=("dpo",))
    group = training_curves(Index(results, analyse(results)))[0][1][0]
    assert [entry.name for entry in group.legend] == ["250 pairs", "1,000 pairs", "4,000 pairs"]
    found = [re.search(r'opacity="([\d.]+)"', entry.swatch) for entry in group.legend]
    assert [one and float(one.group(1)) for one in found] == [0.25, 0.5, None]
    assert [
        one or None
        for one in re.findall(r'<path class="line[^"]*"[^>]*?(?: opacity="([\d.]+)")?/>', group.panels[0].chart)
    ] == ["0.25", "0.5", None]


def test_one_of_a_thing_is_singular():
    results = study_results(
        documents=20, scenarios=("sft",), methods=("dpo",), sizes=("all",), benchmarks=BENCHMARKS[:1]
    )
    page = Page(html_of(results))
    assert "3 models, 1 benchmark " in page.text
    assert "1 scenario × 1 method × 1 size × 1 seed " in page.text
    assert "Of 1 difference from a parent model" in page.text


def test_few_steps_are_marked_in_words(page_text):
    assert page_text.count('title="fewer than 50 steps"') == 24


def test_the_comparisons_have_corrected_p_values_and_the_smallest_detectable_effect(study, page_text):
    _, findings = study
    rows = re.findall(r'<tr id="comparison-(\d+)"', page_text)
    assert sorted(map(int, rows)) == list(range(len(findings.comparisons)))
    for head in ("Corrected p", "Smallest detectable", "Corrected interval"):
        assert f">{head}</th>" in page_text


def hostile(results: StudyResults) -> StudyResults:
    """Put the payload wherever text from models, data or people can stand."""
    models = tuple(
        replace(
            model,
            name=f"{model.name} {PAYLOAD}",
            variant=PAYLOAD if model.method == "ipo" else model.variant,
            training={**model.training, "hyperparameters": {PAYLOAD: PAYLOAD}},
            generations=(Generation(PAYLOAD, PAYLOAD), Generation("plain", f"</pre>{PAYLOAD}")),
        )
        for model in results.models
    )
    stages = tuple(
        replace(
            stage,
            label=PAYLOAD,
            manifest_uri=f"s3://bucket/{PAYLOAD}",
            config={**stage.config, PAYLOAD: PAYLOAD},
            versions={PAYLOAD: PAYLOAD},
            inputs={**stage.inputs, PAYLOAD: f"ingest/{PAYLOAD}"},
            error=PAYLOAD if stage.error else None,
        )
        for stage in results.stages
    )
    return replace(
        results,
        name=PAYLOAD,
        store=PAYLOAD,
        study_yaml=PAYLOAD,
        kilter_version=PAYLOAD,
        warnings=(PAYLOAD,),
        models=models,
        stages=stages,
        data=(DataAccount(PAYLOAD, 10, {PAYLOAD: 4}, 1, 5, (PAYLOAD,)),),
        golden_rows=(
            GoldenRow(
                PAYLOAD,
                (
                    (
                        PAYLOAD,
                        ((1, PAYLOAD), (2, "</span><b>")),
                    ),
                ),
            ),
        ),
    )


def test_text_from_models_and_data_is_escaped_everywhere():
    benchmarks = (replace(BENCHMARKS[0], name=PAYLOAD), BENCHMARKS[1])
    results = hostile(study_results(documents=30, scenarios=("sft",), benchmarks=benchmarks))
    findings = analyse(results)
    findings = replace(findings, notes=(PAYLOAD,), verdicts=(*findings.verdicts, Verdict("helped", PAYLOAD)))
    text = html_of(results, findings)
    page = Page(text)
    assert page.unbalanced == []
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(tag == "img" for tag, _ in page.elements)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "{{ 7*7 }}" in page.text
    assert set(page.links()) <= {f"#{identifier}" for identifier in page.ids()}


def test_the_summary_keeps_its_tables_whole_with_hostile_text():
    results = hostile(study_results(documents=30, scenarios=("sft",), benchmarks=BENCHMARKS[:2]))
    text = summary_markdown(Index(results, analyse(results)), DATE)
    assert "<script" not in text
    assert "<img" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {len(BENCHMARKS[:2]) + 2}


def test_the_report_s_folder_holds_page_summary_and_tables(study, tmp_path):
    results, findings = study
    path = render_report(results, findings, tmp_path / "new" / "report", now=DATE)
    assert path == tmp_path / "new" / "report" / "report.html"
    assert (path.parent / "summary.md").read_text().startswith("# synthetic\n")
    endings = {file.suffix for file in (path.parent / "tables").iterdir()}
    assert endings == {".md", ".csv", ".parquet"}
    again = render_report(results, findings, tmp_path / "again", now=DATE)
    assert again.read_bytes() == path.read_bytes()


def test_the_page_of_39_models_stays_below_three_megabytes():
    steps = 5000
    results = study_results(documents=40, steps=steps)
    long = tuple(Generation(f"prompt {number} " + "x" * 5000, "y" * 20000) for number in range(20))
    results = replace(results, models=tuple(replace(model, generations=long) for model in results.models))
    assert len(html_of(results).encode()) < 3_000_000


def test_curves_are_averaged_in_equal_windows():
    model = study_results(documents=10, scenarios=("sft",), sizes=("all",)).models[-1]
    steps = 1000
    loss = np.arange(steps, dtype=float)
    loss[3] = np.nan
    curve = pa.table({"step": np.arange(steps), "loss": loss})
    points = thinned(replace(model, curve=curve), "loss")
    assert len(points) <= POINTS_PER_LINE
    assert points[0].y == pytest.approx((0 + 1 + 2 + 4 + 5) / 5)
    assert points[-1].x == pytest.approx(np.mean([996, 997, 998, 999]))
    assert thinned(replace(model, curve=None), "loss") == ()
    assert thinned(replace(model, curve=curve), "margin") == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"scenarios": ("instruct",), "sizes": ("all",)},
        {"scenarios": ("sft",), "seeds": (0, 1, 2), "sizes": (250, 1000)},
        {"scenarios": ("base",), "variants": {"ipo": ("beta=0.01", "beta=0.1")}},
        {"scenarios": ("base",), "methods": ("dpo",), "benchmarks": (SyntheticBenchmark("only", chance=None),)},
    ],
    ids=["one size", "three seeds", "a grid", "one of each"],
)
def test_studies_of_every_shape_have_a_page(changes):
    page = Page(html_of(study_results(documents=20, **changes)))
    assert page.unbalanced == []
    assert set(page.links()) <= {f"#{identifier}" for identifier in page.ids()}


def test_a_study_whose_models_all_failed_has_a_page_that_says_so():
    results = study_results(documents=20, scenarios=("sft",))
    results = replace(
        results,
        models=tuple(model for model in results.models if model.method is None),
        stages=results.stages[-1:],
        golden_rows=(),
        data=(),
    )
    page = Page(html_of(results))
    assert page.unbalanced == []
    assert "No aligned model could be compared with its parent." in page.text
    assert "Incomplete: 1 result is missing" in page.text


def test_three_seeds_are_shown_as_their_mean():
    results = study_results(documents=20, scenarios=("sft",), seeds=(0, 1, 2))
    text = html_of(results)
    assert "mean of 3 seeds" in text
    assert "seed 2" in text


def test_invisible_characters_and_special_tokens_show():
    tokens = ((1, "<s>"), (7, "Ġa"), (8, " b\n"), (9, "\t"), (2, "</s>"), (5, "<|user|>"))
    (row,) = token_rows((GoldenRow("preference", (("prompt", tokens),)),))
    shown = row.parts[0].tokens
    assert [token.text for token in shown] == ["<s>", "·a", "·b↵", "→", "</s>", "<|user|>"]
    assert [token.kind for token in shown] == ["bos", "", "", "", "eos", "special"]
    assert shown[2].breaks
    assert "id 8" in shown[2].title


def test_rows_that_do_not_add_up_are_called_out(study):
    results, findings = study
    wrong = replace(results, data=(DataAccount("preference", 100, {"exact duplicate": 10}, 5, 80),))
    assert "These numbers do not add up: 5 rows are unexplained." in Page(html_of(wrong, findings)).text
    assert "do not add up" not in Page(html_of(results, findings)).text


def test_a_rise_of_a_metric_that_should_fall_is_worse():
    results = study_results(
        documents=200, scenarios=("sft",), methods=("dpo",), sizes=("all",), benchmarks=BENCHMARKS[:1]
    )
    turned = tuple(
        replace(model, scores=tuple(replace(score, higher_is_better=False) for score in model.scores))
        for model in results.models
    )
    text = html_of(replace(results, models=turned))
    assert re.search(r'<span class="delta">▼ \+[\d.]+ worse</span>', text)
    assert "(lower is better; signs turned)" in text
    assert re.search(r'class="value worse"[^>]*>▼ −[\d.]+ \[−[\d.]+, −[\d.]+\]<', text)
