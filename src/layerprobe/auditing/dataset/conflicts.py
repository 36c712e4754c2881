"""Rows with the same or nearly the same features as a row of another label.

Rows of equal content always conflict. Other rows are near duplicates if their distance is far below the
distances to their neighbours. Near a row, distances to rows of an m-dimensional density follow
P(distance < c r) = c^m P(distance < r). Let s of n rows be drawn at random, and r the distance to the q-th
nearest of these s rows. Then n q / s rows lie within r, and n q c^m / s within c r by chance. The factor

    c = (n^2 q / (2 s))^(-1 / m),  at most 1/2,

gives one expected false pair among all rows. The dimension m is estimated from the distances to the nearest
neighbours (Levina and Bickel, NeurIPS 2004), as the median over rows. The nearest one is left out there,
since it may be a duplicate. With k neighbours the mean of log r_k / r_j, j = 2..k - 1, has the expectation
(k - 1 - H) / (k - 2) / m, where H = 1 + 1/2 + ... + 1/(k - 1).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

REFERENCES = 5000  # largest number s of random rows among which neighbours are searched for
NEIGHBOUR = 3  # q: two near copies of a row may be among the references and nearer
NEIGHBOURS = 10  # k, for the dimension
LARGEST_FACTOR = 0.5
PROJECTED = 64  # dimensions of a random projection that finds candidates
SLACK = 2.0  # the projection raises a squared distance by more for one pair in a million (chi-square)
MANY_COLUMNS = 100
BLOCK = 1024  # rows
MOST_ROWS = 200_000  # for near duplicates, whose time grows with the square of the rows


@dataclass(frozen=True, eq=False)
class Conflicts:
    """Rows that have a duplicate with another label; one entry per row.

    The similarity is one minus the distance of both rows, divided by the smaller of their distances to other
    neighbours; 1 for rows of equal content.
    """

    positions: np.ndarray  # (m,), int64: the rows, ascending
    others: np.ndarray  # (m,), int64: the most similar row with another label
    similarity: np.ndarray  # (m,)
    group: np.ndarray  # (m,), int64: number of the group of rows that conflicts connect, from 0

    def __len__(self) -> int:
        return len(self.positions)

    def renumbered(self, order: np.ndarray) -> "Conflicts":
        """Return the conflicts of rows whose row i is ``order[i]``, (n,) int64."""
        positions, others = order[self.positions], order[self.others]
        return replace(self, positions=positions, others=others)._take(positions.argsort())

    def among(self, kept: np.ndarray) -> "Conflicts":
        """Return some of the conflicts (m,) bool, the groups with the most similar rows first."""
        some = self._take(kept)
        best = np.zeros(1 + int(some.group.max(initial=-1)))
        np.maximum.at(best, some.group, some.similarity)
        return some._take(np.lexsort((some.positions, some.group, -best[some.group])))

    def _take(self, rows: np.ndarray) -> "Conflicts":
        return Conflicts(self.positions[rows], self.others[rows], self.similarity[rows], self.group[rows])


NO_CONFLICTS = Conflicts(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))


def find_conflicts(X: Tensor | None, y: Tensor, hashes: np.ndarray) -> Conflicts:
    """Find the rows that have the same or nearly the same features as a row with another label.

    Each column is divided by its standard deviation, or by a tenth of the median one if that is larger. With
    more than 100 columns, such as pixels, it is divided by the median one if that is larger: columns that are
    almost constant would dominate otherwise.

    Parameters
    ----------
    X : Tensor (n, d) or None
        Features; None to compare contents only.
    y : Tensor (n,), int64
        Given labels.
    hashes : ndarray (n,), uint64
        Fingerprints of the contents.
    """
    given = y.numpy()
    pairs = [_equal_rows(given, hashes)]
    if X is not None and 2 < len(X) <= MOST_ROWS:
        # Rows of equal content and label are one row here: they are no neighbours of each other.
        _, rows = np.unique(np.stack([hashes, given.astype(np.uint64)]), axis=1, return_index=True)
        rows.sort()
        near = _near_rows(_scaled(X[torch.from_numpy(rows)]), given[rows], hashes[rows])
        pairs.append((rows[near[0]], rows[near[1]], near[2]))
    one, other, similarity = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    order = np.lexsort((other, -similarity, one))
    one, other, similarity = one[order], other[order], similarity[order]
    positions, first = np.unique(one, return_index=True)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(given), len(given)))
    group = connected_components(graph, directed=False)[1][positions]
    return Conflicts(
        positions, other[first], similarity[first], np.unique(group, return_inverse=True)[1].astype(np.int64)
    )


def _equal_rows(y: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each row whose content occurs with another label, and the first such row."""
    order = np.lexsort((np.arange(len(y)), y, hashes))
    content = np.unique(hashes[order], return_inverse=True)[1]
    starts = np.flatnonzero(np.diff(content, prepend=-1))
    lowest = order[starts][content]  # a row of the smallest label, per row in order
    highest = order[np.append(starts[1:], len(y)) - 1][content]  # and of the largest
    other = np.where(y[lowest] != y[order], lowest, highest)
    found = y[other] != y[order]
    return order[found], other[found], np.ones(int(found.sum()))


