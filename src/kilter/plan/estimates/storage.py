"""Bytes that a stage's result takes in the store."""

from typing import TYPE_CHECKING

from kilter.plan.estimates.amounts import Amount

if TYPE_CHECKING:
    from kilter.plan.estimates.shapes import ModelShape

_STEP_BYTES = 100
"""One row of metrics.parquet: ten numbers of eight bytes, and Parquet's own (measured: 46 to 115)."""
_REFERENCE_ROW_BYTES = 54
"""Measured on the demo: 127 239 bytes for 2 375 pairs, digests of rows included."""
_DOCUMENT_BYTES = 500
"""One document's values and what the model said (measured: 93 on the demo's choices, 437 on answers to GSM8K)."""
_REPORT_BYTES_PER_MODEL = 60_000
"""Measured: 51 kB on the demo, 59 kB on studies/real-small.yaml."""
_ROW_BYTES = 80
"""A prepared row besides its tokens: identifiers and places."""
_TOKEN_BYTES = 5
"""Four for the token and one for the mask, before Parquet packs them."""


def model_bytes(shape: "ModelShape | None", steps: Amount | None) -> Amount | None:
    """Return the bytes of a trained model, in the precision that its source is stored in, with its steps' metrics.

    The tokenizer's few megabytes and resume state, which is deleted at the end, are not counted.
    """
    if shape is None:
        return None
    weights = float(shape.parameters * shape.stored_bytes)
    return Amount(weights + (steps.value * _STEP_BYTES if steps else 0.0))


def adapter_bytes(shape: "ModelShape | None", rank: int, steps: Amount | None) -> Amount | None:
    """Return the bytes of a trained adapter, in float32, with its steps' metrics."""
    if shape is None:
        return None
    return Amount(float(shape.adapter_parameters(rank) * 4) + (steps.value * _STEP_BYTES if steps else 0.0))


def reference_bytes(rows: Amount | None) -> Amount | None:
    """Return the bytes of the log-probabilities of so many pairs."""
    return rows and rows.times(_REFERENCE_ROW_BYTES)


def evaluation_bytes(documents: Amount | None) -> Amount | None:
    """Return the bytes of the samples of so many documents."""
    return documents and Amount(documents.value * _DOCUMENT_BYTES, at_most=True)


def prepared_bytes(tokens: Amount | None, rows: Amount | None) -> Amount | None:
    """Return the most bytes that token ids take; Parquet packs them to less."""
    if tokens is None or rows is None:
        return None
    return Amount(tokens.value * _TOKEN_BYTES + rows.value * _ROW_BYTES, at_most=True)


def report_bytes(models: int) -> Amount:
    """Return the bytes of a report with so many models."""
    return Amount(float(models * _REPORT_BYTES_PER_MODEL))
