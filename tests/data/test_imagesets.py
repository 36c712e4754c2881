import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from layerprobe.data import ImageSet, available, load
from layerprobe.data.folders import data_folder
from layerprobe.errors import DataError, InputError

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def test_load_gives_the_files_content(tiny_mnist):
    images = load("mnist", tiny_mnist.root)
    for field, (file, array) in zip(ARRAYS, tiny_mnist.arrays.items(), strict=True):
        assert np.array_equal(getattr(images, field), array), file
    assert images.train_images.dtype == np.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == np.int64
    assert images.num_classes == 10
    assert images.max_value == 255
    assert repr(images) == "ImageSet('mnist': 6 train and 4 test images of 3x2, 10 classes)"


def test_an_image_set_is_frozen_and_its_sources_are_not(tiny_mnist):
    arrays = [np.zeros((2, 3, 3, 3), np.uint8), np.zeros(2, np.int64)] * 2
    for images in (load("mnist", tiny_mnist.root), ImageSet("mine", *arrays, ("a", "b"))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            images.name = "other"
        for field in ARRAYS:
            with pytest.raises(ValueError, match="read-only"):
                getattr(images, field)[0] = 1
    assert all(array.flags.writeable for array in arrays)


def test_the_fingerprint_depends_on_shapes_and_values_only(tiny_mnist):
    images = load("mnist", tiny_mnist.root)
    digest = hashlib.sha256()
    for split in ("train", "test"):
        pixels, labels = getattr(images, f"{split}_images"), getattr(images, f"{split}_labels")
        digest.update(str(pixels.shape).encode() + pixels.tobytes() + labels.astype("<i8").tobytes())
    assert images.fingerprint == digest.hexdigest()
    transposed_twice = images.train_images.transpose(2, 1, 0).copy().transpose(2, 1, 0)
    assert dataclasses.replace(images, train_images=transposed_twice).fingerprint == images.fingerprint


@pytest.mark.parametrize("field", ARRAYS)
def test_the_fingerprint_depends_on_every_value(tiny_mnist, field):
    images = load("mnist", tiny_mnist.root)
    values = getattr(images, field).copy()
    values.flat[-1] = (values.flat[-1] + 1) % 10
    assert dataclasses.replace(images, **{field: values}).fingerprint != images.fingerprint


def test_unknown_name_lists_the_known_ones():
    assert available() == [
        *("digits", "mnist", "fashion-mnist", "cifar-10", "cifar-100", "cifar-100-coarse", "tiny-imagenet")
    ]
    with pytest.raises(InputError, match=r"'mnits'.*digits, mnist, fashion-mnist"):
        load("mnits")


def test_missing_files_are_reported_with_advice(tiny_mnist):
    (tiny_mnist.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    (tiny_mnist.folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        load("mnist", tiny_mnist.root)
    message = str(caught.value)
    for part in (str(tiny_mnist.folder), "data fetch mnist", "LAYERPROBE_DATA", "mnist/ by root=", "--data"):
        assert part in message
    assert "not hold train-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz." in message


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: gzip.compress(gzip.decompress(old), 1)])
def test_files_without_the_published_md5_are_named(tiny_mnist, damage):
    path = tiny_mnist.folder / "t10k-labels-idx1-ubyte.gz"
    expected = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(damage(path.read_bytes()))
    got = hashlib.md5(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"{path}.* MD5 {expected}, got {got}.*layerprobe data fetch mnist"):
        load("mnist", tiny_mnist.root)


def test_another_sets_files_are_refused(tiny_mnist):
    tiny_mnist.folder.rename(tiny_mnist.root / "fashion-mnist")
    with pytest.raises(DataError, match=r"train-images.*published MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d"):
        load("fashion-mnist", tiny_mnist.root)


def test_an_unreadable_file_is_reported(tiny_mnist, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"train-images.* cannot be read: not yours"):
        load("mnist", tiny_mnist.root)


def test_test_images_of_another_size_are_refused(tiny_mnist, idx):
    idx.write(tiny_mnist.folder / "t10k-images-idx3-ubyte.gz", np.zeros((4, 5, 5)))
    tiny_mnist.publish()
    with pytest.raises(DataError, match=r"t10k-images.*\(3, 2\).*got \(5, 5\)"):
        load("mnist", tiny_mnist.root)


def test_root_is_the_argument_then_the_environment_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERPROBE_DATA", "~/sets")
    assert data_folder(tmp_path) == data_folder(str(tmp_path)) == tmp_path
    assert data_folder() == tmp_path / "home" / "sets"
    monkeypatch.setenv("LAYERPROBE_DATA", "")
    assert data_folder() == tmp_path / "cache" / "layerprobe"
    monkeypatch.delenv("LAYERPROBE_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder() == tmp_path / "home" / ".cache" / "layerprobe"


def test_load_looks_in_the_environments_root(monkeypatch, tiny_mnist):
    monkeypatch.setenv("LAYERPROBE_DATA", str(tiny_mnist.root))
    assert len(load("mnist").train_images) == 6


def test_the_split_of_digits_is_fixed():
    digits = load("digits", root=Path("/nowhere"))
    assert digits.train_images.shape == (1437, 8, 8)
    assert digits.test_images.shape == (360, 8, 8)
    assert digits.max_value == digits.train_images.max() == digits.test_images.max() == 16
    assert digits.class_names == tuple("0123456789")
    # Stratified: each class gives the test set its share to the nearest image.
    train, test = (np.bincount(labels) for labels in (digits.train_labels, digits.test_labels))
    assert np.abs(test - (train + test) * 360 / 1797).max() < 1
    # Published rows depend on the split; this fails if scikit-learn changes it.
    assert digits.fingerprint == "6880096839263ecd5eab3e884986fc071c359e888e37f0cd7afdb9028b095cf2"


def test_digits_hold_every_image_once_in_the_files_order():
    from sklearn.datasets import load_digits

    digits = load("digits")
    position = {image.tobytes(): i for i, image in enumerate(load_digits().images.astype(np.uint8))}
    train, test = ([position[i.tobytes()] for i in s] for s in (digits.train_images, digits.test_images))
    assert sorted(train + test) == list(range(1797))
    assert train == sorted(train)
    assert test == sorted(test)


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
    # Published runs use this subset; another choice would be another experiment.
    chosen = [101, 226, 270, 486, 589, 643, 870, 880, 960, 1143, 1160, 1260]
    assert digits.subset(12).train_index.tolist() == chosen


def test_a_subset_of_a_subset_counts_rows_of_the_whole_set(digits):
    twice = digits.subset(300).subset(50, seed=3)
    assert np.array_equal(twice.train_images, digits.train_images[twice.train_index])


def test_test_images_can_be_chosen_too(digits):
    subset = digits.subset(100, test=50)
    assert np.bincount(subset.test_labels).tolist() == [5] * 10
    assert len(subset.train_images) == 100


def test_images_of_the_first_classes(digits):
    few = digits.subset(300).first_classes(3)
    assert few.class_names == digits.class_names[:3]
    assert np.array_equal(few.train_labels, digits.train_labels[few.train_index])
    assert np.bincount(few.train_labels).tolist() == [30, 30, 30]
    assert np.array_equal(few.test_images, digits.test_images[digits.test_labels < 3])
    assert digits.first_classes(10).fingerprint == digits.fingerprint


@pytest.mark.parametrize("K", [0, 11, 2.0, None])
def test_an_invalid_number_of_first_classes_is_refused(digits, K):
    with pytest.raises(InputError, match=f"K must be an integer from 1 to 10, got {K}"):
        digits.first_classes(K)


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
def test_invalid_subsets_are_refused(digits, arguments, message):
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
        ({"train_labels": [0, 1]}, "train_labels must be a NumPy array, got list"),
        ({"test_labels": LABELS / 2}, "test_labels must be integers.*float64"),
        (
            {"train_labels": LABELS + 1},
            r"train_labels must lie in 0\.\.1, one for each class name, got 1\.\.2",
        ),
        ({"test_labels": LABELS - 1}, r"test_labels must lie.*got -1\.\.0"),
        ({"train_index": LABELS[:1]}, "train_index must have one row for each of the 2"),
    ],
)
def test_inconsistent_parts_are_refused(wrong, message):
    good = ImageSet("mine", IMAGES, LABELS, IMAGES, LABELS, ("a", "b"))
    with pytest.raises(InputError, match=message):
        dataclasses.replace(good, **wrong)


