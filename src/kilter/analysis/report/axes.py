"""Scales and ticks of chart axes."""

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_SLACK = 1e-9
"""Of a step, so that rounding loses no tick."""
_TINY = 1e-200
"""What is smaller is drawn as nought."""


@dataclass(frozen=True)
class Scale:
    """Maps values of a domain to pixels, linearly or by logarithm."""

    low: float
    high: float
    start: float
    """Pixel of `low`."""
    stop: float
    """Pixel of `high`."""
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of `value`, clamped to the axis."""
        low, high = self._measure(self.low), self._measure(self.high)
        share = 0.5 if high == low else (self._measure(value) - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def _measure(self, value: float) -> float:
        return math.log(value) if self.logarithmic else value


def nice_step(low: float, high: float, target: int = 5) -> float:
    """Return the step of 1, 2, 2.5 or 5 times a power of ten that gives about `target` ticks from low to high."""
    rough = (high - low) / max(1, target)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in _STEPS if rough <= step * power * (1 + 1e-9))


@dataclass(frozen=True)
class Axis:
    """The limits and ticks of an axis, the ticks `step` apart."""

    low: float
    high: float
    step: float
    ticks: tuple[float, ...]


def nice_axis(low: float, high: float, target: int = 5, *, widen: bool = True) -> Axis:
    """Choose limits and ticks for values from low to high; equal limits get room on both sides.

    Args:
        low: the smallest value.
        high: the largest value.
        target: about how many ticks are wanted.
        widen: whether the limits move out to multiples of the step, or stay close to the values.

    Raises:
        ValueError: the limits are not finite or not in order.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"an axis needs two finite limits in order, got {low} and {high}")
    if high - low <= max(_SLACK * max(abs(low), abs(high)), _TINY):
        room = abs(low) * 0.1 if abs(low) > _TINY else 1.0
        low, high = low - room, high + room
    step = nice_step(low, high, target)
    if widen:
        low, high = math.floor(low / step + _SLACK) * step, math.ceil(high / step - _SLACK) * step
    else:
        low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    first, last = math.ceil(low / step - _SLACK), math.floor(high / step + _SLACK)
    return Axis(low, high, step, tuple(multiple * step for multiple in range(first, last + 1)))


def tick_text(value: float, step: float) -> str:
    """Write a tick with as many decimals as its step needs."""
    if abs(step) >= 1e5 or abs(step) < 1e-4:
        return f"{value:.3g}".replace("-", "−")
    decimals = next((places for places in range(6) if abs(round(step, places) - step) < 1e-9 * abs(step)), 6)
    text = f"{abs(value):,.{decimals}f}"
    return f"−{text}" if value < 0 and float(text.replace(",", "")) != 0 else text
