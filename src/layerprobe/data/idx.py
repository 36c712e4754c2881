"""Strict reader of gzipped IDX files, the format of MNIST and Fashion-MNIST."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.progress import Progress
from layerprobe.errors import DataError

IDX_FILES = tuple(
    f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def read_idx_set(
    name: str, folder: Path, _progress: bool | Progress, *, class_names: tuple[str, ...]
) -> ImageSet:
    """Read an image set of the four files `IDX_FILES`; raise a DataError for files that are damaged.

    Parameters
    ----------
    name, folder, _progress
        As for every reader of the registry.
    class_names : tuple of str
    """
    train, test = (
        _read_pair(folder / images, folder / labels, len(class_names))
        for images, labels in (IDX_FILES[:2], IDX_FILES[2:])
    )
    if test[0].shape[1:] != train[0].shape[1:]:
        raise DataError(
            f"{folder / IDX_FILES[2]}: expected images of shape {train[0].shape[1:]}, as in {IDX_FILES[0]}, "
            f"got {test[0].shape[1:]}."
        )
    return ImageSet(name, *train, *test, class_names)


def _read_pair(images_path: Path, labels_path: Path, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (n, h, w), uint8, and their labels (n,), int64."""
    images, labels = _read_idx(images_path, ndim=3), _read_idx(labels_path, ndim=1)
    if len(labels) != len(images):
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image of {images_path.name}, "
            f"got {len(labels)}."
        )
    if labels.max() >= num_classes:
        raise DataError(f"{labels_path}: expected labels in 0..{num_classes - 1}, got {labels.max()}.")
    return images, labels.astype(np.int64)


def _read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read a file of unsigned bytes in `ndim` dimensions, at least one of them."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}. Fetch it again.") from error
    magic, start = bytes([0, 0, 0x08, ndim]), 4 + 4 * ndim  # 0x08 is the type code of unsigned bytes
    if not content.startswith(magic) or len(content) < start:
        raise DataError(
            f"{path} is not an IDX file of unsigned bytes in {ndim} dimensions: expected a header of {start} "
            f"bytes that starts with {magic.hex()}, got {len(content)} bytes, the first {content[:4].hex()}."
        )
    shape = tuple(np.frombuffer(content, dtype=">u4", count=ndim, offset=4).tolist())
    if len(content) - start != math.prod(shape) or 0 in shape:
        raise DataError(
            f"{path}: expected {math.prod(shape)} bytes (more than 0) for the shape {shape} of the header, "
            f"got {len(content) - start}. Fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
