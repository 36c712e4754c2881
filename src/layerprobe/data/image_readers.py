"""Image sets from a folder of images, from torch datasets and from Hugging Face datasets."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.pixels import as_size, stack_images
from layerprobe.data.progress import Progress
from layerprobe.errors import DataError, InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    resize: int | tuple[int, int] | None = None,
    name: str | None = None,
    progress: bool | Progress = False,
) -> ImageSet:
    """Read folders of images with one subfolder per class, ``train/CLASS/**/*.png``.

    The sorted names of the subfolders are the class names. Images are sorted by class, then by path. Hidden
    files and files with other suffixes than `SUFFIXES` are ignored, and so are rotation marks (EXIF).

    Parameters
    ----------
    train : path
        The folder of training images.
    test : path, optional
        The folder of test images, with the same classes. Without it the set has no test images.
    resize : int or (int, int), optional
        Resize every image to this (height, width), bilinear. Without it all images must have one size.
    name : str, optional
        The set's name; by default that of the training folder.
    progress : bool or callable
        True shows a bar on stderr; a callable is called with (images done, images in total).

    Returns
    -------
    ImageSet
        Grey if all images are grey, else RGB.

    Raises
    ------
    InputError
        If `resize` is not such a size.
    DataError
        If a class has no images or is in one of the two folders only, a file cannot be decoded, or sizes
        differ.
    """
    size = as_size(resize)
    roots = [Path(root).expanduser() for root in (train, test) if root is not None]
    classes = [class_files(root) for root in roots]
    class_names = tuple(classes[0])
    if odd := sorted(set(classes[-1]) ^ set(class_names)):
        raise DataError(
            f"expected the same class folders in {roots[0]} and {roots[-1]}, but only one of them has "
            f"{', '.join(odd)}. Add or remove these folders."
        )
    paths = [path for split in classes for files in split.values() for path in files]
    pixels = stack_images(
        ((str(path), path) for path in paths), len(paths), resize=size, progress=progress, title="decoding"
    )
    labels = [np.repeat(np.arange(len(class_names)), list(map(len, split.values()))) for split in classes]
    n = len(labels[0])
    test_labels = labels[1] if test is not None else np.empty(0, np.int64)
    return ImageSet(name or roots[0].name, pixels[:n], labels[0], pixels[n:], test_labels, class_names)


def class_files(root: Path) -> dict[str, list[Path]]:
    """Return the sorted image files of each class folder, by the sorted names of the folders."""
    if not root.is_dir():
        raise DataError(f"expected a folder with one subfolder of images per class, but {root} is no folder.")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(f"{root} has no subfolders: expected one with images for each class.")
    classes = {}
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES]
        classes[folder.name] = sorted(path for path in files if not path.name.startswith("."))
        if not classes[folder.name]:
            raise DataError(
                f"{folder} holds no images ({' '.join(sorted(SUFFIXES))}). Fill or remove this class folder."
            )
    return classes


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "dataset",
    progress: bool | Progress = False,
) -> ImageSet:
    """Read torch datasets into an image set.

    Parameters
    ----------
    train, test : torch.utils.data.Dataset, or any iterable
        Items are pairs (image, label). An image is a Pillow image, an array (h, w) or (h, w, 3), or a tensor
        (h, w), (1, h, w) or (3, h, w); arrays hold uint8, or floats k/255 as ToTensor makes them. All have
        one size. A label is an integer in 0..K-1. Leave out augmentation and normalisation.
    class_names : sequence of str, optional
        By default the attribute ``classes`` of `train`, or else the numbers up to the largest label.
    name : str
        The set's name.
    progress : bool or callable
        True shows a bar on stderr; a callable is called with (images done, images in total), where the total
        is 0 if it is unknown.

    Returns
    -------
    ImageSet
        Grey if all images are grey, else RGB.

    Raises
    ------
    InputError
        If an item is not such a pair (the message names it), sizes differ, or there are no training images.
    """
    if class_names is None:
        class_names = getattr(train, "classes", None)
    return _image_set(name, train, test, _items, class_names, progress)


def from_hf(
    train: Any,
    test: Any = None,
    *,
    image: str | None = None,
    label: str | None = None,
    name: str = "dataset",
    progress: bool | Progress = False,
) -> ImageSet:
    """Read datasets of Hugging Face's ``datasets`` into an image set. The package itself is not imported.

    Parameters
    ----------
    train, test : datasets.Dataset
        `train` may also be a DatasetDict: its split "train" and, if there is one, its split "test" are read.
        A set whose test labels are hidden (-1) needs another split: ``from_hf(d["train"],
        d["validation"])``.
    image, label : str, optional
        The columns. By default the only column of type Image and the only one of type ClassLabel.
    name, progress
        As for `from_dataset`.

    Returns
    -------
    ImageSet
        Its class names are those of the ClassLabel column, or else numbers.

    Raises
    ------
    InputError
        If a column is missing or ambiguous, or for the reasons of `from_dataset`.
    """
    if isinstance(train, Mapping):
        if test is not None or "train" not in train:
            raise InputError(
                f"A DatasetDict must have a split 'train' and comes without test=, got {', '.join(train)}. "
                "Pass two of its splits instead."
            )
        train, test = train["train"], train.get("test")
    features = train.features
    images = [key for key in features if type(features[key]).__name__ == "Image"]
    image = hub_column(features, image, "image", images)
    label = hub_column(features, label, "label", [key for key in features if hasattr(features[key], "names")])

    def pairs(data: Any) -> Iterator[Any]:
        return ((row[image], row[label]) for row in data)

    return _image_set(name, train, test, pairs, getattr(features[label], "names", None), progress)


def hub_column(features: Mapping[str, Any], given: str | None, what: str, candidates: list[str]) -> str:
    """Return the name of a column of a Hugging Face dataset; raise an InputError unless it is clear.

    Parameters
    ----------
    features : mapping
        The dataset's columns and their types.
    given : str or None
        The user's choice.
    what : str
        The argument for this choice.
    candidates : list of str
        Columns of the right type; without a choice there must be exactly one.
    """
    if given is not None:
        candidates = [given] if given in features else []
    if len(candidates) != 1:
        raise InputError(
            f"The {what.removesuffix('_column')} column {'does not exist' if given else 'is not clear'}: "
            f"choose one of {', '.join(features)} by {what}=."
            + (" class_encode_column() turns texts into class indices." if what.startswith("label") else "")
        )
    return candidates[0]


def _items(data: Any) -> Iterator[Any]:
    """Iterate over a dataset by its length: map-style datasets often raise no IndexError at the end."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))
    return iter(data)


