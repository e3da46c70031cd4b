"""The Parquet schemas that stages exchange: canonical rows, prepared token ids, reference log-probabilities."""

import pyarrow as pa

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])

PREFERENCE_ROWS = pa.schema(
    [
        ("position", pa.int64()),  # place in the subset order: size n is positions 0 … n-1
        ("row_id", pa.string()),  # digest of the normalised context and answers
        ("prompt_id", pa.string()),  # digest of the normalised context: the unit of holding out
        ("block", pa.int32()),  # rows of one block exchange answers for KTO's KL term; -1 in the holdout
        (
            "mismatched",
            pa.int64(),
        ),  # position of the row, in the same block, whose answers serve as mismatched ones; -1: none
        ("context", pa.list_(MESSAGE)),  # the turns before the answer, the last one by the user
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        ("stratum", pa.string()),
    ]
)

SFT_ROWS = pa.schema(
    [
        ("position", pa.int64()),
        ("row_id", pa.string()),
        ("prompt_id", pa.string()),
        ("messages", pa.list_(MESSAGE)),
    ]
)

# Answers that found no partner when single answers were paired.
UNPAIRED_ROWS = pa.schema(
    [
        ("row_id", pa.string()),
        ("prompt_id", pa.string()),
        ("context", pa.list_(MESSAGE)),
        ("completion", pa.string()),
        ("label", pa.bool_()),
        ("stratum", pa.string()),
    ]
)

PREPARED_PAIRS = pa.schema(
    [
        ("position", pa.int64()),
        ("row_id", pa.string()),
        ("block", pa.int32()),
        ("mismatched", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),  # with the BOS that the template or tokenizer asks for, up to the answer
        ("chosen_ids", pa.list_(pa.int32())),  # the answer with the end of its turn
        ("rejected_ids", pa.list_(pa.int32())),
        ("truncated", pa.bool_()),
    ]
)

PREPARED_CONVERSATIONS = pa.schema(
    [
        ("position", pa.int64()),
        ("row_id", pa.string()),
        ("input_ids", pa.list_(pa.int32())),
        ("assistant_mask", pa.list_(pa.int8())),  # 1 on the tokens that are learnt: assistant turns with their end
        ("truncated", pa.bool_()),
    ]
)

# Log-probabilities in nats, summed over an answer's tokens given the prompt. `shorter` sums only the first
# min(|chosen|, |rejected|) tokens of each answer, which length-desensitised losses need.
REFERENCE_PAIRS = pa.schema(
    [
        ("position", pa.int64()),
        ("row_id", pa.string()),
        ("chosen_logp", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("chosen_logp_shorter", pa.float64()),
        ("rejected_logp", pa.float64()),
        ("rejected_tokens", pa.int32()),
        ("rejected_logp_shorter", pa.float64()),
    ]
)

# The answers of the row at `mismatched`, scored given this row's prompt.
REFERENCE_MISMATCHED = pa.schema(
    [
        ("position", pa.int64()),
        ("row_id", pa.string()),
        ("chosen_logp", pa.float64()),
        ("chosen_tokens", pa.int32()),
        ("rejected_logp", pa.float64()),
        ("rejected_tokens", pa.int32()),
    ]
)

STEP_METRICS = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("grad_norm", pa.float64()),
        ("tokens", pa.int64()),  # seen so far
        ("seconds", pa.float64()),  # since the training's start
        ("rewards_chosen", pa.float64()),
        ("rewards_rejected", pa.float64()),
        ("margin", pa.float64()),
        ("accuracy", pa.float64()),
    ]
)

SAMPLES = pa.schema(
    [
        ("task", pa.string()),
        ("filter", pa.string()),
        ("doc_id", pa.int64()),
        ("doc_hash", pa.string()),
        ("prompt_hash", pa.string()),
        ("target_hash", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("response", pa.string()),  # what the model said, or its log-likelihoods as JSON
    ]
)
