"""Memory arithmetic: held to DeepSpeed's own estimators, to PyTorch's memory tracker, and to what must always hold."""

from dataclasses import replace

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import LlamaConfig, LlamaForCausalLM

from kilter.plan.estimates.memory import Batch, Parallelism, Recipe, scoring_memory, training_memory
from kilter.plan.estimates.shapes import ModelShape

MISTRAL = ModelShape(4096, 32, 32, 8, 128, 14336, 32000, tied=False)
BATCH = Batch(2, 1024)
MIXED = Recipe(weights="bf16", compute="bf16")


@pytest.mark.parametrize("gpus", [2, 4, 8, 64])
def test_states_of_zero_2_are_deepspeeds(gpus: int) -> None:
    _, theirs = estimate_zero2_model_states_mem_needs(MISTRAL.parameters, gpus, 1, cpu_offload=False)
    ours = training_memory(MISTRAL, MIXED, BATCH, Parallelism(gpus, 2))
    assert ours.states == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_states_of_zero_2_with_the_optimizer_on_the_host_are_deepspeeds(gpus: int) -> None:
    host, theirs = estimate_zero2_model_states_mem_needs(
        MISTRAL.parameters, gpus, 1, cpu_offload=True, additional_buffer_factor=1
    )
    ours = training_memory(MISTRAL, MIXED, BATCH, Parallelism(gpus, 2, "optimizer"))
    assert ours.states == pytest.approx(theirs, rel=1e-9)
    # They count 16 bytes a weight on the host, without the 16-bit gradients that arrive there.
    assert ours.host - 2 * MISTRAL.parameters == pytest.approx(host, rel=1e-9)


@pytest.mark.parametrize("gpus", [2, 4, 8, 64])
def test_states_of_zero_3_are_deepspeeds_and_the_16_bit_gradients(gpus: int) -> None:
    largest = MISTRAL.largest_layer_parameters
    _, theirs, gathered = estimate_zero3_model_states_mem_needs(
        MISTRAL.parameters, largest, gpus, 1, cpu_offload=False, cpu_offload_params=False
    )
    ours = training_memory(MISTRAL, MIXED, BATCH, Parallelism(gpus, 3))
    assert ours.states == pytest.approx(theirs - gathered + 2 * MISTRAL.parameters / gpus, rel=1e-6)


def test_states_of_zero_3_with_everything_on_the_host_leave_only_what_is_gathered() -> None:
    _, theirs, gathered = estimate_zero3_model_states_mem_needs(
        MISTRAL.parameters, MISTRAL.largest_layer_parameters, 8, 1, cpu_offload=True, cpu_offload_params=True
    )
    ours = training_memory(MISTRAL, MIXED, BATCH, Parallelism(8, 3, "parameters"))
    assert ours.states == theirs - gathered == 0
    assert ours.buffers >= gathered / 2  # they count the layer's weights and gradients, we more than one layer


def test_plain_training_in_32_bits_holds_sixteen_bytes_a_weight() -> None:
    ours = training_memory(MISTRAL, Recipe(compute="fp32"), BATCH, Parallelism())
    assert ours.states == 16 * MISTRAL.parameters
    assert ours.buffers == 0


TRACKED = [
    ("casts", {"weights": "fp32", "compute": "bf16"}, False, {}),
    ("casts, recomputing", {"weights": "fp32", "compute": "bf16"}, True, {}),
    ("32 bits", {"weights": "fp32", "compute": "fp32"}, False, {"hidden": 768}),
    ("32 bits, recomputing", {"weights": "fp32", "compute": "fp32"}, True, {"feed_forward": 6144}),
    ("16 bits", {"weights": "bf16", "compute": "bf16"}, False, {"heads": 8, "key_value_heads": 8}),
    ("16 bits, recomputing", {"weights": "bf16", "compute": "bf16"}, True, {"layers": 4, "length": 256}),
]


