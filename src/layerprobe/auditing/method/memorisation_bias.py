"""Estimate and remove memorisation bias from accuracies on views of the training rows.

A prediction for a view of a training row can equal the given label because it is correct, or because the
network has memorised the row. Let q_i(k) = P(true = k | row i, given label), from a layer that does not
depend on the labels. Memorised predictions repeat the given label on all rows alike; correct predictions do
so where q supports the given label. Let a share m of the rows be memorised, and let a be the accuracy on the
others, with errors spread evenly over the other classes. Then

    P(prediction = given) = m       + (1 - m) (a Q1 + (1 - a) (1 - Q1) / (K - 1)),   Q1 = mean q_i(given),
    E[q_i(prediction)]    = m Q1    + (1 - m) (a Q2 + (1 - a) (1 - Q2) / (K - 1)),   Q2 = mean sum_k q_i(k)^2,

two linear equations for 1 - m and (1 - m) a.
"""

import torch
from torch import Tensor

__all__ = ["VIEW_TOLERANCE", "memorisation_corrected", "memorised_share"]

MAX_SHARE = 0.5  # with a larger memorised share the remaining rows are too few to estimate an accuracy
VIEW_TOLERANCE = 0.15  # views whose memorised shares differ by less count as equally memorised


def memorised_share(predicted: Tensor, y: Tensor, posterior: Tensor) -> float:
    """Return the estimated share m of memorised rows, in [0, 1].

    Parameters
    ----------
    predicted, y : Tensor (m,), int64
        Predicted and given labels.
    posterior : Tensor (m, K), float64
        Probabilities of the true classes from a layer that does not depend on the labels.
    """
    not_memorised, _, _ = _solve(predicted, y, posterior)
    return min(max(1 - not_memorised, 0.0), 1.0)


def memorisation_corrected(predicted: Tensor, y: Tensor, posterior: Tensor) -> Tensor:
    """Return each row's agreement with its given label, corrected for memorisation.

    The mean is the agreement P(prediction = given) that the same accuracy a would give without memorisation.
    A row's value is its linearised share of that estimate, so that intervals and paired comparisons work as
    for any mean; single values may lie outside [0, 1]. Without memorisation the result is plain agreement.
    With more than half of the rows memorised it is the chance level 1 / K.

    Parameters
    ----------
    predicted, y, posterior
        As for :func:`memorised_share`.

    Returns
    -------
    Tensor (m,), float64
    """
    agree = (predicted == y).double()
    not_memorised, accuracy, (by_agreement, by_posterior) = _solve(predicted, y, posterior)
    if not_memorised >= 1:
        return agree
    K = posterior.shape[1]
    if not_memorised < 1 - MAX_SHARE:
        return torch.full_like(agree, 1 / K)
    support = posterior.gather(1, predicted[:, None]).squeeze(1)
    right = posterior.gather(1, y[:, None]).mean()
    error = (1 - right) / (K - 1)
    deviation = by_agreement * (agree - agree.mean()) + by_posterior * (support - support.mean())
    return error + (right - error) * (accuracy + deviation / not_memorised)


def _solve(predicted: Tensor, y: Tensor, posterior: Tensor) -> tuple[float, float, tuple[float, float]]:
    """Return 1 - m, a, and (1 - m) times the derivatives of a with respect to the two observed means."""
    others = posterior.shape[1] - 1
    q1 = float(posterior.gather(1, y[:, None]).mean())
    q2 = float(posterior.square().sum(1).mean())
    u, v = (1 - q1) / others, (1 - q2) / others
    agreement = float((predicted == y).double().mean()) - 1
    support = float(posterior.gather(1, predicted[:, None]).mean()) - q1
    determinant = (q1 - v) * (q1 - u) - (1 - u) * (q2 - v)
    if abs(determinant) < 1e-3:  # the posterior adds nothing to the labels: m and a are not identifiable
        return 1.0, 0.0, (0.0, 0.0)
    not_memorised = (agreement * (q2 - v) - support * (q1 - u)) / determinant
    accuracy = (agreement * (q1 - v) - support * (1 - u)) / determinant / (not_memorised or 1.0)
    by_agreement = ((q1 - v) - accuracy * (q2 - v)) / determinant
    by_posterior = (accuracy * (q1 - u) - (1 - u)) / determinant
    return not_memorised, accuracy, (by_agreement, by_posterior)
