"""The memory that training or scoring takes on each GPU, from the model's shape, the batch and the parallelism.

Model states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3) with the copies that DeepSpeed keeps; a
test holds them to DeepSpeed's own estimators. Activations are counted tensor by tensor as transformers' Llama keeps
them for the backward pass; a test holds them to what PyTorch's memory tracker sees. docs/estimates.md has the formulas.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from kilter.plan.estimates.shapes import ModelShape

Precision = Literal["fp32", "bf16"]
Zero = Literal[0, 1, 2, 3]
Offload = Literal["none", "optimizer", "parameters"]

BYTES: "dict[Precision, int]" = {"fp32": 4, "bf16": 2}
FOUR_BITS = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits with doubly quantised constants (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

# DeepSpeed's defaults, in elements: what is reduced or gathered at once, and what ZeRO-3 keeps gathered.
REDUCE_BUCKET = 500_000_000
LIVE_PARAMETERS = 1_000_000_000

# The tiles of TRL's fused head (trl 1.16, kernels/chunked_logprob.py): tokens and vocabulary entries of one of them.
TILE_TOKENS = 4096
TILE_VOCABULARY = 32768

_MATERIALISED_HEAD = 12
"""Bytes for each token and vocabulary entry where logits are kept: logits, log-probabilities and their gradient."""


@dataclass(frozen=True)
class Recipe:
    """In what a model is held, what of it is trained, and how its forward pass is made."""

    weights: Precision = "fp32"
    """What the trained weights are held in; `bf16` means DeepSpeed's, with 32-bit masters."""
    compute: Precision = "bf16"
    """What matrices are multiplied in; with `fp32` weights, `bf16` is automatic casting."""
    adapter_rank: int | None = None
    """LoRA's rank on every matrix of the blocks; None trains all weights."""
    quantised: bool = False
    """Whether the frozen matrices are held in 4 bits (QLoRA); only with an adapter."""
    packed: bool = False
    """Whether sequences are packed without padding, so that attention needs no mask."""
    fused_head: bool = True
    """Whether log-probabilities are computed in tiles, so that logits are never held."""


@dataclass(frozen=True)
class Batch:
    """One forward pass on one device."""

    sequences: int
    longest: int
    """Tokens of the longest sequence, prompt and answer."""

    @property
    def tokens(self) -> int:
        """Tokens, padding included, if every sequence is as long as the longest."""
        return self.sequences * self.longest


@dataclass(frozen=True)
class Parallelism:
    """How one training is spread over GPUs."""

    gpus: int = 1
    zero: Zero = 0
    """ZeRO's stage; 0 keeps everything on every GPU."""
    offload: Offload = "none"
    """What lies in the host's memory: the optimizer's states, or the weights too."""
    checkpointing: bool = False
    """Whether activations of a block are computed again in the backward pass instead of kept."""


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU at the peak, by what they hold."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    """The output layer's tiles or logits and their gradients."""
    buffers: float
    """What is gathered or reduced at once between GPUs."""
    host: float = 0.0
    """Bytes in the memory of the host, all GPUs of the training together."""

    @property
    def states(self) -> float:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        """Everything on the GPU."""
        return self.states + self.activations + self.head + self.buffers


@dataclass(frozen=True)
class _States:
    weights: float
    gradients: float
    optimizer: float
    buffers: float
    host: float


def training_memory(shape: "ModelShape", recipe: Recipe, batch: Batch, parallelism: Parallelism) -> Memory:
    """Return the peak of a training step: in the backward pass, with the gradients of earlier micro-batches there."""
    states = _states(shape, recipe, parallelism)
    activations, head = _training_activations(shape, recipe, batch, checkpointing=parallelism.checkpointing)
    return Memory(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=activations,
        head=head,
        buffers=states.buffers,
        host=states.host,
    )


def scoring_memory(shape: "ModelShape", recipe: Recipe, batch: Batch) -> Memory:
    """Return the peak of a forward pass without gradients on one GPU."""
    compute = BYTES[recipe.compute]
    casts = _cast_weights(shape, recipe) * shape.layers
    logits = float(batch.tokens * shape.vocabulary * (4 + compute))
    return Memory(
        weights=shape.parameters * BYTES[recipe.weights],
        gradients=0.0,
        optimizer=0.0,
        activations=casts + batch.tokens * _forward_transient(shape, recipe),
        head=_tiles(shape, batch.tokens, compute) if recipe.fused_head else logits,
        buffers=0.0,
    )


def trained_parameters(shape: "ModelShape", recipe: Recipe) -> int:
    """Return how many weights an optimizer step changes."""
    return shape.parameters if recipe.adapter_rank is None else shape.adapter_parameters(recipe.adapter_rank)


def _states(shape: "ModelShape", recipe: Recipe, parallelism: Parallelism) -> _States:
    trained = trained_parameters(shape, recipe)
    width = BYTES[recipe.weights]
    gpus, zero = parallelism.gpus, parallelism.zero
    share = 1 / gpus
    # Adapters and their optimizer are small and in 32 bits; the frozen base has neither gradients nor states.
    frozen = 0.0
    if recipe.adapter_rank is not None:
        matrices = shape.layers * shape.linear_parameters
        # Embeddings, head and norms stay in 32 bits, unless DeepSpeed casts the whole model.
        rest = 4 if recipe.quantised or zero == 0 else width
        frozen = matrices * (FOUR_BITS if recipe.quantised else width) + (shape.parameters - matrices) * rest
        width = 4
    weights = frozen * (share if zero == 3 else 1) + trained * width * (share if zero == 3 else 1)
    gradients = trained * width * (share if zero >= 2 else 1)
    # DeepSpeed steps on 32-bit copies of the weights and of the gradients, whatever the weights are in.
    copies = 8 if zero >= 1 or width < 4 else 0
    optimizer = trained * (8 + copies) * (share if zero >= 1 else 1)
    buffers = _buffers(shape, trained, width, parallelism)
    if parallelism.offload == "none":
        return _States(weights, gradients, optimizer, buffers, 0.0)
    host = optimizer * gpus + trained * width
    if parallelism.offload == "optimizer":
        return _States(weights, 0.0, 0.0, buffers, host)
    return _States(0.0, 0.0, 0.0, buffers, host + weights * gpus)


