import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import capture, edit_head
from layerprobe.editing import set_head
from layerprobe.errors import InputError
from layerprobe.networks import MLP
from layerprobe.probes import VeLPIC, create
from layerprobe.training import seeded

K = 4
GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(200) % K
X = torch.randn(200, 9, generator=GENERATOR) + 2 * torch.eye(9)[LABELS]
HELD_OUT = torch.randn(100, 9, generator=GENERATOR) + 2 * torch.eye(9)[torch.arange(100) % K]


@pytest.fixture
def model():
    with seeded(3):
        network = MLP(9, hidden=(12, 16), num_classes=K)
    network.linear1.eval()  # a flag of its own
    return network


class NoBias(nn.Module):
    """A residual network whose head has no bias, and whose last hidden layer has no name."""

    def __init__(self):
        super().__init__()
        with seeded(5):
            self.body, self.head = nn.Linear(9, 9), nn.Linear(9, K, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)) + x)


def hidden(model, x):
    return capture(model, x, "fc2").outputs["fc2"]


@pytest.mark.parametrize("probe", ["velpic", "ncm", "logistic", "lda", "ridge", "shrinkage_lda"])
def test_edited_network_predicts_as_the_probe(model, probe):
    edited = edit_head(model, (X, LABELS), probe)
    fitted = create(probe).fit(hidden(model, X), LABELS)
    assert torch.equal(edited(HELD_OUT).argmax(1), fitted.predict(hidden(model, HELD_OUT)))
    assert len(set(edited(HELD_OUT).argmax(1).tolist())) == K


@pytest.mark.parametrize("probe", ["velpic", "ncm", "ridge"])
def test_one_output_is_the_logit_of_the_second_class(probe):
    y = LABELS % 2
    with seeded(3):
        network = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 1))
    edited = edit_head(network, (X, y), probe)
    fitted = create(probe).fit(network[:2](X).detach(), y)
    predicted = fitted.predict(network[:2](HELD_OUT).detach())
    assert torch.equal((edited(HELD_OUT).squeeze(1) > 0).long(), predicted)


def test_weights_are_the_directions_and_bias_is_the_chosen_one(model):
    directions = VeLPIC().fit(hidden(model, X), LABELS).directions_
    kept, zero, own = (edit_head(model, (X, LABELS), bias=bias) for bias in ("keep", "zero", "probe"))
    assert torch.equal(kept.head.weight, directions)
    assert torch.equal(zero.head.weight, directions)
    assert torch.equal(kept.head.bias, model.head.bias)
    assert model.head.bias.any()
    assert not zero.head.bias.any()
    assert not own.head.bias.any()


def test_original_model_is_unchanged_and_shares_no_tensors(model):
    before = copy.deepcopy(model)
    flags = [module.training for module in model.modules()]
    edited = edit_head(model, (X, LABELS))
    assert [module.training for module in model.modules()] == flags
    assert [module.training for module in edited.modules()] == flags
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not any(module._forward_hooks for net in (model, edited) for module in net.modules())
    for parameter in edited.parameters():
        parameter.data.zero_()
    assert torch.equal(model(X), before(X))


def test_the_edited_network_can_be_trained(model):
    edited = edit_head(model, (X, LABELS))
    nn.functional.cross_entropy(edited(X), LABELS).backward()
    assert all(parameter.grad is not None for parameter in edited.parameters())


def test_a_head_without_bias_behind_an_unnamed_layer():
    model = NoBias()
    edited = [edit_head(model, (X, LABELS), bias=bias) for bias in ("keep", "zero", "probe")]
    rows = torch.relu(model.body(X)) + X
    expected = VeLPIC().fit(rows.detach(), LABELS).directions_
    for network in edited:
        assert network.head.bias is None
        torch.testing.assert_close(network.head.weight.detach(), expected)
    with pytest.raises(InputError, match=r"LogisticRegression has a bias and .* none"):
        edit_head(model, (X, LABELS), "logistic")
    edit_head(model, (X, LABELS), "logistic", bias="zero")


def test_network_that_is_one_linear_layer():
    edited = edit_head(nn.Linear(9, K), (X, LABELS))
    assert torch.equal(edited.weight, VeLPIC().fit(X, LABELS).directions_)


