"""Any folder of images, one subfolder a class.

Layout::

    train/CLASS/**/*.png ...        the names of the subfolders, sorted, are the class names
    test/CLASS/**/*.png ...         the same classes

Files with another suffix than those of `SUFFIXES`, and hidden ones, are not looked at.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.pixels import read_pixels, stack
from layerprobe.data.progress import Progress, reporting
from layerprobe.errors import DataError, InputError

__all__ = ["as_size", "class_files", "decode_files", "image_folder"]

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def image_folder(
    train: str | os.PathLike[str],
    test: str | os.PathLike[str] | None = None,
    *,
    resize: int | tuple[int, int] | None = None,
    name: str | None = None,
    progress: bool | Progress = False,
) -> ImageSet:
    """Read a folder of images with one subfolder a class.

    Images are sorted by class, then by path as text. They become grey (n, h, w) if all of them are grey, else
    RGB (n, h, w, 3). Pixels are taken as they are stored: rotation marks (EXIF) have no effect.

    Parameters
    ----------
    train : path
        The folder of training images.
    test : path, optional
        The folder of test images, with the same classes. Without it the set has no test images.
    resize : int or (int, int), optional
        Bring every image to this (height, width), bilinear, whatever its shape. Without it all images must
        have one size.
    name : str, optional
        The set's name; by default that of the folder.
    progress : bool or callable
        True shows a bar on stderr; a callable is called with (images done, images in all).

    Returns
    -------
    ImageSet

    Raises
    ------
    InputError
        If `resize` is not such a size.
    DataError
        If a class has no images or is only in one of the two folders, a file cannot be decoded, or sizes
        differ.
    """
    size = as_size(resize)
    roots = [Path(root).expanduser() for root in (train, test) if root is not None]
    classes = [class_files(root) for root in roots]
    class_names = tuple(classes[0])
    if set(classes[-1]) != set(class_names):
        odd = sorted(set(classes[-1]) ^ set(class_names))
        raise DataError(
            f"{roots[0]} and {roots[-1]} must have the same class folders, but only one of them has "
            f"{', '.join(odd)}."
        )
    paths = [[path for files in split.values() for path in files] for split in classes]
    labels = [np.repeat(np.arange(len(class_names)), list(map(len, split.values()))) for split in classes]
    pixels = decode_files([path for split in paths for path in split], size, progress)
    n = len(labels[0])
    test_labels = labels[1] if test is not None else np.empty(0, np.int64)
    return ImageSet(name or roots[0].name, pixels[:n], labels[0], pixels[n:], test_labels, class_names)


def as_size(resize: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return (height, width) of one or two whole numbers; None stays None."""
    size = (resize, resize) if isinstance(resize, int) else resize
    if size is not None and not (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size)
    ):
        raise InputError(f"resize must be one or two integers (height, width) above 0, got {resize!r}.")
    return size


def class_files(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, all sorted."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder: expected one with a subfolder of images for each class.")
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


def decode_files(
    paths: Sequence[Path], size: tuple[int, int] | None = None, progress: bool | Progress = False
) -> np.ndarray:
    """Decode images of one size, or resized to (h, w): grey (n, h, w) if all are grey, else (n, h, w, 3)."""
    images: list[np.ndarray] = []
    with reporting(progress, "decoding") as report:
        for path in paths:
            images.append(read_pixels(path, resize=size))
            expected, got = images[0].shape[:2], images[-1].shape[:2]
            if got != expected:
                raise DataError(
                    f"{path} has {got[0]}x{got[1]} pixels (height x width), but {paths[0]} has "
                    f"{expected[0]}x{expected[1]}. Bring them to one size, or give resize=(height, width)."
                )
            report(len(images), len(paths))
    return stack(images)
