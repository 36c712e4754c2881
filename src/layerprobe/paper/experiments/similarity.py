"""Do a network that memorised and one that generalised see the same? An experiment of our own.

Hidden layers of two networks have no coordinates in common. What they do have in common is the test data:
every layer's outputs X are (m, d) over the same m test images, and so each feature, and each score on a
direction of the layer, is a vector in R^m. Both measures compare there.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.paper.experiments.measuring import PAPER, fit_masc
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import LayerData, Subject

__all__ = ["chance_cosine", "linear_cka", "principal_cosines", "similarity"]


def similarity(subject: Subject) -> pd.DataFrame:
    """Compare a network with the one trained on clean labels from the same seeds (p = 0), on the test data.

    "cka" is `linear_cka` of the two networks' outputs of a layer.

    "principal_cosine" compares the class subspaces of MASC (0.99). Let U_k (d, r_k) be the subspace of class
    k in one network, fitted on its training outputs, and X (m, d) its outputs for all test images. The
    columns of X U_k, the images' scores on the subspace's components, span S_k in R^m: all that can be read
    off linearly from what the subspace sees of the images. For the other network S'_k comes about in the same
    way. The row of class k is the mean of the min(r_k, r'_k) cosines of the principal angles between S_k
    and S'_k, and does not depend on the bases chosen, nor on any rotation of a layer's coordinates. Where the
    two networks have coordinates and labels in common, at the input with true subspaces, it is 1. Subspaces
    of the memorised network are fitted on its noisy and on the true labels; those of the generalised network
    on the true labels, its own.

    Cosines grow with the number of components, and are all 1 once r_k reaches m: beside them stands
    "principal_cosine_chance", `chance_cosine` of as many dimensions. Post-ReLU outputs are not centred, so
    that the direction of their mean alone, which all images share, keeps the largest cosine near 1.

    Raises
    ------
    DataError
        If the run at p = 0 is not there.
    """
    others = subject.generalised().outputs
    records: list[dict[str, Any]] = []
    for layer, data in subject.outputs.items():
        other = others[layer]
        cka = {"layer": layer, "split": "test", "metric": "cka", "value": linear_cka(data.test, other.test)}
        records.append(cka)
        reference = _scores(other, subject.true)
        for fitted_on, labels in subject.label_sets.items():
            which = {"layer": layer, "probe": "masc", "setting": PAPER, "fitted_on": fitted_on}
            cosines = _cosines(_scores(data, labels), reference)
            records += [{**which, "split": "test", **record} for record in cosines]
    return tidy({"experiment": "similarity", **record} for record in records)


def linear_cka(X: Tensor, Y: Tensor) -> float:
    """Return linear centred kernel alignment, |Y^T X|^2 / (|X^T X| |Y^T Y|) with Frobenius norms.

    X and Y are less their means there. It is 1 for outputs that are equal up to a rotation, a scale and a
    shift, and NaN if one of them does not vary. Computed in float64 from products of features or
    of images, whichever takes less work.

    Parameters
    ----------
    X : Tensor of shape (m, d)
    Y : Tensor of shape (m, e)
        Outputs for the same m inputs.

    References
    ----------
    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    _check_same_rows(X, Y)
    X, Y = (Z.double() - Z.double().mean(0) for Z in (X, Y))
    (m, d), e = X.shape, Y.shape[1]
    if m * (d + e) < d * d + d * e + e * e:
        K, L = X @ X.T, Y @ Y.T  # (m, m)
        return float((K * L).sum() / (K.norm() * L.norm()))
    return float((Y.T @ X).norm() ** 2 / ((X.T @ X).norm() * (Y.T @ Y).norm()))


def principal_cosines(A: Tensor, B: Tensor) -> Tensor:
    """Return the cosines of the principal angles between the column spaces of two matrices, descending.

    Parameters
    ----------
    A : Tensor of shape (m, r)
    B : Tensor of shape (m, s)
        float64. Columns that depend on others up to rounding add no dimension.

    Returns
    -------
    Tensor of shape (min of the two ranks,)
        In [0, 1], the singular values of Q_A^T Q_B with Q an orthonormal basis.
    """
    _check_same_rows(A, B)
    return _cosines_of_bases(_orthonormal(A), _orthonormal(B))


def chance_cosine(r: int, s: int, m: int) -> float:
    """Return the root mean square cosine between two random subspaces of R^m of r and s dimensions.

    The squared cosines sum to tr(P P') and its expectation is r s / m, over min(r, s) angles. The mean cosine
    is at most this.
    """
    return (max(r, s) / m) ** 0.5


def _check_same_rows(X: Tensor, Y: Tensor) -> None:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not len(X):
        raise InputError(
            "expected two matrices of as many rows, one for each of the same inputs; "
            f"got {tuple(X.shape)} and {tuple(Y.shape)}"
        )


def _orthonormal(A: Tensor) -> Tensor:
    """Return an orthonormal basis (m, rank) of the column space of A, (m, r)."""
    Q, R = torch.linalg.qr(A.double())
    W, singular, _ = torch.linalg.svd(R, full_matrices=False)
    floor = torch.finfo(torch.float64).eps * max(A.shape) * singular.max() if len(singular) else 0
    return Q @ W[:, singular > floor]


def _cosines_of_bases(P: Tensor, Q: Tensor) -> Tensor:
    return torch.linalg.svdvals(P.T @ Q).clamp(max=1)


def _scores(data: LayerData, labels: np.ndarray) -> dict[int, Tensor]:
    """Return for each class an orthonormal basis of S_k in R^m."""
    masc = fit_masc(data.train, labels)
    test = data.test.double()
    bases = zip(masc.classes_, masc.subspaces_.bases, strict=True)
    return {int(k): _orthonormal(test @ U.double()) for k, U in bases}


def _cosines(mine: dict[int, Tensor], reference: dict[int, Tensor]) -> Iterator[dict[str, Any]]:
    for k in sorted(mine.keys() & reference.keys()):  # a class without a single training label has none
        P, Q = mine[k], reference[k]
        if min(P.shape[1], Q.shape[1]):
            cosine = _cosines_of_bases(P, Q).mean().item()
            chance = chance_cosine(P.shape[1], Q.shape[1], len(P))
            yield {"class": k, "metric": "principal_cosine", "value": cosine}
            yield {"class": k, "metric": "principal_cosine_chance", "value": chance}
