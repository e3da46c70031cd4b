"""Names, splits and rows of the data sets that Kilter makes itself, so that a study is checked without making them."""

from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

BUILTIN_PREFIX = "builtin:"

BUILTIN_SPLITS: "Mapping[str, Mapping[str, int]]" = MappingProxyType(
    {"demo": MappingProxyType({"text": 40_000, "instruct": 1000, "sft": 1000, "preference": 2500})}
)
"""Rows by split, by the name of the data set."""

BUILTIN_CONTENTS: "Mapping[str, Mapping[str, str]]" = MappingProxyType(
    {
        "demo": MappingProxyType(
            {"text": "text", "instruct": "conversations", "sft": "conversations", "preference": "pairs"}
        )
    }
)
"""What the rows of each split are, by the name of the data set: text, conversations or pairs."""

BUILTIN_TEMPLATES = ("chatml", "plain")
"""The chat templates that a study may name instead of writing one."""
