"""Better labels: which to change, and how many wrong ones are left to expect."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerprobe.errors import InputError

__all__ = ["RELABEL_POLICIES", "Relabelled", "relabel"]

RELABEL_POLICIES = ("all", "confident", "soft", "prune")
MARGIN = 0.5  # by which a suggestion must be likelier than the given label


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A repaired label set.

    Attributes
    ----------
    policy : str
        "all", "confident", "soft" or "prune"; "keep" if nothing was changed.
    labels : ndarray of shape (n,)
        A label a row, in row order and by the user's names; of "soft" the likeliest.
    targets : ndarray of shape (n, K)
        The same as probabilities; one-hot but for "soft".
    kept : ndarray of shape (n,), bool
        Rows to train on; all but for "prune".
    changed : ndarray of shape (n,), bool
    wrong_before, wrong_after : float
        Expected share of wrong labels among the rows to train on.
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
    given: Tensor,
    flags: Tensor,
    classes: np.ndarray,
    *,
    margin: float = MARGIN,
) -> Relabelled:
    """Change labels by a policy.

    Parameters
    ----------
    policy : {"all", "confident", "soft", "prune", "keep"}
        "all": the decoder's prediction for every row, as the paper does. "confident": the suggestion where it
        is likelier than the given label by `margin`. "soft": the probabilities of all classes. "prune":
        labels stay, flagged rows go.
    probabilities, posterior : Tensor (n, K)
        Without and with a look at the given label.
    given : Tensor (n,), int64
    flags : Tensor (n,), bool
    classes : ndarray (K,)
    margin : float
        In [0, 1].

    Raises
    ------
    InputError
        If there is no such policy, or the margin is no share.
    """
    if policy not in (*RELABEL_POLICIES, "keep"):
        raise InputError(f"expected a policy of {', '.join(RELABEL_POLICIES)}, got {policy!r}")
    if not 0 <= margin <= 1:
        raise InputError(f"margin is a difference of probabilities in [0, 1], got {margin!r}")
    K = posterior.shape[1]
    own = posterior.gather(1, given[:, None]).squeeze(1)
    labels, kept = given.clone(), torch.ones(len(given), dtype=torch.bool)
    if policy == "all":
        labels = probabilities.argmax(1)
    elif policy == "confident":
        likeliest = posterior.max(1)
        labels = torch.where(likeliest.values - own >= margin, likeliest.indices, given)
        labels = torch.where(likeliest.indices == given, given, labels)
    elif policy == "soft":
        labels = posterior.argmax(1)
    elif policy == "prune":
        kept = ~flags
    targets = posterior if policy == "soft" else torch.nn.functional.one_hot(labels, K).double()
    right = posterior.gather(1, labels[:, None]).squeeze(1)
    return Relabelled(
        policy,
        classes[labels.numpy()],
        targets.double().numpy(),
        kept.numpy(),
        (labels != given).numpy(),
        float(1 - own.mean()),
        float(1 - right[kept].mean()) if kept.any() else float("nan"),
    )
