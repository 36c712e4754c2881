"""Labels in any form give probe() the accuracy of the network, as audit() does, or the reason for none."""

import enum
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from layerprobe import audit, probe
from layerprobe.errors import DegenerateWarning, InputError, LayerprobeWarning
from layerprobe.probes import NearestClassMean

K, N = 12, 240
Y = np.arange(2 * N) % K
X = 6 * torch.eye(K)[Y] + 0.3 * torch.randn(2 * N, K, generator=torch.Generator().manual_seed(0))
NAMES = np.array([f"name {letter}" for letter in "zyxwvutsrqpo"])  # in the order of the outputs, not sorted
Letter = enum.Enum("Letter", NAMES.tolist())


class Net(nn.Module):
    """Return the inputs: class k is output k, and the network is right on all rows."""

    def __init__(self, outputs=None, **options):
        super().__init__()
        self.layer, self.outputs = nn.Identity(), outputs
        for name, value in options.items():
            setattr(self, name, value)

    def forward(self, x):
        x = self.layer(x) + 0.0
        return x if self.outputs is None else x[:, self.outputs]


def network(y, test=None, model=None, **options):
    """Return the rows of the network's own accuracy: the training one and the test one."""
    test = y[N:] if test is None else test
    table = probe(model or Net(), (X[:N], y[:N]), (X[N:], test), probes="ncm", **options)
    assert table[table["probe"] == "ncm"]["accuracy"].tolist() == [1.0] * (len(table) - 2)
    return table[table["probe"] == "network"]


def audited_head(y, model=None, **options):
    rows, held = (X[:N], y[:N]), (X[N:], y[N:])
    result = audit(
        model or Net(), rows, policy="noisy_holdout", holdout=held, controls=False, probes="ncm", **options
    )
    return result.controls.set_index("control")["criterion"]["head"]


CLEAR = {
    "integers": Y,
    "floats of whole numbers": Y.astype(float),
    "texts": Y.astype(str),
    "texts of floats": np.array([f"{k}.0" for k in Y]),
    "texts with spaces": np.array([f" {k}" for k in Y]),
    "texts from 1 on": np.array([str(k + 1) for k in Y]),
    "categories": pd.Series(pd.Categorical(NAMES[Y], categories=NAMES)),
    "frame of categories": pd.DataFrame({"label": pd.Categorical(NAMES[Y], categories=NAMES)}),
    "enumeration": [list(Letter)[k] for k in Y],
}


@pytest.mark.parametrize("form", CLEAR)
def test_network_that_is_right_has_accuracy_one(form):
    y = CLEAR[form]
    assert network(y)["accuracy"].tolist() == [1.0, 1.0]
    assert audited_head(y) == 1.0
    assert network(y, memory=60_000)["accuracy"].tolist() == [1.0, 1.0]
    if form != "frame of categories":  # its rows are no sequence of labels
        table = probe(Net(), X[:N], train_labels={"noisy": y[:N], "true": y[:N]}, probes="ncm")
        assert table[table["probe"] == "network"]["accuracy"].tolist() == [1.0, 1.0]


UNCLEAR = {
    "integers from 1 on": (Y + 1, None, {}, "subtract 1"),
    "integers with gaps": (5 * Y, None, {}, "of all outputs in their order by class_names="),
    "fewer outputs than classes": (Y, list(range(10)), {}, "none of the 10 classes"),
    "more outputs than names": (NAMES[Y], [*range(K), 0], {}, "class_names="),
    "fewer names than outputs": (Y, [*range(K), 0], {"class_names": range(K)}, "12 names for 13 outputs"),
    "-1 and 1 for one output": (np.where(Y > 5, 1, -1), [0], {}, "hold -1"),
    "1 and 2 for one output": (np.where(Y > 5, 2, 1), [0], {}, "hold 2"),
    "fractions": (Y + 0.5, None, {}, "convert class numbers to integers"),
}


