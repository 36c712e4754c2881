"""By what layer, probe and strength are chosen: named policies, and those that are refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerprobe.auditing.features import Features
from layerprobe.auditing.method.decoder import fold_of
from layerprobe.auditing.method.memorisation_bias import NEARLY, remembered, without_memory
from layerprobe.errors import InputError

__all__ = [
    "POLICIES",
    "Jury",
    "check_policy",
    "halves_for_testing",
    "juries_of_rows",
    "jury_of_rows",
    "jury_of_views",
]

POLICIES = {
    "noisy_holdout": "holdout",
    "unseen_views": None,
    "trusted": "trusted",
    "test_split": "test",
}
"""The policies, and the argument that each needs."""
_FOOLED = (
    "the features of a row that the network was trained on already contain its label, so that such a score "
    "is highest at the most memorised layer"
)
REFUSED = dict.fromkeys(
    ("in_sample", "training", "leave_one_out", "loo", "cross_validation", "out_of_fold", "cv"), _FOOLED
)
FEWEST = 20  # rows held out that can judge anything
MOST_ROWS = 10_000  # whose views are judged: enough for half a point of standard error


@dataclass(frozen=True, eq=False)
class Jury:
    """What candidates are judged by.

    Attributes
    ----------
    fitted_on : mapping of str to Tensor (n, d)
        The training rows' outputs that candidates are fitted on.
    copies : sequence of mapping of str to Tensor (m, d)
        The outputs of the rows that judge: once, or once for each view.
    labels : Tensor (m,), int64
        What is right for the policy: noisy labels or true ones.
    clean : bool
        Whether these labels are true.
    logits : sequence of Tensor (m, K)
        The network's own answers to each copy; empty without a network.
    averaged : Tensor (m, K) or None
        Its probabilities averaged over the views.
    of_views : bool
        Whether these are views of the training rows, of which a network still knows some labels.
    posterior : Tensor (m, K) or None
        Of views: probabilities of the true classes from what never saw a label, by which memory is taken out.
    """

    fitted_on: Mapping[str, Tensor]
    copies: Sequence[Mapping[str, Tensor]]
    labels: Tensor
    clean: bool
    logits: Sequence[Tensor]
    averaged: Tensor | None
    of_views: bool = False
    posterior: Tensor | None = None

    def correct(self, scores: Sequence[Tensor]) -> Tensor:
        """Return the share of each row's copies whose largest score is the label, memory taken out, (m,)."""
        return torch.stack([self._right(s.argmax(1)) for s in scores]).mean(0)

    def _right(self, predicted: Tensor) -> Tensor:
        if self.posterior is None:
            return (predicted == self.labels).double()
        return without_memory(predicted, self.labels, self.posterior)

    def least_remembered(self, posterior: Tensor) -> list[int]:
        """Return which copies the head remembers least: some views it knows much better than others.

        Parameters
        ----------
        posterior : Tensor (m, K)
            Probabilities of the rows' true classes from what never saw a label.
        """
        known = [remembered(logits.argmax(1), self.labels, posterior) for logits in self.logits]
        if not known:
            return list(range(len(self.copies)))
        return [i for i, share in enumerate(known) if share <= min(known) + NEARLY]

    def forgetting(self, posterior: Tensor, places: Sequence[int]) -> "Jury":
        """Return the jury of these copies alone that takes out what is remembered by that posterior."""
        return replace(
            self,
            copies=[self.copies[i] for i in places],
            logits=[self.logits[i] for i in places if self.logits],
            posterior=posterior,
        )

    def part(self, rows: Tensor) -> "Jury":
        """Return the jury of some of the rows."""
        return Jury(
            self.fitted_on,
            [{layer: outputs[rows] for layer, outputs in copy.items()} for copy in self.copies],
            self.labels[rows],
            self.clean,
            [logits[rows] for logits in self.logits],
            None if self.averaged is None else self.averaged[rows],
            self.of_views,
        )


def check_policy(policy: str, given: Mapping[str, Any], *, views: bool) -> None:
    """Demand a policy that exists and just what it needs.

    Parameters
    ----------
    policy : str
    given : mapping of str to anything
        The arguments "holdout", "trusted" and "test"; None for those that are not given.
    views : bool
        Whether there are views.

    Raises
    ------
    InputError
        If there is no such policy, it is one of those refused, or its argument is missing.
    """
    offered = "; ".join(
        f"{name} needs {'views=' if needs is None else needs + '='}" for name, needs in POLICIES.items()
    )
    if policy in REFUSED:
        raise InputError(f"{policy!r} cannot choose a layer: {REFUSED[policy]}. What can: {offered}")
    if policy not in POLICIES:
        raise InputError(f"expected a policy by which the layer is chosen, got {policy!r}: {offered}")
    needs = POLICIES[policy]
    if needs is None and not views:
        raise InputError(
            "unseen_views judges by views of the training rows that the network has not seen; say which keep "
            "the label, as in views=('flip', 'right', 'down')"
        )
    if needs is not None and given[needs] is None:
        raise InputError(f"the policy {policy!r} judges by rows that it is given; pass {needs}=")
    if extra := [name for name, value in given.items() if value is not None and name != needs]:
        raise InputError(f"the policy {policy!r} does not look at {extra[0]}=; leave it out")


def jury_of_rows(train: Features, held: Features, labels: Tensor, *, clean: bool) -> Jury:
    """Judge by rows that the network was not trained on, averaged over their views as they will be later."""
    logits = [] if held.logits is None else [held.logits]
    averaged = None if held.mean is held.own else held.probabilities  # without views that is the head again
    return Jury(train.mean, [held.mean], labels, clean, logits, averaged)


def juries_of_rows(
    policy: str, train: Features, held: Features, labels: Tensor, fingerprints: np.ndarray
) -> tuple[Jury, Jury]:
    """Return what chooses and what measures, for every policy that judges by rows held out.

    Parameters
    ----------
    policy : {"noisy_holdout", "trusted", "test_split"}
    train, held : Features
        Of n training rows and of m rows held out.
    labels : Tensor (m,), int64
    fingerprints : ndarray (m,)

    Raises
    ------
    InputError
        If there are fewer rows than could tell one candidate from another.
    """
    if len(labels) < FEWEST:
        raise InputError(
            f"expected at least {FEWEST} rows as {POLICIES[policy]}=, better 1,000, got {len(labels)}: "
            "so few cannot tell which layer knows better"
        )
    jury = jury_of_rows(train, held, labels, clean=policy != "noisy_holdout")
    if policy != "test_split":
        return jury, jury
    chooses, measures = halves_for_testing(labels, fingerprints)
    return jury.part(chooses), jury.part(measures)


def jury_of_views(train: Features, codes: Tensor) -> Jury:
    """Judge by views of the training rows, against their noisy labels; fitted on the rows as they are."""
    copies = list(train.copies.values())
    logits = [copy.logits for copy in copies if copy.logits is not None]
    averaged = torch.stack([each.softmax(1) for each in logits]).mean(0) if logits else None
    labels = codes[torch.from_numpy(train.kept)]
    return Jury(train.own, [copy.own for copy in copies], labels, False, logits, averaged, of_views=True)


def halves_for_testing(labels: Tensor, fingerprints: np.ndarray) -> tuple[Tensor, Tensor]:
    """Split test rows as the paper does: a fifth that chooses and the rest, which measures (METHOD 4.4)."""
    folds = fold_of(labels.numpy(), fingerprints)
    chooses = torch.from_numpy(folds == 0)
    return chooses.nonzero().squeeze(1), (~chooses).nonzero().squeeze(1)
