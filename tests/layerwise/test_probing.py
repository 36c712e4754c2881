import random
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from layerprobe import MASC, ProbeTable, capture, probe
from layerprobe.errors import DegenerateWarning, InputError, LayerError, LayerprobeWarning
from layerprobe.probes import AdamLogisticRegression
from layerprobe.training import Recipe

generator = torch.Generator().manual_seed(0)
TRUE = torch.arange(200) % 4
X = 2 * torch.randn(4, 12, generator=generator)[TRUE] + torch.randn(200, 12, generator=generator)
NOISY = torch.where(torch.rand(200, generator=generator) < 0.3, (TRUE + 1) % 4, TRUE)
TEST_TRUE = torch.arange(60) % 4
TEST_X = X[:60] + 0.1
SETS = {"noisy": NOISY, "true": TRUE}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 4))


def test_rows_equal_probes_fitted_by_hand(model):
    table = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), train_labels=SETS, probes=["masc", "ncm"])
    assert list(table.columns) == [
        "layer", "probe", "fitted_on", "split", "labels", "accuracy", "components", "seconds", "reason",
    ]  # fmt: skip
    train, test = capture(model, X).outputs, capture(model, TEST_X).outputs
    assert list(table["layer"].unique()) == ["input", "1", "3", "output"]
    masc = MASC().fit(train["3"], NOISY)
    rows = table[(table.layer == "3") & (table.probe == "masc") & (table.fitted_on == "noisy")]
    found = rows.set_index(["split", "labels"])["accuracy"].to_dict()
    assert found == {
        ("train", "noisy"): masc.score(train["3"], NOISY),
        ("train", "true"): masc.score(train["3"], TRUE),
        ("test", "true"): masc.score(test["3"], TEST_TRUE),
    }
    assert (rows["components"] == np.mean(masc.subspaces_.ranks)).all()
    assert (rows["seconds"] > 0).all()
    assert table[table.probe == "ncm"]["components"].isna().all()


def test_table_has_the_accuracy_of_the_network(model):
    table = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), train_labels=SETS)
    own = table[table.probe == "network"].set_index(["split", "labels"])["accuracy"].to_dict()
    with torch.inference_mode():
        predicted, on_test = model(X).argmax(1), model(TEST_X).argmax(1)
    assert own == {
        ("train", "noisy"): (predicted == NOISY).double().mean().item(),
        ("train", "true"): (predicted == TRUE).double().mean().item(),
        ("test", "true"): (on_test == TEST_TRUE).double().mean().item(),
    }


def test_default_labels_come_with_the_data(model):
    table = probe(model, (X, NOISY), (TEST_X, TEST_TRUE))
    assert set(table["fitted_on"]) == {"given", ""}
    assert set(table["labels"]) == {"given"}
    assert set(probe(model, (X, NOISY))["split"]) == {"train"}


@pytest.mark.parametrize("names", [["ant", "bee", "cat", "dog"], ["0", "1", "2", "3"]])
def test_sorted_names_are_classes_in_the_order_of_the_outputs(model, names):
    names = np.array(names)
    table = probe(model, (X, names[NOISY]), (TEST_X, names[TEST_TRUE]))
    numbers = probe(model, (X, NOISY), (TEST_X, TEST_TRUE))
    assert table["accuracy"].tolist() == numbers["accuracy"].tolist()


def test_names_without_an_order_omit_only_the_network(model):
    classes = ["a", 2, ("c", 3), frozenset({4})]
    with pytest.warns(LayerprobeWarning, match="order of the classes .* is not clear: give .*class_names="):
        table = probe(model, X, train_labels={"given": [classes[k] for k in NOISY]})
    network = table[table["probe"] == "network"]
    assert network["accuracy"].isna().tolist() == [True]
    assert "class_names=" in network["reason"].item()
    assert table[table["probe"] == "masc"]["accuracy"].notna().all()


def test_a_shuffling_loader_needs_indices_for_named_labels(model):
    plain = DataLoader(TensorDataset(X, NOISY), batch_size=32, shuffle=True)
    with pytest.raises(InputError, match="may shuffle and gives no indices"):
        probe(model, plain, train_labels=SETS)
    indexed = DataLoader(TensorDataset(X, NOISY, torch.arange(200)), batch_size=32, shuffle=True)
    shuffled = probe(model, indexed, train_labels=SETS)
    in_order = probe(model, (X, NOISY), train_labels=SETS)
    np.testing.assert_allclose(shuffled["accuracy"], in_order["accuracy"])


