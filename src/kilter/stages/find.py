"""Finds a result by what a person types: a key, its beginning, or a model's name."""

from typing import TYPE_CHECKING

from kilter.errors import WrongInput
from kilter.plan.graph import Reference

if TYPE_CHECKING:
    from kilter.store.store import Store

_MOST_LISTED = 10


def find_result(store: "Store", name: str) -> Reference:
    """Return the one result that `name` means: `stage/key`, the beginning of a key, or a model's name.

    Raises:
        WrongInput: nothing, or more than one result, goes by that name.
    """
    found = _by_label(store, name) if name.count("/") > 1 else store.find(name) or _by_label(store, name)
    if not found:
        raise WrongInput(f"{store.uri} has no result {name!r}; `kilter store ls` lists them")
    if len(found) > 1:
        listed = ", ".join(reference.short for reference in found[:_MOST_LISTED])
        raise WrongInput(f"{name!r} means {len(found)} results: {listed}; write more of the key")
    return found[0]


def _by_label(store: "Store", name: str) -> list[Reference]:
    return [Reference(manifest.stage, manifest.key) for manifest in store.manifests() if manifest.label == name]
