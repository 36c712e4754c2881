"""From posterior probabilities to flagged labels and repaired labels."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.errors import InputError

__all__ = ["RELABEL_POLICIES", "RepairedLabels", "find_issues", "flag", "relabel", "score_text"]

RELABEL_POLICIES = ("all", "confident", "soft", "prune")
MARGIN = 0.5  # a suggestion must be more likely than the given label by this much
COLUMNS = ["index", "given_label", "suggested_label", "label_score", "is_label_issue", "margin"]


def find_issues(
    scores: Tensor, posterior: Tensor, y: Tensor, index: np.ndarray, classes: np.ndarray
) -> tuple[pd.DataFrame, float]:
    """Return the table of label issues, and the expected precision of the flags.

    Parameters
    ----------
    scores : Tensor (n, K)
        Of each row by the fit without it.
    posterior : Tensor (n, K)
        P(true = k | row, given label).
    y : Tensor (n,), int64
        Given labels.
    index : ndarray (n,)
        Names of the rows.
    classes : ndarray (K,)
        Names of the classes.

    Returns
    -------
    issues : DataFrame
        One row per training row: index, given_label, suggested_label, label_score (the probability that the
        given label is right), is_label_issue, margin (score of the given label minus the best other score).
    expected_precision : float
        Mean probability that a flagged label is wrong; NaN without flags.
    """
    own = posterior.gather(1, y[:, None]).squeeze(1)
    flags = flag(posterior, y)
    best_other = scores.scatter(1, y[:, None], -torch.inf).amax(1)
    margin = scores.gather(1, y[:, None]).squeeze(1) - best_other
    columns = (
        index,
        classes[y.numpy()],
        classes[posterior.argmax(1).numpy()],
        own.clamp(0, 1).numpy(),
        flags.numpy(),
        margin.numpy(),
    )
    frame = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
    return frame, float(1 - own[flags].mean()) if flags.any() else float("nan")


def flag(posterior: Tensor, y: Tensor) -> Tensor:
    """Flag labels that are probably wrong, (n,) bool.

    For each pair of classes, the rows with given label j and most likely class i are ranked by the
    probability of the given label. The lowest are flagged, as many as the posterior expects errors from i to
    j. This is the pruning by noise rate of confident learning (Northcutt et al., JAIR 2021), with expected
    counts.

    Parameters
    ----------
    posterior : Tensor (n, K)
    y : Tensor (n,), int64
        Given labels.
    """
    K = posterior.shape[1]
    likeliest = posterior.argmax(1)
    own = posterior.gather(1, y[:, None]).squeeze(1)
    expected = torch.zeros(K, K, dtype=torch.float64).index_add_(0, y, posterior.double())  # given x true
    flags = torch.zeros(len(y), dtype=torch.bool)
    for j in range(K):
        for i in range(K):
            rows = ((y == j) & (likeliest == i)).nonzero().squeeze(1) if i != j else y[:0]
            count = min(len(rows), round(float(expected[j, i])))
            if count:
                flags[rows[own[rows].argsort(stable=True)[:count]]] = True
    return flags


def score_text(score: float) -> str:
    """Format a label score with three digits; small positive scores become "< 0.001"."""
    return f"{score:.3f}" if not 0 < score < 0.0005 else "< 0.001"


@dataclass(frozen=True, eq=False)
class RepairedLabels:
    """A repaired label set.

    Attributes
    ----------
    policy : str
        "all", "confident", "soft" or "prune"; "keep" if nothing was changed.
    labels : ndarray of shape (n,)
        One label per row, in the user's names; the most likely one for "soft".
    targets : ndarray of shape (n, K)
        The labels as probabilities; one-hot except for "soft".
    kept : ndarray of shape (n,), bool
        Rows to train on; all except for "prune".
    changed : ndarray of shape (n,), bool
    wrong_before, wrong_after : float
        Expected share of wrong labels before, and afterwards among the rows to train on.
    """

    policy: str
    labels: np.ndarray
    targets: np.ndarray
    kept: np.ndarray
    changed: np.ndarray
    wrong_before: float
    wrong_after: float


def relabel(
    policy: str,
    probabilities: Tensor,
    posterior: Tensor,
    y: Tensor,
    flags: Tensor,
    classes: np.ndarray,
    *,
    margin: float = MARGIN,
) -> RepairedLabels:
    """Return a repaired label set.

    Parameters
    ----------
    policy : {"all", "confident", "soft", "prune", "keep"}
        "all": the prediction for every row, as in the paper. "confident": the suggestion where it is more
        likely than the given label by `margin`. "soft": probabilities of all classes. "prune": the given
        labels without the flagged rows. "keep": the given labels.
    probabilities, posterior : Tensor (n, K)
        Class probabilities without and with use of the given label.
    y : Tensor (n,), int64
        Given labels.
    flags : Tensor (n,), bool
    classes : ndarray (K,)
        Names of the classes.
    margin : float
        In [0, 1].

    Raises
    ------
    InputError
        If the policy is unknown, or the margin is outside [0, 1].
    """
    if policy not in (*RELABEL_POLICIES, "keep"):
        raise InputError(f"expected a policy of {', '.join(RELABEL_POLICIES)}, got {policy!r}")
    if not 0 <= margin <= 1:
        raise InputError(f"margin is a difference of probabilities in [0, 1], got {margin!r}")
    own = posterior.gather(1, y[:, None]).squeeze(1)
    highest, likeliest = posterior.max(1)
    labels, kept = y, torch.ones(len(y), dtype=torch.bool)
    if policy == "all":
        labels = probabilities.argmax(1)
    elif policy == "confident":
        labels = torch.where(highest - own >= margin, likeliest, y)
    elif policy == "soft":
        labels = likeliest
    elif policy == "prune":
        kept = ~flags
    one_hot = torch.nn.functional.one_hot(labels, posterior.shape[1])
    right = posterior.gather(1, labels[:, None]).squeeze(1)
    return RepairedLabels(
        policy,
        classes[labels.numpy()],
        (posterior if policy == "soft" else one_hot).double().numpy(),
        kept.numpy(),
        (labels != y).numpy(),
        float(1 - own.mean()),
        float(1 - right[kept].mean()) if kept.any() else float("nan"),
    )
