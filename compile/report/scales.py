"""Axes: the position of a value as a share of the axis, and the values with ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Leading digits of a logarithmic axis's ends; the reciprocal of each is close to another one.
_DIGITS = (1, 1.5, 2, 3, 5, 7)


@dataclass(frozen=True)
class Linear:
    """A linear axis.

    Parameters
    ----------
    low, high : float
        Its ends.
    """

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        return (value - self.low) / (self.high - self.low)

    def ticks(self, limit: int) -> list[float]:
        """Return round values between the ends, at most `limit` of them."""
        power = 10.0 ** math.floor(math.log10((self.high - self.low) / limit))
        for step in (power, 2 * power, 5 * power, 10 * power, 20 * power):
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            if last - first < limit:
                break
        return [round(step * n, 10) for n in range(first, last + 1)]


@dataclass(frozen=True)
class Logarithmic:
    """A logarithmic axis.

    Parameters
    ----------
    low, high : float
        Its ends, positive.
    """

    low: float
    high: float

    @classmethod
    def around(cls, values: list[float]) -> Logarithmic:
        """Make an axis with some space around values."""
        return cls(_round_down(min(values) / 1.1), 1 / _round_down(1 / (1.1 * max(values))))

    def at(self, value: float) -> float:
        """Return the position of a value: 0 at the low end, 1 at the high end."""
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[float]:
        """Return round values between the ends, in finer steps if there are few."""
        found = self._between((1, 2, 5))
        return found if len(found) > 2 else self._between(_DIGITS)

    def _between(self, digits: Sequence[float]) -> list[float]:
        """Return these digits times the powers of ten between the ends."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [digit * 10.0**power for power in powers for digit in digits]
        return [value for value in values if -1e-9 <= self.at(value) <= 1 + 1e-9]


def _round_down(value: float) -> float:
    """Return the largest round value that is at most this one."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in _DIGITS if digit * power <= value * (1 + 1e-9))
