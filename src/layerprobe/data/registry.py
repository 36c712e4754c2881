"""The registry of image sets: how each is read and where it is published. A new set is one entry."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from layerprobe.data.cifar import CIFAR10, CIFAR100, CIFAR100_COARSE, Layout
from layerprobe.data.folders import data_folder
from layerprobe.data.idx import IDX_FILES, read_idx_set
from layerprobe.data.imagesets import ImageSet
from layerprobe.data.progress import Progress
from layerprobe.data.tiny_imagenet import read_tiny_imagenet
from layerprobe.errors import DataError, InputError
from layerprobe.utils.registry import Registry, calling_module, takes


@dataclass(frozen=True)
class Source:
    """Publication of a set: single files, or one .tar.gz or .zip file of the set's folder."""

    urls: tuple[str, ...]  # base addresses, tried in this order
    md5: Mapping[str, str]  # the MD5 of each file by name
    members: tuple[str, ...] = ()  # files and folders to unpack from an archive; "." for all of them


@dataclass(frozen=True)
class Entry:
    """Reader and source of a set."""

    read: Callable[[str, Path, bool | Progress], ImageSet]  # read(name, root / folder, progress)
    folder: str = ""  # the publisher's name of the set's folder; empty for a set that comes with a library
    files: Mapping[str, int] = field(default_factory=dict)  # required files, and bytes; 0 for any size
    parts: bool = False  # whether a file may hold a part of the rows if STEM_index.npy beside it lists them
    source: Source | None = None  # None if there is nothing to fetch

    def check_sizes(self, folder: Path) -> None:
        """Raise a DataError if a file of the set is missing or has another than the published size."""
        for file, expected in self.files.items():
            path = folder / file
            index = path.with_name(f"{path.stem}_index.npy")
            size = path.stat().st_size if path.is_file() else None
            if size is None or (expected not in (0, size) and not (self.parts and index.is_file())):
                got = "no file" if size is None else f"{size:,} bytes"
                raise DataError(
                    f"{path}: expected the published {f'{expected:,} bytes' if expected else 'file'}, got "
                    f"{got}. Move the folder away and fetch the set again"
                    + (f", or list its rows of the published file in {index.name}." if self.parts else ".")
                )


def load(
    name: str, root: str | os.PathLike[str] | None = None, *, progress: bool | Progress = False
) -> ImageSet:
    """Load an image set from its publisher's files.

    Files of the CIFAR sets must have their published sizes, those of "mnist" and "fashion-mnist" their
    published MD5s (below 0.1 s). A part of "cifar-100" is enough if ``train_index.npy`` or
    ``test_index.npy`` beside the file lists its rows of the whole file.

    Parameters
    ----------
    name : str
        One of `available()`. "cifar-100-coarse" has the images of "cifar-100" with the 20 superclasses.
    root : path, optional
        The folder that holds the publisher's folder of the set: ``mnist``, ``fashion-mnist``,
        ``cifar-10-batches-bin``, ``cifar-100-binary`` or ``tiny-imagenet-200``. By default the environment
        variable LAYERPROBE_DATA, or else ``layerprobe`` in the user's cache folder. "digits" needs none.
    progress : bool or callable
        Progress of decoding JPEG files (the first time that "tiny-imagenet" is read): True shows a bar on
        stderr, a callable is called with (images done, images in total).

    Returns
    -------
    ImageSet

    Raises
    ------
    InputError
        If no set has this name.
    DataError
        If a file is missing, damaged or not the published one.
    """
    entry = REGISTRY[name]
    folder = data_folder(root) / entry.folder
    missing = [file for file in entry.files if not (folder / file).is_file()]
    if missing:
        raise DataError(
            f"The image set {name!r} is missing or incomplete: {folder} does not hold {', '.join(missing)}. "
            f"Run `layerprobe data fetch {name}`, or give the folder that holds {entry.folder}/ by root= in "
            "Python, --data on the command line, or the environment variable LAYERPROBE_DATA."
        )
    entry.check_sizes(folder)
    if entry.source is not None and not entry.source.members:
        _check_md5(name, entry.source, folder)
    images = entry.read(name, folder, progress)
    if not isinstance(images, ImageSet):
        raise InputError(f"the reader of {name!r} must return an ImageSet, got {type(images).__name__}")
    return images