def test_shared_weights_of_the_head_are_untied(model):
    model.twin = nn.Identity()
    model.twin.weight = model.head.weight
    edited = edit_head(model, (X, LABELS))
    assert torch.equal(edited.twin.weight, model.head.weight)
    assert not torch.equal(edited.head.weight, model.head.weight)


def test_batches_of_every_form_give_the_same_edit(model):
    whole = edit_head(model, (X, LABELS))
    loader = DataLoader(TensorDataset(X, LABELS), batch_size=50)
    batches = [(X[i : i + 50], LABELS[i : i + 50]) for i in range(0, 200, 50)]
    for train in (loader, iter(loader), iter(batches), (X.numpy(), LABELS.numpy())):
        torch.testing.assert_close(edit_head(model, train).head.weight, whole.head.weight)


def test_half_precision_stays_half(model):
    edited = edit_head(model.bfloat16(), (X, LABELS))
    assert edited.head.weight.dtype == torch.bfloat16
    assert (edited(HELD_OUT.bfloat16()).argmax(1) == torch.arange(100) % K).float().mean() > 0.5


class TwoHeads(nn.Module):
    """A network of two linear outputs: the scores of the classes, under a name, and one auxiliary number."""

    def __init__(self, name, scale=None):
        super().__init__()
        self.name, self.scale = name, scale
        with seeded(5):
            self.body, self.scores, self.value = nn.Linear(9, 9), nn.Linear(9, K), nn.Linear(9, 1)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        scores = self.scores(hidden)
        scores = scores if self.scale is None else scores / self.scale
        return {self.name: scores, "value": self.value(hidden)}


def test_the_head_of_several_outputs_is_that_of_the_logits():
    network = TwoHeads("logits")
    edited = edit_head(network, (X, LABELS))
    rows, held_out = (capture(network, x, "F.relu").outputs["F.relu"] for x in (X, HELD_OUT))
    predicted = VeLPIC().fit(rows, LABELS).predict(held_out)
    assert torch.equal(edited(HELD_OUT)["logits"].argmax(1), predicted)
    assert torch.equal(edited.value.weight, network.value.weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: edit_head(TwoHeads("main"), (X, LABELS)), "its output is not that of one layer"),
        (lambda m: edit_head(TwoHeads("logits", 2), (X, LABELS)), "expected a network whose output"),
        (lambda m: edit_head(m, (X, LABELS + 1)), r"labels 0\.\.3.*got 1, 2, 3, 4"),
        (lambda m: edit_head(m, (X, LABELS - 1)), r"labels 0\.\.3.*got -1"),
        (lambda m: edit_head(m, (X, LABELS.double())), r"labels 0\.\.3"),
        (lambda m: edit_head(m, (X, np.array(["a"] * 200))), r"labels 0\.\.3"),
        (lambda m: edit_head(m, (X[LABELS > 1], LABELS[LABELS > 1])), "none is of class 0, 1"),
        (lambda m: edit_head(m, X), "no labels"),
        (lambda m: edit_head(m, iter([])), "got none"),
        (lambda m: edit_head(m, (X, LABELS), "masc"), "velpic, .*; got 'masc'"),
        (lambda m: edit_head(m, (X, LABELS), "svm"), "There is no probe 'svm'"),
        (lambda m: edit_head(m, (X, LABELS), bias="none"), "bias must be .* got 'none'"),
        (
            lambda m: edit_head(nn.Sequential(m, nn.Softmax(1)), (X, LABELS)),
            "that of one nn.Linear.*'output'",
        ),
        (lambda m: edit_head(nn.Unflatten(1, (3, 3)), (X, LABELS)), "that of one nn.Linear"),
        (
            lambda m: edit_head(nn.Sequential(nn.Unflatten(1, (3, 3)), nn.Linear(3, 2)), (X, LABELS)),
            "that of one nn.Linear",
        ),
        (
            lambda m: edit_head(nn.utils.parametrizations.weight_norm(nn.Linear(9, K)), (X, LABELS)),
            "parametrisation",
        ),
        (lambda m: set_head(m.head, VeLPIC().fit(X, LABELS)), r"\(4, 16\).*VeLPIC has \(4, 9\)"),
    ],
)
def test_networks_that_cannot_be_edited_raise_clear_errors(model, make, message):
    with pytest.raises(InputError, match=message):
        make(model)
