import numpy as np
import pytest

import reference
from layerprobe.paper.experiments import flipped_rows, latent_memorisation, noisy_subspaces, true_subspaces
from layerprobe.paper.experiments.subspaces import SETTINGS
from layerprobe.probes import MASC

ACCURACIES = [("train", "noisy"), ("train", "true"), ("test", "true")]


def one(rows, **equal):
    for column, value in equal.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1
    return rows["value"].iloc[0]


@pytest.mark.parametrize(("experiment", "fitted_on"), [(noisy_subspaces, "noisy"), (true_subspaces, "true")])
@pytest.mark.parametrize(("setting", "strength"), [("0.99", {"variance": 0.99}), ("1pc", {"components": 1})])
def test_accuracies_and_components_are_those_of_the_literal_algorithm(
    memorised, experiment, fitted_on, setting, strength
):
    rows, layer = experiment(memorised), "fc2"
    data = memorised.outputs[layer]
    fitted = reference.fit(data.train.numpy(), memorised.label_sets[fitted_on], 10, **strength)
    chosen = {"layer": layer, "setting": setting, "fitted_on": fitted_on, "metric": "accuracy"}
    for (split, labels), X, truth in zip(
        ACCURACIES,
        (data.train, data.train, data.test),
        (memorised.noisy, memorised.true, memorised.test_labels),
        strict=True,
    ):
        right = reference.predict(X.numpy(), fitted) == truth
        assert one(rows, split=split, labels=labels, **chosen) == right.mean()
    if setting == "0.99":
        kept = rows[
            (rows["layer"] == layer) & (rows["setting"] == setting) & (rows["metric"] == "components")
        ]
        assert kept["value"].tolist() == [subspace.rank for subspace in fitted]
        assert kept["class"].tolist() == list(range(10))


def test_every_setting_is_that_of_a_probe_fitted_for_it(memorised):
    rows, data = noisy_subspaces(memorised), memorised.outputs["fc1"]
    for setting, variance in SETTINGS.items():
        strength = {"components": 1} if variance is None else {"variance": variance}
        alone = MASC(**strength).fit(data.train, memorised.noisy)
        assert one(rows, layer="fc1", setting=setting, split="test", metric="accuracy") == pytest.approx(
            alone.score(data.test, memorised.test_labels)
        )


def test_rows_include_the_accuracies_of_the_network(memorised):
    rows = noisy_subspaces(memorised)
    output = rows[rows["layer"] == "output"]
    assert list(zip(output["split"], output["labels"], strict=True)) == ACCURACIES
    test = one(output, split="test")
    assert test == pytest.approx(memorised.run.history["test_accuracy"].iloc[-1])


def test_every_probed_layer_is_there_in_order(memorised):
    rows = noisy_subspaces(memorised)
    assert list(rows.loc[rows["probe"] == "masc", "layer"].unique()) == ["input", "fc1", "fc2", "fc3"]


def test_latent_memorisation_uses_labels_that_were_corrupted_after_training(generalised, memorised):
    rows = latent_memorisation(generalised)
    assert rows["degree"].unique().tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    labels = generalised.labels_at(0.6)
    # the draw of the network that was trained at this degree: the same noise seed
    assert np.array_equal(labels, memorised.noisy)
    masc = MASC(variance=0.99).fit(generalised.outputs["fc2"].train, labels)
    expected = masc.score(generalised.outputs["fc2"].test, generalised.test_labels)
    assert one(rows, layer="fc2", degree=0.6, split="test") == expected


def test_accuracies_on_flipped_and_unflipped_rows(memorised):
    rows = flipped_rows(memorised)
    flipped = memorised.noisy != memorised.true
    assert one(rows, metric="flipped_share") == flipped.mean()
    for layer in ("fc1", "output"):
        for fitted_on in ("noisy", "true") if layer == "fc1" else ("",):
            if fitted_on:
                data = memorised.outputs[layer]
                masc = MASC().fit(data.train, memorised.label_sets[fitted_on])
                predicted = masc.predict(data.train).numpy()
            else:
                predicted = memorised.outputs.logits.train.argmax(1).numpy()
            here = rows[(rows["layer"] == layer) & (rows["fitted_on"] == fitted_on)]
            measured = {(line["split"], line["labels"]): line["value"] for line in here.to_dict("records")}
            assert measured == {
                ("flipped", "noisy"): (predicted == memorised.noisy)[flipped].mean(),
                ("flipped", "true"): (predicted == memorised.true)[flipped].mean(),
                ("unflipped", "true"): (predicted == memorised.true)[~flipped].mean(),
            }
