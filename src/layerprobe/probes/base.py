"""Base classes of all probes: scikit-learn's contract over NumPy arrays and torch tensors."""

import contextlib
import copy
import math
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from layerprobe.core.checks import SAFE, check_dense, check_finite, check_rows, widen
from layerprobe.core.statistics import RowStatistics, Statistics
from layerprobe.errors import DegenerateWarning, InputError, warn
from layerprobe.utils.settings import default_settings


class InputTypeError(InputError, TypeError):
    """Raised for values of a wrong type, where scikit-learn's contract requires a TypeError."""


class UnfittedProbeError(InputError, NotFittedError):
    """Raised for a probe that has not been fitted; also a NotFittedError of scikit-learn."""


class Probe(ClassifierMixin, BaseEstimator):
    """Base of all probes: accept arrays or tensors and labels of any kind; return the same kind.

    A subclass defines two methods over tensors, and is named in ``probes/__init__.py``:

    ``_fit(X, y, num_classes)``
        Fit to X (n, d), float32 or float64, and class indices y (n,) int64 in 0..K-1.
    ``_scores(X)``
        Scores (n, K); the largest wins, the first of equals.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    classes_: np.ndarray
    n_features_in_: int

    @default_settings()
    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a layer's outputs.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
            Numbers, float32 where float32 resolves the angles between the rows, else computed in float64.
        y : sequence of n labels
            Integers, strings or any other hashables but None and NaN.

        Returns
        -------
        self

        Raises
        ------
        InputError
            For values that are no finite numbers, missing labels, or different numbers of rows and labels.
        """
        rows, labels = self._training_rows(X, y, reset=True)
        self.classes_, indices = encode(labels)
        self._fit(widen(rows), torch.from_numpy(indices).to(rows.device), len(self.classes_))
        return self

    @default_settings()
    def fit_indices(self, X: Tensor, y: Tensor, classes: np.ndarray) -> Self:
        """Fit to class indices.

        Parameters
        ----------
        X : Tensor of shape (n, d)
        y : Tensor of shape (n,), int64
            Class of each row, 0..K-1; each class has a row.
        classes : ndarray of shape (K,)
            Names of the classes, in the order of their indices.
        """
        rows = self._rows(X, reset=True)
        self.classes_ = classes
        self._keep_none()
        self._fit(widen(rows), y.to(rows.device), len(classes))
        return self

    @default_settings()
    def decision_function(self, X: Any) -> Any:
        """Score every class.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)

        Returns
        -------
        array or Tensor of shape (n, K)
            The largest wins. For two classes (n,): the score of the second less that of the first, as in
            scikit-learn.
        """
        scores = self._finite_scores(self._query_rows(X))
        return like(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores, X)

    @default_settings()
    def class_scores(self, X: Any) -> Any:
        """Score every class of the rows of X, (n, d), with one column per class also for two: (n, K)."""
        return like(self._finite_scores(self._query_rows(X)), X)

    def predict(self, X: Any) -> Any:
        """Predict labels.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)

        Returns
        -------
        array or Tensor of shape (n,)
            A tensor on X's device for a tensor, unless the labels are no numbers.
        """
        return self._name(self.predict_indices(X), X)

    @default_settings()
    def predict_indices(self, X: Any) -> Tensor:
        """Predict positions in ``classes_``, (n,) int64, for the rows of X, (n, d)."""
        return self._finite_scores(self._query_rows(X)).argmax(1)

    @default_settings()
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, for labels of any kind.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
        sample_weight : sequence of n float, optional
            Not negative, and not all zero.

        Raises
        ------
        InputError
            For labels none of which is a class, and for weights that are no such numbers.

        Warns
        -----
        DegenerateWarning
            If the labels are the classes, whole numbers, shifted by one.
        """
        truth, predicted = label_array(y), self.predict(X)
        predicted = predicted.cpu().numpy() if isinstance(predicted, Tensor) else predicted
        if len(truth) != len(predicted):
            raise InputError(
                f"X and y must have the same length, got {len(predicted)} rows and {len(truth)} labels."
            )
        self._check_known(truth)
        weights = None if sample_weight is None else _weight_array(sample_weight, len(truth))
        return float(np.average(predicted == truth, weights=weights))

    def _check_known(self, truth: np.ndarray) -> None:
        """Raise if no label (n,) is a class, or booleans mix with numbers; warn if shifted by one."""
        given, classes = encode(truth)[0], self.classes_
        kinds = given.dtype.kind + classes.dtype.kind
        mixed = set(kinds) <= set("biuf") and kinds.count("b") == 1
        mixed = mixed and not np.isin([*given, *classes], (0, 1)).all()
        if len(given) and (mixed or not set(given.tolist()) & set(classes.tolist())):
            raise InputError(
                f"y has the labels {given.tolist()[:5]}, of which none is a class of the fit, such as "
                f"{classes.tolist()[:5]}: give the labels in the form of the fit."
            )
        whole = set(kinds) <= set("iu") and len(given) > 1
        if whole and any(np.array_equal(given.astype(np.int64) + shift, classes) for shift in (-1, 1)):
            warn(
                f"y has the labels {given[0]}..{given[-1]}, but the probe was fitted on {classes[0]}.."
                f"{classes[-1]}: count both from the same number on.",
                DegenerateWarning,
            )

    def __sklearn_tags__(self) -> Tags:
        """Mark probes as possibly poor classifiers: a layer may hold little information."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    def _keep_none(self) -> None:
        """Drop the rows that an earlier fit kept."""

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit(X, y, num_classes).")

    def _scores(self, X: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _scores(X).")

    def _finite_scores(self, X: Tensor) -> Tensor:
        """Return the scores; in float64 where those of float32 rows overflow."""
        scores, expected = self._scores(X), (len(X), len(self.classes_))
        if scores.shape != expected:
            raise InputError(
                f"{type(self).__name__}._scores must return a score per row and class, of shape {expected}; "
                f"got {tuple(scores.shape)}"
            )
        if torch.isfinite(scores.amax(1)).all():
            return scores
        if X.dtype == torch.float32:
            return self._finite_scores(X.double())
        raise InputError(
            f"the scores of {type(self).__name__} are NaN, or overflow in float64, for rows X with the "
            f"largest magnitude {check_finite(X):.1e}: rescale X as the rows of the fit; "
            "in a probe of your own, mend _scores"
        )

    def _training_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Tensor, np.ndarray]:
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        labels = label_array(y)
        rows = self._rows(X, reset=reset)
        if len(rows) != len(labels):
            raise InputError(
                f"X and y must have the same length, got {len(rows)} rows and {len(labels)} labels: they are "
                "inconsistent."
            )
        if labels.dtype != object or {_kind(label) for label in labels} == {str}:
            try:
                check_classification_targets(labels)
            except (TypeError, ValueError) as error:
                raise InputError(f"y cannot be used as labels: {error}") from error
        return rows, labels

    def _left_out_rows(self, X: Any, y: Any, indices: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the rows and classes of the fit, to score each by the others; raise for other X or y."""
        if indices is None:
            raise InputError("Leave-one-out scores need a fit without sample_weight.")
        rows, labels = self._training_rows(X, y, reset=False)
        classes, given = encode(labels)
        if list(classes) != list(self.classes_) or given.tolist() != indices.tolist():
            raise InputError(
                f"Expected the very {len(indices)} rows and labels that the probe was fitted on, in their "
                f"order; got {len(given)} rows, or other labels. Fit a probe to these rows first."
            )
        if len(rows) < 2:
            raise InputError("leave-one-out scores need at least two rows, got one.")
        return rows, indices

    def _query_rows(self, X: Any) -> Tensor:
        self._require_fit()
        return self._rows(X, reset=False)

    def _require_fit(self) -> None:
        try:
            check_is_fitted(self)
        except NotFittedError as error:
            raise UnfittedProbeError(str(error)) from error

    def _rows(self, X: Any, *, reset: bool) -> Tensor:
        """Return rows of any kind as a tensor of numbers, (n, d); raise for anything else.

        Those of a fit, `reset`, may not be finite: they go through `widen` next.
        """
        if isinstance(X, Tensor):
            rows = check_rows(X)
            if reset:
                if not len(rows):
                    raise InputError("Found array with 0 sample(s), expected at least one row to fit on.")
                self.n_features_in_ = rows.shape[1]
                self.__dict__.pop("feature_names_in_", None)
            elif rows.shape[1] != self.n_features_in_:
                expected = f"{type(self).__name__} is expecting {self.n_features_in_} features as input."
                raise InputError(f"X has {rows.shape[1]} features, but {expected}")
        else:
            _require_numbers(X)
            if getattr(X, "dtype", None) == np.float16:  # float32, as for tensors
                X = X.astype(np.float32)
            try:
                array = validate_data(
                    self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, reset=reset
                )
            except TypeError as error:
                raise InputTypeError(str(error)) from error
            except (ValueError, OverflowError) as error:
                raise InputError(str(error)) from error
            rows = to_tensor(array)
        if reset:  # `widen` checks the rows of a fit
            return rows
        largest = check_finite(rows)
        safe = not largest or SAFE[0] < largest < SAFE[1]
        return rows if safe else rows.double()

    def _name(self, indices: Tensor, X: Any) -> Any:
        """Return the labels of class indices, (n,), as a tensor for a tensor X of numbers."""
        if isinstance(X, Tensor) and self.classes_.dtype.kind in "biuf":
            return torch.from_numpy(self.classes_).to(X.device)[indices.to(X.device)]
        return self.classes_[indices.cpu().numpy()]


class WeightedProbe(Probe):
    """A probe that takes a weight for each row; a subclass defines ``_fit_weighted`` in place of ``_fit``."""

    @default_settings()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to a layer's outputs.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
            As for probes without weights.
        sample_weight : sequence of n float, optional
            Weight of each row; a row of weight 2 counts as two equal rows, one of weight 0 is left out.

        Returns
        -------
        self

        Raises
        ------
        InputError
            As for probes without weights; for weights that are negative, or zero for all rows of a class.
        """
        rows, labels = self._training_rows(X, y, reset=True)
        self.classes_, indices = encode(labels)
        y, weights = torch.from_numpy(indices).to(rows.device), None
        if sample_weight is not None:
            check_finite(rows)
            weights = torch.from_numpy(_weight_array(sample_weight, len(labels))).to(rows.device)
            kept = weights > 0
            rows, y, weights = rows[kept], y[kept], weights[kept]
            if not (counts := y.bincount(minlength=len(self.classes_))).all():
                name = self.classes_.tolist()[int(counts.argmin())]
                raise InputError(f"All rows of class {name!r} have the weight 0: drop them.")
        rows = widen(rows)
        self._fit_weighted(rows, y, len(self.classes_), weights)
        self._keep(rows, y, weights)
        return self

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        self._fit_weighted(X, y, num_classes, None)

    def _keep(self, X: Tensor, y: Tensor, weights: Tensor | None) -> None:
        """Keep rows of a fit; there are none to keep by default."""

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit_weighted(X, y, K, weights).")


class ProbabilityProbe(Probe):
    """A probe with class probabilities: the softmax of its scores, unless a subclass says otherwise."""

    @default_settings()
    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class; the docstring of the class says which one it is.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)

        Returns
        -------
        array or Tensor of shape (n, K)
            Rows sum to one; columns in the order of ``classes_``.
        """
        return like(self._probabilities(self._query_rows(X)), X)

    def _probabilities(self, X: Tensor) -> Tensor:
        return self._finite_scores(X).double().softmax(1)


class LinearProbe(Probe):
    """A probe that predicts argmax_k (w_k . x + b_k).

    Subclasses define ``_fit``, and ``_weight_and_bias`` unless these are ``coef_`` and ``intercept_``.
    """

    coef_: Tensor
    intercept_: Tensor

    @property
    def linear_(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the linear layer that predicts as this probe does."""
        self._require_fit()
        return self._weight_and_bias()

    def _weight_and_bias(self) -> tuple[Tensor, Tensor]:
        return self.coef_, self.intercept_

    def _scores(self, X: Tensor) -> Tensor:
        weight, bias = self._weight_and_bias()
        dtype = torch.promote_types(X.dtype, weight.dtype)
        return nn.functional.linear(X.to(weight.device, dtype), weight.to(dtype), bias.to(dtype))


