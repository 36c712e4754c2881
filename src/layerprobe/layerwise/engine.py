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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from torch import Tensor, nn

from layerprobe.core.checks import check_rows, widen
from layerprobe.core.statistics import LayerSums, RowStatistics, Statistics, SumOptions
from layerprobe.errors import DegenerateWarning, InputError, warn
from layerprobe.layers.batches import Column, read_batches, row_count
from layerprobe.layerwise.classes import check_ignored, floats_as_integers
from layerprobe.probes import MASC, MomentProbe, Probe
from layerprobe.probes.base import encode, label_array, whole_numbers
from layerprobe.utils.distributed import sum_over_processes

SCORED_ROWS = 8192  # rows that are scored at a time
SUMMED_ROWS = 16384  # rows that are summed at a time


@dataclass(frozen=True, eq=False)
class LabelSets:
    """Named sets of labels for n rows.

    Attributes
    ----------
    names : tuple of S str
    classes : ndarray of shape (K,)
        Classes of all sets together, sorted if they compare.
    y : Tensor of shape (S, n), int64
        Class index of each row in each set; -1 where a set is shorter than the longest one.
    lengths : tuple of S int
        Number of labels in each set.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    y: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> "LabelSets":
        """Return the sets of a mapping of names to labels.

        Parameters
        ----------
        labels : mapping of str to sequence of n labels
            Integers, strings or any other hashables.

        Raises
        ------
        InputError
            If it is no mapping, or is empty.
        """
        if not isinstance(labels, Mapping):
            raise InputError(
                f'train_labels must map names to labels, say {{"noisy": y}}, got {type(labels).__name__}'
            )
        if not labels:
            raise InputError("train_labels is empty: name at least one set of labels, or leave it out")
        sets = [_as_array(values, f"train_labels[{name!r}]") for name, values in labels.items()]
        sets = [as_kind(y, sets[0], f"train_labels[{name!r}]") for name, y in zip(labels, sets, strict=True)]
        lengths = tuple(map(len, sets))
        classes = _all_classes(sets)
        y = torch.full((len(sets), max(lengths)), -1)
        for row, values in zip(y, sets, strict=True):
            row[: len(values)] = class_indices(classes, values)
        names = tuple(map(str, labels))
        if len(set(names)) < len(names) or "" in names:
            raise InputError(f"expected different names of the sets of labels, got {list(labels)}")
        return cls(names, classes, y, lengths)

    @property
    def changed(self) -> float:
        """Share of the rows whose label is not the same in all sets."""
        return float((self.y != self.y[0]).any(0).double().mean())

    @property
    def largest(self) -> int:
        """Number of rows of the largest class of any set."""
        return max(int(row[row >= 0].bincount().max()) for row in self.y)

    def take(self, rows: Tensor) -> "LabelSets":
        """Return the labels of some rows, given by their positions (m,) int64.

        Raises
        ------
        InputError
            If a set has no label for one of the rows.
        """
        for name, length in zip(self.names, self.lengths, strict=True):
            if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < length:
                raise InputError(
                    f"train_labels[{name!r}] has {length} labels for at least {int(rows.max()) + 1} rows; "
                    "give one label per training row, and indices from 0 on if there are any"
                )
        return replace(self, y=self.y[:, rows], lengths=(len(rows),) * len(self.names))

    def recode(self, given: np.ndarray) -> "LabelSets":
        """Return the class indices of other labels, (m,), as the only set."""
        return replace(self, y=class_indices(self.classes, given)[None], lengths=(len(given),))

    def values(self) -> list[np.ndarray]:
        """Return the labels themselves, S arrays (n,)."""
        return [self.classes[row.numpy()] for row in self.y]

    def require_length(self, n: int) -> None:
        """Raise an InputError unless every set has n labels."""
        for name, length in zip(self.names, self.lengths, strict=True):
            if length != n:
                raise InputError(f"train_labels[{name!r}] has {length} labels for {n} training rows")


def class_indices(classes: np.ndarray, labels: np.ndarray) -> Tensor:
    """Return the class index of each label, (n,) int64; -1 for labels of no class.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        Sorted, unless its dtype is object.
    labels : ndarray of shape (n,)
    """
    if classes.dtype == object or labels.dtype.kind != classes.dtype.kind:
        index_of = {label: k for k, label in enumerate(classes.tolist())}
        return torch.tensor([index_of.get(label, -1) for label in labels.tolist()], dtype=torch.int64)
    places = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
    return torch.from_numpy(np.where(classes[places] == labels, places, -1))


def as_kind(labels: np.ndarray, like: np.ndarray, what: str) -> np.ndarray:
    """Return labels as numbers or texts, whichever others are; "3" and 3 are one class.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    like : ndarray of shape (m,)
        The others.
    what : str
        Description of `labels`, for the error message.

    Raises
    ------
    InputError
        If they cannot be converted, since the texts are no numbers, or the numbers are neither 0 nor 1 where
        the other labels are booleans.
    """
    groups = ("U", "biuf")
    kinds = [next((group for group in groups if array.dtype.kind in group), None) for array in (labels, like)]
    if kinds == ["biuf", "biuf"] and (labels.dtype.kind == "b") != (like.dtype.kind == "b"):
        numbers = like if labels.dtype.kind == "b" else labels
        if wrong := [number for number in np.unique(numbers).tolist() if number not in (0, 1)]:
            names = ["True or False", "numbers"] if numbers is like else ["numbers", "True or False"]
            raise InputError(
                f"{what} are {names[0]}, but the others are {names[1]}, of which {wrong[0]!r} is neither 0 "
                "nor 1: give both in one form"
            )
    if None in kinds or kinds[0] == kinds[1] or not len(labels):
        return labels
    texts, numbers = (labels, like) if kinds[0] == "U" else (like, labels)
    values = whole_numbers(np.unique(texts))
    if values is None:
        names = ["texts", "numbers"] if texts is labels else ["numbers", "texts"]
        raise InputError(
            f"{what} are {names[0]} such as {labels[0].item()!r}, but the others are {names[1]} such as "
            f"{like[0].item()!r}: give both in one form"
        )
    written = dict(zip(values.tolist(), np.unique(texts).tolist(), strict=True))
    if texts is labels:
        number_of = {text: number for number, text in written.items()}
        return np.array([number_of[text] for text in texts.tolist()])
    return np.array([written.get(number, str(number)) for number in numbers.tolist()])


def check_test_classes(classes: np.ndarray, given: np.ndarray) -> None:
    """Raise if the labels of the test data are other than those of the training data, and warn if some are.

    Parameters
    ----------
    classes : ndarray of shape (K,)
    given : ndarray of shape (m,)
        The test labels.

    Raises
    ------
    InputError
        If no test label is a class, or all test labels are whole numbers, shifted by one.
    """
    distinct = np.unique(given) if given.dtype != object else encode(given)[0]
    unknown = (class_indices(classes, distinct) < 0).nonzero().squeeze(1).numpy()
    if not len(unknown):
        return
    some = ", ".join(map(repr, distinct[unknown].tolist()[:5]))
    known = ", ".join(map(repr, classes.tolist()[:5]))
    numbers = distinct.dtype.kind in "iu" and classes.dtype.kind in "iu" and len(distinct) > 1
    if numbers and any(np.array_equal(distinct + shift, classes) for shift in (-1, 1)):
        raise InputError(
            f"the test labels are {distinct[0]}..{distinct[-1]}, but the training labels "
            f"{classes[0]}..{classes[-1]}: count both from the same number on"
        )
    if len(unknown) == len(distinct):
        raise InputError(f"no test label ({some}, ...) is among the training labels {known}, ...")
    warn(
        f"the test labels {some} are not among the training labels {known}, ...; no prediction equals them",
        DegenerateWarning,
    )


def given_labels(labels: Column | None, split: str) -> np.ndarray:
    """Return the labels that came with the data as an array, (n,).

    Parameters
    ----------
    labels : Tensor or ndarray of shape (n,), or None
    split : str
        "training" or "test", for the error message.

    Raises
    ------
    InputError
        If there are none.
    """
    if labels is None:
        raise InputError(f"the {split} data have no labels; give (x, y), or a loader of (x, y)")
    return _as_array(labels, f"the labels of the {split} data")


def read_label_sets(source: Any, batch_size: int, model: nn.Module | None = None) -> LabelSets:
    """Read the labels that come with data, without running a model: one set called "given".

    Parameters
    ----------
    source : as for :func:`layerprobe.capture`
    batch_size : int
    model : nn.Module, optional
    """
    batches = read_batches(source, batch_size, prepare=row_count, model=model)
    return LabelSets.of({"given": np.concatenate([given_labels(b.labels, "training") for b in batches])})


def _all_classes(sets: list[np.ndarray]) -> np.ndarray:
    distinct = [encode(labels)[0] for labels in sets]
    if any(one.dtype.kind != distinct[0].dtype.kind for one in distinct):
        every = np.empty(sum(map(len, distinct)), dtype=object)
        every[:] = [label for one in distinct for label in one.tolist()]
    else:
        every = np.concatenate(distinct)
    return encode(every)[0]


def _as_array(labels: Any, what: str) -> np.ndarray:
    """Return labels as an array, whole numbers as int64, bytes as texts; raise for -100."""
    try:
        array = label_array(labels)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    if array.dtype.kind == "S":
        return np.char.decode(array)
    array = floats_as_integers(array)
    try:
        check_ignored(array)
    except InputError as error:
        raise InputError(f"{what}: {error}") from error
    return array.astype(np.int64) if array.dtype.kind in "iu" else array


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
    """Fit every probe on every set of labels.

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

    Returns
    -------
    list of FittedProbe
        By probe, then by set of labels.

    Raises
    ------
    InputError
        If a probe refuses the rows or the labels.
    """
    start = time.perf_counter()
    if X is not None:
        try:
            X = _usable(layer, X)
        except InputError as error:
            if not skip:
                raise
            return failures(layer, probes, labels, str(error))
    # One pass over the rows serves all sets of labels; with fewer rows per class than features, the sums, one
    # (d, d) matrix per class, would be larger than the rows, and slower than Gram matrices.
    features = 0 if X is None else X.shape[1]
    by_sums = shared or (X is not None and len(labels.names) > 1 and len(X) >= len(labels.classes) * features)
    if sums is None and X is not None and by_sums and any(map(streams, probes.values())):
        sums = new_sums(X, labels, probes, rows=0)
        for rows, y in zip(X.split(SUMMED_ROWS), labels.y.split(SUMMED_ROWS, dim=1), strict=True):
            sums.update(rows, y)
    if sums is not None:
        sums.finish()
    seconds += time.perf_counter() - start

    fitted: dict[str, list[FittedProbe]] = {name: [] for name in probes}
    for s, fitted_on in enumerate(labels.names):
        present = labels.y[s].unique() if sums is None else sums.counts[s].nonzero().squeeze(1).cpu()
        statistics: Statistics | None = sums.of(s) if sums is not None else None
        if statistics is None and X is not None:
            y = torch.searchsorted(present, labels.y[s])
            statistics = RowStatistics(X, y.to(X.device), len(present))
        subspace_seconds = seconds  # of the common fit of all variances; each of them reports the total
        for name in sorted(probes, key=lambda name: _largest_variance_first(probes[name])):
            start = time.perf_counter()
            names = labels.classes[present.numpy()]
            one = FittedProbe(layer, name, fitted_on, clone(probes[name]), present, names)
            try:
                one = replace(one, components=_fit(one, statistics, X, labels.y[s]))
            except InputError as error:
                if not skip:
                    raise
                (one,) = failures(
                    layer, {name: one.estimator}, replace(labels, names=(fitted_on,)), str(error)
                )
            elapsed = time.perf_counter() - start
            if isinstance(one.estimator, MASC) and streams(one.estimator):
                subspace_seconds += elapsed
            elif streams(one.estimator):
                elapsed += seconds
            fitted[name].append(replace(one, seconds=elapsed))
        for name, probe in probes.items():
            if isinstance(probe, MASC) and streams(probe):
                fitted[name][s] = replace(fitted[name][s], seconds=subspace_seconds)
    return [one for ones in fitted.values() for one in ones]


def failures(
    layer: str, probes: Mapping[str, ClassifierMixin], labels: LabelSets, reason: str
) -> list[FittedProbe]:
    """Return probes that cannot be fitted, by probe and then by set of labels.

    Parameters
    ----------
    layer : str
    probes : mapping of str to estimator
    labels : LabelSets
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


