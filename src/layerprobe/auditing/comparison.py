"""Comparison of an audit with published detectors of wrong labels, on the same rows and layer outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from torch import Tensor

from layerprobe.auditing.features import FEATURES, Features, outputs_of_arrays
from layerprobe.auditing.method.policies import OUT_OF_SAMPLE
from layerprobe.auditing.predictions import PREDICTIONS
from layerprobe.baselines import AUM, DataMaps, Detection, Detector, named_detectors
from layerprobe.baselines.base import check_values
from layerprobe.errors import InputError
from layerprobe.layerwise.outputs import OUTPUT
from layerprobe.recording.history import History
from layerprobe.utils.distributed import world_size

RECORDED = {AUM: "aum", DataMaps: "confidence"}  # attributes of a History
COLUMNS = ["detector", "layer", "overlap", "flagged", "agreement", "auroc"]


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectorInputs:
    """Inputs of the detectors, by name; rows in the order of the audit.

    Attributes
    ----------
    features : mapping of str to array (n, d)
        Outputs of the layers.
    pred_probs : mapping of str to array (n, K)
        Class probabilities.
    history : mapping of str to array (epochs, n, K) or (epochs, n), or to History
        Training histories. A `History` has the means over its epochs that "aum" and "data_maps" compute.
    """

    features: Mapping[str, Any]
    pred_probs: Mapping[str, Any]
    history: Mapping[str, Any]

    def of(self, detector: Detector) -> Mapping[str, Any]:
        """Return the inputs that a detector reads, by name."""
        inputs = getattr(self, detector.reads)
        means = next((mean for kind, mean in RECORDED.items() if isinstance(detector, kind)), None)
        return {
            name: getattr(values, means)[None] if means and isinstance(values, History) else values
            for name, values in inputs.items()
            if means or not isinstance(values, History)
        }


def detector_inputs(
    audit: Any,
    features: Any,
    views: Sequence[Mapping[str, Any]],
    pred_probs: Any,
    history: Any,
) -> DetectorInputs:
    """Return the inputs of the detectors: layer outputs as the audit used them, and given arrays.

    Parameters
    ----------
    audit : Audit
    features, views, pred_probs, history
        As for :meth:`layerprobe.auditing.Audit.compare`.

    Raises
    ------
    InputError
        If the audit holds no rows and no features are given, or these differ from those of the audit.
    """
    if audit.policy == OUT_OF_SAMPLE and features is None:
        layers, probabilities = {}, {PREDICTIONS: audit.scores.softmax(1)}
    elif audit.policy == OUT_OF_SAMPLE:
        layers, probabilities = (
            outputs_of_arrays(features, views).mean,
            {PREDICTIONS: audit.scores.softmax(1)},
        )
    else:
        outputs = _outputs(audit, features, views)
        layers = outputs.mean
        probabilities = {} if outputs.probabilities is None else {OUTPUT: outputs.probabilities}
    return DetectorInputs(
        features=layers,
        pred_probs=probabilities | _named(pred_probs, "pred_probs"),
        history=_named(history, "history"),
    )


def _outputs(audit: Any, features: Any, views: Sequence[Mapping[str, Any]]) -> Features:
    if features is not None:
        if not isinstance(features, Mapping) and [*audit.settings["layers"]] == [FEATURES]:
            features = {FEATURES: features}  # one embedding, as audit_features takes it
        outputs = outputs_of_arrays(features, views)
        dimensions, expected = {k: X.shape[1] for k, X in outputs.own.items()}, audit.settings["layers"]
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
    if audit.rows is None or audit.reader is None:
        raise InputError(
            "this audit holds no layer outputs to compare on: pass features=, the arrays that were audited"
        )
    # In a job of several processes each one reads all rows: names select all layers again, in this process.
    layers = None if world_size() == 1 else [*audit.settings["layers"], OUTPUT]
    return audit.reader.read(audit.rows, layers=layers)


def _named(values: Any, default: str) -> dict[str, Any]:
    if values is None:
        return {}
    return dict(values) if isinstance(values, Mapping) else {default: values}


def compare_with(audit: Any, detectors: Any, inputs: DetectorInputs, true_labels: Any) -> pd.DataFrame:
    """Return one row for the audit, and one per detector and input that it reads.

    Parameters
    ----------
    audit : Audit
    detectors
        As for :func:`layerprobe.baselines.named_detectors`; by default those whose input is given.
    inputs : DetectorInputs
    true_labels : sequence of n labels, optional

    Returns
    -------
    DataFrame
        See :meth:`layerprobe.auditing.Audit.compare`.

    Raises
    ------
    InputError
        If an input for a named detector is missing, or the arrays do not fit.
    """
    named = named_detectors(detectors)
    missing = [name for name, detector in named.items() if not inputs.of(detector)]
    if missing and detectors is not None:
        reads = ", ".join(sorted({named[name].reads for name in missing}))
        raise InputError(
            f"this audit holds no {reads} for the detectors {', '.join(missing)}: pass them to compare, or "
            "leave out these detectors"
        )
    wrong = None if true_labels is None else _wrong_labels(audit.classes[audit.y.numpy()], true_labels)
    own = Detection(audit.issues["label_score"].to_numpy(), audit.issue_mask())
    y = audit.y.numpy()
    rows = [("audit", "decoder", *_measures(own, own.flags, wrong))]
    for name, detector in named.items():
        for layer, values in inputs.of(detector).items():
            found = detector.detect(check_values(values, detector.reads), y)
            rows.append((name, layer, *_measures(found, own.flags, wrong)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _measures(found: Detection, flags: np.ndarray, wrong: np.ndarray | None) -> tuple[float, ...]:
    """Return overlap, flagged, agreement and auroc."""
    count = int(flags.sum())
    lowest = found.scores.argsort(kind="stable")[:count]
    overlap = float(flags[lowest].mean()) if count else float("nan")
    flagged, agreement = float("nan"), float("nan")
    if found.flags is not None:
        flagged, agreement = float(found.flags.mean()), float((found.flags == flags).mean())
    auroc = float("nan")
    if wrong is not None:
        known = ~np.isnan(wrong)
        if len(np.unique(wrong[known])) == 2:
            auroc = float(roc_auc_score(wrong[known], -found.scores[known]))
    return overlap, flagged, agreement, auroc


def _wrong_labels(given: np.ndarray, true_labels: Any) -> np.ndarray:
    """Return 1 for each wrong label, 0 for each right one, and NaN where the right label is unknown, (n,)."""
    values = list(true_labels.cpu().numpy() if isinstance(true_labels, Tensor) else true_labels)
    if len(values) != len(given):
        raise InputError(
            f"expected true_labels with one entry for each of {len(given)} rows, got {len(values)}"
        )
    true = np.empty(len(values), dtype=object)
    true[:] = values
    known = ~pd.isna(true) & (true != "")
    if not known.any():
        raise InputError("expected true_labels with at least one known label, got none")
    return np.where(known, true != given.astype(object), np.nan)
