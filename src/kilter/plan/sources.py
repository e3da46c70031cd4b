"""What a study's sources turned out to be: content addresses and row counts, found before any key exists."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kilter.study.specification import DataSource, ModelSource, Study

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True, order=True)
class SourceName:
    """Names a source as the study writes it: what must be resolved, once, however often it is used."""

    kind: Literal["model", "data"]
    source: str
    revision: str | None = None
    config: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which always means the same content."""
        return self.revision is not None and _COMMIT.match(self.revision) is not None


@dataclass(frozen=True)
class ResolvedSource:
    """A source with its content address."""

    content: str
    """`sha256:…`, `hub:ID@COMMIT`, `builtin:NAME@VERSION`, or `unresolved:…` when no commit could be found."""
    location: "Mapping[str, Any]"
    """What ingest needs to find it; never part of a key."""
    rows: "Mapping[str, int]" = field(default_factory=dict)
    """Rows by split, where they are known."""
    warnings: tuple[str, ...] = ()


def model_source_name(model: ModelSource) -> SourceName:
    """Return the name of a model's source.

    Raises:
        ValueError: the model is made from scratch and has no source.
    """
    if model.source is None:
        raise ValueError("a model made from scratch has no source")
    return SourceName("model", model.source, model.revision)


def data_source_names(data: DataSource) -> tuple[SourceName, ...]:
    """Return the names of a data set's sources, one for each that is concatenated."""
    sources = (data.source,) if isinstance(data.source, str) else data.source
    return tuple(SourceName("data", source, data.revision, data.config) for source in sources)


def names_of(study: Study) -> tuple[SourceName, ...]:
    """Return every source that the study reads, each once, in a stable order."""
    return tuple(
        sorted(set(_names(study)), key=lambda name: (name.kind, name.source, name.revision or "", name.config or ""))
    )


def _names(study: Study) -> "Iterator[SourceName]":
    yield from data_source_names(study.data.preference)
    if study.data.sft is not None and "sft" in study.scenarios:
        yield from data_source_names(study.data.sft)
    for model in (study.models.base, study.models.instruct):
        if model is None:
            continue
        if model.source is not None:
            yield model_source_name(model)
        if model.init is not None:
            if model.init.pretrain is not None:
                yield from data_source_names(model.init.pretrain.data)
            if model.init.sft is not None:
                yield from data_source_names(model.init.sft.data)
