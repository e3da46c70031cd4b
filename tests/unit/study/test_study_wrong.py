"""Wrong studies: each is refused with the place, the reason and a fix that a newcomer can act on."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from kilter.errors import EXIT_WRONG_INPUT
from kilter.study.builtin import BUILTIN_SPLITS
from kilter.study.load import load_study, parse_study
from kilter.study.problems import Problem, StudyProblems

RIGHT: dict[str, Any] = {
    "name": "right",
    "models": {"base": {"source": "org/base"}},
    "data": {"sft": {"source": "org/talk"}, "preference": {"source": "org/pairs"}},
    "methods": ["dpo"],
    "benchmarks": ["gsm8k"],
}
SCRATCH: dict[str, Any] = {
    "chat_template": "plain",
    "init": {"pretrain": {"data": {"source": "builtin:demo", "split": "text"}}},
}


@dataclass(frozen=True)
class Wrong:
    """A change that makes the right study wrong, and what must be said about it."""

    change: dict[str, Any]
    path: str
    reason: str
    fix: str


SHORT = {"sft": {"max_length": 128}, "align": {"max_length": 128}}
TUNED = {"init": {"base": "base", "sft": {"data": {"source": "builtin:demo", "split": "instruct"}}}}


def peft(adapter: Any) -> dict[str, Any]:
    return {"training": {"align": {"peft": adapter}}}


def init(**fields: Any) -> dict[str, Any]:
    return {"models": {"base": {**SCRATCH, "init": {**SCRATCH["init"], **fields}}}, "training": SHORT}


def long(**training: Any) -> dict[str, Any]:
    return {**init(), "training": {**SHORT, **training}}


def demo(**fields: Any) -> dict[str, Any]:
    return {"data": {**RIGHT["data"], "preference": {"source": "builtin:demo", **fields}}}


def shape(**fields: Any) -> dict[str, Any]:
    return init(architecture=fields)


def pairs(**fields: Any) -> dict[str, Any]:
    return {"data": {**RIGHT["data"], "preference": {"source": "org/pairs", **fields}}}


def method(**fields: Any) -> dict[str, Any]:
    return {"methods": [{"name": "dpo", **fields}]}


TABLE = {
    "unknown field": Wrong({"sizs": [1]}, "sizs", "no field `sizs`", "did you mean `sizes`"),
    "field in the wrong place": Wrong({"learning_rate": 1e-5}, "learning_rate", "no field", "`training.align`"),
    "missing field": Wrong({"methods": None}, "methods", "nothing is written", "write a value"),
    "bad name": Wrong({"name": "my study!"}, "name", "letters, digits", "leave out spaces"),
    "name is a number": Wrong({"name": 7}, "name", "must be text", 'put it in quotes: "7"'),
    "unknown method": Wrong({"methods": ["DP0"]}, "methods[0]", "no method `DP0`", "did you mean `dpo`"),
    "unknown method, written out": Wrong({"methods": [{"name": "rloo"}]}, "methods[0].name", "no method", "`robust`"),
    "hyperparameter of another": Wrong(method(cpo_alpha=1), "methods[0].cpo_alpha", "dpo has no", "belongs to `cpo`"),
    "hyperparameter of most": Wrong(
        {"methods": [{"name": "orpo", "beta": 0.1}]}, "methods[0].beta", "orpo has no", "write `lambda`: orpo has"
    ),
    "share that is too large": Wrong(
        {"methods": [{"name": "cdpo", "label_smoothing": 0.5}]}, "methods[0].label_smoothing", "below 0.5", "0.1"
    ),
    "count that is no whole number": Wrong(
        {"methods": [{"name": "tr-dpo", "sync_steps": 1.5}]}, "methods[0].sync_steps", "whole and above 0", "64"
    ),
    "misspelt hyperparameter": Wrong(method(bta=1), "methods[0].bta", "no hyperparameter", "did you mean `beta`"),
    "setting beside a method": Wrong(method(learning_rate=1), "methods[0].learning_rate", "no hyper", "training: {"),
    "hyperparameter below": Wrong(
        method(beta=0), "methods[0].beta", "above 0", "write a number above 0, such as 0.01 (the default"
    ),
    "hyperparameter on an axis": Wrong(method(beta=[0.1, -1]), "methods[0].beta[1]", "above 0", "the default"),
    "methods as a mapping": Wrong(
        {"methods": {"dpo": None, "kto": {"beta": 0.1}}},
        "methods",
        "must be a list",
        "write a list: `methods: [dpo, {name: kto, beta: 0.1}]`",
    ),
    "one method as a mapping": Wrong(
        {"methods": {"name": "kto", "beta": 0.1}}, "methods", "must be a list", "`methods: [{name: kto, beta: 0.1}]`"
    ),
    "methods as a strange mapping": Wrong(
        {"methods": {"dpo": 3}}, "methods", "must be a list", "`methods: [{name: kto, beta: 0.1}]`"
    ),
    "method as a field": Wrong(
        {"methods": [{"kto": {"beta": 0.1}}]}, "methods[0].name", "needs its `name`", "write `{name: kto, beta: 0.1}`"
    ),
    "method without a name": Wrong({"methods": [{"beta": 1}]}, "methods[0].name", "needs its `name`", "`ipo`"),
    "number of seeds": Wrong(
        {"seeds": 3}, "seeds", "must be a list", "three seeds are `[0, 1, 2]`; only seed 3 is `[3]`. Seeds"
    ),
    "large number of seeds": Wrong({"seeds": 42}, "seeds", "must be a list", "42 seeds are the list from 0 to 41"),
    "one seed": Wrong({"seeds": 1}, "seeds", "must be a list", "write it as a list: `[1]`."),
    "seeds in words": Wrong({"seeds": "many"}, "seeds", "must be a list", "whole number of at least 0, such as `[0]`"),
    "rate in words": Wrong(
        {"training": {"align": {"learning_rate": "fast"}}},
        "training.align.learning_rate",
        "must be a number",
        "write a number above 0, such as 5e-7 (the default).",
    ),
    "no batch": Wrong(
        {"training": {"sft": {"batch_size": 0}}},
        "training.sft.batch_size",
        "above 0",
        "write a positive whole number, such as 128 (the default).",
    ),
    "benchmark instead of benchmarks": Wrong(
        {"benchmarks": {"task": "x"}}, "benchmarks", "must be a list", "write it as a list: `[{task: x}]`."
    ),
    "scenario instead of scenarios": Wrong(
        {"scenarios": "sft"}, "scenarios", "must be a list", "write it as a list: `[sft]`. `sft` (SFT"
    ),
    "number instead of a section": Wrong(
        {"comparisons": 3}, "comparisons", "must be a mapping", "its fields: `alpha` and `correction`."
    ),
    "default length above the context": Wrong(
        long(sft={}), "training.sft.max_length", "(2048, the default)", "write `max_length: 512` or less"
    ),
    "alignment above the context": Wrong(
        long(align={"max_length": 513}), "training.align.max_length", "models.base (512)", "write `max_length: 512`"
    ),
    "a method's length above the context": Wrong(
        {**init(), **method(training={"max_length": [64, 600]})},
        "methods[0].training.max_length[1]",
        "max_length (600)",
        "write `max_length: 512`",
    ),
    "instruction tuning above the context": Wrong(
        {"models": {**init()["models"], "instruct": TUNED}, "training": SHORT},
        "models.instruct.init.sft.training.max_length",
        "models.instruct (512)",
        "write `max_length: 512`",
    ),
    "hyperparameter is text": Wrong(method(beta="much"), "methods[0].beta", "must be a number", "write a number"),
    "hyperparameter is true": Wrong(method(beta=True), "methods[0].beta", "must be a number", "write a number"),
    "empty axis": Wrong(method(beta=[]), "methods[0].beta", "at least one value", "leave `beta` out"),
    "value twice on an axis": Wrong(method(beta=[1, 0.1, 1]), "methods[0].beta[2]", "listed twice", "remove"),
    "unknown override": Wrong(method(training={"lr": 1}), "methods[0].training.lr", "no setting", "`learning_rate`"),
    "a name that others use": Wrong({"methods": ["bco_pair"]}, "methods[0]", "no method `bco_pair`", "write `bco`"),
    "one pair to sort": Wrong(
        {"methods": [{"name": "aot", "training": {"micro_batch_size": 1}}]},
        "methods[0].training",
        "one pair is always in order",
        "2 or more",
    ),
    "budget in steps without steps": Wrong(
        {"training": {"align": {"budget": "steps"}}}, "training.align.budget", "no number of them", "add `steps`"
    ),
    "steps that nothing reads": Wrong(
        {"training": {"align": {"steps": 100}}}, "training.align.steps", "would do nothing", "add `budget: steps`"
    ),
    "hyperparameter as override": Wrong(
        method(training={"beta": 1}),
        "methods[0].training.beta",
        "no setting",
        "hyperparameter of methods: write it beside",
    ),
    "override out of range": Wrong(
        method(training={"epochs": [1, -1]}),
        "methods[0].training.epochs[1]",
        "above 0",
        "write a number above 0, such as 1 (the default). Passes over",
    ),
    "override in quotes": Wrong(method(training={"epochs": "1"}), "methods[0].training.epochs", "text", "quotes"),
    "override that does not divide": Wrong(
        method(training={"micro_batch_size": 48}), "methods[0].training", "not a multiple", "divisor"
    ),
    "adapter of no rank": Wrong(
        peft({"method": "lora", "rank": 0}), "training.align.peft.rank", "above 0", "such as 128 (the default)"
    ),
    "adapter on one matrix": Wrong(
        peft({"method": "lora", "target": "q_proj"}), "training.align.peft.target", "`all-linear`", "write `all-linear`"
    ),
    "adapter of no method": Wrong(peft({"rank": 8}), "training.align.peft.method", "is missing", "`qlora` holds it in"),
    "adapter misspelt": Wrong(peft({"method": "lorra"}), "training.align.peft.method", "`qlora`", "mean `lora`?"),
    "adapter with peft's own names": Wrong(
        peft({"method": "lora", "r": 8}), "training.align.peft.r", "no field `r`", "`rank`"
    ),
    "adapter that drops everything": Wrong(
        method(training={"peft": [None, {"method": "lora", "dropout": 1}]}),
        "methods[0].training.peft[1].dropout",
        "below 1",
        "at least 0 and below 1",
    ),
    "adapter beside a method": Wrong(
        method(peft={"method": "lora"}), "methods[0].peft", "no hyperparameter", "training: {peft: {method: lora}}"
    ),
    "adapter under a moving reference": Wrong(
        {"methods": ["dpo", "tr-dpo"], **peft({"method": "lora"})},
        "methods[1]",
        "the reference of tr-dpo moves with the policy, which takes all weights",
        "write `training: {peft: null}` inside the method",
    ),
    "adapter of its own under a moving reference": Wrong(
        {"methods": [{"name": "tr-dpo", "training": {"peft": {"method": "lora"}}}]},
        "methods[0].training.peft",
        "takes all weights",
        "peft: null",
    ),
    "adapter in 4 bits, shared out": Wrong(
        {"training": {"align": {"peft": {"method": "qlora"}, "distributed": {"zero": 3}}}},
        "training.align.distributed.zero",
        "ZeRO cannot share out",
        "write `method: lora`",
    ),
    "same method twice": Wrong({"methods": ["dpo", "dpo"]}, "methods[1]", "same training as methods[0]", "remove"),
    "default written out again": Wrong(
        {"methods": ["dpo", {"name": "dpo", "beta": [0.5, 0.01]}]}, "methods[1]", "same training", "different"
    ),
    "no methods": Wrong({"methods": []}, "methods", "at least one", "add one"),
    "method instead of methods": Wrong({"methods": "dpo"}, "methods", "must be a list", "`[dpo]`"),
    "unknown scenario": Wrong({"scenarios": ["sfft"]}, "scenarios[0]", "`sft`, `base` or `instruct`", "mean `sft`"),
    "scenario twice": Wrong({"scenarios": ["sft", "sft"]}, "scenarios[1]", "listed twice", "remove"),
    "no instruct model": Wrong({"scenarios": ["instruct"]}, "models.instruct", "scenario `instruct` needs", "add"),
    "no base model": Wrong({"models": {}}, "models.base", "scenario `sft` needs", "add `models.base`"),
    "no conversations": Wrong({"data": {"preference": {"source": "org/x"}}}, "data.sft", "needs conversations", "add"),
    "source and an empty init": Wrong(
        {"models": {"base": {"source": "org/base", "init": {}}}}, "models.base", "not both", "remove one"
    ),
    "source and init": Wrong(
        {"models": {"base": {**SCRATCH, "source": "org/base"}}}, "models.base", "not both", "remove one"
    ),
    "neither source nor init": Wrong({"models": {"base": {}}}, "models.base", "needs a `source` or", "add one"),
    "nothing to learn from": Wrong(
        {"models": {"base": {"chat_template": "plain", "init": {}}}, "training": SHORT},
        "models.base.init",
        "random",
        "add `pretrain`",
    ),
    "made from itself": Wrong(
        {"models": {"base": {"init": {"base": "base"}}}}, "models.base.init.base", "itself", "another model"
    ),
    "made from nothing": Wrong(
        {"models": {"base": {"init": {"base": "instruct"}}}}, "models.base.init.base", "no other model", "add the other"
    ),
    "made in a circle": Wrong(
        {"models": {"base": {"init": {"base": "instruct"}}, "instruct": {"init": {"base": "base"}}}},
        "models.instruct.init.base",
        "which starts from `instruct`",
        "give one of them a `source`",
    ),
    "heads": Wrong(
        shape(heads=3, key_value_heads=1), "models.base.init.architecture.heads", "divide hidden_size", "`4`"
    ),
    "odd heads": Wrong(shape(hidden_size=12, heads=4), "models.base.init.architecture.heads", "odd", "fewer"),
    "key/value heads": Wrong(
        shape(heads=4, key_value_heads=3), "models.base.init.architecture.key_value_heads", "divide heads", "`2`"
    ),
    "tiny vocabulary": Wrong(shape(vocabulary=100), "models.base.init.architecture.vocabulary", "256 bytes", "259"),
    "long sequences": Wrong(
        init(pretrain={**SCRATCH["init"]["pretrain"], "sequence_length": 600}),
        "models.base.init.pretrain.sequence_length",
        "context_length (512)",
        "at most 512",
    ),
    "no template": Wrong(
        {"models": {"base": {"init": SCRATCH["init"]}}, "training": SHORT},
        "models.base.chat_template",
        "no chat template",
        "chatml",
    ),
    "unknown template": Wrong(
        {"models": {"base": {"source": "org/base", "chat_template": "chatlm"}}},
        "models.base.chat_template",
        "neither a built-in",
        "did you mean `chatml`",
    ),
    "broken template": Wrong(
        {"models": {"base": {"source": "org/base", "chat_template": "{% for m in messages %}{{ m }"}}},
        "models.base.chat_template",
        "not Jinja",
        "syntax",
    ),
    "template of nothing": Wrong(
        {"models": {"base": {"source": "org/base", "chat_template": "{{ text }}"}}},
        "models.base.chat_template",
        "never reads",
        "loop over `messages`",
    ),
    "negative size": Wrong({"sizes": [10, -5]}, "sizes[1]", "above 0 or `all`", "number or `all`, such as 500."),
    "size is text": Wrong({"sizes": ["10"]}, "sizes[0]", "text, not a number", "10 without quotes"),
    "size is most": Wrong({"sizes": ["most"]}, "sizes[0]", "`all`", "sizes"),
    "size twice": Wrong({"sizes": [10, 20, 10]}, "sizes[2]", "listed twice", "remove"),
    "seed twice": Wrong({"seeds": [0, 0]}, "seeds[1]", "listed twice", "remove"),
    "negative seed": Wrong({"seeds": [-1]}, "seeds[0]", "at least 0", "three or more"),
    "seed is true": Wrong({"seeds": [True]}, "seeds[0]", "not numbers", "write a number"),
    "size above the data": Wrong(
        {"data": {**RIGHT["data"], "preference": {"source": "builtin:demo", "split": "preference"}}, "sizes": [5000]},
        "sizes[0]",
        f"only {BUILTIN_SPLITS['demo']['preference']} pairs",
        "`all`",
    ),
    "no benchmarks": Wrong({"benchmarks": []}, "benchmarks", "at least one", "add one"),
    "unknown suite": Wrong({"benchmarks": ["insights-12"]}, "benchmarks[0]", "no suite", "did you mean `insights-13`"),
    "benchmark twice": Wrong(
        {"benchmarks": ["gsm8k", {"task": "gsm8k", "limit": 5}]}, "benchmarks[1]", "already asked for", "keep one"
    ),
    "benchmark in a suite": Wrong(
        {"benchmarks": ["insights-13", "mmlu"]}, "benchmarks[1]", "`mmlu` is already asked for by benchmarks[0]", "keep"
    ),
    "shots of a suite": Wrong(
        {"benchmarks": [{"task": "insights-13", "num_fewshot": 0}]}, "benchmarks[0].num_fewshot", "own", "one by one"
    ),
    "negative shots": Wrong(
        {"benchmarks": [{"task": "gsm8k", "num_fewshot": -1}]}, "benchmarks[0].num_fewshot", "at least 0", "examples"
    ),
    "zero limit": Wrong(
        {"benchmarks": [{"task": "x", "limit": 0}]}, "benchmarks[0].limit", "above 0", "such as 100. Only"
    ),
    "misspelt in a benchmark": Wrong(
        {"benchmarks": [{"task": "x", "fewshot": 1}]}, "benchmarks[0].fewshot", "no field", "did you mean `num_fewshot`"
    ),
    "decontamination of nothing": Wrong(
        pairs(decontaminate={"against": []}), "data.preference.decontaminate.against", "empty", "name benchmarks"
    ),
    "unknown decontamination": Wrong(
        pairs(decontaminate={"against": ["insight-13"]}),
        "data.preference.decontaminate.against[0]",
        "no suite",
        "did you mean `insights-13`",
    ),
    "holdout": Wrong(pairs(holdout=1), "data.preference.holdout", "below 1", "Share of the prompts"),
    "micro batch": Wrong(
        {"training": {"sft": {"batch_size": 100, "micro_batch_size": 8}}},
        "training.sft.micro_batch_size",
        "not a multiple",
        "divisor",
    ),
    "long prompts": Wrong(
        {"training": {"align": {"max_length": 512, "max_prompt_length": 512}}},
        "training.align.max_prompt_length",
        "no room for an answer",
        "less than 512",
    ),
    "section without content": Wrong({"training": None}, "training", "nothing is written", "remove the line"),
    "unknown scheduler": Wrong(
        {"training": {"align": {"scheduler": "cosin"}}}, "training.align.scheduler", "`cosine`", "did you mean `cosine`"
    ),
    "google store": Wrong({"store": "gs://bucket/x"}, "store", "cannot lie at `gs:`", "s3://bucket/prefix"),
    "file store": Wrong({"store": "file:///tmp/x"}, "store", "cannot lie at `file:`", "plain path"),
    "store without bucket": Wrong({"store": "s3://"}, "store", "no S3 bucket", "s3://bucket/prefix"),
    "empty store": Wrong({"store": ""}, "store", "nothing is written", "s3://bucket/prefix"),
    "data from the web": Wrong(pairs(source="https://x.org/a"), "data.preference.source", "`https://`", "org/name"),
    "unknown built-in": Wrong(pairs(source="builtin:dmo"), "data.preference.source", "no built-in", "mean `demo`"),
    "built-in split": Wrong(
        pairs(source="builtin:demo", split="preferences"), "data.preference.split", "no split", "split: preference`"
    ),
    "default split of the demo": Wrong(
        demo(), "data.preference.split", "no split `train`", "write `split: preference`"
    ),
    "conversations instead of pairs": Wrong(
        demo(split="sft"), "data.preference.split", "holds conversations, not pairs", "write `split: preference`"
    ),
    "no second split of pairs": Wrong(
        demo(split="preference", test_split="sft"), "data.preference.test_split", "not pairs", "remove it: `holdout`"
    ),
    "pairs instead of conversations": Wrong(
        {"data": {**RIGHT["data"], "sft": {"source": "builtin:demo", "split": "preference"}}},
        "data.sft.split",
        "holds pairs, not conversations",
        "write `split: sft`",
    ),
    "built-in model": Wrong(
        {"models": {"base": {"source": "builtin:demo"}}}, "models.base.source", "no built-in models", "`init:`"
    ),
    "not a hub id": Wrong(pairs(source="just words"), "data.preference.source", "nor a hub id", "begins with ./"),
    "missing folder": Wrong(pairs(source="./nowhere"), "data.preference.source", "does not exist", "looked for at"),
    "missing file": Wrong(pairs(source="prefs.parquet"), "data.preference.source", "does not exist", "study file"),
    "missing mirror": Wrong(
        {"data": {**RIGHT["data"], "mirror": {"source": "./hf"}}}, "data.mirror.source", "does not exist", "looked for"
    ),
    "revision of a folder": Wrong(
        {"models": {"base": {**SCRATCH, "revision": "abc"}}, "training": SHORT},
        "models.base.revision",
        "only a hub id",
        "remove",
    ),
    "source twice": Wrong(pairs(source=["org/a", "org/a"]), "data.preference.source[1]", "named twice", "once"),
    "no sources": Wrong(pairs(source=[]), "data.preference.source", "empty", "at least one"),
    "source of numbers": Wrong(pairs(source=[3]), "data.preference.source[0]", "must be text", "quotes"),
    "unset variable": Wrong(
        pairs(source="${KITLER_DATA}/x"), "data.preference.source", "KITLER_DATA is not set", "export"
    ),
    "odd variable": Wrong(pairs(source="${A-B}/x"), "data.preference.source", "names no variable", "letters"),
    "missing facts": Wrong({"facts": "./facts.yaml"}, "facts", "cannot be read", "YAML file"),
    "alpha": Wrong({"comparisons": {"alpha": 5}}, "comparisons.alpha", "below 1", "such as 0.05 (the default). Family"),
    "correction": Wrong({"comparisons": {"correction": "home"}}, "comparisons.correction", "`holm`", "did you mean"),
}


def problems_of(text: str, environment: dict[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(StudyProblems) as caught:
        parse_study(text, "study.yaml", environment or {})
    return caught.value.problems


def changed(change: dict[str, Any]) -> str:
    return yaml.safe_dump({**RIGHT, **change}, sort_keys=False)


def test_the_study_that_the_others_are_made_from_is_right():
    assert parse_study(yaml.safe_dump(RIGHT), "study.yaml", {}).name == "right"


@pytest.mark.parametrize("wrong", TABLE.values(), ids=TABLE.keys())
def test_says_where_why_and_what_to_do(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {problem.path: problem for problem in problems_of(changed(wrong.change))}
    assert wrong.path in found, list(found)
    assert wrong.reason in found[wrong.path].reason
    assert wrong.fix.lower() in found[wrong.path].fix.lower()
    assert found[wrong.path].line is not None


@pytest.mark.parametrize("wrong", TABLE.values(), ids=TABLE.keys())
def test_says_nothing_else(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [problem.path for problem in problems_of(changed(wrong.change))] == [wrong.path]


@pytest.mark.parametrize(
    ("text", "line", "reason", "fix"),
    [
        ("", None, "empty", "kilter init"),
        ("# nothing\n", None, "empty", "kilter init"),
        ("- a\n- b\n", 1, "mapping", "kilter init"),
        ("just text", 1, "mapping", "kilter init"),
        ("name: x\nmethods: [dpo\nsizes: [1]\n", 3, "not YAML", "brackets"),
        ("name: x\n\tstore: y\n", 2, "not YAML", "spaces"),
        ("name: 'x\n", 2, "not YAML", "quotes"),
        ("name: x\n---\nname: y\n", 2, "not YAML", "one study a file"),
        ("name: *nothing\n", 1, "undefined alias", "quotes"),
        ("name: \x00\n", None, "not YAML", "UTF-8"),
    ],
)
def test_says_what_is_wrong_with_the_file(text, line, reason, fix):
    (problem,) = problems_of(text)
    assert (problem.path, problem.line) == ("", line)
    assert reason in problem.reason
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("written", "path", "reason"),
    [
        ("name: again", "name", "written twice: in line 1 and in line 10"),
        ("training: {align: {epochs: .nan}}", "training.align.epochs", "finite"),
        ("training: {align: {epochs: 1e999}}", "training.align.epochs", "finite"),
        ("seeds: [123456789012345678901]", "seeds[0]", "18 digits"),
        ("comparisons: !!python/object:os.system {}", "comparisons", ""),
        ("sizes: [!odd 3]", "sizes[0]", "tag !odd is not known"),
        ("training: &t {sft: *t}", "training.sft", "without end"),
        ("training: {<<: 3}", "training", "not a mapping"),
        ("training: {? [a] : 3}", "training", "field name must be text"),
    ],
)
def test_says_what_is_wrong_with_the_yaml(written, path, reason):
    text = "name: right\n" + yaml.safe_dump({key: RIGHT[key] for key in RIGHT if key != "name"}, sort_keys=False)
    lines = len(text.splitlines())
    if path == "comparisons":
        # A tag on a mapping builds nothing: no object is ever made of a study.
        assert parse_study(f"{text}{written}\n", "study.yaml", {}).comparisons.alpha == 0.05
        return
    found = {problem.path: problem for problem in problems_of(f"{text}{written}\n")}
    assert reason.replace("line 10", f"line {lines + 1}") in found[path].reason


def test_aliases_that_multiply_are_refused_quickly():
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert any("without end" in problem.reason for problem in problems_of(bomb))


def test_finds_everything_at_once_with_lines():
    text = """\
