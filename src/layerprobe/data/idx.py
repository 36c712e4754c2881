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

_UINT8 = 0x08  # the type code of unsigned bytes, third byte of the magic number


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The gzipped IDX file.
    ndim : int
        The expected number of dimensions.

    Returns
    -------
    ndarray of uint8, `ndim` dimensions, read-only

    Raises
    ------
    DataError
        If the file is damaged, of another type, empty, or its size differs from its header.
    """
    try:
        with gzip.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}. Fetch it again.") from error
    magic, start = bytes([0, 0, _UINT8, ndim]), 4 + 4 * ndim
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


def read_labelled_images(
    images_path: Path, labels_path: Path, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read a pair of files.

    Parameters
    ----------
    images_path, labels_path : Path
    num_classes : int
        K.

    Returns
    -------
    images : ndarray of shape (n, h, w), uint8
    labels : ndarray of shape (n,), int64
        In 0..K-1.

    Raises
    ------
    DataError
        If a file is damaged or they do not fit together; the message names the file.
    """
    images = read_idx(images_path, ndim=3)  # (n, h, w)
    labels = read_idx(labels_path, ndim=1)  # (n,)
    if len(labels) != len(images):
        raise DataError(
            f"{labels_path}: expected {len(images)} labels, one for each image of {images_path.name}, "
            f"got {len(labels)}."
        )
    if labels.max() >= num_classes:
        raise DataError(f"{labels_path}: expected labels in 0..{num_classes - 1}, got {labels.max()}.")
    return images, labels.astype(np.int64)


def read_idx_set(
    name: str, folder: Path, _progress: bool | Progress, *, class_names: tuple[str, ...]
) -> ImageSet:
    """Read an image set of the four files `IDX_FILES`.

    Parameters
    ----------
    name, folder, _progress
        As for every reader of the registry.
    class_names : tuple of str

    Returns
    -------
    ImageSet

    """
    paths = [folder / file for file in IDX_FILES]
    train_images, train_labels = read_labelled_images(paths[0], paths[1], len(class_names))
    test_images, test_labels = read_labelled_images(paths[2], paths[3], len(class_names))
    if test_images.shape[1:] != train_images.shape[1:]:
        raise DataError(
            f"{paths[2]}: expected images of shape {train_images.shape[1:]}, as in {IDX_FILES[0]}, "
            f"got {test_images.shape[1:]}."
        )
    return ImageSet(name, train_images, train_labels, test_images, test_labels, class_names)
