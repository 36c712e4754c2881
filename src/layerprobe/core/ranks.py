"""The rank rule: how many components a class keeps (Algorithm 2 of the paper)."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from torch import Tensor

from layerprobe.core.checks import check_strength
from layerprobe.core.linalg import numerical_rank
from layerprobe.errors import InputError

__all__ = ["choose_rank"]

TIE = 1e-12  # shares this close to the variance are equal to it, whatever route computed them


@overload
def choose_rank(eigenvalues: Tensor, *, variance: Sequence[float], full: int | None = None) -> list[int]: ...
@overload
def choose_rank(
    eigenvalues: Tensor,
    *,
    variance: float | None = None,
    components: int | None = None,
    full: int | None = None,
) -> int: ...
def choose_rank(eigenvalues, *, variance=None, components=None, full=None):  # type: ignore[no-untyped-def]
    """Choose how many components a class keeps.

    Parameters
    ----------
    eigenvalues : Tensor of shape (m,)
        Eigenvalues of a second moment, descending and non-negative.
    variance : float in (0, 1], or a sequence of them
        Keep the smallest number of components whose cumulative share lies strictly above this
        (Algorithm 2). 1.0 keeps every direction that has any variance.
    components : int
        Keep exactly this many, fewer only where the class has fewer dimensions.
    full : int, optional
        How many eigenvalues stand out of rounding. Default: judged as of an m x m matrix in float64.

    Returns
    -------
    int, or a list of int for a sequence of variances
    """
    if isinstance(variance, Sequence | np.ndarray | Tensor) and not isinstance(variance, str):
        if components is not None:
            raise InputError("Expected exactly one of variance= and components=, got both.")
        shares = variance if isinstance(variance, Sequence) else variance.tolist()
        return [choose_rank(eigenvalues, variance=share, full=full) for share in shares]
    check_strength(variance, components)
    if full is None:
        full = numerical_rank(eigenvalues, len(eigenvalues))
    if components is not None:
        return min(int(components), full)
    if variance == 1.0 or full == 0:
        return full
    cumulative = eigenvalues.double().cumsum(0)
    return min(int((cumulative / cumulative[-1] <= variance + TIE).sum()) + 1, full)
