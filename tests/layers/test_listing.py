"""list_layers: a table to read, rows to work with."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe.layers import LayerRow, capture, list_layers

TABLE = """\
name        kind        shape      dimension
input       input       1 x 4 x 4         16  default
features.0  Conv2d      2 x 4 x 4         32
features.1  ReLU        2 x 4 x 4         32  default
features    Sequential  2 x 4 x 4         32
F.flatten   F.flatten   32                32
classifier  Linear      3                  3  head
output      Net         3                  3"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU())
        self.classifier = nn.Linear(32, 3)

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def test_list_prints_as_an_aligned_table():
    assert repr(list_layers(Net(), torch.zeros(2, 1, 4, 4))) == TABLE


def test_rows_are_frozen_and_the_list_is_a_sequence():
    layers = list_layers(Net(), torch.zeros(2, 1, 4, 4))
    assert layers[1] == LayerRow("features.0", "Conv2d", (2, 4, 4), 32, is_head=False, is_default=False)
    assert len(layers) == len(layers.names) == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        layers[0].name = "other"


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), "2"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1), nn.Flatten(0)), "2"),
        (nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)), "output"),
        (nn.Linear(4, 3), "output"),
        (nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Softmax(1)), None),
    ],
)
def test_head_is_the_linear_layer_that_makes_the_output(model, head):
    layers = list_layers(model, torch.zeros(5, 4))
    assert layers.head == head
    assert sum(row.is_head for row in layers) == (head is not None)


@pytest.mark.parametrize(
    ("output", "head"),
    [
        (lambda scores, value: {"logits": scores, "value": value}, "scores"),
        (lambda scores, value: {"class_logits": scores, "value": value}, "scores"),
        (lambda scores, value: {"scores": scores, "value": value}, None),
        (lambda scores, value: (scores, value), None),
        (lambda scores, value: (value.relu(), scores.squeeze(1)), "scores"),
        (lambda scores, value: (scores, scores), "scores"),
    ],
)
def test_head_of_several_outputs_is_the_one_of_the_logits(output, head):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scores, self.value = nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, x):
            return output(self.scores(x), self.value(x))  # the value is computed last

    assert list_layers(Model(), torch.zeros(5, 4)).head == head


def test_without_a_nonlinearity_every_leaf_but_the_head_is_default():
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(3, 2))
    layers = list_layers(model, torch.zeros(5, 4))
    assert [row.name for row in layers if row.is_default] == ["input", "0.0", "0.1"]


def test_a_slice_of_a_linear_output_is_not_that_layer():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(x)[:, 0]

    assert list_layers(Model(), torch.zeros(5, 2, 4)).head == "output"


def test_a_leaf_with_several_outputs_is_default_once():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    layers = list_layers(Model(), torch.zeros(5, 2, 4))
    assert [row.name for row in layers] == ["input", "lstm", "lstm.0", "lstm.1.0", "lstm.1.1", "output"]
    assert [row.name for row in layers if row.is_default] == ["input", "lstm"]


def test_list_layers_takes_all_forms_of_data_and_runs_one_batch(mlp, x):
    loader = DataLoader(TensorDataset(x, torch.zeros(10)), batch_size=4)
    assert list_layers(mlp, loader) == list_layers(mlp, (x.numpy(), ["a"] * 10)) == list_layers(mlp, [x])
    assert mlp.forwards == 6  # each time one batch, and one of fewer rows, to find the axis of the rows
    assert mlp.training


class QuickGELU(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


class NewGELU(nn.Module):
    def forward(self, x):
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class ErfGELU(nn.Module):
    def forward(self, x):
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


class Mish(nn.Module):
    def forward(self, x):
        return x * torch.tanh(nn.functional.softplus(x))


class MishInPlace(nn.Module):
    def forward(self, x):
        return nn.functional.softplus(x).tanh_().mul_(x)


class Swish(nn.Module):
    """With a child and a parameter."""

    def __init__(self):
        super().__init__()
        self.gate, self.beta = nn.Sigmoid(), nn.Parameter(torch.ones(8))

    def forward(self, x):
        return self.gate(self.beta * x) * x


class HardSwish(nn.Module):
    """A module of nested activations, as in the first MobileNetV3."""

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU6()

        def forward(self, x):
            return self.relu(x + 3) / 6

    def __init__(self):
        super().__init__()
        self.gate = self.Gate()

    def forward(self, x):
        return x * self.gate(x)


class SquaredReLU(nn.Module):
    def forward(self, x):
        return torch.square(nn.functional.relu(x))


class WhereReLU(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, x, torch.zeros_like(x))


class ClampReLU(nn.Module):
    def forward(self, x):
        return x.clamp(min=0)


class SwiGLU(nn.Module):
    def forward(self, x):
        one, gate = x.chunk(2, -1)
        return one * nn.functional.silu(gate)


class OwnFunction(nn.Module):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * torch.sigmoid(x)

    def forward(self, x):
        return self.Function.apply(x)


ACTIVATIONS = [
    *(QuickGELU, NewGELU, ErfGELU, Mish, MishInPlace, Swish, HardSwish, SquaredReLU),
    *(WhereReLU, ClampReLU, SwiGLU, OwnFunction, nn.SiLU, nn.GELU, nn.GLU, nn.Hardswish),
]


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_output_of_an_activation_module_is_default_and_its_parts_are_not(kind):
    torch.manual_seed(0)
    width = 4 if kind in (SwiGLU, nn.GLU) else 8
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(kind(), nn.Dropout()), nn.Linear(width, 2)).eval()
    x = torch.randn(6, 4)
    layers = list_layers(model, x)
    assert [row.name for row in layers if row.is_default] == ["input", "1.0"]
    with torch.no_grad():
        torch.testing.assert_close(capture(model, x).outputs["1.0"], model[:2](x))


class Gated(nn.Module):
    """A layer with weights: its gate is an activation, the module is none."""

    def __init__(self):
        super().__init__()
        self.squeeze = nn.Linear(8, 8)

    def forward(self, x):
        return x * torch.sigmoid(self.squeeze(x))


class Normalise(nn.Module):
    def forward(self, x):
        return x / x.pow(2).mean(-1, keepdim=True).sqrt()


def test_modules_that_only_contain_an_activation():
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Gated(), Normalise(), nn.Linear(8, 2))
    assert [row.name for row in list_layers(model, x) if row.is_default] == ["input", "1", "2.F.sigmoid"]
