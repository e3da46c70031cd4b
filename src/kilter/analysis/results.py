"""What the analysis reads: a study's results as plain values, whoever ran them and wherever they lie."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa


@dataclass(frozen=True)
class Score:
    """One metric of one benchmark of one model."""

    benchmark: str
    """The benchmark's label: the task's name."""
    filter: str
    metric: str
    value: float
    standard_error: float | None
    documents: int
    higher_is_better: bool
    chance: float | None = None
    """The score of guessing, where the number of choices tells it."""
    primary: bool = False
    """The metric that tables show for this benchmark."""


@dataclass(frozen=True)
class Generation:
    """A prompt answered by a model."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Stage:
    """One stage of the study, for the lineage and cost tables."""

    stage: str
    key: str
    label: str
    seconds: float
    peak_memory_bytes: int | None
    tokens: int | None
    manifest_uri: str
    inputs: "Mapping[str, str]"
    state: str = "done"
    """done, or missing (with the reason in `error`)."""
    error: str | None = None
    config: "Mapping[str, Any]" = field(default_factory=dict)
    versions: "Mapping[str, str]" = field(default_factory=dict)


@dataclass(frozen=True)
class ModelResult:
    """A model of the study with all that is known of it."""

    key: str
    """`stage/key`."""
    name: str
    role: str
    """base, instruct, sft or aligned."""
    scenario: str | None
    method: str | None
    variant: str
    """Hyperparameters that set this cell apart from others of its method (`beta=0.1`); else empty."""
    size: int | str | None
    """As the study writes it: a number of pairs, or `all`."""
    pairs: int | None
    """Pairs that were trained on."""
    seed: int | None
    parent: str | None
    """`stage/key` of the model that alignment started from."""
    scores: tuple[Score, ...]
    samples: "pa.Table | None"
    """Per-sample values: task, filter, doc_id (int64), doc_hash, prompt_hash, metric, value (float64), response."""
    curve: "pa.Table | None"
    """Per-step training metrics: step, loss, learning_rate, grad_norm, tokens, seconds, and for preferences
    rewards_chosen, rewards_rejected, margin, accuracy."""
    training: "Mapping[str, Any]"
    """Totals: steps, epochs, tokens, loss, trainer, loss_type, averaging, hyperparameters, library versions."""
    held_out: "Mapping[str, float]"
    """loss, accuracy, margin, kl and pairs on the held-out pairs; empty for models that were not aligned."""
    generations: tuple[Generation, ...] = ()


@dataclass(frozen=True)
class GoldenRow:
    """A prepared row as the trainer sees it, for eyes."""

    source: str
    """Which prepared data, for example `preference (base)`."""
    parts: "tuple[tuple[str, tuple[tuple[int, str], ...]], ...]"
    """(part, ((token id, token text), …)): prompt, chosen, rejected; or prompt, completion."""


@dataclass(frozen=True)
class DataAccount:
    """Rows in, dropped (one count a reason) and out, of one data set."""

    name: str
    rows_in: int
    dropped: "Mapping[str, int]"
    held_out: int
    rows_out: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class StudyResults:
    """Everything the report shows."""

    name: str
    alpha: float
    correction: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...]
    sizes: tuple[int | str, ...]
    seeds: tuple[int, ...]
    models: tuple[ModelResult, ...]
    stages: tuple[Stage, ...]
    golden_rows: tuple[GoldenRow, ...]
    data: tuple[DataAccount, ...]
    study_yaml: str
    store: str
    kilter_version: str
    warnings: tuple[str, ...] = ()
