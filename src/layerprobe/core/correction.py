"""Subspaces of the true classes from wrong labels: second moments are linear in the label noise.

Let M_i be the second moment (a sum over rows) of the rows whose true class is i, C_j that of the rows
labelled j, and T[i, j] the probability of the label j for any row of true class i. Then the
expected C_j is sum_i T_ij M_i, so M = T^-T C estimates the true moments without bias. For labels redrawn
uniformly with probability p this is M_k = (C_k - p mean(C)) / (1 - p), mean(C) over the classes. Losses are
corrected in this way by Natarajan et al., "Learning with noisy labels" (2013).

The estimate is not positive semi-definite: its negative eigenvalues, which are sampling error, count as zero.
"""

from collections.abc import Hashable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.core.linalg import SecondMoment, gram_eigenpairs
from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import ClassBasis, Subspaces, basis_from_moment
from layerprobe.errors import DegenerateWarning, InputError, warn
from layerprobe.utils.settings import parallel

LARGEST_CONDITION = 1e4  # of T: the factor by which the correction can magnify the sampling error


def noise_weights(noise: Any, num_classes: int) -> Tensor:
    """Return the weights that turn moments C_j of labelled classes into true ones: M_k = sum_j w[k, j] C_j.

    Parameters
    ----------
    noise : float or array of shape (K, K)
        The probability p in [0, 1) that a label was redrawn uniformly from all K classes, or the matrix T.
    num_classes : int
        K.

    Raises
    ------
    InputError
        If p is outside [0, 1), T is no (K, K) matrix of probabilities whose rows sum to one, or T is singular
        or close to it.
    """
    K = num_classes
    if isinstance(noise, Real) and not isinstance(noise, bool):
        if not 0 <= float(noise) < 1:
            raise InputError(
                f"noise must be in [0, 1), the share of labels redrawn uniformly, got {noise!r}."
            )
        T = (1 - float(noise)) * np.eye(K) + float(noise) / K
    else:
        try:
            T = np.asarray(noise.cpu() if isinstance(noise, Tensor) else noise, dtype=np.float64)
        except (TypeError, ValueError):
            T = np.empty(0)
        if T.shape != (K, K):
            shape = T.shape if T.size else repr(noise)
            raise InputError(f"noise must be a number or a matrix of shape ({K}, {K}), got {shape}.")
        if not (np.isfinite(T).all() and T.min() >= 0 and np.abs(T.sum(1) - 1).max() < 1e-6):
            raise InputError(
                "noise must hold in row i, column j the probability of the label j for a row of true class "
                f"i: numbers of at least 0 whose rows sum to 1, got rows that sum to {T.sum(1).tolist()}."
            )
    condition = np.linalg.cond(T)
    if not condition <= LARGEST_CONDITION:
        raise InputError(
            f"this noise cannot be undone: the condition number of its matrix is {condition:.3g}, expected "
            f"at most {LARGEST_CONDITION:g}. Such labels hardly depend on the true class."
        )
    return torch.from_numpy(np.linalg.inv(T).T.copy())


def correct_moments(
    moments: ClassMoments,
    weights: Tensor,
    *,
    classes: Sequence[Hashable] | None = None,
    span: Tensor | None = None,
    dtype: torch.dtype | None = None,
    **strength: Any,
) -> Subspaces:
    """Fit one subspace per true class to the moments of the labelled classes.

    All K moments are in memory at once.

    Parameters
    ----------
    moments : ClassMoments
    weights : Tensor of shape (K, K)
        As :func:`noise_weights` returns them.
    classes, **strength
        As for :func:`layerprobe.core.subspaces.fit_subspaces`: its `variance` or `components`, checked.
    span : Tensor of shape (D, d), float64, optional
        Orthonormal columns, where the moments are those of coordinates in their span: the bases are (D, r_k).
    dtype : torch.dtype, optional
        Dtype of the bases, default that of the moments.
    """
    K = moments.num_classes
    labelled = [moments.moment(k) for k in range(K)]
    diagonals = torch.stack([moment.diagonal() for moment in labelled])  # (K, d)
    n_rows = int(moments.counts.sum())

    def fit_class(k: int) -> ClassBasis:
        corrected = SecondMoment(moments.dim, moments.device)
        for moment, weight in zip(labelled, weights[k].tolist(), strict=True):
            if weight:
                corrected.merge(moment, weight)
        # Rounding is that of the moments which were subtracted from each other.
        diagonal = weights[k].abs().to(diagonals) @ diagonals
        basis = basis_from_moment(
            corrected.matrix(), n_rows, dtype=moments.dtype, diagonal=diagonal, **strength
        )
        vectors = basis.vectors if span is None else span @ basis.vectors[:, : basis.rank]
        return basis._replace(vectors=vectors.to(dtype or moments.dtype), n_rows=int(moments.counts[k]))

    bases = parallel(fit_class, range(K), moments.device, operations=10 * K * moments.dim**3)
    fitted = Subspaces.build(bases, classes, strength.get("components"))
    empty = [
        repr(name)
        for name, basis, diagonal in zip(fitted.classes, bases, diagonals, strict=True)
        if basis.n_rows and diagonal.any() and not basis.full
    ]
    if empty:
        warn(
            f"Nothing is left of class {', '.join(empty)} without the noise: its subspace is empty and makes "
            "an angle of 90 degrees with everything. Is there as much noise as was given?",
            DegenerateWarning,
        )
    return fitted


def fit_corrected(X: Tensor, y: Tensor, weights: Tensor, **options: Any) -> Subspaces:
    """Fit one subspace per true class to rows with noisy labels; for n < d in the span of the rows.

    Parameters
    ----------
    X : Tensor of shape (n, d)
        Checked rows.
    y : Tensor of shape (n,)
        Labelled class of each row, 0..K-1.
    weights : Tensor of shape (K, K)
        As :func:`noise_weights` returns them.
    **options
        `variance`, `components`, `classes` of :func:`correct_moments`.
    """
    (n, d), K = X.shape, len(weights)
    if n < d:
        _, basis, rank = gram_eigenpairs(X.double())
        if rank:
            span = basis(rank)  # (d, r)
            moments = ClassMoments(K, rank, dtype=torch.float64, device=X.device).update(X.double() @ span, y)
            return correct_moments(moments, weights, span=span, dtype=X.dtype, **options)
    moments = ClassMoments(K, d, dtype=X.dtype, device=X.device).update(X, y)
    return correct_moments(moments, weights, **options)
