"""No entry point changes the model: buffers, flags, gradients and random numbers are as before."""

import copy
from collections import Counter, deque

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import audit, capture, edit_head, list_layers, plan, probe
from layerprobe.auditing import plan_audit
from layerprobe.layerwise.outputs import Extractor

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(120) % 3


class Stateful(nn.Module):
    """Caches, counters, statistics and random numbers in the forward pass."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.head = nn.Linear(8, 3)
        self.cache, self.by_size, self.fail = None, {}, False
        self.count, self.sizes, self.by_count, self.recent = 0, [], Counter(), deque([1], maxlen=2)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("seen", torch.zeros(8), persistent=False)
        self.register_buffer("replaced", torch.zeros(1))
        self.register_buffer("scale", None)
        self.head.bias.requires_grad_(False)
        self.norm.eval()

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.linspace(0.5, 1.5, 6)
        if self.scale is None:
            self.scale = torch.full((8,), 2.0)
        self.by_size.setdefault(len(x), torch.ones(len(x), 1))
        self.calls += 1
        self.count += 1
        self.sizes.append(len(x))
        self.by_count[len(x)] += 1
        self.recent.append(len(x))
        self.last = x
        self.seen.data += x.abs().sum()
        self.replaced = self.replaced + 1
        noise = torch.rand(1)
        if self.fail:
            raise ZeroDivisionError("from forward")
        hidden = self.drop(self.norm(self.fc(x * self.cache) * self.by_size[len(x)] + 0 * noise)).relu()
        return self.head(hidden * self.scale)


def later_layer(model):
    """Return the rows of a layer that is captured when it is used, after the call."""
    outputs = Extractor(model).extract((X, Y), memory=1)
    return outputs["F.relu"]


def loader(first, last):
    return DataLoader(TensorDataset(X[first:last], Y[first:last]), batch_size=32)


ENTRIES = {
    "capture": lambda model: capture(model, (X, Y), "*", batch_size=32),
    "capture, pooled": lambda model: capture(model, (X, Y), pool="compact"),
    "list_layers": lambda model: list_layers(model, X),
    "probe": lambda model: probe(model, (X, Y), (X, Y), probes="ncm"),
    "probe, loaders": lambda model: probe(model, loader(0, 60), loader(60, 120), probes="ncm"),
    "probe, streamed": lambda model: probe(model, (X, Y), probes="ncm", memory=100_000),
    "plan": lambda model: plan(model, (X, Y)),
    "audit": lambda model: audit(
        model, (X[:60], Y[:60]), policy="noisy_holdout", holdout=(X[60:], Y[60:]), probes="ncm"
    ),
    "audit, loaders": lambda model: audit(
        model, loader(0, 60), policy="noisy_holdout", holdout=loader(60, 120), probes="ncm"
    ),
    "plan_audit": lambda model: plan_audit(
        model, (X[:60], Y[:60]), policy="noisy_holdout", holdout=(X[60:], Y[60:]), probes="ncm"
    ),
    "edit_head": lambda model: edit_head(model, (X, Y)),
    "layer by layer": later_layer,
}


def state(model):
    return {
        "buffers": [
            (name, id(buffer), None if buffer is None else buffer.tolist())
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if name != "scale"  # made by the first pass
        ],
        "parameters": [(p.tolist(), p.requires_grad, p.grad, id(p)) for p in model.parameters()],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "counters": [model.cache, model.count, [*model.sizes], dict(model.by_count), [*model.recent]],
        "training": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "random": torch.get_rng_state().tolist(),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def gradients(model):
    torch.manual_seed(1)
    nn.functional.cross_entropy(model(X[:7]), Y[:7]).backward()
    return [parameter.grad for parameter in model.parameters() if parameter.requires_grad]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Stateful()


@pytest.mark.parametrize("entry", ENTRIES)
def test_model_is_unchanged_and_can_be_trained(model, entry):
    untouched = copy.deepcopy(model)
    before = state(model)
    ENTRIES[entry](model)
    assert state(model) == before
    torch.testing.assert_close(gradients(model), gradients(untouched), rtol=0, atol=0)


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if "plan" not in entry])
def test_model_is_unchanged_after_an_exception(model, entry):
    model.fail = True
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        ENTRIES[entry](model)
    assert state(model) == before


@pytest.mark.parametrize("entry", ["capture", "list_layers", "probe", "plan", "edit_head"])
def test_lazy_layers_become_ordinary_ones(entry):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))
    before = torch.get_rng_state()
    ENTRIES[entry](model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [type(module).__name__ for module in model] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert all(module.training for module in model.modules())
    nn.functional.cross_entropy(model(X), Y).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert capture(model, X, "0").outputs["0"].shape == (120, 8)


def test_a_cache_for_one_number_of_rows(model):
    """The pass that is compared with the first batch leaves no cache behind."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head, self.state, self.past = nn.GRUCell(6, 8), nn.Linear(8, 3), None, []

        def forward(self, x):
            if self.state is None:
                self.state = torch.zeros(len(x), 8)
            self.past.append(x)
            return self.head(self.cell(torch.stack(self.past).mean(0), self.state))

    recurrent = Recurrent()
    rows = capture(recurrent, X, "cell").outputs["cell"]
    with torch.no_grad():
        torch.testing.assert_close(rows, recurrent.cell(X))
    assert not recurrent.past
