"""Dated facts about sources that are not at hand: rows of data sets and shapes of models, for plans made offline."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError

from kilter.model import Model
from kilter.study.document import read_document
from kilter.study.problems import Problem, StudyProblems
from kilter.study.translation import complaints_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SHIPPED_FACTS = Path(__file__).with_name("facts.yaml")


class ModelFacts(Model):
    """The shape of a model. What is not known stays absent."""

    recorded: date
    """When this was written down."""
    origin: str
    """Where it was read."""
    parameters: PositiveInt | None = None
    """All weights, embeddings included."""
    hidden_size: PositiveInt | None = None
    """Width of the residual stream."""
    layers: PositiveInt | None = None
    """Number of transformer blocks."""
    heads: PositiveInt | None = None
    """Attention heads."""
    key_value_heads: PositiveInt | None = None
    """Key/value heads of grouped-query attention."""
    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward layer."""
    vocabulary: PositiveInt | None = None
    """Rows of the embedding."""


class DataFacts(Model):
    """The rows of a data set by split. A split that is not named is not known."""

    recorded: date
    """When this was written down."""
    origin: str
    """Where it was read."""
    rows: dict[str, NonNegativeInt]
    """Rows by split."""


class Facts(Model):
    """What is known about models and data sets, by their hub id or address."""

    models: dict[str, ModelFacts] = Field(default_factory=dict)
    """Models by source."""
    data: dict[str, DataFacts] = Field(default_factory=dict)
    """Data sets by source."""

    def rows(self, source: str) -> "Mapping[str, int]":
        """Return the known rows of a data set by split; empty where nothing is known."""
        known = self.data.get(source)
        return known.rows if known else {}

    def shape(self, source: str) -> ModelFacts | None:
        """Return what is known about a model's shape; None where nothing is."""
        return self.models.get(source)

    def overridden_by(self, other: "Facts") -> "Facts":
        """Return these facts with another's entries in place of those about the same source."""
        return Facts(models={**self.models, **other.models}, data={**self.data, **other.data})


def load_facts(own: Path | None = None) -> Facts:
    """Return the facts that Kilter ships, with those of a study's own file in place of them where both speak.

    Raises:
        StudyProblems: the file cannot be read, or is not a facts file.
    """
    shipped = _read(SHIPPED_FACTS)
    return shipped if own is None else shipped.overridden_by(_read(own))


def _read(path: Path) -> Facts:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = Problem("", None, f"the facts file cannot be read: {error}", "name a readable YAML file in `facts`")
        raise StudyProblems(str(path), [problem]) from error
    document = read_document(text, str(path))
    complaints = list(document.complaints)
    try:
        facts = Facts.model_validate(document.data)
    except ValidationError as error:
        complaints.extend(complaints_of(error.errors(include_url=False), document.data, Facts))
        raise StudyProblems(str(path), map(document.problem, complaints)) from error
    if complaints:
        raise StudyProblems(str(path), map(document.problem, complaints))
    return facts
