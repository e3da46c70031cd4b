"""Adapters in place of all weights: what they begin as, what is trained, what is kept of them, and what they become."""

import json
import socket

import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilter.errors import StageFailed, WrongInput
from kilter.plan.configs import Adapter
from kilter.training import adapters
from kilter.training.adapters import TrainedAdapter, load_policy, merge_adapter, save_adapter
from kilter.training.deepspeed import Joined
from kilter.training.loop import common_arguments
from kilter.training.models import load_model, load_tokenizer
from kilter.training.packing import ATTENTION, PackedForward
from kilter.training.parallel import Place
from kilter.training.tasks import alignment_task, alignment_trainer

LORA = Adapter(method="lora", rank=4, alpha=8, dropout=0.0, target="all-linear", library="peft")
METHODS = ("dpo", "kto", "cpo", "orpo", "bco", "wpo")
"""Each trainer of TRL, and losses of ours."""
KEPT = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json"}
ALONE = Joined(Place(), "cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_training.make_world(tmp_path_factory.mktemp("adapters"), rows=37)


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    """What a method's adapter came to, trained once; its folder and summary."""
    known = {}

    def get(method, **changes):
        name = f"{method}{changes}"
        if name not in known:
            folder = tmp_path_factory.mktemp("trained")
            known[name] = (folder, world.align(method, folder, **({"peft": LORA} | changes)))
        return known[name]

    return get


def losses(folder):
    return pq.read_table(folder / "metrics.parquet")["loss"].to_pylist()


def trainer_of(world, method, folder, **changes):
    config = tiny_training.align_config(method, peft=LORA, **changes)
    task = alignment_task(world.data, [world.reference], [world.mismatched], config)
    policy, _ = load_policy(world.model, config, ALONE)
    arguments = common_arguments(config, task.schedule, folder)
    return alignment_trainer(policy, load_tokenizer(world.model), task, config, arguments, []), task


@torch.no_grad()
def logits(model):
    ids = torch.arange(3, 33).reshape(3, 10)
    return model.eval()(input_ids=ids).logits


@torch.no_grad()
@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_before_the_first_step_the_policy_is_the_reference(world, method, tmp_path):
    trainer, task = trainer_of(world, method, tmp_path)
    for rows in task.schedule.micro_batches[:3]:
        scores, shift = trainer.scores(trainer.collate(rows.tolist()))
        ratios = torch.cat([scores.chosen.ratio, scores.rejected.ratio])
        assert ratios.abs().max() < 1e-5
        assert abs(shift) < 1e-5
    assert trainer.ref_model is None


@pytest.mark.parametrize("method", ["dpo", "kto", "cpo", "orpo"])
def test_forward_passes_leave_the_padding_out(world, method, tmp_path):
    trainer, task = trainer_of(world, method, tmp_path)
    trainer.follow(task.schedule, {}, 0.0)
    assert trainer.packed
    assert trainer.model.get_base_model().config._attn_implementation == ATTENTION
    assert isinstance(trainer.forward_of(trainer.model), PackedForward)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_is_that_of_training_all_weights(world, trained, method, tmp_path):
    world.align(method, tmp_path, epochs=2.0)
    adapter, _ = trained(method, epochs=2.0)
    assert losses(adapter)[0] == pytest.approx(losses(tmp_path)[0], rel=1e-6)
    assert losses(adapter)[-1] != losses(tmp_path)[-1]


def test_in_bfloat16_frozen_matrices_take_half_and_give_the_same_numbers(world, trained, tmp_path):
    trainer, _ = trainer_of(world, "dpo", tmp_path / "trainer", precision="bf16")
    types = {name.rsplit(".", 2)[-2]: weight.dtype for name, weight in trainer.model.named_parameters()}
    assert types["base_layer"] == torch.bfloat16
    assert {types[name] for name in ("embed_tokens", "lm_head", "default", "norm")} == {torch.float32}
    plain, _ = load_model(world.model, "cpu")
    ids = torch.arange(3, 33).reshape(3, 10)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(trainer.model(input_ids=ids).logits, plain(input_ids=ids).logits)
    folder, summary = trained("dpo", precision="bf16")
    world.align("dpo", tmp_path, precision="bf16")
    assert losses(folder)[0] == losses(tmp_path)[0]
    assert summary["adapter"]["frozen"] == "bfloat16"


def test_only_the_adapter_is_trained_and_kept(world, trained):
    folder, summary = trained("dpo")
    files = {path.name for path in (folder / "adapter").iterdir()}
    assert files - {"tokenizer_config.json", "special_tokens_map.json"} == KEPT
    assert not (folder / "model").exists()
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    told = {"frozen": "float32", "trainable_parameters": sum(map(torch.numel, weights.values()))}
    assert summary["adapter"] == LORA.model_dump() | told
    whole = AutoModelForCausalLM.from_pretrained(world.model).num_parameters()
    assert summary["parameters"] == whole + summary["adapter"]["trainable_parameters"]
    # Two layers of seven matrices, each with A and B; not the head.
    assert len(weights) == 2 * 7 * 2
    assert all(name.endswith(("lora_A.weight", "lora_B.weight")) for name in weights)
    assert all(weight.abs().max() > 0 for weight in weights.values())


def test_what_is_kept_says_nothing_of_this_machine(world, trained):
    folder, _ = trained("dpo")
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None
    assert not any(str(value).startswith("/") or value == socket.gethostname() for value in settings.values())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    for path in (folder / "adapter").iterdir():
        assert str(world.model.parent).encode() not in path.read_bytes(), path.name


def test_training_again_gives_the_same_files(world, trained, tmp_path):
    folder, _ = trained("dpo")
    world.align("dpo", tmp_path, peft=LORA)
    for path in (folder / "adapter").iterdir():
        assert path.read_bytes() == (tmp_path / "adapter" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_answers_as_its_base_with_the_adapter_does(trained, dtype, tmp_path):
    base = tiny_training.write_model(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=dtype).save_pretrained(base)
    folder, _ = trained("dpo", learning_rate=1e-2)
    merge_adapter(base, folder / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == dtype
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = logits(plain)
    after = logits(PeftModel.from_pretrained(plain, folder / "adapter"))
    tolerance = {"atol": 1e-5, "rtol": 0} if dtype == torch.float32 else {"atol": 0.1, "rtol": 0.02}
    assert torch.allclose(logits(merged.float()), after, **tolerance)
    assert (after - before).abs().max() > 0.05, "the adapter does something"
    assert not any("adapter" in path.name for path in (tmp_path / "merged").iterdir())
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_an_adapter_is_not_merged_into_a_model_of_another_shape(trained, tmp_path):
    folder, _ = trained("dpo")
    for shape in ({"hidden": 48}, {"layers": 1}):
        other = tiny_training.write_model(tmp_path / str(shape), **shape)
        with pytest.raises(StageFailed, match="does not fit the model it is merged into"):
            merge_adapter(other, folder / "adapter", tmp_path / f"merged-{shape}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weight: weight * float("nan"), "not finite"),
        (lambda weight: weight[:0], "is empty"),
    ],
)
def test_an_adapter_that_is_no_good_is_not_kept(world, trained, spoil, message, tmp_path):
    folder, _ = trained("dpo")
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    name = sorted(weights)[3]
    bad = TrainedAdapter(weights | {name: spoil(weights[name])}, {}, {})
    with pytest.raises(StageFailed, match=f"{name}.*{message}"):
        save_adapter(bad, world.model, world.data, tmp_path / "adapter")


def test_an_adapter_that_was_not_written_as_it_was_trained_is_not_kept(world, trained, tmp_path, monkeypatch):
    folder, _ = trained("dpo")
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    name = sorted(weights)[3]
    truly = adapters.save
    monkeypatch.setattr(adapters, "save", lambda tensors, notes: truly(tensors | {name: tensors[name] + 1e-6}, notes))
    with pytest.raises(StageFailed, match=f"{name} is not the trained one"):
        save_adapter(TrainedAdapter(weights, {}, {}), world.model, world.data, tmp_path / "changed")
    monkeypatch.setattr(
        adapters, "save", lambda tensors, notes: truly({k: v for k, v in tensors.items() if k != name}, notes)
    )
    with pytest.raises(StageFailed, match="other weights than the trained one"):
        save_adapter(TrainedAdapter(weights, {}, {}), world.model, world.data, tmp_path / "missing")


def test_dropout_is_in_force_where_it_is_asked_for(world, trained):
    dropping = LORA.model_copy(update={"dropout": 0.5})
    plain, _ = trained("dpo", epochs=2.0)
    folder, summary = trained("dpo", epochs=2.0, peft=dropping)
    assert summary["adapter"]["dropout"] == 0.5
    # Nothing has been added yet when the first two losses are computed: the first step's rate is zero.
    assert losses(folder)[:2] == pytest.approx(losses(plain)[:2], rel=1e-6)
    assert all(one != other for one, other in zip(losses(folder)[2:], losses(plain)[2:], strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_stopped_training_goes_on_to_the_same_adapter(world, trained, dropout, tmp_path):
    adapter = LORA.model_copy(update={"dropout": dropout})
    left_alone, _ = trained("dpo", epochs=2.0, peft=adapter)
    kept = tiny_training.FolderResume(tmp_path / "checkpoints")
    kept.folder.mkdir()
    stopped = tiny_training.training_run(kept, tiny_training.StopAfter(3))
    again = {"epochs": 2.0, "peft": adapter}
    assert tiny_training.interrupted(lambda: world.align("dpo", tmp_path / "first", stopped, **again))
    checkpoint = kept.folder / "step-3"
    assert {path.name for path in checkpoint.iterdir()} >= {"adapter_model.safetensors", "optimizer.pt"}
    assert not (checkpoint / "model.safetensors").exists()
    world.align("dpo", tmp_path / "second", tiny_training.training_run(kept), **again)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        ours, theirs = ((folder / "adapter" / name).read_bytes() for folder in (tmp_path / "second", left_alone))
        assert ours == theirs, name
    assert losses(tmp_path / "second") == losses(left_alone)


def test_a_moving_reference_is_refused(world, tmp_path):
    with pytest.raises(WrongInput, match="tr-dpo moves its reference with all weights"):
        world.align("tr-dpo", tmp_path, peft=LORA)


def test_four_bits_are_refused_where_they_cannot_be(world, tmp_path, monkeypatch):
    from kilter.training import four_bits

    quantised = LORA.model_copy(update={"method": "qlora"})
    with pytest.raises(WrongInput, match=r"(?s)needs bitsandbytes and a GPU.*pip install bitsandbytes.*method: lora"):
        world.align("dpo", tmp_path, peft=quantised)
    for gpu, library, lacking in ((False, True, "here is no GPU:"), (True, False, "here is no bitsandbytes:")):
        monkeypatch.setattr(four_bits, "accelerator_present", lambda gpu=gpu: gpu)
        monkeypatch.setattr(four_bits, "find_spec", lambda _, library=library: "found" if library else None)
        with pytest.raises(WrongInput, match=lacking):
            four_bits.require_four_bits()
    monkeypatch.setattr(four_bits, "find_spec", lambda _: "found")
    four_bits.require_four_bits()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_adapter_is_trained_on_a_model_in_4_bits_where_the_library_is(precision, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes, which is installed by who wants it")
    # The library computes on a CPU too, slowly.
    monkeypatch.setattr("kilter.training.four_bits.accelerator_present", lambda: True)
    model = tiny_training.write_model(tmp_path / "model", hidden=128)
    world = tiny_training.make_world(tmp_path / "world", model=model)
    quantised = LORA.model_copy(update={"method": "qlora"})
    for method in METHODS:
        summary = world.align(method, tmp_path / method, peft=quantised, precision=precision, learning_rate=1e-2)
        weights = load_file(tmp_path / method / "adapter" / "adapter_model.safetensors")
        whole = AutoModelForCausalLM.from_pretrained(model).num_parameters()
        assert summary["adapter"]["frozen"] == "4 bits"
        assert summary["parameters"] == whole + summary["adapter"]["trainable_parameters"]
        assert all(weight.dtype == torch.float32 for weight in weights.values())
        assert all(weight.abs().max() > 0 for weight in weights.values())
        merge_adapter(model, tmp_path / method / "adapter", tmp_path / method / "merged")