class MomentProbe(WeightedProbe):
    """A probe that is fitted to sums over rows, and therefore batch by batch.

    A subclass defines ``_fit_statistics(statistics)`` in place of ``_fit_weighted``. `reads` names the sums
    that it needs: the "moments" of the classes, their "means", the "scatter" of all rows.
    """

    reads: ClassVar[frozenset[str]]

    @property
    def streams(self) -> bool:
        """Whether sums over rows are enough for these arguments."""
        return True

    def fit_statistics(self, statistics: Statistics, classes: np.ndarray) -> Self:
        """Fit to sums over rows.

        Parameters
        ----------
        statistics : Statistics
        classes : ndarray of shape (K,)
            Names of the classes, in the order of their indices.
        """
        self.classes_, self.n_features_in_ = classes, statistics.dim
        self._keep_none()
        self._fit_statistics(statistics)
        return self

    def _fit_weighted(self, X: Tensor, y: Tensor, num_classes: int, weights: Tensor | None) -> None:
        self._fit_statistics(RowStatistics(X, y, num_classes, weights))

    def _fit_statistics(self, statistics: Statistics) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit_statistics(statistics).")


KEPT = 2**20  # numbers that a fit keeps for the calibration: 4 MiB of float32
FOLDS = 5
SHARPNESS = (1e-6, 1e6)  # inverse temperatures in units of the spread of the scores


