"""A study means the same however it is written; paths, variables, suites and shorthands are resolved."""

import copy
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter.study.builtin import BUILTIN_SPLITS
from kilter.study.load import load_study, parse_study
from kilter.study.methods import METHODS
from kilter.study.problems import StudyProblems
from kilter.study.specification import AlignSettings, Benchmark, MethodChoice, Study
from kilter.study.suites import SUITES

MODELS = {
    "base": {
        "chat_template": "plain",
        "init": {
            "architecture": {"context_length": 2048},
            "pretrain": {"data": {"source": "builtin:demo", "split": "text"}},
        },
    },
    "instruct": {"init": {"base": "base", "sft": {"data": {"source": "builtin:demo", "split": "instruct"}}}},
}
DATA = {
    "sft": {"source": "builtin:demo", "split": "sft"},
    "preference": {"source": "builtin:demo", "split": "preference"},
}

numbers = st.floats(1e-9, 10).map(lambda value: float(f"{value:.3g}"))
axes = st.one_of(numbers, st.lists(numbers, min_size=1, max_size=3, unique=True))


def allowed(parameter):
    values = st.integers(1, 99).map(float) if parameter.whole else st.sampled_from([0.001, 0.01, 0.02, 0.1, 0.25, 0.4])
    return st.one_of(values, st.lists(values, min_size=1, max_size=3, unique=True))


@st.composite
def methods(draw):
    names = draw(st.lists(st.sampled_from(sorted(METHODS)), min_size=1, unique=True))
    chosen = []
    for name in names:
        parameters = draw(st.sets(st.sampled_from(sorted(METHODS[name].hyperparameters))))
        known = METHODS[name].hyperparameters
        choice = {"name": name} | {parameter: draw(allowed(known[parameter])) for parameter in sorted(parameters)}
        if draw(st.booleans()):
            choice["training"] = {"learning_rate": draw(axes), "epochs": draw(numbers)}
        chosen.append(choice)
    return chosen


@st.composite
def studies(draw):
    sizes = st.one_of(st.integers(1, BUILTIN_SPLITS["demo"]["preference"]), st.just("all"))
    study = {
        "name": draw(st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,20}", fullmatch=True)),
        "models": copy.deepcopy(MODELS),
        "data": copy.deepcopy(DATA),
        "methods": draw(methods()),
        "benchmarks": [
            {"task": task} for task in draw(st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, unique=True))
        ],
    }
    optional = {
        "scenarios": st.lists(st.sampled_from(["sft", "base", "instruct"]), min_size=1, unique=True),
        "sizes": st.lists(sizes, min_size=1, max_size=4, unique=True),
        "seeds": st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
        "training": st.fixed_dictionaries({"sft": st.fixed_dictionaries({"learning_rate": numbers})}),
        "comparisons": st.fixed_dictionaries({"alpha": st.floats(0.001, 0.5)}),
    }
    for field in draw(st.sets(st.sampled_from(sorted(optional)))):
        study[field] = draw(optional[field])
    return study


def read(data, **options):
    return parse_study(yaml.safe_dump(data, sort_keys=False, **options), "study.yaml", {})


def shuffled(value, source):
    if isinstance(value, dict):
        fields = [(name, shuffled(inner, source)) for name, inner in value.items()]
        source.shuffle(fields)
        return dict(fields)
    return [shuffled(item, source) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=30)
@given(studies(), st.integers(0, 2**32))
def test_the_order_of_fields_does_not_matter(data, seed):
    assert read(shuffled(data, random.Random(seed))) == read(data)


@settings(deadline=None, max_examples=30)
@given(studies(), st.integers(0, 2**32))
def test_comments_and_layout_do_not_matter(data, seed):
    source = random.Random(seed)
    lines = yaml.safe_dump(data, sort_keys=False, default_flow_style=False).splitlines()
    commented = [line + source.choice(["", "  # why: {x: [1]}", "\n# a line: of its own", "\n\n"]) for line in lines]
    expected = read(data)
    assert parse_study("\n".join(["# first", *commented]), "study.yaml", {}) == expected
    assert read(data, default_flow_style=True, width=10_000) == expected


@settings(deadline=None, max_examples=30)
@given(studies())
def test_defaults_written_out_do_not_matter(data):
    study = read(data)
    assert read(without_nothing(study.model_dump(mode="json"))) == study


def without_nothing(value):
    if isinstance(value, dict):
        return {name: without_nothing(inner) for name, inner in value.items() if inner is not None}
    return [without_nothing(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(METHODS)), st.sampled_from(["a", "gsm8k"]))
def test_a_name_alone_is_a_method_or_a_benchmark_with_its_defaults(method, task):
    written = {"name": "x", "models": MODELS, "data": DATA, "scenarios": ["base"]}
    short = read({**written, "methods": [method], "benchmarks": [task]})
    assert short == read({**written, "methods": [{"name": method}], "benchmarks": [{"task": task}]})
    assert short.methods == (MethodChoice(name=method),)
    assert short.benchmarks == (Benchmark(task=task),)


def small(**changes):
    return {"name": "x", "models": MODELS, "data": DATA, "methods": ["dpo"], "benchmarks": ["a"], **changes}


