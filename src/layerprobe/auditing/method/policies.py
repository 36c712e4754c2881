"""Selection policies: the rows that measure candidates and baselines, these baselines, and tables of both.

Accuracies on views of the training rows are corrected for memorisation. A prediction for such a view can
equal the given label because it is correct, or because the network has memorised the row. Let q_i(k) =
P(true = k | row i, given label), from a layer that does not depend on the labels. Memorised predictions
repeat the given label on all rows alike; correct predictions do so where q supports the given label. Let a
share m of the rows be memorised, and let a be the accuracy on the others, with errors spread evenly over the
other classes. Then

    P(prediction = given) = m       + (1 - m) (a Q1 + (1 - a) (1 - Q1) / (K - 1)),   Q1 = mean q_i(given),
    E[q_i(prediction)]    = m Q1    + (1 - m) (a Q2 + (1 - a) (1 - Q2) / (K - 1)),   Q2 = mean sum_k q_i(k)^2,

two linear equations for 1 - m and (1 - m) a.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from layerprobe.auditing.method.ensemble import (
    FOLDS,
    CandidateScore,
    audit_probes,
    fold_of,
    score_candidates,
)
from layerprobe.errors import InputError
from layerprobe.recording.history import History
from layerprobe.utils.settings import seeded

if TYPE_CHECKING:
    from layerprobe.auditing.features import Features, LabelledFeatures

POLICIES = {
    "noisy_holdout": "holdout",
    "unseen_views": None,
    "trusted": "trusted",
    "test_split": "test",
}
"""The policies, and the argument that each needs."""
LABEL_FREE = "label_free"
"""Policy of features that do not depend on the labels: a fifth of the rows selects."""
OUT_OF_SAMPLE = "out_of_sample"
"""Policy of given predictions: there is nothing to select."""
ALSO_TAKEN = {"noisy_holdout": "trusted"}
"""Arguments that a policy can use beside the one that it needs."""
_MEMORISED = (
    "the features of a row that the network was trained on already contain its label, so that such a score "
    "is highest at the most memorised layer"
)
REFUSED = dict.fromkeys(
    ("in_sample", "training", "leave_one_out", "loo", "cross_validation", "out_of_fold", "cv"), _MEMORISED
)
MIN_ROWS = 20  # fewer held-out rows cannot separate candidates


@dataclass(frozen=True, eq=False)
class SelectionSet:
    """Rows and labels that candidates are scored on.

    Attributes
    ----------
    fitted_on : mapping of str to Tensor (n, d)
        Outputs of the training rows that candidates are fitted on.
    views : sequence of mapping of str to Tensor (m, d)
        Outputs of the rows to score: one entry, or one per view.
    y : Tensor (m,), int64
        The labels of the policy: noisy or true.
    clean : bool
        Whether these labels are true.
    logits : sequence of Tensor (m, K)
        Logits of the network for each view; empty without a network.
    averaged : Tensor (m, K) or None
        Class probabilities of the network, averaged over the views.
    of_training_rows : bool
        Whether these are views of the training rows, some of whose labels the network has memorised.
    posterior : Tensor (m, K) or None
        For views: probabilities of the true classes from a layer that does not depend on the labels. They
        correct the accuracy for memorisation.
    fitted_rows : Tensor (n,), int64, or None
        Positions of the rows in `fitted_on` among the training rows; None for all of them.
    """

    fitted_on: Mapping[str, Tensor]
    views: Sequence[Mapping[str, Tensor]]
    y: Tensor
    clean: bool
    logits: Sequence[Tensor]
    averaged: Tensor | None
    of_training_rows: bool = False
    posterior: Tensor | None = None
    fitted_rows: Tensor | None = None

    def fitted(self, values: Any) -> Any:
        """Return the values, one per training row, of the rows that candidates are fitted on."""
        return values if self.fitted_rows is None else values[self.fitted_rows]

    def correct(self, scores: Sequence[Tensor]) -> Tensor:
        """Return each row's share of correct predictions over its views, corrected for memorisation.

        Parameters
        ----------
        scores : sequence of Tensor (m, K)
            One entry per view.
        """

        def right(predicted: Tensor) -> Tensor:
            if self.posterior is None:
                return (predicted == self.y).double()
            return memorisation_corrected(predicted, self.y, self.posterior)

        return torch.stack([right(one.argmax(1)) for one in scores]).mean(0)  # (m,)

    def least_memorised_views(self, posterior: Tensor) -> list[int]:
        """Return the positions of the views that the network memorises least, judged by its logits.

        A network can memorise some views much better than others. Without logits all views are returned.

        Parameters
        ----------
        posterior : Tensor (m, K), float64
        """
        shares = [memorised_share(logits.argmax(1), self.y, posterior) for logits in self.logits]
        if not shares:
            return list(range(len(self.views)))
        return [i for i, share in enumerate(shares) if share <= min(shares) + VIEW_TOLERANCE]

    def corrected_for_memorisation(self, positions: Sequence[int], posterior: Tensor) -> "SelectionSet":
        """Return the set of these views, with accuracies corrected for memorisation.

        Parameters
        ----------
        positions : sequence of int
            Positions of the views to keep.
        posterior : Tensor (m, K), float64
            As for `least_memorised_views`.
        """
        return replace(
            self,
            views=[self.views[i] for i in positions],
            logits=[self.logits[i] for i in positions if self.logits],
            posterior=posterior,
        )

    def subset(self, rows: Tensor) -> "SelectionSet":
        """Return the set of some rows, given by their positions."""
        return replace(
            self,
            views=[{layer: outputs[rows] for layer, outputs in view.items()} for view in self.views],
            y=self.y[rows],
            logits=[logits[rows] for logits in self.logits],
            averaged=None if self.averaged is None else self.averaged[rows],
        )


def check_policy(policy: str, given: Mapping[str, Any], *, views: bool, more: str = "") -> None:
    """Raise unless the policy exists, has the argument that it needs, and no argument that it cannot use.

    Parameters
    ----------
    policy : str
    given : mapping of str to object
        The arguments "holdout", "trusted" and "test"; None for those that are missing.
    views : bool
        Whether there are views.
    more : str
        A policy without an argument that is valid, too.

    Raises
    ------
    InputError
        If the policy is unknown or refused, its argument is missing, or another argument is given.
    """
    offered = "; ".join(
        f"{name} needs {'views=' if needs is None else needs + '='}" for name, needs in POLICIES.items()
    )
    offered += f"; {more} needs features that do not depend on the labels" if more == LABEL_FREE else ""
    if policy in REFUSED:
        raise InputError(f"{policy!r} cannot choose a layer: {REFUSED[policy]}. Valid policies: {offered}")
    if policy not in (*POLICIES, more or None):
        raise InputError(f"expected the name of a selection policy, got {policy!r}: {offered}")
    needs = POLICIES.get(policy)
    if policy == "unseen_views" and not views:
        raise InputError(
            "the policy 'unseen_views' needs views of the training rows that the network was not trained on; "
            "name views which keep the label, as in views=('flip', 'right', 'down')"
        )
    if needs is not None and given[needs] is None:
        raise InputError(f"the policy {policy!r} needs held-out rows; pass {needs}=")
    usable = (needs, ALSO_TAKEN.get(policy))
    if extra := [name for name, value in given.items() if value is not None and name not in usable]:
        raise InputError(f"the policy {policy!r} does not use {extra[0]}=; leave it out")


def selection_sets(
    policy: str, train: "LabelledFeatures", held_out: "LabelledFeatures | None"
) -> tuple[SelectionSet, SelectionSet]:
    """Return the rows that select candidates and the rows that measure the selection.

    They are the same, except for the paper's split of the test rows.

    Parameters
    ----------
    policy : str
        A name in `POLICIES`, or `LABEL_FREE`.
    train : LabelledFeatures
        Of the training rows.
    held_out : LabelledFeatures or None
        Of the held-out rows; None for the policies "unseen_views" and "label_free".

    Raises
    ------
    InputError
        If there are too few held-out rows to separate candidates.
    """
    if policy == LABEL_FREE:
        fold = _fold_set(train)
        return fold, fold
    if held_out is None:
        views = view_set(train.features, train.y)
        return views, views
    if len(held_out.y) < MIN_ROWS:
        raise InputError(
            f"expected at least {MIN_ROWS} rows as {POLICIES[policy]}=, better 1,000, got {len(held_out.y)}: "
            "so few rows cannot tell which layer is best"
        )
    clean = policy != "noisy_holdout"
    whole = held_out_set(train.features, held_out.features, held_out.y, clean=clean)
    if policy != "test_split":
        return whole, whole
    selecting, measuring = split_test_rows(held_out.y, held_out.hashes)
    return whole.subset(selecting), whole.subset(measuring)


def _fold_set(train: "LabelledFeatures") -> SelectionSet:
    """Return a fifth of the training rows as a selection set, with candidates fitted on the other rows."""
    features = train.features
    # A class with fewer distinct rows than folds has none in the last fold, so that all classes are fitted.
    folds = torch.from_numpy(fold_of(train.y.numpy(), train.hashes))
    held, fitted = torch.where(folds == FOLDS - 1)[0], torch.where(folds != FOLDS - 1)[0]
    if len(held) < MIN_ROWS:
        raise InputError(
            f"expected at least {MIN_ROWS} rows in the fifth that selects the probe, got {len(held)} of "
            f"{len(train.y)} rows: classes of fewer than {FOLDS} different rows have none there; give more "
            "rows, or other rows as holdout= with policy='noisy_holdout'"
        )
    return SelectionSet(
        {layer: X[fitted] for layer, X in features.mean.items()},
        [{layer: X[held] for layer, X in features.mean.items()}],
        train.y[held],
        False,
        [] if features.logits is None else [features.logits[held]],
        None,
        fitted_rows=fitted,
    )


def held_out_set(train: "Features", held_out: "Features", y: Tensor, *, clean: bool) -> SelectionSet:
    """Return the held-out rows as a selection set, averaged over views as in prediction.

    Parameters
    ----------
    train, held_out : Features
        Of n training rows and m held-out rows.
    y : Tensor (m,), int64
        Labels of the held-out rows.
    clean : bool
        Whether these labels are true.
    """
    logits = [] if held_out.logits is None else [held_out.logits]
    averaged = None if held_out.mean is held_out.own else held_out.probabilities
    return SelectionSet(train.mean, [held_out.mean], y, clean, logits, averaged)


def view_set(train: "Features", y: Tensor) -> SelectionSet:
    """Return the views of the training rows as a selection set; candidates are fitted on the rows themselves.

    Parameters
    ----------
    train : Features
    y : Tensor (n,), int64
        Given labels of all training rows.
    """
    views = list(train.views.values())
    logits = [view.logits for view in views if view.logits is not None]
    averaged = torch.stack([each.softmax(1) for each in logits]).mean(0) if logits else None
    own = y[torch.from_numpy(train.kept)]
    return SelectionSet(
        train.own, [view.own for view in views], own, False, logits, averaged, of_training_rows=True
    )


def split_test_rows(y: Tensor, hashes: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the positions of the test rows that select the layer, a fifth, and of those that measure it.

    This is the split of the retraining experiment of arXiv 2501.14687 (Figure 4).

    Parameters
    ----------
    y : Tensor (m,), int64
    hashes : ndarray (m,), uint64
        Fingerprints of the rows, which determine the split.
    """
    folds = torch.from_numpy(fold_of(y.numpy(), hashes))
    return torch.where(folds == 0)[0], torch.where(folds != 0)[0]


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


