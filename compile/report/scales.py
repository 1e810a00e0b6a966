"""Axes: where a value stands, as a share of the axis, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: What a logarithmic axis may start with; the reciprocal of each is nearly one of them.
_DIGITS = (1, 1.5, 2, 3, 5, 7)


@dataclass(frozen=True)
class Linear:
    """An axis of equal steps.

    Parameters
    ----------
    low, high : float
        Its ends.
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value stands: 0 at the low end, 1 at the high one."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[float]:
        """Return round values between the ends, at most so many."""
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < most:
                break
        return [round(step * n, 10) for n in range(first, last + 1)]


@dataclass(frozen=True)
class Logarithmic:
    """An axis of equal factors.

    Parameters
    ----------
    low, high : float
        Its ends, positive.
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: list[float]) -> Logarithmic:
        """Make an axis with some room around values."""
        return cls(_round_down(min(values) / 1.1), 1 / _round_down(1 / (1.1 * max(values))))

    def at(self, value: float) -> float:
        """Return where a value stands: 0 at the low end, 1 at the high one."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Return round values between the ends: finer ones where there are few."""
        found = self._between((1, 2, 5))
        return found if len(found) > 2 else self._between(_DIGITS)

    def _between(self, digits: Sequence[float]) -> list[float]:
        """Return these digits times the powers of ten between the ends."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [digit * 10.0**power for power in powers for digit in digits]
        return [value for value in values if -1e-9 <= self.at(value) <= 1 + 1e-9]


def _round_down(value: float) -> float:
    """Return the next round value that is at most this one."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in _DIGITS if digit * power <= value * (1 + 1e-9))
