"""Eigendecompositions of second moments.

Every decomposition is float64: a float32 one moves squared cosines by 3e-3 and flips up to 0.3 % of
labels, while float32 products summed in float64 lose nothing that matters at 99 % variance.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from layerprobe.core.lapack import SMALLEST, eigh_leading
from layerprobe.core.second_moment import gram
from layerprobe.utils.precision import full_precision

__all__ = [
    "Basis",
    "eigenpairs",
    "eigenpairs_of_each",
    "eigh_gram",
    "eigh_moment",
    "gram_basis",
    "numerical_rank",
]

Basis: TypeAlias = Callable[[int], Tensor]  # r -> the first r eigenvectors, (d, r)

# Kept eigenvalues further below the largest than this lose digits of orthogonality in X^T v / sqrt(lambda).
ORTHOGONAL_SPAN = 1e-4
BATCH_BYTES = 2**30  # of matrices that a GPU decomposes in one call


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
        vectors = moment.new_zeros(r, d).T
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
    # The copy that `flip` makes lets go of the vectors that are not kept.
    return ascending.flip(0).clamp_(min=0), lambda r: vectors.T[len(vectors) - r :].flip(0).T


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


def gram_basis(X: Tensor, eigenvalues: Tensor, inner: Basis) -> Basis:
    """Eigenvectors of X^T X from eigenpairs of X X^T."""

    @full_precision()
    def basis(r: int) -> Tensor:
        U = ((inner(r) / eigenvalues[:r].sqrt()).to(X.dtype).T @ X).T  # (d, r)
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