def _buffers(shape: "ModelShape", trained: int, width: int, parallelism: Parallelism) -> float:
    if parallelism.zero == 3:
        gathered = min(LIVE_PARAMETERS, shape.parameters) + shape.largest_layer_parameters
        return (gathered + min(REDUCE_BUCKET, trained)) * width
    if parallelism.gpus == 1 and parallelism.offload == "none":
        return 0.0
    if parallelism.zero == 0:
        return trained * width  # DistributedDataParallel reduces in buckets that hold every gradient once more
    return 2 * min(REDUCE_BUCKET, trained) * width


def _training_activations(
    shape: "ModelShape", recipe: Recipe, batch: Batch, *, checkpointing: bool
) -> tuple[float, float]:
    """Return the bytes of activations at the peak, and those that the head adds to it."""
    layer = batch.tokens * _layer_bytes(shape, recipe, batch.longest)
    casts = _cast_weights(shape, recipe)
    transient = batch.tokens * _backward_transient(shape, recipe)
    head_forward, head_backward = _head_bytes(shape, recipe, batch.tokens)
    if not checkpointing:
        kept = shape.layers * (layer + casts)
        return kept + transient, max(0.0, head_backward - transient)
    kept = shape.layers * batch.tokens * shape.hidden_size * BYTES[recipe.weights]
    # Casts of all weights are kept until the forward pass ends; in the backward pass only those of one block are.
    forward = kept + shape.layers * casts + batch.tokens * _forward_transient(shape, recipe)
    activations = max(forward, kept + layer + casts + transient)
    with_head = kept + max(shape.layers * casts + head_forward, head_backward)
    return activations, max(0.0, with_head - activations)


def _layer_bytes(shape: "ModelShape", recipe: Recipe, longest: int) -> float:
    """Bytes that one block keeps of one token: inputs of norms and matrices, gate and product, queries to outputs."""
    compute = BYTES[recipe.compute]
    cast = recipe.weights == "fp32" and recipe.compute == "bf16"
    # Norms keep their input and what it is normalised to: both in 32 bits where weights are, one of them otherwise.
    # With casting, the residual stream stays in 32 bits, and every matrix keeps a cast of its own of what it reads.
    hidden = 26 if cast else 24 if compute == 4 else 16
    # With a mask, keys and values are repeated for every query head, and the mask is kept as numbers.
    attention = 2 * shape.query_size + 2 * shape.key_value_size if recipe.packed else 4 * shape.query_size + longest
    feed_forward = 4 * shape.intermediate_size
    sums = 4 * shape.heads + 8
    adapters = 0.0
    if recipe.adapter_rank is not None:
        adapters = 7 * recipe.adapter_rank * compute
    return hidden * shape.hidden_size + compute * (attention + feed_forward) + sums + adapters


def _backward_transient(shape: "ModelShape", recipe: Recipe) -> float:
    """Bytes of one token that a block's backward pass holds besides what was kept, and the model's last norm."""
    compute = BYTES[recipe.compute]
    cast = recipe.weights == "fp32" and recipe.compute == "bf16"
    return 2 * compute * shape.intermediate_size + (12 if cast else 8 if compute == 4 else 10) * shape.hidden_size


def _forward_transient(shape: "ModelShape", recipe: Recipe) -> float:
    """Bytes of one token that a block's forward pass holds at once."""
    compute = BYTES[recipe.compute]
    return 3 * compute * shape.intermediate_size + (17 if recipe.weights == "fp32" else 9) * shape.hidden_size


def _cast_weights(shape: "ModelShape", recipe: Recipe) -> float:
    """Bytes of the 16-bit copies that automatic casting keeps of one block's matrices."""
    if recipe.weights == "fp32" and recipe.compute == "bf16" and not recipe.quantised:
        return 2.0 * shape.linear_parameters
    return 0.0


def _head_bytes(shape: "ModelShape", recipe: Recipe, tokens: int) -> tuple[float, float]:
    """Bytes of the output layer over all tokens: at the end of the forward pass, and in the backward pass."""
    compute = BYTES[recipe.compute]
    if not recipe.fused_head:
        entries = float(tokens * shape.vocabulary)
        return entries * (compute + 4), entries * _MATERIALISED_HEAD
    tiles = _tiles(shape, tokens, compute)
    width = BYTES[recipe.weights]
    hidden = tokens * shape.hidden_size * (2 * width + 4)  # the chosen positions, and their gradient before and after
    gradient = 0 if recipe.adapter_rank is not None else shape.embedding_parameters * 4
    return tokens * shape.hidden_size * width + tiles, hidden + gradient + tiles


def _tiles(shape: "ModelShape", tokens: int, compute: int) -> float:
    entries = min(TILE_VOCABULARY, shape.vocabulary)
    return float(compute * entries * (min(TILE_TOKENS, tokens) + shape.hidden_size))
