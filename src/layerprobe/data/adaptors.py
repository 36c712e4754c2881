"""Image sets from the data sets of torch and of Hugging Face's `datasets`, which is not imported for it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.pixels import as_pixels, stack
from layerprobe.data.progress import Progress, reporting
from layerprobe.errors import InputError

__all__ = ["from_dataset", "from_hf", "hub_column"]


def from_dataset(
    train: Any,
    test: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "dataset",
    progress: bool | Progress = False,
) -> ImageSet:
    """Read every item of torch data sets into an image set.

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
        True shows a bar on stderr; a callable is called with (images done, images in all, 0 where unknown).

    Returns
    -------
    ImageSet
        Grey if all images are grey, else RGB.

    Raises
    ------
    InputError
        If an item is not such a pair (the message names it), sizes differ, or there are no training images.
    """
    splits = [_read(_items(data), split, _length(data), progress) for split, data in _splits(train, test)]
    if class_names is None:
        class_names = getattr(train, "classes", None)
    return _assemble(name, splits, class_names)


def from_hf(
    train: Any,
    test: Any = None,
    *,
    image: str | None = None,
    label: str | None = None,
    name: str = "dataset",
    progress: bool | Progress = False,
) -> ImageSet:
    """Read data sets of Hugging Face's ``datasets`` into an image set.

    Parameters
    ----------
    train, test : datasets.Dataset
        `train` may also be a DatasetDict: its splits "train" and, if there is one, "test" are read then. A
        set whose test labels are hidden (-1) needs another split: ``from_hf(d["train"], d["validation"])``.
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
        If a column cannot be told or is not there, or for the reasons that `from_dataset` has.
    """
    if isinstance(train, Mapping):
        if test is not None or "train" not in train:
            raise InputError(
                f"A DatasetDict must have a split 'train' and comes without test=, got {', '.join(train)}. "
                "Pass two of its splits instead."
            )
        train, test = train["train"], train.get("test")
    features = train.features
    image = hub_column(
        features, image, "image", [key for key in features if type(features[key]).__name__ == "Image"]
    )
    label = hub_column(features, label, "label", [key for key in features if hasattr(features[key], "names")])
    splits = []
    for split, data in _splits(train, test):
        pairs = ((row[image], row[label]) for row in data)
        splits.append(_read(pairs, split, _length(data), progress))
    return _assemble(name, splits, getattr(features[label], "names", None))


def _splits(train: Any, test: Any) -> list[tuple[str, Any]]:
    return [("train", train)] + ([("test", test)] if test is not None else [])


def hub_column(features: Mapping[str, Any], given: str | None, what: str, found: list[str]) -> str:
    """Return the name of a column of a hub data set: the one given, or the only one that was found."""
    if given is not None:
        found = [given] if given in features else []
    if len(found) != 1:
        raise InputError(
            f"The {what.removesuffix('_column')} column is {'not there' if given else 'not clear'}: "
            f"name it by {what}=, one of {', '.join(features)}."
            + (" class_encode_column() makes class numbers of texts." if what.startswith("label") else "")
        )
    return found[0]


def _length(data: Any) -> int:
    """Return how many items there are, 0 where that is not known."""
    return len(data) if hasattr(data, "__len__") else 0


def _items(data: Any) -> Iterator[Any]:
    """Iterate over a data set: torch's map style has a length and an index, but often no end of iteration."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))
    return iter(data)


def _read(
    pairs: Iterable[Any], split: str, length: int, progress: bool | Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, h, w[, 3]) uint8 and labels (n,) int64."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    with reporting(progress, f"reading {split}") as report:
        for i, pair in enumerate(pairs):
            try:
                image, label = pair
                images.append(as_pixels(image))
                labels.append(_as_code(label))
                if images[i].shape[:2] != images[0].shape[:2]:
                    raise InputError(
                        f"all images must have one size, the first has {images[0].shape[:2]}, this one "
                        f"{images[i].shape[:2]}. Resize them before."
                    )
            except (TypeError, ValueError) as error:
                raise InputError(f"Item {i} of the {split} set: {error}") from error
            report(i + 1, length)
    if not images:
        raise InputError(f"The {split} set has no items.")
    return stack(images), np.array(labels, np.int64)


def _as_code(label: Any) -> int:
    array = np.asarray(label)
    if array.dtype.kind not in "iu" or array.size != 1:
        raise InputError(f"the label must be one integer, a position among the classes, got {label!r}.")
    if array.item() < 0:
        raise InputError(
            f"the label is {array.item()}, which stands for a hidden one. Use a split that has labels."
        )
    return int(array.item())


def _assemble(
    name: str, splits: list[tuple[np.ndarray, np.ndarray]], class_names: Sequence[str] | None
) -> ImageSet:
    images, labels = zip(*splits, strict=True)
    if len({pixels.ndim for pixels in images}) > 1:  # only one of the two splits is grey throughout
        images = tuple(pixels if pixels.ndim == 4 else np.stack([pixels] * 3, axis=3) for pixels in images)
    if class_names is None:
        class_names = [str(k) for k in range(1 + max(int(codes.max()) for codes in labels))]
    if len(splits) == 1:
        images, labels = (*images, images[0][:0]), (*labels, labels[0][:0])
    return ImageSet(name, images[0], labels[0], images[1], labels[1], tuple(map(str, class_names)))
