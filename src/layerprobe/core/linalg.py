"""Eigendecompositions of second moments, and thread discipline around them.

Every decomposition is float64: a float32 one moves squared cosines by 3e-3 and flips up to 0.3 % of
labels, while float32 products summed in float64 lose nothing that matters at 99 % variance.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeAlias, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from layerprobe.core.lapack import SMALLEST, eigh_leading
from layerprobe.core.precision import full_precision

__all__ = [
    "Basis",
    "eigenpairs",
    "eigenpairs_of_each",
    "eigh_gram",
    "eigh_moment",
    "numerical_rank",
    "one_thread",
    "parallel",
]

Item = TypeVar("Item")
Result = TypeVar("Result")
Basis: TypeAlias = Callable[[int], Tensor]  # r -> the first r eigenvectors, (d, r)

# Kept eigenvalues further below the largest than this lose digits of orthogonality in X^T v / sqrt(lambda).
ORTHOGONAL_SPAN = 1e-4
BATCH_BYTES = 2**30  # of matrices that a GPU decomposes in one call


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch and BLAS with one thread inside the block; yields torch's setting, and restores both."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _threadpools().limit(limits=1, user_api="blas"):
            yield before
    finally:
        torch.set_num_threads(before)


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()  # once: looking for the libraries takes 10 ms


def parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Map `function` over `items` with one-thread workers, as many as the process's thread setting.

    A small eigendecomposition on several threads collapses on a busy machine (2 ms become 224 ms);
    several of them side by side, one thread each, do not.
    """
    with one_thread() as threads, full_precision():  # here, since workers would undo each other's settings
        workers = min(threads, len(items))
        if workers <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(function, items))


def eigh_moment(moment: Tensor) -> tuple[Tensor, Tensor]:
    """Eigendecomposition of a second moment X^T X, largest first; :func:`eigenpairs` with all vectors.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        Descending, clipped at zero.
    vectors : Tensor of shape (d, d), float64
        Orthonormal columns.
    """
    eigenvalues, basis = eigenpairs(moment)
    return eigenvalues, basis(len(moment))


def eigenpairs(moment: Tensor) -> tuple[Tensor, Basis]:
    """Eigenvalues of a second moment X^T X, largest first, and as many eigenvectors as are asked for.

    Parameters
    ----------
    moment : Tensor of shape (d, d)
        Symmetric; negative eigenvalues, of rounding or of a difference of moments, count as zero.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        Descending, clipped at zero.
    basis : callable
        ``basis(r)`` gives the first r eigenvectors as orthonormal columns, (d, r), float64.
    """
    d = len(moment)
    moment = moment.double()
    alive = (moment != 0).any(1)  # a feature that is zero on every row has a zero row and column
    n_alive = int(alive.sum())
    if n_alive == d:
        return _decompose(moment)
    values, inner = _decompose(moment[alive][:, alive]) if n_alive else (moment.new_zeros(0), None)
    eigenvalues = torch.cat([values, moment.new_zeros(d - n_alive)])

    def basis(r: int) -> Tensor:
        vectors = moment.new_zeros(d, r)
        if inner is not None:
            vectors[alive, : min(r, n_alive)] = inner(min(r, n_alive))
        dead = (~alive).nonzero().squeeze(1)[: max(0, r - n_alive)]
        vectors[dead, torch.arange(n_alive, n_alive + len(dead))] = 1  # dead axes span the rest of the space
        return vectors

    return eigenvalues, basis


def eigenpairs_of_each(moments: Sequence[Tensor]) -> list[tuple[Tensor, Basis]]:
    """Give :func:`eigenpairs` of several moments, those of one size in one call, as suits a GPU."""
    pairs: dict[int, tuple[Tensor, Basis]] = {}
    for size in {len(moment) for moment in moments}:
        same = [i for i, moment in enumerate(moments) if len(moment) == size]
        found = _eigh(torch.stack([moments[i].double() for i in same]))
        pairs |= {i: _largest_first(*pair) for i, pair in zip(same, zip(*found, strict=True), strict=True)}
    return [pairs[i] for i in range(len(moments))]


def _decompose(moment: Tensor) -> tuple[Tensor, Basis]:
    if moment.device.type == "cpu" and len(moment) >= SMALLEST:
        try:
            eigenvalues, basis = eigh_leading(moment)
            return eigenvalues.clamp(min=0), basis
        except torch.linalg.LinAlgError:
            pass  # torch's routine scales and tries differently
    return _largest_first(*_eigh(moment))


