import numpy as np
import pytest
import torch

from layerprobe import capture
from layerprobe.errors import DataError, LayerError
from layerprobe.paper import RunSpec, run_outputs
from layerprobe.paper.run_outputs import FinishedRun, RunOutputs


def test_outputs_are_those_of_the_networks_layers(memorised):
    model, inputs = memorised.model(), memorised.inputs
    expected = capture(model, inputs.test, ["fc2", "output"]).outputs
    assert torch.equal(memorised.outputs["fc2"].test, expected["fc2"])
    assert torch.equal(memorised.outputs.logits.test, expected["output"])
    assert list(memorised.outputs) == ["input", "fc1", "fc2", "fc3"]


def rows_run(model):
    """Return a list to which each forward pass of the model appends its number of rows."""
    rows = []
    model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    return rows


def test_all_layers_are_captured_in_one_pass(memorised):
    model = memorised.model()
    rows = rows_run(model)
    outputs = memorised.outputs_of(model)
    # At most 64 of the first rows of each set are run once more: they show rows and channels of the layers.
    assert sum(rows) < 300 + 100 + 2 * 64 + 20
    passes = len(rows)
    for layer in [*outputs, *outputs]:
        outputs[layer]
    assert len(rows) == passes


def test_outputs_above_the_memory_limit_are_captured_layer_by_layer(memorised):
    whole, model = memorised.outputs, memorised.model()
    parts = RunOutputs(model, *memorised.inputs, memory=0)
    rows = rows_run(model)
    for layer in whole:
        assert torch.equal(parts[layer].train, whole[layer].train)
        assert parts[layer].test is parts[layer].test
    assert torch.equal(parts.logits.train, whole.logits.train)
    assert sum(rows) == len(whole) * (300 + 100 + 2 * 64)  # at most 64 rows are run once more per pass


def test_generalised_run_differs_in_its_labels_only(memorised, generalised):
    sibling = memorised.generalised()
    assert sibling.spec == generalised.spec
    assert np.array_equal(sibling.noisy, memorised.true)


def test_a_missing_run_raises(runs):
    with pytest.raises(DataError, match="no run"):
        FinishedRun.of(RunSpec.of("mlp-digits", 0.2, 0, subset=300, max_epochs=3), runs)


def test_a_layer_that_is_not_probed_is_a_key_error(memorised):
    with pytest.raises(KeyError):
        memorised.outputs["head"]


def test_a_wrong_name_in_probed_layers_is_named_as_such(memorised):
    model = memorised.model()
    model.probed_layers = {"input": "input", "fc1": "absent"}
    with pytest.raises(
        LayerError,
        match=r"the layers in MLP\.probed_layers: no layer matches 'absent'.*; layerprobe\.list_layers shows",
    ):
        memorised.outputs_of(model)


def test_the_old_name_of_a_finished_run_warns():
    with pytest.warns(DeprecationWarning, match="use FinishedRun"):
        assert run_outputs.Subject is FinishedRun
