"""Rows and histories of runs that were never trained, in the form that experiments and runs leave them."""

from dataclasses import replace

import pandas as pd
import pytest

from layerprobe.paper import RunSpec
from layerprobe.paper.rows import COLUMNS, RUN, tidy, with_run


def spec_of(pair="mlp-mnist", corruption=0.2, seed=0, spec=None, **changes):
    return spec or RunSpec.of(pair, corruption, seed, **changes)


@pytest.fixture
def rows_of():
    """Return a function from records (some measure columns each), and what they share, to a run's rows."""

    def make(records, common=None, **run):
        records = [{**(common or {}), **record} for record in records]
        return with_run(spec_of(**run), tidy(records))[COLUMNS]

    return make


@pytest.fixture
def subspace_rows(rows_of):
    """Return a function that makes the rows of noisy or true subspaces from test accuracies by layer."""

    def make(layers, network=0.5, fitted_on="noisy", trained=1.0, setting="0.99", **run):
        test = {"split": "test", "labels": "true"}
        own = {"layer": "output", "probe": "network"}
        records = [
            {**own, **test, "value": network},
            {**own, "split": "train", "labels": "noisy", "value": trained},
            {**own, "split": "train", "labels": "true", "value": 0.25},
        ]
        masc = {"probe": "masc", "fitted_on": fitted_on, "setting": setting, **test}
        records += [{**masc, "layer": layer, "value": value} for layer, value in layers.items()]
        return rows_of(records, {"experiment": f"{fitted_on}_subspaces", "metric": "accuracy"}, **run)

    return make


@pytest.fixture
def no_rows(rows_of):
    return rows_of([])


@pytest.fixture
def history_of(rows_of):
    """Return a function from one accuracy an epoch for each column to a run's history."""

    def make(train=(), true=(), test=(), **run):
        which = rows_of([{}], **run)[RUN]
        epochs = pd.DataFrame(
            {
                "epoch": pd.Series(range(1, len(train) + 1), dtype="int64"),
                "loss": 0.0,
                "train_accuracy": pd.Series(train, dtype=float),
                "true_accuracy": pd.Series(true, dtype=float),
                "test_accuracy": pd.Series(test, dtype=float),
                "seconds": 1.0,
            }
        )
        return which.merge(epochs, how="cross")

    return make


@pytest.fixture
def no_history(history_of):
    return history_of()


@pytest.fixture
def sharing_runs():
    """Specs with a number each: two independent ones, and some that differ from one of them in one seed."""
    first, second = RunSpec.of("mlp-mnist", 0.2, 0), RunSpec.of("mlp-mnist", 0.2, 1)
    return [
        (first, 0.5),
        (second, 0.8),
        (replace(first, seed=None, noise_seed=77), 0.6),
        (replace(second, seed=None, noise_seed=78), 0.9),
        (replace(first, seed=None, init_seed=79), 0.7),
        (replace(first, seed=None, init_seed=80), 0.9),
    ]
