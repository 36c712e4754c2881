"""Second moments with float64 sums, their rounding errors, and float64 eigendecompositions."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from layerprobe.core.checks import SAFE
from layerprobe.core.kernels import eigh_leading, eigh_nonzero, serves_eigh_leading
from layerprobe.utils.settings import default_settings, full_precision

Basis: TypeAlias = Callable[[int], Tensor]  # r -> the first r eigenvectors, (d, r)

BLOCK = 2048  # rows of one product in the rows' precision; sums over blocks are float64
FEATURES = 256  # of one float64 product of a Gram matrix: they stay in cache
SPARSE, NONZERO = 256, 0.8  # features, and share of nonzero ones up to which `eigh_nonzero` gains 1.3 times
WIDE = 1200  # features from which on `eigh_leading` gains 1.3 times
DEVIATIONS = 4  # standard deviations of rounding errors that are allowed for


def _stripes(dim: int) -> list[tuple[int, int]]:
    """Return the rows [start, stop) of a (d, d) matrix that one product computes, up to column stop."""
    height = max(16, min(96, dim // 12))
    return [(start, min(start + height, dim)) for start in range(0, dim, height)]


class SecondMoment:
    """A sum X^T X over batches of rows: its stripes of at most 96 rows, on and below the diagonal.

    They take at most 4 d (d + max(16, min(96, d / 12))) bytes. Products are of the rows' precision over
    blocks of rows; the sums over blocks are float64.

    Parameters
    ----------
    dim : int
        Number of features d.
    device : torch.device or str
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.dim, self.device, self.stripes = dim, device, _stripes(dim)
        self.parts = [
            torch.zeros(stop - start, stop, dtype=torch.float64, device=device)
            for start, stop in self.stripes
        ]

    @staticmethod
    def bytes_for(dim: int) -> int:
        """Return the bytes of a moment of `dim` features."""
        return sum(8 * (stop - start) * stop for start, stop in _stripes(dim))

    @staticmethod
    def most_working(rows: int, dim: int, itemsize: int = 4) -> int:
        """Return the bytes that adding a batch takes: a block of rows, also in float64, and one product.

        Parameters
        ----------
        rows, dim : int
            Number of rows of the batch, and of features.
        itemsize : int
            Bytes of one number of the rows.
        """
        return min(rows, BLOCK) * dim * (itemsize + 8) + 8 * _stripes(dim)[0][1] * dim

    @full_precision()
    def add(self, X: Tensor) -> "SecondMoment":
        """Add rows, (n, d); in float64 where float32 cannot hold squares."""
        if len(X) and X.dtype == torch.float32:
            smallest, largest = X.aminmax()
            safe = SAFE[0] < max(float(-smallest), float(largest)) < SAFE[1]
        else:
            safe = True
        for rows in X.split(BLOCK) if len(X) else ():
            rows = rows if safe else rows.double()
            for part, (start, stop) in zip(self.parts, self.stripes, strict=True):
                part += rows[:, start:stop].T @ rows[:, :stop]
        return self

    @default_settings()
    def merge(self, other: "SecondMoment", weight: float = 1) -> "SecondMoment":
        """Add another sum, times a weight.

        Parameters
        ----------
        other : SecondMoment
            Of the same d.
        weight : float
        """
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.add_(theirs.to(mine.device), alpha=weight)
        return self

    def diagonal(self) -> Tensor:
        """Return the diagonal, (d,)."""
        return torch.cat([part.diagonal(a) for part, (a, _) in zip(self.parts, self.stripes, strict=True)])

    def matrix(self) -> Tensor:
        """Return the whole symmetric matrix, (d, d), float64."""
        full = torch.zeros(self.dim, self.dim, dtype=torch.float64, device=self.device)
        for part, (start, stop) in zip(self.parts, self.stripes, strict=True):
            full[start:stop, :stop] = part
        return full.tril() + full.tril(-1).T


