"""Where a result keeps its model or adapter, and how a stage brings a whole model to this machine."""

import json
from typing import TYPE_CHECKING, Any

from kilter.canonical import digest
from kilter.errors import StageFailed
from kilter.plan.graph import Reference
from kilter.training import layout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kilter.stages.context import StageContext
    from kilter.store.manifest import Manifest
    from kilter.store.store import Store

MODEL = f"{layout.MODEL}/"
ADAPTER = f"{layout.ADAPTER}/"
_WEIGHTS = (".safetensors", ".safetensors.index.json")


def model_folder(context: "StageContext", role: str = "model") -> "Path":
    """Bring the model of an input to this machine, verified, and return its folder.

    An adapter is merged into its base, once for all stages that run together in this process.

    Raises:
        StageFailed: the input is no model, or an adapter whose base is not the model that it was made on.
    """
    reference = context.only(role)
    manifest = context.manifest(reference)
    if not is_adapter(manifest):
        return context.fetch(reference, MODEL) / layout.MODEL
    return context.resource(f"merged {reference}", lambda: merged_model(context.store, manifest, context.scratch))


def tokenizer_folder(context: "StageContext", role: str) -> "Path":
    """Bring only the tokenizer and configuration of an input's model to this machine and return their folder."""
    reference = context.only(role)
    manifest = context.manifest(reference)
    place = layout.ADAPTER if is_adapter(manifest) else layout.MODEL
    names = [
        item.name for item in manifest.objects if item.name.startswith(f"{place}/") and not item.name.endswith(_WEIGHTS)
    ]
    if not names:
        raise StageFailed(f"{reference.short} holds no tokenizer below {MODEL}; it is not a model")
    return context.fetch(reference, *names) / place


def is_adapter(manifest: "Manifest") -> bool:
    """Tell whether a result holds an adapter in place of a whole model."""
    return any(item.name.startswith(ADAPTER) for item in manifest.objects)


def is_model(manifest: "Manifest") -> bool:
    """Tell whether a result holds a model, whole or as an adapter."""
    return is_adapter(manifest) or any(item.name.startswith(MODEL) for item in manifest.objects)


def base_record(base: "Manifest") -> dict[str, Any]:
    """Return what is kept beside an adapter: which result it was made on, and the digest of the weights that has."""
    return {"result": str(base.reference), "weights": weights_digest(base)}


def weights_digest(manifest: "Manifest") -> str:
    """Return a digest of all weights of a result, made of the digests of its safetensors files."""
    files = {item.name: item.sha256 for item in manifest.objects if item.name.endswith(".safetensors")}
    return f"sha256:{digest(files)}"


def merged_model(
    store: "Store",
    manifest: "Manifest",
    scratch: "Path",
    progress: "Callable[[int], None] | None" = None,
) -> "Path":
    """Merge a result's adapter into the base that it was made on, and return the folder of the whole model.

    Args:
        store: Where both are.
        manifest: Of the adapter.
        scratch: A folder for models that are only needed meanwhile.
        progress: Gets the bytes that are brought, from any thread.

    Raises:
        StageFailed: the base is not in the store, or is not the model that the adapter was made on.
    """
    from kilter.training.adapters import merge_adapter

    adapter = store.fetch(manifest, [ADAPTER], progress) / layout.ADAPTER
    base = _base_of(store, manifest, json.loads((adapter / layout.ADAPTER_BASE).read_text(encoding="utf-8")))
    if is_adapter(base):
        model = merged_model(store, base, scratch, progress)
    else:
        model = store.fetch(base, [MODEL], progress) / layout.MODEL
    folder = scratch / f"merged-{manifest.key}"
    merge_adapter(model, adapter, folder)
    return folder


def _base_of(store: "Store", manifest: "Manifest", record: dict[str, str]) -> "Manifest":
    name, recorded = manifest.reference.short, Reference.parse(record["result"])
    asked = Reference.parse(manifest.inputs["model"])
    if asked != recorded:
        raise StageFailed(
            f"the adapter {name} was made on {recorded}, and its result says {asked}: `kilter store invalidate "
            f"{manifest.reference}` has it made anew"
        )
    base = store.manifest(recorded)
    if base is None:
        raise StageFailed(
            f"the adapter {name} was made on {recorded}, which is not in {store.uri}: run the study again to make it, "
            "or bring it there from the store that has it"
        )
    found = weights_digest(base)
    if found != record["weights"]:
        raise StageFailed(
            f"the adapter {name} was made on {recorded} with weights {record['weights']}, and that result now has "
            f"weights {found}: it was made again since. `kilter store invalidate {manifest.reference}` has the adapter "
            "trained on what is there now"
        )
    return base
