import gzip

import numpy as np
import pytest

from layerprobe.data import load
from layerprobe.errors import DataError

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def test_sizes_are_big_endian(tiny_mnist, idx):
    content = bytes([0, 0, 8, 3, 0, 0, 1, 4, 0, 0, 0, 3, 0, 0, 0, 2]) + bytes(260 * 6)
    (tiny_mnist.folder / IMAGES).write_bytes(gzip.compress(content))
    idx.write(tiny_mnist.folder / LABELS, np.zeros(260))
    tiny_mnist.publish()
    assert load("mnist", tiny_mnist.root).test_images.shape == (260, 3, 2)


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
def test_damaged_file_is_named_with_what_is_wrong(tiny_mnist, damage):
    path = tiny_mnist.folder / IMAGES
    damaged, message = DAMAGES[damage]
    packed = path.read_bytes()
    path.write_bytes(damaged(packed, gzip.decompress(packed)))
    tiny_mnist.publish()
    with pytest.raises(DataError, match=message) as caught:
        load("mnist", tiny_mnist.root)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "labels", "message"),
    [
        (IMAGES, [0, 1, 2, 1], f"{IMAGES} .* 3 dimensions"),
        (LABELS, [0, 1, 2], f"{LABELS}: expected 4 labels, one for each image of {IMAGES}, got 3"),
        (LABELS, [0, 1, 2, 10], rf"{LABELS}: expected labels in 0\.\.9, got 10"),
    ],
)
def test_labels_that_do_not_fit_the_images(tiny_mnist, idx, file, labels, message):
    idx.write(tiny_mnist.folder / file, np.array(labels))
    tiny_mnist.publish()
    with pytest.raises(DataError, match=message):
        load("mnist", tiny_mnist.root)
