"""Extractor: names, pooling, order and memory of layer outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from layerprobe import capture
from layerprobe.errors import InputError, LayerError
from layerprobe.layers.batches import Batches
from layerprobe.layerwise import Extractor

X = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(50) % 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))


@pytest.fixture
def forwards(model):
    """Rows of each forward pass."""
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


def test_extract_equals_capture(model):
    outputs = Extractor(model, batch_size=20).extract((X, Y))
    captured = capture(model, (X, Y), ["input", "1", "3", "output"])
    assert list(outputs) == ["input", "1", "3"]
    assert outputs.dimensions == {"input": 6, "1": 5, "3": 4}
    for layer in outputs:
        torch.testing.assert_close(outputs[layer], captured.outputs[layer], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs.output, captured.outputs["output"], rtol=1e-6, atol=1e-6)
    assert torch.equal(outputs.labels, Y)
    assert outputs.indices is None


def test_probed_layers_name_the_outputs(model):
    model.probed_layers = {"hidden": "1", "last": "3"}
    extractor = Extractor(model)
    assert list(extractor.extract(X)) == ["hidden", "last"]
    part = extractor.of_layers(["last"]).extract(X)
    assert list(part) == ["last"]
    assert torch.equal(part["last"], extractor.extract(X)["last"])
    model.probed_layers = ["1", "3"]
    with pytest.raises(LayerError, match="probed_layers: expected a mapping"):
        Extractor(model)


def test_outputs_beyond_the_memory_limit_are_captured_layer_by_layer(model, forwards):
    whole = Extractor(model).extract(X)
    forwards.clear()
    outputs = Extractor(model).extract((X, Y), memory=4 * 50 * 8)
    assert outputs.dimensions == whole.dimensions
    assert torch.equal(outputs.output, whole.output)
    assert torch.equal(outputs.labels, Y)
    forwards.clear()
    for layer in outputs:
        assert torch.equal(outputs[layer], whole[layer])
        outputs[layer]
    assert forwards == [49, 50] * 3  # one pass per layer
    with pytest.raises(KeyError):
        outputs["7"]


def test_order_places_rows_by_their_index(model):
    shuffled = np.random.default_rng(0).permutation(50)
    batches = Batches(lambda: ((X[part], None, part) for part in np.split(shuffled, [20, 35])), 50)
    order = np.arange(50)[::-1].copy()
    outputs = Extractor(model).extract(batches, order=order)
    torch.testing.assert_close(outputs["input"], X.flip(0))
    torch.testing.assert_close(outputs.output, model(X).detach().flip(0), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="expected the index of each row"):
        Extractor(model).extract(X, order=order)
    with pytest.raises(InputError, match="expected 50 rows"):
        Extractor(model).extract((X[:9], Y[:9], order[:9]), order=order)


def test_output_that_is_no_matrix_of_scores_is_none():
    assert (
        Extractor(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(0))).extract(X, memory=None).output
        is None
    )


def test_dimensions_of_one_row(model):
    found = Extractor(model).dimensions((X, Y))
    assert (found.layers, found.output, found.itemsize) == ({"input": 6, "1": 5, "3": 4}, (3,), 4)


def test_default_pool_serves_layers_without_a_policy():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 40 * 40, 2))
    images = torch.randn(4, 2, 40, 40)
    compact = Extractor(model, default_pool="compact").dimensions(images)
    assert compact.layers == {"input": 2 * 22 * 22, "1": 3 * 18 * 18}
    mixed = Extractor(model, pool={"input": "mean"}, default_pool="compact").dimensions(images)
    assert mixed.layers == {"input": 2, "1": 3 * 18 * 18}


@pytest.mark.filterwarnings("ignore")
def test_output_of_a_script_is_that_of_each_batch():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    outputs = Extractor(script, batch_size=4).extract(x)
    torch.testing.assert_close(outputs.output, script(x).detach())
