"""Which outputs have rows, and in which dimension, is decided by two numbers of rows, not by chance."""

import numpy as np
import pytest
import torch
from torch import nn

from layerprobe import audit, capture, list_layers, plan, probe
from layerprobe.errors import InputError, LayerError, LayerprobeWarning
from layerprobe.layers.batches import read_batches
from layerprobe.layers.tracing import Tracer

N, WIDTH = 24, 4


class TimeFirst(nn.Module):
    """x (n, t, 4); the layers run with time first."""

    def __init__(self, kind):
        super().__init__()
        self.attention = kind is nn.MultiheadAttention
        self.body = kind(WIDTH, 2) if self.attention else kind(WIDTH, 6)
        self.wide, self.act, self.head = nn.Linear(4 if self.attention else 6, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x):
        z = x.transpose(0, 1)
        z = self.body(z, z, z)[0] if self.attention else self.body(z)[0]
        return self.head(self.act(self.wide(z)).mean(0))


KINDS = [nn.RNN, nn.GRU, nn.LSTM, nn.MultiheadAttention]


def by_hand(model, x):
    """Return the outputs of the layers with rows first, in float64."""
    model, x = model.double().eval(), x.double()
    with torch.no_grad():
        z = x.transpose(0, 1)
        body = model.body(z, z, z)[0] if model.attention else model.body(z)[0]
        act = model.wide(body).relu()
    model.float()
    return {"body": body.transpose(0, 1).flatten(1), "act": act.transpose(0, 1).flatten(1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "t", "size"), [(24, 6, 8), (24, 8, 8), (30, 6, 8), (25, 8, 8), (9, 1, 4), (7, 2, 2)]
)
def test_layers_with_time_first(kind, n, t, size):
    torch.manual_seed(0)
    model, x = TimeFirst(kind), torch.randn(n, t, WIDTH)
    expected = by_hand(model, x)
    outputs = capture(model, x, ["body", "act"], batch_size=size).outputs
    for name, rows in expected.items():
        torch.testing.assert_close(outputs[name], rows.float(), rtol=1e-4, atol=1e-5)
    assert list(capture(model, x, batch_size=size).outputs) == ["input", "act"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [2, 5, 8])
def test_all_entry_points_have_the_same_layers(kind, t):
    torch.manual_seed(0)
    model, x, y = TimeFirst(kind), torch.randn(50, t, WIDTH), torch.arange(50) % 3
    default = {row.name: row.dimension for row in list_layers(model, x[:8]) if row.is_default}
    assert default == {"input": 4 * t, "act": 8 * t}
    captured = capture(model, x, batch_size=8).outputs
    assert {name: rows.shape[1] for name, rows in captured.items()} == default
    compact = capture(model, x, pool="compact", batch_size=8).outputs
    dims = {name: rows.shape[1] for name, rows in compact.items()}
    assert dims == {"input": 4, "act": 8}
    assert {layer.name: layer.dim for layer in plan(model, (x, y)).layers} == dims
    table = probe(model, (x, y), probes="ncm", batch_size=8)
    assert set(table["layer"]) == {*default, "output"}


def test_the_audit_has_the_same_layers():
    torch.manual_seed(0)
    model, x, y = TimeFirst(nn.GRU), torch.randn(100, 8, WIDTH), torch.arange(100) % 3
    found = audit(
        model, (x[:50], y[:50]), policy="noisy_holdout", holdout=(x[50:], y[50:]), probes="ncm", batch_size=8
    )
    assert set(found.layers["layer"]) == {"input", "act"}


class Tables(nn.Module):
    """Outputs without rows: a computed weight, a table of positions, a mask."""

    def __init__(self, t):
        super().__init__()
        self.t = t
        self.fc = nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, t))
        self.positions, self.head = nn.Embedding(t, t), nn.Linear(t, 3)

    def forward(self, x):
        positions = self.positions(torch.arange(self.t))
        mask = torch.relu(torch.ones(self.t, self.t).tril().add(0.0))
        return self.head(torch.tanh(self.fc(x)) + (positions * mask).sum(0))


