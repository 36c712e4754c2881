import numpy as np
import pytest
from PIL import Image

from layerprobe.data import image_folder
from layerprobe.errors import DataError, InputError


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(6, 4, 5, 3)).astype(np.uint8)


@pytest.fixture
def tree(tmp_path, pixels):
    files = (
        "train/cat/2.png train/cat/10.PNG train/dog/deep/a.png train/dog/b.bmp test/dog/x.png test/cat/y.png"
    )
    for image, file in zip(pixels, files.split(), strict=True):
        save(tmp_path / file, image)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / ".2.png").write_text("hidden, not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_a_folder_gives_its_images_by_class_and_path(tree, pixels):
    reports = []
    images = image_folder(tree / "train", tree / "test", progress=lambda *report: reports.append(report))
    assert repr(images) == "ImageSet('train': 4 train and 2 test images of 4x5x3, 2 classes)"
    assert images.class_names == ("cat", "dog")
    assert np.array_equal(images.train_images, pixels[[1, 0, 3, 2]])
    assert np.array_equal(images.test_images, pixels[[5, 4]])
    assert images.train_labels.tolist() == [0, 0, 1, 1]
    assert images.test_labels.tolist() == [0, 1]
    assert reports == [(i, 6) for i in range(1, 7)]


def test_the_test_folder_may_be_left_out(tree, pixels):
    images = image_folder(str(tree / "train"), name="pets")
    assert images.name == "pets"
    assert images.test_images.shape == (0, 4, 5, 3)
    assert images.test_labels.shape == (0,)
    assert np.array_equal(images.train_images, pixels[[1, 0, 3, 2]])


def test_grey_images_stay_grey_unless_one_has_colour(tmp_path, pixels):
    save(tmp_path / "a" / "1.png", pixels[0, :, :, 0])
    save(tmp_path / "b" / "2.png", pixels[1, :, :, 0], "1")
    assert image_folder(tmp_path).train_images.shape == (2, 4, 5)
    save(tmp_path / "b" / "3.png", pixels[2], "P")
    save(tmp_path / "b" / "4.png", pixels[3], "RGBA")
    images = image_folder(tmp_path).train_images
    assert images.shape == (4, 4, 5, 3)
    assert np.array_equal(images[0], pixels[0, :, :, :1].repeat(3, axis=2))
    with Image.open(tmp_path / "b" / "3.png") as palette:
        assert np.array_equal(images[2], np.asarray(palette.convert("RGB")))
    assert np.array_equal(images[3], pixels[3])


def test_mixed_sizes_are_refused_or_resized(tree, pixels):
    save(tree / "test" / "dog" / "z.png", np.full((8, 9, 3), 77, np.uint8))
    with pytest.raises(DataError, match=r"z\.png has 8x9.*10\.PNG has 4x5.*resize="):
        image_folder(tree / "train", tree / "test")
    images = image_folder(tree / "train", tree / "test", resize=(4, 5))
    assert (images.test_images[2] == 77).all()
    assert np.array_equal(images.train_images, pixels[[1, 0, 3, 2]])  # these had the size already
    assert image_folder(tree / "train", resize=3).train_images.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("resize", [0, (4, 0), (4,), 2.5, "4x5", True, (4, True)])
def test_a_size_that_is_none(tree, resize):
    with pytest.raises(InputError, match="resize must be"):
        image_folder(tree / "train", resize=resize)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tree: (tree / "train" / "eel").mkdir(), "eel holds no images"),
        (
            lambda tree: save(tree / "train/eel/1.png", np.zeros((4, 5, 3), np.uint8)),
            "only one of them has eel",
        ),
        (
            lambda tree: save(tree / "test/eel/1.png", np.zeros((4, 5, 3), np.uint8)),
            "only one of them has eel",
        ),
        (lambda tree: (tree / "train/cat/2.png").write_bytes(b""), r"2\.png cannot be read as an image"),
        (
            lambda tree: (tree / "train/cat/2.png").write_bytes(
                (tree / "train/cat/2.png").read_bytes()[:-30]
            ),
            r"2\.png cannot be read as an image",
        ),
        (
            lambda tree: save(tree / "train/cat/2.png", np.zeros((4, 5), np.uint16)),
            r"2\.png cannot.*8 bits per channel.*'I;16'",
        ),
        (lambda tree: (tree / "test").rename(tree / "moved"), "test is no folder"),
    ],
)
def test_a_damaged_tree_is_refused(tree, damage, message):
    damage(tree)
    with pytest.raises(DataError, match=message):
        image_folder(tree / "train", tree / "test")


def test_images_without_class_folders(tree):
    with pytest.raises(DataError, match="dog/deep has no subfolders"):
        image_folder(tree / "train" / "dog" / "deep")
