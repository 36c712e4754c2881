from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from layerprobe.data import from_dataset, from_hf, image_folder
from layerprobe.errors import DataError, InputError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(256, size=(4, 5, 6, 3)).astype(np.uint8)


FORMS = {
    "Pillow": Image.fromarray,
    "array": lambda image: image,
    "uint8 tensor": lambda image: torch.tensor(image).permute(2, 0, 1),
    "float tensor, as ToTensor": lambda image: torch.tensor(image).permute(2, 0, 1).float() / 255,
    "half tensor": lambda image: (torch.tensor(image).permute(2, 0, 1) / 255).half(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_an_image(pixels, form):
    train = [(form(image), label) for image, label in zip(pixels, (2, 0, 1, 1), strict=True)]
    images = from_dataset(train, train[:1], class_names=["a", "b", "c"], name="mine")
    assert np.array_equal(images.train_images, pixels)
    assert np.array_equal(images.test_images, pixels[:1])
    assert images.train_labels.tolist() == [2, 0, 1, 1]
    assert images.test_labels.tolist() == [2]
    assert images.class_names == ("a", "b", "c")
    assert images.name == "mine"


@pytest.mark.parametrize(
    "grey", [lambda g: torch.tensor(g), lambda g: torch.tensor(g)[None], Image.fromarray]
)
def test_grey_images(pixels, grey):
    images = from_dataset([(grey(image), 0) for image in pixels[..., 0]])
    assert np.array_equal(images.train_images, pixels[..., 0])
    assert images.test_images.shape == (0, 5, 6)


def test_one_image_with_colour_makes_all_rgb(pixels):
    grey, colour = [(pixels[0, :, :, 0], 0)], [(pixels[1], 0)]
    for images in (from_dataset(grey + colour), from_dataset(grey, colour), from_dataset(colour, grey)):
        together = np.concatenate([images.train_images, images.test_images])
        assert sorted(image.tobytes() for image in together) == sorted(
            [pixels[1].tobytes(), pixels[0, :, :, :1].repeat(3, axis=2).tobytes()]
        )


class MapStyle(Dataset):
    """Like those of torchvision: a length, an index and no IndexError at the end."""

    classes = ("ant", "bee", "cat")

    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return self.pixels[i % len(self.pixels)], np.int64(i % 3)


class Stream(IterableDataset):
    def __init__(self, pixels):
        self.pixels = pixels

    def __iter__(self):
        return ((image, i % 3) for i, image in enumerate(self.pixels))


def test_torch_data_sets_of_every_style(pixels):
    reports = []
    known = from_dataset(MapStyle(pixels), progress=lambda *report: reports.append(report))
    streamed = from_dataset(Stream(pixels), progress=lambda *report: reports.append(report))
    tensors = TensorDataset(torch.tensor(pixels).permute(0, 3, 1, 2), torch.arange(4) % 3)
    assert known.fingerprint == streamed.fingerprint == from_dataset(tensors).fingerprint
    assert known.class_names == MapStyle.classes
    assert streamed.class_names == ("0", "1", "2")
    assert reports == [(i, 4) for i in range(1, 5)] + [(i, 0) for i in range(1, 5)]


GOOD = (np.zeros((5, 6), np.uint8), 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((torch.randn(3, 5, 6), 0), "k/255.*Leave out normalisation"),
        ((torch.full((3, 5, 6), torch.nan), 0), "k/255"),
        ((np.zeros((5, 6), np.int64), 0), "expected uint8 or float pixels, got int64"),
        ((np.zeros((4, 5, 6), np.uint8), 0), r"or a tensor.*\(4, 5, 6\)"),
        ((np.zeros(5, np.uint8), 0), r"or a tensor.*\(5,\)"),
        ((np.zeros((6, 5), np.uint8), 0), "6x5 pixels"),
        ((GOOD[0], -1), "the label is -1"),
        ((GOOD[0], 0.5), r"one integer.*got 0\.5"),
        ((GOOD[0], [0, 1]), "one integer"),
        ((GOOD[0], "cat"), "one integer.*'cat'"),
        (GOOD[0], "unpack"),
        ((*GOOD, 0), "unpack"),
        (5, "unpack"),
        ((Image.new("I;16", (6, 5)), 0), "8 bits per channel"),
    ],
)
def test_a_bad_item_is_named(bad, message):
    with pytest.raises(InputError, match=f"Item 1 of the test set.*{message}"):
        from_dataset([GOOD], [GOOD, bad])


def test_inconsistent_sets_are_refused():
    with pytest.raises(InputError, match=r"at least one image, got none .*train set"):
        from_dataset([])
    with pytest.raises(InputError, match=r"at least one image, got none .*test set"):
        from_dataset([GOOD], [])
    with pytest.raises(InputError, match=r"size \(5, 6\) of train_images, got \(2, 2\)"):
        from_dataset([GOOD], [(np.zeros((2, 2), np.uint8), 0)])
    with pytest.raises(InputError, match=r"must lie in 0\.\.0"):
        from_dataset([(GOOD[0], 3)], class_names=["only"])


ImageFeature = type("Image", (), {})  # the name of the feature type in the package datasets


class FakeHub:
    """The used part of a Hugging Face dataset: features, a length, rows as dictionaries."""

    def __init__(self, pixels, labels, **columns):
        self.rows = [
            {"id": i, "img": Image.fromarray(image), "fine": label}
            for i, (image, label) in enumerate(zip(pixels, labels, strict=True))
        ]
        names = SimpleNamespace(names=["ant", "bee", "cat"])
        self.features = {
            "id": SimpleNamespace(dtype="int64"),
            "img": ImageFeature(),
            "fine": names,
            **columns,
        }

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)


