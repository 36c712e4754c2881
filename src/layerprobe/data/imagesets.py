"""Image sets under one face: `load` by name. A new set is one reader function and one entry of `REGISTRY`."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from layerprobe.data.idx import read_labelled_images
from layerprobe.errors import DataError, InputError

__all__ = ["REGISTRY", "Entry", "ImageSet", "Source", "available", "data_folder", "load", "registered"]


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images and true labels, in the order of the publisher's files. The arrays are read-only.

    Attributes
    ----------
    name : str
        The name that `load` knows the set by.
    train_images, test_images : ndarray of shape (n, h, w) or (n, h, w, 3), uint8
        Grey or RGB pixels, 0 to `max_value`.
    train_labels, test_labels : ndarray of shape (n,), int64
        Codes in 0..K-1, positions in `class_names`.
    class_names : tuple of str
        The K class names.
    max_value : int
        The pixel value of full intensity: 255, but 16 for "digits". Divide by it to scale pixels to [0, 1].
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    max_value: int = 255

    def __post_init__(self) -> None:
        for field in ("train_images", "train_labels", "test_images", "test_labels"):
            view = getattr(self, field).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hexadecimal) of the shapes and values of images and labels, the same on every machine."""
        digest = hashlib.sha256()
        for images, labels in ((self.train_images, self.train_labels), (self.test_images, self.test_labels)):
            digest.update(repr(images.shape).encode())
            digest.update(np.ascontiguousarray(images).data)
            digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        size = "x".join(map(str, self.train_images.shape[1:]))
        return (
            f"ImageSet({self.name!r}: {len(self.train_images)} train and {len(self.test_images)} test images "
            f"of {size}, {self.num_classes} classes)"
        )


@dataclass(frozen=True)
class Source:
    """Where files are published: base addresses, tried in this order, and the MD5 of each file by name."""

    urls: tuple[str, ...]
    md5: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """How a set is had: `read(name, root/NAME)` makes the ImageSet; no source means nothing to fetch."""

    read: Callable[[str, Path], ImageSet]
    source: Source | None = None


def load(name: str, root: str | os.PathLike[str] | None = None) -> ImageSet:
    """Load an image set from its publisher's files.

    Parameters
    ----------
    name : str
        One of `available()`.
    root : path, optional
        The folder that holds the set's own folder ``root/name``. By default the environment variable
        LAYERPROBE_DATA, or else ``layerprobe`` in the user's cache folder. "digits" needs none.

    Returns
    -------
    ImageSet

    Raises
    ------
    InputError
        If no set has this name.
    DataError
        If a file is missing, damaged or not what its publisher ships.
    """
    return registered(name).read(name, data_folder(root) / name)


def available() -> list[str]:
    """Names of the image sets that `load` knows."""
    return list(REGISTRY)


def registered(name: str) -> Entry:
    """Return the registry's entry for a name, or raise InputError that lists the known names."""
    if name not in REGISTRY:
        raise InputError(f"Unknown image set {name!r}. Available: {', '.join(REGISTRY)}.")
    return REGISTRY[name]


def data_folder(root: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of all sets: `root`, else LAYERPROBE_DATA, else the user's cache/layerprobe."""
    if root is None:
        # As torch.hub does: ~/.cache on every platform, so that reading needs no further package.
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        root = os.environ.get("LAYERPROBE_DATA") or Path(cache, "layerprobe")
    return Path(root).expanduser()


def _require(name: str, folder: Path, files: Sequence[str]) -> None:
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"The image set {name!r} is missing or incomplete: {folder} does not hold {', '.join(missing)}. "
            f"Run `layerprobe data fetch {name}`, or name the folder that holds {name}/ by root= or by the "
            "environment variable LAYERPROBE_DATA."
        )


def _read_idx_set(name: str, folder: Path, *, class_names: tuple[str, ...]) -> ImageSet:
    """Read the four files that MNIST and the sets made in its likeness consist of."""
    kinds = ("images-idx3", "labels-idx1")
    files = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in kinds]
    _require(name, folder, files)
    paths = [folder / file for file in files]
    train_images, train_labels = read_labelled_images(paths[0], paths[1], len(class_names))
    test_images, test_labels = read_labelled_images(paths[2], paths[3], len(class_names))
    if test_images.shape[1:] != train_images.shape[1:]:
        raise DataError(
            f"{paths[2]}: expected images of shape {train_images.shape[1:]}, as in {files[0]}, "
            f"got {test_images.shape[1:]}."
        )
    return ImageSet(name, train_images, train_labels, test_images, test_labels, class_names)


def _read_digits(name: str, _folder: Path) -> ImageSet:
    """Split scikit-learn's bundled 8x8 digits, pixels 0..16, into 1,437 train and 360 test images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train.sort()  # keep the order of the file
    test.sort()
    class_names = tuple(map(str, bunch.target_names))
    return ImageSet(name, images[train], labels[train], images[test], labels[test], class_names, max_value=16)


_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"

REGISTRY: dict[str, Entry] = {
    "digits": Entry(_read_digits),
    "mnist": Entry(
        partial(_read_idx_set, class_names=tuple("0123456789")),
        Source(
            urls=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            md5={
                "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
                "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
                "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
            },
        ),
    ),
    "fashion-mnist": Entry(
        partial(_read_idx_set, class_names=tuple(_FASHION.split(", "))),
        Source(
            urls=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            md5={
                "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
                "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
                "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
            },
        ),
    ),
}
