"""Pins a study's sources: finds those without a commit, and writes commits into the study's text."""

import re
from functools import partial
from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.plan.sources import SourceName, names_of
from kilter.stages.sources import is_hub_source

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kilter.study.specification import Study


def unpinned_sources(study: "Study", folder: "Path") -> list[SourceName]:
    """Return the sources on the hub that the study does not pin to a commit."""
    return [name for name in names_of(study) if is_hub_source(name, folder) and not name.pinned]


def _with_revision(commit: str, match: re.Match[str]) -> str:
    return f"{match.group(0).rstrip()}\n{match.group(1)}revision: {commit}"


def locked_text(text: str, commits: "Mapping[SourceName, str]") -> str:
    """Write commits into the text of a study, leaving everything else, comments too, as it is.

    In a block mapping the revision gets a line of its own after the source; in a flow mapping it follows the source.

    Raises:
        WrongInput: a source is written in a way that cannot be pinned, such as within a list of sources.
    """
    for name, commit in commits.items():
        quoted = re.escape(name.source)
        stale = re.escape(name.revision) if name.revision else None
        if stale is not None:
            text = re.sub(rf"(revision:\s*)(['\"]?){stale}\2", rf"\g<1>{commit}", text)
            continue
        flow = re.compile(rf"(\{{[^{{}}\n]*?source:\s*['\"]?{quoted}['\"]?)(?=\s*[,}}])")
        block = re.compile(rf"^(\s*)(source:\s*['\"]?{quoted}['\"]?)[ \t]*(#.*)?$", re.MULTILINE)
        changed = flow.sub(rf"\g<1>, revision: {commit}", text)
        changed = block.sub(partial(_with_revision, commit), changed)
        if changed == text:
            raise WrongInput(
                f"the study has no line `source: {name.source}`; write `revision: {commit}` beside it by hand"
            )
        text = changed
    return text
