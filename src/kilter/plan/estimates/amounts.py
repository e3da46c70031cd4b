"""Numbers that may be bounds, or not known at all, and their sums."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Amount:
    """A number that is known. What is not known is None in place of it."""

    value: float
    at_most: bool = False
    """It follows from a bound, such as the longest sequence in place of the mean one."""

    def times(self, factor: float) -> "Amount":
        """Return a multiple of it."""
        return Amount(self.value * factor, self.at_most)

    def plus(self, other: float) -> "Amount":
        """Return it with a number added that is certain."""
        return Amount(self.value + other, self.at_most)


@dataclass(frozen=True)
class Total:
    """The sum of what is known, and of how many parts nothing is."""

    value: float
    at_most: bool
    unknown: int

    @property
    def amount(self) -> Amount | None:
        """The sum, where every part of it is known."""
        return None if self.unknown else Amount(self.value, self.at_most)


def total(amounts: "Iterable[Amount | None]") -> Total:
    """Add up what is known and count what is not."""
    parts = list(amounts)
    known = [part for part in parts if part is not None]
    return Total(sum(part.value for part in known), any(part.at_most for part in known), len(parts) - len(known))


def product(*factors: Amount | None) -> Amount | None:
    """Multiply amounts; None where one of them is not known."""
    value, at_most = 1.0, False
    for factor in factors:
        if factor is None:
            return None
        value *= factor.value
        at_most |= factor.at_most
    return Amount(value, at_most)