def test_hub_data_sets_are_read_by_their_features(pixels):
    train, test = FakeHub(pixels, [2, 0, 1, 1]), FakeHub(pixels[:2], [0, 2])
    images = from_hf({"train": train, "test": test, "other": None}, name="hub")
    assert images.class_names == ("ant", "bee", "cat")
    assert images.name == "hub"
    assert np.array_equal(images.train_images, pixels)
    assert np.array_equal(images.test_images, pixels[:2])
    assert images.test_labels.tolist() == [0, 2]
    assert from_hf(train, test).fingerprint == images.fingerprint
    assert from_hf(train, test, image="img", label="fine").fingerprint == images.fingerprint
    assert len(from_hf({"train": train}).test_images) == len(from_hf(train).test_images) == 0
    numbers = from_hf(train, label="id")
    assert numbers.train_labels.tolist() == [0, 1, 2, 3]
    assert numbers.class_names == ("0", "1", "2", "3")


def test_unusable_hub_datasets_are_refused(pixels):
    good = FakeHub(pixels, [2, 0, 1, 1])
    with pytest.raises(
        InputError, match=r"image column does not exist: choose one of id, img, fine by image="
    ):
        from_hf(good, image="image")
    with pytest.raises(InputError, match=r"label column does not exist.*class_encode_column"):
        from_hf(good, label="label")
    with pytest.raises(InputError, match=r"label column is not clear.*id, img, fine, coarse"):
        from_hf(FakeHub(pixels, [2, 0, 1, 1], coarse=good.features["fine"]))
    with pytest.raises(InputError, match="image column is not clear"):
        from_hf(FakeHub(pixels, [2, 0, 1, 1], mask=ImageFeature()))
    with pytest.raises(InputError, match=r"must have a split 'train'.*got test"):
        from_hf({"test": good})
    with pytest.raises(InputError, match="comes without test="):
        from_hf({"train": good}, good)
    with pytest.raises(InputError, match="Item 1 of the test set: the label is -1"):
        from_hf(good, FakeHub(pixels[:2], [0, -1]))


def test_the_real_library(pixels):
    datasets = pytest.importorskip("datasets", reason="needs the extra [hf]")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.fromarray(image) for image in pixels], "label": [1, 0, 0, 1]}
    data = datasets.Dataset.from_dict(rows, features=features)
    images = from_hf(datasets.DatasetDict({"train": data, "test": data}))
    assert np.array_equal(images.train_images, pixels)
    assert images.test_labels.tolist() == [1, 0, 0, 1]
    assert images.class_names == ("a", "b")


