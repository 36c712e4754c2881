"""Given features or predictions of any model as the input of an audit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from layerprobe.auditing.dataset.labelled import hash_inputs
from layerprobe.auditing.features import (
    AuditFeatures,
    AuditOptions,
    Features,
    LabelledFeatures,
    present_classes,
    require_classes,
    require_different_rows,
    require_order,
)
from layerprobe.auditing.method.calibration import evenly_spaced
from layerprobe.core.checks import check_dense
from layerprobe.errors import InputError
from layerprobe.layers.batches import as_tensor, check_same_index, row_names
from layerprobe.layerwise.classes import Classes, class_order, label_column
from layerprobe.layerwise.outputs import OUTPUT, class_scores
from layerprobe.probes.base import Probe

FEATURES = "features"  # name of the layer of one array without a name
PREDICTIONS = "predictions"  # name of the only layer of given predictions
LARGEST = 1e15  # of features in float32, whose squares are summed
TOLERANCE = 1e-3  # of probabilities and of their sum, which float16 rounds; bfloat16: its rounding unit
ZERO = 1e-3  # largest probability that replaces a zero
SMALLEST = 1e-12  # smallest probability: smaller ones are rounding errors

# Features -----------------------------------------------------------------------------------------------


def features_of_arrays(features: Any, labels: Any, index: Any, options: AuditOptions) -> AuditFeatures:
    """Check layer outputs and sort their rows.

    Parameters
    ----------
    features, labels, index
        As for :func:`layerprobe.audit_features`.
    options : AuditOptions
    """
    given = _check_layers(features, "features")
    given_labels, names = _check_labels(next(iter(features.values())), labels, index, given.n)
    require_classes(given_labels)
    width = None if given.logits is None else given.logits.shape[1]
    every = Classes.from_labels(given_labels, width, options.class_names, class_order(labels))
    classes, y, outputs = present_classes(every, every.indices(given_labels, "labels"))
    classes.check_counts(y)
    train = _sort_by_content(given.of_outputs(outputs), y)
    require_different_rows(train.hashes)
    if options.class_names is None:
        require_order(train.features.predicted, train.y, classes, every)
    rows = torch.from_numpy(train.order)
    views = (
        (name, view.of_outputs(outputs).take(rows)) for name, view in _views(options.views, given, features)
    )
    averaged = train.features.with_views(views, evenly_spaced(given.n))
    train, others = replace(train, features=averaged), {}
    for what, pair in options.others.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(f"expected {what}= as (features, labels), got {type(pair).__name__}")
        other = _check_layers(pair[0], what, given.own)
        check_same_index((*pair[0].values(), pair[1]))
        column = label_column(pair[1])
        if other.logits is not None and width is not None and (got := other.logits.shape[1]) != width:
            raise InputError(f"expected {width} outputs per row in {what}=, got {got}")
        if len(column) != other.n:
            raise InputError(f"expected a label for each of the {other.n} rows of {what}=, got {len(column)}")
        y = classes.indices(column, f"labels of {what}=")
        others[what] = _sort_by_content(other.of_outputs(outputs), y)
        if shared := int(np.isin(others[what].hashes, train.hashes).sum()):
            raise InputError(
                f"{shared} of the {len(y)} rows of {what}= are among the training rows; remove them"
            )
    dimensions = {layer: X.shape[1] for layer, X in given.own.items()}
    settings = {**options.settings(), "views": len(options.views), "layers": dimensions}
    return AuditFeatures(train, others, names, classes, settings)


def outputs_of_arrays(features: Any, views: Sequence[Any] = ()) -> Features:
    """Check layer outputs and average them over views, in the order of the rows.

    Parameters
    ----------
    features : mapping of str to array (n, d)
    views : sequence of such mappings
    """
    given = _check_layers(features, "features")
    return given.with_views(_views(views, given, features))


def new_outputs(x: Any, dimensions: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the layer outputs (m, d) of new rows, checked.

    Parameters
    ----------
    x : mapping of str to array (m, d)
        Or one array, if an audit of one array has its only layer.
    dimensions : mapping of str to int
        Number of features d of each layer that is needed.
    """
    if not isinstance(x, Mapping) and [*dimensions] == [FEATURES]:
        x = {FEATURES: x}
    missing = [layer for layer in dimensions if not isinstance(x, Mapping) or layer not in x]
    if missing:
        raise InputError(
            f"expected a mapping of layer to outputs with the layers {', '.join(dimensions)}; "
            f"{', '.join(missing)} missing"
        )
    return {
        layer: check_matrix(x[layer], f"outputs of layer {layer!r}", d) for layer, d in dimensions.items()
    }


