"""Which tensors of a forward pass are layers, what they are called, and that each holds its own value."""

import copy
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from layerprobe.errors import LayerError, LayerprobeWarning
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


def test_product_of_two_vectors_has_no_dimensions(x):
    def forward(self, x):
        scale = self.norm(torch.ones(5))
        return self.fc(x) + scale @ scale

    model = From(forward, fc=nn.Linear(4, 5), norm=nn.LayerNorm(5))
    assert list_layers(model, x).names == ["input", "fc", "F.add", "output"]


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
    lstm = nn.LSTM(4, 3, num_layers=2, batch_first=True)
    model = From(lambda self, x: self.lstm(x.unsqueeze(1))[0].flatten(1), lstm=lstm)
    outputs = capture(model, x, "lstm*").outputs
    assert list(outputs) == ["lstm", "lstm.0", "lstm.1.0", "lstm.1.1"]
    with torch.no_grad():
        hidden, (h, c) = lstm(x.unsqueeze(1))
    torch.testing.assert_close(outputs["lstm"], hidden.flatten(1))
    torch.testing.assert_close(outputs["lstm.0"], hidden.flatten(1))
    torch.testing.assert_close(outputs["lstm.1.0"], h.transpose(0, 1).flatten(1))  # (layers, n, 3)
    torch.testing.assert_close(outputs["lstm.1.1"], c.transpose(0, 1).flatten(1))


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


Pair = namedtuple("Pair", "embedding logits")


@pytest.mark.parametrize(
    "make",
    [
        lambda hidden, logits: Pair(hidden, logits),
        lambda hidden, logits: type("Result", (), {"embedding": hidden, "logits": logits})(),
        lambda hidden, logits: SimpleNamespace(embedding=hidden, logits=logits, note="text", loss=None),
        lambda hidden, logits: [{"embedding": h, "logits": o} for h, o in zip(hidden, logits, strict=True)],
        lambda hidden, logits: tuple(Pair(h, o) for h, o in zip(hidden, logits, strict=True)),
    ],
    ids=["namedtuple", "class", "object", "list of dicts", "tuple of namedtuples"],
)
@pytest.mark.parametrize("size", [3, 4, 10])
def test_fields_of_any_output_are_named(x, make, size):
    model = From(lambda self, x: make(x * 2, self.head(x)), head=nn.Linear(4, 2))
    outputs = capture(model, x, "output*", batch_size=size).outputs
    assert list(outputs) == ["output", "output.embedding", "output.logits"]
    with torch.no_grad():
        torch.testing.assert_close(outputs["output"], model.head(x))
    torch.testing.assert_close(outputs["output.embedding"], x * 2)


def test_records_per_row_of_different_sizes(x):
    def forward(self, x):
        return [{"boxes": x[: 1 + i % 2], "scores": row} for i, row in enumerate(self.head(x))]

    model = From(forward, head=nn.Linear(4, 2))
    outputs = capture(model, x, "output.scores").outputs
    torch.testing.assert_close(outputs["output.scores"], model.head(x).detach())
    with pytest.raises(LayerError, match=r"'output\.boxes' cannot be captured: no dimension of its shape"):
        capture(model, x, "output.boxes")


@pytest.mark.parametrize("size", [3, 4, 5])
def test_a_list_of_outputs_is_no_list_of_rows(x, size):
    model = From(lambda self, x: [x, x * 2, x * 3, x * 4])
    outputs = capture(model, x[: 3 * size], "output.*", batch_size=size).outputs
    torch.testing.assert_close(outputs["output.2"], x[: 3 * size] * 3)


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


def compiled(kind):
    """Return an MLP that is compiled in one of the ways, its plain twin, and the names of two layers."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    model, prefix = copy.deepcopy(plain), ""
    if kind == "compile(model)":
        model = torch.compile(model, backend="eager")
    elif kind == "model.compile":
        model.compile(backend="eager")
    elif kind == "forward":
        model.forward = torch.compile(model.forward, backend="eager")
    else:
        body, prefix = model, "body."
        if kind == "compile(submodule)":
            body = torch.compile(body, backend="eager")
        elif kind == "submodule.compile":
            body.compile(backend="eager")
        elif kind == "submodule.forward":
            body.forward = torch.compile(body.forward, backend="eager")
        model = From(lambda self, x: self.body(x), body=body)
    return model, plain, prefix


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize(
    "kind",
    [
        "compile(model)",
        "model.compile",
        "forward",
        "compile(submodule)",
        "submodule.compile",
        "submodule.forward",
    ],
)
def test_a_compiled_model_runs_eagerly_and_has_the_layers_of_the_plain_one(x, kind, called):
    model, plain, prefix = compiled(kind)
    if called:
        model(x)
    frames = torch._dynamo.utils.counters["frames"]["total"]
    expected = [f"{prefix}{place}" for place in range(5)] + [prefix[:-1]] * bool(prefix)
    assert list_layers(model, x).names == ["input", *expected, "output"]
    outputs = capture(model, x, [f"{prefix}1", f"{prefix}3", "output"]).outputs
    assert torch._dynamo.utils.counters["frames"]["total"] == frames  # nothing was compiled
    with torch.no_grad():
        torch.testing.assert_close(outputs[f"{prefix}1"], plain[:2](x))
        torch.testing.assert_close(outputs[f"{prefix}3"], plain[:4](x))
        torch.testing.assert_close(outputs["output"], plain(x))
        torch.testing.assert_close(model(x), plain(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_of_compiled_modules_may_contain_their_wrapper(x):
    model, plain, _ = compiled("compile(submodule)")
    outputs = capture(model, x, "body._orig_mod.1").outputs
    torch.testing.assert_close(outputs["body.1"], plain[:2](x).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "convert", [torch.jit.script, lambda model: torch.jit.trace(model, torch.zeros(2, 4))]
)
def test_scripted_model_has_input_and_output_only_with_the_reason(x, convert):
    model = convert(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    with pytest.warns(LayerprobeWarning, match="the network is a module of torch.jit, whose inner layers"):
        assert list_layers(model, x).names == ["input", "output"]
    outer = nn.Sequential(model, nn.Linear(3, 2))
    with pytest.warns(LayerprobeWarning, match="layer '0' is a module of torch.jit"):
        assert list_layers(outer, x).names == ["input", "1", "output"]
    with pytest.raises(LayerError, match=r"no layer matches '0\.1'.*layer '0' is a module of torch.jit"):
        capture(outer, x, "0.1")
    torch.testing.assert_close(capture(model, x, "output").outputs["output"], model(x).detach())
