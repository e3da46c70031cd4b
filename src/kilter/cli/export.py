"""`kilter export`: brings a model out of the store."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from kilter.cli.arguments import StoreUri, default_store
from kilter.cli.console import print_note
from kilter.errors import WrongInput


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="export", epilog="Example: kilter export sft/dpo/1500/seed0 --to my-model")(export)


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, or the beginning of its key.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write; must be empty or new.")],
    store: StoreUri = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="Write the adapter of a LoRA or QLoRA training alone, not merged.")
    ] = False,
) -> None:
    """Write a model's safetensors, tokenizer and chat template into a folder, with where they come from.

    A model that was trained as an adapter is merged into its base.
    """
    from kilter.stages.find import find_result
    from kilter.stages.models import ADAPTER, MODEL, is_adapter, is_model, merged_model
    from kilter.store.store import Store

    opened = Store.open(default_store(store))
    reference = find_result(opened, model)
    manifest = opened.manifest(reference)
    if manifest is None:
        raise WrongInput(f"{reference.short} has not been made yet")
    if not is_model(manifest):
        raise WrongInput(
            f"{reference.short} ({manifest.label}) is not a model; models come from ingest, pretrain, sft and align"
        )
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise WrongInput(f"{to} is not an empty folder; choose another")
    if adapter and not is_adapter(manifest):
        raise WrongInput(f"{reference.short} ({manifest.label}) is a whole model, not an adapter; leave --adapter out")
    if is_adapter(manifest) and not adapter:
        # DeepSpeed, which comes along with what merges, would remark on every machine without a GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        with tempfile.TemporaryDirectory(prefix="kilter-export-") as scratch:
            merged = merged_model(opened, manifest, Path(scratch))
            shutil.copytree(merged, to, dirs_exist_ok=True, copy_function=shutil.copyfile)
    else:
        place = ADAPTER if adapter else MODEL
        shutil.copytree(opened.fetch(manifest, [place]) / place, to, dirs_exist_ok=True)
    (to / "kilter-manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    print_note(f"Wrote {manifest.label} ({reference.short}) to {to}")
