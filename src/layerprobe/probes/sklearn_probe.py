"""Base of the probes that wrap an estimator of scikit-learn."""

import re
import warnings
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from torch import Tensor

from layerprobe.errors import InputError
from layerprobe.probes.base import Probe, to_tensor
from layerprobe.utils.settings import one_thread

SAME_ROWS = "all rows are the same, so no feature separates the classes; leave out this layer"


class SklearnProbe(Probe):
    """A probe that fits a scikit-learn estimator, on the CPU.

    A subclass defines ``_estimator()``, which returns the estimator to fit on class indices 0..K-1.

    Attributes
    ----------
    estimator_ : the fitted scikit-learn estimator
    """

    def _estimator(self) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define _estimator().")

    def _numbers(self, X: Tensor) -> np.ndarray:
        """Return rows as the estimator takes them."""
        return X.cpu().numpy()

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        rows = self._numbers(X)
        # Many small decompositions: on a busy machine several threads are ten times slower than one.
        with warnings.catch_warnings(), one_thread(), threadpool_limits(1, user_api="openmp"):
            # Dead units make collinear features in every memorised network: no reason for a warning.
            warnings.filterwarnings("ignore", message="Variables are collinear")
            try:
                self.estimator_ = self._estimator().fit(rows, y.cpu().numpy())
            except (ValueError, IndexError) as error:
                raise InputError(self._reason(rows, str(error))) from error

    def _reason(self, rows: np.ndarray, message: str) -> str:
        """Return the estimator's error message with class names in place of class indices."""
        if len(rows) > 1 and (rows == rows[0]).all():
            message = SAME_ROWS
        named = re.sub(
            r"class (?:np\.int64\()?(\d+)\)?",
            lambda match: f"class {self.classes_.tolist()[int(match[1])]!r}",
            message,
        )
        return f"{type(self).__name__} cannot be fitted: {named}"

    def _scores(self, X: Tensor) -> Tensor:
        rows = self._numbers(X)
        scoring = getattr(self.estimator_, "decision_function", None) or self.estimator_.predict_proba
        try:
            scores = scoring(rows)
        except ValueError as error:
            raise InputError(f"{type(self).__name__} cannot predict: {error}") from error
        if scores.ndim == 1:  # scikit-learn's one column for two classes, or for a single one
            scores = np.stack([np.zeros_like(scores), scores], axis=1)[:, -len(self.classes_) :]
        return to_tensor(scores).to(X.device)
