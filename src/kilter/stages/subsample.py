"""The subsample stage: canonical, deduplicated rows in the order that every size is a beginning of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.data.sources import split_files
from kilter.data.subsample import subsample_preference, subsample_sft
from kilter.plan.configs import SubsampleConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kilter.stages.context import StageContext


def run(context: "StageContext") -> dict[str, Any]:
    """Write `train.parquet`, `holdout.parquet` and `accounting.json`, and return the accounting."""
    config = context.config_as(SubsampleConfig)
    folders = [context.fetch(reference) for reference in context.roles("data")]
    files = _files(folders, config.split)
    if config.kind == "sft":
        return subsample_sft(files, config, context.output, context.progress)
    test_files = _files(folders, config.test_split) if config.test_split else []
    sft_files = [context.fetch(reference, "train.parquet") / "train.parquet" for reference in context.roles("sft")]
    return subsample_preference(
        files, test_files, sft_files, config, context.output, context.progress, mirror=context.mirror()
    )


def _files(folders: "Iterable[Path]", split: str) -> list[Path]:
    return [file for folder in folders for file in split_files(folder, split)]