def _image_set(
    name: str,
    train: Any,
    test: Any,
    pairs: Callable[[Any], Iterator[Any]],
    class_names: Sequence[str] | None,
    progress: bool | Progress,
) -> ImageSet:
    """Read the pairs (image, label) of one or two datasets."""
    images, labels = [], []
    for split, data in (("train", train), ("test", test)):
        if data is not None:
            y: list[int] = []
            total = len(data) if hasattr(data, "__len__") else 0
            named = _named_images(pairs(data), split, y)
            images.append(stack_images(named, total, progress=progress, title=f"reading the {split} set"))
            labels.append(np.array(y, np.int64))
    if len({pixels.ndim for pixels in images}) > 1:  # only one of the two is grey
        images = [pixels if pixels.ndim == 4 else np.stack([pixels] * 3, axis=3) for pixels in images]
    if class_names is None:
        class_names = [str(k) for k in range(1 + max(int(y.max()) for y in labels))]
    if test is None:
        images, labels = [images[0], images[0][:0]], [labels[0], labels[0][:0]]
    return ImageSet(name, images[0], labels[0], images[1], labels[1], tuple(map(str, class_names)))


def _named_images(pairs: Iterable[Any], split: str, labels: list[int]) -> Iterator[tuple[str, Any]]:
    """Yield the name of each item for messages and its image, and append its label to `labels`."""
    for i, pair in enumerate(pairs):
        name = f"Item {i} of the {split} set"
        try:
            image, label = pair
            labels.append(_class_index(label))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: {error}") from error
        yield name, image


def _class_index(label: Any) -> int:
    array = np.asarray(label)
    if array.dtype.kind not in "iu" or array.size != 1:
        raise InputError(f"the label must be one integer, a class index in 0..K-1, got {label!r}.")
    if array.item() < 0:
        raise InputError(
            f"the label is {array.item()}, which stands for a hidden one. Use a split that has labels."
        )
    return int(array.item())
