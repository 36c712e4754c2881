import json
from dataclasses import replace

import numpy as np
import pytest

from layerprobe.data import ImageSet, load, noise
from layerprobe.data.noise import Noise
from layerprobe.errors import InputError
from layerprobe.paper import RunSpec, build_network, pair, run_data
from layerprobe.runs import data as run_images
from layerprobe.training import Seeds

SPEC = RunSpec.of("mlp-digits", 0.6, 0)


def test_seeds_derive_from_one_seed():
    seeds = Seeds.derive(7)
    spec = RunSpec.of("mlp-mnist", 0.2, 7)
    assert (spec.noise_seed, spec.init_seed, spec.order_seed) == (seeds.noise, seeds.init, seeds.order)
    assert spec.recipe == pair("mlp-mnist").recipe


def test_published_protocol_shares_noise_and_does_not_shuffle():
    spec = RunSpec.of("mlp-mnist", 0.2, 7, protocol="published")
    assert (spec.noise, spec.noise_seed, spec.recipe.shuffle) == ("published", None, False)
    assert RunSpec.of("mlp-mnist", 0.2, 7, noise="published").recipe.shuffle


def test_overrides_change_the_recipe_unless_none():
    spec = RunSpec.of("mlp-mnist", 0.4, 0, optimizer="adam", batch_size=None, max_epochs=9)
    assert (spec.recipe.optimizer, spec.recipe.momentum) == ("adam", 0.0)  # which Adam has not
    assert (spec.recipe.batch_size, spec.recipe.max_epochs) == (32, 9)


def test_canonical_json_and_key_are_fixed():
    """Changing either orphans every run that was ever made."""
    assert json.loads(SPEC.canonical_json()) == SPEC.to_dict()
    assert SPEC.canonical_json() == (
        '{"corruption":0.6,"init_seed":3677149159,"noise":"uniform","noise_seed":2968811710,"options":{},'
        '"order_seed":745650761,"pair":"mlp-digits","recipe":{"batch_size":32,"learning_rate":0.001,'
        '"max_epochs":500,"momentum":0.0,"optimizer":"adam","shuffle":true,"target":0.999},"seed":0,'
        '"subset":null}'
    )
    assert SPEC.folder_name == "p0.6-s0-6656bc5121ad"


def test_spec_is_equal_after_json():
    spec = RunSpec.of("cnn-mnist", 0.2, 3, options={"dropout": 0.5}, subset=500, protocol="published")
    back = RunSpec.from_dict(json.loads(spec.canonical_json()))
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.key == spec.key


def test_key_does_not_depend_on_types_of_numbers():
    a = RunSpec.of("mlp-digits", 1, 0, target=1, subset=100, options={"num_classes": 10})
    b = RunSpec.of("mlp-digits", np.float64(1), np.int64(0), target=1.0, subset=np.int64(100))
    b = replace(b, options={"num_classes": 10})
    assert a.key == b.key


def test_different_specs_have_different_keys_and_folders():
    others = [
        RunSpec.of("mlp-digits", 0.4, 0),
        RunSpec.of("mlp-digits", 0.6, 1),
        RunSpec.of("mlp-digits", 0.6, 0, protocol="published"),
        RunSpec.of("mlp-digits", 0.6, 0, noise="published"),
        RunSpec.of("mlp-digits", 0.6, 0, subset=100),
        RunSpec.of("mlp-digits", 0.6, 0, optimizer="sgd"),
        RunSpec.of("mlp-digits", 0.6, 0, learning_rate=1e-4),
        RunSpec.of("mlp-digits", 0.6, 0, options={"num_classes": 10}),
        RunSpec.of("cnn-mnist", 0.6, 0),
        replace(SPEC, seed=None, init_seed=5),
    ]
    assert len({spec.folder_name for spec in [SPEC, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunSpec.of("mlp", 0.6, 0), "There is no pair 'mlp'"),
        (lambda: RunSpec.of("mlp-digits", 1.5, 0), r"corruption.*\[0, 1\], got 1.5"),
        (lambda: RunSpec.of("mlp-digits", np.nan, 0), "corruption.*got nan"),
        (lambda: RunSpec.of("mlp-digits", None, 0), "corruption must be a probability.*None"),
        (lambda: RunSpec.of("mlp-digits", 0.2, 0, noise="cifar-10n:worst"), "None for human labels, got 0.2"),
        (lambda: RunSpec.of("cnn-cifar10", None, 0, noise="a:b"), "There is no set of human labels 'a'"),
        (
            lambda: RunSpec.of("cnn-cifar10", None, 0, noise="cifar-10n:b"),
            "There is no annotation of cifar-10n 'b'",
        ),
        (lambda: RunSpec.of("mlp-digits", 0.2, 0, noise="salt"), "noise must be.*got 'salt'"),
        (lambda: RunSpec.of("mlp-digits", 0.2, 0, protocol="none"), "protocol must be.*got 'none'"),
        (lambda: RunSpec.of("mlp-digits", 0.2, 0, batches=3), "Unknown: batches. A recipe has optimizer"),
        (lambda: RunSpec.of("mlp-digits", 0.2, 0, subset=-1), "subset must be a whole number"),
        (lambda: replace(SPEC, noise_seed=None), "noise_seed must be given"),
        (lambda: replace(SPEC, noise="published"), "None for any other"),
        (lambda: replace(SPEC, init_seed=1), "seed must be None unless"),
        (lambda: replace(SPEC, seed=None, order_seed=-1), "order_seed must be a whole number"),
    ],
)
def test_invalid_spec_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_labels_are_those_of_the_noise():
    digits = load("digits")
    images, labels = run_data(SPEC)
    assert images.fingerprint == digits.fingerprint
    assert np.array_equal(labels, noise.uniform(digits.train_labels, 0.6, 10, SPEC.noise_seed).labels)
    _, labels = run_data(RunSpec.of("mlp-digits", 0.6, 0, noise="published"))
    assert np.array_equal(labels, noise.published(digits.train_labels, 0.6, 10).labels)


