"""Subspaces of the true classes from wrong labels: second moments are linear in the label noise.

Let M_i be the second moment (a sum over rows) of the rows whose true class is i, C_j that of the rows
labelled j, and T[i, j] the probability of the label j for any row of true class i. Then the
expected C_j is sum_i T_ij M_i, so M = T^-T C estimates the true moments without bias. For labels redrawn
uniformly with probability p this is M_k = (C_k - p mean(C)) / (1 - p), mean(C) over the classes.

The estimate is not positive semi-definite: its negative eigenvalues, which are sampling error, count as zero.
"""

from collections.abc import Hashable, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.core.checks import check_rows, check_strength, check_y, widen
from layerprobe.core.linalg import SecondMoment, eigenpairs, gram_eigenpairs, rounding_error
from layerprobe.core.moments import ClassMoments
from layerprobe.core.subspaces import ClassBasis, Subspaces, choose_rank
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

    Returns
    -------
    Tensor of shape (K, K), float64
        The transposed inverse of T.

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
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
    span: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Subspaces:
    """Fit one subspace per true class to the moments of the labelled classes.

    Parameters
    ----------
    moments : ClassMoments
    weights : Tensor of shape (K, K)
        As :func:`noise_weights` returns them.
    variance, components, classes
        As for :func:`layerprobe.core.subspaces.fit_subspaces`.
    span : Tensor of shape (D, d), float64, optional
        Orthonormal columns, where the moments are those of coordinates in their span: the bases are (D, r_k).
    dtype : torch.dtype, optional
        Dtype of the bases, default that of the moments.

    Notes
    -----
    All K moments are in memory at once, about 4 K d (d + 96) bytes.
    """
    check_strength(variance, components)
    K = moments.num_classes
    labelled = [moments.moment(k) for k in range(K)]
    diagonals = torch.stack([moment.diagonal() for moment in labelled])  # (K, d)
    n_rows = int(moments.counts.sum())

    def fit_class(k: int) -> ClassBasis:
        corrected = SecondMoment(moments.dim, moments.device)
        for moment, weight in zip(labelled, weights[k].tolist(), strict=True):
            if weight:
                corrected.merge(moment, weight)
        eigenvalues, basis = eigenpairs(corrected.matrix())
        # Rounding is that of the moments which were subtracted from each other.
        error = rounding_error(weights[k].abs().to(diagonals) @ diagonals, n_rows, moments.dtype)
        full = int((eigenvalues > error).sum())
        rank = choose_rank(eigenvalues, variance=variance, components=components, full=full)
        if span is not None:
            vectors = span @ basis(rank)
        else:
            vectors = basis(moments.dim if 2 * rank > moments.dim else rank)
        return ClassBasis(eigenvalues, vectors.to(dtype or moments.dtype), rank, full, int(moments.counts[k]))

    parts = parallel(fit_class, range(K), moments.device, operations=10 * K * moments.dim**3)
    fitted = Subspaces.build(parts, classes, components)
    empty = [
        fitted.classes[k]
        for k, part in enumerate(parts)
        if part.n_rows and diagonals[k].any() and not part.full
    ]
    if empty:
        warn(
            f"Nothing is left of class {', '.join(map(repr, empty))} without the noise: its subspace is "
            "empty and makes an angle of 90 degrees with everything. Is there as much noise as was given?",
            DegenerateWarning,
        )
    return fitted


def fit_corrected(
    X: Tensor,
    y: Tensor,
    num_classes: int,
    weights: Tensor,
    *,
    variance: float | None = None,
    components: int | None = None,
    classes: Sequence[Hashable] | None = None,
) -> Subspaces:
    """Fit one subspace per true class to rows with noisy labels; for n < d in the span of the rows.

    Parameters
    ----------
    X : Tensor of shape (n, d)
    y : Tensor of shape (n,)
        Labelled class of each row, 0..K-1.
    num_classes, variance, components, classes
        As for :func:`layerprobe.core.subspaces.fit_subspaces`.
    weights : Tensor of shape (K, K)
        As :func:`noise_weights` returns them.

    Raises
    ------
    InputError
        As :func:`layerprobe.core.subspaces.fit_subspaces`.
    """
    check_strength(variance, components)
    X = widen(check_rows(X))
    y = check_y(y, len(X), num_classes).to(X.device)
    options: dict[str, Any] = {
        "variance": variance,
        "components": components,
        "classes": classes,
        "dtype": X.dtype,
    }
    n, d = X.shape
    if n < d:
        eigenvalues, basis = gram_eigenpairs(X.double())
        if rank := int((eigenvalues > rounding_error(eigenvalues, d, torch.float64)).sum()):
            span = basis(rank)  # (d, r)
            moments = ClassMoments(num_classes, rank, dtype=torch.float64, device=X.device)
            moments.update(X.double() @ span, y)
            return correct_moments(moments, weights, **options, span=span)
    moments = ClassMoments(num_classes, d, dtype=X.dtype, device=X.device).update(X, y)
    return correct_moments(moments, weights, **options)
