"""The method grid: every list among a method's hyperparameters and training overrides is an axis."""

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from kilter.canonical import canonical_json
from kilter.study.methods import METHODS
from kilter.study.specification import AlignSettings, MethodChoice, Study

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_DEFAULT_MICRO_BATCH = 8


@dataclass(frozen=True)
class MethodCell:
    """One method of the grid with everything resolved."""

    method: str
    hyperparameters: dict[str, float]
    """Every hyperparameter of the method, defaults included."""
    training: AlignSettings
    """The study's alignment settings with the method's overrides."""
    variant: str
    """What sets this cell apart from others of its method, such as `beta=0.1`, and that an adapter was trained."""


def default_micro_batch_size(batch_size: int) -> int:
    """Return the largest divisor of `batch_size` up to 8: pairs per forward pass where the study does not say."""
    return max(size for size in range(1, LARGEST_DEFAULT_MICRO_BATCH + 1) if batch_size % size == 0)


def expand_methods(study: Study) -> tuple[MethodCell, ...]:
    """Return the cells of the method grid, in the order of the study and then of its axes.

    Raises:
        KeyError: a method or hyperparameter is not known. A study from `load_study` has none.
        pydantic.ValidationError: an override of the training settings is not valid. As above.
    """
    cells = [cell for choice in study.methods for cell in cells_of(choice, study.training.align)]
    by_method: dict[str, list[MethodCell]] = {}
    for cell in cells:
        by_method.setdefault(cell.method, []).append(cell)
    return tuple(replace(cell, variant=_variant(cell, by_method[cell.method])) for cell in cells)


def cells_of(choice: MethodChoice, align: AlignSettings) -> tuple[MethodCell, ...]:
    """Return the cells of one entry of `methods`, not yet named apart."""
    method = METHODS[choice.name]
    defaults = {name: parameter.default for name, parameter in method.hyperparameters.items()}
    if unknown := choice.hyperparameters.keys() - defaults.keys():
        raise KeyError(f"{choice.name} has no {', '.join(sorted(unknown))}")
    return tuple(
        MethodCell(
            method=choice.name,
            hyperparameters={**defaults, **{name: float(value) for name, value in chosen.items()}},
            training=AlignSettings.model_validate({**align.model_dump(), **overrides}),
            variant="",
        )
        for chosen in _combinations(choice.hyperparameters)
        for overrides in _combinations(choice.training)
    )


def settings_of(cell: MethodCell) -> dict[str, Any]:
    """Return everything that sets cells of a method apart, by name; training settings after hyperparameters.

    How many processes train together is not among them, since it changes no result.
    """
    settings = {**cell.hyperparameters, **cell.training.model_dump(exclude={"distributed", "peft"})}
    peft = cell.training.peft
    if peft is None:
        return {**settings, "peft": "none"}
    # Hyperparameters of methods are called alpha too.
    adapter = {f"lora_{name}": value for name, value in peft.model_dump(exclude={"method"}).items()}
    return {**settings, "peft": peft.method, **adapter, "lora_alpha": peft.resolved_alpha}


def identity_of(cell: MethodCell) -> bytes:
    """Return bytes that are equal for two cells that ask for the same training."""
    return canonical_json([cell.method, settings_of(cell)])


def _combinations(axes: dict[str, Any]) -> "Iterator[dict[str, Any]]":
    values = [value if isinstance(value, list | tuple) else [value] for value in axes.values()]
    for combination in product(*values):
        yield dict(zip(axes, combination, strict=True))


def _variant(cell: MethodCell, others: list[MethodCell]) -> str:
    settings = settings_of(cell)
    apart = [
        name
        for name in settings
        if any(settings_of(other).get(name, settings[name]) != settings[name] for other in others)
        # A reader would take the method's name alone for a training of all weights.
        or (name == "peft" and cell.training.peft is not None)
    ]
    return ",".join(f"{name}={_value_text(settings[name])}" for name in apart)


def _value_text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
