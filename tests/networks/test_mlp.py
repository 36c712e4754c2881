import pytest
import torch

from layerprobe.layers import list_layers
from layerprobe.networks import MLP


@pytest.mark.parametrize(("in_features", "parameters"), [(784, 5_433_994), (3072, 5_726_858)])
def test_parameter_counts_of_the_paper(in_features, parameters):
    with torch.device("meta"):
        model = MLP(in_features)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_state_dict_keys_are_plain():
    weights = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias", "head.weight", "head.bias"]
    assert list(MLP(4, (3, 2)).state_dict()) == weights


def test_outputs_and_probed_layers_of_relu_network():
    torch.manual_seed(0)
    model = MLP(6, (5, 4), num_classes=3)
    x = torch.randn(7, 2, 3)
    a = (x.flatten(1) @ model.linear1.weight.T + model.linear1.bias).clamp(min=0)
    b = (a @ model.linear2.weight.T + model.linear2.bias).clamp(min=0)
    seen = {}
    for name in ("fc1", "fc2"):
        model.get_submodule(name).register_forward_hook(lambda *args, name=name: seen.update({name: args[2]}))
    logits = model(x)
    torch.testing.assert_close(seen, {"fc1": a, "fc2": b})
    torch.testing.assert_close(logits, b @ model.head.weight.T + model.head.bias)
    assert (a == 0).any()
    assert (logits < 0).any()


def test_default_layers_of_the_paper():
    layers = list_layers(MLP(784, (128, 512)), torch.rand(2, 1, 28, 28))
    assert [(row.name, row.dimension) for row in layers if row.is_default] == [
        ("input", 784),
        ("fc1", 128),
        ("fc2", 512),
    ]
    assert [row.name for row in layers if row.is_head] == ["head"]


def test_probed_layers_for_any_depth():
    assert MLP(4, (3, 2)).probed_layers == {"input": "input", "fc1": "fc1", "fc2": "fc2"}
