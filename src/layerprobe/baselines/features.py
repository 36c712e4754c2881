"""Detectors that read the outputs of one layer: deep k nearest neighbours, SimiFeat, HOC, FINE."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from layerprobe.baselines.base import Detector, ScoresAndFlags, check_labels, check_values, upper_component
from layerprobe.core.checks import check_count
from layerprobe.utils.memory_limit import require_memory
from layerprobe.utils.settings import default_settings

STEPS, LEARNING_RATE = 500, 0.1  # of Adam, as in the published code of HOC


class DeepKNN(Detector):
    """Share of the k nearest rows that have the same label, by Euclidean distance in a layer.

    s_i = share of y_i among the labels of the k nearest other rows. A label is flagged if the nearest rows
    predict another one.

    Parameters
    ----------
    k : int, optional
        Default: 1 % of the rows, and at least 10. (The publication uses 500 of 50,000 rows.)

    References
    ----------
    D. Bahri, H. Jiang, M. Gupta, "Deep k-NN for noisy labels", ICML 2020.
    """

    reads: ClassVar[str] = "features"

    def __init__(self, k: int | None = None) -> None:
        if k is not None:
            check_count("k", k)
        self.k = k

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        k = max(10, len(y) // 100) if self.k is None else self.k
        shares, own = _shares(values, y, num_classes, k, "euclidean")
        return own, shares.argmax(1) != y


class SimiFeatVote(Detector):
    """Vote of the k nearest rows by cosine distance.

    With the shares q_i (K,) of the labels of the k nearest other rows, s_i = q_i[y_i], and a label is flagged
    if argmax q_i is another one. The publication repeats this for random transforms of the inputs; here the
    features are given once, for example averaged over such views.

    Parameters
    ----------
    k : int, default 10

    References
    ----------
    Z. Zhu, Z. Dong, Y. Liu, "Detecting corrupted labels without training a model to predict", ICML 2022.
    """

    reads: ClassVar[str] = "features"

    def __init__(self, k: int = 10) -> None:
        check_count("k", k)
        self.k = k

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        shares, own = _shares(values, y, num_classes, self.k, "cosine")
        return own, shares.argmax(1) != y


class SimiFeatRank(SimiFeatVote):
    """Rank of the similarity between a label and the labels of the k nearest rows by cosine distance.

    With the shares q_i (K,) of the labels of the k nearest other rows, ``s_i = q_i[y_i] / |q_i|``, the cosine
    of q_i and the label as a one-hot vector. Among the N_j rows of given label j the N_j (1 - P(true = j |
    given = j)) rows with the lowest scores are flagged; :class:`HOC` estimates this probability.

    Parameters
    ----------
    k : int, default 10

    References
    ----------
    Z. Zhu, Z. Dong, Y. Liu, "Detecting corrupted labels without training a model to predict", ICML 2022.
    """

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        shares, own = _shares(values, y, num_classes, self.k, "cosine")
        scores = own / np.linalg.norm(shares, axis=1)
        rates = rates_of_triples(label_triples(values, y), num_classes)
        return scores, _lowest_per_class(scores, y, rates)


@dataclass(frozen=True, eq=False)
class NoiseRates:
    """Noise rates by HOC.

    Attributes
    ----------
    prior : ndarray (K,)
        P(true = k).
    transition : ndarray (K, K)
        P(given = j | true = k) in row k.
    """

    prior: np.ndarray
    transition: np.ndarray

    @property
    def rate(self) -> float:
        """Share of wrong labels, 1 - sum over k of P(true = k) P(given = k | true = k)."""
        return float(1 - self.prior @ self.transition.diagonal())

    @property
    def right_given_label(self) -> np.ndarray:
        """P(true = k | given = k), (K,); one for a label that is never given."""
        given = self.prior @ self.transition
        right = self.prior * self.transition.diagonal()
        return np.divide(right, given, out=np.ones_like(given), where=given > 0)


class HOC(Detector):
    """Noise rates from the agreement of each label with those of the two nearest rows.

    Assumption (clusterability): a row and its two nearest rows by cosine distance have the same true class,
    and their labels are drawn independently given it. With the prior p (K,) and the transition matrix T the
    probabilities of the labels of one, two and three such rows are

        c1[i] = sum_k p_k T_ki,   c2[i, j] = sum_k p_k T_ki T_kj,   c3[i, j, l] = sum_k p_k T_ki T_kj T_kl.

    p and T minimise the sum of the Frobenius norms of the differences from the observed shares;
    :meth:`estimate` returns them. They imply a score, which the publication does not use: the posterior
    P(true = y_i) given the three labels,

        s_i = p_k T_ka T_kb T_kc / (sum over all classes k of this), at k = a = y_i,

    with the labels a, b, c of the row and its two neighbours. The rows of given label j with the lowest
    scores are flagged, as many as P(true = j | given = j) states.

    References
    ----------
    Z. Zhu, Y. Song, Y. Liu, "Clusterability as an alternative to anchor points when learning with noisy
    labels", ICML 2021.
    """

    reads: ClassVar[str] = "features"

    def estimate(self, features: Any, labels: Any) -> NoiseRates:
        """Estimate the prior and the transition matrix.

        Parameters
        ----------
        features : array or Tensor (n, d)
        labels : sequence of n labels

        Returns
        -------
        NoiseRates
            Classes in sorted order.

        Raises
        ------
        InputError
            As for :meth:`Detector.score`.
        """
        X = check_values(features, self.reads)
        y, num_classes = check_labels(labels, len(X), None)
        return rates_of_triples(label_triples(X, y), num_classes)

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        triples = label_triples(values, y)
        rates = rates_of_triples(triples, num_classes)
        likelihood = rates.prior * rates.transition.T[triples].prod(1)  # (n, K)
        scores = likelihood[np.arange(len(y)), y] / likelihood.sum(1)
        return scores, _lowest_per_class(scores, y, rates)


def label_triples(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the labels of each row and its two nearest rows, (n, 3).

    Parameters
    ----------
    X : ndarray (n, d)
    y : ndarray (n,), int64
    """
    nearest = _neighbours(X, 2, "cosine")
    if nearest.shape[1] < 2:  # two rows only: each has one neighbour
        nearest = np.repeat(nearest, 2, axis=1)
    return np.column_stack([y, y[nearest]])