def test_a_set_without_test_images():
    images = ImageSet("mine", IMAGES, LABELS, IMAGES[:0], LABELS[:0], ("a", "b"))
    assert repr(images) == "ImageSet('mine': 2 train and 0 test images of 3x3, 2 classes)"
    assert images.fingerprint != ImageSet("mine", IMAGES, LABELS, IMAGES, LABELS, ("a", "b")).fingerprint


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "first_labels", "counts", "fingerprint"),
    [
        (
            "mnist",
            [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            "3c4cc0db2a25ab6be26edeebe0171ac5fb885ce2fc16c991a4f6c382733d5dbe",
        ),
        (
            "fashion-mnist",
            [9, 0, 0, 3, 0, 2, 7, 2, 5, 5],
            [6000] * 10,
            "c9ba3c49b4f4c50a2bffe6041e2eae64cef41e4bbc2c8c1de10eca7f0ccb3e25",
        ),
    ],
)
def test_real_sets(real_data, name, first_labels, counts, fingerprint):
    images = load(name, real_data)
    assert images.train_images.shape == (60_000, 28, 28)
    assert images.test_images.shape == (10_000, 28, 28)
    assert images.train_labels[:10].tolist() == first_labels
    assert np.bincount(images.train_labels).tolist() == counts
    assert len(images.class_names) == 10
    assert images.fingerprint == fingerprint
