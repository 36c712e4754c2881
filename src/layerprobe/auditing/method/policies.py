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

Z = 1.96  # 97.5 % quantile of the normal distribution
MAX_SHARE = 0.5  # with a larger memorised share the remaining rows are too few to estimate an accuracy
VIEW_TOLERANCE = 0.15  # views whose memorised shares differ by less count as equally memorised
MIN_ROWS = 20  # fewer held-out rows cannot separate candidates
FREQUENT = "most frequent label"
AVERAGED_HEAD = "head, averaged over views"
LABEL_FREE, OUT_OF_SAMPLE = "label_free", "out_of_sample"


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: Tensor, *, difference: bool = False) -> Interval:
    """Return the mean of independent values (m,) and its 95 % interval.

    The interval is the normal approximation with two rows added, so that it is valid if all values are equal:
    one 0 and one 1 for a share (Agresti and Coull, 1998, add two of each); half a row of -1, half of 1 and
    one of 0 for the paired difference of two shares (Agresti and Min, 2005). Unknown values, NaN, give the
    whole range.

    Parameters
    ----------
    values : Tensor (m,)
        Correctness per row, or the difference of two.
    difference : bool
        Whether the values are differences. Their interval stays in [-1, 1], that of a share in [0, 1].
    """
    values = values.double()
    m, added = len(values) + 2, 0.0 if difference else 1.0  # the sum of the added rows; of their squares: 1
    mean = (float(values.sum()) + added) / m
    half = Z * ((float(values.square().sum()) + 1) / m - mean**2) ** 0.5 / m**0.5
    least = -1.0 if difference or float(values.min()) < 0 else 0.0
    return Interval(float(values.mean()), max(least, mean - half), min(1.0, mean + half))


# Policies -----------------------------------------------------------------------------------------------


class Policy(NamedTuple):
    """A selection policy: the rows that measure accuracies."""

    needs: str  # the argument with these rows, or "views"; empty for rows that are always there
    rows: str  # the rows and their labels in words
    clean: bool = False  # whether these labels are assumed to be right
    also: str = ""  # another argument that the policy can use