def test_shuffling_batch_sampler_is_detected(model):
    data = TensorDataset(X, NOISY)
    shuffled = BatchSampler(RandomSampler(data), 32, drop_last=False)
    with pytest.raises(InputError, match="may shuffle"):
        probe(model, DataLoader(data, batch_sampler=shuffled), train_labels=SETS)
    in_order = BatchSampler(SequentialSampler(data), 32, drop_last=False)
    table = probe(model, DataLoader(data, batch_sampler=in_order), train_labels=SETS)
    np.testing.assert_allclose(table["accuracy"], probe(model, (X, NOISY), train_labels=SETS)["accuracy"])


def test_output_without_class_scores_has_no_accuracy(model):
    grid = nn.Sequential(model, nn.Linear(4, 12), nn.Unflatten(1, (3, 4)))
    assert "network" not in set(probe(grid, (X, NOISY), layers="0.1")["probe"])


@pytest.mark.parametrize("outputs", [4, 1])
def test_outputs_of_nan_are_no_predictions_of_a_class(outputs):
    y = TRUE % max(outputs, 2)
    net = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, outputs))
    broken = TEST_X.clone()
    broken[3] = torch.nan
    with pytest.warns(DegenerateWarning, match="X has NaN or infinity in 1 of 60 rows"):
        table = probe(net, (X, y), (broken, y[:60]), layers="1", probes="ncm")
    own = table[table["probe"] == "network"].set_index("split")
    assert own["accuracy"].notna().to_dict() == {"train": True, "test": False}
    assert own.loc["test", "reason"].startswith("test rows whose output is NaN, or whose label is no class")
    assert own.loc["test", "reason"].endswith(": 1")


def test_table_prints_probes_that_could_not_predict_any_rows(model):
    broken = TEST_X.clone()
    broken[3] = torch.nan
    with warnings.catch_warnings(action="ignore", category=LayerprobeWarning):
        table = probe(model, (X, TRUE), (broken, TEST_TRUE), probes=["ncm", "velpic"])
    with warnings.catch_warnings(action="error"):
        assert repr(table).splitlines()[4].split() == ["input"]


def test_a_model_without_rows_in_its_output_can_still_be_probed(model):
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x).sum()

    assert set(probe(Loss(), (X, NOISY), layers="inner.1")["layer"]) == {"inner.1"}


def test_output_can_be_chosen_as_a_layer(model):
    for layers in ("outp*", ["output"]):
        table = probe(model, (X, NOISY), layers=layers, probes="ncm")
        assert set(table["probe"]) == {"network", "ncm"}
        assert set(table["layer"]) == {"output"}


def test_chosen_layers_probes_and_pooling():
    torch.manual_seed(0)
    images = torch.randn(200, 1, 6, 6)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    table = probe(
        model,
        (images, TRUE),
        layers=["1", "0"],
        probes={"half": MASC(variance=0.5), "tree": DecisionTreeClassifier(random_state=0)},
        pool="mean",
    )
    assert set(table["layer"]) == {"0", "1", "output"}
    assert set(table["probe"]) == {"half", "tree", "network"}
    assert table.query("probe == 'half'")["components"].max() <= 5


def test_probed_layers_of_a_model_are_the_default(model):
    model.probed_layers = {"hidden": "3", "first": "1"}
    table = probe(model, (X, NOISY))
    assert list(table["layer"].unique()) == ["first", "hidden", "output"]
    by_path = probe(model, (X, NOISY), layers=["1", "3"])
    assert list(by_path["layer"].unique()) == ["1", "3", "output"]
    assert table["accuracy"].tolist() == by_path["accuracy"].tolist()


def test_repr_of_the_table_and_plain_frames_as_parts(model):
    table = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), train_labels=SETS)
    assert isinstance(table, ProbeTable)
    text = repr(table)
    for word in ("test", "masc on noisy", "masc on true", "network", "input", "output"):
        assert word in text
    own = table[(table.probe == "network") & (table.split == "test")]["accuracy"].item()
    assert f"{own:.4f}" in text
    assert type(table[table.layer == "input"]) is pd.DataFrame


def test_table_plots_accuracy_over_layers(model):
    figure = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), train_labels=SETS).plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "MASC fitted on noisy labels",
        "MASC fitted on true labels",
    ]