def _views(views: Sequence[Any], given: Features, named: Mapping[str, Any]) -> Iterator[tuple[str, Features]]:
    for i, view in enumerate(views):
        viewed = _check_layers(view, f"views[{i}]", given.own)
        check_same_index((*named.values(), *view.values()))
        if viewed.n != given.n:
            raise InputError(f"expected the same {given.n} rows in views[{i}] as in features, got {viewed.n}")
        yield str(i), viewed


def _check_layers(features: Any, what: str, like: Mapping[str, Tensor] | None = None) -> Features:
    """Return checked features: layers (n, d), and the logits (n, K) if there are any."""
    if not isinstance(features, Mapping) or not features:
        raise InputError(
            f"expected {what} as a mapping of layer to array (n, d), got {type(features).__name__}"
        )
    matrices = {str(k): check_matrix(values, f"{what} of layer {k!r}") for k, values in features.items()}
    sizes = {layer: len(X) for layer, X in matrices.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"expected the same number of rows for every layer in {what}, got {sizes}")
    logits = matrices.pop(OUTPUT, None)
    if like is not None:
        wrong = [
            f"{k} {tuple(v.shape)}"
            for k, v in matrices.items()
            if k not in like or v.shape[1] != like[k].shape[1]
        ]
        if wrong or len(matrices) < len(like):
            raise InputError(
                f"expected {what} of the layers {', '.join(like)} as in training, "
                f"got {wrong or list(matrices)}"
            )
    if not matrices:
        raise InputError(f"expected at least one layer in {what} besides the output")
    return Features.of(matrices, None if logits is None else class_scores(logits))


# Predictions --------------------------------------------------------------------------------------------


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
    given, names = _check_labels(pred_probs, labels, index, n)
    require_classes(given)
    class_names = _column_names(pred_probs, options.class_names)
    classes = Classes.from_labels(given, K, class_names, class_order(labels))
    y = classes.indices(given, "labels")
    if class_names is None:
        present, of_present, _ = present_classes(classes, y)
        require_order(scores.argmax(1), of_present, present, classes)
    train = _sort_by_content(Features.of({PREDICTIONS: scores}, None), y, _class_order(scores, y))
    settings = {**options.settings(), "probes": [], "layers": {PREDICTIONS: K}}
    return AuditFeatures(train, {}, names, classes, settings)


def read_predictions(
    pred_probs: Any, logits: bool | None = None, classes: np.ndarray | None = None
) -> Tensor:
    """Return the logarithms of class probabilities, (n, K) float64.

    A probability of zero counts as half of the smallest other one, at most `ZERO`; none is below `SMALLEST`.

    Parameters
    ----------
    pred_probs, logits
        As for :func:`layerprobe.audit_predictions`.
    classes : ndarray (K,), optional
        Names of the expected classes. The columns of a frame with these names may have another order.
    """
    if classes is not None and set(named_columns(pred_probs) or ()) == set(classes.tolist()):
        pred_probs = pred_probs[classes.tolist()]
    values = pred_probs if isinstance(pred_probs, Tensor) else np.asarray(pred_probs)
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
                "expected predictions (n, K), or (n,) probabilities of the second of two classes, got values "
                f"(n,) up to {float(X.max()):.4g}: pass logits=True if they are logits of two classes"
            )
        logits = logits is None or logits
    if classes is not None and X.shape[1] != len(classes):
        raise InputError(f"expected predictions of {len(classes)} classes per row, got {X.shape[1]}")
    if float(X.min()) < -tolerance if logits is None else logits:
        return X - X.sort(1)[0].logsumexp(1, keepdim=True)  # sorted, as the order of classes is free
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
    return (X / X.sort(1)[0].sum(1, keepdim=True)).log()


