import math

import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES


def test_the_best_layer_of_each_threshold(subspace_rows, no_history):
    rows = pd.concat(
        [
            subspace_rows({"fc1": 0.5, "fc2": 0.6}, setting="0.75"),
            subspace_rows({"fc1": 0.97, "fc2": 0.6}, setting="1pc"),
        ]
    )
    table = TABLES["thresholds"].build(rows, no_history)
    assert len(table) == 150
    here = table.query("pair == 'mlp-mnist' and corruption == 0.2").set_index("setting")
    assert here.loc["0.75", ["layer", "ours", "published_layer", "published", "verdict"]].tolist() == [
        "fc2",
        0.6,
        "fc4",
        0.9669,
        "differs",
    ]
    assert here.loc["1pc", ["layer", "ours", "published", "verdict"]].tolist() == [
        "fc1",
        0.97,
        0.9513,
        "reproduced",
    ]
    assert here.loc["0.25", "verdict"] == "not run"


def test_spread_of_each_seed_and_of_all_seeds(subspace_rows, no_history, sharing_runs):
    rows = pd.concat(subspace_rows({"fc1": value}, network=0.5, spec=spec) for spec, value in sharing_runs)
    table = TABLES["sensitivity"].build(rows, no_history)
    masc = table[table["quantity"] == "masc"].set_index("varied")
    assert masc["seeds"].to_dict() == {"noise_seed": 4, "init_seed": 3, "all": 2}
    # noise: (.5, .6) and (.8, .9), apart from each other; initialisation: .5, .7, .9; all: .5 and .8
    expected = {"noise_seed": math.sqrt(0.005), "init_seed": 0.2, "all": math.sqrt(0.045)}
    assert masc["accuracy_spread"].to_dict() == pytest.approx(expected)
    assert masc["accuracy"].to_dict() == pytest.approx({"noise_seed": 0.7, "init_seed": 0.7, "all": 0.65})
    network = table[table["quantity"] == "network"]
    assert set(network["accuracy_spread"]) == {0}


def test_single_run_has_no_line(subspace_rows, no_history):
    assert TABLES["sensitivity"].build(subspace_rows({"fc1": 0.5}), no_history).empty