def test_probe_does_not_change_the_model(model):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe(model, (X, NOISY), (TEST_X, TEST_TRUE))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_warnings_name_the_layer(model):
    with pytest.warns(
        DegenerateWarning, match=r"probe 'masc' on layer 'input', fitted on given labels: Saturated"
    ):
        probe(model, (X, NOISY), layers="input", probes={"masc": MASC(variance=1.0)})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"train": (X,)}, InputError, "training data have no labels"),
        ({"train": (X, NOISY), "test": TEST_X}, InputError, "test data have no labels"),
        ({"train": (X, NOISY), "train_labels": {"noisy": NOISY[:-1]}}, InputError, "199 labels for 200"),
        ({"train": [X, NOISY]}, InputError, r"give the tuple \(x, y\)"),
        ({"train": (X, NOISY), "train_labels": NOISY}, InputError, "must map names to labels"),
        ({"train": (X, NOISY), "probes": MASC}, InputError, r"write MASC\(\)"),
        ({"train": (X, NOISY), "layers": [1]}, InputError, "write '1'"),
        ({"train": (X, NOISY), "layers": 1}, InputError, "write '1'"),
        ({"train": (0 * X, NOISY), "probes": "lda", "layers": "input"}, InputError, "all rows are the same"),
        ({"train": (X, NOISY), "train_labels": {}}, InputError, "empty"),
        ({"train": (X, NOISY), "probes": "svm"}, InputError, "'svm'"),
        ({"train": (X, NOISY), "probes": []}, InputError, "expected probes"),
        ({"train": (X, NOISY), "probes": [MASC(0.5), MASC(0.9)]}, InputError, "different names"),
        ({"train": (X, NOISY), "layers": "fc*"}, LayerError, "no layer matches 'fc\\*'"),
        (
            {"train": (X[:4], TRUE[:4]), "probes": "knn"},
            InputError,
            "probe 'knn' on layer 'input'.*n_neighbors",
        ),
    ],
)
def test_bad_input_has_one_clear_error(model, arguments, error, message):
    with pytest.raises(error, match=message):
        probe(model, **arguments)


def planted(n=200):
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 4
    return torch.randn(4, 6, generator=generator)[y] * 4 + torch.randn(n, 6, generator=generator), y


def test_train_labels_of_the_same_index_in_another_order_are_refused(model):
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(200)])
    labels = pd.Series(TRUE.numpy(), index=frame.index)
    with pytest.raises(InputError, match="the same index in different orders"):
        probe(model, frame, train_labels={"true": labels[::-1]}, probes="ncm")
    own, plain = (probe(model, x, train_labels={"true": labels}, probes="ncm") for x in (frame, X))
    np.testing.assert_allclose(own["accuracy"], plain["accuracy"])


@pytest.mark.parametrize("memory", [None, 30_000])  # held, and streamed as sums
def test_a_third_item_that_identifies_no_rows_is_ignored(memory):
    x, y = planted()
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    options = {"train_labels": {"given": y}, "probes": "ncm", "layers": "input", "memory": memory}
    expected = probe(net, (x, y), **options).accuracy
    order = torch.randperm(200)
    groups = [torch.arange(200) // 20, torch.rand(200), torch.arange(200) + 1000, x, ["a", "b"] * 100]
    for group in groups:
        assert probe(net, (x, y, group), **options).accuracy.equals(expected)
    indexed = TensorDataset(x[order], y[order], order)
    assert probe(net, indexed, **options).accuracy.tolist() == pytest.approx(expected.tolist())
    with pytest.raises(InputError, match="may shuffle and its third item is no index"):
        probe(net, DataLoader(TensorDataset(x, y, groups[0]), shuffle=True), **options)


@pytest.mark.parametrize("form", [str, float, lambda k: str(k).encode(), lambda k: f"{k}.0", np.uint8])
def test_test_labels_of_another_form_are_the_same_classes(form):
    x, y = planted()
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    labels = np.array([form(k) for k in y.tolist()])
    tables = [
        probe(net, (x, train), (x[:50], test), probes="ncm", layers="input")
        for train, test in ((y, y[:50]), (y, labels[:50]), (labels, y[:50]))
    ]
    expected, *others = [table.accuracy[table.probe == "ncm"].tolist() for table in tables]
    assert others == [expected, expected]


def test_test_labels_of_other_classes_are_refused():
    x, y = planted()
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    for labels, message in (
        (y + 1, r"test labels are 1\.\.4, but the training labels 0\.\.3"),
        (y + 10, "no test label .* is among the training labels"),
        (np.array(list("abcd"))[y], "the test labels are texts such as 'a', but the others are numbers"),
    ):
        with pytest.raises(InputError, match=message):
            probe(net, (x, y), (x, labels), probes="ncm", layers="input")
    with pytest.warns(DegenerateWarning, match="test labels 7 are not among the training labels"):
        probe(net, (x, y), (x, torch.where(y == 3, 7, y)), probes="ncm", layers="input")


def test_test_labels_of_a_shorter_list_of_classes_are_found_by_name():
    x, y = planted()
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    there = y != 1
    train, test = TensorDataset(x, y), TensorDataset(x[there], torch.tensor([0, -1, 1, 2])[y[there]])
    train.classes, test.classes = ["ant", "bee", "cat", "dog"], ["ant", "cat", "dog"]
    expected = probe(net, (x, y), (x[there], y[there]), probes="ncm", layers="input").accuracy
    for data in (test, DataLoader(test, batch_size=7)):
        assert probe(net, train, data, probes="ncm", layers="input").accuracy.equals(expected)
    test.classes = ["ant", "cow", "dog"]
    with pytest.raises(InputError, match="test labels hold the class 'cow', which the training data lack"):
        probe(net, train, test, probes="ncm", layers="input")


def test_html_of_the_table_shows_layers_and_probes_with_names_escaped(model):
    sets = {"<noisy>": NOISY, "true": TRUE}
    table = probe(model, (X, NOISY), (TEST_X, TEST_TRUE), train_labels=sets)
    html = table._repr_html_()
    own = table[(table.probe == "network") & (table.split == "test")]["accuracy"].item()
    assert f"{own:.4f}" in html
    assert "masc on &lt;noisy&gt;" in html
    assert "<noisy>" not in html


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: DataLoader(rows, 16)])
def test_booleans_among_three_classes_are_refused_in_any_form(model, wrap):
    rows = wrap(TensorDataset(TEST_X, TEST_TRUE % 2 == 0))
    with pytest.raises(InputError, match="the test labels are True or False"):
        probe(model, (X, TRUE), rows, probes="ncm", layers="input")
    assert len(probe(model, (X, TRUE % 2), rows, probes="ncm", layers="input"))