Z = 1.96
FREQUENT = "most frequent label"


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Tensor) -> Interval:
    """Return the mean of independent values (m,) and its normal-approximation interval.

    The interval of a share stays in [0, 1], and that of a difference of shares in [-1, 1].
    """
    values = values.double()
    mean, m = float(values.mean()), len(values)
    half = Z * float(values.std()) / m**0.5 if m > 1 else 1.0
    least = -1.0 if float(values.min()) < 0 else 0.0
    return Interval(mean, max(least, mean - half), min(1.0, mean + half))


@dataclass(frozen=True, eq=False)
class Baseline:
    """A cheap predictor that the ensemble must beat.

    Attributes
    ----------
    name : str
    criterion : Interval
        Accuracy on the measurement rows; for early stopping, on the rows of its history.
    correct : Tensor (m,) or None
        Correctness per row, for a paired comparison; None where only the accuracy is known.
    comparable : bool
        False where the accuracy is inflated: the network, averaged over views of a training row, has
        memorised its label.
    """

    name: str
    criterion: Interval
    correct: Tensor | None
    comparable: bool = True


def _baseline(name: str, correct: Tensor, *, comparable: bool = True) -> Baseline:
    return Baseline(name, interval(correct), correct.double(), comparable)


def network_and_input(measurement: SelectionSet, input_correct: Tensor | None) -> list[Baseline]:
    """Return the head, the head averaged over the views, and the raw input, where available.

    Parameters
    ----------
    measurement : SelectionSet
    input_correct : Tensor (m,) or None
        Correctness per row of the best candidate on the layer "input".
    """
    baselines = []
    if measurement.logits:
        baselines.append(_baseline("head", measurement.correct(measurement.logits)))
    if measurement.averaged is not None:
        correct, fair = measurement.correct([measurement.averaged]), not measurement.of_training_rows
        baselines.append(_baseline("head, averaged over views", correct, comparable=fair))
    if input_correct is not None:
        baselines.append(_baseline("raw input", input_correct))
    return baselines


