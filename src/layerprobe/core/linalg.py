"""Eigendecompositions of second moments, and thread discipline around them.

Every decomposition is float64: a float32 one moves squared cosines by 3e-3 and flips up to 0.3 % of
labels, while float32 products summed in float64 lose nothing that matters at 99 % variance.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["eigh_gram", "eigh_moment", "numerical_rank", "one_thread", "parallel"]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Kept eigenvalues further below the largest than this lose digits of orthogonality in X^T v / sqrt(lambda).
ORTHOGONAL_SPAN = 1e-4


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch with one thread inside the block; yields the setting found, and restores it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map `function` over `items` with one-thread workers, as many as the process's thread setting.

    A small eigendecomposition on several threads collapses on a busy machine (2 ms become 224 ms);
    several of them side by side, one thread each, do not.
    """
    with one_thread() as threads:
        workers = min(threads, len(items))
        if workers <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(function, items))


def eigh_moment(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition of a second moment X^T X, largest first.

    Parameters
    ----------
    moment : Tensor of shape (d, d)
        Symmetric; negative eigenvalues, of rounding or of a difference of moments, count as zero.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        Descending, clipped at zero.
    vectors : Tensor of shape (d, d), float64
        Orthonormal columns.
    """
    d = len(moment)
    moment = moment.double()
    alive = (moment != 0).any(1)  # a feature that is zero on every row has a zero row and column
    if alive.all():
        eigenvalues, vectors = torch.linalg.eigh(moment)
        return eigenvalues.flip(0).clamp_(min=0), vectors.flip(1)
    index = torch.cat([alive.nonzero().squeeze(1), (~alive).nonzero().squeeze(1)])
    n_alive = int(alive.sum())
    eigenvalues = moment.new_zeros(d)
    vectors = moment.new_zeros(d, d)
    vectors[index[n_alive:], torch.arange(n_alive, d)] = 1  # dead axes span the rest of the space
    if n_alive:
        values, inner = torch.linalg.eigh(moment[alive][:, alive])
        eigenvalues[:n_alive] = values.flip(0).clamp_(min=0)
        vectors[index[:n_alive], :n_alive] = inner.flip(1)
    return eigenvalues, vectors


def eigh_gram(X: Tensor) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Eigendecomposition of X^T X by the Gram matrix X X^T, for fewer rows than features.

    Parameters
    ----------
    X : Tensor of shape (n, d)

    Returns
    -------
    eigenvalues : Tensor of shape (n,), float64
        The n largest eigenvalues of X^T X, descending, clipped at zero.
    basis : callable
        ``basis(r)`` gives the first r eigenvectors as orthonormal columns, (d, r), float64. r must not
        exceed the numerical rank.
    """
    X = X.double()
    eigenvalues, V = torch.linalg.eigh(X @ X.T)
    eigenvalues, V = eigenvalues.flip(0).clamp_(min=0), V.flip(1)

    def basis(r: int) -> Tensor:
        U = X.T @ (V[:, :r] / eigenvalues[:r].sqrt())  # (d, r)
        if r and eigenvalues[r - 1] < ORTHOGONAL_SPAN * eigenvalues[0]:
            Q, R = torch.linalg.qr(U)
            U = Q * R.diagonal().sign()
        return U

    return eigenvalues, basis


def numerical_rank(
    eigenvalues: Tensor, size: int, dtype: torch.dtype = torch.float64, total: float | None = None
) -> int:
    """Count the eigenvalues of a second moment that stand out of rounding.

    Parameters
    ----------
    eigenvalues : Tensor of shape (m,)
        Descending, non-negative.
    size : int
        The larger side of the data matrix.
    dtype : torch.dtype
        Of the products that were summed. Those of float32 leave noise of about its epsilon in the trace,
        whatever the size; float64 products leave what every rank in double precision allows for.
    total : float, optional
        The trace to which rounding is relative, default the sum of the eigenvalues.
    """
    epsilon = torch.finfo(dtype).eps
    floor = epsilon if dtype == torch.float32 else epsilon * size
    return int((eigenvalues > floor * (eigenvalues.sum() if total is None else total)).sum())


class SecondMoment:
    """X^T X summed over blocks of rows, exact enough for float64 eigenvalues in a float32 matrix's memory.

    Only what lies on and below the diagonal is kept, in float64, panel by panel: 4 d (d + 1) bytes.
    Products of float32 rows are float32 within a block and summed in float64.

    Parameters
    ----------
    dim : int
        Number of features d.
    device : torch.device or str
    """

    PANEL = 256  # columns a panel: small enough to skip nearly half of the product, wide enough for BLAS
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

    def add(self, X: Tensor) -> "SecondMoment":
        """Add the rows of X, (n, d)."""
        for rows in X.split(self.BLOCK) if len(X) else ():
            if rows.dtype == torch.float32 and not self.SAFE[0] < float(rows.abs().max()) < self.SAFE[1]:
                rows = rows.double()
            for panel, corner in self._pairs():
                w, a = panel.shape
                product = rows[:, a : a + w].T @ rows[:, : a + w]
                panel += product[:, :a]
                corner += product[:, a:].reshape(-1)[_lower(w, X.device)]
        return self

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


@cache
def _lower(w: int, device: torch.device) -> Tensor:
    """Positions of the lower triangle, row by row, in a flat (w, w) matrix."""
    rows, columns = torch.tril_indices(w, w, device=device)
    return rows * w + columns
