"""What MASC on a trained network is measured against: an untrained network, and the network's best epoch.

A third control, SGD against Adam, is a run like any other: ``RunSpec.of(pair, p, seed, optimizer="adam",
learning_rate=1e-4)``.
"""

from typing import Any

import numpy as np
import pandas as pd

from layerprobe.paper.experiments.measuring import accuracies, fit_masc
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import Subject

__all__ = ["controls"]


def controls(subject: Subject) -> pd.DataFrame:
    """MASC at 0.99 on the layers before any training, and the best and the last epoch of the network.

    The best epoch is the first of the highest test accuracy: it is chosen by the test data, which no one
    would have, and so is an upper bound for early stopping. True subspaces of the untrained network are not
    measured where all labels are true.
    """
    common = {"probe": "masc", "setting": "untrained"}
    records: list[dict[str, Any]] = []
    for layer, data in subject.outputs_of(subject.untrained()).items():
        for fitted_on, labels in subject.label_sets.items():
            if fitted_on == "true" and np.array_equal(labels, subject.noisy):
                continue
            masc = fit_masc(data.train, labels)
            train, test = (masc.predict(rows).numpy() for rows in data)
            which = {**common, "layer": layer, "fitted_on": fitted_on}
            records += [{**which, **record} for record in accuracies(subject, train, test)]
    return tidy({"experiment": "controls", **record} for record in [*records, *_epochs(subject)])


def _epochs(subject: Subject) -> list[dict[str, Any]]:
    history = subject.run.history
    best = int(history["test_accuracy"].argmax())  # the first of equals
    return [
        {
            "layer": "output",
            "probe": "network",
            "setting": setting,
            "split": "test",
            "labels": "true",
            "epoch": history["epoch"].iloc[row],
            "metric": "accuracy",
            "value": history["test_accuracy"].iloc[row],
        }
        for setting, row in (("best_epoch", best), ("last_epoch", -1))
    ]
