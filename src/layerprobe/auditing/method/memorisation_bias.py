"""What a network remembers of its training rows, told from what it understands, and taken out.

On a view of a training row a decoder may say the given label because it is right, or because the network
remembers the row. A posterior q_i(k) = P(true = k | row, given label), from layers that never saw a label,
tells the two apart: memory repeats it on all rows alike, understanding where q says that it is right.
With a share m of the rows remembered and accuracy a on the others, errors spread over the other classes,

    P(prediction = given) = m       + (1 - m) (a Q1 + (1 - a) (1 - Q1) / (K - 1)),   Q1 = mean q_i(given),
    E[q_i(prediction)]    = m Q1    + (1 - m) (a Q2 + (1 - a) (1 - Q2) / (K - 1)),   Q2 = mean sum_k q_i(k)^2,

two linear equations for 1 - m and (1 - m) a.
"""

import torch
from torch import Tensor

__all__ = ["NEARLY", "remembered", "without_memory"]

MOST = 0.5  # remembered by more, a candidate's few other rows say nothing of it
NEARLY = 0.15  # a view is remembered more than another by this at least


def remembered(predicted: Tensor, given: Tensor, posterior: Tensor) -> float:
    """Return the share m of rows whose given label is remembered, in [0, 1].

    Parameters
    ----------
    predicted, given : Tensor (m,), int64
    posterior : Tensor (m, K), float64
        Probabilities of the true classes, from what never saw a label.
    """
    kept, _, _ = _solve(predicted, given, posterior)
    return min(max(1 - kept, 0.0), 1.0)


def without_memory(predicted: Tensor, given: Tensor, posterior: Tensor) -> Tensor:
    """Return each row's agreement with its given label, what is remembered taken out, (m,) float64.

    The mean is the agreement P(prediction = given) that the same accuracy a would give without any memory; a
    row's value is its share in that estimate, so that intervals and comparisons go row by row as of any mean
    (single values may lie outside [0, 1]). Where nothing is remembered that is plain agreement, and chance
    where more than half is.

    Parameters
    ----------
    predicted, given, posterior
        As for :func:`remembered`.
    """
    agree = (predicted == given).double()
    kept, accuracy, weights = _solve(predicted, given, posterior)
    if kept >= 1:
        return agree
    K = posterior.shape[1]
    if kept < 1 - MOST:
        return torch.full_like(agree, 1 / K)
    backed = posterior.gather(1, predicted[:, None]).squeeze(1)
    right = posterior.gather(1, given[:, None]).mean()
    error = (1 - right) / (K - 1)
    by_agreement, by_posterior = weights
    own = accuracy + (by_agreement * (agree - agree.mean()) + by_posterior * (backed - backed.mean())) / kept
    return error + (right - error) * own


def _solve(predicted: Tensor, given: Tensor, posterior: Tensor) -> tuple[float, float, tuple[float, float]]:
    """Return 1 - m, a, and (1 - m) times the derivatives of a by the two observed means."""
    others = posterior.shape[1] - 1
    q1 = float(posterior.gather(1, given[:, None]).mean())
    q2 = float(posterior.square().sum(1).mean())
    u, v = (1 - q1) / others, (1 - q2) / others
    agreement = float((predicted == given).double().mean()) - 1
    backing = float(posterior.gather(1, predicted[:, None]).mean()) - q1
    determinant = (q1 - v) * (q1 - u) - (1 - u) * (q2 - v)
    if abs(determinant) < 1e-3:  # the posterior knows no more than the labels: nothing can be told apart
        return 1.0, 0.0, (0.0, 0.0)
    kept = (agreement * (q2 - v) - backing * (q1 - u)) / determinant
    accuracy = (agreement * (q1 - v) - backing * (1 - u)) / determinant / (kept or 1.0)
    by_agreement = ((q1 - v) - accuracy * (q2 - v)) / determinant
    by_posterior = (accuracy * (q1 - u) - (1 - u)) / determinant
    return kept, accuracy, (by_agreement, by_posterior)
