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

from collections.abc import Iterable
from dataclasses import dataclass, replace
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
    """The files of a set, and the labels to read from them."""

    folder: str
    train: dict[str, int]  # published number of records by file
    test: dict[str, int]
    class_names: tuple[tuple[str, tuple[str, ...]], ...]  # per label byte: file of the names, default names
    column: int = 0  # the label byte to read
    parts: bool = False  # whether a file may hold a part of its records

    @property
    def sizes(self) -> dict[str, int]:
        """The published size of each file in bytes."""
        return {file: n * self._width for file, n in (self.train | self.test).items()}

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names[self.column][1])

    @property
    def _width(self) -> int:
        return len(self.class_names) + _PIXELS  # bytes of a record

    def read(self, name: str, folder: Path, _progress: bool | Progress) -> ImageSet:
        """Read the image set; raise a DataError for a missing or damaged file.

        Parameters
        ----------
        name, folder, _progress
            As for every reader of the registry.
        """
        class_names = _read_class_names(folder, *self.class_names[self.column])
        records = {file: self._records(folder / file) for file in self.sizes}
        for (one, a), (other, b) in combinations(records.items(), 2):
            if np.array_equal(a[0], b[0]) and np.array_equal(a, b):  # first records differ in good files
                raise DataError(
                    f"{folder / other} has the same content as {one}: one file replaced the other. "
                    "Move the folder away and fetch the set again."
                )
        for file, whole in (self.train | self.test).items() if self.parts else ():
            index = folder / f"{Path(file).stem}_index.npy"
            if index.is_file():
                read_index(index, len(records[file]), whole)
        train, test = ([records[file] for file in files] for files in (self.train, self.test))
        return ImageSet(
            name, _images(train), self._labels(train), _images(test), self._labels(test), class_names
        )

    def read_labels(self, folder: Path) -> np.ndarray:
        """Read the training labels (n,) without the images."""
        return self._labels(self._records(folder / file) for file in self.train)

    def _labels(self, files: Iterable[np.ndarray]) -> np.ndarray:
        return np.concatenate([records[:, self.column] for records in files]).astype(np.int64)  # (n,)

    def _records(self, path: Path) -> np.ndarray:
        """Map a file as (n, bytes of a record), uint8, and check its size and its labels."""
        try:
            content = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DataError(f"{path} cannot be read: {error}. Fetch it again.") from error
        if len(content) % self._width:
            raise DataError(
                f"{path}: expected whole records of {self._width} bytes, got {len(content)} bytes. "
                "The file is truncated or not of the binary version. Fetch it again."
            )
        records = content.reshape(-1, self._width)
        for column, (_, names) in enumerate(self.class_names):
            bad = np.flatnonzero(records[:, column] >= len(names))
            if len(bad):
                raise DataError(
                    f"{path}: expected labels in 0..{len(names) - 1} in byte {column} of each record, got "
                    f"{records[bad[0], column]} in record {bad[0]}. The file is damaged, or not of this set."
                )
        return records


def read_index(path: Path, n: int, whole: int) -> np.ndarray:
    """Read the rows (n,) of a partial file's records in the published file; they must be distinct.

    Parameters
    ----------
    path : Path
        An .npy file.
    n, whole : int
        The number of records in the partial and in the published file.
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


def _images(files: list[np.ndarray]) -> np.ndarray:
    """Copy the planar pixels of all files into one array (n, 32, 32, 3)."""
    images = np.empty((sum(map(len, files)), _SIDE, _SIDE, 3), np.uint8)
    start = 0
    for records in files:
        planar = records[:, -_PIXELS:].reshape(-1, 3, _SIDE, _SIDE)
        images[start : start + len(records)] = planar.transpose(0, 2, 3, 1)
        start += len(records)
    return images


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
    train={f"data_batch_{i}.bin": 10_000 for i in range(1, 6)},
    test={"test_batch.bin": 10_000},
    class_names=(("batches.meta.txt", tuple(_TEN.split())),),
)
CIFAR100 = Layout(
    folder="cifar-100-binary",
    train={"train.bin": 50_000},
    test={"test.bin": 10_000},
    class_names=(
        ("coarse_label_names.txt", tuple(_COARSE.split())),
        ("fine_label_names.txt", tuple(_FINE.split())),
    ),
    column=1,
    parts=True,
)
CIFAR100_COARSE = replace(CIFAR100, column=0)