@default_settings(gradients=True)
def rates_of_triples(triples: np.ndarray, num_classes: int) -> NoiseRates:
    """Estimate the noise rates from the labels of each row and its two nearest rows.

    Parameters
    ----------
    triples : ndarray (n, 3), int64
    num_classes : int
        K.
    """
    K = num_classes
    require_memory(6 * 8 * K**3, "the shares of HOC", "leave out hoc and simifeat_rank for so many classes")
    c3 = np.bincount(triples @ [K * K, K, 1], minlength=K**3).reshape(K, K, K) / len(triples)
    c2 = np.bincount(triples[:, :2] @ [K, 1], minlength=K**2).reshape(K, K) / len(triples)
    c1 = np.bincount(triples[:, 0], minlength=K) / len(triples)
    observed = [torch.from_numpy(c) for c in (c1, c2, c3)]

    # Start as the published code: the classes are equally frequent, and most labels are right.
    T_logits = 5 * torch.eye(K, dtype=torch.float64) - 1
    logits = torch.cat([torch.zeros(K, dtype=torch.float64), T_logits.flatten()]).requires_grad_()
    first, second = torch.zeros_like(logits), torch.zeros_like(logits)  # moments of the gradient
    best, least = (logits[:K], T_logits), float("inf")
    # Adam (Kingma and Ba, 2015), not that of torch.optim, which imports torch._dynamo for seconds.
    for step in range(1, STEPS + 1):
        p, T = logits[:K].softmax(0), logits[K:].view(K, K).softmax(1)
        pT = p[:, None] * T
        expected = (p @ T, pT.T @ T, torch.einsum("ki,kj,kl->ijl", pT, T, T))
        loss = torch.stack([(c - o).norm() for c, o in zip(expected, observed, strict=True)]).sum()
        if loss.item() < least:
            best, least = (p.detach(), T.detach()), loss.item()
        (gradient,) = torch.autograd.grad(loss, logits)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        with torch.no_grad():
            logits -= LEARNING_RATE * first / (1 - 0.9**step) / scale
    return NoiseRates(best[0].numpy(), best[1].numpy())


