import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES


def test_masc_on_every_layer(subspace_rows, no_history):
    table = TABLES["layers"].build(subspace_rows({"input": 0.8321, "fc1": 0.5}), no_history)
    here = table.query("pair == 'mlp-mnist' and corruption == 0.2")
    assert here["layer"].tolist() == ["input", "fc1", "fc2", "fc3", "fc4"]
    assert here["verdict"].tolist() == ["reproduced", "differs", *["not run"] * 3]
    assert len(table) == 165


def test_components_over_classes_and_runs(rows_of, no_history):
    def run(seed, counts):
        records = [{"class": k, "value": count} for k, count in enumerate(counts)]
        common = {"experiment": "noisy_subspaces", "probe": "masc", "setting": "0.99", "fitted_on": "noisy"}
        rows = rows_of(records, {**common, "layer": "fc1", "metric": "components"}, seed=seed)
        return [rows, rows.assign(setting="0.5", value=1000.0)]

    line = TABLES["components"].build(pd.concat([*run(0, (10, 20)), *run(1, (14, 40))]), no_history).iloc[0]
    assert (line["components"], line["fewest"], line["most"], line["seeds"]) == (21, 12, 30, 2)
    assert line["components_spread"] == pytest.approx(12 / 2**0.5)  # of 15 and 27


def test_latent_memorisation_by_degree(rows_of, no_history):
    common = {"experiment": "latent_memorisation", "probe": "masc", "setting": "0.99", "metric": "accuracy"}
    records = [
        {"degree": degree, "split": split, "labels": labels, "value": value}
        for degree, values in {0.2: (0.9, 0.8, 0.7), 1.0: (0.6, 0.1, 0.2)}.items()
        for (split, labels), value in zip(
            [("train", "noisy"), ("train", "true"), ("test", "true")], values, strict=True
        )
    ]
    rows = rows_of(records, {**common, "fitted_on": "noisy", "layer": "fc1"}, corruption=0.0)
    table = TABLES["latent"].build(rows, no_history)
    names = ["degree", "layer", "train_noisy", "train_true", "test"]
    assert table[names].to_numpy().tolist() == [[0.2, "fc1", 0.9, 0.8, 0.7], [1.0, "fc1", 0.6, 0.1, 0.2]]


def test_similarity_layer_by_layer(rows_of, no_history):
    cosine = {"metric": "principal_cosine", "fitted_on": "noisy"}
    records = [
        {"metric": "cka", "value": 0.5},
        {**cosine, "class": 0, "value": 0.2},
        {**cosine, "class": 1, "value": 0.4},
        {**cosine, "fitted_on": "true", "class": 0, "value": 0.8},
        {**cosine, "metric": "principal_cosine_chance", "class": 0, "value": 0.1},
    ]
    rows = rows_of(records, {"experiment": "similarity", "layer": "fc1"})
    line = TABLES["similarity"].build(rows, no_history).iloc[0]
    assert (line["layer"], line["cka"], line["principal_cosine_true"]) == ("fc1", 0.5, 0.8)
    assert line["principal_cosine_noisy"] == pytest.approx(0.3)
    assert line["chance_noisy"] == 0.1
