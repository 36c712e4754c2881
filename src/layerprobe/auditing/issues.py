"""Which labels are wrong: scores, flags and suggestions, with the precision that is to be expected."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

__all__ = ["find_issues", "flag", "score_text"]

COLUMNS = ["index", "given_label", "suggested_label", "label_score", "is_label_issue", "margin"]


def find_issues(
    scores: Tensor, posterior: Tensor, given: Tensor, index: np.ndarray, classes: np.ndarray
) -> tuple[pd.DataFrame, float]:
    """Return one row a training row, and the expected precision of the flags.

    Parameters
    ----------
    scores : Tensor (n, K)
        The decoder's, of each row by the fit without it.
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    given : Tensor (n,), int64
    index : ndarray (n,)
        Names of the rows.
    classes : ndarray (K,)
        Names of the classes.

    Returns
    -------
    DataFrame
        index, given_label, suggested_label, label_score (the probability that the given label is right),
        is_label_issue, margin (the given label's score less the best other's: negative where the decoder
        disagrees).
    float
        The mean probability that a flagged label is wrong; NaN without flags.
    """
    own = posterior.gather(1, given[:, None]).squeeze(1)
    flags = flag(posterior, given)
    rivals = scores.scatter(1, given[:, None], -torch.inf).amax(1)
    margin = scores.gather(1, given[:, None]).squeeze(1) - rivals
    frame = pd.DataFrame(
        {
            "index": index,
            "given_label": classes[given.numpy()],
            "suggested_label": classes[posterior.argmax(1).numpy()],
            "label_score": own.clamp(0, 1).numpy(),
            "is_label_issue": flags.numpy(),
            "margin": margin.numpy(),
        }
    )
    expected = float(1 - own[flags].mean()) if flags.any() else float("nan")
    return frame, expected


def flag(posterior: Tensor, given: Tensor) -> Tensor:
    """Flag as many rows of every pair of classes as labels are expected to be wrong in this way, (n,) bool.

    Of rows with given label j whose likeliest class is i, those with the smallest probability of being right
    are flagged: as many as the posterior expects errors from i to j in all.
    """
    K = posterior.shape[1]
    likeliest = posterior.argmax(1)
    own = posterior.gather(1, given[:, None]).squeeze(1)
    expected = torch.zeros(K, K, dtype=torch.float64).index_add_(0, given, posterior.double())  # given x true
    flags = torch.zeros(len(given), dtype=torch.bool)
    for j in range(K):
        for i in range(K):
            rows = ((given == j) & (likeliest == i)).nonzero().squeeze(1) if i != j else given[:0]
            count = min(len(rows), round(float(expected[j, i])))
            if count:
                flags[rows[own[rows].argsort(stable=True)[:count]]] = True
    return flags


def score_text(score: float) -> str:
    """Write a label's score with three digits; a probability is never nothing."""
    return f"{score:.3f}" if not 0 < score < 0.0005 else "< 0.001"
