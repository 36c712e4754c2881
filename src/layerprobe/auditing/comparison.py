"""Comparison of an audit with published detectors of wrong labels, on the same rows and layer outputs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from torch import Tensor

from layerprobe.auditing.arrays import FEATURES, PREDICTIONS, named_columns, outputs_of_arrays
from layerprobe.auditing.features import Features
from layerprobe.auditing.method.policies import OUT_OF_SAMPLE
from layerprobe.baselines import AUM, DataMaps, Detection, Detector, named_detectors
from layerprobe.baselines.base import check_values
from layerprobe.errors import InputError
from layerprobe.layerwise.classes import label_column
from layerprobe.layerwise.outputs import OUTPUT
from layerprobe.recording.history import History
from layerprobe.utils.distributed import world_size

# The means over the epochs of a History that a detector computes from each epoch.
RECORDED = {AUM: "aum", DataMaps: "confidence"}
COLUMNS = ["detector", "layer", "overlap", "flagged", "agreement", "auroc"]


def compare_with(
    audit: Any,
    detectors: Any,
    true_labels: Any,
    *,
    features: Any,
    views: Sequence[Mapping[str, Any]],
    pred_probs: Any,
    history: Any,
) -> pd.DataFrame:
    """Return one row for the audit, and one per detector and input that it reads.

    Parameters
    ----------
    audit : Audit
    detectors, true_labels, features, views, pred_probs, history
        As for :meth:`layerprobe.auditing.Audit.compare`.
    """
    for values in (true_labels, *_named(features, "").values(), *_named(pred_probs, "").values()):
        audit.require_order(values)
    layers, probabilities = _outputs(audit, features, views)
    inputs = {
        "features": layers,
        "pred_probs": probabilities | _named(pred_probs, "pred_probs"),
        "history": _named(history, "history"),
    }
    for recorded in inputs["history"].values():
        if isinstance(recorded, History):
            _require_same_labels(recorded, audit)
    named = named_detectors(detectors)
    read = {name: _readable(detector, inputs[detector.reads]) for name, detector in named.items()}
    missing = [name for name in named if not read[name]]
    if missing and detectors is not None:
        reads = ", ".join(sorted({named[name].reads for name in missing}))
        raise InputError(
            f"this audit holds no {reads} for the detectors {', '.join(missing)}: pass them to compare, or "
            "leave out these detectors"
        )
    wrong = None if true_labels is None else _wrong_labels(audit, true_labels)
    own = Detection(audit.issues["label_score"].to_numpy(), audit.issue_mask())
    rows = [("audit", "decoder", *_measures(own, own.flags, wrong))]
    for name, detector in named.items():
        for layer, values in read[name].items():
            array = check_values(values, detector.reads)
            of_classes = array.ndim == 3 or detector.reads == "pred_probs"
            y = _columns_of_labels(audit, values, array.shape[-1]) if of_classes else audit.y.numpy()
            detected = detector.detect(array, y)
            rows.append((name, layer, *_measures(detected, own.flags, wrong)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _outputs(
    audit: Any, features: Any, views: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the layer outputs (n, d) and the class probabilities (n, K) of the audited rows, by name."""
    if audit.policy == OUT_OF_SAMPLE:
        layers = {} if features is None else outputs_of_arrays(features, views).mean
        return layers, {PREDICTIONS: audit.scores.softmax(1)}
    if features is not None:
        outputs = _given_outputs(audit, features, views)
    elif audit.rows is not None and audit.reader is not None:
        # In a job of several processes each reads all rows: names select all layers again, in this process.
        names = None if world_size() == 1 else [*audit.settings["layers"], OUTPUT]
        outputs = audit.reader.read(audit.rows, layers=names)
    else:
        raise InputError(
            "this audit holds no layer outputs to compare on: pass features=, the arrays that were audited"
        )
    return outputs.mean, {} if outputs.probabilities is None else {OUTPUT: outputs.probabilities}


