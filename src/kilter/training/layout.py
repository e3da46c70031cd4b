"""Where a training puts what it made, below its output."""

MODEL = "model"
"""A whole model: safetensors, configuration, tokenizer, chat template."""
ADAPTER = "adapter"
"""In its place, where an adapter was trained: the adapter, tokenizer and chat template."""
ADAPTER_BASE = "kilter-base.json"
"""Beside an adapter: the result that holds the model it was made on, and the digest of that model's weights."""
