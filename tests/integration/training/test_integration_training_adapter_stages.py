"""An adapter through real stages: trained on a fine-tuned model, merged where a model is wanted, refused on another."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import tiny_training
import torch
from command import kilter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from kilter.backends.requests import request_of
from kilter.canonical import digest
from kilter.plan.configs import Adapter, EvaluateConfig, IngestConfig, PrepareConfig, ReferenceConfig
from kilter.plan.graph import Node, Reference
from kilter.stages.builtin_tasks import builtin_task_content
from kilter.stages.execute import execute
from kilter.store.maintenance import invalidate
from kilter.store.manifest import Resources, now
from kilter.store.store import Store
from kilter.training import adapters

CODE = "1"
LORA = Adapter(method="lora", rank=4, alpha=8, dropout=0.0, target="all-linear", library="peft")
TASKS = ("kilter_arithmetic", "kilter_ordering")


class Chain:
    """A store in which a model is fine-tuned, an adapter is trained on the outcome, and that is evaluated."""

    def __init__(self, folder):
        self.folder = folder
        self.store = Store.open(str(folder / "store"))
        tiny_training.write_conversations(folder / "conversations" / "train.parquet", 16)
        tiny_training.write_pairs(folder / "pairs" / "train.parquet", 16)
        tiny_training.write_pairs(folder / "pairs" / "holdout.parquet", 4, seed=1, holdout=True)
        model = tiny_training.write_model(folder / "model")
        ingested = self.given("ingest", IngestConfig(kind="model", content="sha256:0"), model, "model")
        lengths = {"chat_template": None, "max_length": 64, "max_prompt_length": None, "max_truncated": 0.5}
        conversations, pairs = (
            self.given("prepare", PrepareConfig(kind=kind, **lengths), folder / name)
            for kind, name in (("sft", "conversations"), ("preference", "pairs"))
        )
        quick = {"batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-2}
        self.tuned = self.planned("sft", tiny_training.sft_config(**quick), {"model": ingested, "data": conversations})
        shards = {
            role: self.planned(
                "reference",
                ReferenceConfig(split=split, start=0, stop=None, mismatched=False, precision="fp32"),
                {"model": self.tuned, "data": pairs},
            )
            for role, split in (("reference/0", "train"), ("holdout", "holdout"))
        }
        inputs = {"model": self.tuned, "data": pairs, **shards}
        self.aligned = self.planned("align", tiny_training.align_config("dpo", peft=LORA, **quick), inputs)
        self.whole = self.planned("align", tiny_training.align_config("dpo", **quick), inputs)
        self.making = [self.tuned, *shards.values(), self.aligned, self.whole]
        self.evaluations = [
            self.planned(
                "evaluate",
                EvaluateConfig(
                    kind="benchmark", task=task, limit=4, content=builtin_task_content(task), precision="fp32"
                ),
                {"model": self.aligned},
            )
            for task in TASKS
        ]

    def planned(self, stage, config, inputs):
        node = Node(stage, config, inputs, CODE, label=stage)
        self.store.put_request(request_of(node))
        return node.reference

    def given(self, stage, config, folder, place="."):
        reference = self.planned(stage, config, {})
        self.commit(reference, folder, place)
        return reference

    def commit(self, reference, folder, place):
        attempt = self.store.begin(reference)
        shutil.copytree(folder, attempt.directory / place, dirs_exist_ok=True)
        nothing = Resources(seconds=0, peak_memory_bytes=0, cpu_seconds=0)
        return self.store.commit(attempt, self.store.request(reference), {}, now(), nothing)

    def run(self, *references):
        return execute(self.store, references, lambda _: None, lambda: False)

    def fetch(self, reference):
        return self.store.fetch(self.store.manifest(reference))


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    chain = Chain(tmp_path_factory.mktemp("chain"))
    outcomes = chain.run(*chain.making)
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
    return chain


@pytest.fixture
def spoilt(chain, tmp_path):
    """A copy of the chain that a test may spoil, before anything is evaluated."""
    copy = Chain.__new__(Chain)
    vars(copy).update(vars(chain) | {"store": Store.open(str(shutil.copytree(chain.folder / "store", tmp_path / "s")))})
    for reference in copy.store.existing(copy.evaluations):
        invalidate(copy.store, reference)
    return copy


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=torch.arange(3, 33).reshape(3, 10)).logits


def test_an_adapter_is_kept_with_the_model_that_it_was_made_on(chain):
    manifest, base = (chain.store.manifest(reference) for reference in (chain.aligned, chain.tuned))
    names = {item.name for item in manifest.objects}
    assert "adapter/adapter_model.safetensors" in names
    assert not any(name.startswith("model/") for name in names)
    record = json.loads(chain.store.read_object(manifest, "adapter/kilter-base.json"))
    files = {item.name: item.sha256 for item in base.objects if item.name == "model/model.safetensors"}
    assert record == {"result": str(chain.tuned), "weights": f"sha256:{digest(files)}"}
    assert manifest.summary["adapter"]["rank"] == 4
    assert manifest.versions["peft"]


def test_it_begins_with_the_loss_of_training_all_weights(chain):
    first, whole = (
        pq.read_table(chain.fetch(reference) / "metrics.parquet")["loss"][0].as_py()
        for reference in (chain.aligned, chain.whole)
    )
    assert first == pytest.approx(whole, rel=1e-6)


def test_it_is_merged_once_for_all_that_is_evaluated_together(chain, monkeypatch):
    merged, merge = [], adapters.merge_adapter
    monkeypatch.setattr(adapters, "merge_adapter", lambda *folders: (merged.append(folders), merge(*folders)))
    outcomes = chain.run(*chain.evaluations)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert all(outcome.manifest.summary["scores"] for outcome in outcomes)
    assert len(merged) == 1


def test_it_is_exported_merged_or_bare(chain, tmp_path):
    store = ("--store", chain.folder / "store")
    for extra, name in (((), "merged"), (("--adapter",), "bare")):
        done = kilter("export", str(chain.aligned), "--to", tmp_path / name, *store, *extra)
        assert done.returncode == 0, done.stderr
    base = AutoModelForCausalLM.from_pretrained(chain.fetch(chain.tuned) / "model")
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    before = logits(base)
    assert torch.allclose(merged, logits(PeftModel.from_pretrained(base, tmp_path / "bare")), atol=1e-5, rtol=0)
    assert (merged - before).abs().max() > 1e-3, "the adapter does something"
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not (tmp_path / "bare" / "model.safetensors").exists()
    for name in ("merged", "bare"):
        assert len({path.stat().st_mode for path in (tmp_path / name).iterdir()}) == 1, "all as readable as any"
        assert (tmp_path / name / "kilter-manifest.json").exists()
    refused = kilter("export", str(chain.whole), "--adapter", "--to", tmp_path / "none", *store)
    assert refused.returncode == 2
    assert "is a whole model, not an adapter; leave --adapter out" in refused.stderr


def test_it_is_not_merged_into_a_model_that_was_made_again(spoilt, tmp_path):
    before = spoilt.store.manifest(spoilt.tuned)
    folder = shutil.copytree(spoilt.store.fetch(before, ["model/"]) / "model", tmp_path / "other")
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight + 1e-6 for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    invalidate(spoilt.store, spoilt.tuned)
    after = spoilt.commit(spoilt.tuned, folder, "model")
    (outcome,) = spoilt.run(spoilt.evaluations[0])
    digests = [
        digest({item.name: item.sha256 for item in manifest.objects if item.name.endswith(".safetensors")})
        for manifest in (before, after)
    ]
    for part in (spoilt.aligned.short, str(spoilt.tuned), *digests, f"kilter store invalidate {spoilt.aligned}"):
        assert part in outcome.error
    exported = kilter("export", str(spoilt.aligned), "--to", tmp_path / "to", "--store", spoilt.store.uri)
    assert exported.returncode == 1
    assert digests[1] in exported.stderr
    bare = kilter("export", str(spoilt.aligned), "--to", tmp_path / "to", "--store", spoilt.store.uri, "--adapter")
    assert bare.returncode == 0, bare.stderr


def test_it_is_not_merged_without_its_model(spoilt):
    invalidate(spoilt.store, spoilt.tuned)
    (outcome,) = spoilt.run(spoilt.evaluations[0])
    assert f"was made on {spoilt.tuned}, which is not in {spoilt.store.uri}" in outcome.error


def test_a_record_of_another_model_is_refused(spoilt, tmp_path):
    other = Reference("sft", "0" * 32)
    folder = shutil.copytree(spoilt.fetch(spoilt.aligned), tmp_path / "aligned")
    record = {"result": str(other), "weights": "sha256:0"}
    (folder / "adapter" / "kilter-base.json").write_text(json.dumps(record))
    invalidate(spoilt.store, spoilt.aligned)
    spoilt.commit(spoilt.aligned, folder, ".")
    (outcome,) = spoilt.run(spoilt.evaluations[0])
    assert f"was made on {other}, and its result says {spoilt.tuned}" in outcome.error
