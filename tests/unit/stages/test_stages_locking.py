"""`kilter lock`: commits written into a study's text, everything else left as it is."""

import re

import pytest
import yaml

from kilter.errors import WrongInput
from kilter.plan.sources import SourceName
from kilter.stages.locking import locked_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = """\
models:
  base: {source: org/base}          # flow
  instruct:
    source: org/instruct            # block
    revision: main
data:
  sft:
    source: org/chats  # with a comment
    split: train
  preference: {source: 'org/pairs', split: train}
"""


def test_commits_are_written_where_each_source_is() -> None:
    names = [SourceName("model", "org/base"), SourceName("model", "org/instruct", "main")]
    names += [SourceName("data", "org/chats"), SourceName("data", "org/pairs")]
    locked = locked_text(TEXT, dict.fromkeys(names, COMMIT))
    read = yaml.safe_load(locked)
    sources = [*read["models"].values(), *read["data"].values()]
    assert [source["revision"] for source in sources] == [COMMIT] * 4
    assert read["data"]["preference"]["split"] == "train"
    assert "# with a comment" in locked
    assert re.sub(rf"^ *revision: {COMMIT}\n|, revision: {COMMIT}", "", locked, flags=re.MULTILINE) == TEXT.replace(
        "    revision: main\n", ""
    )


def test_a_source_within_a_list_is_refused_with_the_line_to_write() -> None:
    text = "data: {sft: {source: [org/a, org/b]}}\n"
    with pytest.raises(WrongInput, match=rf"revision: {COMMIT}"):
        locked_text(text, {SourceName("data", "org/a"): COMMIT})


def test_sources_whose_names_begin_alike_are_told_apart() -> None:
    text = "models:\n  base: {source: org/model}\n  instruct: {source: org/model-instruct}\n"
    read = yaml.safe_load(locked_text(text, {SourceName("model", "org/model"): COMMIT}))
    assert read["models"]["base"]["revision"] == COMMIT
    assert "revision" not in read["models"]["instruct"]