def _largest_first(ascending: Tensor, vectors: Tensor) -> tuple[Tensor, Basis]:
    # .contiguous(): a copy lets go of the vectors that are not kept
    return ascending.flip(0).clamp_(min=0), lambda r: vectors[:, len(vectors) - r :].flip(1).contiguous()


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """torch.linalg.eigh, on the CPU where a GPU's solver fails."""
    try:
        eigenvalues, vectors = torch.linalg.eigh(matrix)
        if torch.isfinite(eigenvalues).all():  # some solvers fail in silence
            return eigenvalues, vectors
    except RuntimeError:  # LinAlgError, and a GPU solver's own errors
        if matrix.device.type == "cpu":
            raise
    eigenvalues, vectors = torch.linalg.eigh(matrix.cpu())
    return eigenvalues.to(matrix.device), vectors.to(matrix.device)


def eigh_gram(X: Tensor) -> tuple[Tensor, Basis]:
    """Eigendecomposition of X^T X by the Gram matrix X X^T, for fewer rows than features.

    Products are of X's dtype within a block of features, and their sums float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)

    Returns
    -------
    eigenvalues : Tensor of shape (n,), float64
        The n largest eigenvalues of X^T X, descending, clipped at zero.
    basis : callable
        ``basis(r)`` gives the first r eigenvectors as orthonormal columns, (d, r), of X's dtype. r must not
        exceed the numerical rank.
    """
    eigenvalues, basis = eigenpairs(gram(X))
    return eigenvalues, gram_basis(X, eigenvalues, basis)


def gram(X: Tensor) -> Tensor:
    """Gram matrix X X^T of the rows of X, (n, n), float64; half of the products make it."""
    return SecondMoment(len(X), X.device).add(X.T).matrix() if len(X) else X.new_zeros(0, 0).double()


def gram_basis(X: Tensor, eigenvalues: Tensor, inner: Basis) -> Basis:
    """Eigenvectors of X^T X from eigenpairs of X X^T."""

    @full_precision()
    def basis(r: int) -> Tensor:
        U = X.T @ (inner(r) / eigenvalues[:r].sqrt()).to(X.dtype)  # (d, r)
        if r and eigenvalues[r - 1] < ORTHOGONAL_SPAN * eigenvalues[0]:
            Q, R = torch.linalg.qr(U.double())
            U = (Q * R.diagonal().sign()).to(X.dtype)
        return U

    return basis


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

    PANEL = 256  # columns a panel: small enough to skip nearly half of the product, wide enough for BLAS;
    NARROW = 1024  # up to as many features half as many
    BLOCK = 2048  # rows a float32 product sums
    SAFE = (1e-15, 1e15)  # magnitudes whose squares, summed, stay inside float32

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.dim = dim
        self.panel = self.PANEL // 2 if dim <= self.NARROW else self.PANEL
        spans = [(a, min(self.panel, dim - a)) for a in range(0, dim, self.panel)]
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.panels: list[Tensor] = [zeros(w, a) for a, w in spans]  # left of the diagonal
        self.corners: list[Tensor] = [zeros(w * (w + 1) // 2) for _, w in spans]  # on it, row by row

    @property
    def tensors(self) -> list[Tensor]:
        """All that is summed."""
        return [*self.panels, *self.corners]

    @full_precision()
    def add(self, X: Tensor) -> "SecondMoment":
        """Add the rows of X, (n, d)."""
        for rows in X.split(self.BLOCK) if len(X) else ():
            if rows.dtype == torch.float32 and not self._is_safe(rows):
                rows = rows.double()
            for panel, corner in self._pairs():
                w, a = panel.shape
                product = rows[:, a : a + w].T @ rows[:, : a + w]
                panel += product[:, :a]
                corner += product[:, a:].reshape(-1)[_lower(w, X.device)]
        return self

    def _is_safe(self, rows: Tensor) -> bool:
        smallest, largest = rows.aminmax()
        return self.SAFE[0] < max(float(-smallest), float(largest)) < self.SAFE[1]

    def merge(self, other: "SecondMoment", weight: float = 1) -> "SecondMoment":
        """Add the sum that `other` holds, that many times."""
        for mine, theirs in zip(self.tensors, other.tensors, strict=True):
            mine.add_(theirs.to(mine.device), alpha=weight)
        return self

    def trace(self) -> float:
        """Give the sum of the diagonal."""
        ends = (torch.arange(1, self.panel + 1).cumsum(0) - 1).to(self.corners[0].device)
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
