"""The follow-up study (arXiv 2603.19865): probes over the epochs of training, and the weight edit."""

import copy
from collections.abc import Iterator
from typing import Any

import pandas as pd
from sklearn.base import clone

from layerprobe.editing import Bias, find_head, linear_probe, set_head
from layerprobe.errors import DataError
from layerprobe.paper.experiments.subspaces import PAPER_SETTING, accuracy_records, fit_quietly
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import MASC, LogisticRegression, Probe, VeLPIC
from layerprobe.runs.folders import kept_epochs

__all__ = ["dynamics", "weight_edit"]

PROBES: dict[str, tuple[Probe, str]] = {  # of dynamics, with their settings
    "masc": (MASC(variance=float(PAPER_SETTING)), PAPER_SETTING),
    "velpic": (VeLPIC(), ""),
    "logistic": (LogisticRegression(), ""),
}
EDIT_PROBES = ("velpic", "ncm")
EDIT_SETTINGS: dict[str, Bias] = {"bias_kept": "keep", "bias_zero": "zero"}


def dynamics(finished: FinishedRun) -> pd.DataFrame:
    """Measure probes on every layer, and the network itself, at every epoch whose weights were kept.

    Epoch 0 is the untrained network. The last epoch is always measured. Probes are fitted on the labels that
    the network is trained on; their accuracy is on the test data.

    Raises
    ------
    DataError
        If the run kept no weights.
    """
    kept = kept_epochs(finished.run.folder)
    if not kept:
        raise DataError(
            f"{finished.run.folder}: this run kept no weights of single epochs, so its dynamics cannot be "
            "measured. Remove its folder and train it again with checkpoints (--checkpoints)."
        )
    last = len(finished.run.history)
    return tidy(
        {"experiment": "dynamics", "epoch": epoch, **record}
        for epoch in sorted({*kept, last})
        for record in _at_epoch(finished, epoch if epoch in kept else None)
    )


def weight_edit(finished: FinishedRun) -> pd.DataFrame:
    """Measure the network after its last layer was replaced by a probe of the last hidden layer.

    The edit is that of `layerprobe.edit_head`, for probes fitted on noisy and on true labels (equal at
    p = 0). It changes the last layer only, so the outputs of the last hidden layer are reused.
    """
    head = find_head(finished.model(), finished.inputs.test[:1]).cpu()
    hidden = finished.outputs[list(finished.outputs)[-1]]  # the input of the last layer in every pair
    records: list[dict[str, Any]] = []
    for fitted_on, labels in finished.label_sets.items():
        if fitted_on == "true" and finished.spec.corruption == 0:
            continue
        for name in EDIT_PROBES:
            probe = linear_probe(name).fit(hidden.train, labels)
            for setting, bias in EDIT_SETTINGS.items():
                edited = copy.deepcopy(head).requires_grad_(False)
                set_head(edited, probe, bias)
                which = {"layer": "output", "probe": name, "setting": setting, "fitted_on": fitted_on}
                predicted = (edited(X).argmax(1) for X in hidden)
                records += [{**which, **record} for record in accuracy_records(finished, *predicted)]
    return tidy({"experiment": "weight_edit", **record} for record in records)


def _at_epoch(finished: FinishedRun, epoch: int | None) -> Iterator[dict[str, Any]]:
    outputs = finished.outputs_of(finished.model(epoch))
    for record in accuracy_records(finished, *(logits.argmax(1) for logits in outputs.logits)):
        yield {"layer": "output", "probe": "network", **record}
    for layer, data in outputs.items():
        for name, (probe, setting) in PROBES.items():
            fitted = fit_quietly(clone(probe), data.train, finished.noisy)
            which = {"layer": layer, "probe": name, "setting": setting, "fitted_on": "noisy"}
            value = fitted.score(data.test, finished.test_labels)
            yield {**which, "split": "test", "labels": "true", "metric": "accuracy", "value": value}
