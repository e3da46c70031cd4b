"""The template and every study in the repository can be read as they are."""

import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from kilter.study.facts import load_facts
from kilter.study.grid import expand_methods
from kilter.study.load import load_study, parse_study
from kilter.study.schema import SCHEMA_PATH
from kilter.study.specification import Study
from kilter.study.template import TEMPLATE_PATH, template_text
from kilter.study.translation import model_at

ROOT = Path(__file__).parents[3]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """The real data where they lie, else a folder with files of the same names and as many rows as are asked for."""
    real = Path(os.environ.get("KILTER_DATA", ROOT.parent / "shared" / "data")).resolve()
    if (real / "preference" / "qa_feedback_dev").is_dir():
        return real
    folder = tmp_path_factory.mktemp("data")
    (folder / "hf").mkdir()
    files = {
        "sft/gsm8k_chat/train_sft": 1000,
        "sft/gpteacher_codegen/train_sft": 1000,
        "preference/qa_feedback_dev/train_prefs": 1000,
        "preference/qa_feedback_dev/test_prefs": 100,
    }
    for name, rows in files.items():
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = ("prompt", "completion") if name.startswith("sft/") else ("prompt", "chosen", "rejected")
        pq.write_table(pa.table({column: ["p"] * rows for column in columns}), path)
    return folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_every_study_loads(path, data_folder):
    study = load_study(path, {"KILTER_DATA": str(data_folder)})
    assert expand_methods(study)
    assert path.read_text().startswith("# yaml-language-server: $schema=../src/kilter/study/study.schema.json\n")


def test_the_papers_study_is_the_papers():
    study = load_study(ROOT / "studies" / "insights.yaml", {})
    assert study.scenarios == ("sft", "base", "instruct")
    assert {choice.name for choice in study.methods} == {"dpo", "ipo", "kto", "cpo"}
    assert len(study.benchmarks) == 13
    assert study.sizes == (1000, 5000, 10000, 20000, "all")
    sources = [study.models.base, study.models.instruct, study.data.sft, study.data.preference]
    assert all(source is not None and source.revision is None for source in sources)


def test_facts_are_known_for_the_papers_sources():
    facts = load_facts()
    study = load_study(ROOT / "studies" / "insights.yaml", {})
    for model in (study.models.base, study.models.instruct):
        assert model is not None
        shape = facts.shape(str(model.source))
        assert shape is not None
        assert shape.parameters == 7_241_732_096
    assert study.data.sft is not None
    for data in (study.data.sft, study.data.preference):
        assert facts.rows(str(data.source))[data.split] > 60_000


def test_real_small_names_the_variable_that_it_needs():
    with pytest.raises(Exception, match="KILTER_DATA is not set"):
        load_study(ROOT / "studies" / "real-small.yaml", {})


def test_the_template_loads_by_itself(tmp_path):
    study = parse_study(template_text(), "study.yaml", {}, tmp_path)
    assert study.scenarios == ("sft", "base", "instruct")
    assert [cell.method for cell in expand_methods(study)] == ["dpo", "ipo", "kto", "cpo"]


def test_the_templates_first_line_tells_editors_the_schema():
    first = template_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_PATH.as_uri()}"
    assert template_text("../x.json").splitlines()[0] == "# yaml-language-server: $schema=../x.json"
    assert template_text().splitlines()[1:] == TEMPLATE_PATH.read_text().splitlines()[1:]


def fields_of(model: type[BaseModel], seen: set[type[BaseModel]]):
    seen.add(model)
    for name, field in model.model_fields.items():
        yield name
        for inner in re.findall(r"\b[A-Z]\w+", str(field.annotation)):
            found = BY_NAME.get(inner)
            if found is not None and found not in seen:
                yield from fields_of(found, seen)


def subclasses(model: type[BaseModel]):
    for child in model.__subclasses__():
        yield child
        yield from subclasses(child)


BY_NAME = {child.__name__: child for child in subclasses(BaseModel) if child.__module__ == Study.__module__}


def test_the_template_explains_every_field():
    text = template_text()
    names = set(fields_of(Study, set()))
    assert len(names) > 50
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", text)] == []


def test_the_templates_defaults_are_the_specifications():
    """Lines such as `# epochs: 1` or `learning_rate: 1e-3  # 2e-5` state defaults, which must not drift."""
    text = template_text()
    align = model_at(("training", "align"))
    sft = model_at(("training", "sft"))
    assert align is not None
    assert sft is not None
    for name in ("epochs", "warmup_ratio", "weight_decay", "max_grad_norm"):
        written = re.search(rf"# {name}: ([\d.]+)", text)
        assert written is not None
        assert float(written[1]) == sft.model_fields[name].default == align.model_fields[name].default
    for section, model in (("sft", sft), ("align", align)):
        body = text.split(f"\n  {section}:\n    learning_rate")[1]
        assert float(re.search(r"#\s*([\d.e-]+)", body)[1]) == model.model_fields["learning_rate"].default
        for name in ("batch_size", "max_length"):
            stated = re.search(rf"\n    {name}: \d+\s+# (\d+)", body)
            assert int(stated[1]) == model.model_fields[name].default
