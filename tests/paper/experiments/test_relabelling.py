import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from layerprobe.data import ImageSet
from layerprobe.errors import DataError
from layerprobe.paper import RunSpec, execute
from layerprobe.paper.experiments import retraining
from layerprobe.paper.experiments.relabelling import relabel_statistics, split_test
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.probes import MASC
from layerprobe.runs import data as run_images
from layerprobe.training import accuracy

SPEC = RunSpec.of("mlp-digits", 0.6, 0, subset=300, max_epochs=60)
NETWORK = [("evaluation", "true"), ("validation", "true"), ("train", "true"), ("train", "relabelled")]


def test_relabel_statistics_by_hand():
    """Six labels, the last three wrong: one right label is broken, two wrong labels are corrected."""
    true = np.array([0, 1, 2, 0, 1, 2])
    given = np.array([0, 1, 2, 1, 2, 0])
    relabelled = np.array([0, 1, 0, 0, 1, 1])  # the last stays wrong, in another way
    assert relabel_statistics(given, relabelled, true) == {
        "corrected": pytest.approx(2 / 3),
        "broken": pytest.approx(1 / 3),
        "incorrect_before": 0.5,
        "incorrect_after": pytest.approx(2 / 6),
    }
    unchanged = relabel_statistics(given, given, true)
    assert unchanged == {"corrected": 0, "broken": 0, "incorrect_before": 0.5, "incorrect_after": 0.5}


def test_a_share_of_no_labels_is_nan():
    labels = np.array([0, 1])
    right, wrong = relabel_statistics(labels, labels, labels), relabel_statistics(1 - labels, labels, labels)
    assert math.isnan(right["corrected"])
    assert right["broken"] == 0
    assert math.isnan(wrong["broken"])
    assert wrong["corrected"] == 1


def test_the_split_takes_a_fifth_of_every_class():
    labels = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [50, 100, 27]))
    validation, evaluation = split_test(labels)
    assert np.array_equal(np.sort(np.concatenate([validation, evaluation])), np.arange(177))
    assert np.bincount(labels[validation]).tolist() == [10, 20, 5]
    assert all((np.diff(part) > 0).all() for part in (validation, evaluation))
    assert np.array_equal(split_test(labels)[0], validation)


@pytest.fixture(scope="module")
def planted():
    """Ten classes with six pixels of their own each, at random intensities.

    The classes lie in orthogonal subspaces, so true subspaces classify every image at the input already.
    """
    rng = np.random.default_rng(0)

    def draw(n):
        labels = np.arange(n) % 10
        images = np.zeros((n, 64), dtype=np.uint8)
        for image, k in zip(images, labels, strict=True):
            image[6 * k : 6 * k + 6] = rng.integers(6, 17, size=6)
        return images.reshape(n, 8, 8), labels

    images = ImageSet("planted", *draw(300), *draw(200), tuple(map(str, range(10))), 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_images, "load", lambda *_: images)
        yield


