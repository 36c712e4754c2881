"""The face that every probe shows: scikit-learn's contract over NumPy arrays and torch tensors."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from torch import Tensor

from layerprobe.core.checks import check_finite, check_rows
from layerprobe.core.statistics import RowStatistics, Statistics
from layerprobe.errors import InputError

__all__ = ["MomentProbe", "Probe", "StagedProbe"]


class Probe(ClassifierMixin, BaseEstimator):
    """Base of all probes: takes arrays or tensors, names classes, and gives the same kind back.

    A new probe is a subclass with two methods over tensors, and one line in ``probes/__init__.py``:

    ``_fit(X, codes, num_classes)``
        Learn from X (n, d), float32 or float64, and codes (n,) int64 in 0..K-1.
    ``_scores(X)``
        Scores (n, K); the largest wins, the first of equals.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
    n_features_in_ : int
    """

    classes_: np.ndarray
    n_features_in_: int

    def fit(self, X: Any, y: Any) -> Self:
        """Fit to a layer's outputs.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
            Integers, strings or any other hashables.

        Returns
        -------
        self
        """
        rows, labels = self._training_rows(X, y, reset=True)
        self.classes_, codes = encode(labels)
        self._fit(rows, torch.from_numpy(codes).to(rows.device), len(self.classes_))
        return self

    def decision_function(self, X: Any) -> Any:
        """Score every class.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)

        Returns
        -------
        array or Tensor of shape (n, K)
            The largest wins. For two classes of shape (n,), the second's score less the first's, as
            scikit-learn has it.
        """
        scores = self._scores(self._query_rows(X))
        return like(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores, X)

    def class_scores(self, X: Any) -> Any:
        """Score every class, with one column per class also for two classes.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)

        Returns
        -------
        array or Tensor of shape (n, K)
        """
        return like(self._scores(self._query_rows(X)), X)

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
        return self._name(self.predict_codes(X), X)

    def predict_codes(self, X: Any) -> Tensor:
        """Predict places in ``classes_``, (n,) int64."""
        return self._scores(self._query_rows(X)).argmax(1)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Share of rows whose label is predicted, for labels of any kind.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        y : sequence of n labels
        sample_weight : sequence of n float, optional
        """
        truth, predicted = label_array(y), self.predict(X)
        predicted = predicted.cpu().numpy() if isinstance(predicted, Tensor) else predicted
        if len(truth) != len(predicted):
            raise InputError(
                f"X and y must have the same length, got {len(predicted)} rows and {len(truth)} labels."
            )
        return float(np.average(predicted == truth, weights=sample_weight))

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that a probe shows what a layer holds, however little that is."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    def _fit(self, X: Tensor, codes: Tensor, num_classes: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit(X, codes, num_classes).")

    def _scores(self, X: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _scores(X).")

    def _training_rows(self, X: Any, y: Any, *, reset: bool) -> tuple[Tensor, np.ndarray]:
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        labels = label_array(y)
        exotic = labels.dtype == object and {_kind(label) for label in labels} != {str}
        if isinstance(X, Tensor):
            rows = self._tensor_rows(X, reset=reset)
            if len(rows) != len(labels):
                raise InputError(
                    f"X and y must have the same length, got {len(rows)} rows and {len(labels)} labels."
                )
            if not len(rows):
                raise InputError("Found array with 0 sample(s), expected at least one row to fit on.")
            if not exotic:
                check_classification_targets(labels)
            return rows, labels
        array = X if isinstance(X, np.ndarray) and X.dtype != np.float16 else _plain(X)
        targets = np.arange(len(labels)) if exotic else labels
        array, targets = validate_data(self, array, targets, dtype=[np.float64, np.float32], reset=reset)
        if not exotic:
            check_classification_targets(targets)
            labels = targets
        return to_tensor(array), labels

    def _fitted_rows(self, X: Any, y: Any, codes: Tensor) -> Tensor:
        """Give the rows of X after checking that there are as many as were fitted, with the same labels."""
        rows, labels = self._training_rows(X, y, reset=False)
        classes, given = encode(labels)
        if list(classes) != list(self.classes_) or given.tolist() != codes.tolist():
            raise InputError(
                f"Expected the very {len(codes)} rows and labels that the probe was fitted on, in their "
                f"order; got {len(given)} rows, or other labels. Fit a probe to these rows first."
            )
        return rows

    def _query_rows(self, X: Any) -> Tensor:
        check_is_fitted(self)
        if isinstance(X, Tensor):
            return self._tensor_rows(X, reset=False)
        return to_tensor(validate_data(self, _plain(X), dtype=[np.float64, np.float32], reset=False))

    def _tensor_rows(self, X: Tensor, *, reset: bool) -> Tensor:
        rows = check_rows(X)
        if reset:
            self.n_features_in_ = rows.shape[1]
        elif rows.shape[1] != self.n_features_in_:
            expected = f"{type(self).__name__} is expecting {self.n_features_in_} features as input."
            raise InputError(f"X has {rows.shape[1]} features, but {expected}")
        check_finite(rows)
        return rows

    def _name(self, codes: Tensor, X: Any) -> Any:
        """Turn codes (n,) into labels of the kind of X."""
        if isinstance(X, Tensor) and self.classes_.dtype.kind in "biuf":
            return torch.from_numpy(self.classes_).to(X.device)[codes.to(X.device)]
        return self.classes_[codes.cpu().numpy()]


class MomentProbe(Probe):
    """A probe that needs no rows, only what sums over them hold: it can be fitted batch by batch.

    A subclass defines ``_fit_statistics(statistics)`` in the place of ``_fit``, and names in `reads` what
    that asks for: the classes' "moments", their "means", the "scatter" of all rows.
    """

    reads: ClassVar[frozenset[str]]

    @property
    def streams(self) -> bool:
        """Whether the arguments allow it."""
        return True

    def fit_statistics(self, statistics: Statistics, classes: np.ndarray) -> Self:
        """Fit to sums over rows.

        Parameters
        ----------
        statistics : Statistics
        classes : ndarray of shape (K,)
            Names of the classes, in the order of their codes.

        Returns
        -------
        self
        """
        self.classes_, self.n_features_in_ = classes, statistics.dim
        self._fit_statistics(statistics)
        return self

    def _fit(self, X: Tensor, codes: Tensor, num_classes: int) -> None:
        self._fit_statistics(RowStatistics(X, codes, num_classes))

    def _fit_statistics(self, statistics: Statistics) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit_statistics(statistics).")


class StagedProbe(Probe):
    """A probe whose one fit serves every value of one constructor argument, that called :attr:`stage`.

    A subclass names it and defines ``_check_stage()``, which refuses values that make no sense, and
    ``_restage()``, which renews what a fit leaves and the argument changes, if there is any such thing.
    """

    stage: ClassVar[str]

    def staged_scores(self, X: Any, values: Sequence[Any] | np.ndarray) -> Iterator[Any]:
        """Score every class at several values of the argument.

        Parameters
        ----------
        X : array or Tensor of shape (n, d)
        values : sequence
            Of values of the argument; at least one.

        Yields
        ------
        array or Tensor of shape (n, K)
            Scores at each value, of the kind of X, with a column for every class also for two of them.

        Raises
        ------
        InputError
            For no value, or one that the fit cannot serve.
        """
        rows = self._query_rows(X)
        if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or not len(values):
            raise InputError(f"expected a sequence of at least one {self.stage}, got {values!r}")
        return (like(scores, X) for scores in self._staged_scores(rows, [self.at(value) for value in values]))

    def at(self, value: Any) -> Self:
        """Give this fitted probe with the argument at another value: a shallow copy, nothing is fitted.

        Parameters
        ----------
        value : as the constructor takes it

        Raises
        ------
        InputError
            For a value that the fit cannot serve.
        """
        check_is_fitted(self)
        probe = copy.copy(self)
        setattr(probe, self.stage, value)
        probe._check_stage()
        probe._restage()
        return probe

    def _check_stage(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _check_stage().")

    def _restage(self) -> None:
        """Renew what depends on the argument; nothing does where scoring reads the argument itself."""

    def _staged_scores(self, X: Tensor, stages: Sequence[Self]) -> Iterator[Tensor]:
        """Give the scores (n, K) of this probe's stages, which `at` made, one after the other."""
        return (stage._scores(X) for stage in stages)


def _plain(X: Any) -> Any:
    """float16 becomes float32 as for tensors; scikit-learn would make it float64."""
    return X.astype(np.float32) if getattr(X, "dtype", None) == np.float16 else X


def label_array(y: Any) -> np.ndarray:
    """Give labels as a 1-d array, (n,); those that are not all strings or all numbers stay as they are."""
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        return column_or_1d((y.float() if y.dtype == torch.bfloat16 else y).numpy(), warn=True)
    if isinstance(y, Sequence) and y and not any(isinstance(label, list) for label in y):
        kinds = {_kind(label) for label in y}
        if len(kinds) > 1 or not kinds <= {str, Real}:
            return _objects(y)
    return column_or_1d(y, warn=True)


def _kind(label: Any) -> type:
    """Give the kind within which labels compare; types of their own for all that may not."""
    return next((kind for kind in (str, tuple, Real) if isinstance(label, kind)), type(label))


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def encode(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the distinct labels, sorted if they compare, else in order of appearance; and each one's code."""
    if labels.dtype != object:
        classes, codes = np.unique(labels, return_inverse=True)
        return classes, codes.astype(np.int64)
    distinct = list(dict.fromkeys(labels))
    if len(kinds := {_kind(label) for label in distinct}) == 1 and kinds <= {str, tuple, Real}:
        with contextlib.suppress(TypeError):  # tuples of what does not compare
            distinct.sort()
    position = {label: k for k, label in enumerate(distinct)}
    return _objects(distinct), np.array([position[label] for label in labels], dtype=np.int64)


def to_tensor(array: np.ndarray) -> Tensor:
    """Share a NumPy array's memory, or copy it where torch cannot."""
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def like(result: Tensor, X: Any) -> Any:
    """Give a result as a tensor on X's device for a tensor, as a NumPy array for anything else."""
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()
