"""Fit probes to one layer's outputs and score them: START HERE.

`probe()`, the audit and the paper's experiments take outputs from `layerwise.outputs`. For each layer

    fitted = fit_layer(layer, probes, labels, X)        every probe on every set of labels
    accuracies = count_correct(fitted, X_test, y_test)

or `predictions` in place of the second line. Probes that need only sums over rows (`MomentProbe`) share them;
all variances of MASC share one fit and one projection.
"""

import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor

from layerprobe.core.checks import check_rows, widen
from layerprobe.core.statistics import LayerSums, RowStatistics, Statistics
from layerprobe.errors import DegenerateWarning, InputError, warn
from layerprobe.layerwise.classes import LabelSets
from layerprobe.probes import MASC, MomentProbe, Probe
from layerprobe.utils.distributed import sum_over_processes

SCORED_ROWS = 8192  # rows that are scored at a time
SUMMED_ROWS = 16384  # rows that are summed at a time


@dataclass(frozen=True, eq=False)
class FittedProbe:
    """A probe fitted on one layer and one set of labels.

    Attributes
    ----------
    layer, name : str
    fitted_on : str
        Name of the set of labels.
    estimator : classifier
    present : Tensor of shape (K',), int64
        Class indices of the estimator's classes among the classes of all sets.
    classes : ndarray of shape (K',)
        Their names.
    components : float
        Mean number of components per class of a subspace probe, else NaN.
    seconds : float
        Time of the fit, including the whole time that it shares with other probes.
    failure : str
        Reason why the probe cannot be fitted; empty if it is.
    """

    layer: str
    name: str
    fitted_on: str
    estimator: ClassifierMixin
    present: Tensor
    classes: np.ndarray
    components: float = np.nan
    seconds: float = 0.0
    failure: str = ""

    def __str__(self) -> str:
        return f"probe {self.name!r} on layer {self.layer!r}, fitted on {self.fitted_on} labels"

    def predict(self, X: Tensor) -> Tensor:
        """Return the predicted class index of each row of X, (n, d): (n,) int64, -1 for an unknown class."""
        try:
            if isinstance(self.estimator, Probe):
                return self.present[self.estimator.predict_indices(X).cpu()]
            return torch.from_numpy(np.asarray(self.estimator.predict(X.cpu().numpy()), dtype=np.int64))
        except ValueError as error:
            raise InputError(f"{self}: {error}") from error


def streams(probe: ClassifierMixin) -> bool:
    """Return whether a probe needs only sums over rows."""
    return isinstance(probe, MomentProbe) and probe.streams


def reads_of(probes: Iterable[ClassifierMixin]) -> frozenset[str]:
    """Return what all these probes need to be fitted: names of sums, or "rows"."""
    return frozenset().union(*(probe.reads if streams(probe) else {"rows"} for probe in probes))


def fit_layer(
    layer: str,
    probes: Mapping[str, ClassifierMixin],
    labels: LabelSets,
    X: Tensor | None = None,
    *,
    sums: LayerSums | None = None,
    seconds: float = 0.0,
    shared: bool = False,
    skip: bool = False,
) -> list[FittedProbe]:
    """Fit every probe on every set of labels; return them by probe, then by set of labels.

    Parameters
    ----------
    layer : str
        Name of the layer.
    probes : mapping of str to estimator
        Unfitted; they are cloned.
    labels : LabelSets
        Of the rows of X.
    X : Tensor of shape (n, d), optional
        The layer's outputs. Not needed where all probes need only sums.
    sums : LayerSums, optional
        Sums over all rows of this process; this function calls their `finish`. Default: computed from X where
        that saves work.
    seconds : float
        Time that `sums` took.
    shared : bool
        Whether X holds this process's part of the rows of a job of several processes, all of which call
        this; all probes must then need only sums. Sums that are given are always shared.
    skip : bool
        Whether a probe that cannot be fitted is returned with the reason as its `failure`.

    Raises
    ------
    InputError
        If a probe refuses the rows or the labels.
    """
    start = time.perf_counter()
    if X is not None:
        try:
            with _named(f"layer {layer!r}"):
                X = widen(check_rows(X))
        except InputError as error:
            if not skip:
                raise
            return failures(layer, probes, labels, str(error))
        # One pass over the rows serves all sets of labels; with fewer rows per class than features, the sums,
        # one (d, d) matrix per class, would be larger than the rows, and slower than Gram matrices.
        saves_work = len(labels.names) > 1 and len(X) >= len(labels.classes) * X.shape[1]
        if sums is None and (shared or saves_work) and any(map(streams, probes.values())):
            sums = new_sums(X, labels, probes, rows=0)
            for rows, y in zip(X.split(SUMMED_ROWS), labels.y.split(SUMMED_ROWS, dim=1), strict=True):
                sums.update(rows, y)
    if sums is not None:
        sums.finish()
    seconds += time.perf_counter() - start

    masc = [name for name, probe in probes.items() if isinstance(probe, MASC) and streams(probe)]
    fitted: dict[str, list[FittedProbe]] = {name: [] for name in probes}
    for s, fitted_on in enumerate(labels.names):
        statistics: Statistics | None
        if sums is not None:
            present, statistics = sums.counts[s].nonzero().squeeze(1).cpu(), sums.of(s)
        else:
            present, y = labels.y[s].unique(return_inverse=True)
            statistics = None if X is None else RowStatistics(X, y.to(X.device), len(present))
        names, ones = labels.classes[present.numpy()], {}
        for name in sorted(probes, key=lambda name: _largest_variance_first(probes[name])):
            one = FittedProbe(layer, name, fitted_on, clone(probes[name]), present, names)
            ones[name] = _fit(one, statistics, X, labels.y[s], skip)
        common = sum(ones[name].seconds for name in masc)  # all variances share a fit
        for name, one in ones.items():
            own = common if name in masc else one.seconds
            fitted[name].append(replace(one, seconds=own + seconds if streams(one.estimator) else own))
    return [one for ones in fitted.values() for one in ones]


