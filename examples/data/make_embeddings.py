"""Make digits_embeddings.npz: embeddings of scikit-learn's digits by a network that was trained on MNIST.

The network has never seen these images or their labels; it plays the part of a foundation model. Needs MNIST
(`layerprobe data fetch mnist`): `python examples/data/make_embeddings.py`.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from layerprobe import capture
from layerprobe.data import load
from layerprobe.networks import CNN
from layerprobe.training import Recipe, accuracy, seeded, train

WIDTH = 48  # principal components that are kept


def main() -> None:
    """Train on 20,000 images of MNIST, embed 1,797 digits, and keep principal components in float16."""
    mnist, digits = load("mnist"), load("digits")
    x, test_x = (
        torch.tensor(part).float().unsqueeze(1) / 127.5 - 1
        for part in (mnist.train_images, mnist.test_images)
    )
    with seeded(0):
        model = CNN(1, 28)
    train(
        model,
        x[:20000],
        torch.tensor(mnist.train_labels)[:20000],
        Recipe("adam", 1e-3, 64, max_epochs=3),
        order_seed=0,
    )
    print("MNIST test accuracy", accuracy(model, test_x, torch.tensor(mnist.test_labels)))

    images = (
        torch.tensor(np.concatenate([digits.train_images, digits.test_images])).float().reshape(-1, 1, 8, 8)
    )
    resized = interpolate(images / 8 - 1, size=(28, 28), mode="bilinear", align_corners=False)
    features = capture(model, resized, layers="relu6").outputs["relu6"].flatten(1)  # (n, 576)
    centred = features - features.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    embeddings = (centred @ directions[:WIDTH].T).half().numpy()
    labels = np.concatenate([digits.train_labels, digits.test_labels]).astype(np.uint8)
    np.savez_compressed(
        Path(__file__).with_name("digits_embeddings.npz"), embeddings=embeddings, labels=labels
    )


if __name__ == "__main__":
    main()
