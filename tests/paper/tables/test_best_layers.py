import math

import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES, readable
from layerprobe.runs.specs import Edit


def line_of(table, **equal):
    for column, value in {"pair": "mlp-mnist", "corruption": 0.2, **equal}.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def two_seeds(subspace_rows, **run):
    return [
        subspace_rows({"input": 0.8, "fc1": 0.90, "fc2": 0.98}, network=0.5, seed=0, **run),
        subspace_rows({"input": 0.8, "fc1": 0.94, "fc2": 0.84}, network=0.6, seed=1, **run),
    ]


@pytest.mark.parametrize(("name", "fitted_on"), [("table1", "noisy"), ("table5", "true")])
def test_the_network_masc_at_its_best_layer_and_the_gain(subspace_rows, no_history, name, fitted_on):
    rows = pd.concat(two_seeds(subspace_rows, fitted_on=fitted_on))
    table = TABLES[name].build(rows, no_history)
    cell = line_of(table)
    assert (cell["layer"], cell["hidden_layer"]) == ("fc1", "fc1")
    assert (cell["published_network"], cell["network"]) == (0.8738, pytest.approx(0.55))
    assert cell["network_difference"] == pytest.approx(-32.38)
    assert cell["published_masc"] == {"noisy": 0.9693, "true": 0.9695}[fitted_on]
    assert cell["masc"] == pytest.approx(0.92)
    assert cell["masc_spread"] == pytest.approx(0.02 * math.sqrt(2))
    assert cell["published_gain"] == pytest.approx({"noisy": 0.109293, "true": 0.10956}[fitted_on])
    assert cell["gain"] == pytest.approx(0.92 / 0.55 - 1)  # not the mean of .9 / .5 - 1 and .94 / .6 - 1
    assert cell["gain_spread"] == pytest.approx((0.9 / 0.5 - 0.94 / 0.6) / math.sqrt(2))
    assert cell["verdict"] == "same direction"  # MASC is as published, the network is not
    assert (cell["scale"], cell["seeds"], cell["memorised"]) == ("full", 2, "yes")


def test_every_published_cell_appears(subspace_rows, no_history):
    table = TABLES["table1"].build(subspace_rows({"fc1": 0.9}), no_history)
    assert len(table) == 32
    assert (table["verdict"] == "not run").sum() == 31


def test_masc_hidden_leaves_the_input_out(subspace_rows, no_history):
    table = TABLES["table1"].build(subspace_rows({"input": 0.9, "fc1": 0.6, "fc2": 0.7}), no_history)
    cell = line_of(table)
    assert (cell["layer"], cell["masc"]) == ("input", 0.9)
    assert (cell["hidden_layer"], cell["masc_hidden"]) == ("fc2", 0.7)


def test_variants_are_never_mixed(subspace_rows, no_history):
    small = two_seeds(subspace_rows, subset=100)
    table = TABLES["table1"].build(pd.concat([subspace_rows({"fc2": 0.7}), *small]), no_history)
    full, part = line_of(table, scale="full"), line_of(table, scale="small")
    assert (full["layer"], full["masc"], full["seeds"], full["variant"]) == ("fc2", 0.7, 1, "")
    assert (part["layer"], part["seeds"], part["variant"]) == ("fc1", 2, "subset 100")
    assert part["masc"] == pytest.approx(0.92)


def test_other_optimisers_noises_and_edits_are_not_beside_published_numbers(subspace_rows, no_history):
    changes = {"optimizer": "adam"}, {"noise": "pair_flip"}, {"edit": Edit(epoch=10)}
    rows = [subspace_rows({"fc2": 0.7}, **change) for change in changes]
    table = TABLES["table1"].build(pd.concat(rows), no_history)
    cell = table[(table["pair"] == "mlp-mnist") & (table["corruption"] == 0.2)]
    assert cell["verdict"].value_counts().to_dict() == {"not published": 3, "not run": 1}
    assert cell["published_masc"].isna().sum() == 3


def test_runs_that_share_seeds_do_not_count_as_independent(subspace_rows, no_history, sharing_runs):
    rows = pd.concat(subspace_rows({"fc1": value}, spec=spec) for spec, value in sharing_runs)
    assert line_of(TABLES["table1"].build(rows, no_history))["seeds"] == 2


def test_a_network_below_99_percent_is_not_memorised(subspace_rows, no_history):
    rows = pd.concat([subspace_rows({"fc1": 0.9}), subspace_rows({"fc1": 0.9}, seed=1, trained=0.98)])
    assert line_of(TABLES["table1"].build(rows, no_history))["memorised"] == "no"


def test_human_labels_have_a_table_of_their_own(subspace_rows, no_history):
    run = {"pair": "cnn-cifar10", "corruption": None, "noise": "cifar-10n:worst"}
    rows = pd.concat(
        [
            subspace_rows({"input": 0.3, "fc1": 0.7}, 0.6, **run),
            subspace_rows({"input": 0.8, "fc1": 0.7}, 0.6, "true", **run),
            subspace_rows({"fc1": 0.9}, pair="cnn-cifar10"),
        ]
    )
    table = TABLES["natural"].build(rows, no_history)
    assert len(table) == 1
    line = table.iloc[0]
    assert (line["noise"], line["scale"], line["seeds"]) == ("cifar-10n:worst", "full", 1)
    assert math.isnan(line["corruption"])
    assert (line["train_noisy"], line["train_true"], line["network"]) == (1, 0.25, 0.6)
    assert (line["layer_noisy"], line["masc_noisy"]) == ("fc1", 0.7)
    assert (line["layer_true"], line["masc_true"]) == ("input", 0.8)
    cells = readable(TABLES["table1"].build(rows, no_history), "table1")
    assert list(cells)[3:] == ["", "p = 0.2", "p = 0.4", "p = 0.6", "p = 0.8", "human labels"]
    assert "70.0 (fc1)" in set(cells["human labels"])
