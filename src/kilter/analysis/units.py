"""The unit in which a metric is shown: shares in per cent, everything else as it is."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kilter.analysis.results import StudyResults

MINUS = "−"
# Metrics that are no share even where every value happens to lie between 0 and 1.
_NO_SHARE = re.compile(r"perplexity|bits_per|brier|loss|rating|bleu|chrf|ter$")


@dataclass(frozen=True)
class Unit:
    """How a metric's values are scaled and written."""

    scale: float
    digits: int
    value_unit: str
    difference_unit: str

    def text(self, value: float) -> str:
        """Write a value with a true minus: `41.2`."""
        return f"{self.scale * value:.{self.digits}f}".replace("-", MINUS)

    def signed(self, difference: float) -> str:
        """Write a difference with its sign, a true minus: `+13.8`, `−2.0`; nought has none."""
        text = f"{self.scale * difference:+.{self.digits}f}"
        return text[1:] if float(text) == 0 else text.replace("-", MINUS)


PERCENT = Unit(100.0, 1, "%", "points")
PLAIN = Unit(1.0, 3, "", "")


def units_of(results: "StudyResults") -> "Mapping[str, Unit]":
    """The unit of every metric: per cent where all the study's values lie in 0 … 1 and the name does not forbid it."""
    values: dict[str, list[float]] = {}
    for model in results.models:
        for score in model.scores:
            values.setdefault(score.metric, []).append(score.value)
    return {
        metric: PERCENT if min(found) >= 0 and max(found) <= 1 and not _NO_SHARE.search(metric) else PLAIN
        for metric, found in values.items()
    }
