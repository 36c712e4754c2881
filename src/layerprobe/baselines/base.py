"""Base of all detectors: the inputs that they read, and their common methods."""

import warnings
from typing import Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.probes.base import encode, label_array, to_tensor

ScoresAndFlags: TypeAlias = tuple[np.ndarray, np.ndarray | None]

TOLERANCE = 1e-3  # of the sum of probabilities, which float16 rounds


class Detection(NamedTuple):
    """Result of a detector.

    Attributes
    ----------
    scores : array or Tensor (n,)
        Higher means that the given label is more likely right, as `label_score` in ``Audit.issues``.
    flags : array or Tensor (n,), bool, or None
        Labels that the published rule of the detector calls wrong; None for a detector without such a rule.
    """

    scores: Any
    flags: Any


class Detector:
    """Base of all detectors of wrong labels: :meth:`score` and :meth:`detect`.

    A subclass names its input in `reads` and defines ``_detect(values, y, num_classes)``, which returns the
    scores (n,) and the flags (n,), or None for a detector without flags, as NumPy arrays.

    Attributes
    ----------
    reads : str
        The first argument of both methods. "features": outputs (n, d) of one layer. "pred_probs": class
        probabilities (n, K). "history": logits or class probabilities of the rows after each epoch of
        training, (epochs, n, K), or one number per row and epoch, (epochs, n), that the detector names.
    """

    reads: ClassVar[str]

    def score(self, values: Any, labels: Any) -> Any:
        """Return the score of each given label, higher for labels that are more likely right.

        Parameters
        ----------
        values : array or Tensor
            See `reads`.
        labels : sequence of n labels
            The given labels. Class indices 0..K-1 for values of K classes; any labels for other values.

        Returns
        -------
        array or Tensor (n,), float64
            In the kind of `values`.

        Raises
        ------
        InputError
            For values of a wrong shape or range, values that are not finite, or labels that do not fit.
        """
        return self.detect(values, labels).scores

    def detect(self, values: Any, labels: Any) -> Detection:
        """Return the scores, and the flags of a detector with a published rule for them.

        Parameters
        ----------
        values : array or Tensor
            See `reads`.
        labels : sequence of n labels

        Returns
        -------
        Detection

        Raises
        ------
        InputError
            As for :meth:`score`.
        """
        array = check_values(values, self.reads)
        classes = array.shape[-1] if self.reads == "pred_probs" or array.ndim == 3 else None
        rows = array.shape[1] if self.reads == "history" else len(array)
        y, num_classes = check_labels(labels, rows, classes)
        scores, flags = self._detect(array, y, num_classes)
        return Detection(_like(scores, values), None if flags is None else _like(flags, values))

    def _detect(self, values: np.ndarray, y: np.ndarray, num_classes: int) -> ScoresAndFlags:
        raise NotImplementedError(f"{type(self).__name__} must define _detect(values, y, num_classes).")


def check_values(values: Any, reads: str) -> np.ndarray:
    """Return the input of a detector as a finite array, float32 or float64.

    Parameters
    ----------
    values : array or Tensor
    reads : {"features", "pred_probs", "history"}
        See :class:`Detector`.

    Raises
    ------
    InputError
        If the values have a wrong shape or range, or are not finite.
    """
    shape = {"features": "(n, d)", "pred_probs": "(n, K)", "history": "(epochs, n, K) or (epochs, n)"}[reads]
    try:
        if isinstance(values, Tensor):  # NumPy has no bfloat16
            values = values.detach().cpu()
            values = values.numpy() if values.dtype == torch.float64 else values.float().numpy()
        array = np.asarray(values)
        array = array.astype(np.float32 if reads == "features" and array.dtype == np.float32 else np.float64)
    except (TypeError, ValueError) as error:  # texts, objects, rows of different lengths
        raise InputError(f"expected {reads} as numbers {shape}: {error}") from error
    dims = (2, 3) if reads == "history" else (2,)
    if array.ndim not in dims or 0 in array.shape:
        raise InputError(f"expected {reads} of shape {shape} and at least one row, got {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{reads} contain NaN or infinity: fix or remove these rows")
    if reads == "pred_probs" and not are_probabilities(array):
        raise InputError(
            f"expected pred_probs (n, K) between 0 and 1 with rows that sum to 1, got values from "
            f"{array.min():.3g} to {array.max():.3g} and sums from {array.sum(1).min():.3g} to "
            f"{array.sum(1).max():.3g}; apply a softmax to logits"
        )
    return array


def check_labels(labels: Any, n: int, num_classes: int | None) -> tuple[np.ndarray, int]:
    """Return class indices (n,) int64, and the number of classes K.

    Parameters
    ----------
    labels : sequence of n labels
    n : int
    num_classes : int or None
        K, if labels must be class indices 0..K-1; None for any labels.

    Raises
    ------
    InputError
        If there are not n labels, only one class, or labels that are not class indices.
    """
    given = label_array(labels)
    if len(given) != n:
        raise InputError(f"expected a label for each of {n} rows, got {len(given)}")
    if num_classes is None:
        classes, y = encode(given)
        if len(classes) < 2:
            raise InputError(f"expected labels of at least two classes, got only {given[0]!r}")
        return y, len(classes)
    if given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= num_classes:
        got = f"{given.min()}..{given.max()}" if given.dtype.kind in "iuf" else given.dtype
        raise InputError(f"expected labels as class indices 0..{num_classes - 1}, got {got}")
    return given.astype(np.int64), num_classes


def are_probabilities(values: np.ndarray) -> bool:
    """Return whether the values (..., K) are class probabilities."""
    return bool(values.min() >= 0 and (abs(values.sum(-1) - 1) <= TOLERANCE).all())


def own_and_best_other(values: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the value of the given class and the largest value of the other classes.

    Parameters
    ----------
    values : ndarray (..., n, K)
    y : ndarray (n,), int64

    Returns
    -------
    own, best_other : ndarray (..., n)
    """
    rows = np.arange(len(y))
    others = values.copy()
    others[..., rows, y] = -np.inf
    return values[..., rows, y], others.max(-1)


def upper_component(values: np.ndarray, *, tolerance: float, ridge: float) -> np.ndarray:
    """Fit a mixture of two Gaussians, and return the probability of the one with the larger mean, (n,).

    Parameters
    ----------
    values : ndarray (n,)
    tolerance, ridge
        `tol` and `reg_covar` of scikit-learn's GaussianMixture.

    Returns
    -------
    ndarray (n,)
        One for all rows if the values do not differ.
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return np.ones(len(values))
    column = values[:, None]
    mixture = GaussianMixture(2, max_iter=10, tol=tolerance, reg_covar=ridge, random_state=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        mixture.fit(column)  # the publications stop after ten iterations
    return mixture.predict_proba(column)[:, mixture.means_.argmax()]


def _like(result: np.ndarray, values: Any) -> Any:
    return to_tensor(result).to(values.device) if isinstance(values, Tensor) else result
