"""CIFAR-10 and CIFAR-100 in the publisher's binary version: no pickle is ever read.

A file is a sequence of records without a header: one label byte (CIFAR-10) or two, coarse and fine
(CIFAR-100), then 3,072 pixel bytes: the 32x32 red values row by row, then the green and the blue ones.

=====================  ===================  =====================
folder                 training files       test file
=====================  ===================  =====================
cifar-10-batches-bin   data_batch_1..5.bin  test_batch.bin
cifar-100-binary       train.bin            test.bin
=====================  ===================  =====================

The class names are in ``batches.meta.txt``, ``fine_label_names.txt`` and ``coarse_label_names.txt``, one per
line; without these files the names of this module are used.

A file of CIFAR-100 may hold a part of the records if ``train_index.npy`` or ``test_index.npy`` beside it has
the row of each record in the published file.
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from layerprobe.data.arrays import load_npy
from layerprobe.data.imagesets import ImageSet
from layerprobe.data.progress import Progress
from layerprobe.errors import DataError

_SIDE = 32  # pixels
_PIXELS = 3 * _SIDE * _SIDE  # bytes of one image


@dataclass(frozen=True)
class Layout:
    """The files of a set."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    columns: tuple[tuple[str, tuple[str, ...]], ...]  # per label byte: the file of class names, default names
    parts: tuple[tuple[str, int], ...] = ()  # files that may be partial: name, number of published records


def read_cifar(
    name: str, folder: Path, _progress: bool | Progress, *, layout: Layout, column: int = 0
) -> ImageSet:
    """Read CIFAR-10 or CIFAR-100 with the labels of one label byte.

    Parameters
    ----------
    name, folder, _progress
        As for every reader of the registry.
    layout : Layout
    column : int
        The label byte of each record.

    Returns
    -------
    ImageSet

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    class_names = _read_class_names(folder, *layout.columns[column])
    records = {file: _records(folder / file, layout) for file in (*layout.train, *layout.test)}
    _check_distinct(folder, records)
    for file, whole in layout.parts:
        index = folder / f"{Path(file).stem}_index.npy"
        if index.is_file():
            read_index(index, len(records[file]), whole)
    train, test = ([records[file] for file in files] for files in (layout.train, layout.test))
    return ImageSet(
        name, _images(train), _labels(train, column), _images(test), _labels(test, column), class_names
    )


def read_cifar_labels(folder: Path, *, layout: Layout, column: int = 0) -> np.ndarray:
    """Read the training labels without the images.

    Parameters
    ----------
    folder : Path
        The publisher's folder of the set.
    layout : Layout
    column : int
        The label byte of each record.

    Returns
    -------
    ndarray of shape (n,), int64

    Raises
    ------
    DataError
        If a file is missing or damaged.
    """
    return _labels([_records(folder / file, layout) for file in layout.train], column)


def read_index(path: Path, n: int, whole: int) -> np.ndarray:
    """Read the index of a partial file.

    Parameters
    ----------
    path : Path
        An .npy file.
    n : int
        The number of records in the partial file.
    whole : int
        The number of records in the published file.

    Returns
    -------
    ndarray of shape (n,)
        The row of each record in the published file.

    Raises
    ------
    DataError
        If the file cannot be read or does not hold n distinct rows.
    """
    rows = load_npy(path)
    if (
        rows.dtype.kind not in "iu"
        or rows.shape != (n,)
        or not 0 <= rows.min() <= rows.max() < whole
        or len(np.unique(rows)) < n
    ):
        raise DataError(
            f"{path}: expected {n} positions in 0..{whole - 1}, all different, one for each image in the "
            f"folder, got {rows.dtype} of shape {rows.shape}."
        )
    return rows


def _check_distinct(folder: Path, records: dict[str, np.ndarray]) -> None:
    for (one, a), (other, b) in combinations(records.items(), 2):
        if np.array_equal(a[0], b[0]) and np.array_equal(a, b):  # first records differ in good files
            raise DataError(
                f"{folder / other} has the same content as {one}: one file replaced the other. "
                "Move the folder away and fetch the set again."
            )


def _records(path: Path, layout: Layout) -> np.ndarray:
    """Map a file as (n, bytes of a record), uint8, and check its size and its labels."""
    width = len(layout.columns) + _PIXELS
    try:
        content = np.memmap(path, np.uint8, mode="r")
    except (OSError, ValueError) as error:  # ValueError: an empty file
        raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
    if len(content) % width:
        raise DataError(
            f"{path}: expected whole records of {width} bytes, got {len(content)} bytes. "
            "The file is truncated or not of the binary version. Fetch it again."
        )
    records = content.reshape(-1, width)  # (n, width)
    for column, (_, names) in enumerate(layout.columns):
        bad = np.flatnonzero(records[:, column] >= len(names))
        if len(bad):
            raise DataError(
                f"{path}: expected labels in 0..{len(names) - 1} in byte {column} of each record, got "
                f"{records[bad[0], column]} in record {bad[0]}. The file is damaged, or not of this set."
            )
    return records


def _images(files: list[np.ndarray]) -> np.ndarray:
    """Copy the planar pixels of all files into one array (n, 32, 32, 3)."""
    images = np.empty((sum(map(len, files)), _SIDE, _SIDE, 3), np.uint8)
    start = 0
    for records in files:
        planar = records[:, -_PIXELS:].reshape(-1, 3, _SIDE, _SIDE)
        images[start : start + len(records)] = planar.transpose(0, 2, 3, 1)
        start += len(records)
    return images


def _labels(files: list[np.ndarray], column: int) -> np.ndarray:
    return np.concatenate([records[:, column] for records in files]).astype(np.int64)  # (n,)


def _read_class_names(folder: Path, file: str, known: tuple[str, ...]) -> tuple[str, ...]:
    path = folder / file
    if not path.is_file():
        return known
    names = tuple(line.strip() for line in path.read_text("utf-8", "replace").splitlines() if line.strip())
    if len(names) != len(known):
        raise DataError(f"{path}: expected {len(known)} class names, one per line, got {len(names)}.")
    return names


_TEN = "airplane automobile bird cat deer dog frog horse ship truck"
_COARSE = """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
    large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
    vehicles_1 vehicles_2"""
_FINE = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
    camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
    dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
    leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
    otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
    rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
    sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm"""

CIFAR10 = Layout(
    folder="cifar-10-batches-bin",
    train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test=("test_batch.bin",),
    columns=(("batches.meta.txt", tuple(_TEN.split())),),
)
CIFAR100 = Layout(
    folder="cifar-100-binary",
    train=("train.bin",),
    test=("test.bin",),
    columns=(
        ("coarse_label_names.txt", tuple(_COARSE.split())),
        ("fine_label_names.txt", tuple(_FINE.split())),
    ),
    parts=(("train.bin", 50_000), ("test.bin", 10_000)),
)