POLICIES = {
    "noisy_holdout": Policy(
        "holdout",
        "held-out rows that the network was not trained on, with their noisy labels",
        also="trusted",
    ),
    "unseen_views": Policy(
        "views",
        "views of the training rows that the network was not trained on, with their noisy labels, corrected "
        "for memorisation",
    ),
    "trusted": Policy("trusted", "the trusted rows, whose labels are assumed to be right", clean=True),
    "test_split": Policy(
        "test",
        "a part of the test data, whose labels are assumed to be right, as in the paper",
        clean=True,
    ),
    LABEL_FREE: Policy("", "a fifth of the rows with their given labels, predicted without them"),
    OUT_OF_SAMPLE: Policy("", "all rows with their given labels, by predictions that are out of sample"),
}
"""The first four choose among the layers of a network. `LABEL_FREE` is for features that do not depend on the
labels, and `OUT_OF_SAMPLE` for predictions, where there is nothing to choose."""
REFUSED = ("in_sample", "training", "leave_one_out", "loo", "cross_validation", "out_of_fold", "cv")


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
        `LABEL_FREE` or `OUT_OF_SAMPLE`, if it is valid, too.
    """
    names = [name for name, one in POLICIES.items() if one.needs or name == more]
    own = "features that do not depend on the labels"
    offered = "; ".join(
        f"{name} needs {f'{needs}=' if (needs := POLICIES[name].needs) else own}" for name in names
    )
    if policy in REFUSED:
        raise InputError(
            f"{policy!r} cannot choose a layer: the features of a row that the network was trained on "
            "already contain its label, so that such a score is highest at the most memorised layer. Valid "
            f"policies: {offered}"
        )
    if policy not in names:
        got = repr(policy) if policy else "none, and no rows that select a layer"
        raise InputError(f"expected the name of a selection policy, got {got}: {offered}")
    needs = POLICIES[policy].needs
    if needs == "views" and not views:
        raise InputError(
            f"the policy {policy!r} needs views of the training rows that the network was not trained on; "
            "name views which keep the label, as in views=('flip', 'right', 'down')"
        )
    if needs in given and given[needs] is None:
        raise InputError(f"the policy {policy!r} needs held-out rows; pass {needs}=")
    usable = (needs, POLICIES[policy].also)
    if extra := [name for name, value in given.items() if value is not None and name not in usable]:
        raise InputError(f"the policy {policy!r} does not use {extra[0]}=; leave it out")


# The rows of a policy -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SelectionSet:
    """Rows and labels that candidates are scored on: m rows, or views of them."""

    fitted_on: Mapping[str, Tensor]  # (n, d) by layer: outputs of the rows that candidates are fitted on
    views: Sequence[Mapping[str, Tensor]]  # (m, d) by layer: outputs of the rows, one entry or one per view
    y: Tensor  # (m,), int64: the labels of the policy
    clean: bool = False  # whether these labels are true
    logits: Sequence[Tensor] = ()  # (m, K) of the network for each view; empty without a network
    averaged: Tensor | None = None  # (m, K): class probabilities of the network, averaged over the views
    of_training_rows: bool = False  # whether the network has memorised some of the labels
    # (m, K), float64: class probabilities from a layer that does not depend on the labels. They correct the
    # accuracies on views of training rows for memorisation.
    posterior: Tensor | None = None
    fitted_rows: Tensor | None = None  # (n,), int64: the rows of `fitted_on`; None for all training rows
    source: str = "the held-out rows"  # name of new rows with noisy labels

    @property
    def noisy_and_new(self) -> bool:
        """Whether these are rows that the network was not trained on, with noisy labels."""
        return not (self.of_training_rows or self.clean)

    @property
    def head_correct(self) -> Tensor | None:
        """Each row's share of correct predictions by the network, as `correct`; None without a network."""
        return self.correct(self.logits) if self.logits else None

    def fitted(self, values: Any) -> Any:
        """Return the values, one per training row, of the rows that candidates are fitted on."""
        return values if self.fitted_rows is None else values[self.fitted_rows]

    def correct(self, scores: Sequence[Tensor]) -> Tensor:
        """Return each row's share of correct predictions over its views, corrected for memorisation.

        It is NaN, if more than half of the rows of a view are memorised.

        Parameters
        ----------
        scores : sequence of Tensor (m, K)
            One entry per view.
        """

        def right(predicted: Tensor) -> Tensor:
            if self.posterior is None:
                return (predicted == self.y).double()
            return memorisation_corrected(predicted, self.y, self.posterior)

        return torch.stack([right(one.argmax(1)) for one in scores]).mean(0)

    def least_memorised_views(self, posterior: Tensor) -> list[int]:
        """Return the positions of the views that the network memorises least, judged by its logits.

        A network can memorise some views much better than others. Without logits all views are returned.
        `posterior` is that of `corrected_for_memorisation`.
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
            Class probabilities from a layer that does not depend on the labels.
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


def selection_sets(
    policy: str, train: "LabelledFeatures", held_out: "LabelledFeatures | None"
) -> tuple[SelectionSet, SelectionSet]:
    """Return the rows that select candidates and the rows that measure the selection.

    They are the same, except for the paper's split of the test rows.

    Parameters
    ----------
    policy : str
        A name in `POLICIES`.
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
            f"expected at least {MIN_ROWS} rows as {POLICIES[policy].needs}=, better 1,000, got "
            f"{len(held_out.y)}: so few rows cannot tell which layer is best"
        )
    clean = POLICIES[policy].clean
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
        logits=[] if features.logits is None else [features.logits[held]],
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
    return SelectionSet(
        train.own,
        [view.own for view in views],
        y[train.kept],
        logits=logits,
        averaged=averaged,
        of_training_rows=True,
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


# Correction for memorisation ----------------------------------------------------------------------------


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
    With more than half of the rows memorised it is unknown, NaN.

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
    if not_memorised < 1 - MAX_SHARE:
        return torch.full_like(agree, torch.nan)
    support = posterior.gather(1, predicted[:, None]).squeeze(1)
    right = posterior.gather(1, y[:, None]).mean()
    error = (1 - right) / (posterior.shape[1] - 1)
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


# Baselines ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Baseline:
    """A cheap predictor that the ensemble must beat."""

    name: str
    criterion: Interval  # accuracy on the measurement rows; for early stopping on the rows of its history
    correct: Tensor | None  # (m,), for a paired comparison; None where only the accuracy is known
    # False where the accuracy is inflated: the network, averaged over views of a training row, has memorised
    # its label.
    comparable: bool = True


def measure_baselines(
    measurement: SelectionSet,
    y: Tensor,
    *,
    input_correct: Tensor | None = None,
    untrained: SelectionSet | None = None,
    history: Sequence[float] | History | None = None,
) -> list[Baseline]:
    """Measure the head, the head averaged over the views, the raw input, and further baselines.

    These are the most frequent given label for every row, the best ridge probe on the layers of an untrained
    network, and early stopping.

    Parameters
    ----------
    measurement : SelectionSet
    y : Tensor (n,), int64
        Given labels of the training rows.
    input_correct : Tensor (m,), optional
        Correctness per row of the best candidate on the layer "input".
    untrained : SelectionSet, optional
        The same rows, with the outputs of an untrained network.
    history : sequence of float or History, optional
        As for `early_stopping`.
    """
    correct = {}
    if (head := measurement.head_correct) is not None:
        correct["head"] = head
    if measurement.averaged is not None:
        correct[AVERAGED_HEAD] = measurement.correct([measurement.averaged])
    if input_correct is not None:
        correct["raw input"] = input_correct
    correct[FREQUENT] = measurement.correct([y.bincount().double().expand(len(measurement.y), -1)])
    if untrained is not None:
        scored = score_candidates(
            audit_probes(["ridge"]), untrained.fitted_on, y, untrained.views, untrained.correct
        )
        correct["untrained copy"] = max(scored, key=lambda one: one.criterion).correct
    inflated = AVERAGED_HEAD if measurement.of_training_rows else ""
    baselines = [
        Baseline(name, interval(right), right.double(), comparable=name != inflated)
        for name, right in correct.items()
    ]
    if history is not None:  # of a noisy hold-out
        baselines.append(early_stopping(history, len(measurement.y), comparable=measurement.noisy_and_new))
    return baselines


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


# Tables -------------------------------------------------------------------------------------------------

CANDIDATE_COLUMNS = ["layer", "probe", "strength", "criterion", "low", "high"]
CANDIDATE_COLUMNS += ["gain", "gain_low", "gain_high", "chosen", "why"]
BASELINE_COLUMNS = ["control", "criterion", "low", "high", "beaten"]


def candidate_table(
    scored: Sequence[CandidateScore], members: Sequence[CandidateScore], head: Tensor | None
) -> pd.DataFrame:
    """Return the table `Audit.layers`.

    Parameters
    ----------
    scored : sequence of CandidateScore
    members : sequence of CandidateScore
        The ensemble members in order of selection.
    head : Tensor (m,) or None
        Correctness of the head per row of the selection set.
    """
    best = max(one.criterion for one in scored)
    unknown = "unknown: more than half of the labels are memorised on a view"
    reasons = {
        id(member): f"member {i + 1}: it raises the accuracy of the sum" if i else "the best candidate"
        for i, member in enumerate(members)
    }
    rows = []
    for one in scored:
        gain = (float("nan"),) * 3 if head is None else interval(one.correct.double() - head, difference=True)
        c, chosen = one.candidate, id(one) in reasons
        below = f"{best - one.criterion:.3f} below the best" if one.criterion > -math.inf else unknown
        why = reasons.get(id(one), below)
        rows.append((c.layer, c.probe, c.hyperparameter, *interval(one.correct), *gain, chosen, why))
    frame = pd.DataFrame(rows, columns=CANDIDATE_COLUMNS)
    frame["strength"] = frame["strength"].astype(float)
    return frame.sort_values("criterion", ascending=False, kind="stable", ignore_index=True)


def baseline_table(baselines: Sequence[Baseline], correct: Tensor) -> pd.DataFrame:
    """Return the table `Audit.controls`.

    Parameters
    ----------
    baselines : sequence of Baseline
    correct : Tensor (m,)
        Correctness of the ensemble per row.
    """
    own = interval(correct)

    def beaten(one: Baseline) -> bool | None:
        """Return whether the ensemble is better: by more than the interval of the difference, if known.

        None for an accuracy that is unknown or not comparable.
        """
        if not one.comparable or math.isnan(one.criterion.value):
            return None
        if one.correct is None:
            return own.value > one.criterion.value
        return interval(correct - one.correct, difference=True).low > 0

    rows = [(one.name, *one.criterion, beaten(one)) for one in baselines]
    return pd.DataFrame([*rows, ("decoder", *own, False)], columns=BASELINE_COLUMNS)
