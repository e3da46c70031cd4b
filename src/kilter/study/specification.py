"""The specification of a study: the fields a user writes, their types, defaults, and where each default is from."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from kilter.model import Model, is_absent

Scenario = Literal["sft", "base", "instruct"]
Precision = Literal["auto", "fp32", "bf16"]
Share = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class Architecture(Model):
    """The shape of a small Llama-style model made from scratch."""

    hidden_size: PositiveInt = 128
    """Width of the residual stream."""
    layers: PositiveInt = 4
    """Number of transformer blocks."""
    heads: PositiveInt = 4
    """Attention heads; must divide hidden_size."""
    key_value_heads: PositiveInt = 2
    """Key/value heads of grouped-query attention; must divide heads."""
    intermediate_size: PositiveInt = 352
    """Width of the gated feed-forward layer (8/3 of hidden_size, as in Llama)."""
    vocabulary: PositiveInt = 1024
    """Size of the byte-level BPE vocabulary that is trained on the pretraining text."""
    context_length: PositiveInt = 512
    """Longest sequence in tokens."""


class DataSource(Model):
    """Where a data set lies."""

    source: str | tuple[str, ...]
    """A hub id, a local file or folder (Parquet, JSONL), an s3:// prefix, or `builtin:NAME`; several are concatenated.
    `${NAME}` is replaced from the environment."""
    revision: str | None = None
    """The hub commit; `kilter lock` fills it in. A branch such as `main` is resolved before any key exists."""
    config: str | None = None
    """The hub data set's configuration, when it has several."""
    split: str = "train"
    """Which split to train on."""


class Pretraining(Model):
    """How a model made from scratch is pretrained (for demonstrations, not for real models)."""

    data: DataSource
    """Text (column `text`), or conversations that are written out as plain text."""
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 32
    """Sequences a step."""
    sequence_length: PositiveInt = 128
    """Tokens a sequence; documents are packed."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate, cosine to a tenth of it."""
    warmup_ratio: Share = 0.05
    """Share of the steps in which the learning rate rises."""


class Distributed(Model):
    """The processes that train one model together. Not part of any key: results differ by rounding at most."""

    processes: PositiveInt | Literal["auto"] = "auto"
    """Processes, one a device; `auto` is as many as there are GPUs, and one on a CPU. An external launcher wins."""
    zero: Literal["auto", 0, 1, 2, 3] = "auto"
    """The ZeRO stage: 0 keeps everything in each process, 1 shares out the optimizer's state, 2 also the gradients,
    3 also the weights; `auto` is the smallest that fits the devices' memory."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in the machine's memory instead of the device's: slow, and fits more. `parameters` needs ZeRO 3."""


class SftSettings(Model):
    """Supervised fine-tuning. Defaults: Zephyr's SFT recipe (alignment-handbook, zephyr-7b-sft-full)."""

    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """Peak learning rate (Zephyr: 2e-5)."""
    epochs: Annotated[float, Field(gt=0)] = 1.0
    """Passes over the data (Zephyr: 1)."""
    batch_size: PositiveInt = 128
    """Effective batch: conversations per optimizer step over all devices (Zephyr: 128)."""
    micro_batch_size: PositiveInt | None = None
    """Conversations per forward pass and device; by default the largest divisor of batch_size up to 8."""
    max_length: PositiveInt = 2048
    """Longest sequence in tokens (Zephyr: 2048)."""
    scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up (Zephyr: cosine)."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the learning rate rises (Zephyr: 0.1)."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW weight decay (Zephyr: 0)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient before clipping (transformers: 1)."""
    precision: Precision = "auto"
    """bf16 where the device has it, fp32 otherwise."""
    max_truncated: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Largest share of rows that may be truncated before `prepare` fails."""
    distributed: Distributed = Distributed()
    """The processes that train one model together; part of no key."""