name: my study
store: ftp://x
models:
  base: {sourc: org/base}
data:
  preference: {source: "builtin:demo", split: prefs}
scenarios: [base, instrct]
methods:
  - dop
  - {name: kto, beta: -1, alpha: 2}
sizes: [0, 100, 100]
benchmarks: [insights-13, piqa]
traning: {}
"""
    found = [(problem.line, problem.path) for problem in problems_of(text)]
    assert found == [
        (1, "name"),
        (2, "store"),
        (4, "models.base.sourc"),
        (6, "data.preference.split"),
        (7, "scenarios[1]"),
        (9, "methods[0]"),
        (10, "methods[1].beta"),
        (10, "methods[1].alpha"),
        (11, "sizes[0]"),
        (11, "sizes[2]"),
        (12, "benchmarks[1]"),
        (13, "traning"),
    ]


def test_everything_missing_is_named():
    assert {problem.path for problem in problems_of("seeds: [0]\n")} == {
        "name",
        "models",
        "data",
        "methods",
        "benchmarks",
    }


def test_the_message_holds_every_problem_and_exits_with_wrong_input():
    with pytest.raises(StudyProblems) as caught:
        parse_study(changed({"sizes": [-1], "seeds": [-1]}), "my.yaml", {})
    message = str(caught.value)
    assert message.startswith("my.yaml: 2 problems\n")
    assert "sizes[0]: -1\n  why: " in message
    assert "seeds[0]: -1\n  why: " in message
    assert "\n  fix: " in message
    assert caught.value.exit_code == EXIT_WRONG_INPUT


def test_credentials_in_an_address_are_not_shown():
    (problem,) = problems_of(changed({"store": "s3://user:secret@bucket/x"}))
    assert "secret" not in str(problem)


def test_a_variable_that_is_not_set_is_one_problem():
    data = {"sft": {"source": "${HERE}/a"}, "preference": {"source": ["${HERE}/b", "${HERE}/${THERE}"]}}
    found = problems_of(changed({"data": data}))
    here = next(problem for problem in found if "HERE is not set" in problem.reason and "THERE" not in problem.reason)
    there = next(problem for problem in found if "THERE is not set" in problem.reason)
    assert len(found) == 2
    named = {here.path, *(part.strip("`") for part in here.reason.split() if part.startswith("`"))}
    assert named == {"data.sft.source", "data.preference.source[0]", "data.preference.source[1]"}
    assert there.path == "data.preference.source[1]"


def test_a_near_field_is_named_alone():
    (problem,) = problems_of(changed({"sizs": [1]}))
    assert problem.fix == "did you mean `sizes`?"


def test_a_length_that_no_method_uses_does_not_matter():
    study = {**RIGHT, **init(), **method(training={"max_length": 64}), "training": {"sft": {"max_length": 512}}}
    assert parse_study(yaml.safe_dump(study), "study.yaml", {}).training.align.max_length == 1024


def test_models_that_are_loaded_may_read_any_length():
    study = {**RIGHT, "training": {"align": {"max_length": 100_000}}}
    assert parse_study(yaml.safe_dump(study), "study.yaml", {}).training.align.max_length == 100_000


def write_pairs(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    return pa.table({"prompt": ["p"] * rows, "chosen": ["c"] * rows, "rejected": ["r"] * rows})


def local_study(tmp_path, source, **fields):
    study = {**RIGHT, "data": {**RIGHT["data"], "preference": {"source": source, **fields}}}
    path = tmp_path / "studies" / "study.yaml"
    path.parent.mkdir(exist_ok=True)
    return path, study


def refused(path, study):
    path.write_text(yaml.safe_dump(study))
    with pytest.raises(StudyProblems) as caught:
        load_study(path, {})
    return {problem.path: problem for problem in caught.value.problems}


def test_a_missing_split_names_those_found(tmp_path):
    for split in ("train_prefs", "test_prefs"):
        pq.write_table(write_pairs(tmp_path / "pairs", 3), tmp_path / "pairs" / f"{split}.parquet")
    path, study = local_study(tmp_path, "../pairs", split="train")
    problem = refused(path, study)["data.preference.split"]
    assert "no split `train`" in problem.reason
    assert "`split: train_prefs`; the splits found are `test_prefs` and `train_prefs`" in problem.fix
    study["data"]["preference"] |= {"split": "train_prefs", "test_split": "tests"}
    assert "write `test_split: test_prefs`" in refused(path, study)["data.preference.test_split"].fix


def test_a_size_above_local_rows_is_refused(tmp_path):
    pq.write_table(write_pairs(tmp_path / "pairs", 3), tmp_path / "pairs" / "train-00000-of-00002.parquet")
    (tmp_path / "pairs" / "more.jsonl").write_text("")
    lines = "\n".join(json.dumps({"chosen": "c", "rejected": "r"}) for _ in range(2)) + "\n\n"
    (tmp_path / "pairs" / "train-00001-of-00002.jsonl").write_text(lines)
    path, study = local_study(tmp_path, "../pairs")
    found = refused(path, {**study, "sizes": [5, 6, "all"]})
    assert list(found) == ["sizes[1]"]
    assert "only 5 pairs" in found["sizes[1]"].reason


def test_a_column_for_strata_must_exist(tmp_path):
    pq.write_table(write_pairs(tmp_path / "pairs", 3), tmp_path / "pairs" / "train.parquet")
    path, study = local_study(tmp_path, "../pairs", strata="promt")
    assert "did you mean `prompt`" in refused(path, study)["data.preference.strata"].fix


def test_a_column_for_strata_must_exist_in_jsonl(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    path, study = local_study(tmp_path, "../pairs.jsonl", strata="promt")
    assert "did you mean `prompt`" in refused(path, study)["data.preference.strata"].fix


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize(
    ("use", "columns", "kind"),
    [
        ("preference", ["prompt", "better", "worse"], "pairs"),
        ("preference", ["prompt", "completion"], "pairs"),
        ("preference", ["messages"], "pairs"),
        ("sft", ["prompt", "answer"], "conversations"),
        ("sft", ["chosen", "rejected"], "conversations"),
    ],
)
def test_columns_of_no_known_form_are_refused_at_once(tmp_path, suffix, use, columns, kind):
    write_rows(tmp_path / f"rows.{suffix}", columns)
    path, study = local_study(tmp_path, "org/pairs")
    study["data"] = {**study["data"], use: {"source": f"../rows.{suffix}"}}
    found = refused(path, study)
    assert list(found) == [f"data.{use}.source"]
    problem = found[f"data.{use}.source"]
    assert f"make no {kind}" in problem.reason
    assert all(f"`{column}`" in problem.reason for column in columns)
    forms = {"pairs": "`chosen` and `rejected`; `prompt`, `completion` and `label`", "conversations": "`messages`;"}
    assert forms[kind] in problem.fix


@pytest.mark.parametrize(
    ("use", "columns"),
    [
        ("preference", ["prompt", "chosen", "rejected", "score"]),
        ("preference", ["chosen", "rejected"]),
        ("preference", ["prompt", "completion", "label"]),
        ("sft", ["messages", "prompt"]),
        ("sft", ["prompt", "completion"]),
    ],
)
def test_columns_of_a_known_form_are_accepted(tmp_path, use, columns):
    write_rows(tmp_path / "rows.jsonl", columns)
    path, study = local_study(tmp_path, "org/pairs")
    path.write_text(yaml.safe_dump({**study, "data": {**study["data"], use: {"source": "../rows.jsonl"}}}))
    assert load_study(path, {})


def write_rows(path, columns):
    row = dict.fromkeys(columns, "x")
    if path.suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)


def test_a_broken_data_file_is_named_before_anything_runs(tmp_path):
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "train.parquet").write_bytes(b"not parquet")
    path, study = local_study(tmp_path, "../pairs")
    assert "cannot be read" in refused(path, study)["data.preference.source"].reason


@pytest.mark.parametrize(
    ("files", "reason", "fix"),
    [
        ([], "no config.json", "save_pretrained"),
        (["config.json", "pytorch_model.bin"], "no *.safetensors", "pickled"),
    ],
)
def test_a_folder_must_hold_a_model(tmp_path, files, reason, fix):
    (tmp_path / "model").mkdir()
    for name in files:
        (tmp_path / "model" / name).write_text("{}")
    path, study = local_study(tmp_path, "org/pairs")
    problem = refused(path, {**study, "models": {"base": {"source": "../model"}}})["models.base.source"]
    assert reason in problem.reason
    assert fix in problem.fix


def test_a_near_file_is_suggested(tmp_path):
    pq.write_table(write_pairs(tmp_path, 3), tmp_path / "pairs.parquet")
    path, study = local_study(tmp_path, "../pears.parquet")
    assert "did you mean `pairs.parquet`" in refused(path, study)["data.preference.source"].fix


@pytest.mark.parametrize("make", ["missing", "folder", "binary"])
def test_a_file_that_is_no_study_is_refused(tmp_path, make):
    path = tmp_path / "study.yaml"
    if make == "folder":
        path.mkdir()
    elif make == "binary":
        path.write_bytes(b"\xff\xfe\x00x")
    with pytest.raises(StudyProblems, match=r"no such file|a folder|cannot be read"):
        load_study(path, {})


def test_a_near_study_is_suggested(tmp_path):
    (tmp_path / "demo.yaml").write_text("")
    with pytest.raises(StudyProblems, match=r"did you mean .*demo\.yaml"):
        load_study(tmp_path / "dmo.yaml", {})
