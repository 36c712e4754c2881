"""What holds for all eight pairs: size, probed layers, and freedom of dtype and memory format."""

import pytest
import torch

from layerprobe.errors import InputError
from layerprobe.layers import capture, list_layers
from layerprobe.networks import available, build

CNN_LAYERS = {"fc1": 250, "fc2": 250, "fc3": 250}
MLP_LAYERS = {"fc1": 128, "fc2": 512, "fc3": 2048, "fc4": 2048}
ALEXNET_LAYERS = {"flatten": 256, "fc1": 4096, "fc2": 4096}
PAIRS = {  # shape of an image, classes, parameters, dimension of each layer that the paper probes
    "mlp-mnist": ((1, 28, 28), 10, 5_433_994, {"input": 784, **MLP_LAYERS}),
    "mlp-cifar10": ((3, 32, 32), 10, 5_726_858, {"input": 3072, **MLP_LAYERS}),
    "cnn-mnist": ((1, 28, 28), 10, 344_042, {"input": 784, "flatten": 576, **CNN_LAYERS}),
    "cnn-fashion-mnist": ((1, 28, 28), 10, 344_042, {"input": 784, "flatten": 576, **CNN_LAYERS}),
    "cnn-cifar10": ((3, 32, 32), 10, 456_330, {"input": 3072, "flatten": 1024, **CNN_LAYERS}),
    "alexnet-cifar100": ((3, 32, 32), 100, 20_495_268, ALEXNET_LAYERS),
    "alexnet-tiny-imagenet": ((3, 64, 64), 200, 21_123_080, ALEXNET_LAYERS),
    "resnet18-cifar10": (
        (3, 32, 32),
        10,
        11_173_962,
        {"l0": 16384, "l0_1": 16384, "l0_2": 16384, "l0_3": 16384, "l1": 16384}
        | {"l2": 8192, "l3": 4096, "l4": 2048, "avgpool": 512},
    ),
}
every_pair = pytest.mark.parametrize("pair", PAIRS)
CONVOLUTIONAL = [pair for pair in PAIRS if not pair.startswith("mlp")]


def images(pair, n=2):
    return torch.rand(n, *PAIRS[pair][0], generator=torch.Generator().manual_seed(0))


def network(pair):
    torch.manual_seed(0)
    return build(pair)


def test_pairs_of_the_paper():
    assert available() == list(PAIRS)


@every_pair
def test_parameter_counts_of_the_paper(pair):
    with torch.device("meta"):
        model = build(pair)
    assert sum(weights.numel() for weights in model.parameters()) == PAIRS[pair][2]


@every_pair
def test_probed_layers_of_the_paper_are_non_negative(pair):
    model, x = network(pair), images(pair)
    dimensions = {row.name: row.dimension for row in list_layers(model, x)}
    probed = {name: dimensions[layer] for name, layer in model.probed_layers.items()}
    assert probed == PAIRS[pair][3]
    outputs = capture(model, x, layers=list(model.probed_layers.values())).outputs
    for name, layer in model.probed_layers.items():
        assert outputs[layer].min() >= 0, name
        assert outputs[layer].max() > 0, name


@every_pair
def test_one_logit_per_class_and_linear_head(pair):
    model = network(pair).eval()
    assert model(images(pair)).shape == (2, PAIRS[pair][1])
    assert list_layers(model, images(pair)).head in ("head", "fc")
    assert build(pair, num_classes=7).eval()(images(pair)).shape == (2, 7)


@pytest.mark.parametrize("pair", CONVOLUTIONAL)
def test_probed_outputs_do_not_depend_on_the_memory_format(pair):
    model, x = network(pair), images(pair)
    layers = list(model.probed_layers.values())
    contiguous = capture(model, x, layers=layers).outputs
    model = model.to(memory_format=torch.channels_last)
    channels_last = capture(model, x.to(memory_format=torch.channels_last), layers=layers).outputs
    torch.testing.assert_close(channels_last, contiguous, rtol=1e-4, atol=1e-5)


@every_pair
def test_output_has_dtype_of_weights(pair):
    model = network(pair).double().eval()
    assert model(images(pair).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        ("cnn-mnits", {}, "There is no pair 'cnn-mnits'. Did you mean cnn-mnist?"),
        ("mlp-mnist", {"dropout": 0.1}, "mlp-mnist has the options hidden, num_classes, not dropout"),
        ("alexnet-cifar100", {"maxpool": False}, "has the options num_classes, not maxpool"),
    ],
)
def test_unknown_pair_or_option_raises(pair, options, message):
    with pytest.raises(InputError, match=message):
        build(pair, **options)