def save(path, pixels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def colours():
    return np.random.default_rng(0).integers(256, size=(6, 4, 5, 3)).astype(np.uint8)


@pytest.fixture
def tree(tmp_path, colours):
    files = (
        "train/cat/2.png train/cat/10.PNG train/dog/deep/a.png train/dog/b.bmp test/dog/x.png test/cat/y.png"
    )
    for image, file in zip(colours, files.split(), strict=True):
        save(tmp_path / file, image)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "cat" / ".2.png").write_text("hidden, not an image")
    (tmp_path / "train" / ".hidden").mkdir()
    return tmp_path


def test_a_folder_gives_its_images_by_class_and_path(tree, colours):
    reports = []
    images = image_folder(tree / "train", tree / "test", progress=lambda *report: reports.append(report))
    assert repr(images) == "ImageSet('train': 4 train and 2 test images of 4x5x3, 2 classes)"
    assert images.class_names == ("cat", "dog")
    assert np.array_equal(images.train_images, colours[[1, 0, 3, 2]])
    assert np.array_equal(images.test_images, colours[[5, 4]])
    assert images.train_labels.tolist() == [0, 0, 1, 1]
    assert images.test_labels.tolist() == [0, 1]
    assert reports == [(i, 6) for i in range(1, 7)]


def test_the_test_folder_may_be_left_out(tree, colours):
    images = image_folder(str(tree / "train"), name="pets")
    assert images.name == "pets"
    assert images.test_images.shape == (0, 4, 5, 3)
    assert images.test_labels.shape == (0,)
    assert np.array_equal(images.train_images, colours[[1, 0, 3, 2]])


def test_grey_images_stay_grey_unless_one_has_colour(tmp_path, colours):
    save(tmp_path / "a" / "1.png", colours[0, :, :, 0])
    save(tmp_path / "b" / "2.png", colours[1, :, :, 0], "1")
    assert image_folder(tmp_path).train_images.shape == (2, 4, 5)
    save(tmp_path / "b" / "3.png", colours[2], "P")
    save(tmp_path / "b" / "4.png", colours[3], "RGBA")
    images = image_folder(tmp_path).train_images
    assert images.shape == (4, 4, 5, 3)
    assert np.array_equal(images[0], colours[0, :, :, :1].repeat(3, axis=2))
    with Image.open(tmp_path / "b" / "3.png") as palette:
        assert np.array_equal(images[2], np.asarray(palette.convert("RGB")))
    assert np.array_equal(images[3], colours[3])


def test_mixed_sizes_are_refused_or_resized(tree, colours):
    save(tree / "test" / "dog" / "z.png", np.full((8, 9, 3), 77, np.uint8))
    with pytest.raises(DataError, match=r"z\.png has 8x9.*10\.PNG has 4x5.*resize="):
        image_folder(tree / "train", tree / "test")
    images = image_folder(tree / "train", tree / "test", resize=(4, 5))
    assert (images.test_images[2] == 77).all()
    assert np.array_equal(images.train_images, colours[[1, 0, 3, 2]])  # these had the size already
    assert image_folder(tree / "train", resize=3).train_images.shape == (4, 3, 3, 3)


@pytest.mark.parametrize("resize", [0, (4, 0), (4,), 2.5, "4x5", True, (4, True)])
def test_an_invalid_size_is_refused(tree, resize):
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


def test_the_content_decides_which_formats_are_decoded(tree, colours):
    (tree / "train/cat/2.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 4\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(
        DataError, match=r"2\.png cannot be read as an image.*supported formats are BMP, GIF, JPEG"
    ):
        image_folder(tree / "train", tree / "test")
    Image.fromarray(colours[0]).save(tree / "train/cat/2.png", "PPM")
    images = image_folder(tree / "train", tree / "test")
    assert np.array_equal(images.train_images[1], colours[0])
