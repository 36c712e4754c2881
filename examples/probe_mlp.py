"""
Probe a memorised network layer by layer
========================================

An MLP memorises digits, of which 60 % of the training labels are redrawn at random. Which of its layers still
know the true classes, and how well can they be read with the noisy labels only?
"""

# %%
# The data, and a network that is trained until it fits the noisy labels.

import torch
from matplotlib import pyplot as plt

from layerprobe import probe
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, seeded, train

digits = load("digits")
x, test_x = (torch.tensor(images).float() / 8 - 1 for images in (digits.train_images, digits.test_images))
true = digits.train_labels
noisy = noise.uniform(true, 0.6, num_classes=10, seed=0).labels

with seeded(0):
    model = MLP(64, (256, 512, 512))
history = train(model, x, torch.tensor(noisy), Recipe("adam", 1e-3, batch_size=64), order_seed=0)
print(f"{history[-1].epoch} epochs, {history[-1].train_accuracy:.1%} of the noisy labels fitted")

# %%
# Every probe on every layer, fitted on the noisy and on the true labels. This is one pass over the data.

table = probe(
    model,
    (x, noisy),
    (test_x, digits.test_labels),
    train_labels={"noisy": noisy, "true": true},
    probes=["masc", "ncm", "velpic", "ridge"],
)
table

# %%
# MASC on each layer, beside the network itself (dashed). Fitted on the true labels, the first layers are
# nearly perfect: the information is there. Fitted on the noisy labels, they are still far above the network.

table.plot("masc", title="MLP on digits, 60 % of the labels redrawn")

# %%
# MASC is not the only probe. On noisy labels, probes with few parameters per class are often better.

tested = table[(table["split"] == "test") & (table["fitted_on"] == "noisy")]
wide = tested.pivot_table(index="layer", columns="probe", values="accuracy", sort=False)
network = table.query("probe == 'network' and split == 'test'")["accuracy"].iloc[0]

figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
(100 * wide).plot(ax=axes, marker="o")
axes.axhline(100 * network, color="black", linestyle="--", label="network")
axes.set(ylabel="test accuracy in %", xlabel="layer", title="Fitted on noisy labels")
axes.legend(frameon=False, ncols=3)
plt.show()
