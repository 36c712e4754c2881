"""The weight edit of the follow-up study (METHOD section 5): the network with a probe as its last layer."""

import copy

import pandas as pd

from layerprobe.editing import Bias, find_head, linear_probe, set_head
from layerprobe.paper.experiments.measuring import accuracies
from layerprobe.paper.rows import tidy
from layerprobe.paper.run_outputs import Subject

__all__ = ["weight_edit"]

PROBES = ("velpic", "ncm")
SETTINGS: dict[str, Bias] = {"bias_kept": "keep", "bias_zero": "zero"}


def weight_edit(subject: Subject) -> pd.DataFrame:
    """Accuracies of the network whose last layer's rows are those of a probe of the last hidden layer.

    As `layerprobe.edit_head` makes it, for probes fitted on noisy and on true labels (which are the same at
    p = 0). All before the last layer stays as it was, so its outputs are taken from the one capture pass.
    """
    head = find_head(subject.model(), subject.inputs.test[:1]).cpu()
    hidden = subject.outputs[
        list(subject.outputs)[-1]
    ]  # what the last layer gets, in each of the paper's networks
    records = []
    for fitted_on, labels in subject.label_sets.items():
        if fitted_on == "true" and subject.spec.corruption == 0:
            continue
        for name in PROBES:
            fitted = linear_probe(name).fit(hidden.train, labels)
            for setting, bias in SETTINGS.items():
                edited = copy.deepcopy(head).requires_grad_(False)
                set_head(edited, fitted, bias)
                predicted = (edited(rows).argmax(1).numpy() for rows in hidden)
                records += [
                    {"probe": name, "setting": setting, "fitted_on": fitted_on, **accuracy}
                    for accuracy in accuracies(subject, *predicted)
                ]
    return tidy({"experiment": "weight_edit", "layer": "output", **record} for record in records)