class Augmented(Dataset):
    """Rows with random noise."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return {"x": X[i] + self.draw(), "labels": int(TRUE[i])}


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(12),
        lambda: np.random.randn(),  # noqa: NPY002
        random.random,
    ],
    ids=["torch", "NumPy", "Python"],
)
def test_random_augmentation_is_refused(model, draw):
    before = torch.get_rng_state(), random.getstate()
    for data in (Augmented(draw), DataLoader(Augmented(draw), 50)):
        with pytest.raises(InputError, match="the content of the training data changes"):
            probe(model, data, probes="ncm")
        with pytest.raises(InputError, match="the content of the test data changes"):
            probe(model, (X, TRUE), data, probes="ncm")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    fixed = probe(model, Augmented(lambda: 0.0), probes="ncm", layers="input")
    assert fixed.accuracy.tolist() == probe(model, (X, TRUE), probes="ncm", layers="input").accuracy.tolist()


class TakesBytes(nn.Module):
    """Converts pixels itself."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x.float() / 255)


@pytest.mark.parametrize("last", [False, True])
def test_pixels_become_floats_unless_the_network_takes_them(last):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    given = pixels.permute(0, 2, 3, 1).contiguous() if last else pixels
    found = capture(net, given, ["1", "output"], batch_size=16).outputs
    expected = capture(net, pixels.float() / 255, ["1", "output"]).outputs
    torch.testing.assert_close(found, expected)
    y = torch.arange(40) % 2
    tables = [probe(net, (x, y), probes="ncm", batch_size=16) for x in (given, pixels.float() / 255)]
    assert tables[0].accuracy.tolist() == tables[1].accuracy.tolist()
    if not last:
        own = capture(TakesBytes(net), pixels, ["net.1", "output"], batch_size=16).outputs
        torch.testing.assert_close(own["output"], expected["output"])


@pytest.mark.parametrize("size", [10**12, 1e12, True, 2.0, 0, float("nan"), "8"])
def test_absurd_batch_sizes_are_refused_at_once(model, size):
    for use in (
        lambda: probe(model, (X, TRUE), batch_size=size),
        lambda: capture(model, X, batch_size=size),
        lambda: AdamLogisticRegression(batch_size=size).fit(X, TRUE),
        lambda: Recipe("adam", 1e-3, batch_size=size if size != 2.0 else 2.5),
        lambda: Recipe("adam", 1e-3, 8, max_epochs=size if size != 2.0 else 10**400),
    ):
        with pytest.raises(InputError, match=r"batch_size|max_epochs"):
            use()


class Frames(nn.Module):
    """A convolution of each frame of a film (b, t, 1, 6, 6)."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        maps = torch.stack([self.conv(x[:, k]) for k in range(x.shape[1])]).mean(0).relu()
        return self.head(maps.mean((2, 3)))


def test_image_sequences_are_batches_of_a_convolution():
    torch.manual_seed(0)
    films, y, net = torch.randn(30, 5, 1, 6, 6), torch.arange(30) % 3, Frames()
    own = [
        probe(net, data, probes="ncm", layers="F.relu").query("probe == 'network'")["accuracy"].item()
        for data in ((films, y), DataLoader(TensorDataset(films, y), 7), TensorDataset(films, y))
    ]
    with torch.no_grad():
        expected = float((net(films).argmax(1) == y).double().mean())
    assert own == pytest.approx([expected] * 3)
