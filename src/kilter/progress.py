"""How a running stage tells what it is doing: the stage reports, whoever watches decides how to show it."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Progress(Protocol):
    """Receives what a stage has done so far."""

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Tell that `done` of `total` units are done; `values` are numbers worth showing, such as the loss."""
        ...


class Silent:
    """Tells nobody."""

    def update(
        self, done: int, total: int | None = None, unit: str = "steps", values: "Mapping[str, float] | None" = None
    ) -> None:
        """Do nothing."""