def _neighbours(X: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Return the indices of the k nearest other rows, nearest first, (n, min(k, n - 1))."""
    if metric == "cosine":  # scikit-learn takes rows shorter than 1e-15 for zero
        X = np.ldexp(X, -np.frexp(np.abs(X).max(1, keepdims=True))[1])
    search = NearestNeighbors(n_neighbors=min(k, len(X) - 1), metric=metric, algorithm="brute").fit(X)
    return search.kneighbors(return_distance=False)


def _shares(
    X: np.ndarray, y: np.ndarray, num_classes: int, k: int, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of each class among the labels of the k nearest rows (n, K), and of the given one."""
    labels = y[_neighbours(X, k, metric)]  # (n, k)
    shares = np.stack([(labels == c).mean(1) for c in range(num_classes)], axis=1)
    return shares, shares[np.arange(len(y)), y]


def _lowest_per_class(scores: np.ndarray, y: np.ndarray, rates: NoiseRates) -> np.ndarray:
    """Flag the lowest scores of each given label, as many as are wrong by the noise rates, (n,) bool."""
    flags = np.zeros(len(y), dtype=bool)
    for k, right in enumerate(rates.right_given_label):
        rows = np.flatnonzero(y == k)
        flags[rows[scores[rows].argsort(kind="stable")[: round((1 - right) * len(rows))]]] = True
    return flags


class FINE(Detector):
    """Alignment with the first eigenvector of the given class, and a mixture model per class.

    For each class k, u_k is the first eigenvector of the Gram matrix, the sum of x_i x_i^T over the rows with
    given label k. The alignment of a row is its squared cosine with the eigenvector of its given label::

        a_i = (u_{y_i}^T x_i)^2 / |x_i|^2.

    The alignments of each class are modelled by two Gaussians; s_i is the probability of the component with
    the larger mean, and labels are flagged below `threshold`. The alignment is the score of
    ``MASC(components=1)`` for the given label; MASC compares the scores of all classes.

    Parameters
    ----------
    threshold : float, default 0.5
    mixture : bool, default True
        Whether the score is the probability of the component; with False it is the alignment itself.

    References
    ----------
    T. Kim, J. Ko, S. Cho, J. Choi, S.-Y. Yun, "FINE samples for learning with noisy labels", NeurIPS 2021.
    """

    reads: ClassVar[str] = "features"

    def __init__(self, threshold: float = 0.5, *, mixture: bool = True) -> None:
        self.threshold = threshold
        self.mixture = mixture

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        alignment, clean = np.zeros(len(y)), np.ones(len(y))
        for k in range(num_classes):
            rows = np.flatnonzero(y == k)
            X = values[rows].astype(np.float64)
            u = _first_eigenvector(X)
            alignment[rows] = (X @ u) ** 2 / np.maximum((X**2).sum(1), np.finfo(np.float64).tiny)
            clean[rows] = upper_component(alignment[rows], tolerance=1e-6, ridge=1e-6)
        return (clean if self.mixture else alignment), clean < self.threshold


def _first_eigenvector(X: np.ndarray) -> np.ndarray:
    """Return the unit eigenvector of the largest eigenvalue of X^T X, (d,), for rows X (n, d)."""
    if len(X) >= X.shape[1]:
        return np.linalg.eigh(X.T @ X)[1][:, -1]
    u = X.T @ np.linalg.eigh(X @ X.T)[1][:, -1]
    return u / (np.linalg.norm(u) or 1.0)
