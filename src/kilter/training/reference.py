"""Log-probabilities under the model that alignment starts from: computed once, read by every method, size and seed."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kilter.data.schemas import REFERENCE_MISMATCHED, REFERENCE_PAIRS
from kilter.errors import StageFailed
from kilter.training.models import load_model, load_tokenizer
from kilter.training.precision import device_name
from kilter.training.rows import read_pairs, take_pairs
from kilter.training.scoring import score_answers

if TYPE_CHECKING:
    from pathlib import Path

    from kilter.plan.configs import ReferenceConfig
    from kilter.progress import Progress
    from kilter.training.rows import PairRows
    from kilter.training.schedule import Indices

LOGPROBS = "logprobs.parquet"


def run_reference(
    model: "Path", data: "Path", config: "ReferenceConfig", output: "Path", progress: "Progress"
) -> dict[str, Any]:
    """Score both answers of each pair of a shard and write REFERENCE_PAIRS or REFERENCE_MISMATCHED.

    Args:
        model: Folder of the model whose log-probabilities are wanted.
        data: Folder with `train.parquet` or `holdout.parquet` (PREPARED_PAIRS), as the configuration says.
        config: Split, positions, and whether the answers are a row's own or those of the row at `mismatched`.
        output: Gets `logprobs.parquet`.
        progress: Told how many rows are done.

    Returns:
        The summary: rows, tokens (of prompts and answers, padding left out), seconds, and `note` if the shard is empty.

    Raises:
        StageFailed: a row's mismatched row is not in the data, or a log-probability is not finite.
    """
    started = time.monotonic()
    rows = read_pairs(data / f"{config.split}.parquet")
    shard = take_pairs(rows, config.start, config.stop)
    if config.mismatched:
        shard = shard[rows.mismatched[shard] >= 0]
    columns, tokens = _score(model, rows, shard, config, progress)
    schema = REFERENCE_MISMATCHED if config.mismatched else REFERENCE_PAIRS
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)
    pq.write_table(table, output / LOGPROBS)
    summary: dict[str, Any] = {
        "rows": len(shard),
        "tokens": tokens,
        "seconds": time.monotonic() - started,
        "precision": config.precision,
        "device": device_name(),
    }
    if not len(shard):
        end = "the end" if config.stop is None else config.stop
        summary["note"] = (
            f"no rows to score from position {config.start} to {end}: the {config.split} rows are {len(rows)}"
        )
    return summary


def _score(
    model: "Path", rows: "PairRows", shard: "Indices", config: "ReferenceConfig", progress: "Progress"
) -> tuple[dict[str, Any], int]:
    sources = _sources(rows, shard) if config.mismatched else shard
    answers = [part[row] for part in (rows.chosen, rows.rejected) for row in sources]
    prompts = 2 * [rows.prompts[row] for row in shard]
    lengths = np.array([len(answer) for answer in answers], dtype=np.int64)
    chosen, rejected = slice(None, len(shard)), slice(len(shard), None)
    shorter = np.minimum(lengths[chosen], lengths[rejected])
    totals = firsts = np.empty(0)
    if len(shard):
        policy, _ = load_model(model, device_name())
        pad = load_tokenizer(model).pad_token_id
        heads = np.concatenate([shorter, shorter])
        totals, firsts = score_answers(
            policy,
            prompts,
            answers,
            heads,
            pad,
            config.precision,
            lambda done: progress.update(done // 2, len(shard), "rows"),
        )
    if not (np.isfinite(totals).all() and np.isfinite(firsts).all()):
        worst = int(np.flatnonzero(~np.isfinite(totals))[0]) % len(shard)
        raise StageFailed(
            f"the log-probability of an answer at position {rows.positions[shard[worst]]} is not finite; "
            "check the model's weights, or score in fp32"
        )
    columns = {
        "position": rows.positions[shard],
        "row_id": [rows.row_ids[row] for row in shard],
        "chosen_logp": totals[chosen],
        "chosen_tokens": lengths[chosen],
        "chosen_logp_shorter": firsts[chosen],
        "rejected_logp": totals[rejected],
        "rejected_tokens": lengths[rejected],
        "rejected_logp_shorter": firsts[rejected],
    }
    return columns, int(lengths.sum() + sum(len(prompt) for prompt in prompts))


def _sources(rows: "PairRows", shard: "Indices") -> "Indices":
    wanted = rows.mismatched[shard]
    beyond = np.flatnonzero(wanted >= len(rows))
    if len(beyond):
        raise StageFailed(
            f"position {rows.positions[shard[beyond[0]]]} takes its mismatched answers from position "
            f"{wanted[beyond[0]]}, which is not in the data; prepare them again"
        )
    return wanted
