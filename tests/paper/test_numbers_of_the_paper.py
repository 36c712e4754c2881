"""Every numbered table and figure shows what the paper shows under this number: title, columns, series."""

import pandas as pd
import pytest

from layerprobe.paper.figures import FIGURES
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.tables import TABLES, readable
from paper.figures import synthetic

EVERY, CORRUPTED = ["0", "0.2", "0.4", "0.6", "0.8", "1"], ["0.2", "0.4", "0.6", "0.8"]
FIRST = ["mlp-mnist", "cnn-fashion-mnist", "alexnet-cifar100"]
SECOND = ["mlp-cifar10", "cnn-mnist", "cnn-cifar10", "alexnet-tiny-imagenet"]
MLPS_AND_CNNS = ["mlp-mnist", "mlp-cifar10", "cnn-mnist", "cnn-fashion-mnist", "cnn-cifar10"]
ALEXNETS = ["alexnet-cifar100", "alexnet-tiny-imagenet"]
NOISY = [
    "MASC, training data, corrupted labels",
    "MASC, training data, true labels",
    "MASC, test data",
    "network, training data, corrupted labels",
    "network, test data",
]
BOTH = [
    "true subspaces, training data, true labels",
    "true subspaces, test data",
    "noisy subspaces, training data, corrupted labels",
    "noisy subspaces, test data",
]
AFTER = ["after retraining, labels of noisy subspaces", "after retraining, labels of true subspaces"]
BEFORE_AND_AFTER = ["before retraining", *AFTER]
BESIDE_MASC = [*BEFORE_AND_AFTER, "MASC, noisy subspaces", "MASC, true subspaces"]
RELABELLED = ["labels of noisy subspaces", "labels of true subspaces"]


def grid(pairs, degrees=EVERY):
    """Return the titles of a figure of a row per degree and a column per pair."""
    return [f"{pair}, p = {p}" for p in degrees for pair in pairs]


# Title after the number, titles of the panels, series (or conditions) in the legend.
PAPER_FIGURES = {
    "figure2": ("noisy subspaces: accuracies of MASC over the layers", grid(FIRST), NOISY),
    "figure12": ("noisy subspaces: accuracies of MASC over the layers", grid(SECOND), NOISY),
    "figure3": ("true subspaces beside noisy subspaces over the layers", grid(FIRST), BOTH),
    "figure13": ("true subspaces beside noisy subspaces over the layers", grid(SECOND), BOTH),
    "figure4": ("retraining on the labels of MASC, MLPs and CNNs", MLPS_AND_CNNS, BESIDE_MASC),
    "figure27": ("retraining on the labels of MASC, AlexNets", ALEXNETS, BESIDE_MASC),
    "figure28": (
        "share of incorrect labels before and after relabelling",
        [*PAPER_PAIRS],
        ["corrupted labels", *RELABELLED],
    ),
    "figure29": ("wrong labels that became right by relabelling", [*PAPER_PAIRS], RELABELLED),
    "figure30": ("right labels that became wrong by relabelling", [*PAPER_PAIRS], RELABELLED),
    "figure31": (
        "retraining for ten epochs without early stopping",
        [*PAPER_PAIRS],
        BEFORE_AND_AFTER,
    ),
    "figure15": (
        "components per class, noisy subspaces",
        [*PAPER_PAIRS],
        [f"p = {p}" for p in EVERY],
    ),
    "figure17": (
        "components per class, true subspaces",
        [*PAPER_PAIRS],
        [f"p = {p}" for p in EVERY[1:]],
    ),
}
CELL = ["network", "published_network", "masc", "published_masc", "gain", "published_gain", "gain_difference"]
COMPARED = ["quantity", "published", "ours", "difference", "verdict"]
BY_LABELS = ["{}_noisy", "{}_true", "layers_noisy", "layers_true"]
# Title after the number, columns beside the cell, corruption degrees.
PAPER_TABLES = {
    "table1": (
        "relative gain in test accuracy of MASC at its best layer over the network, noisy subspaces",
        CELL,
        CORRUPTED,
    ),
    "table5": (
        "relative gain in test accuracy of MASC at its best layer over the network, true subspaces",
        CELL,
        CORRUPTED,
    ),
    "table2": (
        "training accuracy at the last epoch, on the labels trained on and on the true ones",
        COMPARED,
        EVERY,
    ),
    "table3": ("test accuracy after the last epoch", COMPARED, EVERY),
    "table6": (
        "share of incorrect labels in the corrupted and in the relabelled set, and relative change",
        ["corrupted", "relabelled_noisy", "relabelled_true", "improvement_noisy", "improvement_true"],
        CORRUPTED,
    ),
    "table7": (
        "share of the wrong labels that became right by relabelling",
        [name.format("corrected") for name in BY_LABELS],
        CORRUPTED,
    ),
    "table8": (
        "share of the right labels that became wrong by relabelling",
        [name.format("broken") for name in BY_LABELS],
        CORRUPTED,
    ),
}


@pytest.fixture(scope="module")
def rows():
    return synthetic.frame(
        PAPER_PAIRS, seeds=1, layers={pair: ["input", "fc1", "fc2"] for pair in PAPER_PAIRS}
    )


