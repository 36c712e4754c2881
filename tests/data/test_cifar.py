import dataclasses
import hashlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from layerprobe.data import human_labels, load
from layerprobe.data.cifar import CIFAR10, CIFAR100
from layerprobe.data.registry import REGISTRY
from layerprobe.errors import DataError, InputError


def write_records(path, images, *labels):
    """Write records as published: the label bytes, then red, green and blue, each row by row."""
    with path.open("wb") as file:
        for image, *codes in zip(images, *labels, strict=True):
            file.write(bytes(codes))
            for channel in range(3):
                file.write(image[:, :, channel].tobytes())


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """CIFAR-10 of 2 images in each of 5 + 1 files and CIFAR-100 of 12 + 4, registered as published."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(16, 32, 32, 3)).astype(np.uint8)
    ten, fine, coarse = (rng.integers(k, size=16) for k in (10, 100, 20))
    for layout in (CIFAR10, CIFAR100):
        (tmp_path / layout.folder).mkdir()
    for i, file in enumerate((*CIFAR10.train, *CIFAR10.test)):
        rows = slice(2 * i, 2 * i + 2)
        write_records(tmp_path / CIFAR10.folder / file, images[rows], ten[rows])
    for file, rows in (("train.bin", slice(12)), ("test.bin", slice(12, 16))):
        write_records(tmp_path / CIFAR100.folder / file, images[rows], coarse[rows], fine[rows])
    for name in ("cifar-10", "cifar-100", "cifar-100-coarse"):
        entry = REGISTRY[name]
        sizes = {file: (tmp_path / entry.folder / file).stat().st_size for file in entry.files}
        monkeypatch.setitem(REGISTRY, name, dataclasses.replace(entry, files=sizes))
    return SimpleNamespace(root=tmp_path, images=images, ten=ten, fine=fine, coarse=coarse)


def test_cifar_10_gives_the_files_content(planted):
    images = load("cifar-10", planted.root)
    assert repr(images) == "ImageSet('cifar-10': 10 train and 2 test images of 32x32x3, 10 classes)"
    assert np.array_equal(images.train_images, planted.images[:10])
    assert np.array_equal(images.test_images, planted.images[10:12])
    assert images.train_labels.tolist() == planted.ten[:10].tolist()
    assert images.test_labels.tolist() == planted.ten[10:12].tolist()
    assert images.train_images.flags.c_contiguous
    assert images.class_names[3] == "cat"


@pytest.mark.parametrize(("name", "labels"), [("cifar-100", "fine"), ("cifar-100-coarse", "coarse")])
def test_cifar_100_gives_the_files_content(planted, name, labels):
    images = load(name, planted.root)
    assert np.array_equal(images.train_images, planted.images[:12])
    assert np.array_equal(images.test_images, planted.images[12:])
    assert images.train_labels.tolist() == getattr(planted, labels)[:12].tolist()
    assert images.test_labels.tolist() == getattr(planted, labels)[12:].tolist()


def test_the_publishers_class_names_are_read(planted):
    path = planted.root / CIFAR10.folder / "batches.meta.txt"
    path.write_text("\n".join("jihgfedcba") + "\n\n")  # the published file ends in an empty line
    assert load("cifar-10", planted.root).class_names == tuple("jihgfedcba")
    path.write_text("a\nb\n")
    with pytest.raises(DataError, match=r"batches\.meta\.txt: expected 10 class names.*got 2"):
        load("cifar-10", planted.root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(2 * 3073 - 1), "published 6,146 bytes, got 6,145.*fetch the set again.$"),
        (bytes(3073), "published 6,146 bytes, got 3,073"),
        (bytes(3 * 3073), "published 6,146 bytes, got 9,219"),
        (b"", "published 6,146 bytes, got 0"),
        (bytes([9, *bytes(3072), 10, *bytes(3072)]), r"labels in 0\.\.9 in byte 0.*got 10 in record 1"),
    ],
)
@pytest.mark.parametrize("file", ["data_batch_3.bin", "test_batch.bin"])
def test_a_damaged_file_is_named(planted, file, content, message):
    (planted.root / CIFAR10.folder / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}.*{message}"):
        load("cifar-10", planted.root)


@pytest.mark.parametrize(("codes", "byte"), [((20, 0), 0), ((0, 100), 1)])
def test_both_labels_of_cifar_100_are_checked(planted, codes, byte):
    (planted.root / CIFAR100.folder / "test.bin").write_bytes(bytes([*codes, *bytes(3072)]) * 4)
    for name in ("cifar-100", "cifar-100-coarse"):
        with pytest.raises(DataError, match=rf"test\.bin.*in byte {byte} of"):
            load(name, planted.root)


@pytest.mark.parametrize(
    ("folder", "source", "target"),
    [
        (CIFAR10.folder, "data_batch_1.bin", "test_batch.bin"),
        (CIFAR10.folder, "data_batch_4.bin", "data_batch_2.bin"),
        (CIFAR100.folder, "train.bin", "test.bin"),
    ],
)
def test_one_file_under_two_names_is_refused(planted, folder, source, target):
    name = "cifar-10" if folder == CIFAR10.folder else "cifar-100"
    shutil.copy(planted.root / folder / source, planted.root / folder / target)
    np.save(planted.root / folder / "test_index.npy", np.arange(12))  # else the size alone tells
    first, second = sorted((source, target), key=[*REGISTRY[name].files].index)
    with pytest.raises(DataError, match=rf"{second} has the same content as {first}"):
        load(name, planted.root)


def test_files_may_share_their_first_record(planted):
    one, other = (planted.root / CIFAR10.folder / f"data_batch_{i}.bin" for i in (1, 2))
    other.write_bytes(one.read_bytes()[:3073] + other.read_bytes()[3073:])
    assert np.array_equal(load("cifar-10", planted.root).train_images[2], planted.images[0])


def cut(planted, split, n):
    """Leave the first n records of a file of CIFAR-100 there; return the path of its index."""
    path = planted.root / CIFAR100.folder / f"{split}.bin"
    path.write_bytes(path.read_bytes()[: n * 3074])
    return path.with_name(f"{split}_index.npy")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar-100", "cifar-100-coarse"])
def test_a_part_of_cifar_100_needs_an_index_of_its_rows(planted, split, name):
    index = cut(planted, split, 3)
    with pytest.raises(DataError, match=rf"{split}\.bin: .*got 9,222.*list its rows .* in {index.name}"):
        load(name, planted.root)
    np.save(index, [7, 9_999, 0])
    images = load(name, planted.root)
    start = 0 if split == "train" else 12
    assert np.array_equal(getattr(images, f"{split}_images"), planted.images[start : start + 3])


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 10_000], [-1, 0, 1], [0.0, 1.0, 2.0]])
def test_an_index_that_does_not_fit_its_part_is_refused(planted, rows):
    np.save(cut(planted, "test", 3), rows)
    with pytest.raises(DataError, match=r"test_index\.npy: expected 3 positions in 0\.\.9999, all different"):
        load("cifar-100", planted.root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bytes(2 * 3074 - 1), "whole records of 3074 bytes, got 6147 bytes"),
        (b"", "cannot be read.*Fetch it again"),
    ],
)
def test_a_damaged_part_is_named(planted, content, message):
    np.save(cut(planted, "test", 2), [0, 1])
    (planted.root / CIFAR100.folder / "test.bin").write_bytes(content)
    with pytest.raises(DataError, match=rf"test\.bin.*{message}"):
        load("cifar-100", planted.root)


def test_a_part_of_cifar_10_is_refused(planted):
    path = planted.root / CIFAR10.folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:3073])
    np.save(path.with_name("test_batch_index.npy"), [0])
    with pytest.raises(DataError, match=r"test_batch\.bin: .*got 3,073"):
        load("cifar-10", planted.root)


@pytest.fixture
def people(planted):
    """Write human labels of all 10 images of CIFAR-10, and of 30 of which CIFAR-100 has 12."""
    folder = planted.root / "cifar-n"
    folder.mkdir()
    rng = np.random.default_rng(1)
    ten = {"clean": planted.ten[:10], "worst": (planted.ten[:10] + np.arange(10) % 2) % 10}
    index = rng.permutation(30)[:12]
    hundred = {name: rng.integers(20, size=30) for name in ("clean", "noisy", "clean_coarse", "noisy_coarse")}
    hundred["clean"][index], hundred["clean_coarse"][index] = planted.fine[:12], planted.coarse[:12]
    for file, arrays in (("cifar10n.npz", ten), ("cifar100n.npz", hundred)):
        np.savez(folder / file, **{name: labels.astype(np.uint8) for name, labels in arrays.items()})
    np.save(planted.root / CIFAR100.folder / "train_index.npy", index)
    return SimpleNamespace(root=planted.root, folder=folder, ten=ten, hundred=hundred, index=index)


def test_human_labels_have_the_order_of_the_images(people):
    noise = human_labels("cifar-10n", "worst", people.root)
    assert noise.labels.tolist() == people.ten["worst"].tolist()
    assert noise.changed.tolist() == [False, True] * 5
    assert noise.recipe == {"kind": "human_labels", "name": "cifar-10n", "annotation": "worst"}
    assert noise.labels.dtype == np.int64
    assert not noise.labels.flags.writeable


@pytest.mark.parametrize(
    ("annotation", "name"), [("noisy", "cifar-100"), ("noisy_coarse", "cifar-100-coarse")]
)
def test_a_part_of_cifar_100_finds_its_rows(people, annotation, name):
    noise = human_labels("cifar-100n", annotation, people.root)
    assert noise.labels.tolist() == people.hundred[annotation][people.index].tolist()
    assert noise.changed.tolist() == (noise.labels != load(name, people.root).train_labels).tolist()


def test_another_order_of_the_images_is_refused(people):
    np.save(people.root / CIFAR100.folder / "train_index.npy", np.sort(people.index))
    with pytest.raises(DataError, match=r"cifar100n\.npz: the clean labels differ.*of 12 images"):
        human_labels("cifar-100n", "noisy", people.root)


def test_an_index_of_rows_without_human_labels_is_refused(people):
    np.save(people.root / CIFAR100.folder / "train_index.npy", np.arange(19, 31))
    with pytest.raises(DataError, match=r"train_index\.npy: expected 12 positions in 0\.\.29"):
        human_labels("cifar-100n", "noisy", people.root)


def test_a_part_without_an_index_is_refused(people):
    (people.root / CIFAR100.folder / "train_index.npy").unlink()
    with pytest.raises(
        DataError, match=r"holds 12 training images, but there are human labels for 30.*train_index"
    ):
        human_labels("cifar-100n", "noisy", people.root)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "cannot be read as an .npz"),
        (lambda path: path.write_bytes(b""), "cannot be read as an .npz"),
        (lambda path: path.unlink(), "cannot be read as an .npz"),
        (lambda path: np.savez(path, clean=np.zeros(10, int)), "cannot be read as an .npz.*worst"),
        (lambda path: np.savez(path, clean=np.zeros(10, int), worst=np.zeros(9, int)), r"worst.*\(9,\)"),
        (lambda path: np.savez(path, clean=np.zeros(10, int), worst=np.full(10, 10)), r"worst in 0\.\.9"),
        (lambda path: np.savez(path, clean=np.zeros(10, object), worst=np.zeros(10, int)), "cannot be read"),
    ],
)
def test_a_damaged_file_of_human_labels_is_named(people, damage, message):
    path = people.folder / "cifar10n.npz"
    damage(path)
    with pytest.raises(DataError, match=rf"cifar10n\.npz.*{message}"):
        human_labels("cifar-10n", "worst", people.root)


def test_unknown_human_labels_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'cifar-10'.*cifar-10n, cifar-100n"):
        human_labels("cifar-10", "worst", tmp_path)
    with pytest.raises(InputError, match=r"'noisy'.*aggre, random1"):
        human_labels("cifar-10n", "noisy", tmp_path)


@pytest.mark.real_data
def test_real_cifar_10(real_data):
    if not (real_data / CIFAR10.folder).is_dir():
        pytest.skip(f"no {CIFAR10.folder} among the real data: set LAYERPROBE_DATA to a folder that has it")
    images = load("cifar-10", real_data)
    digests = [hashlib.sha256(a.data).hexdigest() for a in (images.train_images, images.test_images)]
    assert digests == [
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    ]
    assert images.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
    published = {"aggre": 9.01, "random1": 17.23, "random2": 18.12, "random3": 17.64, "worst": 40.21}
    for annotation, share in published.items():
        noise = human_labels("cifar-10n", annotation, real_data)
        assert 100 * noise.changed.mean() == pytest.approx(share, abs=0.005 + 1e-9), annotation


@pytest.mark.real_data
def test_real_cifar_100(real_data):
    fine, coarse = load("cifar-100", real_data), load("cifar-100-coarse", real_data)
    assert np.array_equal(fine.train_images, coarse.train_images)
    assert len(set(np.bincount(fine.train_labels, minlength=100))) == 1
    assert len(set(np.bincount(fine.test_labels, minlength=100))) == 1
    # Without files of names the module's own are used: each superclass must have its published classes.
    for name, members in {
        "people": ["baby", "boy", "girl", "man", "woman"],
        "trees": ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"],
        "vehicles_2": ["lawn_mower", "rocket", "streetcar", "tank", "tractor"],
    }.items():
        codes = np.unique(fine.train_labels[coarse.train_labels == coarse.class_names.index(name)])
        assert [fine.class_names[k] for k in codes] == members
    assert human_labels("cifar-100n", "noisy", real_data).changed.mean() == pytest.approx(0.402, abs=0.01)
    assert human_labels("cifar-100n", "noisy_coarse", real_data).changed.mean() == pytest.approx(
        0.264, abs=0.02
    )
