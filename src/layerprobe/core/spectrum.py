"""Class means, and the spectrum of what rows are beyond their means: what closed-form probes are made of."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from layerprobe.core.checks import check_magnitude
from layerprobe.core.linalg import eigh_gram, eigh_moment, numerical_rank
from layerprobe.core.second_moment import SecondMoment
from layerprobe.utils.threads import one_thread

__all__ = ["Spectrum", "centred_blocks", "class_means", "spectrum"]

BLOCK = SecondMoment.BLOCK  # rows at a time: no second copy of a whole layer


class Spectrum(NamedTuple):
    """Eigendecomposition of a second moment, the directions that stand out of rounding alone."""

    eigenvalues: Tensor  # (r,) float64, descending
    vectors: Tensor  # (d, r) float64, orthonormal columns
    trace: float  # of the whole moment


def class_means(X: Tensor, codes: Tensor, num_classes: int) -> Tensor:
    """Mean of each class's rows, summed in float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    codes : Tensor of shape (n,)
        Class of each row, 0..K-1. The mean of a class without rows is zero.
    num_classes : int
        K.

    Returns
    -------
    Tensor of shape (K, d), float64
    """
    counts = codes.bincount(minlength=num_classes)
    sums = X.new_zeros((num_classes, X.shape[1]), dtype=torch.float64)
    for k, index in enumerate(codes.argsort(stable=True).split(counts.tolist())):
        for part in index.split(BLOCK):
            sums[k] += X[part].sum(0, dtype=torch.float64)
    return sums / counts.clamp(min=1)[:, None]


def centred_blocks(X: Tensor, centres: Tensor, codes: Tensor | None = None) -> Iterator[Tensor]:
    """Give blocks of the rows of X, (n, d), less one centre (d,), or less their class's of (K, d)."""
    centres = centres.to(X)
    for start in range(0, len(X), BLOCK):
        of = centres if codes is None else centres[codes[start : start + BLOCK]]
        yield X[start : start + BLOCK] - of


def spectrum(X: Tensor, centres: Tensor, codes: Tensor | None = None) -> Spectrum:
    """Eigendecomposition of the sum of (x - c)(x - c)^T over all rows.

    By the n x n Gram matrix for fewer rows than features, else by the d x d moment, whose products are of
    the rows' dtype within a block and summed in float64.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    centres : Tensor of shape (d,) or (K, d)
        c, one for all rows, or one a class.
    codes : Tensor of shape (n,), optional
        Class of each row where there are centres of classes.

    Raises
    ------
    InputError
        If float64 cannot hold the squares of X.
    """
    check_magnitude(X)
    n, d = X.shape
    if n < d:
        rows = X.double() - (centres.double() if codes is None else centres.double()[codes])
        with one_thread():
            eigenvalues, basis = eigh_gram(rows)
        rank = numerical_rank(eigenvalues, d)
        vectors = basis(rank)
    else:
        moment = SecondMoment(d, X.device)
        for block in centred_blocks(X, centres, codes):
            moment.add(block)
        with one_thread():
            eigenvalues, vectors = eigh_moment(moment.matrix())
        rank = numerical_rank(eigenvalues, n, X.dtype)
        vectors = vectors[:, :rank]
    return Spectrum(eigenvalues[:rank], vectors, float(eigenvalues.sum()))
