"""Every probe on every layer, fitted on noisy and on true labels (METHOD section 4, 7)."""

import warnings

import pandas as pd

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.experiments.subspaces import network_rows
from layerprobe.paper.rows import tidy
from layerprobe.paper.subjects import Subject
from layerprobe.probes import available, create

__all__ = ["is_affordable", "probes"]

MOST_CUBES = 5e12  # of K d^3, what QDA's decompositions cost: d = 4096 for 10 classes, a quarter of an hour


def probes(subject: Subject) -> pd.DataFrame:
    """Accuracies of every registered probe on every layer, beside the network's own.

    QDA decomposes one d x d matrix a class; where that takes too long (`is_affordable`) its rows are absent.
    """
    records = network_rows(subject, "probes")
    for layer, data in subject.outputs.items():
        for fitted_on, labels in subject.label_sets.items():
            for name in available():
                if not is_affordable(name, data.train.shape[1], subject.images.num_classes):
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DegenerateWarning)
                    fitted = create(name).fit(data.train, labels)
                train, test = (fitted.predict(rows).numpy() for rows in data)
                accuracies = [
                    *(("train", which, train == truth) for which, truth in subject.label_sets.items()),
                    ("test", "true", test == subject.test_labels),
                ]
                records += [
                    {
                        "experiment": "probes",
                        "layer": layer,
                        "probe": name,
                        "fitted_on": fitted_on,
                        "split": split,
                        "labels": against,
                        "metric": "accuracy",
                        "value": right.mean(),
                    }
                    for split, against, right in accuracies
                ]
    return tidy(records)


def is_affordable(probe: str, d: int, num_classes: int) -> bool:
    """Return whether a probe can be fitted to d features and K classes within a quarter of an hour or so."""
    return probe != "qda" or num_classes * d**3 <= MOST_CUBES
