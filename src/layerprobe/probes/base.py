"""Base classes of all probes: scikit-learn's contract over NumPy arrays and torch tensors."""

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
from layerprobe.utils.settings import default_settings


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
        y : sequence of n labels
            Integers, strings or any other hashables.

        Returns
        -------
        self
        """
        rows, labels = self._training_rows(X, y, reset=True)
        self.classes_, indices = encode(labels)
        self._fit(rows, torch.from_numpy(indices).to(rows.device), len(self.classes_))
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
        scores = self._scores(self._query_rows(X))
        return like(scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores, X)

    @default_settings()
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
        return self._name(self.predict_indices(X), X)

    @default_settings()
    def predict_indices(self, X: Any) -> Tensor:
        """Predict positions in ``classes_``, (n,) int64, for the rows of X, (n, d)."""
        return self._scores(self._query_rows(X)).argmax(1)

    @default_settings()
    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, for labels of any kind.

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
        """Mark probes as possibly poor classifiers: a layer may hold little information."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True
        return tags

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit(X, y, num_classes).")

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

    def _fitted_rows(self, X: Any, y: Any, indices: Tensor) -> Tensor:
        """Return the rows of X; raise unless X and y are as many rows as in fitting, with the same labels."""
        rows, labels = self._training_rows(X, y, reset=False)
        classes, given = encode(labels)
        if list(classes) != list(self.classes_) or given.tolist() != indices.tolist():
            raise InputError(
                f"Expected the very {len(indices)} rows and labels that the probe was fitted on, in their "
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

    def _name(self, indices: Tensor, X: Any) -> Any:
        """Return the labels of class indices, (n,), as a tensor for a tensor X of numbers."""
        if isinstance(X, Tensor) and self.classes_.dtype.kind in "biuf":
            return torch.from_numpy(self.classes_).to(X.device)[indices.to(X.device)]
        return self.classes_[indices.cpu().numpy()]


class MomentProbe(Probe):
    """A probe that is fitted to sums over rows, and therefore batch by batch.

    A subclass defines ``_fit_statistics(statistics)`` in place of ``_fit``. `reads` names the sums that it
    needs: the "moments" of the classes, their "means", the "scatter" of all rows.
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

        Returns
        -------
        self
        """
        self.classes_, self.n_features_in_ = classes, statistics.dim
        self._fit_statistics(statistics)
        return self

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        self._fit_statistics(RowStatistics(X, y, num_classes))

    def _fit_statistics(self, statistics: Statistics) -> None:
        raise NotImplementedError(f"{type(self).__name__} must define _fit_statistics(statistics).")


class StagedProbe(Probe):
    """A probe of which one fit serves all values of one constructor argument, named by :attr:`stage`.

    A subclass defines ``_check_stage()``, which raises for invalid values, and ``_restage()``, which updates
    fitted attributes that depend on the argument.
    """

    stage: ClassVar[str]

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
        check_is_fitted(self)
        probe = copy.copy(self)
        setattr(probe, self.stage, value)
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


def _plain(X: Any) -> Any:
    """float16 becomes float32 as for tensors; scikit-learn would make it float64."""
    return X.astype(np.float32) if getattr(X, "dtype", None) == np.float16 else X


def label_array(y: Any) -> np.ndarray:
    """Return labels as a 1-d array, (n,); of objects unless all are strings or all are numbers."""
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        return column_or_1d((y.float() if y.dtype == torch.bfloat16 else y).numpy(), warn=True)
    if isinstance(y, Sequence) and y and not any(isinstance(label, list) for label in y):
        kinds = {_kind(label) for label in y}
        if len(kinds) > 1 or not kinds <= {str, Real}:
            return _objects(y)
    return column_or_1d(y, warn=True)


def _kind(label: Any) -> type:
    """Return the kind within which labels compare, or the type of labels that may not."""
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
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def like(result: Tensor, X: Any) -> Any:
    """Return a result in the kind of the rows.

    Parameters
    ----------
    result : Tensor
    X : array or Tensor
        Rows: a tensor gives a tensor on its device, anything else a NumPy array.
    """
    return result.to(X.device) if isinstance(X, Tensor) else result.cpu().numpy()
