"""Baselines of an audit."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from auditing.planted import clusters
from layerprobe.auditing.features import Features
from layerprobe.auditing.method.policies import (
    early_stopping,
    held_out_set,
    measure_baselines,
    untrained_copy,
)
from layerprobe.errors import InputError
from layerprobe.networks import CNN, ResNet18
from layerprobe.probes import Ridge

X, Y = clusters(60)
H, HY = clusters(30, seed=1)


def held_out(logits=None, averaged=None):
    held = Features({"fc": H}, {"fc": H.clone()}, logits, averaged)
    return held_out_set(Features({"fc": X}, {"fc": X}), held, HY, clean=False)


def test_head_averaged_head_and_input_baselines():
    right = nn.functional.one_hot(HY, 3).float()
    wrong = right.roll(1, 1)
    half = torch.where(torch.arange(30)[:, None] < 15, right, wrong)
    found = measure_baselines(held_out(half, right), Y, input_correct=torch.arange(30) < 3)
    names = ["head", "head, averaged over views", "raw input", "most frequent label"]
    assert [control.name for control in found] == names
    frequent = float((Y.bincount().argmax() == HY).double().mean())
    assert [control.criterion.value for control in found] == pytest.approx([0.5, 1.0, 0.1, frequent])
    assert found[0].correct.tolist() == [1.0] * 15 + [0.0] * 15
    assert all(low <= value <= high for value, low, high in (control.criterion for control in found))
    assert [control.name for control in measure_baselines(held_out(), Y)] == ["most frequent label"]
    views = replace(held_out(half, right), of_training_rows=True)
    assert [control.comparable for control in measure_baselines(views, Y)] == [True, False, True]


def test_untrained_baseline_is_the_best_ridge():
    control = measure_baselines(held_out(), Y, untrained=held_out())[-1]
    best = max(Ridge(strength).fit(X, Y).score(H, HY) for strength in (1e-3, 1e-2, 0.1, 1, 10, 100))
    assert control.name == "untrained copy"
    assert control.criterion.value >= best - 1e-6
    assert control.correct.mean() == pytest.approx(control.criterion.value)


@pytest.mark.parametrize(("clean", "of_training_rows"), [(False, False), (True, False), (False, True)])
def test_history_is_compared_only_on_a_noisy_holdout(clean, of_training_rows):
    rows = replace(held_out(), clean=clean, of_training_rows=of_training_rows)
    control = measure_baselines(rows, Y, history=[0.2, 0.6])[-1]
    assert control.name == "early stopping"
    assert control.comparable is not (clean or of_training_rows)


class Odd(nn.Module):
    """Parameters that no module draws: of its own, of a child that is never asked, parametrised ones."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.child = nn.Module()
        self.child.table = nn.Parameter(torch.randn(5))
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))

    def reset_parameters(self):
        nn.init.normal_(self.token)


NETWORKS = {
    "cnn": lambda: CNN(1, 8),
    "resnet": lambda: ResNet18(num_classes=3),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
    "recurrent": lambda: nn.Sequential(nn.Embedding(5, 3), nn.GRU(3, 4), nn.Bilinear(2, 2, 2)),
    "odd": Odd,
}


def learnt(model, seed=0):
    """The model after it has learnt something, statistics of batch normalisation included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(1.5)
    return model


@pytest.mark.parametrize("network", NETWORKS)
def test_untrained_copy_has_new_weights(network):
    model = learnt(NETWORKS[network]()).train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fresh = untrained_copy(model, seed=0)
    own = dict(model.named_parameters())
    for name, parameter in fresh.named_parameters():
        assert parameter.shape == own[name].shape
        assert not torch.equal(parameter, own[name]), name
        assert parameter.data_ptr() != own[name].data_ptr()
    for name, buffer in fresh.named_buffers():
        if "running" in name:
            assert not torch.equal(buffer, before[name]), name
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_untrained_copy_depends_only_on_the_seed():
    model = learnt(CNN(1, 8))
    first, again, other = (untrained_copy(model, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["linear1.weight"], other["linear1.weight"])


def test_untrained_copy_uses_reset_parameters():
    fresh = untrained_copy(learnt(nn.Sequential(nn.Linear(400, 30), nn.LayerNorm(30))), seed=0)
    assert 0.9 * 400**-0.5 < fresh[0].weight.abs().max() <= 400**-0.5
    assert torch.equal(fresh[1].weight, torch.ones(30))


def test_shared_weights_stay_shared():
    model = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    model[1].weight = model[0].weight
    fresh = untrained_copy(learnt(model), seed=0)
    assert fresh[1].weight is fresh[0].weight


def test_early_stopping_is_the_best_epoch():
    control = early_stopping([0.2, 0.6, 0.5], rows=100)
    assert control.name == "early stopping"
    assert control.criterion.value == 0.6
    assert control.criterion.low == pytest.approx(0.6 - 1.96 * (0.24 / 100) ** 0.5)
    assert control.correct is None
    assert early_stopping([1.0], rows=4).criterion.high == 1


@pytest.mark.parametrize("history", [[], [0.5, 61.0], [-0.1], [float("nan")]])
def test_invalid_history_is_refused(history):
    with pytest.raises(InputError, match="accuracy on the noisy hold-out"):
        early_stopping(history, 10)