@pytest.mark.parametrize("kind", ["uniform", "published"])
def test_image_has_the_same_label_in_every_subset(kind):
    whole, all_labels = run_data(RunSpec.of("mlp-digits", 0.6, 0, noise=kind))
    images, labels = run_data(RunSpec.of("mlp-digits", 0.6, 0, noise=kind, subset=200))
    assert len(labels) == len(images.train_images) == 200
    assert np.bincount(images.train_labels).tolist() == [20] * 10
    assert np.array_equal(images.train_images, whole.train_images[images.train_index])
    assert np.array_equal(labels, all_labels[images.train_index])
    assert len(images.test_images) == len(whole.test_images)


def test_published_draw_needs_the_whole_set(monkeypatch):
    part = load("digits").subset(500)
    monkeypatch.setattr(run_images, "load", lambda name, root: part)
    with pytest.raises(InputError, match="needs all 1437 training images of 'digits', but only 500"):
        run_data(RunSpec.of("mlp-digits", 0.6, 0, protocol="published", subset=100))


def test_incomplete_data_set_is_refused(monkeypatch):
    part = load("digits").subset(500)
    monkeypatch.setattr(run_images, "load", lambda name, root: part)
    with pytest.raises(InputError, match="1437 images, but 500 of 'digits' are present: name a subset"):
        run_data(SPEC)
    assert len(run_data(RunSpec.of("mlp-digits", 0.6, 0, subset=500))[1]) == 500


def test_equal_specs_have_equal_json():
    usual = RunSpec.of("mlp-mnist", 0.0, 0, options={"hidden": (5, 6)})
    others = [
        RunSpec.of("mlp-mnist", -0.0, 0, options={"hidden": [5, 6]}),
        RunSpec.of("mlp-mnist", 0, 0, options={"hidden": (5, 6)}, batch_size=32.0, shuffle=1),
        RunSpec.of("mlp-mnist", 0, np.int64(0), options={"hidden": (5, 6)}, batch_size=np.int64(32)),
        RunSpec.from_dict(json.loads(usual.canonical_json())),
    ]
    assert {spec.key for spec in others} == {usual.key}
    assert set(others) == {usual}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 32.5}, "whole number"),
        ({"max_epochs": 5.5}, "whole number"),
        ({"target": 99.9}, "share"),
        ({"target": float("nan")}, "share"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum applies to SGD only"),
        ({"subset": 100.9}, "whole number"),
        ({"noise": "a:../../x"}, "human labels as"),
    ],
    ids=str,
)
def test_invalid_numbers_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        RunSpec.of("mlp-mnist", 0.4, 0, **changes)


def test_unknown_network_option_is_named():
    with pytest.raises(InputError, match=r"mlp-digits cannot be built with .*dropout"):
        build_network(RunSpec.of("mlp-digits", 0.4, 0, options={"dropout": 0.5}))


def test_human_labels_of_other_images_are_refused(monkeypatch):
    digits = load("digits")
    given = (digits.train_labels + (np.arange(1437) % 3 == 0)) % 10
    record = Noise(given, given != digits.train_labels, {})
    monkeypatch.setattr(run_images, "human_labels", lambda name, kind, root: record)
    spec = RunSpec.of("mlp-digits", None, 0, noise="cifar-10n:worst", subset=100)
    images, labels = run_data(spec)
    assert np.array_equal(labels, given[images.train_index])
    assert spec.folder_name.startswith("cifar-10n-worst-s0-")

    shuffled = ImageSet(
        "shuffled",
        digits.train_images[::-1],
        digits.train_labels[::-1],
        digits.test_images,
        digits.test_labels,
        digits.class_names,
    )
    for other in (shuffled, digits.subset(100)):
        monkeypatch.setattr(run_images, "load", lambda name, root, other=other: other)
        with pytest.raises(InputError, match="'cifar-10n:worst' do not belong to the images"):
            run_data(spec)


def test_a_network_with_fewer_classes_than_the_data_set_gets_the_first_ones():
    """The pair of Tiny ImageNet has 20 of 200 classes at small and medium scale."""
    spec = RunSpec.of("mlp-digits", 0.6, 0, subset=40, test_subset=20, options={"num_classes": 4})
    images, labels = run_data(spec)
    whole = load("digits")
    first = np.flatnonzero(whole.train_labels < 4)
    drawn = noise.uniform(whole.train_labels[first], 0.6, 4, spec.noise_seed).labels
    assert images.class_names == whole.class_names[:4]
    assert np.bincount(images.train_labels).tolist() == [10] * 4
    assert np.bincount(images.test_labels).tolist() == [5] * 4
    np.testing.assert_array_equal(images.train_images, whole.train_images[images.train_index])
    np.testing.assert_array_equal(labels, drawn[np.isin(first, images.train_index)])


@pytest.mark.parametrize("K", [10, 12, "4"])
def test_other_numbers_of_classes_keep_all_images(K):
    spec = RunSpec.of("mlp-digits", 0.6, 0, options={"num_classes": K})
    assert run_data(spec)[0].fingerprint == load("digits").fingerprint
