"""Float64 eigendecompositions of symmetric matrices, and the rounding error of second moments."""

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from layerprobe.core.kernels import eigh_leading, eigh_nonzero, serves_eigh_leading

Basis: TypeAlias = Callable[[int], Tensor]  # r -> the first r eigenvectors, (d, r)

BLOCK = 2048  # rows of one product in the rows' precision; sums over blocks are float64
SPARSE, NONZERO = 256, 0.8  # features, and share of nonzero ones up to which `eigh_nonzero` gains 1.3 times
WIDE = 1200  # features from which on `eigh_leading` gains 1.3 times
DEVIATIONS = 4  # standard deviations of rounding errors that are allowed for


def rounding_error(diagonal: Tensor, n_rows: int, dtype: torch.dtype) -> float:
    """Return how far rounding moves the eigenvalues of a second moment, and sums of its leading ones.

    Parameters
    ----------
    diagonal : Tensor of shape (d,)
        Diagonal of the second moment M.
    n_rows : int
        Number of rows n that were summed.
    dtype : torch.dtype
        Precision of the products; sums over blocks of rows are float64.

    Returns
    -------
    float
        In the units of M.

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
    """Decompose a symmetric matrix in float64, largest eigenvalue first.

    Parameters
    ----------
    matrix : Tensor of shape (d, d)
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
