"""Layer outputs of rows, averaged over views and view by view."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from layerprobe import audit, capture
from layerprobe.auditing.arrays import check_matrix
from layerprobe.auditing.dataset.labelled import read_rows
from layerprobe.auditing.features import NetworkReader
from layerprobe.errors import InputError, LayerError
from layerprobe.layers.views import resolve_views
from layerprobe.networks import CNN, MLP

N = 23
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 1, 8, 8, generator=GENERATOR)
Y = np.arange(N) % 3
ROWS = read_rows(X, Y)
ORDER = np.lexsort((Y, ROWS.fingerprints()))
VIEWS = {"mirror": lambda x: x.flip(-1), "darker": lambda x: x / 2}


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return MLP(64, (6, 5), 3)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_probed_layers_and_logits_are_read(mlp):
    read = NetworkReader(mlp).read(ROWS)
    assert {layer: outputs.shape for layer, outputs in read.own.items()} == {
        "input": (N, 64),
        "fc1": (N, 6),
        "fc2": (N, 5),
    }
    assert read.mean is read.own
    close(read.logits, mlp(X).detach())
    close(read.probabilities, mlp(X).softmax(1).detach())


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_outputs_follow_the_sorted_rows(mlp, batch_size):
    read = NetworkReader(mlp, batch_size=batch_size).read(ROWS, ORDER)
    close(read.logits, mlp(X[ORDER]).detach())
    close(read.own["input"], X[ORDER].flatten(1))


def test_an_indexed_loader_may_come_in_any_order(mlp):
    data = TensorDataset(X, torch.from_numpy(Y), torch.arange(N))
    shuffled = read_rows(DataLoader(data, batch_size=5, shuffle=True))
    close(
        NetworkReader(mlp).read(shuffled, ORDER).logits,
        NetworkReader(mlp).read(ROWS, ORDER).logits,
    )


def test_views_are_averaged_and_kept_one_by_one(mlp):
    keep = np.array([0, 3, 22])
    read = NetworkReader(mlp, views=VIEWS).read(ROWS, ORDER, keep)
    seen = [X[ORDER], X[ORDER].flip(-1), X[ORDER] / 2]
    outputs = [capture(mlp, x, ["fc1", "output"]).outputs for x in seen]
    close(read.own["fc1"], outputs[0]["fc1"])
    close(read.mean["fc1"], sum(each["fc1"] for each in outputs) / 3)
    close(read.probabilities, sum(each["output"].softmax(1) for each in outputs) / 3)
    close(read.logits, outputs[0]["output"])
    assert list(read.views) == ["mirror", "darker"]
    for each, name in zip(outputs[1:], read.views, strict=True):
        close(read.views[name].own["fc1"], each["fc1"][keep])
        close(read.views[name].logits, each["output"][keep])
    assert read.kept.tolist() == keep.tolist()


def test_network_does_not_change(mlp):
    mlp.train()
    mlp.fc1.eval()
    before = copy.deepcopy(mlp.state_dict())
    NetworkReader(mlp, views=VIEWS).read(ROWS)
    NetworkReader(mlp).dimensions(X)
    assert [module.training for module in mlp.modules()] == [
        module is not mlp.fc1 for module in mlp.modules()
    ]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in mlp.modules())
    assert all(torch.equal(value, before[key]) for key, value in mlp.state_dict().items())


def test_dimensions_match_the_outputs(mlp):
    for model in (mlp, CNN(1, 8, num_classes=3)):
        dimensions, heads = NetworkReader(model).dimensions(X)
        assert heads == {"": 3}
        read = NetworkReader(model).read(ROWS)
        assert dimensions == {layer: values.shape[1] for layer, values in read.own.items()}


def test_layers_are_selected_by_pattern_and_read_by_name(mlp):
    selected = NetworkReader(mlp, layers="linear*").read(ROWS)
    assert list(selected.own) == ["linear1", "linear2"]
    again = NetworkReader(mlp, layers="linear*").read(ROWS, layers=["linear2"])
    close(again.own["linear2"], selected.own["linear2"])
    mlp.probed_layers = {"input": "input", "last": "fc2"}
    named = NetworkReader(mlp).read(ROWS)
    again = NetworkReader(mlp).read(ROWS, layers=["last"])
    assert list(again.own) == ["last"]
    close(again.own["last"], named.own["last"])
    assert list(NetworkReader(mlp, layers=[...]).dimensions(X)[0]) == ["input", "fc1", "fc2"]


class Maps(nn.Module):
    """Feature maps (n, 3, 40, 40), tokens (n, t, 4) with a mask, and a head."""

    def __init__(self):
        super().__init__()
        self.maps, self.tokens, self.head = nn.ReLU(), nn.GELU(), nn.Linear(4, 2)

    def forward(self, x, attention_mask=None):
        maps = x[:, :1, None, None].expand(-1, 3, 40, 40) * torch.arange(40.0)
        self.maps(nn.functional.conv2d(maps, torch.eye(3)[..., None, None]))
        return self.head(self.tokens(x[..., None].expand(-1, -1, 4)).mean(1))


def test_large_maps_are_averaged_over_positions_and_tokens_over_the_text():
    x = torch.randn(N, 6, generator=GENERATOR)
    read = NetworkReader(Maps()).read(read_rows(x, Y))
    assert read.own["maps"].shape == (N, 3 * 18 * 18)  # the most below 1,024
    assert float(read.own["maps"].mean()) == pytest.approx(float(x[:, 0].relu().mean()) * 19.5, rel=0.05)
    close(read.own["tokens"], nn.functional.gelu(x).mean(1)[:, None].expand(-1, 4))
    close(
        NetworkReader(Maps(), pool={"tokens": "first"}).read(read_rows(x, Y)).own["tokens"][:, 0],
        nn.functional.gelu(x[:, 0]),
    )
    assert NetworkReader(Maps(), pool="max").read(read_rows(x, Y)).own["maps"].shape == (N, 3)


def test_masked_tokens_are_left_out():
    x, mask = torch.randn(N, 6, generator=GENERATOR), torch.ones(N, 6, dtype=torch.int64)
    mask[:, 2:] = 0
    rows = read_rows({"x": x, "attention_mask": mask, "labels": Y})
    close(NetworkReader(Maps()).read(rows).own["tokens"][:, 0], nn.functional.gelu(x[:, :2]).mean(1))


class Puts(nn.Module):
    """A layer, and an output made of it."""

    def __init__(self, output):
        super().__init__()
        self.layer, self.output = nn.ReLU(), output

    def forward(self, x):
        return self.output(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    "output",
    [
        lambda h: h.reshape(len(h), 8, 8),
        lambda h: h.sum(),
        lambda h: "nothing",
        lambda h: None,
    ],
    ids=["maps", "number", "text", "None"],
)
def test_a_network_without_a_head(output):
    with pytest.raises(InputError, match="no classification head"):
        NetworkReader(Puts(output)).dimensions(X)


def test_logits_in_a_dict_are_a_head():
    heads = NetworkReader(Puts(lambda h: {"loss": h.sum(), "logits": h[:, :3]})).dimensions(X)[1]
    assert heads == {".logits": 3}


@pytest.mark.parametrize("layers", [[], ["output"]])
def test_no_layer_besides_the_output(mlp, layers):
    with pytest.raises(InputError, match="at least one layer"):
        NetworkReader(mlp, layers).dimensions(X)


def test_a_layer_that_is_not_there(mlp):
    with pytest.raises(LayerError, match="no layer matches 'fc9'"):
        NetworkReader(mlp, ["fc9"]).dimensions(X)


def test_nan_logits_are_refused():
    def diverged(h):
        return torch.where(h[:, :1] > 0, h[:, :3], torch.nan)

    wrong = int((X.flatten(1)[:, 0] <= 0).sum())
    with pytest.raises(InputError, match=f"NaN for {wrong} of {N} rows"):
        NetworkReader(Puts(diverged)).read(ROWS)


def test_features_must_be_finite_matrices():
    assert check_matrix(np.ones((2, 3)), "features", 3).dtype == torch.float32
    for values, message in (
        (np.ones((2, 4)), r"features of shape \(n, 3\), got \(2, 4\)"),
        (np.ones(3), r"got \(3,\)"),
        (np.ones((0, 3)), r"got \(0, 3\)"),
        (np.full((2, 3), np.nan), "features contain NaN or infinity, first in row 0"),
        ("more", "features as numbers"),
    ):
        with pytest.raises(InputError, match=message):
            check_matrix(values, "features", 3)


ROWS6, LABELS = torch.randn(60, 6, generator=GENERATOR), torch.arange(60) % 3


def test_pooling_may_name_layers_that_are_not_read():
    reader = NetworkReader(MLP(6, hidden=(5, 4), num_classes=3), pool={"fc1": "mean", "*": None})
    rows = read_rows(ROWS6, LABELS)
    every, one = reader.read(rows).mean, reader.read(rows, layers=["fc2"]).mean
    assert list(one) == ["fc2"]
    assert torch.equal(one["fc2"], every["fc2"])


def test_layers_iterator_and_array_of_class_names():
    model = MLP(6, hidden=(5,), num_classes=3)
    held = torch.randn(30, 6, generator=GENERATOR), LABELS[:30]
    found = audit(
        model,
        (ROWS6, LABELS),
        policy="noisy_holdout",
        holdout=held,
        layers=(name for name in ["input", "fc1"]),  # used up after one pass
        class_names=np.array(["a", "b", "c"]),
        probes="ncm",
        controls=False,
    )
    assert sorted(found.layers["layer"]) == ["fc1", "input"]
    assert found.classes.tolist() == ["a", "b", "c"]
    assert found.predict(ROWS6).shape == (60,)


def test_probabilities_are_averaged_over_views():
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = MLP(64, hidden=(16,)).eval()
    read = NetworkReader(model, layers=["output"], views=resolve_views("flip")).read(
        read_rows((x, torch.arange(8)))
    )
    with torch.inference_mode():
        expected = (model(x).softmax(1) + model(x.flip(-1)).softmax(1)) / 2
    assert torch.allclose(read.probabilities, expected, atol=1e-6)
