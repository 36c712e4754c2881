"""The paper's probes on every layer, fitted on noisy and on true labels (METHOD section 4, 7)."""

import warnings

import pandas as pd

from layerprobe.errors import DegenerateWarning
from layerprobe.paper.experiments.subspaces import network_rows
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import Subject
from layerprobe.probes import create

__all__ = ["PROBES", "affordable", "probes"]

# The paper's probes and its follow-up's; what else the registry holds is no part of the reproduction.
PROBES = ("masc", "ncm", "logistic", "lda", "qda", "knn", "velpic")

# K d^3 at most, for QDA's decompositions: on a whole data set up to d = 7900 for ten classes, a quarter of an
# hour or so; on a subset up to d = 1250, some seconds.
MOST_CUBES, MOST_CUBES_OF_SUBSET = 5e12, 2e10


def probes(subject: Subject) -> pd.DataFrame:
    """Accuracies of each of `PROBES` on every layer, beside the network's own.

    QDA decomposes one d x d matrix a class; where that takes too long (`affordable`) its rows are absent.
    """
    records = network_rows(subject, "probes")
    for layer, data in subject.outputs.items():
        for fitted_on, labels in subject.label_sets.items():
            if fitted_on == "true" and subject.spec.corruption == 0:
                continue  # the noisy labels are the true ones
            for name in affordable(subject, data.train.shape[1]):
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


def affordable(subject: Subject, d: int) -> list[str]:
    """Return the probes that can be fitted to d features in no more time than the run is worth."""
    most = MOST_CUBES if subject.spec.subset is None else MOST_CUBES_OF_SUBSET
    too_long = subject.images.num_classes * d**3 > most
    return [name for name in PROBES if name != "qda" or not too_long]
