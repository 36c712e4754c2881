"""Which tensors of a forward pass are layers, what they are called, and that each holds its own value."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from layerprobe.errors import LayerError
from layerprobe.layers import capture, list_layers


class From(nn.Module):
    """A module made of a function and, as keywords, its submodules."""

    def __init__(self, function, **children):
        super().__init__()
        self.function = function
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        return self.function(self, x)


def test_in_place_relu_does_not_change_the_layer_before(x):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True))
    outputs = capture(model, x, ["0", "1"]).outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs["0"], model[0](x))
    torch.testing.assert_close(outputs["1"], outputs["0"].relu())
    assert (outputs["0"] < 0).any()


@pytest.mark.parametrize(
    "relu",
    [
        functional.relu,
        torch.relu,
        torch.Tensor.relu,
        torch.relu_,
        torch.Tensor.relu_,
        lambda x: functional.relu(x, inplace=True),
        functional.relu_,
    ],
)
def test_every_spelling_of_a_function_is_one_layer(x, relu):
    model = From(lambda self, x: self.head(relu(self.fc(x))), fc=nn.Linear(4, 5), head=nn.Linear(5, 2))
    layers = list_layers(model, x)
    assert layers.names == ["input", "fc", "F.relu", "head", "output"]
    outputs = capture(model, x, ["fc", "F.relu"]).outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs["fc"], model.fc(x))
    torch.testing.assert_close(outputs["F.relu"], outputs["fc"].relu())


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("add", lambda x: x + x),
        ("add", lambda x: 1 + x),
        ("add", lambda x: torch.add(x, x)),
        ("mul", lambda x: x * x),
        ("cat", lambda x: torch.cat([x, x], 1)),
        ("flatten", lambda x: x.flatten(1)),
        ("mean", lambda x: x.mean((2, 3))),
        ("clamp", lambda x: x.clamp(min=0)),
        ("max_pool2d", lambda x: functional.max_pool2d(x, 2)),
        ("avg_pool2d", lambda x: functional.avg_pool2d(x, 2)),
        ("adaptive_max_pool2d", lambda x: functional.adaptive_max_pool2d(x, 1)),
        ("adaptive_avg_pool2d", lambda x: functional.adaptive_avg_pool2d(x, 1)),
        ("softmax", lambda x: x.softmax(1)),
        ("log_softmax", lambda x: functional.log_softmax(x, 1)),
        ("layer_norm", lambda x: functional.layer_norm(x, (4,))),
        ("matmul", lambda x: x @ x),
        ("linear", lambda x: functional.linear(x, torch.ones(3, 4))),
        ("conv2d", lambda x: functional.conv2d(x, torch.ones(5, 2, 1, 1))),
        ("scaled_dot_product_attention", lambda x: functional.scaled_dot_product_attention(x, x, x)),
        ("gelu", functional.gelu),
        ("silu", functional.silu),
        ("tanh", functional.tanh),
        ("sigmoid", torch.sigmoid),
        ("logsigmoid", functional.logsigmoid),
        ("leaky_relu", functional.leaky_relu),
        ("hardtanh", functional.hardtanh_),
    ],
)
def test_functional_operations(name, function):
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    model = From(lambda self, x: function(x.clone()))
    assert list_layers(model, images).names == ["input", f"F.{name}", "output"]
    torch.testing.assert_close(
        capture(model, images, f"F.{name}").outputs[f"F.{name}"], function(images.clone()).flatten(1)
    )


def test_inner_calls_of_torch_modules_are_hidden(x):
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Softmax(1))
    assert list_layers(model, x).names == ["input", "0", "1", "2", "3", "output"]
    assert list_layers(nn.Linear(4, 2), x).names == ["input", "output"]


def test_a_module_used_twice(x):
    model = From(
        lambda self, x: self.act(self.fc(self.act(self.fc(x)))), fc=nn.Linear(4, 4), act=nn.ReLU(inplace=True)
    )
    outputs = capture(model, x, "*").outputs
    assert list(outputs) == ["input", "fc", "act", "fc:2", "act:2", "output"]
    with torch.no_grad():
        first = model.fc(x)
        second = model.fc(first.relu())
    torch.testing.assert_close(outputs["fc"], first)
    torch.testing.assert_close(outputs["act"], first.relu())
    torch.testing.assert_close(outputs["fc:2"], second)
    torch.testing.assert_close(outputs["act:2"], second.relu())


def residual_block(self, x):
    out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
    out = self.bn2(self.conv2(out))
    out += x
    return functional.relu(out, inplace=True)


def test_a_residual_block_with_in_place_add_and_relu():
    torch.manual_seed(0)
    block = From(
        residual_block,
        conv1=nn.Conv2d(2, 2, 3, padding=1),
        bn1=nn.BatchNorm2d(2),
        conv2=nn.Conv2d(2, 2, 3, padding=1),
        bn2=nn.BatchNorm2d(2),
    )
    model = nn.Sequential(block, nn.Flatten(), nn.Linear(18, 3)).eval()
    images = torch.randn(5, 2, 3, 3)
    layers = list_layers(model, images)
    names = ["conv1", "bn1", "F.relu", "conv2", "bn2", "F.add", "F.relu:2"]
    assert layers.names == ["input", *(f"0.{name}" for name in names), "0", "1", "2", "output"]
    # The block returns its last ReLU, so the default names it by the block.
    assert [row.name for row in layers if row.is_default] == ["input", "0.F.relu", "0"]
    outputs = capture(model, images, "*").outputs
    with torch.no_grad():
        bn1 = block.bn1(block.conv1(images))
        bn2 = block.bn2(block.conv2(bn1.relu()))
    for name, values in {
        "0.bn1": bn1,
        "0.F.relu": bn1.relu(),
        "0.bn2": bn2,
        "0.F.add": bn2 + images,
        "0.F.relu:2": (bn2 + images).relu(),
        "0": (bn2 + images).relu(),
    }.items():
        torch.testing.assert_close(outputs[name], values.flatten(1))


def test_identity_module_is_not_a_nonlinearity(x):
    model = From(lambda self, x: self.drop(torch.relu(x)), drop=nn.Dropout())
    assert [row.name for row in list_layers(model, x) if row.is_default] == ["input", "F.relu"]


def test_a_tuple_names_its_elements_and_its_main_tensor(x):
    model = From(
        lambda self, x: self.lstm(x.unsqueeze(1))[0].flatten(1), lstm=nn.LSTM(4, 3, batch_first=True)
    )
    outputs = capture(model, x, "lstm*").outputs
    assert list(outputs) == ["lstm", "lstm.0"]  # the states (1, n, 3) do not begin with the batch
    with torch.no_grad():
        hidden = model.lstm(x.unsqueeze(1))[0].flatten(1)
    torch.testing.assert_close(outputs["lstm"], hidden)
    torch.testing.assert_close(outputs["lstm.0"], hidden)
    with pytest.raises(
        LayerError, match=r"'lstm\.1\.0' cannot be captured: its shape \(1, 10, 3\) does not begin"
    ):
        capture(model, x, "lstm.1.0")


@dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor
    loss: torch.Tensor | None = None


@pytest.mark.parametrize("kind", [dict, OrderedDict, Answer])
def test_named_outputs_of_the_model(x, kind):
    model = From(lambda self, x: kind(hidden=x * 2, logits=self.head(x)), head=nn.Linear(4, 2))
    layers = list_layers(model, x)
    assert layers.names == ["input", "F.mul", "head", "output", "output.hidden", "output.logits"]
    assert layers.head == "head"
    outputs = capture(model, x, "output*").outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs["output"], model.head(x))
    torch.testing.assert_close(outputs["output.hidden"], x * 2)


def test_the_main_tensor_of_a_tuple_is_not_the_loss(x):
    model = From(lambda self, x: (x.mean(), x.argmax(1), x * 2))
    torch.testing.assert_close(capture(model, x, "output").outputs["output"], x * 2)
    with pytest.raises(LayerError, match=r"'output\.1' cannot be captured: it holds torch.int64 values"):
        capture(model, x, "output.1")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("convert", [lambda x: torch.nested.nested_tensor(list(x)), torch.Tensor.to_sparse])
def test_sparse_tensors_are_not_captured(x, convert):
    model = From(lambda self, x: {"odd": convert(x), "logits": x * 2})
    assert list_layers(model, x).names == ["input", "F.mul", "output", "output.logits"]
    with pytest.raises(LayerError, match=r"'output\.odd' cannot be captured: it is not a dense tensor"):
        capture(model, x, "output.odd")


def test_complex_outputs_are_not_captured(x):
    with pytest.raises(LayerError, match=r"'input' cannot be captured: it holds torch\.complex64"):
        capture(From(lambda self, x: x.real), x.to(torch.complex64), "input")


def test_no_tensor_in_the_output(x):
    model = From(lambda self, x: (torch.relu(x), None)[1])
    assert list_layers(model, x).names == ["input", "F.relu"]
    assert list_layers(model, x).head is None


@pytest.mark.parametrize("place", ["forward", "hook"])
def test_names_are_right_after_an_exception_that_the_model_catches(x, place):
    def fail(*_):
        raise ArithmeticError

    def forward(self, x):
        try:
            x = self.fragile(x)
        except ArithmeticError:
            x = torch.relu(x)
        return x

    fragile = From(fail) if place == "forward" else nn.Identity()
    if place == "hook":
        fragile.register_forward_pre_hook(fail)
    assert list_layers(From(forward, fragile=fragile), x).names == ["input", "F.relu", "output"]


def test_submodules_that_are_called_input_and_output(x):
    model = From(
        lambda self, x: self.output(torch.relu(self.input(x))), input=nn.Linear(4, 3), output=nn.Linear(3, 2)
    )
    layers = list_layers(model, x)
    assert layers.names == ["input", "input:2", "F.relu", "output"]
    assert layers.head == "output"
    assert [row.kind for row in layers][-1] == "Linear"
    scaled = From(lambda self, x: self.output(x) * 2, output=nn.Linear(4, 2))
    outputs = capture(scaled, x, "output*").outputs
    assert list(outputs) == ["output:2", "output"]
    torch.testing.assert_close(outputs["output"], outputs["output:2"] * 2)


def test_inner_layers_of_a_fused_transformer_layer_are_listed():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(4, 2))
    tokens = torch.randn(3, 5, 4)
    layers = list_layers(model, tokens)
    assert {"0.self_attn", "0.linear1", "0.F.relu", "0.F.add", "0.norm2", "0"} <= set(layers.names)
    assert [row.name for row in layers if row.is_default] == ["input", "0.F.relu"]
    outputs = capture(model, tokens, ["0.linear1", "0.F.relu", "output"]).outputs
    torch.testing.assert_close(outputs["0.F.relu"], outputs["0.linear1"].relu())
    with torch.no_grad():
        torch.testing.assert_close(outputs["output"], model.eval()(tokens).flatten(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_model_runs_without_compilation(mlp, x):
    assert list_layers(torch.compile(mlp), x) == list_layers(mlp, x)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_shows_its_input_and_output(x):
    model = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    assert list_layers(model, x).names == ["input", "output"]
    assert list_layers(nn.Sequential(model, nn.Linear(3, 2)), x).names == ["input", "1", "output"]
