import pytest
import torch
from torch import nn

from layerprobe.errors import InputError
from layerprobe.networks import CNN, MLP, AlexNet, ResNet18, load_published, load_state
from layerprobe.networks.weights import without_prefix


class PublishedCNN(nn.Module):
    """The CNN under the names of the published code."""

    def __init__(self):
        super().__init__()
        widths = (1, 16, 16, 32, 32, 64, 64)
        for i in range(1, 7):
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], 3, padding=1))
        self.fcs = nn.ModuleList(nn.Linear(d, 250) for d in (576, 250, 250))
        self.fc3 = nn.Linear(250, 10, bias=False)

    def forward(self, x):
        for i in range(1, 7):
            x = getattr(self, f"conv{i}")(x).relu()
            x = nn.functional.max_pool2d(x, 2) if i % 2 == 0 else x
        x = x.flatten(1)
        for layer in self.fcs:
            x = layer(x).relu()
        return self.fc3(x)


@pytest.fixture
def published():
    torch.manual_seed(0)
    return PublishedCNN()


def test_published_cnn_weights_give_equal_outputs(published):
    model, x = CNN(1, 28), torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    load_published(model, published.state_dict())
    assert set(published.state_dict()) == {
        f"conv{i}.{w}" for i in range(1, 7) for w in ("weight", "bias")
    } | {
        *(f"fcs.{i}.{w}" for i in range(3) for w in ("weight", "bias")),
        "fc3.weight",
    }
    torch.testing.assert_close(model(x), published(x))


PUBLISHED = {
    MLP: ((6, (5, 4, 3, 2), 3), {"linear": "fc", "head": "output"}),
    AlexNet: (
        ((3, 2, 1), (3, 1)),
        {f"conv{i}": f"features.{j}" for i, j in zip(range(1, 6), (0, 3, 6, 8, 10), strict=True)}
        | {"linear": "fc", "head": "fc3"},
    ),
    ResNet18: ((), {"downsample": "shortcut"}),
}


@pytest.mark.parametrize("network", PUBLISHED)
def test_layer_names_of_the_published_code(network):
    arguments, names = PUBLISHED[network]
    options = {"num_classes": 7} if network is AlexNet else {}
    theirs = network(*arguments, **options).state_dict()
    weights = {}
    for key, value in theirs.items():
        for name, other in names.items():
            key = key.replace(name, other)
        weights[key] = value
    if network is AlexNet:  # the published class has a second classifier that it never applies
        for layer, other in {"fc1": 1, "fc2": 4, "fc3": 6}.items():
            weights |= {f"classifier.{other}.{w}": weights[f"{layer}.{w}"] + 1 for w in ("weight", "bias")}
    for given in (weights, theirs):  # equal names need no others
        model = network(*arguments, **options)
        load_published(model, given)
        assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


def test_layers_that_the_published_code_does_not_use_may_be_named():
    theirs, model = (AlexNet((3, 2, 1), (3, 1), num_classes=7) for _ in range(2))
    names = {"linear1": "classifier.1", "linear2": "classifier.4", "head": "classifier.6"}
    weights = {}
    for key, value in theirs.state_dict().items():
        layer, weight = key.split(".")
        weights[f"{names.get(layer, layer)}.{weight}"] = value
    load_published(model, weights, names)
    assert torch.equal(model.head.weight, theirs.head.weight)


def test_other_layer_names():
    theirs = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model, x = MLP(6, (4,), 3), torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    load_published(model, theirs.state_dict(), {"linear1": "1", "head": "3"})
    assert torch.equal(model(x), theirs(x))


def test_buffers_are_copied():
    theirs, model = ResNet18(), ResNet18()
    theirs(torch.rand(2, 3, 32, 32))
    load_published(model, theirs.state_dict())
    assert model.bn1.num_batches_tracked == 1
    assert torch.equal(model.bn1.running_mean, theirs.bn1.running_mean)


@pytest.mark.parametrize("load", [load_published, load_state])
def test_counts_of_batches_may_be_missing(load):
    theirs, model, x = ResNet18(), ResNet18().eval(), torch.rand(2, 3, 32, 32)
    theirs(x)
    weights = {key: value for key, value in theirs.state_dict().items() if "num_batches" not in key}
    assert len(weights) < len(theirs.state_dict())
    assert (
        without_prefix(model, {f"module.{key}": value for key, value in weights.items()}).keys()
        == weights.keys()
    )
    load(model, weights)
    assert torch.equal(model(x), theirs.eval()(x))
    del weights["bn1.running_var"]
    with pytest.raises(InputError, match=r"missing: bn1\.running_var[.;]"):
        load(model, weights)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weights: weights.pop("fcs.1.bias"), r"missing: fcs\.1\.bias\. Pass"),
        (lambda weights: weights.update({"fc3.bias": torch.zeros(10)}), r"unexpected: fc3\.bias\. Pass"),
        (
            lambda weights: weights.update({"fc3.weight": torch.zeros(100, 250)}),
            r"of another shape: fc3\.weight \(100, 250\) for \(10, 250\)",
        ),
        (
            lambda weights: weights.update({"linear1.bias": weights.pop("fcs.0.bias")}),
            "missing: .*unexpected: ",
        ),
        (
            lambda weights: weights.update({"fc3.weight": torch.full((10, 250), 1e300, dtype=torch.float64)}),
            r"not finite in float32: fc3\.weight",
        ),
        # copying them would round them towards zero, or drop their imaginary parts
        (lambda weights: weights.update({"fc3.weight": weights["fc3.weight"].to(torch.int64)}), "int64"),
        (lambda weights: weights.update({"fcs.0.bias": weights["fcs.0.bias"] * 1j}), "complex64"),
    ],
)
def test_weights_that_do_not_match_raise_and_change_nothing(published, spoil, message):
    weights, model = published.state_dict(), CNN(1, 28)
    before = model.conv1.weight.clone()
    spoil(weights)
    with pytest.raises(InputError, match=message):
        load_published(model, weights)
    assert torch.equal(model.conv1.weight, before)


def test_name_of_no_layer_raises(published):
    model = CNN(1, 28)
    with pytest.raises(InputError, match="no layer of the model: lineer1"):
        load_published(model, published.state_dict(), {**model.published_names, "lineer1": "fcs.0"})


def test_weights_of_one_layer_for_two_raise():
    model = CNN(1, 28)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("linear3")}
    with pytest.raises(InputError, match=r"read twice, for: linear2\.weight and linear3\.weight, linear2\.b"):
        load_published(model, weights, {"linear3": "linear2"})


def test_tied_layers_may_have_one_name():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight, model[1].bias = model[0].weight, model[0].bias
    theirs = nn.Linear(3, 3).state_dict()
    load_published(model, {f"one.{key}": value for key, value in theirs.items()}, {"0": "one", "1": "one"})
    assert torch.equal(model[1].weight, theirs["weight"])


def test_weights_outside_layers():
    class Nested(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.inner = nn.Linear(2, 2)

    theirs, model = Nested().state_dict(), Nested()
    load_published(model, theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())
    one = nn.Sequential(nn.Linear(3, 2))
    load_published(one, {key: theirs[key] for key in ("weight", "bias")}, {"0": ""})
    assert torch.equal(one[0].weight, theirs["weight"])