def _given_outputs(audit: Any, features: Any, views: Sequence[Mapping[str, Any]]) -> Features:
    """Return the arrays that were audited, checked."""
    expected = audit.settings["layers"]
    if not isinstance(features, Mapping) and [*expected] == [FEATURES]:
        features = {FEATURES: features}  # one embedding, as audit_features takes it
    outputs = outputs_of_arrays(features, views)
    dimensions = {k: X.shape[1] for k, X in outputs.own.items()}
    if outputs.n != audit.n or dimensions != expected:
        raise InputError(
            f"expected features of the {audit.n} audited rows with the layers {expected}, got "
            f"{outputs.n} rows with {dimensions}"
        )
    if outputs.logits is not None and outputs.logits.shape[1] != len(audit.classes):
        raise InputError(
            f"expected one output for each of the classes {audit.classes.tolist()} of the audit, got "
            f"{outputs.logits.shape[1]}: pass these columns of the output"
        )
    return outputs


def _columns_of_labels(audit: Any, values: Any, width: int) -> np.ndarray:
    """Return the column of each given label in class scores (..., width), (n,)."""
    y, K, names = audit.y.numpy(), len(audit.classes), audit.classes.tolist()
    columns = named_columns(values) or []
    if set(names) <= set(columns):
        return np.array([columns.index(name) for name in names])[y]
    if width == K:
        return y
    outputs = None if audit.reader is None else audit.reader.outputs
    if outputs is None or width != audit.settings["outputs"]:
        raise InputError(
            f"expected a column for each of the {K} classes of the audit, {names[:5]}, got {width} columns"
        )
    return np.array(outputs)[y]


def _named(values: Any, default: str) -> dict[str, Any]:
    if values is None:
        return {}
    return dict(values) if isinstance(values, Mapping) else {default: values}


def _readable(detector: Detector, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs that a detector reads; of a History the means that it would compute, (1, n)."""
    mean = next((mean for kind, mean in RECORDED.items() if isinstance(detector, kind)), None)
    return {
        name: getattr(values, mean)[None] if mean and isinstance(values, History) else values
        for name, values in inputs.items()
        if mean or not isinstance(values, History)
    }


def _require_same_labels(history: History, audit: Any) -> None:
    """Raise an InputError if a history was recorded with other labels, or with its rows in another order.

    Its labels are outputs of the network and may have other numbers than the classes of the audit.
    """
    recorded, y = history.labels, audit.y.numpy()
    if len(recorded) != len(y) or len(np.unique([recorded, y], axis=1).T) > len(np.unique(y)):
        raise InputError(
            f"expected a history of the {audit.n} audited labels in their order, got one of "
            f"{len(recorded)} labels that are others: record it with the labels and the order of the audit"
        )


def _measures(detected: Detection, flags: np.ndarray, wrong: np.ndarray | None) -> tuple[float, ...]:
    """Return overlap, flagged, agreement and auroc."""
    overlap = flagged = agreement = auroc = float("nan")
    if count := int(flags.sum()):
        overlap = float(flags[detected.scores.argsort(kind="stable")[:count]].mean())
    if detected.flags is not None:
        flagged, agreement = float(detected.flags.mean()), float((detected.flags == flags).mean())
    if wrong is not None:
        known = ~np.isnan(wrong)
        if len(np.unique(wrong[known])) == 2:
            auroc = float(roc_auc_score(wrong[known], -detected.scores[known]))
    return overlap, flagged, agreement, auroc


def _wrong_labels(audit: Any, true_labels: Any) -> np.ndarray:
    """Return 1 for each wrong label, 0 for each right one, and NaN where the right label is unknown, (n,)."""
    values = list(true_labels.cpu().numpy() if isinstance(true_labels, Tensor) else true_labels)
    if len(values) != audit.n:
        raise InputError(f"expected true_labels with one entry for each of {audit.n} rows, got {len(values)}")
    true = np.empty(len(values), dtype=object)
    true[:] = values
    known = ~pd.isna(true) & (true != "")
    if not known.any():
        raise InputError("expected true_labels with at least one known label, got none")
    labels = label_column(true[known].tolist(), "true_labels")
    y = audit.class_set.find(labels).numpy()
    if (y < 0).all():
        raise InputError(
            f"true_labels hold {labels.tolist()[0]!r}, and none of the classes "
            f"{', '.join(map(repr, audit.classes[:5].tolist()))}: give labels of the same kind"
        )
    wrong = np.full(audit.n, np.nan)
    wrong[known] = y != audit.y.numpy()[known]
    return wrong