@pytest.mark.parametrize(
    ("recipe", "checkpointing", "changes"), [case[1:] for case in TRACKED], ids=[case[0] for case in TRACKED]
)
def test_weights_gradients_and_activations_are_what_pytorchs_tracker_sees(
    recipe: dict[str, str], checkpointing: bool, changes: dict[str, int]
) -> None:
    sizes = {"hidden": 1024, "layers": 3, "heads": 16, "key_value_heads": 4, "feed_forward": 4096, "length": 512}
    sizes |= changes
    shape = ModelShape(
        sizes["hidden"],
        sizes["layers"],
        sizes["heads"],
        sizes["key_value_heads"],
        sizes["hidden"] // sizes["heads"],
        sizes["feed_forward"],
        vocabulary=512,
        tied=True,
    )
    batch = Batch(4, sizes["length"])
    ours = training_memory(shape, Recipe(**recipe), batch, Parallelism(checkpointing=checkpointing))  # type: ignore[arg-type]
    counted = ours.weights + ours.gradients + ours.activations
    tracked = tracked_peak(shape, recipe, batch, checkpointing)
    assert 0.98 * tracked <= counted <= 1.12 * tracked, counted / tracked


def test_scoring_is_what_pytorchs_tracker_sees() -> None:
    shape = ModelShape(1024, 3, 16, 4, 64, 4096, vocabulary=512, tied=True)
    recipe, batch = {"weights": "fp32", "compute": "bf16"}, Batch(8, 512)
    ours = scoring_memory(shape, Recipe(**recipe), batch)  # type: ignore[arg-type]
    tracked = tracked_peak(shape, recipe, batch, checkpointing=False, learns=False)
    assert 0.98 * tracked <= ours.weights + ours.activations <= 1.12 * tracked


