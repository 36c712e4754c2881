import dataclasses

import numpy as np
import pytest

from layerprobe.data import ImageSet, load
from layerprobe.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.mark.parametrize("n", [10, 57, 500])
def test_a_subset_is_balanced_and_in_the_sets_order(digits, n):
    subset = digits.subset(n)
    counts = np.bincount(subset.train_labels, minlength=10)
    assert len(subset.train_images) == n
    assert counts.tolist() == [n // 10 + (k < n % 10) for k in range(10)]
    assert (np.diff(subset.train_index) > 0).all()
    assert np.array_equal(subset.train_images, digits.train_images[subset.train_index])
    assert np.array_equal(subset.train_labels, digits.train_labels[subset.train_index])
    assert subset.max_value == 16
    assert np.array_equal(subset.test_images, digits.test_images)


def test_a_subset_is_fixed_by_its_seed_and_nested(digits):
    a, b, other = (digits.subset(100, seed=seed) for seed in (1, 1, 2))
    assert a.fingerprint == b.fingerprint != other.fingerprint
    assert set(a.train_index) < set(digits.subset(305, seed=1).train_index)
    # Part of every run that names a subset: another choice would silently be another experiment.
    assert digits.subset(12).train_index.tolist() == [
        101,
        226,
        270,
        486,
        589,
        643,
        870,
        880,
        960,
        1143,
        1160,
        1260,
    ]


def test_a_subset_of_a_subset_counts_rows_of_the_whole_set(digits):
    twice = digits.subset(300).subset(50, seed=3)
    assert np.array_equal(twice.train_images, digits.train_images[twice.train_index])


def test_test_images_can_be_chosen_too(digits):
    subset = digits.subset(100, test=50)
    assert np.bincount(subset.test_labels).tolist() == [5] * 10
    assert len(subset.train_images) == 100


def test_a_whole_set_has_all_rows(digits):
    assert np.array_equal(digits.train_index, np.arange(1437))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 9}, "at least 10.*got 9"),
        ({"n": 100.0}, r"integer.*got 100\.0"),
        ({"n": 1437}, "needs 144 of class '0', but 'digits' has 142"),
        ({"n": 100, "test": 361}, "subset of 361 test images"),
        ({"n": 100, "seed": -1}, "seed.*-1"),
        ({"n": 100, "seed": None}, "seed.*None"),
    ],
)
def test_what_cannot_be_a_subset(digits, arguments, message):
    with pytest.raises(InputError, match=message):
        digits.subset(**arguments)


IMAGES, LABELS = np.zeros((2, 3, 3), np.uint8), np.array([0, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_images": IMAGES.astype(np.float32)}, "train_images must be uint8.*float32"),
        ({"train_images": IMAGES[:, :, :, None]}, r"train_images must.*\(2, 3, 3, 1\)"),
        ({"train_images": IMAGES[0]}, r"train_images must.*\(3, 3\)"),
        ({"test_images": IMAGES[:, :2]}, r"size \(3, 3\) of train_images, got \(2, 3\)"),
        ({"train_labels": LABELS[:1]}, r"train_labels must be integers, one for each of 2"),
        ({"test_labels": LABELS / 2}, "test_labels must be integers.*float64"),
        (
            {"train_labels": LABELS + 1},
            r"train_labels must lie in 0\.\.1, one for each class name, got 1\.\.2",
        ),
        ({"test_labels": LABELS - 1}, r"test_labels must lie.*got -1\.\.0"),
        ({"train_index": LABELS[:1]}, "train_index must have one row for each of the 2"),
    ],
)
def test_parts_that_do_not_fit_together(wrong, message):
    good = ImageSet("mine", IMAGES, LABELS, IMAGES, LABELS, ("a", "b"))
    with pytest.raises(InputError, match=message):
        dataclasses.replace(good, **wrong)


def test_a_set_without_test_images():
    images = ImageSet("mine", IMAGES, LABELS, IMAGES[:0], LABELS[:0], ("a", "b"))
    assert repr(images) == "ImageSet('mine': 2 train and 0 test images of 3x3, 2 classes)"
    assert images.fingerprint != ImageSet("mine", IMAGES, LABELS, IMAGES, LABELS, ("a", "b")).fingerprint