def failures(
    layer: str, probes: Mapping[str, ClassifierMixin], labels: LabelSets, reason: str
) -> list[FittedProbe]:
    """Return probes that cannot be fitted, by probe and then by set of labels.

    Parameters
    ----------
    layer, probes, labels
        As for `fit_layer`.
    reason : str
    """
    none = torch.empty(0, dtype=torch.int64)
    return [
        FittedProbe(layer, name, fitted_on, probe, none, labels.classes[:0], failure=reason)
        for name, probe in probes.items()
        for fitted_on in labels.names
    ]


def _largest_variance_first(probe: ClassifierMixin) -> float:
    """Return a sort key: the largest variance first, since smaller variances reuse its subspaces."""
    return -(probe.variance or 0.0) if isinstance(probe, MASC) and probe.components is None else 0.0


@contextmanager
def _named(what: object) -> Iterator[None]:
    """Name the layer or probe in the errors and warnings of the block."""
    with warnings.catch_warnings(record=True, action="always", category=DegenerateWarning) as caught:
        try:
            yield
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise InputError(f"{what}: {error}") from error
    for warning in caught:
        warn(f"{what}: {warning.message}", warning.category)


def _fit(
    one: FittedProbe, statistics: Statistics | None, X: Tensor | None, y: Tensor, skip: bool
) -> FittedProbe:
    """Fit the estimator in place; return the probe with its seconds, and its components or failure."""
    estimator: Any = one.estimator
    start = time.perf_counter()
    # Statistics of rows serve MASC, whose variances share one fit. Other probes are fitted to rows,
    # since `fit` may store more than `fit_statistics` does (Ridge: what leave-one-out scores need).
    by_statistics = isinstance(estimator, MASC) or not isinstance(statistics, RowStatistics)
    try:
        with _named(one):
            if statistics is not None and streams(estimator) and by_statistics:
                estimator.fit_statistics(statistics, one.classes)
            elif X is None:
                raise InputError("the probe needs rows, and only sums over them were given")
            elif isinstance(estimator, Probe):
                estimator.fit_indices(X, torch.searchsorted(one.present, y), one.classes)
            else:
                estimator.fit(X.cpu().numpy(), y.numpy())  # class indices; `FittedProbe` names them
    except InputError as error:
        if not skip:
            raise
        one = replace(one, failure=str(error))
    else:
        if (subspaces := getattr(estimator, "subspaces_", None)) is not None:
            one = replace(one, components=float(np.mean(subspaces.ranks)))
    return replace(one, seconds=time.perf_counter() - start)


def new_sums(
    X: Tensor, labels: LabelSets, probes: Mapping[str, ClassifierMixin], rows: int | None = None
) -> LayerSums:
    """Return empty sums for rows like those of X, (b, d); the probes determine which sums are kept.

    Parameters
    ----------
    X, labels, probes
        As for `fit_layer`.
    rows : int, optional
        Expected number of rows; 0 if each update is large, so that nothing has to be buffered.
    """
    reads = reads_of(probes.values())
    wide = torch.tensor(int(widen(X).dtype == torch.float64))  # in any process of the job
    return LayerSums(
        len(labels.classes),
        X.shape[1],
        len(labels.names),
        reads,
        dtype=torch.float64 if sum_over_processes(wide) else X.dtype,
        device=X.device,
        expected=rows,
    )


