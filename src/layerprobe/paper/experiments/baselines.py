"""Baselines for MASC on a trained network: the untrained network, and the network's best epoch.

A third baseline, SGD against Adam, is a run of its own: ``RunSpec.of(pair, p, seed, optimizer="adam",
learning_rate=1e-4)``.
"""

from typing import Any

import pandas as pd

from layerprobe.paper.experiments.subspaces import MASC_PROBES, fit_probes, probe_records
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import FinishedRun


def controls(finished: FinishedRun) -> pd.DataFrame:
    """Measure MASC at 0.99 on the untrained network, and the network at its best and at its last epoch.

    The best epoch is the first with the highest test accuracy. It is chosen on the test data, so it is an
    upper bound for early stopping. Where all labels are true, only noisy subspaces are measured. Published
    weights have no history; their untrained network has initial weights of ours.
    """
    records: list[dict[str, Any]] = []
    for layer, data in finished.outputs_of(finished.untrained()).items():
        fitted = fit_probes(finished, layer, data, MASC_PROBES)
        records += [{"setting": "untrained", **record} for record in probe_records(finished, fitted, data)]
    history = finished.run.history
    if finished.spec.weights:  # trained elsewhere: no history
        return tidy({"experiment": "controls", **record} for record in records)
    best = int(history["test_accuracy"].argmax())  # the first of equals
    for setting, row in (("best_epoch", best), ("last_epoch", len(history) - 1)):
        own = {"layer": "output", "probe": "network", "setting": setting, "split": "test", "labels": "true"}
        measured = history.iloc[row]
        value = measured["test_accuracy"]
        records.append({**own, "epoch": measured["epoch"], "metric": "accuracy", "value": value})
    return tidy({"experiment": "controls", **record} for record in records)
