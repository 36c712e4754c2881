"""A tiny set in four files of MNIST's format."""

import dataclasses
import gzip
import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest

from layerprobe.data.registry import REGISTRY


def idx_bytes(array):
    """IDX content of an array of unsigned bytes: zero, zero, type 8, dimensions, sizes, values."""
    return (
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_idx(path, array):
    path.write_bytes(gzip.compress(idx_bytes(array), mtime=0))


@pytest.fixture(scope="session")
def idx():
    return SimpleNamespace(bytes=idx_bytes, write=write_idx)


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """Root, folder, arrays of a set of 6 train and 4 test images of 3x2 pixels under MNIST's file names.

    They are registered as MNIST's published files; `publish` registers the present files again.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path / "root" / "mnist"
    folder.mkdir(parents=True)
    arrays = {}
    for split, n in (("train", 6), ("t10k", 4)):
        arrays[f"{split}-images-idx3-ubyte.gz"] = rng.integers(256, size=(n, 3, 2)).astype(np.uint8)
        arrays[f"{split}-labels-idx1-ubyte.gz"] = rng.integers(10, size=n).astype(np.uint8)
    for file, array in arrays.items():
        write_idx(folder / file, array)

    def publish():
        md5 = {file: hashlib.md5((folder / file).read_bytes()).hexdigest() for file in arrays}
        entry = REGISTRY["mnist"]
        source = dataclasses.replace(entry.source, md5=md5)
        monkeypatch.setitem(REGISTRY, "mnist", dataclasses.replace(entry, source=source))

    publish()
    return SimpleNamespace(root=folder.parent, folder=folder, arrays=arrays, publish=publish)
