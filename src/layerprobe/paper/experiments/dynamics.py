"""What the layers know while a network memorises (METHOD section 5): probes over a run's kept weights."""

import warnings
from collections.abc import Iterator
from typing import Any

import pandas as pd
from sklearn.base import clone

from layerprobe.errors import DataError, DegenerateWarning
from layerprobe.paper.experiments.measuring import PAPER, accuracies
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import Subject
from layerprobe.probes import MASC, LogisticRegression, Probe, VeLPIC
from layerprobe.runs.folders import kept_epochs

__all__ = ["dynamics"]

PROBES: dict[str, tuple[Probe, str]] = {  # with their settings
    "masc": (MASC(variance=float(PAPER)), PAPER),
    "velpic": (VeLPIC(), ""),
    "logistic": (LogisticRegression(), ""),
}


def dynamics(subject: Subject) -> pd.DataFrame:
    """Test accuracy of probes on every layer, and the network's own accuracies, epoch by epoch.

    The epochs are those whose weights were kept, 0 being the untrained network, and the last one. Probes are
    fitted on the labels that the network is trained on.

    Raises
    ------
    DataError
        If the run kept no weights.
    """
    kept = kept_epochs(subject.run.folder)
    if not kept:
        raise DataError(
            f"{subject.run.folder}: this run kept no weights of single epochs, so its dynamics cannot be "
            "measured. Remove its folder and train it again with checkpoints (--checkpoints)."
        )
    last = len(subject.run.history)
    records = [
        {"experiment": "dynamics", "epoch": epoch, **record}
        for epoch in sorted({*kept, last})
        for record in _at(subject, epoch if epoch in kept else None)
    ]
    return tidy(records)


def _at(subject: Subject, epoch: int | None) -> Iterator[dict[str, Any]]:
    outputs = subject.outputs_of(subject.model(epoch))
    train, test = (logits.argmax(1).numpy() for logits in outputs.logits)
    for accuracy in accuracies(subject, train, test):
        yield {"layer": "output", "probe": "network", **accuracy}
    for layer, data in outputs.items():
        for name, (probe, setting) in PROBES.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegenerateWarning)
                fitted = clone(probe).fit(data.train, subject.noisy)
            yield {
                "layer": layer,
                "probe": name,
                "setting": setting,
                "fitted_on": "noisy",
                "split": "test",
                "labels": "true",
                "metric": "accuracy",
                "value": fitted.score(data.test, subject.test_labels),
            }