@pytest.fixture(scope="module")
def subject(planted, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    execute(SPEC, root)
    return FinishedRun.of(SPEC, root)


@pytest.fixture(scope="module")
def rows(subject):
    return retraining(subject)


def of(rows, fitted_on, setting, **where):
    chosen = rows[(rows["fitted_on"] == fitted_on) & (rows["setting"] == setting)]
    for column, value in where.items():
        chosen = chosen[chosen[column] == value]
    return chosen


def test_true_subspaces_of_separable_classes_correct_every_label(subject, rows):
    itself = of(rows, "true", "")
    assert set(itself["layer"]) == {"input"}  # all layers are right on every image; the first is chosen
    assert itself.set_index("metric")["value"].drop("accuracy").to_dict() == {
        "corrected": 1,
        "broken": 0,
        "incorrect_before": (subject.noisy != subject.true).mean(),
        "incorrect_after": 0,
    }
    measured = itself[itself["metric"] == "accuracy"]
    assert measured.set_index("split")["value"].to_dict() == {"evaluation": 1, "validation": 1}


def test_retraining_on_corrected_labels_repairs_the_network(subject, rows):
    """The mean over three seeds: early stopping may end one run at 0.96, depending on float rounding."""
    of_seeds = [rows]
    for seed in (1, 2):
        spec = RunSpec.of("mlp-digits", 0.6, seed, subset=300, max_epochs=60)
        execute(spec, subject.root)
        of_seeds.append(retraining(FinishedRun.of(spec, subject.root)))
    networks = [of(one, "true", "early_stopping", split="evaluation")["value"] for one in of_seeds]
    assert np.mean([network.iloc[0] for network in networks]) < 0.9  # 60 epochs on labels mostly wrong
    assert np.mean([network.iloc[-1] for network in networks]) > 0.97


def test_the_layer_is_the_one_that_does_best_on_the_validation_part(subject, rows):
    validation, evaluation = split_test(subject.test_labels)
    fitted = {layer: MASC().fit(data.train, subject.noisy) for layer, data in subject.outputs.items()}
    right = {
        layer: masc.predict(subject.outputs[layer].test).numpy() == subject.test_labels
        for layer, masc in fitted.items()
    }
    best = max(right, key=lambda layer: right[layer][validation].mean())
    assert len({right[layer][validation].mean() for layer in right}) > 1
    assert set(rows[rows["fitted_on"] == "noisy"]["layer"]) == {best}
    itself = of(rows, "noisy", "")
    measured = itself[itself["metric"] == "accuracy"].set_index("split")["value"].to_dict()
    assert measured == {
        "evaluation": right[best][evaluation].mean(),
        "validation": right[best][validation].mean(),
    }
    relabelled = fitted[best].predict(subject.outputs[best].train).numpy()
    expected = relabel_statistics(subject.noisy, relabelled, subject.true)
    assert itself.set_index("metric")["value"].drop("accuracy").to_dict() == expected
    before = of(rows, "noisy", "early_stopping", epoch=0).set_index(["split", "labels"])["value"]
    predicted = subject.outputs.logits.train.argmax(1).numpy()
    assert before["train", "relabelled"] == (predicted == relabelled).mean()
    assert before["train", "true"] == (predicted == subject.true).mean()


@pytest.mark.parametrize("fitted_on", ["noisy", "true"])
def test_rows_of_both_variants(subject, rows, fitted_on):
    early, ten = (of(rows, fitted_on, setting) for setting in ("early_stopping", "ten_epochs"))
    for variant in (early, ten):
        assert set(variant["probe"]) == {"network"}
        keys = variant[["split", "labels", "epoch"]].itertuples(index=False, name=None)
        last = variant["epoch"].max()
        assert sorted(keys) == sorted((*kind, epoch) for kind in NETWORK for epoch in range(last + 1))
    assert ten["epoch"].max() == 10
    common = min(early["epoch"].max(), 10)
    same = [variant[variant["epoch"] <= common]["value"].tolist() for variant in (early, ten)]
    assert same[0] == same[1]  # until one of them ends
    after_start = early[(early["split"] == "validation") & (early["epoch"] > 0)]
    best = after_start.loc[after_start["value"].idxmax(), "epoch"]
    assert early["epoch"].max() == min(best + 3, 30)


def test_epoch_0_is_the_network_on_disk(subject, rows):
    _, evaluation = split_test(subject.test_labels)
    inputs = subject.inputs.test[evaluation]
    labels = subject.inputs.test.new_tensor(subject.test_labels[evaluation]).long()
    before = of(rows, "true", "early_stopping", epoch=0, split="evaluation")["value"].tolist()
    assert before == [accuracy(subject.model(), inputs, labels)]


def test_repeated_rows_have_the_same_bits_and_the_run_is_unchanged(subject, rows):
    files = {path: path.read_bytes() for path in subject.run.folder.rglob("*") if path.is_file()}
    again = retraining(FinishedRun.of(SPEC, subject.root))
    pd.testing.assert_frame_equal(rows, again, check_exact=True)
    assert {p: p.read_bytes() for p in subject.run.folder.rglob("*") if p.is_file()} == files


def test_too_few_test_images_are_named(planted, tmp_path):
    tiny = replace(SPEC, test_subset=20, recipe=replace(SPEC.recipe, max_epochs=1))
    execute(tiny, tmp_path)
    with pytest.raises(DataError, match=r"at least 3 per class; mlp-digits has 20"):
        retraining(FinishedRun.of(tiny, tmp_path))
