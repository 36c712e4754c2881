"""Strict reader of gzipped IDX files, the format of MNIST and of the sets made in its likeness."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from layerprobe.data.imagesets import ImageSet
from layerprobe.data.progress import Progress
from layerprobe.errors import DataError

__all__ = ["IDX_FILES", "read_idx", "read_idx_set", "read_labelled_images"]

IDX_FILES = tuple(
    f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)

_UINT8 = 0x08  # the type code of unsigned bytes, third byte of the magic number


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """Read one .gz file of unsigned bytes.

    Parameters
    ----------
    path : Path
        The gzipped IDX file.
    ndim : int
        Number of dimensions that the file must have.

    Returns
    -------
    ndarray of uint8, `ndim` dimensions, read-only

    Raises
    ------
    DataError
        If the file is damaged, of another type, empty, or its bytes are not as many as its header says.
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
            f"{path}: the header announces the shape {shape}, which takes {math.prod(shape)} (more than 0) "
            f"bytes, but {len(content) - start} bytes follow. Fetch it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_labelled_images(
    images_path: Path, labels_path: Path, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read images (n, h, w) uint8 and labels (n,) int64 in 0..K-1; a DataError names the file at fault."""
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
    """Read the four files `IDX_FILES` that MNIST and the sets made in its likeness consist of."""
    paths = [folder / file for file in IDX_FILES]
    train_images, train_labels = read_labelled_images(paths[0], paths[1], len(class_names))
    test_images, test_labels = read_labelled_images(paths[2], paths[3], len(class_names))
    if test_images.shape[1:] != train_images.shape[1:]:
        raise DataError(
            f"{paths[2]}: expected images of shape {train_images.shape[1:]}, as in {IDX_FILES[0]}, "
            f"got {test_images.shape[1:]}."
        )
    return ImageSet(name, train_images, train_labels, test_images, test_labels, class_names)
