import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES

TEST = {"split": "test", "labels": "true", "metric": "accuracy"}


def control_rows(rows_of, best, epoch, **run):
    network = {"layer": "output", "probe": "network"}
    untrained = {"probe": "masc", "setting": "untrained", "fitted_on": "noisy"}
    records = [
        {**network, "setting": "best_epoch", "epoch": epoch, "value": best},
        {**network, "setting": "last_epoch", "epoch": 60, "value": 0.87},
        {**untrained, "layer": "fc1", "value": 0.3},
        {**untrained, "layer": "fc2", "value": 0.4},
        {**untrained, "layer": "fc2", "split": "train", "value": 1.0},
    ]
    return rows_of([{**TEST, **record} for record in records], {"experiment": "controls"}, **run)


def test_baselines_beside_published_numbers(rows_of, subspace_rows, no_history):
    parts = [control_rows(rows_of, 0.96, 3), control_rows(rows_of, 0.98, 6, seed=1)]
    parts.append(subspace_rows({"input": 0.9, "fc1": 0.8}))
    parts.append(control_rows(rows_of, 0.5, 1, optimizer="adam"))
    table = TABLES["controls"].build(pd.concat(parts), no_history)
    here = table.query("pair == 'mlp-mnist' and corruption == 0.2")
    sgd = here[here["optimizer"] == "sgd"].set_index("quantity")
    assert sgd.loc["untrained_noisy", ["layer", "ours", "verdict"]].tolist() == [
        "fc2",
        0.4,
        "not published",
    ]
    best = sgd.loc["best_epoch"]
    assert (best["epoch"], best["published"], best["verdict"]) == (4.5, 0.9738, "reproduced")
    assert best["ours"] == pytest.approx(0.97)
    assert sgd.loc["last_epoch", ["published", "verdict"]].tolist() == [0.8738, "reproduced"]
    assert sgd.loc["masc_noisy", ["layer", "ours", "published"]].tolist() == ["input", 0.9, 0.9693]
    adam = here[here["optimizer"] == "adam"].set_index("quantity")
    assert adam.loc["best_epoch", ["ours", "scale"]].tolist() == [0.5, "other recipe"]
    assert set(adam["verdict"]) == {"not published"}  # the published network is that of SGD
    assert adam["published"].isna().all()
    assert (here["verdict"] == "not run").sum() == 1  # MASC with true subspaces


def test_edits_beside_the_accuracy_of_the_network(rows_of, subspace_rows, no_history):
    records = [
        {"split": "train", "labels": "noisy", "value": 0.7},
        {"split": "train", "labels": "true", "value": 0.6},
        {"split": "test", "labels": "true", "value": 0.65},
    ]
    common = {"experiment": "weight_edit", "probe": "velpic", "setting": "bias_zero", "fitted_on": "noisy"}
    edited = rows_of(records, {**common, "layer": "output", "metric": "accuracy"})
    networks = [subspace_rows({"fc1": 0.8}, network=0.5), subspace_rows({"fc1": 0.8}, network=0.1, seed=1)]
    table = TABLES["edits"].build(pd.concat([edited, *networks]), no_history)  # one of them is not edited
    names = ["probe", "setting", "fitted_on", "train_noisy", "train_true", "test", "network"]
    assert table[names].to_numpy().tolist() == [["velpic", "bias_zero", "noisy", 0.7, 0.6, 0.65, 0.5]]


def test_trained_and_untrained_networks_are_those_of_the_same_runs(rows_of, subspace_rows, no_history):
    rows = [subspace_rows({"fc1": 0.7}), subspace_rows({"fc1": 0.9}, seed=1), control_rows(rows_of, 0.9, 3)]
    table = TABLES["untrained"].build(pd.concat(rows), no_history).set_index("layer")
    assert table.loc["fc1", ["trained", "untrained", "seeds"]].tolist() == [0.7, 0.3, 1]
