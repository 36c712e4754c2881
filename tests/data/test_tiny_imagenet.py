import os
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from layerprobe.data import load
from layerprobe.errors import DataError

WNIDS = ["n00000001", "n00000002", "n00000003"]


def write_jpeg(path, seed, mode="RGB", size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)
    Image.fromarray(pixels).save(path, "JPEG")


def decoded(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def tree(tmp_path):
    """Three classes, listed in another order, of 3 training images; 4 test images in mixed order."""
    folder = tmp_path / "tiny-imagenet-200"
    train = [folder / "train" / w / "images" / f"{w}_{i}.JPEG" for w in WNIDS for i in (0, 1, 10)]
    test = [folder / "val" / "images" / f"val_{i}.JPEG" for i in range(4)]
    for seed, path in enumerate((*train, *test)):
        write_jpeg(path, seed, mode="L" if seed in (4, 10) else "RGB")
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)) + "\n")
    (folder / "words.txt").write_text("n00000001\tone, uno\nn00000003\tthree\nn00000009\tnine\n")
    lines = [f"val_{i}.JPEG\t{WNIDS[k]}\t0\t0\t63\t63\n" for i, k in ((2, 1), (0, 2), (1, 0), (3, 1))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return SimpleNamespace(root=tmp_path, folder=folder, train=train, test=[test[i] for i in (2, 0, 1, 3)])


def caches(folder):
    return sorted(path.name for path in folder.iterdir() if "pixels" in path.name or path.suffix == ".npy")


def test_load_returns_the_content_of_the_tree(tree):
    images = load("tiny-imagenet", tree.root)
    assert repr(images) == "ImageSet('tiny-imagenet': 9 train and 4 test images of 64x64x3, 3 classes)"
    assert images.class_names == ("one, uno", "n00000002", "three")
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert images.test_labels.tolist() == [1, 2, 0, 1]
    assert np.array_equal(images.train_images, [decoded(path) for path in tree.train])
    assert np.array_equal(images.test_images, [decoded(path) for path in tree.test])


def test_the_classes_are_those_of_wnids_txt(tree):
    (tree.folder / "wnids.txt").write_text("n00000001\nn00000003\n")
    images = load("tiny-imagenet", tree.root)
    assert images.class_names == ("one, uno", "three")
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.test_labels.tolist() == [1, 0]
    assert np.array_equal(images.test_images, [decoded(tree.test[1]), decoded(tree.test[2])])


def test_images_are_decoded_once(tree, capfd):
    reports = []
    first = load("tiny-imagenet", tree.root, progress=lambda *report: reports.append(report))
    assert reports == [(i, 13) for i in range(1, 14)]
    again = load("tiny-imagenet", tree.root, progress=lambda *report: reports.append(report))
    assert len(reports) == 13
    assert again.fingerprint == first.fingerprint
    assert len(caches(tree.folder)) == 1
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_on_stderr(tree, capfd):
    load("tiny-imagenet", tree.root, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "decoding" in err
    assert "13/13" in err
    load("tiny-imagenet", tree.root, progress=True)
    assert "decoding" not in capfd.readouterr().err


def test_a_stale_cache_is_replaced(tree):
    before = load("tiny-imagenet", tree.root)
    names = caches(tree.folder)
    write_jpeg(tree.train[0], seed=99)
    after = load("tiny-imagenet", tree.root)
    assert np.array_equal(after.train_images[0], decoded(tree.train[0]))
    assert not np.array_equal(before.train_images[0], after.train_images[0])
    assert len(caches(tree.folder)) == 1
    assert caches(tree.folder) != names


def test_a_moved_tree_keeps_its_cache(tree, tmp_path):
    load("tiny-imagenet", tree.root)
    tree.folder.rename(tmp_path / "new")
    (tmp_path / "root").mkdir()
    (tmp_path / "new").rename(tmp_path / "root" / tree.folder.name)
    load("tiny-imagenet", tmp_path / "root", progress=lambda *_: pytest.fail("decoded again"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b""),
        lambda path: np.save(path, np.zeros((13, 64, 64), np.uint8)),
        lambda path: np.save(path, np.zeros((13, 64, 64, 3))),
    ],
)
def test_an_incomplete_cache_is_written_again(tree, damage):
    first = load("tiny-imagenet", tree.root).fingerprint
    (name,) = caches(tree.folder)
    damage(tree.folder / name)
    assert load("tiny-imagenet", tree.root).fingerprint == first
    assert caches(tree.folder) == [name]


@pytest.mark.parametrize("after", [0, 1, 12])
def test_an_interrupted_decoding_leaves_nothing(tree, after):
    class KilledError(Exception):
        pass

    def kill(done, total):
        if done > after:
            raise KilledError

    with pytest.raises(KilledError):
        load("tiny-imagenet", tree.root, progress=kill)
    assert caches(tree.folder) == []
    assert len(load("tiny-imagenet", tree.root).train_images) == 9


def test_a_read_only_tree_is_cached_elsewhere(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # permissions have no effect for root
    images = load("tiny-imagenet", tree.root)
    assert caches(tree.folder) == []
    assert len(caches(tmp_path / "cache" / "layerprobe")) == 1
    again = load("tiny-imagenet", tree.root, progress=lambda *_: pytest.fail("decoded again"))
    assert again.fingerprint == images.fingerprint


def test_an_unwritable_cache_is_reported(tree, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match="could not be written"):
        load("tiny-imagenet", tree.root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda tree: tree.train[4].write_bytes(tree.train[4].read_bytes()[:500]),
            r"00002_1\.JPEG.*truncated",
        ),
        (
            lambda tree: tree.train[4].write_bytes(b"no image"),
            r"n00000002_1\.JPEG cannot be read as an image",
        ),
        (lambda tree: tree.test[0].unlink(), r"val_2\.JPEG cannot be read"),
        (lambda tree: write_jpeg(tree.test[0], 0, size=(64, 32)), r"val_2\.JPEG.*64x64, got 32x64"),
        (
            lambda tree: [path.unlink() for path in tree.train[3:6]],
            "train has no images of 1 of 3.*n00000002",
        ),
        (
            lambda tree: (tree.folder / "wnids.txt").write_text("\n".join([*WNIDS, "n00000009"])),
            "train has no images of 1 of 4 classes, the first n00000009",
        ),
        (
            lambda tree: (tree.folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn00000001\n"),
            "val_annotations.txt has no images of 2 of 3 classes, the first n00000002",
        ),
        (
            lambda tree: (tree.folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\n"),
            r"expected a file name, a tab, a wnid, got 'val_0\.JPEG'",
        ),
        (
            lambda tree: (tree.folder / "val" / "val_annotations.txt").write_text("../x.JPEG\tn00000001\n"),
            r"expected a file name.*'\.\./x",
        ),
        (lambda tree: (tree.folder / "words.txt").write_bytes(b"\xff\xfe"), r"words\.txt cannot be read"),
        (lambda tree: (tree.folder / "wnids.txt").unlink(), r"not hold wnids\.txt.*fetch tiny-imagenet"),
        (lambda tree: (tree.folder / "wnids.txt").write_text("\n"), r"wnids\.txt lists no classes"),
    ],
)
def test_a_damaged_tree_is_refused_and_nothing_is_left(tree, damage, message):
    damage(tree)
    with pytest.raises(DataError, match=message):
        load("tiny-imagenet", tree.root)
    assert caches(tree.folder) == []


@pytest.mark.real_data
def test_real_tiny_imagenet(real_data):
    images = load("tiny-imagenet", real_data)
    assert images.train_images.shape[1:] == images.test_images.shape[1:] == (64, 64, 3)
    assert len(set(np.bincount(images.train_labels))) == 1
    assert np.bincount(images.test_labels).tolist() == [50] * images.num_classes
    assert images.class_names[0] == "goldfish, Carassius auratus"
    folder = real_data / "tiny-imagenet-200"
    path = folder / "train" / "n01443537" / "images" / "n01443537_0.JPEG"
    assert np.array_equal(images.train_images[0], decoded(path))
    wnids = sorted((folder / "wnids.txt").read_text().split())
    for line, image, label in zip(
        (folder / "val" / "val_annotations.txt").read_text().splitlines()[:5],
        images.test_images,
        images.test_labels,
        strict=False,
    ):
        file, wnid = line.split("\t")[:2]
        assert np.array_equal(image, decoded(folder / "val" / "images" / file))
        assert wnids[label] == wnid
