"""Blocks of rows that lend each other their answers, for KTO's KL term."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_PROMPTS = 8


def exchange_blocks(
    prompts: "NDArray[np.uint64]", block_prompts: int = BLOCK_PROMPTS
) -> "tuple[NDArray[np.int32], NDArray[np.int64]]":
    """Group rows into blocks, and give each row one of its block, with another prompt, whose answers it borrows.

    A block is `block_prompts` prompts with all their rows, in order; what is left at the end joins the last block. A
    block's rows point to the rows of the next prompt in the block, the last prompt's to the first: the k-th row of a
    prompt to row k modulo the number of the other's rows. A block depends on nothing after it, so a prefix of whole
    blocks has the same blocks. Kahneman-Tversky optimisation (arXiv 2402.01306, section 4.1) estimates its KL term
    from such mismatched pairs within a batch; fixed blocks let their reference log-probabilities be computed once.

    Args:
        prompts: Each row's prompt, rows of a prompt side by side.
        block_prompts: Distinct prompts a block holds at least.

    Returns:
        The block of each row, and the position of the row whose answers it borrows; both -1 if there are fewer than
        two prompts.
    """
    rows = len(prompts)
    starts = np.flatnonzero(np.concatenate([[True], prompts[1:] != prompts[:-1]])) if rows else np.zeros(0, np.int64)
    groups = len(starts)
    if groups < 2:
        return np.full(rows, -1, np.int32), np.full(rows, -1, np.int64)
    counts = np.diff(np.append(starts, rows))
    blocks = max(1, groups // block_prompts)
    block = np.minimum(np.arange(groups) // block_prompts, blocks - 1)
    following = np.arange(1, groups + 1)
    last = np.append(block[1:] != block[:-1], True)
    following[last] = np.flatnonzero(np.append(True, last[:-1]))
    within = np.arange(rows) - np.repeat(starts, counts)
    mismatched = np.repeat(starts[following], counts) + within % np.repeat(counts[following], counts)
    return np.repeat(block, counts).astype(np.int32), mismatched