def predictions(
    fitted: Sequence[FittedProbe], X: Tensor, failed: dict[int, str] | None = None
) -> Iterator[tuple[int, Tensor, float]]:
    """Predict with all probes of a layer; subspaces of one fit share one projection.

    Yields the position of each fitted probe, in any order, its predicted class indices (n,) int64 on the CPU,
    and the seconds of the prediction.

    Parameters
    ----------
    fitted : sequence of FittedProbe
        All of one layer.
    X : Tensor of shape (n, d)
    failed : dict of int to str, optional
        Gets the position of each probe that cannot predict these rows, and the reason. Default: raise.
    """
    groups: dict[int, list[int]] = defaultdict(list)  # subspaces of one fit have the same columns
    for position, one in enumerate(fitted):
        if not one.failure and not (failed and position in failed):
            masc = isinstance(one.estimator, MASC)
            groups[id(one.estimator.subspaces_.columns) if masc else -position].append(position)
    for positions in groups.values():
        start, first = time.perf_counter(), fitted[positions[0]]
        try:
            if isinstance(first.estimator, MASC):
                ranks = [fitted[position].estimator.subspaces_.ranks for position in positions]
                staged = first.estimator.subspaces_.staged_predict(X, ranks).cpu()  # (stages, n)
                predicted = [first.present[y] for y in staged]
            else:
                predicted = [first.predict(X)]
        except InputError as error:
            message = str(error) if str(error).startswith(str(first)) else f"{first}: {error}"
            if failed is None:
                raise InputError(message) from error
            failed |= dict.fromkeys(positions, message)
            continue
        seconds = time.perf_counter() - start
        for position, y in zip(positions, predicted, strict=True):
            yield position, y, seconds


class Accuracies:
    """Counts of the correct predictions of a layer's probes, added up batch by batch.

    Parameters
    ----------
    fitted : sequence of P FittedProbe
    num_sets : int
        Number S of sets of labels to compare with.
    skip : bool
        Whether to leave out a probe that cannot predict some rows, instead of an error.

    Attributes
    ----------
    rows : int
    correct : Tensor of shape (P, S), int64
    seconds : list of P float
        Time of the predictions.
    failed : dict of int to str
        Positions of the probes that were not fitted or could not predict some rows, and the reason.
    """

    def __init__(self, fitted: Sequence[FittedProbe], num_sets: int, *, skip: bool = False) -> None:
        self.fitted, self.skip = list(fitted), skip
        self.failed = {place: one.failure for place, one in enumerate(fitted) if one.failure}
        self.rows = 0
        self.correct = torch.zeros(len(self.fitted), num_sets, dtype=torch.int64)
        self.seconds = [0.0] * len(self.fitted)

    @property
    def shares(self) -> np.ndarray:
        """Accuracy of each probe against each set of labels, (P, S); NaN for a probe that failed."""
        shares = self.correct.numpy() / max(self.rows, 1)
        shares[list(self.failed)] = np.nan
        return shares

    def update(self, X: Tensor, y: Tensor) -> None:
        """Add rows.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        y : Tensor of shape (S, n), int64
            Class indices; -1 for a label of no class, which no prediction equals.
        """
        self.rows += len(X)
        if not len(X):
            return
        failed = self.failed if self.skip else None
        for rows, truth in zip(X.split(SCORED_ROWS), y.split(SCORED_ROWS, dim=1), strict=True):
            for position, predicted, seconds in predictions(self.fitted, rows, failed):
                self.correct[position] += ((truth == predicted) & (truth >= 0)).sum(1)
                self.seconds[position] += seconds

    def sum_over_processes(self) -> None:
        """Add the counts of the other processes of the job."""
        counts = torch.cat([torch.tensor([self.rows]), self.correct.flatten()])
        rows, *correct = sum_over_processes(counts).tolist()
        self.rows, self.correct = rows, torch.tensor(correct, dtype=torch.int64).view_as(self.correct)


def count_correct(fitted: Sequence[FittedProbe], X: Tensor, y: Tensor, *, skip: bool = False) -> Accuracies:
    """Return the accuracies of all probes of a layer on these rows.

    Parameters
    ----------
    fitted : sequence of FittedProbe
    X : Tensor of shape (n, d)
    y : Tensor of shape (S, n), int64
        Class indices in S sets of labels.
    skip : bool
        As for `Accuracies`.
    """
    counts = Accuracies(fitted, len(y), skip=skip)
    counts.update(X, y)
    return counts
