"""HOC, the noise rates from the labels of neighbours (Zhu et al., 2021)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from layerprobe.baselines.base import (
    Detector,
    ScoresAndFlags,
    check_labels,
    check_values,
    lowest_per_class,
    neighbours,
)
from layerprobe.utils.memory_limit import require_memory
from layerprobe.utils.settings import default_settings

STEPS, LEARNING_RATE = 500, 0.1  # of Adam, as in the published code


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
        return scores, lowest_per_class(scores, y, 1 - rates.right_given_label)


def label_triples(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the labels of each row and its two nearest rows, (n, 3).

    Parameters
    ----------
    X : ndarray (n, d)
    y : ndarray (n,), int64
    """
    nearest = neighbours(X, 2, "cosine")
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