def tracked_peak(
    shape: ModelShape, recipe: dict[str, str], batch: Batch, checkpointing: bool, learns: bool = True
) -> float:
    """Peak bytes of a forward and backward pass of transformers' Llama below its head, without allocating them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        torch.set_default_dtype(torch.float32 if recipe["weights"] == "fp32" else torch.bfloat16)
        try:
            model = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=shape.vocabulary,
                    hidden_size=shape.hidden_size,
                    intermediate_size=shape.intermediate_size,
                    num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.key_value_heads,
                    tie_word_embeddings=True,
                )
            ).train()
        finally:
            torch.set_default_dtype(torch.float32)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        if learns:
            for weight in model.parameters():
                weight.grad = torch.zeros_like(weight)  # of an earlier micro-batch
        tokens = torch.zeros(batch.sequences, batch.longest, dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(model)
        casting = recipe["weights"] == "fp32" and recipe["compute"] == "bf16"
        with tracker, torch.set_grad_enabled(learns):
            with torch.autocast("cpu", torch.bfloat16, enabled=casting):
                hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
            if learns:
                hidden.sum().backward()
        return max(peak["Total"] for peak in tracker.get_tracker_snapshot("peak").values())


shapes = st.builds(
    lambda heads, groups, size, layers, width, vocabulary, tied: ModelShape(
        heads * size, layers, heads, heads // groups, size, width, vocabulary, tied
    ),
    heads=st.sampled_from([4, 8, 32]),
    groups=st.sampled_from([1, 2, 4]),
    size=st.sampled_from([16, 64, 128]),
    layers=st.integers(1, 80),
    width=st.integers(64, 30_000),
    vocabulary=st.integers(300, 200_000),
    tied=st.booleans(),
)
recipes = st.builds(
    Recipe,
    weights=st.sampled_from(["fp32", "bf16"]),
    compute=st.just("bf16"),
    adapter_rank=st.sampled_from([None, 8, 64]),
    packed=st.booleans(),
    fused_head=st.booleans(),
)
batches = st.builds(Batch, sequences=st.integers(1, 32), longest=st.integers(16, 8192))


@given(shape=shapes, recipe=recipes, batch=batches, zero=st.integers(1, 3), gpus=st.sampled_from([2, 4, 8, 32]))
@settings(max_examples=60, deadline=None)
def test_more_gpus_never_need_more_on_each(
    shape: ModelShape, recipe: Recipe, batch: Batch, zero: int, gpus: int
) -> None:
    fewer = training_memory(shape, recipe, batch, Parallelism(gpus, zero))  # type: ignore[arg-type]
    more = training_memory(shape, recipe, batch, Parallelism(2 * gpus, zero))  # type: ignore[arg-type]
    assert more.total <= fewer.total


@given(shape=shapes, recipe=recipes, batch=batches, gpus=st.sampled_from([2, 4, 8]))
@settings(max_examples=60, deadline=None)
def test_every_stage_of_zero_holds_no_more_states_than_the_one_below(
    shape: ModelShape, recipe: Recipe, batch: Batch, gpus: int
) -> None:
    one, two, three = (
        training_memory(shape, recipe, batch, Parallelism(gpus, zero)).states  # type: ignore[arg-type]
        for zero in (1, 2, 3)
    )
    assert three <= two <= one
    offloaded = training_memory(shape, recipe, batch, Parallelism(gpus, 3, "optimizer"))
    assert training_memory(shape, recipe, batch, Parallelism(gpus, 3, "parameters")).states <= offloaded.states <= three


@given(shape=shapes, recipe=recipes, batch=batches, longer=st.integers(1, 4096), checkpointing=st.booleans())
@settings(max_examples=60, deadline=None)
def test_longer_sequences_and_larger_batches_never_need_less(
    shape: ModelShape, recipe: Recipe, batch: Batch, longer: int, checkpointing: bool
) -> None:
    parallelism = Parallelism(checkpointing=checkpointing)
    now = training_memory(shape, recipe, batch, parallelism)
    longest = replace(batch, longest=batch.longest + longer)
    assert training_memory(shape, recipe, longest, parallelism).total >= now.total
    assert training_memory(shape, recipe, replace(batch, sequences=batch.sequences + 1), parallelism).total >= now.total
    assert scoring_memory(shape, recipe, longest).total >= scoring_memory(shape, recipe, batch).total


@given(shape=shapes, recipe=recipes, batch=batches)
@settings(max_examples=60, deadline=None)
def test_recomputing_packing_and_tiles_never_need_more_than_doing_without(
    shape: ModelShape, recipe: Recipe, batch: Batch
) -> None:
    kept = training_memory(shape, recipe, batch, Parallelism())
    again = training_memory(shape, recipe, batch, Parallelism(checkpointing=True))
    # One block has nothing to save, and its input is kept besides.
    assert again.activations <= kept.activations + (shape.layers * 4 + 17) * batch.tokens * shape.hidden_size
    packed = training_memory(shape, replace(recipe, packed=True), batch, Parallelism())
    padded = training_memory(shape, replace(recipe, packed=False), batch, Parallelism())
    assert packed.total <= padded.total


def test_a_fused_head_spares_the_logits_of_a_large_vocabulary() -> None:
    batch, shape = Batch(16, 1024), replace(MISTRAL, vocabulary=128_256)
    tiles = training_memory(shape, Recipe(), batch, Parallelism(checkpointing=True))
    logits = training_memory(shape, Recipe(fused_head=False), batch, Parallelism(checkpointing=True))
    # Logits and log-probabilities of 16 Ki tokens × 128 Ki entries come to 12.6 GB beside the casts of all weights.
    assert logits.total - tiles.total > 9e9


def test_an_adapter_needs_gradients_and_states_for_its_own_weights_only() -> None:
    adapter = training_memory(MISTRAL, replace(MIXED, adapter_rank=16), BATCH, Parallelism())
    assert adapter.gradients == 4 * MISTRAL.adapter_parameters(16)
    assert adapter.optimizer == 8 * MISTRAL.adapter_parameters(16)
    matrices = MISTRAL.layers * MISTRAL.linear_parameters
    # Embeddings, head and norms stay in 32 bits.
    frozen = 2 * matrices + 4 * (MISTRAL.parameters - matrices)
    assert adapter.weights == pytest.approx(frozen + 4 * MISTRAL.adapter_parameters(16))
    quantised = training_memory(MISTRAL, replace(MIXED, adapter_rank=16, quantised=True), BATCH, Parallelism())
    assert quantised.weights < 0.35 * adapter.weights
