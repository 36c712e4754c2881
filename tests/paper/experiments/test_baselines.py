from dataclasses import replace

import pandas as pd
import pytest
import torch

from layerprobe import MASC, capture
from layerprobe.paper import RunSpec, build_network, execute
from layerprobe.paper.experiments import controls, noisy_subspaces, true_subspaces
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.runs.states import variant

SPEC = RunSpec.of("mlp-digits", 0.6, 0, subset=300, test_subset=100, max_epochs=4)
SAME = ["layer", "fitted_on", "split", "labels", "metric"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def subject(root):
    execute(SPEC, root)
    return FinishedRun.of(SPEC, root)


def test_at_the_input_training_makes_no_difference(subject):
    rows = controls(subject)
    untrained = rows[rows["layer"] == "input"].set_index(SAME)["value"]
    trained = pd.concat([noisy_subspaces(subject), true_subspaces(subject)])
    trained = trained[(trained["layer"] == "input") & (trained["setting"] == "0.99")]
    trained = trained[trained["metric"] == "accuracy"].set_index(SAME)["value"]
    pd.testing.assert_series_equal(untrained, trained, check_exact=True)


def test_hidden_layers_are_those_of_the_initial_network(subject):
    images = subject.images
    scaled = (torch.tensor(x).unsqueeze(1) / 16 * 2 - 1 for x in (images.train_images, images.test_images))
    model = build_network(SPEC)
    train_rows, test_rows = (capture(model, x, ["fc2"]).outputs["fc2"] for x in scaled)
    expected = MASC().fit(train_rows, subject.noisy).score(test_rows, subject.test_labels)
    rows = controls(subject)
    row = rows[(rows["layer"] == "fc2") & (rows["fitted_on"] == "noisy") & (rows["split"] == "test")]
    assert row["value"].tolist() == [expected]
    assert row[["setting", "probe", "labels"]].to_numpy().tolist() == [["untrained", "masc", "true"]]


def test_best_and_last_epoch_are_those_of_the_history(subject):
    history = subject.run.history.assign(test_accuracy=[0.3, 0.9, 0.9, 0.5])
    rows = controls(replace(subject, run=replace(subject.run, history=history)))
    epochs = rows[rows["layer"] == "output"].set_index("setting")
    assert epochs["epoch"].to_dict() == {"best_epoch": 2, "last_epoch": 4}
    assert epochs["value"].to_dict() == {"best_epoch": 0.9, "last_epoch": 0.5}
    assert set(epochs["probe"]) == {"network"}
    assert set(epochs["split"] + "/" + epochs["labels"]) == {"test/true"}


def test_equal_labels_are_fitted_once(root):
    clean = replace(SPEC, corruption=0.0)
    execute(clean, root)
    rows = controls(FinishedRun.of(clean, root))
    assert set(rows[rows["probe"] == "masc"]["fitted_on"]) == {"noisy"}


def test_rows_repeat_bit_for_bit(subject, root):
    pd.testing.assert_frame_equal(controls(subject), controls(FinishedRun.of(SPEC, root)), check_exact=True)


def test_run_with_adam_has_the_same_rows_as_with_sgd():
    usual = RunSpec.of("mlp-mnist", 0.4, 1)
    adam = RunSpec.of("mlp-mnist", 0.4, 1, optimizer="adam", learning_rate=1e-3)
    assert usual.recipe.optimizer == "sgd"
    assert adam.recipe == replace(usual.recipe, optimizer="adam", learning_rate=1e-3, momentum=0.0)
    assert replace(adam, recipe=usual.recipe) == usual  # all seeds, and so the labels, are the same
    assert "optimizer adam" in variant(adam)
    assert variant(usual) == ""