def _usable(layer: str, X: Tensor) -> Tensor:
    """Return rows in the precision that they need; raise for NaN and infinity, and name the layer."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DegenerateWarning)
            X = widen(check_rows(X))
    except InputError as error:
        raise InputError(f"layer {layer!r}: {error}") from error
    for warning in caught:
        warn(f"layer {layer!r}: {warning.message}", warning.category)
    return X


def _fit(one: FittedProbe, statistics: Statistics | None, X: Tensor | None, y: Tensor) -> float:
    """Fit the estimator in place; return its mean number of components per class, else NaN."""
    estimator: Any = one.estimator
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DegenerateWarning)
        try:
            # Statistics of rows serve MASC, whose variances share one fit. Other probes are fitted to rows,
            # since `fit` may store more than `fit_statistics` does (Ridge: what leave-one-out scores need).
            by_statistics = isinstance(estimator, MASC) or not isinstance(statistics, RowStatistics)
            if statistics is not None and streams(estimator) and by_statistics:
                estimator.fit_statistics(statistics, one.classes)
            elif X is None:
                raise InputError("the probe needs rows, and only sums over them were given")
            elif isinstance(estimator, Probe):
                estimator.fit_indices(X, torch.searchsorted(one.present, y), one.classes)
            else:
                estimator.fit(X.cpu().numpy(), y.numpy())  # class indices; `FittedProbe` names them
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise InputError(f"{one}: {error}") from error
    for warning in caught:
        warn(f"{one}: {warning.message}", warning.category)
    subspaces = getattr(estimator, "subspaces_", None)
    return np.nan if subspaces is None else float(np.mean(subspaces.ranks))


def new_sums(
    X: Tensor, labels: LabelSets, probes: Mapping[str, ClassifierMixin], rows: int | None = None
) -> LayerSums:
    """Return empty sums for rows like those of X.

    Parameters
    ----------
    X : Tensor of shape (b, d)
        Gives dimension, dtype and device.
    labels : LabelSets
    probes : mapping of str to estimator
        They determine the sums that are kept.
    rows : int, optional
        Expected number of rows; 0 if each update is large, so that nothing has to be buffered.
    """
    reads = frozenset().union(*(p.reads for p in probes.values() if isinstance(p, MomentProbe) and p.streams))
    wide = torch.tensor(int(widen(X).dtype == torch.float64))  # in any process of the job
    return LayerSums(
        SumOptions(
            len(labels.classes),
            X.shape[1],
            len(labels.names),
            moments="moments" in reads,
            means=bool(reads & {"means", "scatter"}),
            scatter="scatter" in reads,
            dtype=torch.float64 if sum_over_processes(wide) else X.dtype,
            device=X.device,
            expected=rows,
        )
    )


def predictions(
    fitted: Sequence[FittedProbe], X: Tensor, failed: dict[int, str] | None = None
) -> Iterator[tuple[int, Tensor, float]]:
    """Predict with all probes of a layer; subspaces of one fit share one projection.

    Parameters
    ----------
    fitted : sequence of FittedProbe
        All of one layer.
    X : Tensor of shape (n, d)
    failed : dict of int to str, optional
        Gets the position of each probe that cannot predict these rows, and the reason. Default: raise.

    Yields
    ------
    position : int
        In `fitted`, in any order; probes without a fit are left out.
    predicted : Tensor of shape (n,), int64
        Class indices, on the CPU.
    seconds : float
        Time of the prediction.
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
        for rows, truth in zip(X.split(SCORED_ROWS), y.split(SCORED_ROWS, dim=1), strict=True):
            for position, predicted, seconds in predictions(
                self.fitted, rows, self.failed if self.skip else None
            ):
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
