import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES

BEFORE = 0.5


def network(setting, split, values):
    """Accuracies after each epoch, the one before training first."""
    common = {"probe": "network", "setting": setting, "split": split, "labels": "true", "metric": "accuracy"}
    return [{**common, "epoch": epoch, "value": value} for epoch, value in enumerate(values)]


def retraining(rows_of, layer="fc1", corrected=0.6, masc=0.85, seed=0, fitted_on="noisy"):
    own = {"probe": "masc", "split": "evaluation", "labels": "true", "metric": "accuracy"}
    statistics = {"corrected": corrected, "broken": 0.1, "incorrect_before": 0.5, "incorrect_after": 0.25}
    records = [
        *network("early_stopping", "validation", (0.99, 0.7, 0.8, 0.8, 0.75)),
        *network("early_stopping", "evaluation", (BEFORE, 0.6, 0.71, 0.72, 0.65 + seed / 10)),
        *network("ten_epochs", "validation", (0.99, 0.9, 0.8)),
        *network("ten_epochs", "evaluation", (BEFORE, 0.61, 0.66)),
        {**own, "value": masc},
        {**own, "split": "validation", "value": 0.1},
        *({"probe": "masc", "split": "train", "metric": name, "value": v} for name, v in statistics.items()),
    ]
    common = {"experiment": "retraining", "layer": layer, "fitted_on": fitted_on}
    return rows_of(records, common, seed=seed)


@pytest.fixture
def rows(rows_of):
    parts = [
        retraining(rows_of),
        retraining(rows_of, "fc2", 0.8, 0.95, seed=1),
        retraining(rows_of, fitted_on="true"),
    ]
    return pd.concat(parts, ignore_index=True)


def test_share_of_incorrect_labels_and_its_relative_change(rows, no_history):
    (line,) = TABLES["table6"].build(rows, no_history).to_dict("records")
    assert (line["corrupted"], line["relabelled_noisy"], line["relabelled_true"]) == (0.5, 0.25, 0.25)
    assert line["improvement_noisy"] == 0.5
    assert (line["layers_noisy"], line["layers_true"], line["seeds"]) == ("fc1, fc2", "fc1", 2)


def test_corrected_and_broken_labels(rows, no_history):
    (corrected,) = TABLES["table7"].build(rows, no_history).to_dict("records")
    assert corrected["corrected_noisy"] == pytest.approx(0.7)
    assert corrected["corrected_noisy_spread"] == pytest.approx(0.2 / 2**0.5)
    assert corrected["corrected_true"] == 0.6
    (broken,) = TABLES["table8"].build(rows, no_history).to_dict("records")
    assert (broken["broken_noisy"], broken["broken_true"]) == (0.1, 0.1)


def test_before_and_after_retraining(rows, no_history):
    table = TABLES["retraining"].build(rows, no_history)
    early, fixed = table[table["fitted_on"] == "noisy"].to_dict("records")
    assert (early["setting"], fixed["setting"]) == ("early_stopping", "ten_epochs")
    assert (early["before"], fixed["before"]) == (BEFORE, BEFORE)
    assert early["last_epoch"] == pytest.approx(0.7)  # of .65 and .75
    # epoch 0 is no epoch of retraining; of epochs 2 and 3 with the same validation accuracy the first
    assert early["best_validation_epoch"] == pytest.approx(0.71)
    assert (fixed["best_validation_epoch"], fixed["last_epoch"]) == (0.61, 0.66)
    assert early["masc"] == pytest.approx(0.9)
    assert (early["layers"], early["seeds"]) == ("fc1, fc2", 2)
    true = table[table["fitted_on"] == "true"]
    assert true["last_epoch"].tolist() == [0.65, 0.66]
    assert set(true["seeds"]) == {1}


def test_relabelling_without_the_noise_is_a_table_of_its_own(rows, no_history):
    again = rows[rows["fitted_on"] == "noisy"].assign(experiment="corrected_retraining")
    again["value"] /= 2
    (line,) = TABLES["corrected_retraining"].build(pd.concat([rows, again]), no_history).to_dict("records")
    expected = {"corrected": 0.35, "broken": 0.05, "incorrect_after": 0.125, "masc": 0.45, "before": 0.25}
    assert {name: line[name] for name in expected} == pytest.approx(expected)
    assert line["last_epoch"] == pytest.approx((0.65 + 0.75) / 4)
    assert (line["layers"], line["seeds"]) == ("fc1, fc2", 2)