def _class_order(scores: Tensor, y: Tensor) -> Tensor:
    """Return an order of the classes, (K,) int64, that depends only on the contents of their columns."""
    sums, counts = scores.sort(0)[0].sum(0), y.bincount(minlength=scores.shape[1])
    return torch.from_numpy(np.lexsort((sums.numpy(), counts.numpy())))


def _column_names(pred_probs: Any, class_names: Any) -> Any:
    """Return the names of the columns: of a frame with named columns its own, else those of the user."""
    columns = named_columns(pred_probs)
    if columns is None:
        return class_names
    if class_names is None or set(class_names) == set(columns):
        return columns
    if set(map(str, class_names)) & set(map(str, columns)):
        raise InputError(
            f"class_names are {list(class_names)[:5]} and the columns of the predictions {columns[:5]}: "
            "rename the columns, or leave out class_names"
        )
    return class_names


def named_columns(frame: Any) -> list[Any] | None:
    """Return the names of the columns of a data frame of pandas or polars; None for other arrays.

    Names that only count the columns, or that are not different, are no names.
    """
    columns = list(getattr(frame, "columns", ()))
    counted = columns in ([*range(len(columns))], [f"column_{i}" for i in range(len(columns))])
    return None if counted or len(set(columns)) < len(columns) else columns


# Rows ---------------------------------------------------------------------------------------------------


def _check_labels(source: Any, labels: Any, index: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (n,) and the names (n,) of the n rows of an array; raise if they do not fit.

    Names are the given ones, those of a data frame, or numbers.
    """
    column = label_column(labels)
    if len(column) != n:
        raise InputError(f"expected a label for each of {n} rows, got {len(column)}")
    check_same_index((source, labels))
    own = row_names(source)
    names = label_column(index) if index is not None else np.arange(n) if own is None else own
    if names.dtype.kind == "M":  # texts, as the dates of a data frame: files hold no other form
        names = pd.Index(names).astype(str).to_numpy(dtype=str)
    if len(names) != n or len(set(names.tolist())) < n:
        raise InputError(
            f"expected a different name for each of {n} rows as index=, got {len(names)} names, "
            f"{len(set(names.tolist()))} different ones"
        )
    return column, names


def _sort_by_content(features: Features, y: Tensor, columns: Tensor | None = None) -> LabelledFeatures:
    """Return the rows in an order that depends only on their content and labels.

    `columns` (K,) is an order of the classes, if the features have one column per class.
    """
    outputs = {layer: features.own[layer] for layer in sorted(features.own)}
    place = y
    if columns is not None:
        outputs, place = {layer: X[:, columns] for layer, X in outputs.items()}, columns.argsort()[y]
    hashes = hash_inputs(outputs, features.n)
    order = np.lexsort((place.numpy(), hashes))
    rows = torch.from_numpy(order)
    return LabelledFeatures(features.take(rows), y[rows], hashes[order], order)


def check_matrix(values: Any, what: str, dim: int | None = None, *, exact: bool = False) -> Tensor:
    """Return finite features as a float32 tensor (n, d) on the CPU.

    Parameters
    ----------
    values : array or Tensor (n, d)
    what : str
        Description for error messages, as "features of layer 'fc1'".
    dim : int, optional
        The expected d.
    exact : bool
        Return float64.
    """
    try:
        X = values if isinstance(values, Tensor) else as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:  # texts, objects, rows of different lengths
        raise InputError(f"expected {what} as numbers (n, d): {error}") from error
    X = check_dense(X, what)
    largest = float(X.abs().nan_to_num(0, 0, 0).max()) if X.is_floating_point() and X.numel() else 0.0
    if largest > LARGEST:
        raise InputError(f"{what} hold {largest:.1e}, too large for float32: expected at most {LARGEST:.0e}")
    X = (X.double() if exact else X.float()).cpu()
    if X.ndim != 2 or not len(X) or dim not in (None, X.shape[1]):
        raise InputError(f"expected {what} of shape (n, {'d' if dim is None else dim}), got {tuple(X.shape)}")
    if not torch.isfinite(X).all():
        row = int((~torch.isfinite(X).all(1)).nonzero()[0])
        raise InputError(f"{what} contain NaN or infinity, first in row {row}: fix or remove it")
    return X
