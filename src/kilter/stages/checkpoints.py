"""How often a training saves its state and how many checkpoints stay: nothing that changes the weights."""

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kilter.errors import WrongInput
from kilter.study.specification import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Mapping

HINT = "checkpoints"
_VARIABLES = {"every_seconds": "KILTER_CHECKPOINT_SECONDS", "keep": "KILTER_CHECKPOINTS_KEPT"}


def checkpoint_settings(environment: "Mapping[str, str]", hints: "Mapping[str, Any]") -> Checkpoints:
    """Return the settings of the machine (KILTER_CHECKPOINT_SECONDS, KILTER_CHECKPOINTS_KEPT), then the study's.

    Raises:
        WrongInput: a variable is no number, or out of range.
    """
    given = {name: environment[variable] for name, variable in _VARIABLES.items() if variable in environment}
    try:
        return Checkpoints.model_validate({**hints.get(HINT, {}), **given}, strict=False)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = str(wrong["loc"][0])
        raise WrongInput(f"{_VARIABLES.get(name, name)}: {wrong['msg']}, got {wrong['input']!r}") from error
