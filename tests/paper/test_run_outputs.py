import numpy as np
import pytest
import torch

from layerprobe import capture
from layerprobe.errors import DataError
from layerprobe.paper import RunSpec
from layerprobe.paper import run_outputs as subjects
from layerprobe.paper.run_outputs import FinishedRun, RunOutputs


def test_outputs_are_those_of_the_networks_layers(memorised):
    model, inputs = memorised.model(), memorised.inputs
    expected = capture(model, inputs.test, ["fc2", "output"]).outputs
    assert torch.equal(memorised.outputs["fc2"].test, expected["fc2"])
    assert torch.equal(memorised.outputs.logits.test, expected["output"])
    assert list(memorised.outputs) == ["input", "fc1", "fc2", "fc3"]


def counted(monkeypatch):
    calls = []

    def counting(model, x, layers):
        calls.append(len(x))
        return capture(model, x, layers)

    monkeypatch.setattr(subjects, "capture", counting)
    return calls


def test_one_pass_serves_every_layer(memorised, monkeypatch):
    calls = counted(monkeypatch)
    outputs = memorised.outputs_of(memorised.model())
    for layer in [*outputs, *outputs]:
        outputs[layer]
    assert calls == [1, 300, 100]  # one row to learn the sizes, then the data once


def test_what_does_not_fit_into_memory_is_captured_layer_by_layer(memorised, monkeypatch):
    whole = memorised.outputs
    calls = counted(monkeypatch)
    parts = RunOutputs(memorised.model(), *memorised.inputs, memory=0)
    for layer in whole:
        assert torch.equal(parts[layer].train, whole[layer].train)
        assert parts[layer].test is parts[layer].test
    assert torch.equal(parts.logits.train, whole.logits.train)
    assert calls == [1, *[300, 100] * (len(whole) + 1)]  # the output alone, then each layer


def test_the_generalised_sibling_differs_by_its_labels_alone(memorised, generalised):
    sibling = memorised.generalised()
    assert sibling.spec == generalised.spec
    assert np.array_equal(sibling.noisy, memorised.true)


def test_a_missing_run_is_said(runs):
    with pytest.raises(DataError, match="no run"):
        FinishedRun.of(RunSpec.of("mlp-digits", 0.2, 0, subset=300, max_epochs=3), runs)


def test_a_layer_that_is_not_probed_is_a_key_error(memorised):
    with pytest.raises(KeyError):
        memorised.outputs["head"]
