"""Algorithms 1-3 of the paper, literal and slow: the oracle that the fast code is held against.

Everything is NumPy in float64 and shares nothing with the library: the data are doubled, the covariance is
taken about their mean, the rank found by a loop over exact fractions, each angle by an explicit projection.
"""

from fractions import Fraction
from typing import NamedTuple

import numpy as np


class ClassSubspace(NamedTuple):
    """Principal subspace of one class, with the whole spectrum it was cut from."""

    eigenvalues: np.ndarray  # (d,) descending, of the covariance
    vectors: np.ndarray  # (d, d), one eigenvector a column
    rank: int

    @property
    def basis(self):  # (d, r_k)
        return self.vectors[:, : self.rank]


def double(X_k):
    """Each row together with its negative, so that the mean is the origin."""
    return np.concatenate([X_k, -X_k])


def covariance(rows):
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / len(rows)


def choose_rank(eigenvalues, variance):
    """Smallest r whose cumulative share is strictly above the variance; all of them if none is."""
    limit = Fraction(str(variance))  # 0.99 means 99/100, not the double next to it
    total = sum(Fraction(float(value)) for value in eigenvalues)
    kept = Fraction(0)
    for r, value in enumerate(eigenvalues, start=1):
        kept += Fraction(float(value))
        if total and kept / total > limit:
            return r
    return len(eigenvalues)


def fit_class(X_k, variance=None, components=None):
    """Algorithm 2 for one class; None where the class has no rows."""
    if len(X_k) == 0:
        return None
    values, vectors = np.linalg.eigh(covariance(double(X_k)))
    order = np.argsort(values)[::-1]
    values, vectors = np.maximum(values[order], 0), vectors[:, order]
    dimensions = int(np.linalg.matrix_rank(X_k))
    rank = choose_rank(values[:dimensions], variance) if components is None else min(components, dimensions)
    return ClassSubspace(values, vectors, rank)


def fit(X, codes, num_classes, variance=None, components=None):
    X = np.asarray(X, dtype=np.float64)
    return [fit_class(X[codes == k], variance, components) for k in range(num_classes)]


def cosine(x, subspace):
    """Cosine of the angle between a query and its projection; -inf where the class has no subspace."""
    if subspace is None:
        return -np.inf
    if not x.any():
        return 0.0
    projection = np.zeros_like(x)
    for u in subspace.basis.T:
        projection += (u @ x) * u
    return min(1.0, np.linalg.norm(projection) / np.linalg.norm(x))


def angle(x, subspace):
    return np.inf if subspace is None else np.arccos(cosine(x, subspace))


def squared_cosines(X, subspaces):  # (n, K)
    table = np.array([[cosine(x, subspace) for subspace in subspaces] for x in np.asarray(X, np.float64)])
    return np.where(table < 0, -np.inf, table**2)


def angles(X, subspaces):  # (n, K)
    return np.array([[angle(x, subspace) for subspace in subspaces] for x in np.asarray(X, np.float64)])


def predict(X, subspaces):  # (n,)
    """Algorithm 3: the class of the smallest angle, the first one where several are equal."""
    codes = []
    for row in angles(X, subspaces):
        best = 0
        for k in range(1, len(row)):
            if row[k] < row[best]:
                best = k
        codes.append(best)
    return np.array(codes)
