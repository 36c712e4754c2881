"""Accuracies and their differences with 95 % intervals over rows."""

from typing import NamedTuple

from torch import Tensor

__all__ = ["Interval", "interval"]

Z = 1.96


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Tensor) -> Interval:
    """Return the mean of independent rows (m,) and its interval by their spread.

    Of a share the interval stays in [0, 1]; that of a difference of shares in [-1, 1].
    """
    values = values.double()
    mean, m = float(values.mean()), len(values)
    half = Z * float(values.std()) / m**0.5 if m > 1 else 1.0
    least = -1.0 if float(values.min()) < 0 else 0.0
    return Interval(mean, max(least, mean - half), min(1.0, mean + half))
