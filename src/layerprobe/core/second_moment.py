"""The second moment X^T X of many rows, of which half is computed and half is kept."""

import ctypes
from collections.abc import Iterator
from functools import cache, partial

import torch
from torch import Tensor

from layerprobe.core.blas import call
from layerprobe.utils.precision import full_precision
from layerprobe.utils.threads import blas_like_torch

__all__ = ["SecondMoment", "gram"]


class SecondMoment:
    """X^T X summed over blocks of rows, exact enough for float64 eigenvalues in a float32 matrix's memory.

    Only what lies on and below the diagonal is computed and kept, in float64, panel by panel: 4 d (d + 1)
    bytes. Products of float32 rows are float32 within a block and summed in float64.

    Parameters
    ----------
    dim : int
        Number of features d.
    device : torch.device or str
    """

    PANEL = 128  # columns a panel of what is kept
    STRIPE = 1024  # columns of one product: what is computed at a time has so many rows of the matrix
    BLOCK = 2048  # rows a float32 product sums
    SAFE = (1e-15, 1e15)  # magnitudes whose squares, summed, stay inside float32

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.dim = dim
        spans = [(a, min(self.PANEL, dim - a)) for a in range(0, dim, self.PANEL)]
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.panels: list[Tensor] = [zeros(w, a) for a, w in spans]  # left of the diagonal
        self.corners: list[Tensor] = [zeros(w * (w + 1) // 2) for _, w in spans]  # on it, row by row

    @property
    def tensors(self) -> list[Tensor]:
        """All that is summed."""
        return [*self.panels, *self.corners]

    @classmethod
    def most_working(cls, rows: int, dim: int, itemsize: int = 4) -> int:
        """Bytes that adding rows takes: a block of them, also in float64, and the products of a stripe."""
        return min(rows, cls.BLOCK) * dim * (itemsize + 8) + 8 * min(dim, cls.STRIPE) * dim

    @full_precision()
    def add(self, X: Tensor) -> "SecondMoment":
        """Add the rows of X, (n, d)."""
        exact = len(X) > 0 and X.dtype == torch.float32 and not self._is_safe(X)
        for rows in X.split(self.BLOCK) if len(X) else ():
            rows = rows.double() if exact else rows
            for start in range(0, self.dim, self.STRIPE):
                stripe = rows[:, start : start + self.STRIPE]
                self._add_stripe(start, stripe.T @ rows[:, :start], _lower_product(stripe))
        return self

    def _add_stripe(self, start: int, left: Tensor, corner: Tensor) -> None:
        """Add rows `start`, ... of the moment: those left of the stripe's corner, and its lower triangle."""
        for panel, packed in self._pairs():
            w, a = panel.shape
            if start <= a < start + len(corner):
                rows = slice(a - start, a - start + w)
                panel[:, :start] += left[rows]
                panel[:, start:] += corner[rows, : a - start]
                packed += corner[rows, rows].reshape(-1)[_lower(w, packed.device)]

    def _is_safe(self, X: Tensor) -> bool:
        smallest, largest = (X if X.is_contiguous() else X.T).aminmax()  # in the order of memory
        return self.SAFE[0] < max(float(-smallest), float(largest)) < self.SAFE[1]

    def merge(self, other: "SecondMoment", weight: float = 1) -> "SecondMoment":
        """Add the sum that `other` holds, that many times."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.add_(theirs.to(mine.device), alpha=weight)
        return self

    def trace(self) -> float:
        """Give the sum of the diagonal."""
        ends = (torch.arange(1, self.PANEL + 1).cumsum(0) - 1).to(self.corners[0].device)
        return sum(float(corner[ends[: len(panel)]].sum()) for panel, corner in self._pairs())

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.panels, self.corners, strict=True)

    def matrix(self) -> Tensor:
        """Give the whole symmetric matrix, (d, d), float64."""
        full = self.corners[0].new_empty(self.dim, self.dim)
        for panel, corner in self._pairs():
            w, a = panel.shape
            full[a : a + w, :a] = panel
            full[:a, a : a + w] = panel.T
            square = full.new_empty(w * w)
            square[_lower(w, full.device)] = corner
            square = square.view(w, w).tril()
            full[a : a + w, a : a + w] = square + square.tril(-1).T
        return full


def gram(X: Tensor) -> Tensor:
    """Gram matrix X X^T of the rows of X, (n, n), float64; half of the products make it."""
    return SecondMoment(len(X), X.device).add(X.T).matrix() if len(X) else X.new_zeros(0, 0).double()


@cache
def _lower(w: int, device: torch.device) -> Tensor:
    """Positions of the lower triangle, row by row, in a flat (w, w) matrix."""
    rows, columns = torch.tril_indices(w, w, device=device)
    return rows * w + columns


def _lower_product(X: Tensor) -> Tensor:
    """Lower triangle of X^T X, (w, w), half of the work, by BLAS's syrk; above it stands anything."""
    n, w = X.shape
    if X.device.type != "cpu" or not n:
        return X.T @ X
    if X.stride(1) == 1 and X.stride(0) >= w:
        by_rows, lead = True, X.stride(0)
    elif X.stride(0) == 1 and X.stride(1) >= n:
        by_rows, lead = False, X.stride(1)
    else:  # the strides of a single row or column say nothing, even when all is in one piece
        X, by_rows, lead = X.contiguous(), True, w
    name, number = ("ssyrk", ctypes.c_float) if X.dtype == torch.float32 else ("dsyrk", ctypes.c_double)
    product = X.new_empty(w, w)
    # BLAS takes columns to lie together: our lower triangle is its upper one, our rows are its columns.
    shape = ("U", "N" if by_rows else "T", w, n)
    with blas_like_torch():
        call(name, *shape, number(1), X, lead, number(0), product, w)
    return product
