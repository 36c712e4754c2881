"""Every form of data that docs/data.md names works with every entry point, and gives the same numbers."""

import sys
from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from layerprobe import audit, audit_features, capture, plan, probe
from layerprobe.auditing import plan_audit
from layerprobe.cli import main

N = 60
GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(N) % 3
LEFT = 3 * torch.eye(3, 4)[Y] + torch.randn(N, 4, generator=GENERATOR)
RIGHT = torch.randn(N, 2, generator=GENERATOR)
HELD = (LEFT[:30] + 0.5, RIGHT[:30] - 0.5)
OPTIONS = {"policy": "noisy_holdout", "controls": False, "probes": "ncm", "layers": "act"}  # of audits


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.hidden, self.act, self.head = nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)

    def forward(self, left, right, weights=None):
        return self.head(self.act(self.hidden(torch.cat([left, right], 1))))


class One(Two):
    def forward(self, x):
        return self.head(self.act(self.hidden(x)))


class Dicts(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"left": LEFT[i], "right": RIGHT[i], "label": int(Y[i])}


class Stream(IterableDataset):
    def __iter__(self):
        return ((LEFT[i], RIGHT[i], Y[i]) for i in range(N))


X = torch.cat([LEFT, RIGHT], 1)
FRAME = pd.DataFrame(X.numpy(), columns=list("abcdef"), index=[f"row {i}" for i in range(N)])
TWO = {
    "tuple": ((LEFT, RIGHT), Y),
    "mapping": ({"left": LEFT, "right": RIGHT}, Y),
    "tokenizer output": (UserDict(left=LEFT, right=RIGHT), Y),
    "labels as a key": {"left": LEFT, "right": RIGHT, "target": Y},
    "TensorDataset": TensorDataset(LEFT, RIGHT, Y),
    "loader": DataLoader(TensorDataset(LEFT, RIGHT, Y), 7),
    "Dataset of mappings": Dicts(),
    "loader of mappings": DataLoader(Dicts(), 7),
    "stream": Stream(),
    "list of rows": [(LEFT[i], RIGHT[i], int(Y[i])) for i in range(N)],
    "list of batches": [((LEFT[:9], RIGHT[:9]), Y[:9]), ((LEFT[9:], RIGHT[9:]), Y[9:])],
}
ONE = {
    "arrays": (X.numpy(), Y.numpy()),
    "numbers": (X.tolist(), Y.tolist()),
    "frame": (FRAME, Y.numpy()),
    "frame with labels": FRAME.assign(label=Y.numpy()),
    "mapping": {"x": X, "y": Y},
    "group": TensorDataset(X, Y, Y),
    "index": TensorDataset(X, Y, torch.arange(N)),
    "big-endian": (X.numpy().astype(">f4"), Y.numpy().astype(">i4")),
}
FORMS = [(Two, data) for data in TWO.values()] + [(One, data) for data in ONE.values()]
IDS = [f"two inputs: {name}" for name in TWO] + list(ONE)


def hub_forms():
    datasets = pytest.importorskip("datasets")
    left, right, text = LEFT.tolist(), RIGHT.tolist(), ["words"] * N
    rows = datasets.Dataset.from_dict({"left": left, "right": right, "text": text, "label": Y.tolist()})
    return [rows, rows.with_format("torch"), rows.remove_columns("text").to_iterable_dataset()]


@pytest.fixture(scope="module")
def expected():
    """The accuracies by probe() and the label scores by audit() of one tensor of inputs."""
    table = probe(One(), (X, Y), probes="ncm", layers="act")
    found = audit(One(), (X, Y), holdout=(torch.cat(HELD, 1), Y[:30]), **OPTIONS)
    return table["accuracy"], found.issues["label_score"]


def check(network, data, expected):
    """Compare every entry point with the tuple form, whose layer outputs are computed by hand."""
    with torch.no_grad():
        outputs = network.act(network.hidden(X))
    captured = capture(network, data, "act", batch_size=8)
    torch.testing.assert_close(captured.outputs["act"], outputs)
    assert np.asarray(captured.labels).tolist() == Y.tolist()
    table = probe(network, data, probes="ncm", layers="act")
    assert table.accuracy.tolist() == pytest.approx(expected[0])
    counted = plan(network, data, layers="act", probes="ncm", rows=N, classes=3)
    assert [(layer.name, layer.dim) for layer in counted.layers] == [("act", 5)]
    held = (torch.cat(HELD, 1) if isinstance(network, One) else HELD, Y[:30])
    assert plan_audit(network, data, holdout=held, **OPTIONS).rows == N
    found = audit(network, data, holdout=held, **OPTIONS)
    np.testing.assert_allclose(found.issues["label_score"], expected[1], rtol=1e-5)


@pytest.mark.parametrize(("network", "data"), FORMS, ids=IDS)
def test_every_form_gives_the_same_numbers(network, data, expected):
    check(network(), data, expected)


def test_datasets_of_the_hub_give_the_same_numbers(expected):
    for data in hub_forms():
        check(Two(), data, expected)


def test_labels_beside_data_without_labels(expected):
    held = (torch.cat(HELD, 1), Y[:30])
    for data in (X, FRAME, TensorDataset(X), DataLoader(TensorDataset(X), 7), [X[i] for i in range(N)]):
        table = probe(One(), data, train_labels={"given": Y.tolist()}, probes="ncm", layers="act")
        assert table.accuracy.tolist() == pytest.approx(expected[0])
        assert audit(One(), data, Y.numpy(), holdout=held, **OPTIONS).n == N


def test_the_index_of_a_frame_names_the_rows():
    options = {"policy": "noisy_holdout", "probes": "ncm"}
    held = (torch.cat(HELD, 1), Y[:30])
    found = audit(One(), (FRAME, Y), holdout=held, controls=False, layers="act", **options)
    assert found.issues["index"].tolist() == FRAME.index.tolist()
    found = audit_features({"input": FRAME}, Y, holdout=({"input": held[0]}, held[1]), **options)
    assert found.issues["index"].tolist() == FRAME.index.tolist()


@pytest.mark.parametrize("form", ["two", "tokenised", "rows"])
def test_the_shell_takes_the_same_forms(form, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import forms\n"
        "network = forms.Two()\n"
        f"def data(): return {{'two': forms.TWO['mapping'], 'tokenised': forms.hub_forms()[0], "
        f"'rows': forms.Dicts()}}[{form!r}]\n"
    )
    monkeypatch.setitem(sys.modules, "forms", sys.modules[__name__])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.chdir(tmp_path)
    command = [
        "probe",
        "--model",
        "mine:network",
        "--data",
        "mine:data",
        "--probes",
        "ncm",
        "--layers",
        "act",
    ]
    assert main([*command, "--out", "out"]) == 0
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    expected = probe(One(), (X, Y), probes="ncm", layers="act")
    np.testing.assert_allclose(rows["accuracy"], expected["accuracy"])