def _scaled(X: Tensor) -> Tensor:
    """Return the columns on one scale, (n, d) float32; constant columns are left out."""
    X = X.float()
    X = X - X.mean(0, dtype=torch.float64).float()
    scale = X.square().mean(0, dtype=torch.float64).sqrt()
    kept = scale > 1e-7 * scale.max()
    if not kept.any():
        return X.new_zeros(len(X), 1)
    X, scale = X[:, kept], scale[kept]
    least = scale.median() if X.shape[1] > MANY_COLUMNS else 0.1 * scale.median()
    return X / scale.clamp(min=float(least)).float()


def _near_rows(X: Tensor, y: np.ndarray, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the near duplicates of other labels in both directions, and their similarities."""
    n, d = X.shape
    generator = torch.Generator().manual_seed(0)
    s = min(n, REFERENCES)
    references = torch.randperm(n, generator=generator)[:s]
    scale, dimension = _neighbour_distances(X, references, torch.from_numpy(hashes.view(np.int64)))
    factor = min((n**2 * NEIGHBOUR / (2 * s)) ** (-1 / dimension), LARGEST_FACTOR)
    limit = (factor * scale).square()
    P = X
    if d > PROJECTED:
        projection = torch.randn(d, PROJECTED, generator=generator) / PROJECTED**0.5
        P, limit = X @ projection, SLACK * limit
    norms, labels = P.square().sum(1), torch.from_numpy(y)
    # A squared distance is a difference of squared norms, with their rounding error.
    limit = (limit + 4e-7 * norms).float()
    ones, others, similarities = [], [], []
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        left, right = P[rows], P[start:]
        squared = (left @ right.T).mul_(-2).add_(norms[rows, None]).add_(norms[start:])
        near = (
            (squared <= limit[rows, None])
            & (squared <= limit[start:])
            & (labels[rows, None] != labels[start:])
        )
        i, j = near.nonzero(as_tuple=True)
        i, j = i + start, j + start
        for part in torch.arange(len(i)).split(BLOCK):
            a, b = i[part], j[part]
            distance = (X[a].double() - X[b].double()).square().sum(1).sqrt()
            least = torch.minimum(scale[a], scale[b])
            real = (b > a) & (distance <= factor * least) & (least > 0)
            ones.append(a[real])
            others.append(b[real])
            similarities.append((1 - distance / least)[real])
    one, other, similarity = (torch.cat(parts).numpy() for parts in (ones, others, similarities))
    return np.append(one, other), np.append(other, one), np.append(similarity, similarity)


def _neighbour_distances(X: Tensor, references: Tensor, hashes: Tensor) -> tuple[Tensor, float]:
    """Return the distance of each row to its q-th nearest reference (n,), float64, and the dimension m."""
    targets, n = X[references], len(X)
    norms = targets.square().sum(1)
    k = min(NEIGHBOURS, len(targets))
    nearest = torch.empty(n, k, dtype=torch.float64)
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        squared = (X[rows] @ targets.T).mul_(-2).add_(X[rows].square().sum(1)[:, None]).add_(norms)
        squared[hashes[rows, None] == hashes[references]] = torch.inf  # the row itself and its copies
        nearest[rows] = squared.topk(k, largest=False).values.double().clamp(min=0).sqrt()
    scale = nearest[:, min(NEIGHBOUR, k) - 1]
    scale = torch.where(scale.isfinite(), scale, 0)
    finite = nearest[nearest.isfinite().all(1) & (nearest[:, 0] > 0)]
    if not len(finite) or k < 4:
        return scale, 1.0
    mean = float((finite[:, -1:] / finite[:, 1:-1]).log().mean(1).median())
    expected = (k - 1 - sum(1 / j for j in range(1, k))) / (k - 2)
    return scale, max(expected / max(mean, 1e-6), 1.0)
