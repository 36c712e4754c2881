"""Similarity of a memorised and a generalised network, an experiment of our own.

Hidden layers of two networks have no coordinates in common, but both networks have outputs for the same test
images. The outputs X of a layer for m test images are (m, d). Each feature of the layer, and each projection
of the rows on a direction, is therefore a vector in R^m, where both measures compare the networks.
"""

import torch
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.layerwise.engine import FittedProbe
from layerprobe.paper.experiments.subspaces import MASC_PROBES, fit_probes
from layerprobe.paper.rows import Records, each, measured_as
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.paper.selection import PAPER


@measured_as("similarity", split="test")
def similarity(finished: FinishedRun) -> Records:
    """Compare a network with the one trained on clean labels from the same seeds (p = 0), on the test data.

    "cka" is `linear_cka` of the two networks' outputs of a layer.

    "principal_cosine" compares the class subspaces of MASC at 0.99. U_k (d, r_k) is the subspace of class k
    in one network, fitted on its training outputs; X (m, d) are its outputs for all test images. The columns
    of X U_k span S_k in R^m: everything linear that the subspace shows of the images. S'_k is the same for
    the other network. The row of class k is the mean of the min(r_k, r'_k) cosines of the principal angles
    between S_k and S'_k. It depends neither on the bases nor on a rotation of the layer's coordinates, and is
    1 where both networks have coordinates and labels in common (the input, true subspaces). Subspaces of the
    memorised network are fitted on its noisy and on the true labels, those of the generalised network on the
    true labels.

    Cosines grow with the number of components and are all 1 if r_k reaches m. "principal_cosine_chance" is
    `chance_cosine` of the same dimensions. Outputs after ReLU are not centred: the direction of their mean,
    which all images share, keeps the largest cosine near 1.

    Raises
    ------
    DataError
        If there is no run at p = 0.
    """
    generalised = finished.generalised().outputs
    for layer, data in finished.outputs.items():
        other = generalised[layer]
        yield {"layer": layer, "metric": "cka", "value": linear_cka(data.test, other.test)}
        (true,) = fit_probes(finished, layer, other, MASC_PROBES, ["true"])
        reference = _score_spaces(true, other.test)
        for one in fit_probes(finished, layer, data, MASC_PROBES):
            cosines = _class_cosines(_score_spaces(one, data.test), reference)
            yield from each(cosines, layer=layer, fitted_on=one.fitted_on, **PAPER)


def linear_cka(X: Tensor, Y: Tensor) -> float:
    """Return the linear centred kernel alignment of the outputs of two layers.

    |Y^T X|^2 / (|X^T X| |Y^T Y|) with Frobenius norms, X and Y less their means. Computed in float64 from
    products of features or of inputs, whichever is cheaper.
    It is 1 for outputs that are equal up to rotation, scale and shift, and NaN if X or Y is constant.

    Parameters
    ----------
    X, Y : Tensor of shape (m, d) and (m, e)
        Outputs for the same m inputs.

    Raises
    ------
    InputError
        If X and Y are not matrices of equally many rows.

    References
    ----------
    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not len(X):
        raise InputError(
            "expected two matrices with equally many rows, one per input; "
            f"got shapes {tuple(X.shape)} and {tuple(Y.shape)}"
        )
    X, Y = (Z.double() - Z.double().mean(0) for Z in (X, Y))
    (m, d), e = X.shape, Y.shape[1]
    if m * (d + e) < d * d + d * e + e * e:
        K, L = X @ X.T, Y @ Y.T  # (m, m)
        return float((K * L).sum() / (K.norm() * L.norm()))
    return float((Y.T @ X).norm() ** 2 / ((X.T @ X).norm() * (Y.T @ Y).norm()))


def principal_cosines(P: Tensor, Q: Tensor) -> Tensor:
    """Return the min(r, s) cosines of the principal angles between two subspaces, descending.

    Parameters
    ----------
    P, Q : Tensor of shape (m, r) and (m, s)
        Orthonormal bases.

    References
    ----------
    Björck and Golub, "Numerical Methods for Computing Angles Between Linear Subspaces", 1973.
    """
    return torch.linalg.svdvals(P.T @ Q).clamp(max=1)


def chance_cosine(r: int, s: int, m: int) -> float:
    """Return the root mean square cosine between random subspaces of r and s dimensions of R^m.

    The sum of the squared cosines is tr(P P'), its expectation r s / m, over min(r, s) angles. The expected
    mean cosine is at most this value.

    Parameters
    ----------
    r, s, m : int
    """
    return (max(r, s) / m) ** 0.5


def _orthonormal(A: Tensor) -> Tensor:
    """Return an orthonormal basis (m, rank) of the column space of A, (m, r)."""
    Q, R = torch.linalg.qr(A.double())
    W, singular, _ = torch.linalg.svd(R, full_matrices=False)
    floor = torch.finfo(torch.float64).eps * max(A.shape) * singular.max() if len(singular) else 0
    return Q @ W[:, singular > floor]


def _score_spaces(masc: FittedProbe, X: Tensor) -> dict[int, Tensor]:
    """Return an orthonormal basis of S_k in R^m per class."""
    bases = zip(masc.classes, masc.estimator.subspaces_.bases, strict=True)
    return {int(k): _orthonormal(X.double() @ U.double()) for k, U in bases}


def _class_cosines(spaces: dict[int, Tensor], reference: dict[int, Tensor]) -> Records:
    for k in sorted(spaces.keys() & reference.keys()):  # a class without training rows has no subspace
        P, Q = spaces[k], reference[k]
        if min(P.shape[1], Q.shape[1]):
            chance = chance_cosine(P.shape[1], Q.shape[1], len(P))
            value = principal_cosines(P, Q).mean().item()
            yield {"class": k, "metric": "principal_cosine", "value": value}
            yield {"class": k, "metric": "principal_cosine_chance", "value": chance}
