"""Golden rows: prepared data as the trainer sees it, token by token, with what is invisible made visible."""

import re
from dataclasses import dataclass

from kilter.analysis.results import GoldenRow

TOKENS_PER_PART = 400
_BEGIN = frozenset(
    {"<s>", "<bos>", "[BOS]", "<|bos|>", "<|begin_of_text|>", "<|startoftext|>", "<|begin▁of▁sentence|>"}
)
_END = frozenset(
    {
        "</s>",
        "<eos>",
        "[EOS]",
        "<|eos|>",
        "<|end_of_text|>",
        "<|endoftext|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|end|>",
        "<end_of_turn>",
    }
)
_SPECIAL = re.compile(r"<\|[^|\s]*\|>|</?[A-Za-z_]+>|\[[A-Z_]+\]")
# Byte-level BPE writes a space as Ġ, a newline as Ċ and a tab as ĉ; SentencePiece writes a space as ▁.
_VISIBLE = str.maketrans({" ": "·", "\n": "↵", "\r": "␍", "\t": "→", "Ġ": "·", "Ċ": "↵", "ĉ": "→", "▁": "·"})


@dataclass(frozen=True)
class Token:
    """A token's box."""

    text: str
    title: str
    kind: str
    """bos, eos, special or empty."""
    breaks: bool
    """A line ends here."""


@dataclass(frozen=True)
class Part:
    """The prompt or an answer."""

    name: str
    tokens: tuple[Token, ...]
    left_out: int
    total: int


@dataclass(frozen=True)
class TokenRow:
    """A golden row."""

    source: str
    parts: tuple[Part, ...]


def token_rows(rows: tuple[GoldenRow, ...]) -> tuple[TokenRow, ...]:
    """Turn golden rows into boxes, at most `TOKENS_PER_PART` a part."""
    return tuple(
        TokenRow(
            row.source,
            tuple(
                Part(
                    name,
                    tuple(_token(number, text) for number, text in tokens[:TOKENS_PER_PART]),
                    max(0, len(tokens) - TOKENS_PER_PART),
                    len(tokens),
                )
                for name, tokens in row.parts
            ),
        )
        for row in rows
    )


def _token(number: int, text: str) -> Token:
    kind = "bos" if text in _BEGIN else "eos" if text in _END else "special" if _SPECIAL.fullmatch(text) else ""
    visible = text if kind else text.translate(_VISIBLE)
    name = {"bos": "beginning of sequence, ", "eos": "end of turn or sequence, ", "special": "special token, "}
    return Token(visible or "∅", f"{name.get(kind, '')}id {number}, text {text!r}", kind, visible.endswith("↵"))