@pytest.mark.parametrize("size", [4, 6, 8, 9])
@pytest.mark.parametrize("t", [4, 6, 8, 9])
def test_weights_tables_and_masks_are_no_layers(t, size):
    model, x = Tables(t), torch.randn(3 * size + 1, WIDTH)
    names = list_layers(model, x[:size]).names
    assert {"fc", "F.tanh", "head"} <= set(names)
    assert not {"positions", "F.relu", "F.mul", "fc.parametrizations.weight"} & set(names)
    assert list(capture(model, x, batch_size=size).outputs) == ["input", "F.tanh"]
    with pytest.raises(
        LayerError, match=r"'positions' cannot be captured: no dimension of its shape .* follows"
    ):
        capture(model, x, "positions", batch_size=size)


def test_two_dimensions_that_follow_the_rows():
    class Similarity(nn.Module):
        def forward(self, x):
            return torch.relu(x @ x.T)

    x = torch.randn(12, WIDTH)
    assert list(capture(Similarity(), x, batch_size=4).outputs) == ["input"]
    with pytest.raises(LayerError, match="several dimensions of its shape"):
        capture(Similarity(), x, "F.relu", batch_size=4)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("extra", [0, 1])
def test_any_batch_size_and_a_last_batch_of_one_row(size, extra):
    torch.manual_seed(0)
    model = TimeFirst(nn.GRU)
    x = torch.randn(4 * size + extra, 5, WIDTH)
    rows = capture(model, x, "act", batch_size=size).outputs["act"]
    torch.testing.assert_close(rows, by_hand(model, x)["act"].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [5, 9])
def test_a_model_that_squeezes_a_single_row(n):
    class Squeezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(WIDTH, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(torch.relu(self.fc(x)).squeeze())

    model, x = Squeezes(), torch.randn(n, 1, WIDTH)
    outputs = capture(model, x, ["F.relu", "output"], batch_size=4).outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs["output"], model(x))
    assert outputs["F.relu"].shape == (n, 6)


@pytest.mark.parametrize("t", [5, 6, 8])
def test_a_mask_that_is_no_data(t):
    """A square mask beside the rows is not cut, also if it has as many rows as the batch."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = (
                nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True),
                nn.Linear(WIDTH, 3),
            )

        def forward(self, x, mask):
            return self.head(self.block(x, src_mask=mask)[:, -1])

    torch.manual_seed(0)
    model, x = Masked(), torch.randn(12, t, WIDTH)
    mask = nn.Transformer.generate_square_subsequent_mask(t)
    batches = [{"x": x[start : start + 6], "mask": mask} for start in (0, 6)]
    rows = capture(model, batches, "block").outputs["block"]
    with torch.no_grad():
        torch.testing.assert_close(
            rows, model.eval().block(x, src_mask=mask).flatten(1), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("size", [4, 6])
def test_a_matrix_that_all_rows_share(size):
    """An adjacency matrix is not cut, also if it has as many nodes as the batch has rows."""

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = nn.Linear(5, 3), nn.ReLU()

        def forward(self, x, adjacency):
            return self.act(self.fc(adjacency @ x)).mean(1)

    torch.manual_seed(0)
    model, x, adjacency = Graph(), torch.randn(12, 4, 5), torch.rand(4, 4)
    batches = [{"x": x[i : i + size], "adjacency": adjacency} for i in range(0, 12, size)]
    outputs = capture(model, batches, ["act", "output"]).outputs
    with torch.no_grad():
        act = model.fc(adjacency @ x).relu()
    torch.testing.assert_close(outputs["act"], act.flatten(1))
    torch.testing.assert_close(outputs["output"], act.mean(1))


def test_a_square_input_of_rows():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 3), nn.Linear(4, 3)

        def forward(self, x, other):
            return self.a(x), self.b(other)

    torch.manual_seed(0)
    model, x, other = Two(), torch.randn(8, 5), torch.randn(8, 4)
    batches = [{"x": x[i : i + 4], "other": other[i : i + 4]} for i in (0, 4)]
    outputs = capture(model, batches, ["a", "b"]).outputs
    torch.testing.assert_close(outputs["a"], model.a(x).detach())
    torch.testing.assert_close(outputs["b"], model.b(other).detach())


def test_a_model_of_one_batch_size_falls_back_to_the_first_dimension():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(WIDTH, 3)

        def forward(self, x):
            return torch.relu(self.fc(x.view(8, WIDTH)))

    model, x = Fixed(), torch.randn(24, WIDTH)
    with pytest.warns(
        LayerprobeWarning, match=r"cannot be run with 7 rows in the place of 8 .*view.* invalid|shape"
    ):
        rows = capture(model, x, "fc", batch_size=8).outputs["fc"]
    torch.testing.assert_close(rows, model.fc(x).detach())


@pytest.mark.parametrize("first", ["h", "c"])
@pytest.mark.parametrize("t", [2, 4, 6])
def test_last_states_of_recurrent_layers(first, t):
    torch.manual_seed(0)
    lstm = nn.LSTM(WIDTH, 5, num_layers=2, bidirectional=True)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = lstm, nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.rnn(x.transpose(0, 1))[1][0][-1])

    x = torch.randn(14, t, WIDTH)
    with torch.no_grad():
        states = lstm(x.transpose(0, 1))[1]
    name, state = ("rnn.1.0", states[0]) if first == "h" else ("rnn.1.1", states[1])
    rows = capture(Model(), x, name, batch_size=4).outputs[name]
    torch.testing.assert_close(rows, state.transpose(0, 1).flatten(1), rtol=1e-4, atol=1e-5)


class Graph(nn.Module):
    """Features of all nodes, and their adjacency."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x, adjacency):
        return self.head((adjacency @ self.inner(x)).relu())


