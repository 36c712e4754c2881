"""Class probabilities or logits of any model as the input of an audit."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.features import (
    AuditFeatures,
    AuditOptions,
    Features,
    check_labels,
    check_matrix,
    present_classes,
    require_order,
    sort_by_content,
)
from layerprobe.errors import InputError
from layerprobe.layerwise.classes import Classes, class_order
from layerprobe.probes.base import Probe

PREDICTIONS = "predictions"  # name of the only layer
TOLERANCE = 1e-3  # of probabilities and of their sum, which float16 rounds; bfloat16: its rounding unit
ZERO = 1e-3  # largest probability that replaces a zero
SMALLEST = 1e-12  # smallest probability: smaller ones are rounding errors


class GivenScores(Probe):
    """Class scores (n, K) that another model computed."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def _fit(self, X: Tensor, y: Tensor, num_classes: int) -> None:
        """There is nothing to fit."""

    def _scores(self, X: Tensor) -> Tensor:
        return X


def features_of_predictions(
    pred_probs: Any, labels: Any, index: Any, options: AuditOptions, *, logits: bool | None
) -> AuditFeatures:
    """Check predictions and sort their rows; the only layer are the logarithms of the probabilities.

    Parameters
    ----------
    pred_probs, labels, index, logits
        As for :func:`layerprobe.audit_predictions`.
    options : AuditOptions
    """
    scores = read_predictions(pred_probs, logits)
    n, K = scores.shape
    given, names = check_labels(pred_probs, labels, index, n)
    class_names = _column_names(pred_probs, options.class_names)
    classes = Classes.from_labels(given, K, class_names, class_order(labels))
    y = classes.indices(given, "labels")
    if class_names is None:
        present, of_present, _ = present_classes(classes, y)
        require_order(scores.argmax(1), of_present, present, classes)
    train, order = sort_by_content(Features.of({PREDICTIONS: scores}, None), y)
    settings = {**options.settings(), "probes": [], "layers": {PREDICTIONS: K}}
    return AuditFeatures(train, {}, order, names, classes, settings)


def read_predictions(pred_probs: Any, logits: bool | None = None, num_classes: int | None = None) -> Tensor:
    """Return the logarithms of class probabilities, (n, K) float64.

    A probability of zero counts as half of the smallest other one, at most `ZERO`; none is below `SMALLEST`.

    Parameters
    ----------
    pred_probs, logits
        As for :func:`layerprobe.audit_predictions`.
    num_classes : int, optional
        The expected K.
    """
    values = pred_probs.to_numpy() if isinstance(pred_probs, pd.DataFrame | pd.Series) else pred_probs
    values = values if isinstance(values, Tensor) else np.asarray(values)
    is_coarse = isinstance(values, Tensor) and values.dtype == torch.bfloat16
    tolerance = torch.finfo(torch.bfloat16).eps / 2 if is_coarse else TOLERANCE
    single = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
    X = check_matrix(values.reshape(-1, 1) if single else values, "predictions", exact=True)
    if single and logits is not True and float(X.min()) >= 0 and float(X.max()) <= 1:
        X = torch.cat([1 - X, X], 1)
    elif single:
        X = torch.cat([torch.zeros_like(X), X], 1)
        if logits is None and float(X.min()) >= 0:
            raise InputError(
                f"expected probabilities of the second class, between 0 and 1, got values up to "
                f"{float(X.max()):.4g}: pass logits=True if they are logits"
            )
        logits = logits is None or logits
    if num_classes is not None and X.shape[1] != num_classes:
        raise InputError(f"expected predictions of {num_classes} classes per row, got {X.shape[1]}")
    if float(X.min()) < -tolerance if logits is None else logits:
        return X.log_softmax(1)
    sums, low, high = X.sum(1), float(X.min()), float(X.max())
    far = (sums - 1).abs() > tolerance
    if low < -tolerance or high > 1 + tolerance or far.any():
        row = int(far.int().argmax())
        raise InputError(
            f"expected probabilities between 0 and 1 whose rows sum to 1, got values from {low:.4g} to "
            f"{high:.4g}, and {int(far.sum())} rows with other sums, first row {row} with "
            f"{float(sums[row]):.4g}: divide each row by its sum, or pass logits=True if they are logits"
        )
    zero = (X[X > 0].min() / 2).clamp(max=ZERO)
    X = torch.where(X > 0, X, zero).clamp(min=SMALLEST)
    return (X / X.sum(1, keepdim=True)).log()


def _column_names(pred_probs: Any, class_names: Any) -> Any:
    """Return the names of the columns: of a frame with named columns its own, else those of the user."""
    if not isinstance(pred_probs, pd.DataFrame):
        return class_names
    columns = pred_probs.columns.tolist()
    if columns == list(range(len(columns))) or not pred_probs.columns.is_unique:
        return class_names
    if class_names is None or set(class_names) == set(columns):
        return columns
    if set(map(str, class_names)) & set(map(str, columns)):
        raise InputError(
            f"class_names are {list(class_names)[:5]} and the columns of the predictions {columns[:5]}: "
            "rename the columns, or leave out class_names"
        )
    return class_names