def test_no_other_table_or_figure_has_a_number():
    assert {name for name in FIGURES if FIGURES[name].numbered} == PAPER_FIGURES.keys()
    assert {name for name in TABLES if name.startswith("table")} == PAPER_TABLES.keys()


@pytest.mark.parametrize("name", PAPER_FIGURES)
def test_figure(name, rows):
    title, panels, series = PAPER_FIGURES[name]
    figure = FIGURES[name].draw(rows)
    assert FIGURES[name].title == f"{name.replace('figure', 'Figure ')}: {title}"
    drawn = [ax.get_title(loc="left").replace("\n", " ") for ax in figure.axes if ax.axison]
    assert drawn == panels
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(text for text in legend if not text.startswith("range over")) == sorted(series)
    assert "Not run" not in figure.texts[-1].get_text()
    if figure.axes[0].containers:  # of bars
        middles = [bar.get_x() + bar.get_width() / 2 for bar in figure.axes[0].patches]
        degrees = CORRUPTED if name in ("figure28", "figure29", "figure30") else EVERY
        assert {round(5 * x) / 5 for x in middles} == {float(p) for p in degrees}


@pytest.mark.parametrize("name", PAPER_TABLES)
def test_table(name, rows):
    title, columns, degrees = PAPER_TABLES[name]
    assert TABLES[name].title == f"{name.replace('table', 'Table ')}: {title}"
    history = synthetic.histories(PAPER_PAIRS, seeds=1)
    at = [float(p) for p in degrees]
    table = TABLES[name].build(rows[rows["corruption"].isin(at)], history[history["corruption"].isin(at)])
    assert set(columns) <= set(table)
    assert list(dict.fromkeys(table["pair"])) == [*PAPER_PAIRS]
    assert set(table["corruption"]) == set(at)
    statistics = ("table6", "table7", "table8")
    if name in statistics:
        every = TABLES[name].build(rows, history)
        assert set(every["corruption"]) == set(at)
        assert not (set(every) & {"corrected", "broken"})


@pytest.mark.parametrize("name", ["table1", "table5"])
def test_table_of_gains_for_reading_is_pairs_by_corruption(name, rows):
    table = TABLES[name].build(rows[rows["corruption"].between(0.2, 0.8)], rows.head(0))
    text = readable(table, name)
    assert list(text)[-4:] == [f"p = {p}" for p in CORRUPTED]
    assert list(dict.fromkeys(text[""])) == [
        "gain in %, ours",
        "gain in %, published",
        "difference in points",
        "MASC (layer), ours",
        "network, ours",
        "verdict",
    ]
    assert len(text) == 6 * len(PAPER_PAIRS)
    unknown = {column: float("nan") for column in table if "published" in column or "difference" in column}
    own = readable(table.assign(**unknown), name)
    assert not own[""].str.contains("published|difference").any()  # of a pair that is not of the paper
    first = text[text["pair"] == "mlp-mnist"].set_index("")["p = 0.2"]
    expected = synthetic.masc(0.2, 1, 0, "noisy" if name == "table1" else "true", extra=0.04)
    own = synthetic.network(0.2, 0, 0.04)
    assert first["gain in %, ours"] == f"{100 * (expected / own - 1):+.1f}"
    assert first["gain in %, published"] == {"table1": "+10.9", "table5": "+11.0"}[name]
    assert first["MASC (layer), ours"] == f"{100 * expected:.1f} (fc1)"


def test_table_6_has_the_relative_change(rows):
    table = TABLES["table6"].build(rows, rows.head(0)).query("pair == 'mlp-mnist' and corruption == 0.4")
    line = table.iloc[0]
    assert line["corrupted"] == pytest.approx(0.36)
    assert line["relabelled_true"] == pytest.approx(0.36 * 0.4)
    assert (line["improvement_noisy"], line["improvement_true"]) == (pytest.approx(0.2), pytest.approx(0.6))
    assert "60.00" in readable(table, "table6").iloc[0].tolist()  # two decimals, as in the paper


def test_supplementary_table_1_has_the_sizes_of_the_paper():
    table = TABLES["supplementary_table1"].build(pd.DataFrame(), pd.DataFrame())
    assert TABLES["supplementary_table1"].title == (
        "Supplementary Table 1: models, data sets, training set sizes, numbers of parameters"
    )
    sizes = {line["pair"]: (line["training_images"], line["parameters"]) for line in table.to_dict("records")}
    del sizes["mlp-digits"]
    assert sizes == {
        "mlp-mnist": (60_000, 5_433_994),
        "mlp-cifar10": (50_000, 5_726_858),
        "cnn-mnist": (60_000, 344_042),
        "cnn-fashion-mnist": (60_000, 344_042),
        "cnn-cifar10": (50_000, 456_330),
        "alexnet-cifar100": (50_000, 20_495_268),
        "alexnet-tiny-imagenet": (100_000, 21_123_080),
        "resnet18-cifar10": (50_000, 11_173_962),
    }
    assert table.set_index("pair").loc["cnn-cifar10", ["model", "data_set"]].tolist() == ["CNN", "cifar-10"]
