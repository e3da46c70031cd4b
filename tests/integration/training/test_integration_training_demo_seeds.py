"""Does the demo's claim hang on its seed? The same recipe, with other seeds of the data, the weights and the order."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import binomtest

from kilter.data import demo
from kilter.data.builtin import write_demo
from kilter.data.mirror import Mirror
from kilter.data.prepare import prepare
from kilter.data.subsample import subsample_preference, subsample_sft
from kilter.evaluation.runner import ModelUnderTest, evaluate_benchmark
from kilter.plan.configs import (
    AlignConfig,
    EvaluateConfig,
    PrepareConfig,
    PretrainConfig,
    ReferenceConfig,
    SftConfig,
    SubsampleConfig,
    TrainConfig,
)
from kilter.progress import Silent
from kilter.study.specification import Study
from kilter.training.align import run_align
from kilter.training.pretrain import run_pretrain
from kilter.training.reference import run_reference
from kilter.training.run import NoResume, TrainingRun
from kilter.training.sft import run_sft

DEMO = Path(__file__).parents[3] / "studies" / "demo.yaml"
RUN = TrainingRun(Silent(), NoResume(), lambda: False)
OTHER_SEEDS = (1, 2)
METHODS = ("cpo", "ipo")
# Four methods on each benchmark are the family that the study corrects for; Bonferroni is stricter than its Holm.
FAMILY = 4


@pytest.fixture(scope="module")
def study():
    return Study.model_validate(yaml.safe_load(DEMO.read_text(encoding="utf-8")))


class Recipe:
    """The demo's stages one after another in one process, in a folder, with the study's own settings."""

    def __init__(self, study, folder, seed):
        self.study, self.folder, self.seed = study, folder, seed
        write_demo(folder / "data", seed)
        self.family = FAMILY * len(study.benchmarks)

    def make(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def settings(self, training):
        kept = {name: value for name, value in training.model_dump().items() if name in TrainConfig.model_fields}
        kept["micro_batch_size"] = kept["micro_batch_size"] or 8
        return {**kept, "precision": "fp32", "seed": self.seed}

    def base(self):
        init = self.study.models.base.init
        config = PretrainConfig(
            architecture=init.architecture,
            **init.pretrain.model_dump(exclude={"data"}),
            split=init.pretrain.data.split,
            seed=self.seed,
            chat_template=self.study.models.base.chat_template,
        )
        run_pretrain([self.folder / "data"], config, self.make("base"), Silent(), lambda: False)
        return self.folder / "base" / "model"

    def prepared(self, kind, base):
        training = self.study.training.align if kind == "preference" else self.study.training.sft
        source = getattr(self.study.data, kind)
        rows = self.make(f"{kind}-rows")
        config = SubsampleConfig(kind=kind, split=source.split, holdout=getattr(source, "holdout", 0.0))
        files = [self.folder / "data" / f"{source.split}.parquet"]
        if kind == "sft":
            subsample_sft(files, config, rows, Silent())
        else:
            subsample_preference(files, [], [], config, rows, Silent())
        lengths = PrepareConfig(
            kind=kind,
            chat_template=None,
            max_length=training.max_length,
            max_prompt_length=getattr(training, "max_prompt_length", None),
            max_truncated=0.0,
        )
        prepare(rows, base, lengths, self.make(f"{kind}-prepared"), Silent())
        return self.folder / f"{kind}-prepared"

    def sft(self, base):
        config = SftConfig(**self.settings(self.study.training.sft))
        run_sft(base, self.prepared("sft", base), config, self.make("sft"), RUN)
        return self.folder / "sft" / "model"

    def references(self, parent, pairs):
        found = SimpleNamespace()
        for split in ("train", "holdout"):
            config = ReferenceConfig(split=split, start=0, stop=None, mismatched=False, precision="fp32")
            folder = self.make(f"reference-{split}")
            run_reference(parent, pairs, config, folder, Silent())
            setattr(found, split, folder / "logprobs.parquet")
        return found

    def aligned(self, method, parent, pairs, references):
        choice = next(choice for choice in self.study.methods if choice.name == method)
        config = AlignConfig(
            method=method,
            hyperparameters=choice.model_extra,
            size="all",
            **self.settings(self.study.training.align),
        )
        run_align(parent, pairs, [references.train], [], references.holdout, config, self.make(method), RUN)
        return self.folder / method / "model"

    def right(self, model):
        """Whether the model is right, by benchmark, document by document."""
        loaded = ModelUnderTest.load(model, "fp32")
        values = {}
        for benchmark in self.study.benchmarks:
            config = EvaluateConfig(kind="benchmark", task=benchmark.task, precision="fp32")
            output = self.make(f"{model.parent.name}-{benchmark.task}")
            evaluate_benchmark(loaded, config, Mirror.at(self.folder / "data", output), 1234, output, Silent())
            table = pq.read_table(output / "samples.parquet").sort_by("doc_id")
            assert table.num_rows == demo.TEST_ITEMS
            values[benchmark.task] = table["value"].to_pylist()
        return values

    def better(self, candidate, baseline):
        """The benchmarks on which the candidate is better by a one-family-wide corrected exact McNemar test."""
        found = []
        for benchmark, values in candidate.items():
            pairs = list(zip(values, baseline[benchmark], strict=True))
            won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
            if won > lost and binomtest(won, won + lost).pvalue * self.family < self.study.comparisons.alpha:
                found.append(benchmark)
        return found


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", OTHER_SEEDS)
def test_fine_tuning_beats_the_base_and_two_methods_beat_their_parent(study, tmp_path, seed):
    recipe = Recipe(study, tmp_path, seed)
    base = recipe.base()
    parent = recipe.sft(base)
    of_base, of_parent = recipe.right(base), recipe.right(parent)
    assert recipe.better(of_parent, of_base), "fine-tuning helps on no benchmark"
    pairs = recipe.prepared("preference", base)
    references = recipe.references(parent, pairs)
    for method in METHODS:
        scores = recipe.right(recipe.aligned(method, parent, pairs, references))
        assert recipe.better(scores, of_parent), f"{method} helps on no benchmark"
