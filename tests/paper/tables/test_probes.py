import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES

TEST = {"experiment": "probes", "split": "test", "labels": "true", "metric": "accuracy"}


def probe_rows(rows_of, values, **run):
    records = [
        {"probe": probe, "layer": layer, "fitted_on": fitted_on, "value": value, "setting": "".join(seed)}
        for (probe, layer, fitted_on, *seed), value in values.items()
    ]
    return rows_of([*records, {"probe": "network", "layer": "output", "value": 1.0}], TEST, **run)


def test_every_probe_at_its_best_layer_without_the_input(rows_of, no_history):
    values = {
        ("logistic", "input", "noisy"): 0.99,
        ("logistic", "fc1", "noisy"): 0.6,
        ("logistic", "fc2", "noisy"): 0.7,
        ("knn", "fc4", "noisy"): 0.97,
        ("masc", "fc1", "noisy"): 0.8,
        ("knn", "fc1", "true"): 0.9,
    }
    table = TABLES["probes"].build(probe_rows(rows_of, values), no_history)
    here = table.query("pair == 'mlp-mnist' and corruption == 0.2").set_index(["fitted_on", "probe"])
    logistic, knn = here.loc[("noisy", "logistic")], here.loc[("noisy", "knn")]
    assert (logistic["layer"], logistic["ours"], logistic["verdict"]) == ("fc2", 0.7, "one probe seed")
    assert logistic["published"] > 0.8  # published as "logreg"
    assert (knn["published_layer"], knn["published"], knn["verdict"]) == ("fc4", 0.9656, "reproduced")
    assert here.loc[("noisy", "masc"), "verdict"] == "not published"
    assert here.loc[("noisy", "lda"), "verdict"] == "not run"
    assert "network" not in set(table["probe"])
    assert len(table) == 351


def test_seeds_of_a_probe_give_a_spread_and_a_verdict(rows_of, no_history):
    seeds = {("logistic", "fc1", "noisy", f"seed {i}"): value for i, value in enumerate((0.75, 0.85, 0.95))}
    table = TABLES["probes"].build(probe_rows(rows_of, seeds), no_history)
    line = table.query("pair == 'mlp-mnist' and corruption == 0.2 and probe == 'logistic'").iloc[0]
    assert (line["ours"], line["ours_spread"]) == (pytest.approx(0.85), pytest.approx(0.1))
    assert (line["seeds"], line["probe_seeds"], line["verdict"]) == (1, 3, "reproduced")  # within .2


def test_without_corruption_both_label_sets_are_one(rows_of, no_history):
    rows = probe_rows(rows_of, {("knn", "fc3", "noisy"): 0.98}, corruption=0.0)
    table = TABLES["probes"].build(rows, no_history)
    assert set(table.loc[table["ours"].notna(), "fitted_on"]) == {"noisy", "true"}
    twice = pd.concat([rows, probe_rows(rows_of, {("knn", "fc3", "true"): 0.5}, corruption=0.0)])
    table = TABLES["probes"].build(twice, no_history).dropna(subset="ours").set_index("fitted_on")
    assert table["ours"].to_dict() == {"noisy": 0.98, "true": 0.5}


def test_cost_is_a_mean_over_runs(rows_of, no_history):
    def run(seed, seconds):
        metrics = {"fit_flops": 1e9, "predict_flops": 2e6, "fit_seconds": seconds, "peak_bytes": 3e6}
        records = [{"metric": name, "value": value} for name, value in metrics.items()]
        return rows_of(records, {"experiment": "cost", "layer": "fc1", "probe": "masc"}, seed=seed)

    table = TABLES["cost"].build(pd.concat([run(0, 1.0), run(1, 3.0)]), no_history)
    line = table.iloc[0]
    assert (line["layer"], line["probe"], line["seeds"]) == ("fc1", "masc", 2)
    assert (line["fit_flops"], line["predict_flops"], line["peak_bytes"]) == (1e9, 2e6, 3e6)
    assert (line["fit_seconds"], line["fit_seconds_spread"]) == (2.0, pytest.approx(2**0.5))
    assert "fit_flops_spread" not in table