class CalibratedProbe(ProbabilityProbe, MomentProbe):
    """A probe whose scores are no probabilities: `predict_proba` is the softmax of scores times `beta_`.

    The inverse temperature maximises the likelihood of labels in 5-fold cross-validation, on the first rows
    of each class, which `fit` keeps: 2^20 numbers, and at least two rows per class. It is computed when
    it is first used. Labels have the probability 1 - 1 / (m + 2) among m rows, so that perfect scores get no
    infinite temperature (Platt, 1999; Guo et al., "On calibration of modern neural networks", 2017).
    """

    kept_: tuple[Tensor, Tensor, Tensor] | None  # rows, sorted by class; class indices; weights
    _totals: Tensor  # sum of the weights of all rows of each class, (K,)
    _calibration: list[float]  # beta_, once it is computed

    @property
    def beta_(self) -> float:
        """Inverse temperature of the probabilities."""
        self._require_fit()
        if not self._calibration:
            self._calibration.append(self._calibrated())
        return self._calibration[0]

    def _keep_none(self) -> None:
        self.kept_, self._calibration = None, []

    def _keep(self, X: Tensor, y: Tensor, weights: Tensor | None) -> None:
        self._keep_none()
        self._keep_more(X, y, weights)

    def _keep_more(self, X: Tensor, y: Tensor, weights: Tensor | None = None) -> None:
        """Keep rows until each class has enough."""
        self._calibration, K = [], len(self.classes_)
        w = torch.ones(len(y), dtype=torch.float64, device=y.device) if weights is None else weights
        totals, new = y.bincount(w, K), (X, y, w)
        kept = tuple(part[:0] for part in new) if self.kept_ is None else self.kept_
        self._totals = totals if self.kept_ is None else totals + self._totals
        room = max(KEPT // X.shape[1] // K, 2) - kept[1].bincount(minlength=K)
        order, place = _places(y, K)
        order = order[place < room[y[order]]]
        if len(order):
            rows, y, w = (torch.cat([old, part[order]]) for old, part in zip(kept, new, strict=True))
            order = y.argsort(stable=True)
            self.kept_ = rows[order], y[order], w[order]

    def _probabilities(self, X: Tensor) -> Tensor:
        p = (self.beta_ * self._finite_scores(X.double()).double()).softmax(1)
        predicted = self.predict_indices(X).to(p.device)[:, None]
        # Scores that differ may give probabilities that are equal after rounding.
        largest = torch.where(p.argmax(1, keepdim=True) == predicted, -1.0, p.amax(1, keepdim=True))
        largest = torch.where(largest < 0, p.gather(1, predicted), largest.nextafter(largest + 1))
        return p.scatter(1, predicted, largest)

    def _calibrated(self) -> float:
        if getattr(self, "kept_", None) is None:
            raise InputError(
                f"predict_proba of {type(self).__name__} needs rows to calibrate its scores, and this probe "
                "was fitted to sums over rows: fit it by fit(X, y)."
            )
        X, y, weights = self.kept_  # type: ignore[misc]
        K = len(self.classes_)
        fold = _folds(X, y, K)
        scores = X.new_zeros(len(X), K, dtype=torch.float64)
        for number in range(FOLDS if K > 1 else 0):
            out, probe = fold == number, clone(self)
            if not out.any():
                continue
            probe.classes_, probe.n_features_in_ = self.classes_, self.n_features_in_
            with warnings.catch_warnings(action="ignore", category=DegenerateWarning):
                probe._fit_weighted(X[~out], y[~out], K, weights[~out])
            scores[out] = probe._finite_scores(X[out]).double().to(scores.device)
        scored = fold < FOLDS
        if K == 1 or not scored.any():
            return 1.0
        represented = weights * (self._totals / y.bincount(weights, K))[y]
        scores, y, represented = (part[scored].cpu() for part in (scores, y, represented))
        return _sharpness(scores, y, represented, float(weights.sum()))


def _places(y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return the order that sorts rows by class, (n,), and the place of each sorted row in its class."""
    counts = y.bincount(minlength=num_classes)
    order = y.argsort(stable=True)
    return order, torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[y[order]]


def _folds(X: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return the fold of each row, (n,): equal rows are in one; FOLDS for the only row of a class.

    A row of weight 2 is thereby as good as two equal rows, and no row is both in and out.
    """
    factors = torch.randint(2**62, X.shape[1:], generator=torch.Generator().manual_seed(0)) | 1
    hashes = (X.double().view(torch.int64) * factors.to(X.device)).sum(1)
    distinct = torch.unique(torch.stack([y, hashes], 1), dim=0, return_inverse=True)
    classes, of_row = distinct[0][:, 0], distinct[1]
    fold = _places(classes, num_classes)[1] % FOLDS
    fold[classes.bincount(minlength=num_classes)[classes] < 2] = FOLDS
    return fold[of_row]


def _sharpness(scores: Tensor, y: Tensor, weights: Tensor, n: float) -> float:
    """Return the inverse temperature at which the softmax of scores, (m, K), is likeliest for y, (m,).

    The smoothing of the labels counts n rows.
    """
    unit = float((scores.amax(1) - scores.mean(1)).mean()) or 1.0
    smooth, scores = 1 / (n + 2), scores / unit
    target = (1 - smooth) * scores.gather(1, y[:, None]).squeeze(1) + smooth * scores.mean(1)

    def slope(log_beta: float) -> float:
        p = (math.exp(log_beta) * scores).softmax(1)
        return float(weights @ ((p * scores).sum(1) - target) / weights.sum())

    low, high = map(math.log, SHARPNESS)
    if slope(low) >= 0:  # useless scores, or one score for all classes
        return SHARPNESS[0] / unit
    if slope(high) <= 0:
        return SHARPNESS[1] / unit
    return math.exp(brentq(slope, low, high, xtol=1e-12)) / unit


class StagedProbe(Probe):
    """A probe of which one fit serves all values of one constructor argument, named by :attr:`stage`.

    A subclass defines ``_check_stage()``, which raises for invalid values, and ``_restage()``, which updates
    fitted attributes that depend on the argument.
    """

    stage: ClassVar[str]
    _calibration: list[float]

    @default_settings()
    def staged_scores(self, X: Any, values: Sequence[Any] | np.ndarray) -> Iterator[Any]:
        """Score every class at several values of the argument.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        values : sequence
            At least one value of the argument.

        Yields
        ------
        array or Tensor of shape (n, K)
            Scores at each value, of the kind of X, with a column for every class also for two of them.

        Raises
        ------
        InputError
            For no value, or a value that the fit does not serve.
        """
        rows = self._query_rows(X)
        if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or not len(values):
            raise InputError(f"expected a sequence of at least one {self.stage}, got {values!r}")
        stages = [self.at(value) for value in values]
        return iter([like(scores, X) for scores in self._staged_scores(rows, stages)])

    def at(self, value: Any) -> Self:
        """Return this fitted probe at another value of the argument: a shallow copy, without another fit.

        Parameters
        ----------
        value : as the constructor takes it

        Raises
        ------
        InputError
            For a value that the fit does not serve.
        """
        self._require_fit()
        probe = copy.copy(self)
        setattr(probe, self.stage, value)
        probe._calibration = []
        probe._check_stage()
        probe._restage()
        return probe

    def _check_stage(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _check_stage().")

    def _restage(self) -> None:
        """Update fitted attributes that depend on the argument; there are none by default."""

    def _staged_scores(self, X: Tensor, stages: Sequence[Self]) -> Iterator[Tensor]:
        """Yield the scores (n, K) of this probe at each stage, as `at` returns them."""
        return (stage._scores(X) for stage in stages)


def _require_numbers(X: Any) -> None:
    """Raise for values that NumPy or scikit-learn would turn into numbers that they are not."""
    if isinstance(X, pd.DataFrame):
        for name, column in X.items():
            if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_object_dtype(column)):
                raise InputError(
                    f"X must hold numbers, but its column {name!r} is {column.dtype}: encode it."
                )
    if hasattr(X, "tocsr"):
        return  # a sparse matrix, which scikit-learn refuses
    if isinstance(X, np.ma.MaskedArray) and np.ma.is_masked(X):
        raise InputError("X is a masked array, and masks are not used: fill it, or drop its rows.")
    try:
        array = np.asarray(X)
    except (TypeError, ValueError) as error:
        raise InputError(f"X must be an array of numbers of shape (n, d): {error}") from error
    if array.dtype.kind in "MmUSTV":
        raise InputError(f"X must hold numbers, got {array.dtype}: encode it first.")
    texts = (str, bytes, pd.Timestamp, pd.Timedelta, np.datetime64, np.timedelta64)
    if array.dtype.kind == "O" and (wrong := [v for v in array.flat if isinstance(v, texts)]):
        raise InputError(f"X must hold numbers, got {wrong[0]!r} of the type {type(wrong[0]).__name__}.")


def _is_missing(label: Any) -> bool:
    """Return whether a label stands for no label: None, NaN, NaT or NA."""
    return label is None or label is pd.NA or label is pd.NaT or (isinstance(label, Real) and label != label)


def label_array(y: Any) -> np.ndarray:
    """Return labels as a 1-d array, (n,); of objects unless all are strings or all are numbers.

    Raises
    ------
    InputError
        For missing labels, several labels per row, labels that cannot be hashed, and anything but n labels.
    """
    if isinstance(y, Tensor):
        y = check_dense(y, "y").cpu()
        y = (y if y.dtype.itemsize > 2 or not y.is_floating_point() else y.float()).numpy()
    sized = hasattr(y, "__len__") or hasattr(y, "__array__")
    if isinstance(y, str | bytes | Mapping | Set | Iterator) or not sized:
        raise InputError(f"y must be a sequence of n labels, one per row, got {type(y).__name__}.")
    dtype = getattr(y, "dtype", None)
    try:
        if isinstance(y, Sequence) and len(y):
            y = [label.item() if isinstance(label, Tensor) and label.ndim == 0 else label for label in y]
            kinds = {_kind(label) for label in y}
            array = np.asarray(y) if kinds <= {str} or kinds <= {Real} or list in kinds else _objects(y)
        elif isinstance(dtype, np.dtype | None):
            array = np.asarray(y)
        else:  # of pandas, polars
            array = _tight(np.asarray(y, dtype=object))
        if array.ndim == 0 or (array.ndim > 1 and array.shape[1:] != (1,)):
            raise ValueError(f"expected one label per row, of shape (n,), got the shape {array.shape}")
        array = column_or_1d(array, warn=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"y should be a 1d array of one label per row: {error}") from error
    if array.dtype.kind == "T":  # NumPy's strings of variable length
        array = np.array(array.tolist())
    if np.ma.is_masked(y):
        missing = np.ma.getmaskarray(y).ravel()
    elif array.dtype == object:
        missing = np.array([_is_missing(label) for label in array], dtype=bool)
    else:
        missing = array != array if array.dtype.kind in "fM" else np.zeros(0, dtype=bool)
    if missing.any():
        raise InputError(
            f"Input y contains NaN: {int(missing.sum())} labels are missing (None, NaN or NA) of "
            f"{len(array)} rows, the first is row {int(missing.argmax())}: drop these rows."
        )
    if array.dtype == object and (wrong := [one for one in array if not isinstance(one, Hashable)]):
        raise InputError(f"labels must be hashable, one per row, got {wrong[0]!r:.80}.")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _tight(array: np.ndarray) -> np.ndarray:
    """Return an array of objects as one of numbers or strings where all of them are."""
    kinds = {type(label) for label in array.flat}
    return np.array(array.tolist()) if len(kinds) == 1 and kinds <= {int, float, bool, str} else array


def _weight_array(weights: Any, n: int) -> np.ndarray:
    """Return weights of n rows as float64, (n,); raise unless they are numbers of at least 0."""
    if isinstance(weights, Tensor):
        weights = check_dense(weights, "sample_weight").cpu().numpy()
    try:
        array = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"sample_weight must be one number per row: {error}") from error
    array = np.full(n, float(array)) if array.ndim == 0 else array
    if array.shape != (n,):
        raise InputError(f"sample_weight must have the shape ({n},), got {array.shape}.")
    if not array.any():
        raise InputError("Sample weights must contain at least one non-zero number.")
    wrong = array[~(array >= 0) | np.isinf(array)]
    if len(wrong):
        raise InputError(f"sample_weight must hold finite numbers of at least 0, got {wrong[0]}.")
    return array


def _kind(label: Any) -> type:
    """Return the kind within which labels compare, or the type of labels that may not."""
    if isinstance(label, np.ndarray | list):
        return list
    return next((kind for kind in (str, tuple, Real) if isinstance(label, kind)), type(label))


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def encode(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct labels, sorted if they compare, else in order of appearance; and class indices."""
    if labels.dtype != object:
        classes, indices = np.unique(labels, return_inverse=True)
        return classes, indices.astype(np.int64)
    distinct = list(dict.fromkeys(labels))
    if len(kinds := {_kind(label) for label in distinct}) == 1 and kinds <= {str, tuple, Real}:
        with contextlib.suppress(TypeError):  # tuples of what does not compare
            distinct.sort()
    position = {label: k for k, label in enumerate(distinct)}
    return _objects(distinct), np.array([position[label] for label in labels], dtype=np.int64)


def whole_numbers(labels: np.ndarray) -> np.ndarray | None:
    """Return labels as integers, (n,), where all are integers or texts of whole numbers; else None."""
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype.kind not in "UO" or not all(isinstance(label, str) for label in labels.tolist()):
        return None
    try:
        numbers = labels.astype(str).astype(np.float64)
    except ValueError:
        return None
    return numbers.astype(np.int64) if np.isfinite(numbers).all() and (numbers % 1 == 0).all() else None


def to_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor that shares the memory of an array, or a copy of an array that is read-only."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def like(result: Tensor, X: Any) -> Any:
    """Return a result as a tensor on the device of X if X is a tensor, else as a NumPy array.

    Parameters
    ----------
    result : Tensor
    X : array or Tensor
    """
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()
