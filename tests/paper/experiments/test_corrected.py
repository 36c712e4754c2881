from dataclasses import replace

import pytest

from layerprobe.paper import RunSpec
from layerprobe.paper.experiments import (
    EXPERIMENTS,
    corrected,
    corrected_retraining,
    corrected_subspaces,
    retraining,
)
from layerprobe.paper.experiments.relabelling import relabel_statistics, split_test
from layerprobe.probes import MASC

P = 0.6


def one(rows, **which):
    for column, value in which.items():
        rows = rows[rows[column] == value]
    (number,) = rows["value"]
    return number


def test_accuracies_are_those_of_masc_without_the_noise(memorised):
    rows = corrected_subspaces(memorised)
    assert list(rows.loc[rows["probe"] == "masc", "layer"].unique()) == ["input", "fc1", "fc2", "fc3"]
    for layer in ("input", "fc2"):
        data = memorised.outputs[layer]
        for setting, p in {"p": P, "p - 0.1": P - 0.1, "p + 0.1": P + 0.1}.items():
            masc = MASC(noise=p).fit(data.train, memorised.noisy)
            here = rows[(rows["layer"] == layer) & (rows["setting"] == setting)]
            assert set(here["fitted_on"]) == {"noisy"}
            assert one(here, split="test") == masc.score(data.test, memorised.test_labels)
            for labels, reference in memorised.label_sets.items():
                assert one(here, split="train", labels=labels) == masc.score(data.train, reference)
    right = memorised.outputs.logits.test.argmax(1).numpy() == memorised.test_labels
    assert one(rows, layer="output", split="test") == right.mean()


def test_the_layer_best_on_a_fifth_of_the_test_data_relabels(memorised):
    rows = corrected_retraining(memorised)
    validation = split_test(memorised.test_labels).validation
    scores, labels = {}, {}
    for layer, data in memorised.outputs.items():
        masc = MASC(noise=P).fit(data.train, memorised.noisy)
        scores[layer] = masc.score(data.test[validation], memorised.test_labels[validation])
        labels[layer] = masc.predict(data.train).numpy()
    best = max(scores, key=scores.get)
    assert set(rows["layer"]) == {best}
    assert set(rows["fitted_on"]) == {"noisy"}
    for metric, share in relabel_statistics(memorised.noisy, labels[best], memorised.true).items():
        assert one(rows, metric=metric) == share
    own = retraining(memorised)
    before = {"probe": "network", "setting": "early_stopping", "epoch": 0, "split": "evaluation"}
    assert one(rows, **before) == one(own, fitted_on="noisy", **before)  # the same network
    relabelled = {"setting": "early_stopping", "epoch": 0, "labels": "relabelled"}
    predicted = memorised.outputs.logits.train.argmax(1).numpy()
    assert one(rows, **relabelled) == (predicted == labels[best]).mean()


def test_noise_taken_out_stays_between_0_and_1(memorised):
    rows = {}
    for p in (0.05, 0.97):
        finished = replace(memorised, run=replace(memorised.run, spec=replace(memorised.spec, corruption=p)))
        rows[p] = corrected_subspaces(finished)
    data = memorised.outputs["fc1"]
    for p, setting, taken in ((0.05, "p - 0.1", 0.0), (0.97, "p + 0.1", 0.99)):
        masc = MASC(noise=taken).fit(data.train, memorised.noisy)
        expected = masc.score(data.test, memorised.test_labels)
        assert one(rows[p], layer="fc1", setting=setting, split="test") == expected


def test_layers_with_large_decompositions_are_left_out(memorised, monkeypatch):
    sizes = {layer: min(data.train.shape) for layer, data in memorised.outputs.items()}
    monkeypatch.setattr(corrected, "LIMIT_OF_SUBSET", 10 * sizes["input"] ** 3)
    rows = corrected_subspaces(memorised)
    small = [layer for layer, size in sizes.items() if size <= sizes["input"]]
    assert small != list(sizes)
    assert list(rows.loc[rows["probe"] == "masc", "layer"].unique()) == small


@pytest.mark.parametrize("name", ["corrected_subspaces", "corrected_retraining"])
def test_only_runs_with_uniform_noise_have_noise_to_take_out(name):
    applies = EXPERIMENTS[name].applies
    assert [applies(RunSpec.of("mlp-digits", p, 0)) for p in (0.0, 0.2, 0.8, 1.0)] == [
        False,
        True,
        True,
        False,
    ]
    assert not applies(RunSpec.of("mlp-digits", 0.4, 0, noise="pair_flip"))
    assert not applies(RunSpec.of("cnn-cifar10", None, 0, noise="cifar-10n:worst"))