def most_frequent_label(measurement: SelectionSet, y: Tensor) -> Baseline:
    """Return the baseline that predicts the most frequent given label for every row.

    Parameters
    ----------
    measurement : SelectionSet
    y : Tensor (n,), int64
        Given labels of the training rows.
    """
    counts = y.bincount().double()
    return _baseline(FREQUENT, measurement.correct([counts.expand(len(measurement.y), -1)]))


def untrained_baseline(measurement: SelectionSet, y: Tensor) -> Baseline:
    """Return the best ridge probe on the layers of an untrained network.

    Parameters
    ----------
    measurement : SelectionSet
        With the outputs of the untrained network.
    y : Tensor (n,), int64
        Given labels of the training rows.
    """
    scored = score_candidates(
        audit_probes(["ridge"]), measurement.fitted_on, y, measurement.views, measurement.correct
    )
    return _baseline("untrained copy", max(scored, key=lambda one: one.criterion).correct)


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a network with new initial weights, drawn by its modules' ``reset_parameters``.

    Parameters that no ``reset_parameters`` reaches, such as parametrised ones, keep their values in a random
    order: this removes what was learnt and keeps the scale. The model itself does not change.

    Parameters
    ----------
    model : nn.Module
    seed : int
        Of the new weights.
    """
    fresh = copy.deepcopy(model)
    with seeded(seed), torch.no_grad():
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
        for learnt, parameter in zip(model.parameters(), fresh.parameters(), strict=True):
            if torch.equal(learnt, parameter):
                order = torch.randperm(parameter.numel(), device="cpu").to(parameter.device)
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return fresh


def early_stopping(history: Sequence[float] | History, rows: int, *, comparable: bool = True) -> Baseline:
    """Return the early-stopping baseline: the best epoch by accuracy on a noisy hold-out.

    Parameters
    ----------
    history : sequence of float, or History
        Accuracy of the network on the hold-out after each epoch.
    rows : int
        Number of rows of that hold-out; a `History` has its own number.
    comparable : bool
        Whether it is the hold-out that measures the ensemble.

    Raises
    ------
    InputError
        If it is empty, or holds a number outside [0, 1].
    """
    accuracies: Iterable[Any] = history if not isinstance(history, History) else history.holdout_accuracy
    rows = history.holdout_rows if isinstance(history, History) else rows
    values = [float(value) if isinstance(value, Real) else math.nan for value in accuracies]
    if not values or not all(0 <= value <= 1 for value in values):
        raise InputError(
            "expected as history= the network's accuracy on the noisy hold-out after every epoch, numbers "
            f"in [0, 1], got {values[:5]}; a layerprobe.History records it with holdout="
        )
    best = max(values)
    half = Z * (best * (1 - best) / max(rows, 1)) ** 0.5
    criterion = Interval(best, max(0.0, best - half), min(1.0, best + half))
    return Baseline("early stopping", criterion, None, comparable)


CANDIDATE_COLUMNS = ["layer", "probe", "strength", "criterion", "low", "high"]
CANDIDATE_COLUMNS += ["gain", "gain_low", "gain_high", "chosen", "why"]
BASELINE_COLUMNS = ["control", "criterion", "low", "high", "beaten"]


def candidate_table(
    scored: Sequence[CandidateScore], members: Sequence[CandidateScore], head: Tensor | None
) -> pd.DataFrame:
    """Return one row per candidate, best first.

    Parameters
    ----------
    scored : sequence of CandidateScore
    members : sequence of CandidateScore
        The ensemble members in order of selection.
    head : Tensor (m,) or None
        Correctness of the head per row of the selection set.

    Returns
    -------
    DataFrame
        Columns: layer, probe, strength (the hyperparameter); criterion, low, high; gain over the head,
        gain_low, gain_high; chosen; why.
    """
    best = max(one.criterion for one in scored)
    reasons = {
        id(member): f"member {i + 1}: it raises the accuracy of the sum" if i else "the best candidate"
        for i, member in enumerate(members)
    }
    rows = []
    for one in scored:
        gain = (float("nan"),) * 3 if head is None else interval(one.correct.double() - head)
        c, chosen = one.candidate, id(one) in reasons
        why = reasons.get(id(one), f"{best - one.criterion:.3f} below the best")
        rows.append((c.layer, c.probe, c.hyperparameter, *interval(one.correct), *gain, chosen, why))
    frame = pd.DataFrame(rows, columns=CANDIDATE_COLUMNS)
    frame["strength"] = frame["strength"].astype(float)
    return frame.sort_values("criterion", ascending=False, kind="stable", ignore_index=True)


def baseline_table(baselines: Sequence[Baseline], correct: Tensor) -> pd.DataFrame:
    """Return one row per baseline, and a last one for the ensemble.

    Parameters
    ----------
    baselines : sequence of Baseline
    correct : Tensor (m,)
        Correctness of the ensemble per row.

    Returns
    -------
    DataFrame
        Columns: control, criterion, low, high; beaten, beyond the 95 % interval of the paired difference
        where it is known, None for an accuracy that is not comparable.
    """
    own = interval(correct)

    def beaten(one: Baseline) -> bool | None:
        if not one.comparable:
            return None
        if one.correct is None:
            return own.value > one.criterion.value
        return interval(correct - one.correct).low > 0

    rows = [(one.name, *one.criterion, beaten(one)) for one in baselines]
    return pd.DataFrame([*rows, ("decoder", *own, False)], columns=BASELINE_COLUMNS)