@pytest.mark.parametrize("form", UNCLEAR)
def test_network_without_clear_classes_has_the_reason(form):
    y, outputs, options, reason = UNCLEAR[form]
    with pytest.warns(LayerprobeWarning, match=reason) as caught:
        table = probe(Net(outputs), (X[:N], y[:N]), (X[N:], y[N:]), layers="layer", probes="ncm", **options)
    assert len(caught) == 1
    rows = table[table["probe"] == "network"]
    assert rows["split"].tolist() == ["train", "test"]
    assert rows["accuracy"].isna().all()
    assert rows["reason"].str.contains(reason).all()
    with pytest.raises(InputError, match=reason):
        audited_head(y, Net(outputs), **options)


def test_label_that_marks_no_class_is_refused():
    y = np.where(np.arange(2 * N) % 16 == 3, -100, Y)
    for data in [(X[:N], y[:N]), (X[:N], Y[:N].astype(float) - 100)]:
        with pytest.raises(InputError, match="-100, which marks rows without a label"):
            probe(Net(), data, probes="ncm")
    with pytest.raises(InputError, match=r"train_labels\['noisy'\]: .*-100"):
        probe(Net(), X[:N], train_labels={"noisy": y[:N]}, probes="ncm")
    with pytest.raises(InputError, match=r"test data: .*-100"):
        probe(Net(), (X[:N], Y[:N]), (X[N:], y[N:]), probes="ncm")


def test_booleans_for_other_numbers_are_refused():
    y = Y % 3
    with pytest.raises(InputError, match="True or False, but the others are numbers, of which 2"):
        probe(Net(), (X[:N], y[:N]), (X[N:], y[N:] == 1), probes="ncm")
    two = Y % 2
    table = probe(Net(), (X[:N], two[:N]), (X[N:], two[N:] == 1), probes="ridge", layers="layer")
    assert table[(table["probe"] == "ridge") & (table["split"] == "test")]["accuracy"].item() == 1.0


def test_score_of_labels_that_are_no_classes():
    ncm = NearestClassMean().fit(X[:N], Y[:N])
    assert ncm.score(X[N:], Y[N:]) == 1.0
    for y in (Y[N:] + 20, Y[N:] == 1, [None.__class__] * N):
        with pytest.raises(InputError, match="none is a class of the fit"):
            ncm.score(X[N:], y)
    with pytest.warns(DegenerateWarning, match=r"labels 1\.\.12, but the probe was fitted on 0\.\.11"):
        assert ncm.score(X[N:], Y[N:] + 1) == 0.0
    with warnings.catch_warnings(action="error"):
        assert ncm.score(X[N:], np.where(Y[N:] < 6, Y[N:], 99)) == 0.5  # some labels are unknown
        binary = NearestClassMean().fit(X[:N], Y[:N] % 2)
        assert binary.score(X[N:], Y[N:] % 2 == 1) == binary.score(X[N:], Y[N:] % 2)


@pytest.mark.parametrize("form", ["integers", "names of the configuration", "categories"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_other_order_of_two_outputs_is_reported(form, shuffled):
    order = torch.randperm(6 * N, generator=torch.Generator().manual_seed(1)) if shuffled else slice(None)
    y = np.tile(Y[:N], 6)[order]
    x = X[:N].repeat(6, 1)[order]
    model = Net([1, 0, *range(2, K)])
    labels = {"integers": y, "categories": pd.Series(pd.Categorical(NAMES[y], categories=NAMES))}
    labels["names of the configuration"] = NAMES[y]
    if form == "names of the configuration":
        model.config = SimpleNamespace(id2label=dict(enumerate(NAMES.tolist())))
    right = [1, 0] if form == "integers" else NAMES[[1, 0]].tolist()
    with pytest.warns(LayerprobeWarning, match=f"83% .*100%.*class_names=\\[{right[0]!r}, {right[1]!r}, "):
        table = probe(model, (x, labels[form]), probes="ncm")
    assert table[table["probe"] == "network"]["accuracy"].item() == pytest.approx(10 / 12)
    with pytest.raises(InputError, match=r"83% .*100%"):
        audit(model, (x, labels[form]), policy="test_split", test=(x + 0.01, labels[form]), probes="ncm")


def test_names_of_another_number_of_outputs_are_not_used():
    y = np.sort(NAMES)[Y]
    model = Net(config=SimpleNamespace(id2label=dict(enumerate([*NAMES.tolist(), "background"]))))
    assert network(y, model=model)["accuracy"].tolist() == [1.0, 1.0]
    assert audited_head(y, model=model) == audited_head(y)
