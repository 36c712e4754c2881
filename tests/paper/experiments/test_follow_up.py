"""Dynamics and the weight edit, on runs that are as long as a test may be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from layerprobe import edit_head
from layerprobe.editing import find_head
from layerprobe.errors import DataError, InputError
from layerprobe.layers import capture
from layerprobe.networks import build
from layerprobe.paper import RunSpec, execute
from layerprobe.paper.experiments import EXPERIMENTS, dynamics, weight_edit
from layerprobe.paper.rows import read_rows, write_rows
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import VeLPIC, create

SPEC = RunSpec.of("mlp-digits", 0.6, 0, subset=300, test_subset=100, max_epochs=3)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    execute(SPEC, root, checkpoints=True)
    return FinishedRun.of(SPEC, root)


@pytest.fixture(scope="module")
def dynamics_rows(subject):
    return dynamics(subject)


def accuracy(model, x, labels):
    with torch.no_grad():
        return (model(x).argmax(1).numpy() == labels).mean()


def value(rows, **where):
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted]
    (found,) = rows["value"]
    return found


def test_both_experiments_are_registered():
    assert EXPERIMENTS["dynamics"].measure is dynamics
    assert EXPERIMENTS["weight_edit"].measure is weight_edit


def test_dynamics_has_a_row_for_each_kept_epoch_layer_and_probe(subject, dynamics_rows):
    rows = dynamics_rows
    assert set(rows["experiment"]) == {"dynamics"}
    probes = rows[rows["probe"] != "network"]
    epochs = [0, 1, 2, 3]  # the last is not among the kept
    layers = list(subject.outputs)
    assert probes.groupby(["epoch", "layer", "probe", "setting"]).size().eq(1).all()
    assert len(probes) == len(epochs) * len(layers) * 4
    assert set(probes["fitted_on"]) == {"noisy"}
    assert set(probes["split"] + probes["labels"]) == {"testtrue"}
    assert set(zip(probes["probe"], probes["setting"], strict=True)) == {
        ("masc", "0.99"),
        ("masc", "1pc"),
        ("velpic", ""),
        ("logistic", ""),
    }
    network = rows[rows["probe"] == "network"]
    assert network["epoch"].unique().tolist() == epochs
    assert len(network) == 3 * len(epochs)


def test_dynamics_at_an_epoch_is_that_of_its_network(subject, dynamics_rows):
    history = subject.run.history
    for epoch in (1, 2, 3):
        found = value(dynamics_rows, epoch=epoch, probe="network", split="test")
        assert found == pytest.approx(history["test_accuracy"][epoch - 1], abs=1e-9)
    untrained = subject.outputs_of(subject.untrained())["fc1"]
    masc = create("masc").fit(untrained.train, subject.noisy)
    one = create("masc", components=1).fit(untrained.train, subject.noisy)
    for setting, fitted in (("0.99", masc), ("1pc", one)):
        measured = value(dynamics_rows, epoch=0, layer="fc1", probe="masc", setting=setting)
        assert measured == fitted.score(untrained.test, subject.test_labels)
    of_input = dynamics_rows[(dynamics_rows["layer"] == "input") & (dynamics_rows["probe"] == "velpic")]
    expected = VeLPIC().fit(subject.outputs["input"].train, subject.noisy)
    assert set(of_input["value"]) == {expected.score(subject.outputs["input"].test, subject.test_labels)}
    of_layer = dynamics_rows[(dynamics_rows["layer"] == "fc1") & (dynamics_rows["probe"] == "velpic")]
    assert of_layer["value"].nunique() > 1


def test_dynamics_without_kept_weights_raises(tmp_path):
    spec = replace(SPEC, recipe=replace(SPEC.recipe, max_epochs=1))
    execute(spec, tmp_path)
    with pytest.raises(DataError, match=r"kept no weights .*--checkpoints"):
        dynamics(FinishedRun.of(spec, tmp_path))


@pytest.mark.parametrize(("probe", "fitted_on"), [("velpic", "noisy"), ("velpic", "true"), ("ncm", "noisy")])
@pytest.mark.parametrize(("setting", "bias"), [("bias_kept", "keep"), ("bias_zero", "zero")])
def test_the_weight_edit_is_that_of_edit_head(subject, probe, fitted_on, setting, bias):
    rows = weight_edit(subject)
    assert len(rows) == 2 * 2 * 2 * 3
    edited = edit_head(subject.model(), (subject.inputs.train, subject.label_sets[fitted_on]), probe, bias)
    which = {"layer": "output", "probe": probe, "setting": setting, "fitted_on": fitted_on}
    for split, labels, x, truth in (
        ("train", "noisy", subject.inputs.train, subject.noisy),
        ("train", "true", subject.inputs.train, subject.true),
        ("test", "true", subject.inputs.test, subject.test_labels),
    ):
        assert value(rows, split=split, labels=labels, **which) == accuracy(edited, x, truth)


def test_edited_network_with_zero_bias_predicts_as_the_probe(subject):
    last = subject.outputs[list(subject.outputs)[-1]]
    probe = VeLPIC().fit(last.train, subject.noisy)
    found = value(weight_edit(subject), probe="velpic", setting="bias_zero", fitted_on="noisy", split="test")
    assert found == probe.score(last.test, subject.test_labels)


def test_clean_labels_are_measured_once_and_rows_are_equal_after_reading(tmp_path):
    spec = RunSpec.of("mlp-digits", 0.0, 0, subset=100, test_subset=50, max_epochs=1)
    execute(spec, tmp_path)
    subject = FinishedRun.of(spec, tmp_path)
    rows = weight_edit(subject)
    assert set(rows["fitted_on"]) == {"noisy"}
    write_rows(subject.run.folder, "weight_edit", rows)
    assert read_rows(subject.run.folder, "weight_edit").equals(rows)


def test_a_class_without_rows_is_named(subject):
    without = replace(subject, noisy=np.where(subject.noisy == 4, 5, subject.noisy))
    with pytest.raises(InputError, match=r"rows of every class 0\.\.9; none is of class 4"):
        weight_edit(without)


@pytest.mark.parametrize("pair", ["mlp-mnist", "cnn-mnist", "alexnet-cifar100", "resnet18-cifar10"])
def test_the_last_probed_layer_is_the_input_of_the_head(pair):
    """What lets the experiment edit the head alone."""
    model = build(pair).eval()
    size = {"mlp-mnist": (1, 28, 28), "cnn-mnist": (1, 28, 28)}.get(pair, (3, 32, 32))
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(0))
    last = list(model.probed_layers.values())[-1]
    hidden = capture(model, x, last).outputs[last]
    with torch.no_grad():
        torch.testing.assert_close(find_head(model, x)(hidden), model(x))
