"""The published numbers of the paper, unchanged; SOURCE.md beside this file names their source.

Every function returns a fresh frame. Accuracies are shares in [0, 1], rounded to four decimals, and means
over three runs unless said otherwise. Names of pairs, layers and probes are ours. `CAVEATS` lists
limits of a comparison with them.
"""

import io
from functools import cache
from importlib import resources

import pandas as pd

__all__ = ["CAVEATS", "masc_by_layer", "probes_best_layer", "table1", "thresholds_best_layer", "training"]

PROBES = {"logreg": "logistic"}  # our names by published names, where they differ
TEXTS = {"pair", "layer", "best_layer", "probe", "fitted_on", "threshold"}


def table1() -> pd.DataFrame:
    """Return Tables 1 and 5: the network and MASC at its best layer, p from .2 to .8.

    Columns pair, corruption, model_test, masc_noisy_best_layer, masc_true_best_layer, gain_noisy_percent,
    gain_true_percent, model_peak_epoch_test (the network's best epoch; NaN for resnet18-cifar10).
    """
    return _read("table1")


def training() -> pd.DataFrame:
    """Return the end of training: accuracies and epochs.

    Columns pair, corruption, train_noisy (running, in training mode), test, test_min, test_max, last_epoch,
    epoch_train_99 (the first epoch at 99 % on the corrupted labels; NaN if there was none).
    """
    return _read("training")


def masc_by_layer() -> pd.DataFrame:
    """Return MASC, noisy subspaces at 99 % variance: pair, corruption, layer, test, test_min, test_max."""
    return _read("masc_by_layer")


def probes_best_layer() -> pd.DataFrame:
    """Return the other probes, the input left out: pair, corruption, probe, fitted_on, best_layer, test."""
    rows = _read("probes_best_layer")
    return rows.assign(probe=rows["probe"].replace(PROBES))


def thresholds_best_layer() -> pd.DataFrame:
    """Return the first run at other thresholds: pair, corruption, threshold, best_layer, test.

    A threshold is a text as in the column `setting` of rows: "0.25", "1pc".
    """
    return _read("thresholds_best_layer")


def _read(name: str) -> pd.DataFrame:
    return _read_once(name).copy()


@cache
def _read_once(name: str) -> pd.DataFrame:
    # As text: the parser of pandas may lose the last bit of a number.
    rows = pd.read_csv(io.StringIO(_text(f"{name}.csv")), dtype=str)
    return rows.astype({column: float for column in rows if column not in TEXTS})


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")


CAVEATS: str = _text("SOURCE.md").partition("## What to keep in mind")[2].strip()
"""Limits of a comparison with these numbers, a Markdown list."""
