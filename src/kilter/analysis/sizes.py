"""Training-set sizes as the study asks for them; a method may train on a few pairs fewer."""

from typing import TYPE_CHECKING

from kilter.study.methods import METHODS, method_label

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.analysis.results import StudyResults


def sizes_in_pairs(results: "StudyResults") -> "Mapping[int | str, int]":
    """Return how many pairs each size of the study stands for: itself, or the most that a model of that size had."""
    most: dict[int | str, int] = {}
    for model in results.models:
        if model.size is not None and model.pairs is not None:
            known = model.size if isinstance(model.size, int) else model.pairs
            most[model.size] = max(known, most.get(model.size, 0))
    return most


def shortfalls(results: "StudyResults") -> tuple[str, ...]:
    """Say, once for each method, where it trained on fewer pairs than its size stands for."""
    asked = sizes_in_pairs(results)
    short: dict[str, set[tuple[int, int]]] = {}
    for model in results.models:
        if model.method is not None and model.size is not None and model.pairs is not None:
            size = asked[model.size]
            if model.pairs < size:
                short.setdefault(model.method, set()).add((size, model.pairs))
    return tuple(_shortfall(method, sorted(places)) for method, places in short.items())


def _shortfall(method: str, places: list[tuple[int, int]]) -> str:
    counts = ", ".join(f"{pairs:,} of {size:,} pairs" for size, pairs in places)
    if method in METHODS and METHODS[method].needs_mismatched:
        return f"{method_label(method)} leaves out an incomplete last block: {counts}."
    return f"{method_label(method)} trained on fewer pairs than asked for: {counts}."
