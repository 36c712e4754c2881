import pytest
import torch
from torch.nn.functional import conv2d, linear, max_pool2d

from layerprobe.networks import build


@pytest.mark.parametrize(
    ("pair", "size", "first", "second"),
    [("alexnet-cifar100", 32, (3, 2, 1), (3, 1)), ("alexnet-tiny-imagenet", 64, (11, 4, 2), (5, 2))],
)
def test_outputs_equal_functional_form(pair, size, first, second):
    torch.manual_seed(0)
    model = build(pair)
    weights = model.state_dict()
    shapes = [first, (second[0], 1, second[1]), (3, 1, 1), (3, 1, 1), (3, 1, 1)]
    x = torch.rand(2, 3, size, size)
    a = x
    for i, (kernel, stride, padding) in enumerate(shapes, start=1):
        assert weights[f"conv{i}.weight"].shape[2:] == (kernel, kernel)
        a = conv2d(a, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride, padding).relu()
        a = max_pool2d(a, 3, 2) if i in (1, 2, 5) else a
    a = a.flatten(1)
    for i in (1, 2):
        a = linear(a, weights[f"linear{i}.weight"], weights[f"linear{i}.bias"]).relu()
    torch.testing.assert_close(model(x), linear(a, weights["head.weight"], weights["head.bias"]))
