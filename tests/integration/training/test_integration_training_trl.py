"""Our trainers against TRL's own: the same losses as with a live reference model, and none of the work done twice."""

import datasets
import pytest
import tiny_training
import torch
import transformers
from transformers import LlamaForCausalLM
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.trainer import dpo_trainer, kto_trainer

from kilter.errors import StageFailed, WrongInput
from kilter.training.loop import common_arguments
from kilter.training.models import load_model, load_tokenizer
from kilter.training.schedule import Schedule
from kilter.training.tasks import alignment_task, alignment_trainer

METHODS = ("dpo", "ipo", "kto", "cpo")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny_training.make_world(tmp_path_factory.mktemp("trl"))


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return tiny_training.write_model(tmp_path_factory.mktemp("policy") / "model", seed=5)


def stock_trainer(method, policy, reference, folder):
    """TRL's trainer as it is, with a live reference model; the text that it insists on is never used."""
    model = LlamaForCausalLM.from_pretrained(policy, dtype=torch.float32)
    live = LlamaForCausalLM.from_pretrained(reference, dtype=torch.float32)
    values = tiny_training.HYPERPARAMETERS[method]
    common = {
        "output_dir": str(folder),
        "use_cpu": True,
        "bf16": False,
        "activation_checkpointing": False,
        "report_to": "none",
        "max_length": None,
        **values,
    }
    text = {"prompt": ["w3", "w4"], "chosen": ["w5", "w6"], "rejected": ["w7", "w8"]}
    shared = {
        "processing_class": load_tokenizer(policy),
        "train_dataset": datasets.Dataset.from_dict(text),
    }
    if method == "kto":
        return KTOTrainer(model, live, KTOConfig(**common), **shared)
    if method == "cpo":
        return CPOTrainer(model, CPOConfig(**common | {"max_length": 64}), **shared)
    loss_type = "ipo" if method == "ipo" else "sigmoid"
    return DPOTrainer(model, live, DPOConfig(**common, loss_type=loss_type), **shared)


def as_trl_names_it(method, batch):
    """The same sequences under the names that TRL's own collators give them, without reference values."""
    names = ("input_ids", "attention_mask", "completion_mask")
    own = {name: batch[name] for name in names}
    pairs = len(own["input_ids"]) // 2
    if method == "kto":
        own["label"] = torch.arange(2 * pairs) < pairs
        return own | {f"KL_{name}": batch[f"mismatched_{name}"] for name in names}
    if method != "cpo":
        return own
    parts = {"chosen": slice(None, pairs), "rejected": slice(pairs, None)}
    labels = own["input_ids"].masked_fill(own["completion_mask"] == 0, -100)
    columns = {"input_ids": own["input_ids"], "attention_mask": own["attention_mask"], "labels": labels}
    return {f"{side}_{name}": values[part] for side, part in parts.items() for name, values in columns.items()}


@pytest.mark.parametrize("method", METHODS)
def test_losses_equal_those_of_trl_with_a_live_reference_model(world, policy, method, tmp_path):
    config = tiny_training.align_config(method)
    task = alignment_task(world.data, [world.reference], [world.mismatched], config)
    model, _ = load_model(policy, "cpu")
    arguments = common_arguments(config, task.schedule, tmp_path / "ours")
    ours = alignment_trainer(model, load_tokenizer(policy), task, config, arguments, [])
    theirs = stock_trainer(method, policy, world.model, tmp_path / "theirs")
    for trainer in (ours, theirs):
        trainer.model.train()
    batches = [ours.collate(indices.tolist()) for indices in task.schedule.micro_batches]
    assert len(batches) >= 4
    for batch, rows in zip(batches, task.schedule.micro_batches, strict=True):
        ours.follow(Schedule((rows,), 1, "row"), {}, 0.0)
        ours.get_batch_samples(iter([batch]), 1, "cpu")
        mine, live = (
            trainer.compute_loss(trainer.model, dict(inputs)).item()
            for trainer, inputs in ((ours, batch), (theirs, as_trl_names_it(method, batch)))
        )
        assert mine == pytest.approx(live, rel=1e-6)


def forbidden(name):
    def refuse(*_, **__):
        raise AssertionError(f"{name} was called: prepared data must be taken as they are")

    return refuse


