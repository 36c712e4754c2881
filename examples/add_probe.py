"""
Add a probe
===========

A probe is one class with two methods. It is then a scikit-learn classifier, and takes part wherever probes
do: in tables over layers, in audits and in the paper's experiments.
"""

# %%
# ``_fit`` gets checked rows X (n, d) and classes y (n,) in 0..K-1; ``_scores`` returns (n, K), and the
# largest score is predicted. The base class does the rest: names of classes, NumPy and torch, ``score`` and
# ``get_params``. This probe predicts the class whose coordinate-wise median is nearest. A median resists
# wrong labels.

import numpy as np
import torch
from matplotlib import pyplot as plt

from layerprobe import probe
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.probes import Probe, register_probe
from layerprobe.training import Recipe, seeded, train


class NearestMedian(Probe):
    """Predict the class whose coordinate-wise median is nearest."""

    def _fit(self, X, y, num_classes):
        self.medians_ = torch.stack([X[y == k].median(0).values for k in range(num_classes)])

    def _scores(self, X):
        return -torch.cdist(X, self.medians_.to(X))


print(NearestMedian().fit([[0.0, 1.0], [0.2, 1.1], [3.0, 0.0]], ["cat", "cat", "dog"]).predict([[2.9, 0.3]]))

# %%
# A registered probe is known by its name, in Python and, as ``--probes PKG.MOD:NearestMedian``, on the shell.

register_probe("median", NearestMedian)

# %%
# Beside other probes, on every layer of a network that memorised digits with 60 % redrawn labels:

digits = load("digits")
x, test_x = (torch.tensor(images).float() / 8 - 1 for images in (digits.train_images, digits.test_images))
noisy = noise.uniform(digits.train_labels, 0.6, num_classes=10, seed=0).labels
with seeded(0):
    model = MLP(64, (256, 256))
train(model, x, torch.tensor(noisy), Recipe("adam", 1e-3, batch_size=64, max_epochs=80), order_seed=0)

table = probe(model, (x, noisy), (test_x, digits.test_labels), probes=["median", "ncm", "masc"])
tested = table[table["split"] == "test"]
wide = 100 * tested.pivot_table(index="probe", columns="layer", values="accuracy", sort=False)

figure, ax = plt.subplots(figsize=(6, 2.8), layout="constrained")
ax.imshow(wide, vmin=40, vmax=100, cmap="Blues")
for (row, column), value in np.ndenumerate(wide):
    if value == value:  # the network has one accuracy, that of its output
        ax.text(
            column, row, f"{value:.1f}", ha="center", va="center", color="white" if value > 75 else "black"
        )
ax.set_xticks(range(wide.shape[1]), wide.columns)
ax.set_yticks(range(wide.shape[0]), wide.index)
ax.set(title="test accuracy in %, fitted on noisy labels", xlabel="layer")
plt.show()
