import gzip

import numpy as np
import pytest

from layerprobe.data.idx import read_idx, read_labelled_images
from layerprobe.errors import DataError

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
LABELS = np.array([0, 1, 2, 1], dtype=np.uint8)


@pytest.mark.parametrize("array", [IMAGES, LABELS])
def test_reads_what_was_written(tmp_path, idx, array):
    idx.write(tmp_path / "file.gz", array)
    read = read_idx(tmp_path / "file.gz", array.ndim)
    assert read.dtype == np.uint8
    assert np.array_equal(read, array)


def test_sizes_are_big_endian(tmp_path):
    (tmp_path / "file.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 1, 4]) + bytes(260)))
    assert read_idx(tmp_path / "file.gz", 1).shape == (260,)


DAMAGES = {
    "not gzip": (lambda packed, plain: plain, "cannot be read as a gzip file"),
    "truncated gzip": (lambda packed, plain: packed[:-12], "cannot be read as a gzip file"),
    "flipped byte": (lambda packed, plain: packed[:-6] + bytes([packed[-6] ^ 255]) + packed[-5:], "gzip"),
    "broken deflate stream": (lambda packed, plain: packed[:10] + b"\xff" * (len(packed) - 10), "gzip"),
    "garbage after gzip": (lambda packed, plain: packed + b"more", "cannot be read as a gzip file"),
    "empty file": (lambda packed, plain: b"", "got 0 bytes"),
    "signed bytes": (lambda packed, plain: gzip.compress(b"\0\0\x09" + plain[3:]), "starts with 00000803"),
    "two dimensions": (lambda packed, plain: gzip.compress(b"\0\0\x08\x02" + plain[4:]), "first 00000802"),
    "cut in the header": (lambda packed, plain: gzip.compress(plain[:9]), "header of 16 bytes.*got 9 bytes"),
    "a value short": (lambda packed, plain: gzip.compress(plain[:-1]), r"expected 24 .*\(4, 3, 2\).*got 23"),
    "trailing byte": (lambda packed, plain: gzip.compress(plain + b"\0"), r"expected 24 .*got 25"),
    "second gzip member": (lambda packed, plain: packed + packed, r"expected 24 .*got 64"),
    "no images": (lambda packed, plain: gzip.compress(plain[:4] + bytes(4) + plain[8:16]), r"\(0, 3, 2\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_named_with_what_is_wrong(tmp_path, idx, damage):
    path = tmp_path / "images.gz"
    plain = idx.bytes(IMAGES)
    damaged, message = DAMAGES[damage]
    path.write_bytes(damaged(gzip.compress(plain, mtime=0), plain))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_labels_read_as_images_are_refused(tmp_path, idx):
    idx.write(tmp_path / "labels.gz", LABELS)
    with pytest.raises(DataError, match="3 dimensions"):
        read_idx(tmp_path / "labels.gz", 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:3], r"labels\.gz: expected 4 labels, one for each image of images\.gz, got 3"),
        (LABELS + 1, r"labels\.gz: expected labels in 0\.\.2, got 3"),
    ],
)
def test_labels_that_do_not_fit_the_images(tmp_path, idx, labels, message):
    idx.write(tmp_path / "images.gz", IMAGES)
    idx.write(tmp_path / "labels.gz", labels)
    with pytest.raises(DataError, match=message):
        read_labelled_images(tmp_path / "images.gz", tmp_path / "labels.gz", num_classes=3)