class PeftSettings(Model):
    """A low-rank adapter is trained in place of all weights: LoRA (arXiv 2106.09685) or QLoRA (arXiv 2305.14314).

    Defaults: Zephyr's adapter recipe (alignment-handbook, zephyr-7b-dpo-qlora).
    """

    method: Literal["lora", "qlora"]
    """`lora` freezes the parent model as it is; `qlora` holds it in 4 bits, which needs bitsandbytes and a GPU."""
    rank: PositiveInt = 128
    """Rank of each matrix's change (Zephyr: 128)."""
    alpha: PositiveInt | None = None
    """The change is scaled by alpha / rank; by default alpha is the rank (Zephyr: 128 of 128)."""
    dropout: Share = 0.0
    """Share of the adapters' inputs that is dropped (Zephyr writes 0.05, which TRL turns off without a word)."""
    target: Literal["all-linear"] = "all-linear"
    """Which matrices get an adapter: all of the blocks', not the output head."""

    @property
    def resolved_alpha(self) -> int:
        """Alpha, the default worked out."""
        return self.rank if self.alpha is None else self.alpha


class AlignSettings(SftSettings):
    """Alignment. Defaults: Zephyr's DPO recipe (alignment-handbook, zephyr-7b-beta)."""

    learning_rate: Annotated[float, Field(gt=0)] = 5e-7
    """Peak learning rate (Zephyr: 5e-7)."""
    batch_size: PositiveInt = 128
    """Effective batch: pairs per optimizer step over all devices (Zephyr: 128)."""
    max_length: PositiveInt = 1024
    """Longest prompt plus answer in tokens (Zephyr: 1024)."""
    max_prompt_length: PositiveInt | None = None
    """Longest prompt in tokens, its end kept; by default half of max_length (Zephyr: 512 of 1024)."""
    budget: Literal["epochs", "steps"] = "epochs"
    """What every training has the same amount of: `epochs`, so that larger sizes train longer, or `steps`."""
    steps: PositiveInt | None = Field(default=None, exclude_if=is_absent)
    """Optimizer steps of every training, with `budget: steps`; smaller sizes then see their pairs more often."""
    peft: PeftSettings | None = Field(default=None, exclude_if=is_absent)
    """A low-rank adapter in place of all weights; by default all weights are trained."""


class InstructTuning(Model):
    """Supervised fine-tuning that makes an instruction-tuned model of one made from scratch."""

    data: DataSource
    """Conversations."""
    training: SftSettings = SftSettings()
    """How it is tuned."""


class Init(Model):
    """A small model made in the study itself rather than loaded."""

    base: Name | None = None
    """Start from this other model of the study instead of from random weights."""
    architecture: Architecture = Architecture()
    """The model's shape; unused with `base`."""
    pretrain: Pretraining | None = None
    """Pretraining of the random weights; its text also trains the tokenizer."""
    sft: InstructTuning | None = None
    """Instruction tuning, after pretraining if both are given."""
    seed: int = 0
    """Seed of the weights and of the order of the text."""


class ModelSource(Model):
    """Where a model comes from: `source` or `init`, not both."""

    source: str | None = None
    """A hub id, a local folder or an s3:// prefix with config.json, safetensors and a tokenizer."""
    revision: str | None = None
    """The hub commit; `kilter lock` fills it in."""
    init: Init | None = None
    """A small model made from scratch."""
    chat_template: str | None = None
    """A Jinja chat template, or the name of a built-in one (chatml, plain); by default the model's own."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Also needs KILTER_TRUST_REMOTE_CODE=1 in the installation."""


class SftData(DataSource):
    """Conversations to fine-tune on: columns `messages`, or `prompt` and `completion`."""

    size: PositiveInt | Literal["all"] = "all"
    """How many conversations, in the order of their keyed hash."""


class LengthLimit(Model):
    """Rows beyond these lengths are dropped (and counted)."""

    prompt_characters: PositiveInt | None = None
    """Longest prompt, all its turns together."""
    answer_characters: PositiveInt | None = None
    """Longest answer, chosen or rejected."""


class Decontamination(Model):
    """Rows whose prompt shares an n-gram with a benchmark's questions are dropped (and listed)."""

    against: tuple[str, ...]
    """Suites or benchmark names of the versioned list, such as insights-13."""
    ngram: PositiveInt = 13
    """Words of an overlapping run (GPT-3, arXiv 2005.14165, appendix C: 13)."""


class PreferenceData(DataSource):
    """Preference pairs."""

    holdout: Share = 0.02
    """Share of the prompts set aside before anything else, at most 2000 of them."""
    test_split: str | None = None
    """A split whose prompts never train and which is held out as it is, instead of a share."""
    decontaminate: Decontamination | None = None
    """Drop what overlaps with benchmarks."""
    strata: str | None = None
    """A column whose values keep their proportions in every subset."""
    limit: LengthLimit | None = None
    """Drop rows that are too long."""


