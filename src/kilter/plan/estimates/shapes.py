"""The shape of a decoder: how many weights it has, and how much arithmetic a token takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.study.facts import ModelFacts
    from kilter.study.specification import Architecture

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_DEFAULT_DTYPE = "float32"


@dataclass(frozen=True)
class ModelShape:
    """A decoder of the Llama family: gated feed-forward layers, root-mean-square norms, grouped-query attention."""

    hidden_size: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    intermediate_size: int
    vocabulary: int
    tied: bool
    """Whether the output layer is the embedding."""
    attention_bias: bool = False
    """Whether queries, keys and values have biases."""
    output_bias: bool = False
    """Whether the attention's output has one."""
    mlp_bias: bool = False
    head_norms: bool = False
    """Whether queries and keys are normalised head by head."""
    stored_bytes: int = 2
    """Bytes of a weight on disk."""

    @property
    def query_size(self) -> int:
        """Width of all query heads."""
        return self.heads * self.head_size

    @property
    def key_value_size(self) -> int:
        """Width of all key heads, which is that of all value heads."""
        return self.key_value_heads * self.head_size

    @property
    def embedding_parameters(self) -> int:
        """Weights of the input embedding, or of the output layer."""
        return self.vocabulary * self.hidden_size

    @property
    def linear_parameters(self) -> int:
        """Weights of one block's matrices."""
        attention = 2 * self.hidden_size * (self.query_size + self.key_value_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def layer_parameters(self) -> int:
        """Weights of one block, with norms and biases."""
        biases = self.attention_bias * (self.query_size + 2 * self.key_value_size) + self.output_bias * self.hidden_size
        biases += self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        norms = 2 * self.hidden_size + self.head_norms * 2 * self.head_size
        return self.linear_parameters + biases + norms

    @property
    def parameters(self) -> int:
        """All weights, a tied output layer counted once."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + embeddings + self.hidden_size

    @property
    def largest_layer_parameters(self) -> int:
        """Weights of the largest thing that ZeRO-3 gathers at once: a block, or an embedding."""
        return max(self.layer_parameters, self.embedding_parameters)

    def adapter_parameters(self, rank: int) -> int:
        """Return the weights of LoRA adapters on every matrix of the blocks (Hu et al. 2021, arXiv 2106.09685)."""
        attention = 4 * self.hidden_size + 2 * self.query_size + 2 * self.key_value_size
        feed_forward = 3 * (self.hidden_size + self.intermediate_size)
        return self.layers * rank * (attention + feed_forward)

    def forward_flops(self, tokens: float, length: float, predicted: float | None = None) -> float:
        """Return the operations of a forward pass over sequences of a length, causal attention counted once.

        Two for each weight and token that meets it, and for attention 2 · length · width for each token, half of the
        full square (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, without the half that causality leaves out).

        Args:
            tokens: all tokens of all sequences.
            length: the mean length of a sequence.
            predicted: the tokens whose logits are computed; by default all.
        """
        blocks = 2 * self.layers * self.linear_parameters * tokens
        attention = 2 * self.layers * self.query_size * length * tokens
        head = 2 * self.embedding_parameters * (tokens if predicted is None else predicted)
        return blocks + attention + head


def shape_of_architecture(architecture: "Architecture") -> ModelShape:
    """Return the shape of a model that a study makes from scratch; its vocabulary may turn out smaller."""
    return ModelShape(
        hidden_size=architecture.hidden_size,
        layers=architecture.layers,
        heads=architecture.heads,
        key_value_heads=architecture.key_value_heads,
        head_size=architecture.hidden_size // architecture.heads,
        intermediate_size=architecture.intermediate_size,
        vocabulary=architecture.vocabulary,
        tied=True,
        stored_bytes=4,
    )


def shape_of_facts(facts: "ModelFacts | None") -> ModelShape | None:
    """Return the shape that facts tell; None where one of its numbers is missing."""
    if facts is None or facts.tied is None or facts.dtype is None:
        return None
    hidden, layers, heads = facts.hidden_size, facts.layers, facts.heads
    intermediate, vocabulary = facts.intermediate_size, facts.vocabulary
    if hidden is None or layers is None or heads is None or intermediate is None or vocabulary is None:
        return None
    return ModelShape(
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        key_value_heads=facts.key_value_heads or heads,
        head_size=facts.head_size or hidden // heads,
        intermediate_size=intermediate,
        vocabulary=vocabulary,
        tied=facts.tied,
        attention_bias=facts.attention_bias,
        stored_bytes=_BYTES[facts.dtype],
    )


def shape_of_config(config: "Mapping[str, Any]") -> ModelShape | None:
    """Return the shape that a model's config.json tells; None for families whose weights are not counted here.

    What a configuration leaves out is transformers' default for the family.
    """
    family = str(config.get("model_type"))
    if family not in _FAMILIES:
        return None
    given = {name: value for name, value in config.items() if value is not None}
    settings = {**_DEFAULTS, **_FAMILIES[family], **given}
    own_output_bias = family != "qwen2"
    try:
        hidden, heads = int(settings["hidden_size"]), int(settings["num_attention_heads"])
        return ModelShape(
            hidden_size=hidden,
            layers=int(settings["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(settings.get("num_key_value_heads") or heads),
            head_size=int(settings.get("head_dim") or hidden // heads),
            intermediate_size=int(settings["intermediate_size"]),
            vocabulary=int(settings["vocab_size"]),
            tied=bool(settings["tie_word_embeddings"]),
            attention_bias=bool(settings["attention_bias"]),
            output_bias=own_output_bias and bool(settings["attention_bias"]),
            mlp_bias=bool(settings["mlp_bias"]),
            head_norms=bool(settings["head_norms"]),
            stored_bytes=_BYTES.get(str(settings.get("dtype") or settings.get("torch_dtype") or _DEFAULT_DTYPE), 4),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


_DEFAULTS: "Mapping[str, Any]" = {
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "head_norms": False,
}
_FAMILIES: "Mapping[str, Mapping[str, Any]]" = {
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"attention_bias": True, "num_key_value_heads": 32},
    "qwen3": {"head_norms": True, "head_dim": 128, "num_key_value_heads": 32},
}