def rounding_error(diagonal: Tensor, n_rows: int, dtype: torch.dtype = torch.float64) -> float:
    """Return how far rounding moves the eigenvalues of a second moment, and sums of its leading ones.

    Parameters
    ----------
    diagonal : Tensor of shape (d,)
        Diagonal of the second moment M; the result has its units.
    n_rows : int
        Number of rows n that were summed.
    dtype : torch.dtype
        Precision of the products; sums over blocks of rows are float64.

    Notes
    -----
    Float32: rounding errors of a sum of b products are taken as independent with mean zero, so that entry
    i, j of M has an error of standard deviation at most u sqrt(b M_ii M_jj), u = 2^-24 (Higham and Mary, "A
    New Approach to Probabilistic Rounding Error Analysis", 2019). For a projection P the error of tr(P M)
    then has at most the standard deviation u sqrt(b) |diag M|_2, and the matrix of errors has about twice
    this spectral norm. Four such deviations are returned.
    Float64: eps max(n, d) tr(M), after ``numpy.linalg.matrix_rank``.
    """
    if dtype == torch.float32:
        unit = torch.finfo(dtype).eps / 2
        return DEVIATIONS * unit * math.sqrt(min(n_rows, BLOCK)) * float(diagonal.norm())
    return torch.finfo(torch.float64).eps * max(n_rows, len(diagonal)) * float(diagonal.sum())


def eigenpairs(matrix: Tensor) -> tuple[Tensor, Basis]:
    """Decompose a symmetric matrix, (d, d), in float64, largest eigenvalue first.

    Negative eigenvalues, of rounding or of a difference of moments, count as zero.

    Returns
    -------
    eigenvalues : Tensor of shape (d,), float64
        Descending, clipped at zero.
    basis : callable
        ``basis(r)`` returns the first r eigenvectors as orthonormal columns, (d, r), float64.
    """
    matrix, d = matrix.double(), len(matrix)
    if d >= SPARSE and 0 < int((matrix != 0).any(1).sum()) <= NONZERO * d:
        return eigh_nonzero(matrix, eigenpairs)
    if d >= WIDE and serves_eigh_leading(matrix):
        try:
            return eigh_leading(matrix)
        except torch.linalg.LinAlgError:
            pass  # torch's routine scales and tries differently
    try:
        ascending, vectors = torch.linalg.eigh(matrix)
        failed = not torch.isfinite(ascending).all()  # some solvers of GPUs fail without an error
    except RuntimeError:  # LinAlgError, and the errors of a GPU's solver
        if matrix.device.type == "cpu":
            raise
        failed = True
    if failed:
        ascending, vectors = (part.to(matrix.device) for part in torch.linalg.eigh(matrix.cpu()))
    # The copy that `flip` makes does not keep the eigenvectors that are left out.
    return ascending.flip(0).clamp_(min=0), lambda r: vectors.T[len(vectors) - r :].flip(0).T


def gram_eigenpairs(X: Tensor) -> tuple[Tensor, Basis, int]:
    """Decompose X^T X in float64 through the Gram matrix X X^T, for X (n, d) with fewer rows than features.

    Returns
    -------
    eigenvalues : Tensor of shape (n,), float64
        The n largest eigenvalues of X^T X, descending, clipped at zero.
    basis : callable
        ``basis(r)`` returns the first r eigenvectors as orthonormal columns, (d, r), in the dtype of X. r
        must not exceed the numerical rank.
    rank : int
        The numerical rank: number of eigenvalues above the rounding error.

    Notes
    -----
    U = X^T V / sqrt(eigenvalues) has errors U^T U - I of the size eps eigenvalue_1 / eigenvalue_r,
    eps = 2^-52. A QR decomposition removes them where the dtype of X resolves them.
    """
    (n, d), blocks = X.shape, X.split(FEATURES, dim=1)
    gram = X.new_zeros(n, n, dtype=torch.float64)
    for block in blocks:
        rows = block.double()
        for start in range(0, n, 96):  # on and below the diagonal
            stop = start + 96
            gram[start:stop, :stop].addmm_(rows[start:stop], rows[:stop].T)
    eigenvalues, inner = eigenpairs(gram.tril() + gram.tril(-1).T)
    resolved = 1e-12 if X.dtype == torch.float64 else torch.finfo(X.dtype).eps / 2

    def basis(r: int) -> Tensor:
        left = (inner(r) / eigenvalues[:r].sqrt()).T  # (r, n)
        if r and torch.finfo(torch.float64).eps * eigenvalues[0] > resolved * eigenvalues[r - 1]:
            Q, R = torch.linalg.qr((left @ X.double()).T)
            return (Q * R.diagonal().sign()).to(X.dtype)
        U = X.new_empty(r, d)
        for block, out in zip(blocks, U.split(FEATURES, dim=1), strict=True):
            out.copy_(left @ block.double())
        return U.T

    return eigenvalues, basis, int((eigenvalues > rounding_error(eigenvalues, d)).sum())
