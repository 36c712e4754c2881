"""Exact check on real data, without any network: MASC on MNIST pixels under the published label noise."""

import numpy as np
import pytest

from layerprobe.data import load
from layerprobe.data.noise import published
from layerprobe.probes import MASC

PUBLISHED = {0.0: 0.8234, 0.2: 0.8321, 0.4: 0.8255, 0.6: 0.8027, 0.8: 0.7108}


@pytest.fixture(scope="module")
def mnist(real_data):
    return load("mnist", root=real_data)


def pixels(images):  # (n, 784) in [-1, 1]
    return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1


@pytest.mark.real_data
@pytest.mark.parametrize(("degree", "accuracy"), PUBLISHED.items())
def test_accuracy_to_all_four_digits(mnist, degree, accuracy):
    labels = published(mnist.train_labels, degree, mnist.num_classes).labels
    masc = MASC(variance=0.99).fit(pixels(mnist.train_images), labels)
    assert round(masc.score(pixels(mnist.test_images), mnist.test_labels), 4) == accuracy
