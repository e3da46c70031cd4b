"""Small studies and surroundings that tests of planning share."""

from typing import Any

import yaml

from kilter.plan.expand import Surroundings
from kilter.plan.sources import ResolvedSource, names_of
from kilter.stages.registry import STAGES
from kilter.study.load import parse_study
from kilter.study.specification import Study

SMALL_STUDY: dict[str, Any] = {
    "name": "small",
    "models": {
        "base": {
            "chat_template": "plain",
            "init": {
                # As long as the default max_length of fine-tuning, so that tests may replace `training` freely.
                "architecture": {"context_length": 2048},
                "pretrain": {"data": {"source": "builtin:demo", "split": "text"}, "steps": 10},
            },
        },
        "instruct": {"init": {"base": "base", "sft": {"data": {"source": "builtin:demo", "split": "instruct"}}}},
    },
    "data": {
        "sft": {"source": "builtin:demo", "split": "sft"},
        "preference": {"source": "builtin:demo", "split": "preference"},
    },
    "scenarios": ["sft", "base", "instruct"],
    "methods": ["dpo", "kto", "cpo"],
    "sizes": [100, 300],
    "benchmarks": ["kilter_arithmetic", "kilter_ordering"],
}


def make_study(**changes: Any) -> Study:
    """Return the small study with top-level fields replaced."""
    return parse_study(yaml.safe_dump({**SMALL_STUDY, **changes}), "test", {})


def make_surroundings(study: Study, **changes: Any) -> Surroundings:
    """Return surroundings in which every source is known and pinned."""
    rows = {"text": 40_000, "instruct": 1000, "sft": 1000, "preference": 10_000, "train": 10_000}
    settings: dict[str, Any] = {
        "sources": {
            name: ResolvedSource(f"sha256:{name.source}@{name.revision}", {"source": name.source}, rows)
            for name in names_of(study)
        },
        "codes": dict.fromkeys(STAGES, "1"),
        "precision": "fp32",
        "template_text": lambda name: name,
    }
    return Surroundings(**{**settings, **changes})
