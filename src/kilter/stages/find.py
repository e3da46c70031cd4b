"""Finds a result by what a person types: a key, its beginning, or a model's name."""

from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.plan.graph import Reference
from kilter.store.layout import MARKER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.store.store import Store

_MOST_LISTED = 10


def find_result(store: "Store", name: str) -> Reference:
    """Return the one result that `name` means: `stage/key`, the beginning of a key, or a model's name in a study.

    Raises:
        WrongInput: there is no store, or nothing or more than one result goes by that name.
    """
    if store.objects.info(MARKER) is None:
        raise WrongInput(f"there is no store at {store.uri}; name one with --store, or set KILTER_STORE")
    named = _by_name(store, name)
    found = list(named) or ([] if name.count("/") > 1 else store.find(name))
    if not found:
        raise WrongInput(f"{store.uri} has no result {name!r}; `kilter store ls` lists them")
    if len(found) > 1:
        listed = "".join(f"\n  {_described(store, reference, named)}" for reference in found[:_MOST_LISTED])
        raise WrongInput(f"{name!r} means {len(found)} results; write more of the key of one:{listed}")
    return found[0]


def _by_name(store: "Store", name: str) -> dict[Reference, str]:
    """Return the models that studies in the store call so, each with the study's name; else results with that label."""
    found: dict[Reference, str] = {}
    for reference in store.references("report"):
        request = store.request(reference)
        if request is None:
            continue
        for model in request.config["models"]:
            if model["name"] == name:
                found[Reference.parse(model["result"])] = request.config["study"]["name"]
    if found:
        return found
    return {manifest.reference: "" for manifest in store.manifests() if manifest.label == name}


def _described(store: "Store", reference: Reference, studies: "Mapping[Reference, str]") -> str:
    manifest = store.manifest(reference)
    made = f"made {manifest.ended:%Y-%m-%d %H:%M} UTC" if manifest else "not made yet"
    study = f", in the study {studies[reference]}" if studies.get(reference) else ""
    return f"{reference.short}: {made}{study}"