def test_a_graph_is_one_batch_of_all_nodes():
    x, adjacency, y = torch.randn(30, 5), torch.rand(30, 30), torch.arange(30) % 3
    graph = Graph()
    with pytest.warns(match="cannot be run with 29 rows"):
        rows = capture(graph, ((x, adjacency), y), ["F.relu"]).outputs["F.relu"]
    with torch.no_grad():
        torch.testing.assert_close(rows, (adjacency @ graph.inner(x)).relu())
    with pytest.warns(match="cannot be run with 29 rows"):
        assert set(probe(graph, ((x, adjacency), y), probes="ncm")["layer"]) == {"input", "F.relu", "output"}
    for use in (
        lambda: capture(graph, ((x, adjacency), y), batch_size=16),
        lambda: probe(graph, {"x": x, "adjacency": adjacency, "labels": y}, probes="ncm", batch_size=16),
        lambda: audit(graph, ((x, adjacency), y), policy="noisy_holdout", holdout=((x, adjacency), y)),
    ):
        with pytest.raises(InputError, match="a matrix of pairs of rows"):
            use()


class Shared(nn.Module):
    """A matrix (6, 6) that all rows share, or rows (b, 6)."""

    def __init__(self, shared):
        super().__init__()
        self.shared, self.head = shared, nn.Linear(6, 3)

    def forward(self, x, m):
        return self.head((x @ m if self.shared else x * m).relu())


@pytest.mark.parametrize("shared", [False, True])
def test_processes_cut_a_square_input_only_if_it_has_rows(shared):
    x, m = torch.randn(6, 6), torch.rand(6, 6)
    (batch,) = read_batches([((x[:, :], m), torch.arange(6))], 6)
    squares = Tracer(Shared(shared)).cuts_squares(batch)
    assert squares is not shared
    part = batch.take(np.array([1, 4]), squares=squares).inputs
    torch.testing.assert_close(part[0], x[[1, 4]])
    torch.testing.assert_close(part[1], m if shared else m[[1, 4]])
    graph = next(read_batches([((torch.randn(6, 5), m), torch.arange(6))], 6))
    with pytest.raises(InputError, match="run it in one process"):
        Tracer(Graph()).cuts_squares(graph)