def register_dataset(name: str, read: Callable[[Path], ImageSet] | Entry) -> None:
    """Register an image set of your own, for `load` and for the pairs that name it.

    Installed packages register theirs by the entry points "layerprobe.datasets".

    Parameters
    ----------
    name : str
    read : callable, or Entry
        Return the `ImageSet`, given the folder of this name in the folder of all data sets (--data,
        LAYERPROBE_DATA), which need not exist. It must return the same images at every call. With an `Entry`
        the files are checked, and can be fetched.

    Raises
    ------
    InputError
        If the name is one of layerprobe's own sets, or `read` is not callable.
    """
    REGISTRY.register(name, read, calling_module())


def available() -> list[str]:
    """Return the names of the image sets that `load` reads, those of installed packages among them."""
    return REGISTRY.names()


def _read_own(
    read: Callable[[Path], ImageSet], _name: str, folder: Path, _progress: bool | Progress
) -> ImageSet:
    return read(folder)


def _check(name: str, read: Any) -> Entry:
    if isinstance(read, Entry):
        return read
    if not takes(read, 1):
        raise InputError(
            f"expected a function from a folder to an ImageSet as the image set {name!r}, got {read!r:.80}"
        )
    return Entry(partial(_read_own, read), folder=name)


def _check_md5(name: str, source: Source, folder: Path) -> None:
    for file, expected in source.md5.items():
        path = folder / file
        try:
            with path.open("rb") as stream:
                got = hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        if got != expected:
            raise DataError(
                f"{path}: expected the published MD5 {expected}, got {got}. The file is damaged, of another "
                f"set, or was compressed again. Run `layerprobe data fetch {name}` to replace it by the "
                "published file; read your own images by image_folder or from_dataset."
            )


def _read_digits(name: str, _folder: Path, _progress: bool | Progress) -> ImageSet:
    """Split scikit-learn's 1,797 images of 8x8 digits, pixels 0..16, into 1,437 train and 360 test images."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    train.sort()  # keep the order of the file
    test.sort()
    class_names = tuple(map(str, bunch.target_names))
    return ImageSet(name, images[train], labels[train], images[test], labels[test], class_names, max_value=16)


def _idx_entry(folder: str, class_names: Sequence[str], urls: tuple[str, ...], md5: Sequence[str]) -> Entry:
    """Return the entry of a set of four IDX files, with their MD5s in the order of `IDX_FILES`."""
    return Entry(
        partial(read_idx_set, class_names=tuple(class_names)),
        folder,
        dict.fromkeys(IDX_FILES, 0),
        source=Source(urls, dict(zip(IDX_FILES, md5, strict=True))),
    )


def _cifar_entry(layout: Layout, archive: str, md5: str) -> Entry:
    source = Source(("https://www.cs.toronto.edu/~kriz/",), {archive: md5}, members=(".",))
    return Entry(layout.read, layout.folder, layout.sizes, layout.parts, source)


_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_CIFAR100_ARCHIVE = ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")

REGISTRY: Registry[Entry] = Registry("image set", "layerprobe.datasets", _check)
REGISTRY.own(
    {
        "digits": Entry(_read_digits),
        "mnist": _idx_entry(
            "mnist",
            "0123456789",
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        "fashion-mnist": _idx_entry(
            "fashion-mnist",
            _FASHION.split(", "),
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ),
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        "cifar-10": _cifar_entry(CIFAR10, "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        "cifar-100": _cifar_entry(CIFAR100, *_CIFAR100_ARCHIVE),
        "cifar-100-coarse": _cifar_entry(CIFAR100_COARSE, *_CIFAR100_ARCHIVE),
        "tiny-imagenet": Entry(
            read_tiny_imagenet,
            "tiny-imagenet-200",
            dict.fromkeys(("wnids.txt", "words.txt", "val/val_annotations.txt"), 0),
            source=Source(
                ("http://cs231n.stanford.edu/",),
                {"tiny-imagenet-200.zip": "90528d7ca1a48142e341f4ef8d21d0de"},
                members=("wnids.txt", "words.txt", "train", "val"),
            ),
        ),
    }
)
