"""Tiny ImageNet from its folder of JPEG files, decoded once.

Layout of ``tiny-imagenet-200``, as published::

    wnids.txt                       the classes, one WordNet identifier (wnid) per line
    words.txt                       wnid, tab, names
    train/WNID/images/*.JPEG        500 images per class
    val/val_annotations.txt         file, tab, wnid, tab, a box (unused)
    val/images/*.JPEG               50 images per class, our test set: the labels of test/ are not public

The set has the classes of wnids.txt, in the sorted order of their wnids, and no images of other classes.
Training images are sorted by class, then by name; test images have the order of val_annotations.txt. The
files are 64x64 JPEG; grey ones become RGB.

Decoded pixels are cached in one ``.npy`` file, in the folder itself or, if that is read-only, in the user's
cache folder. Its name has a digest of every file's path, size and modification time, so a changed tree is
decoded again, and an incomplete file is never used.
"""

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from layerprobe.data.folders import cache_folder
from layerprobe.data.imagesets import ImageSet
from layerprobe.data.pixels import read_pixels, rgb
from layerprobe.data.progress import Progress, reporting
from layerprobe.errors import DataError
from layerprobe.utils.files import replaced_file

_SHAPE = (64, 64, 3)


def read_tiny_imagenet(name: str, folder: Path, progress: bool | Progress) -> ImageSet:
    """Read train/ as training set and val/ as test set; raise a DataError for a tree that is damaged.

    Parameters
    ----------
    name, folder, progress
        As for every reader of the registry.
    """
    wnids = sorted(set(_lines(folder / "wnids.txt")))
    if not wnids:
        raise DataError(f"{folder / 'wnids.txt'} lists no classes. Unpack the archive again.")
    words = dict(line.split("\t", 1) for line in _lines(folder / "words.txt") if "\t" in line)
    by_class = [sorted((folder / "train" / wnid / "images").glob("*.JPEG")) for wnid in wnids]
    train_labels = np.repeat(np.arange(len(wnids)), list(map(len, by_class)))
    test, test_labels = _read_annotations(folder / "val", wnids)
    for labels, place in ((train_labels, "train"), (test_labels, "val/val_annotations.txt")):
        empty = np.setdiff1d(np.arange(len(wnids)), labels)
        if len(empty):
            raise DataError(
                f"{folder / place} has no images of {len(empty)} of {len(wnids)} classes, the first "
                f"{wnids[empty[0]]}. Unpack the archive again, or leave these classes out of wnids.txt."
            )
    pixels = _decoded([*chain.from_iterable(by_class), *test], folder, progress)
    n = len(train_labels)
    class_names = tuple(words.get(wnid, wnid) for wnid in wnids)
    return ImageSet(name, pixels[:n], train_labels, pixels[n:], test_labels, class_names)


def _read_annotations(val: Path, wnids: Sequence[str]) -> tuple[list[Path], np.ndarray]:
    """Return the files and the labels (n,) of the listed classes."""
    class_index = {wnid: k for k, wnid in enumerate(wnids)}
    paths, labels = [], []
    for line in _lines(val / "val_annotations.txt"):
        file, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if not wnid or Path(file).name != file:
            raise DataError(
                f"{val / 'val_annotations.txt'}: expected a file name, a tab, a wnid, got {line!r}."
            )
        if wnid in class_index:
            paths.append(val / "images" / file)
            labels.append(class_index[wnid])
    return paths, np.array(labels, np.int64)


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Unpack the archive again.") from error


def _decoded(paths: Sequence[Path], folder: Path, progress: bool | Progress) -> np.ndarray:
    """Return the pixels (n, 64, 64, 3) of all files, from the cache if it has them."""
    shape = (len(paths), *_SHAPE)
    if os.access(folder, os.W_OK):
        stem = folder / ".layerprobe-pixels"
    else:  # one name per tree, so that trees do not share a cache file
        stem = cache_folder() / f"{folder.name}-{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:16]}"
    cache = stem.with_name(f"{stem.name}-{_digest(paths, folder)}.npy")
    pixels = _cached(cache, shape)
    if pixels is not None:
        return pixels
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with reporting(progress, "decoding") as report, replaced_file(cache) as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for done, path in enumerate(paths, 1):
                image = rgb(read_pixels(path))
                if image.shape != _SHAPE:
                    raise DataError(f"{path}: expected an image of 64x64, got {len(image)}x{len(image[0])}.")
                file.write(image.tobytes())
                report(done, len(paths))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{cache} could not be written: {error}.") from error
    for stale in cache.parent.glob(f"{stem.name}-*.npy"):
        if stale != cache:
            stale.unlink(missing_ok=True)
    return np.asarray(np.load(cache, mmap_mode="r", allow_pickle=False))


def _cached(cache: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Map a cache file; return None if it is missing or incomplete."""
    try:
        pixels = np.load(cache, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, truncated or of another kind: written again
        return None
    return np.asarray(pixels) if pixels.dtype == np.uint8 and pixels.shape == shape else None


def _digest(paths: Sequence[Path], folder: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}. Unpack the archive again.") from error
        name = str(path)[len(str(folder)) :]  # relative, so a moved tree keeps its cache
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
