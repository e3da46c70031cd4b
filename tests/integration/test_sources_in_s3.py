"""Sources below an s3:// prefix."""

from pathlib import Path

import pytest

from kilter.errors import WrongInput
from kilter.plan.sources import SourceName
from kilter.stages.sources import _resolve
from kilter.store.objects import open_objects
from kilter.study.facts import load_facts


def content(uri: str, folder: Path) -> str:
    return _resolve(SourceName("data", uri), folder, load_facts(), online=False).content


def test_a_prefix_is_known_by_its_content(s3_uri: str, tmp_path: Path) -> None:
    source = f"{s3_uri}/source"
    objects = open_objects(source)
    objects.write("train.jsonl", b'{"a": 1}\n')
    before = content(source, tmp_path)
    assert content(source, tmp_path) == before
    objects.write("train.jsonl", b'{"a": 2}\n')  # as long as before
    assert content(source, tmp_path) != before


def test_an_empty_prefix_is_refused(s3_uri: str, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="holds no objects"):
        content(f"{s3_uri}/nothing", tmp_path)
