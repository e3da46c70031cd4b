"""Dated facts about sources that are not at hand: rows of data sets, shapes of models, sizes of benchmarks."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

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
    head_size: PositiveInt | None = None
    """Width of a head; by default hidden_size over heads."""
    tied: bool | None = None
    """Whether the output layer is the embedding."""
    attention_bias: bool = False
    """Whether queries, keys and values have biases."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What the weights are stored in."""


class DataFacts(Model):
    """The rows of a data set by split. A split that is not named is not known."""

    recorded: date
    """When this was written down."""
    origin: str
    """Where it was read."""
    rows: dict[str, NonNegativeInt]
    """Rows by split."""
    mean_tokens: dict[Literal["prompt", "chosen", "rejected", "conversation"], PositiveFloat] | None = None
    """Mean tokens of each part of a row: of pairs all of the first three, of conversations the last. `origin` says with
    which tokenizer they were counted."""


class BenchmarkFacts(Model):
    """What a benchmark asks of a model, all of its tasks together."""

    recorded: date
    """When this was written down."""
    origin: str
    """Where it was counted or read."""
    documents: PositiveInt
    """Questions."""
    tasks: PositiveInt = 1
    """Tasks among which the questions are spread; `limit` holds for each."""
    passes: PositiveFloat = 1.0
    """Texts that the model reads for each question: one a choice, or one if choices are single tokens."""
    characters: PositiveFloat
    """Mean characters of such a text, without worked examples."""
    longest_characters: PositiveInt | None = None
    """Of the longest text."""
    examples: NonNegativeInt = 0
    """Worked examples where the study does not say how many."""
    example_characters: NonNegativeInt = 0
    """Mean characters of a worked example."""
    new_tokens: PositiveInt | None = None
    """The most that the model may write; absent where it only scores."""


class Facts(Model):
    """What is known about models, data sets and benchmarks, by their hub id, address or task."""

    models: dict[str, ModelFacts] = Field(default_factory=dict)
    """Models by source."""
    data: dict[str, DataFacts] = Field(default_factory=dict)
    """Data sets by source."""
    benchmarks: dict[str, BenchmarkFacts] = Field(default_factory=dict)
    """Benchmarks by task."""

    def rows(self, source: str) -> "Mapping[str, int]":
        """Return the known rows of a data set by split; empty where nothing is known."""
        known = self.data.get(source)
        return known.rows if known else {}

    def shape(self, source: str) -> ModelFacts | None:
        """Return what is known about a model's shape; None where nothing is."""
        return self.models.get(source)

    def overridden_by(self, other: "Facts") -> "Facts":
        """Return these facts with another's entries in place of those about the same source."""
        return Facts(
            models={**self.models, **other.models},
            data={**self.data, **other.data},
            benchmarks={**self.benchmarks, **other.benchmarks},
        )


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
