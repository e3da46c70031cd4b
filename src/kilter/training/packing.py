"""Forward passes without padding: a batch's sequences lie end to end, and attention keeps them apart.

Padding is most of a preference batch, since lengths vary by an order of magnitude. A `PackedForward` stands where a
trainer calls its model: it takes padded tensors, of integers, which cost nothing, gives the model their real tokens as
one row, and puts the results, one number a token, back where padded ones would be. So losses need not know of it.
"""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from kilter.training.collate import IGNORED

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

ATTENTION = "kilter_packed"
_PLAIN_LAYERS = {"full_attention", "sliding_attention"}


def can_pack(model: "PreTrainedModel") -> bool:
    """Tell whether a model's sequences meet in attention only, by a kind of attention that is known here.

    Layers with a state that runs along the row, and scores that are capped, need their own kernels.
    """
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or _PLAIN_LAYERS)
    return (
        config._attn_implementation in ("sdpa", ATTENTION)
        and bool(getattr(model, "_supports_attention_backend", False))
        and not getattr(model, "_is_stateful", False)
        and not getattr(config, "attn_logit_softcapping", None)
        and layers <= _PLAIN_LAYERS
    )


def with_packing(model: "PreTrainedModel") -> "PreTrainedModel":
    """Give a model attention that understands packed rows; padded ones on the right stay as they are.

    No mask is made for this attention: a token never looks at what is to its right, where the padding is.
    """
    AttentionInterface.register(ATTENTION, packed_attention)
    model.set_attn_implementation(ATTENTION)
    return model


class PackedForward:
    """Calls a model with TRL's fused head on the real tokens of a padded batch, padded on the right."""

    def __init__(self, model: "Callable[..., Any]") -> None:
        self.model = model

    def __call__(self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **options: Any) -> Any:
        """Return the head's output, its fields of shape (sequences, longest - 1), as the padded call would.

        Args:
            input_ids: Token ids, shape (sequences, longest).
            attention_mask: 1 where a token is real, of the same shape.
            labels: The token ids that are scored, -100 elsewhere; the first of each sequence is never scored.
            options: What else the model's forward takes.
        """
        real = attention_mask.bool()
        lengths = attention_mask.sum(dim=1)
        ends = torch.nn.functional.pad(lengths.cumsum(dim=0), (1, 0)).to(torch.int32)
        positions = attention_mask.cumsum(dim=1) - 1
        labels = labels.clone()
        labels[:, 0] = IGNORED
        longest = int(lengths.max())
        outputs = self.model(
            input_ids=input_ids[real].unsqueeze(0),
            position_ids=positions[real].unsqueeze(0),
            labels=labels[real].unsqueeze(0),
            cu_seq_lens_q=ends,
            cu_seq_lens_k=ends,
            max_length_q=longest,
            max_length_k=longest,
            **options,
        )
        spread = {
            field.name: _spread(value, real)
            for field in fields(outputs)
            if isinstance(value := getattr(outputs, field.name), Tensor) and value.dim() == 2
        }
        return replace(outputs, **spread)

    def __getattr__(self, name: str) -> Any:
        """Answer for the model in all else."""
        return getattr(self.model, name)


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence; without `cu_seq_lens_q`, each row is one sequence.

    Args:
        module: The attention layer.
        query: Shape (rows, heads, tokens, width); one row where it is packed.
        key: As `query`, with as many heads or fewer (grouped-query attention).
        value: As `key`.
        scaling: Of the scores; by default one over the root of the width.
        dropout: Share of the attention that is dropped in training.
        sliding_window: How many tokens back a token looks; None for all.
        cu_seq_lens_q: Where each sequence ends, with a leading 0, int32.
        max_length_q: The longest sequence.

    Returns:
        Shape (rows, tokens, heads, width), and None: there are no attention weights to look at.
    """
    grouped = key.shape[1] != query.shape[1]
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": grouped}
    dropout = dropout if module.training else 0.0
    if cu_seq_lens_q is None:
        return _causal(query, key, value, sliding_window, dropout, options).transpose(1, 2).contiguous(), None
    if query.is_cuda and dropout == 0.0 and query.dtype in (torch.bfloat16, torch.float16):
        return _on_gpu(query, key, value, cu_seq_lens_q, max_length_q, sliding_window, options), None
    lengths = cu_seq_lens_q.diff().tolist()
    queries, keys, values = (torch.split(tensor, lengths, dim=2) for tensor in (query, key, value))
    attended = [
        _causal(*sequence, sliding_window, dropout, options) for sequence in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _causal(
    query: Tensor, key: Tensor, value: Tensor, window: int | None, dropout: float, options: dict[str, Any]
) -> Tensor:
    tokens = query.shape[2]
    if window is None or tokens <= window:
        return scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True, **options)
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril().triu(1 - window)
    return scaled_dot_product_attention(query, key, value, seen, dropout_p=dropout, **options)


def _on_gpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    longest: int | None,
    window: int | None,
    options: dict[str, Any],
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    ends = ends.to(query.device)
    most = int(ends.diff().max()) if longest is None else longest
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    # The kernel counts the tokens to either side that are seen: all before, or a window's; none after.
    seen = (-1 if window is None else window - 1, 0)
    attended: Any = varlen_attn(query, key, value, ends, ends, most, most, window_size=seen, **options)
    rows: Tensor = attended.unsqueeze(0)
    return rows


def _spread(values: Tensor, real: Tensor) -> Tensor:
    """Put the values of a packed row's tokens but the first back in a padded shape, zero elsewhere."""
    row = torch.nn.functional.pad(values, (1, 0)).squeeze(0)
    return row.new_zeros(real.shape).masked_scatter(real, row)[:, 1:]