def test_a_suite_stands_for_its_benchmarks():
    assert read(small(benchmarks=["insights-13"])).benchmarks == SUITES["insights-13"]
    assert len(SUITES["insights-13"]) == 13
    limited = read(small(benchmarks=["a", {"task": "insights-13", "limit": 7}])).benchmarks
    assert len(limited) == 14
    assert limited[0] == Benchmark(task="a")
    assert {benchmark.limit for benchmark in limited[1:]} == {7}


def test_the_settings_of_the_papers_suite():
    shots = {benchmark.task: benchmark.num_fewshot for benchmark in SUITES["insights-13"]}
    assert shots == {
        "arc_challenge": 25,
        "hellaswag": 10,
        "mmlu": 5,
        "truthfulqa_mc2": 0,
        "winogrande": 5,
        "gsm8k": 5,
        "bbh_cot_fewshot_causal_judgement": 3,
        "bbh_cot_fewshot_sports_understanding": 3,
        "bbh_cot_fewshot_formal_fallacies": 3,
        "openbookqa": 1,
        "piqa": 0,
        "boolq": 0,
        "mt_bench": None,
    }
    assert sum(benchmark.assumed for benchmark in SUITES["insights-13"]) == 6


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-5", 1e-5), ("5E-7", 5e-7), (".5", 0.5), ("1_0", 10.0), ("+2", 2.0), ("010", 10.0), ("1.", 1.0)],
)
def test_numbers_mean_what_they_look_like(written, value):
    text = yaml.safe_dump(small()) + f"training: {{align: {{learning_rate: {written}}}}}\n"
    assert parse_study(text, "study.yaml", {}).training.align.learning_rate == value
    text = yaml.safe_dump(small(methods=[])).replace("methods: []", f"methods: [{{name: dpo, beta: {written}}}]")
    assert parse_study(text, "study.yaml", {}).methods[0].hyperparameters == {"beta": value}


@pytest.mark.parametrize("name", ["no", "on", "2026-11-23", "0x1F", "1.2.3", "null-study"])
def test_plain_words_stay_text(name):
    text = yaml.safe_dump(small()).replace("name: x\n", f"name: {name}\n")
    assert parse_study(text, "study.yaml", {}).name == name


def test_merge_keys_and_anchors_are_understood():
    text = yaml.safe_dump(small(), sort_keys=False)
    text += "training:\n  sft: &rates {learning_rate: 1e-3, epochs: 2}\n  align: {<<: *rates, epochs: 3}\n"
    training = parse_study(text, "study.yaml", {}).training
    assert training.align == AlignSettings(learning_rate=1e-3, epochs=3)
    assert training.sft.epochs == 2


def test_variables_are_replaced_in_addresses_only(tmp_path):
    (tmp_path / "facts.yaml").write_text("data: {}\n")
    data = {**DATA, "mirror": {"source": "${FOLDER}"}, "preference": {"source": ["${ORG}/${SET}", "org/b"]}}
    written = small(store="s3://${BUCKET}/x", data=data, facts="${FOLDER}/facts.yaml", scenarios=["base"])
    environment = {"ORG": "org", "SET": "pairs", "BUCKET": "bucket", "FOLDER": str(tmp_path)}
    study = parse_study(yaml.safe_dump(written), "study.yaml", environment)
    assert study.store == "s3://bucket/x"
    assert study.data.preference.source == ("org/pairs", "org/b")
    assert study.data.mirror is not None
    assert study.data.mirror.source == str(tmp_path)
    assert study.facts == str(tmp_path / "facts.yaml")
    models = {"base": {"source": "org/x", "chat_template": "{{ messages }}${ORG}"}}
    kept = parse_study(yaml.safe_dump(small(models=models)), "study.yaml", environment)
    assert kept.models.base is not None
    assert kept.models.base.chat_template == "{{ messages }}${ORG}"


def test_a_misspelt_variable_is_suggested():
    data = {**DATA, "preference": {"source": "${KILTR_DATA}/x"}}
    with pytest.raises(StudyProblems, match="did you mean `KILTER_DATA`, which is set"):
        parse_study(yaml.safe_dump(small(data=data)), "study.yaml", {"KILTER_DATA": "/x"})


def test_relative_paths_begin_at_the_studys_folder(tmp_path, monkeypatch):
    (tmp_path / "studies" / "hf").mkdir(parents=True)
    (tmp_path / "studies" / "pairs.jsonl").write_text('{"chosen": "c", "rejected": "r"}\n')
    data = {**DATA, "preference": {"source": "pairs.jsonl"}, "mirror": {"source": "./hf"}}
    (tmp_path / "studies" / "study.yaml").write_text(yaml.safe_dump(small(data=data)))
    monkeypatch.chdir(tmp_path)
    study = load_study(Path("studies/study.yaml"), {})
    assert study.data.preference.source == "pairs.jsonl"
    assert study.data.mirror is not None
    assert study.data.mirror.source == str(tmp_path / "studies" / "hf")
    assert study.store == "./kilter-store"


def test_a_study_is_frozen_and_documented():
    study = read(small())
    with pytest.raises(ValueError, match="frozen"):
        study.name = "y"
    assert all(field.description for field in Study.model_fields.values())


def test_reading_a_study_imports_nothing_heavy():
    script = (
        "import sys, kilter.study.load, kilter.study.grid, kilter.study.template, kilter.study.facts\n"
        "heavy = {'torch', 'transformers', 'trl', 'lm_eval', 'kfp', 'pandas', 'datasets', 'pyarrow', 'numpy'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
