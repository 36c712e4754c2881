import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, linear, max_pool2d

from layerprobe.errors import InputError
from layerprobe.networks import CNN


def test_outputs_equal_functional_form():
    torch.manual_seed(0)
    model = CNN(1, 16).double()
    weights = model.state_dict()
    x = torch.randn(5, 1, 16, 16, dtype=torch.float64)
    a = x
    for i in range(1, 7):
        a = conv2d(a, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], padding=1).relu()
        a = max_pool2d(a, 2) if i in (2, 4, 6) else a
    a = a.flatten(1)
    for i in range(1, 4):
        a = linear(a, weights[f"linear{i}.weight"], weights[f"linear{i}.bias"]).relu()
    torch.testing.assert_close(model(x), linear(a, weights["head.weight"]))


def test_pooling_before_relu_gives_the_same_gradients():
    torch.manual_seed(0)
    ours, theirs = nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    weights = torch.randn(4, 3, 4, 4)
    (a,) = torch.autograd.grad((ours(x) * weights).sum(), x)
    (b,) = torch.autograd.grad((theirs(x) * weights).sum(), x)
    assert torch.equal(a, b)
    assert (a != 0).any()


def test_dropout_after_hidden_linear_layers_in_training_only():
    model = CNN(1, 8, dropout=0.5)
    assert list(model.state_dict()) == list(CNN(1, 8).state_dict())
    names = [name for name, module in model.named_children() if isinstance(module, nn.Dropout)]
    assert names == ["dropout1", "dropout2", "dropout3"]
    seen = {}
    for i in (1, 2, 3):
        module = model.get_submodule(f"dropout{i}")
        module.register_forward_hook(lambda _, given, out, i=i: seen.update({i: (given[0], out)}))
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        model.train(training)(x)
        assert all(torch.equal(given, out) is not training for given, out in seen.values())


@pytest.mark.parametrize("dropout", [-0.1, 1, 1.5, float("nan")])
def test_invalid_dropout_raises(dropout):
    with pytest.raises(InputError, match="0 <= dropout < 1, got"):
        CNN(1, 8, dropout=dropout)
