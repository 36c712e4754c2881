"""The follow-up study (arXiv 2603.19865): probes over the epochs of training, and the weight edit."""

import copy

import torch
from torch import Tensor, nn

from layerprobe.editing import Bias, check_every_class, find_head, linear_probe, set_head
from layerprobe.errors import DataError, InputError
from layerprobe.layerwise.engine import count_correct
from layerprobe.paper.experiments.subspaces import (
    MASC_PROBES,
    SETTING_PROBES,
    accuracy_records,
    fit_probes,
    network_records,
)
from layerprobe.paper.rows import Records, each, measured_as
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.paper.selection import PAPER, TEST
from layerprobe.probes import AdamLogisticRegression, VeLPIC
from layerprobe.runs.folders import kept_epochs

ONE_COMPONENT = "1pc"
PROBES = {
    **MASC_PROBES,
    ONE_COMPONENT: SETTING_PROBES[ONE_COMPONENT],
    "velpic": VeLPIC(),
    "logistic": AdamLogisticRegression(),
}  # of dynamics
DYNAMICS_PROBES = (*MASC_PROBES, "velpic", "logistic")
EDIT_PROBES = ("velpic", "ncm")
EDIT_SETTINGS: dict[str, Bias] = {"bias_kept": "keep", "bias_zero": "zero"}


@measured_as("dynamics")
def dynamics(finished: FinishedRun) -> Records:
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
    for epoch in sorted({*kept, len(finished.run.history)}):
        yield from each(_at_epoch(finished, epoch if epoch in kept else None), epoch=epoch)


@measured_as("weight_edit", layer="output")
def weight_edit(finished: FinishedRun) -> Records:
    """Measure the network after its last layer was replaced by a probe of the last hidden layer.

    The edit is that of `layerprobe.edit_head`, for probes fitted on noisy and on true labels (equal at
    p = 0). It changes the last layer only, so the outputs of the last hidden layer are reused.

    Raises
    ------
    InputError
        If the last probed layer is not the input of the network's last linear layer, or a class has no
        training row.
    """
    head = find_head(finished.model(), finished.inputs.test[:1]).cpu()
    for labels in finished.label_sets.values():
        check_every_class(labels, max(head.out_features, 2))
    hidden = finished.outputs[list(finished.outputs)[-1]]
    _check_input_of(head, hidden.test, finished.outputs.logits.test)
    for one in fit_probes(finished, "output", hidden, {name: linear_probe(name) for name in EDIT_PROBES}):
        for setting, bias in EDIT_SETTINGS.items():
            edited = copy.deepcopy(head).requires_grad_(False)
            set_head(edited, one.estimator, bias)
            accuracies = accuracy_records(finished, *(edited(X).argmax(1) for X in hidden))
            yield from each(accuracies, probe=one.name, setting=setting, fitted_on=one.fitted_on)


def _check_input_of(head: nn.Linear, hidden: Tensor, logits: Tensor) -> None:
    fits = hidden.shape[1] == head.in_features
    if not fits or not torch.allclose(head(hidden), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max())):
        raise InputError(
            "the weight edit needs the input of the last linear layer as the last probed layer; name it last "
            "in the network's probed_layers"
        )


def _at_epoch(finished: FinishedRun, epoch: int | None) -> Records:
    outputs = finished.outputs_of(finished.model(epoch))
    yield from network_records(finished, outputs)
    masc = {"masc": PAPER["setting"], ONE_COMPONENT: ONE_COMPONENT}  # settings by the name of the probe
    for layer, data in outputs.items():
        fitted = fit_probes(finished, layer, data, PROBES, ["noisy"])
        shares = count_correct(fitted, data.test, torch.tensor(finished.test_labels)[None]).shares[:, 0]
        for one, value in zip(fitted, shares, strict=True):
            probe, setting = ("masc", masc[one.name]) if one.name in masc else (one.name, "")
            which = {"layer": layer, "probe": probe, "setting": setting, "fitted_on": "noisy"}
            yield {**which, **TEST, "value": value}
