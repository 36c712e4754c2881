"""Wrong models, layers, sizes, devices and inputs are one clear error, at every entry point."""

import numpy as np
import pytest
import torch
from torch import nn

from layerprobe import audit, capture, edit_head, list_layers, plan, probe
from layerprobe.errors import InputError, LayerError

X, Y = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
MODEL = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

ENTRIES = {
    "capture": lambda model, x, **options: capture(model, (x, Y), **options),
    "list_layers": lambda model, x, **options: list_layers(model, x, **options),
    "probe": lambda model, x, **options: probe(model, (x, Y), probes="ncm", **options),
    "plan": lambda model, x, **options: plan(model, (x, Y), **options),
    "edit_head": lambda model, x, **options: edit_head(model, (x, Y), **options),
    "audit": lambda model, x, **options: audit(
        model, (x, Y), policy="noisy_holdout", holdout=(X + 1, Y), probes="ncm", **options
    ),
}
WITH_LAYERS = ("capture", "probe", "plan", "audit")
WITH_BATCHES = ("capture", "probe", "edit_head", "audit")
WITH_DEVICE = ("capture", "list_layers", "probe", "plan", "audit")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "got a NoneType"),
        (nn.Linear, "got the class Linear; call it"),
        (lambda x: x, "got a function; call it in the forward"),
        ([nn.Linear(6, 3)], r"got a list; nn\.Sequential"),
        ("resnet18", "got a str"),
        (nn.ModuleList([nn.Linear(6, 3)]), "a forward method, ModuleList has none"),
    ],
)
def test_wrong_models(entry, model, message):
    if entry == "plan" and not isinstance(model, nn.Module):  # which takes numbers of features, too
        message = "expected a network or the number of features of each layer, got"
    with pytest.raises(InputError, match=message):
        ENTRIES[entry](model, X)


@pytest.mark.parametrize("entry", WITH_LAYERS)
@pytest.mark.parametrize("layers", [3, [1], [None], ["0", 2.5], b"0", {"0": 1}, nn.ReLU(), True, 0.5])
def test_wrong_layers(entry, layers):
    with pytest.raises(InputError, match=r"expected (layers= as )?names or patterns of layers, got"):
        ENTRIES[entry](MODEL, X, layers=layers)


@pytest.mark.parametrize("entry", WITH_BATCHES)
@pytest.mark.parametrize("size", [0, -1, 2.5, "8", None, True, float("nan"), [4]])
def test_wrong_batch_sizes(entry, size):
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1"):
        ENTRIES[entry](MODEL, X, batch_size=size)


@pytest.mark.parametrize("entry", WITH_DEVICE)
@pytest.mark.parametrize("device", ["gpu", "cuda:99", [], 1.5, torch.float32])
def test_wrong_devices(entry, device):
    with pytest.raises(InputError, match='expected a device such as "cpu" or "cuda:0", got '):
        ENTRIES[entry](MODEL, X, device=device)


def test_consume_that_cannot_be_called():
    with pytest.raises(InputError, match=r"expected consume as a function of .*, got 3"):
        capture(MODEL, X, consume=3)


@pytest.mark.parametrize("dtype", ["float32", np.float32, torch.int64, torch.bool, float, torch.complex64])
def test_wrong_dtypes(dtype):
    with pytest.raises(InputError, match=r"expected dtype as a floating-point torch\.dtype, got"):
        capture(MODEL, X, dtype=dtype)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda x: x.to("meta"), "on the meta device, which has no values"),
        (torch.Tensor.to_sparse, r"sparse: convert it by to_dense\(\)"),
        (torch.Tensor.to_sparse_csr, "sparse"),
        (
            lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
            r"quantised: convert it by dequantize\(\)",
        ),
        (lambda x: torch.nested.nested_tensor(list(x)), "nested: pad it by"),
        (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "nested: pad it by"),
    ],
    ids=["meta", "sparse", "csr", "quantised", "nested", "jagged"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_inputs_that_are_no_dense_tensors(entry, convert, message):
    with pytest.raises(InputError, match=f"must be a dense tensor of numbers, got one that is {message}"):
        ENTRIES[entry](MODEL, convert(X))


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.body = nn.Embedding(9, 4), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4))
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x, where="embedding"):
        if where == "embedding":
            return self.embedding(x)
        return self.body(x) if where == "norm" else x @ self.weight


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_input_of_the_wrong_width_names_the_layer(entry):
    message = (
        r"layer '0' \(Linear\) cannot be computed for an input of shape \(\d+, 5\): mat1 and mat2 shapes"
    )
    with pytest.raises(LayerError, match=message):
        ENTRIES[entry](MODEL, X[:, :5])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": torch.full((5, 2), 9)}, r"layer 'embedding' \(Embedding\) .* \(5, 2\): index out of range"),
        (
            {"x": torch.ones(5, 2)},
            r"layer 'embedding' \(Embedding\) .* \(5, 2\): Expected tensor for argument",
        ),
        (
            {"x": torch.ones(5, 4), "where": "norm"},
            r"layer 'body\.1' \(BatchNorm2d\) .* \(5, 4\): expected 4D",
        ),
        ({"x": torch.ones(5, 4), "where": "root"}, r"the network \(Embedded\) .* \(5, 4\): mat1 and mat2"),
    ],
)
def test_errors_of_torch_name_the_layer_and_its_input(inputs, message):
    with pytest.raises(LayerError, match=message) as raised:
        capture(Embedded(), [inputs])
    assert isinstance(raised.value.__cause__, RuntimeError | IndexError | ValueError)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, IndexError, KeyError, ZeroDivisionError])
def test_errors_of_the_user_are_not_replaced(error):
    class Fails(nn.Module):
        def forward(self, x):
            raise error("of the user")

    for model in (Fails(), nn.Sequential(nn.ReLU(), Fails())):
        with pytest.raises(error, match="of the user") as raised:
            capture(model, X)
        assert type(raised.value) is error
    with pytest.raises(error, match="of the user"):
        capture(MODEL, X, pool=Fails().forward)


def test_values_on_the_meta_device_cannot_be_captured():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    assert list_layers(model, X).names == ["input", "0", "1", "output"]
    with pytest.raises(LayerError, match="layer 'input' is on the meta device, without values"):
        capture(model, X)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantised_outputs_are_captured_as_numbers():
    class Quantised(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    rows = capture(Quantised(), X, "output").outputs["output"]
    torch.testing.assert_close(rows, (X / 0.1).round().clamp(-128, 127) * 0.1)
