"""What a training writes and says: files, metrics, summary, held-out measurements, and how it fails."""

import json
import os
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kilter.data.schemas import REFERENCE_MISMATCHED, REFERENCE_PAIRS, STEP_METRICS
from kilter.errors import StageFailed
from kilter.plan.configs import ReferenceConfig
from kilter.training import models
from kilter.training.reference import run_reference
from kilter.training.run import NoResume, TrainingRun
from kilter.training.sft import run_sft

PUBLISHED = {
    "metrics.parquet",
    "model/chat_template.jinja",
    "model/config.json",
    "model/generation_config.json",
    "model/model.safetensors",
    "model/tokenizer.json",
    "model/tokenizer_config.json",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    tiny_training.write_conversations(folder / "conversations" / "train.parquet", 37)
    return tiny_training.make_world(folder, rows=37)


def fine_tune(world, output, run=None, **changes):
    output.mkdir(parents=True, exist_ok=True)
    data = world.data.parent / "conversations"
    return run_sft(world.model, data, tiny_training.sft_config(**changes), output, run or tiny_training.training_run())


def train(world, method, output, **changes):
    return fine_tune(world, output, **changes) if method == "sft" else world.align(method, output, **changes)


@dataclass
class Told:
    """Keeps what it was told."""

    updates: list = field(default_factory=list)

    def update(self, done, total=None, unit="steps", values=None):
        self.updates.append((done, total, unit, values))


@pytest.mark.parametrize("method", ["sft", "dpo", "ipo", "kto", "cpo"])
def test_a_training_writes_a_model_and_its_metrics_and_says_what_was_in_force(world, method, tmp_path):
    summary = train(world, method, tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == PUBLISHED
    table = pq.read_table(tmp_path / "metrics.parquet")
    assert table.schema.equals(STEP_METRICS)
    assert table["step"].to_pylist() == list(range(1, summary["steps"] + 1))
    assert table["loss"].null_count == table["grad_norm"].null_count == 0
    assert table["tokens"].to_pylist() == sorted(set(table["tokens"].to_pylist()))
    assert table["tokens"][-1].as_py() == summary["tokens"]
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    expected = {
        "sft": ("SFTTrainer", "nll"),
        "dpo": ("DPOTrainer", "sigmoid"),
        "ipo": ("DPOTrainer", "ipo"),
        "kto": ("KTOTrainer", "kto"),
        "cpo": ("CPOTrainer", "sigmoid"),
    }
    assert (summary["trainer"], summary["loss_type"]) == expected[method]
    # KTO takes whole blocks of eight: four of them, and the five rows beyond are cut.
    assert summary["rows"] == (32 if method == "kto" else 37)
    assert summary["steps"] == (2 if method == "kto" else 3)
    assert (summary["effective_batch"], summary["micro_batch"], summary["accumulation"]) == (16, 8, 2)
    assert summary["batch_unit"] == ("block" if method == "kto" else "row")
    if method != "sft":
        assert summary["pairs"] + summary["pairs_cut"] == 37
        assert table["margin"].null_count == 0


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "cpo"])
def test_the_written_model_is_trained_and_can_be_used(world, method, tmp_path):
    train(world, method, tmp_path)
    written, parent = (AutoModelForCausalLM.from_pretrained(path) for path in (tmp_path / "model", world.model))
    assert any(not torch.equal(a, b) for a, b in zip(written.parameters(), parent.parameters(), strict=True))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "w5 w6"}], return_tensors="pt", return_dict=False)
    assert written(input_ids=ids).logits.isfinite().all()
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (world.model / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("method", ["sft", "dpo", "ipo", "cpo"])
def test_how_a_step_is_split_into_micro_batches_does_not_change_it(world, method, tmp_path):
    """Also in the last step, whose 5 rows are micro-batches of 5, of 4 and 1, or of 2, 2 and 1.

    The policy is not the reference: where they are the same, rounding alone decides the rewards' signs.
    """
    world = replace(world, model=tiny_training.write_model(tmp_path / "policy", seed=5))
    curves = []
    for micro in (16, 4, 2):
        train(world, method, tmp_path / str(micro), micro_batch_size=micro)
        curves.append(pq.read_table(tmp_path / str(micro) / "metrics.parquet").drop_columns(["seconds"]).to_pylist())
    for step in zip(*curves, strict=True):
        for name, value in step[0].items():
            for other in step[1:]:
                assert other[name] == (None if value is None else pytest.approx(value, rel=1e-4, abs=1e-6)), name


def test_seeds_shuffle_kto_blocks_but_never_split_them(world, tmp_path):
    losses = []
    for seed in (0, 1):
        world.align("kto", tmp_path / str(seed), seed=seed, batch_size=8)
        losses.append(pq.read_table(tmp_path / str(seed) / "metrics.parquet")["loss"].to_pylist())
    assert losses[0] != losses[1]


@pytest.mark.parametrize(("method", "loss"), [("dpo", np.log(2)), ("ipo", 25.0), ("kto", 0.5), ("cpo", None)])
def test_held_out_pairs_of_an_unchanged_model_have_the_loss_of_a_coin(world, method, loss, tmp_path):
    values = tiny_training.HYPERPARAMETERS[method]
    if method == "kto":
        values = values | {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    held_out = world.align(method, tmp_path, learning_rate=1e-12, hyperparameters=values)["held_out"]
    assert held_out["pairs"] == 8
    assert held_out["kl"] == pytest.approx(0, abs=1e-9)
    if method == "cpo":
        reference = pq.read_table(world.holdout)
        chosen, rejected = (reference[f"{name}_logp"].to_numpy() for name in ("chosen", "rejected"))
        gap = chosen - rejected
        likelihood = -chosen.sum() / reference["chosen_tokens"].to_numpy().sum()
        loss = np.log1p(np.exp(-0.1 * gap)).mean() + 0.7 * likelihood
        assert held_out["margin"] == pytest.approx(0.1 * gap.mean(), rel=1e-4)
        assert held_out["accuracy"] == (gap > 0).mean()
    else:
        assert held_out["margin"] == pytest.approx(0, abs=1e-5)
    assert held_out["loss"] == pytest.approx(loss, rel=1e-4)


def test_training_moves_the_held_out_kl(world, tmp_path):
    assert world.align("dpo", tmp_path)["held_out"]["kl"] > 1e-5


def test_a_missing_reference_of_the_held_out_pairs_is_noticed_before_training(world, tmp_path):
    without = tiny_training.World(world.model, world.data, world.reference, world.mismatched, None)
    with pytest.raises(StageFailed, match="held-out"):
        without.align("dpo", tmp_path)
    assert without.align("cpo", tmp_path / "cpo")["held_out"]["kl"] is None


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(world, method, tmp_path):
    with pytest.raises(StageFailed, match=r"step [23] of 3: the (loss|grad_norm) is (nan|inf)"):
        train(world, method, tmp_path, learning_rate=1e30, warmup_ratio=0.0)
    assert list(tmp_path.iterdir()) == []


def test_each_step_is_reported(world, tmp_path):
    told = Told()
    fine_tune(world, tmp_path, TrainingRun(told, NoResume(), lambda: False))
    assert [update[:3] for update in told.updates] == [(1, 3, "steps"), (2, 3, "steps"), (3, 3, "steps")]
    assert all({"loss", "learning_rate"} == set(update[3]) for update in told.updates)


@pytest.mark.parametrize("method", ["sft", "dpo", "ipo", "kto", "cpo"])
def test_bf16_trains_too(world, method, tmp_path):
    exact, rounded = (train(world, method, tmp_path / name, precision=name) for name in ("fp32", "bf16"))
    assert rounded["precision"] == "bf16"
    assert rounded["loss"] != exact["loss"]
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.05)


def test_the_template_of_the_data_comes_along(world, tmp_path):
    data = tmp_path / "data"
    tiny_training.write_conversations(data / "train.parquet", 8)
    (data / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (tmp_path / "out").mkdir()
    run_sft(world.model, data, tiny_training.sft_config(), tmp_path / "out", tiny_training.training_run())
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / "model").chat_template == "{{ messages[0]['content'] }}"


def test_weights_keep_the_type_that_they_were_stored_in(world, tmp_path):
    half = tmp_path / "half"
    tiny_training.write_model(half)
    AutoModelForCausalLM.from_pretrained(half, dtype=torch.bfloat16).save_pretrained(half)
    (tmp_path / "out").mkdir()
    data = world.data.parent / "conversations"
    run_sft(half, data, tiny_training.sft_config(), tmp_path / "out", tiny_training.training_run())
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model", dtype="auto")
    assert {weight.dtype for weight in written.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda weights: weights["model.norm.weight"].fill_(float("nan")), "not finite"),
        (lambda weights: weights["model.norm.weight"].add_(1), "is not the trained one"),
        (lambda weights: weights.pop("model.norm.weight"), "do not fit their configuration"),
    ],
)
def test_a_damaged_copy_of_the_model_fails_the_training(world, tmp_path, monkeypatch, damage, message):
    from safetensors.torch import load_file, save_file

    original = PreTrainedModel.save_pretrained

    def save_damaged(self, folder, **kwargs):
        original(self, folder, **kwargs)
        weights = load_file(folder / "model.safetensors")
        damage(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", save_damaged)
    with pytest.raises(StageFailed, match=message):
        fine_tune(world, tmp_path)


def test_a_model_with_missing_weights_is_not_trained(world, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = tiny_training.write_model(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageFailed, match="up_proj"):
        models.load_model(broken, "cpu")


def test_a_training_runs_in_a_forked_child(world, tmp_path):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            code = 0 if world.align("dpo", tmp_path)["steps"] == 3 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("mismatched", [False, True])
def test_shards_of_the_reference_together_are_the_whole(world, mismatched, tmp_path):
    whole = pq.read_table(world.mismatched if mismatched else world.reference)
    assert whole.schema.equals(REFERENCE_MISMATCHED if mismatched else REFERENCE_PAIRS)
    parts = []
    for start, stop in ((0, 10), (10, 30), (30, None)):
        path = tiny_training.reference_file(
            world.model, world.data, tmp_path / str(start), start=start, stop=stop, mismatched=mismatched
        )
        parts += pq.read_table(path).to_pylist()
    assert [row["position"] for row in parts] == whole["position"].to_pylist()
    assert len(parts) == (32 if mismatched else 37)
    for part, row in zip(parts, whole.to_pylist(), strict=True):
        assert part == {
            name: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value for name, value in row.items()
        }


def test_a_shard_beyond_the_end_is_empty_and_says_so(world, tmp_path):
    config = ReferenceConfig(split="train", start=50, stop=100, mismatched=False, precision="fp32")
    told = Told()
    summary = run_reference(world.model, world.data, config, tmp_path, told)
    assert summary["rows"] == summary["tokens"] == 0
    assert "no rows to score from position 50 to 100" in summary["note"]
    assert pq.read_table(tmp_path / "logprobs.parquet").schema.equals(REFERENCE_PAIRS)


def test_a_shard_counts_its_tokens_and_tells_its_rows(world, tmp_path):
    config = ReferenceConfig(split="holdout", start=0, stop=None, mismatched=False, precision="fp32")
    told = Told()
    summary = run_reference(world.model, world.data, config, tmp_path, told)
    table = pq.read_table(world.data / "holdout.parquet").to_pylist()
    tokens = sum(2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in table)
    assert (summary["rows"], summary["tokens"]) == (8, tokens)
    assert told.updates[-1][:3] == (8, 8, "rows")
