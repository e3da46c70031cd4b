"""What each stage's key is made of: one configuration model a stage, everything resolved, nothing that does not matter.

Paths, host names, log levels and numbers of processes are not here: they do not change the answer.
"""

from typing import Any, Literal

from pydantic import Field

from kilter.model import Model, is_absent
from kilter.study.specification import Architecture


class IngestConfig(Model):
    """A model or data set that comes from outside, named by its content."""

    kind: Literal["model", "data"]
    content: str
    """`sha256:…` of the files, `hub:ID@COMMIT[/CONFIG]`, or `builtin:NAME@VERSION`."""


class PretrainConfig(Model):
    """A small model made from scratch and pretrained. Inputs: `data` (one or several ingested sets)."""

    architecture: Architecture
    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    warmup_ratio: float
    split: str
    seed: int
    chat_template: str | None


class SubsampleConfig(Model):
    """Canonical, deduplicated, ordered rows. Inputs: `data/N`, and for preferences `sft/N` to report overlap with."""

    kind: Literal["sft", "preference"]
    split: str
    test_split: str | None = None
    holdout: float = 0.0
    strata: str | None = None
    prompt_characters: int | None = None
    answer_characters: int | None = None
    decontaminate: tuple[str, ...] = ()
    ngram: int = 13
    benchmark_list: str | None = None
    """Digest of the n-grams list that decontamination reads."""


class PrepareConfig(Model):
    """Token ids. Inputs: `rows` (subsample), `tokenizer` (the model stage where the tokenizer was made)."""

    kind: Literal["sft", "preference"]
    chat_template: str | None
    """The template's text where the study gives one; None means the tokenizer's own."""
    max_length: int
    max_prompt_length: int | None
    max_truncated: float


class TrainConfig(Model):
    """What SFT and alignment share: everything resolved."""

    learning_rate: float
    epochs: float
    batch_size: int
    micro_batch_size: int
    scheduler: str
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    precision: Literal["fp32", "bf16"]
    seed: int


class SftConfig(TrainConfig):
    """Supervised fine-tuning. Inputs: `model`, `data` (prepare, kind sft)."""

    size: int | Literal["all"] = "all"


class ReferenceConfig(Model):
    """Log-probabilities of one shard of prepared pairs. Inputs: `model`, `data` (prepare, kind preference)."""

    split: Literal["train", "holdout"]
    start: int
    """First position, along the subset order."""
    stop: int | None
    """One past the last position; None is to the end."""
    mismatched: bool
    """Score answers to other prompts (KTO's KL term) instead of a prompt's own."""
    precision: Literal["fp32", "bf16"]


class Adapter(Model):
    """A low-rank adapter that is trained in place of all weights."""

    method: Literal["lora", "qlora"]
    rank: int
    alpha: int
    dropout: float
    target: Literal["all-linear"]
    library: str
    """The library that makes adapters, with its minor version."""


class AlignConfig(TrainConfig):
    """Alignment. Inputs: `model`, `data`, `reference/N` (shards), `mismatched/N` (for KTO), `holdout` (reference)."""

    method: str
    hyperparameters: dict[str, float]
    size: int | Literal["all"]
    steps: int | None = Field(default=None, exclude_if=is_absent)
    """How long training lasts where that is a number of steps; `epochs` then says nothing and is 1."""
    peft: Adapter | None = Field(default=None, exclude_if=is_absent)
    """None trains all weights, and is no part of the key."""


class EvaluateConfig(Model):
    """One benchmark of one model, or its answers to fixed prompts. Inputs: `model`; for answers also `rows`."""

    kind: Literal["benchmark", "generations"]
    task: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    content: str | None = None
    """Digest of the task's own definition and data where Kilter ships them; None for the harness's own."""
    template: str | None = None
    """Chat template policy: None scores plain text, `model` applies the model's own template."""
    precision: Literal["fp32", "bf16"]
    prompts: int | None = None
    """How many prompts to answer, for `generations`."""
    max_new_tokens: int | None = None


class ReportModel(Model):
    """A model of the study as the report names it."""

    result: str
    """`stage/key`."""
    name: str
    role: str
    scenario: str | None
    method: str | None
    variant: str
    size: int | str | None
    seed: int | None
    parent: str | None
    scores: dict[str, str]
    """Evaluate results by benchmark."""
    generations: str | None


class ReportConfig(Model):
    """The report of a study. Inputs: every result of its plan."""

    study: dict[str, Any]
    """The study as it was understood, without its store."""
    models: tuple[ReportModel, ...]