class MirrorSource(Model):
    """A folder or s3:// prefix with benchmark data as <org>/<name>/<config>/<split>.parquet."""

    source: str
    """The folder or prefix; `${NAME}` is replaced from the environment."""


class Data(Model):
    """The data of a study."""

    preference: PreferenceData
    """What the models are aligned on."""
    sft: SftData | None = None
    """What the scenario `sft` fine-tunes on."""
    mirror: MirrorSource | None = None
    """Where benchmark data sets lie; absent, they come from the hub."""


class MethodChoice(Model):
    """A method with its hyperparameters; a list as a value is an axis of the grid. The name alone will do."""

    model_config = ConfigDict(extra="allow")

    name: str
    """The method; `kilter methods` lists them."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of training.align for this method; a list is an axis here too."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters as written: a number each, or a list of them."""
        return dict(self.model_extra or {})


class Benchmark(Model):
    """One lm-evaluation-harness task with its settings. The task's name alone will do, and so will a suite's."""

    task: str
    """The task's stock name, a built-in one, or a suite such as insights-13, which stands for its benchmarks."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Worked examples before the question; by default the task's own number."""
    limit: PositiveInt | None = None
    """Only the first documents, for quick looks; by default all of them."""
    assumed: bool = False
    """The setting is not certain from the paper that is followed."""

    @model_validator(mode="before")
    @classmethod
    def _of_its_name(cls, value: Any) -> Any:
        return {"task": value} if isinstance(value, str) else value


class Checkpoints(Model):
    """What a training that is stopped or killed can go on from. Not part of any key: it changes no result."""

    every_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0
    """Seconds between two checkpoints; KILTER_CHECKPOINT_SECONDS wins."""
    keep: PositiveInt = 2
    """How many checkpoints of a training stay in the store until it is done; KILTER_CHECKPOINTS_KEPT wins."""


class Training(Model):
    """How models are trained."""

    sft: SftSettings = SftSettings()
    """Supervised fine-tuning."""
    align: AlignSettings = AlignSettings()
    """Alignment, for every method that does not replace it."""
    checkpoints: Checkpoints = Checkpoints()
    """How often a training saves its state, and how many checkpoints stay."""


class Comparisons(Model):
    """How models are compared."""

    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Family-wise error rate."""
    correction: Literal["holm", "bonferroni"] = "holm"
    """Correction for many comparisons within a family."""


class Models(Model):
    """The models that a study starts from."""

    base: ModelSource | None = None
    """The pretrained model: scenarios `sft` and `base`."""
    instruct: ModelSource | None = None
    """The instruction-tuned model: scenario `instruct`."""


class Study(Model):
    """A study: a grid of scenarios × methods × sizes × seeds, and the benchmarks every model is scored on."""

    name: Name
    """Names the report; not part of any key."""
    store: str = "./kilter-store"
    """A folder or s3://bucket/prefix; `--store` and KILTER_STORE win."""
    models: Models
    """The models to start from."""
    data: Data
    """The data to train on and to evaluate with."""
    scenarios: tuple[Scenario, ...] = ("sft",)
    """`sft` (SFT, then align), `base` (align the pretrained model), `instruct` (align an instruction-tuned one)."""
    methods: tuple[MethodChoice, ...]
    """The alignment methods."""
    sizes: tuple[PositiveInt | Literal["all"], ...] = ("all",)
    """Training-set sizes in preference pairs, nested: the smaller is the beginning of the larger."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Seeds of the order of training; three or more let the report speak of methods."""
    training: Training = Training()
    """How models are trained."""
    benchmarks: tuple[Benchmark, ...]
    """What every model is scored on."""
    comparisons: Comparisons = Comparisons()
    """How models are compared."""
    facts: str | None = None
    """A YAML file with rows and shapes of sources that are not at hand, beside the one that Kilter ships."""

    def question(self) -> dict[str, Any]:
        """Return the study as JSON data without what changes no result: its store, its checkpoints, its processes."""
        settings = {"distributed"}
        made = {"init": {"sft": {"training": settings}}}
        return self.model_dump(
            mode="json",
            exclude={
                "store": True,
                "training": {"checkpoints": True, "sft": settings, "align": settings},
                "models": {"base": made, "instruct": made},
                "methods": {"__all__": {"training": settings}},
            },
        )