@pytest.fixture
def nothing_twice(monkeypatch):
    """Make every way in which TRL could tokenise, score or load a second model raise, and count the loads."""
    tokenizer = transformers.PreTrainedTokenizerBase
    for name in ("__call__", "encode", "tokenize", "apply_chat_template", "pad"):
        monkeypatch.setattr(tokenizer, name, forbidden(f"tokenizer.{name}"))
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "_encode_plus", forbidden("tokenizer._encode_plus"))
    for module, trainer in ((dpo_trainer, DPOTrainer), (kto_trainer, KTOTrainer)):
        monkeypatch.setattr(module, "create_model_from_path", forbidden("create_model_from_path"))
        monkeypatch.setattr(module, "_tokenize", forbidden("_tokenize"))
        monkeypatch.setattr(module, "hash_module", forbidden("hash_module"))
        monkeypatch.setattr(trainer, "compute_ref_log_probs", forbidden("compute_ref_log_probs"))
        for name in ("_prepare_dataset", "_precompute_ref_logps"):
            monkeypatch.setattr(trainer, name, forbidden(name))
    monkeypatch.setattr(CPOTrainer, "tokenize_row", forbidden("tokenize_row"))
    monkeypatch.setattr(datasets.Dataset, "map", forbidden("Dataset.map"))
    loads = []
    load = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    return loads


@pytest.mark.parametrize("method", METHODS)
def test_an_alignment_neither_tokenises_nor_scores_nor_loads_a_reference_model(world, method, tmp_path, nothing_twice):
    summary = world.align(method, tmp_path / method)
    assert summary["steps"] == 3
    parent, written = nothing_twice
    assert (parent[0], written[0]) == (world.model, tmp_path / method / "model")


def test_fine_tuning_does_not_tokenise(world, tmp_path, nothing_twice):
    from kilter.training.sft import run_sft

    tiny_training.write_conversations(tmp_path / "data" / "train.parquet", 20)
    summary = run_sft(
        world.model, tmp_path / "data", tiny_training.sft_config(), tmp_path, tiny_training.training_run()
    )
    assert summary["steps"] == 2


@pytest.mark.parametrize("method", METHODS)
def test_the_spies_would_notice(policy, method, tmp_path, nothing_twice, world):
    with pytest.raises(AssertionError, match="must be taken as they are"):
        stock_trainer(method, policy, world.model, tmp_path)


@pytest.mark.parametrize("method", ["dpo", "ipo", "cpo"])
def test_another_loss_than_the_one_asked_for_stops_the_training(world, method, tmp_path, monkeypatch):
    """The failure that other toolkits had: the name says IPO, the numbers are DPO's, and all is green."""
    trainer = CPOTrainer if method == "cpo" else DPOTrainer
    original = trainer.__init__

    def swapped(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if method == "cpo":
            self.cpo_alpha = 0.0
        else:
            self.beta = 7.0 if method == "dpo" else self.beta
            self.loss_types = ["sigmoid"] if method == "ipo" else ["hinge"]
            monkeypatch.setattr(type(self), "ran_loss_type", lambda _: "ipo" if method == "ipo" else "sigmoid")

    monkeypatch.setattr(trainer, "__init__", swapped)
    with pytest.raises(StageFailed, match=f"{method} should train the loss"):
        world.align(method, tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_loss_type_that_is_not_the_methods_own_stops_the_training(world, tmp_path, monkeypatch):
    from kilter.training.trainers.kto import PreparedKtoTrainer

    monkeypatch.setattr(PreparedKtoTrainer, "ran_loss_type", lambda _: "apo_zero_unpaired")
    with pytest.raises(StageFailed, match="as apo_zero_unpaired"):
        world.align("kto", tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 0.1, "cpo_alpha": 1.0}, "dpo has no hyperparameter 'cpo_alpha'"),
        ({}, "dpo needs a value of beta"),
        ({"beta": -1.0}, "beta must be above 0"),
    ],
)
def test_wrong_hyperparameters_are_refused_before_anything_is_loaded(world, values, message, tmp_path):
    with pytest.raises(WrongInput, match=message):
        world.align("dpo", tmp_path, hyperparameters=values)
