"""The ingest stage: a model or data set from outside becomes a result of the store, named by its content."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kilter.data.builtin import BUILTIN
from kilter.errors import StageFailed
from kilter.plan.configs import IngestConfig
from kilter.stages.sources import content_of_folder, local_files

if TYPE_CHECKING:
    from kilter.stages.context import StageContext

MODEL_PATTERNS = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.md")
DATA_PATTERNS = ("*.parquet", "*.jsonl", "*.json", "*.md")


def run(context: "StageContext") -> dict[str, Any]:
    """Copy the source's files, and check that they are those that the plan was made for."""
    config = context.config_as(IngestConfig)
    hints = context.request.hints
    target = context.output / "model" if config.kind == "model" else context.output
    target.mkdir(parents=True, exist_ok=True)
    scheme = config.content.split(":", 1)[0]
    if scheme == "builtin":
        BUILTIN[hints["builtin"]].write(target)
    elif scheme == "sha256":
        _copy_local(Path(hints["path"]), target, config.content)
    elif scheme == "s3":
        _download(hints["uri"], target)
    elif scheme == "hub":
        _download_from_hub(config.kind, hints, target)
    else:
        raise StageFailed(
            f"{hints.get('source', config.content)} has no resolved commit: pin one with `revision`, run `kilter lock` "
            "where the hub can be reached, or give a local folder or s3:// prefix"
        )
    if config.kind == "model":
        _check_model(target)
    files = [path for path in target.rglob("*") if path.is_file()]
    context.progress.update(len(files), len(files), "files")
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files), "source": hints.get("source")}


def _copy_local(source: Path, target: Path, expected: str) -> None:
    files = local_files(source)
    for relative, path in files.items():
        destination = target / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, destination)
    found = content_of_folder(target)
    if found != expected:
        raise StageFailed(f"{source} changed since the plan was made ({found} is not {expected}): run the study again")


def _download(uri: str, target: Path) -> None:
    from kilter.store.objects import open_objects

    objects = open_objects(uri)
    for info in objects.list(""):
        path = target / info.name
        path.parent.mkdir(parents=True, exist_ok=True)
        objects.download(info, path)


def _download_from_hub(kind: str, hints: dict[str, Any], target: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(
        hints["source"],
        repo_type="dataset" if kind == "data" else "model",
        revision=hints["commit"],
        local_dir=target,
        allow_patterns=list(DATA_PATTERNS if kind == "data" else MODEL_PATTERNS),
    )
    shutil.rmtree(target / ".cache", ignore_errors=True)


def _check_model(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise StageFailed(f"the model has no config.json among {sorted(path.name for path in folder.iterdir())}")
    if not any(folder.glob("*.safetensors")):
        raise StageFailed("the model has no safetensors file; convert its weights first: pickled weights are not read")
