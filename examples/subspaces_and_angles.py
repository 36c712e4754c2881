"""
Subspaces and principal angles
==============================

MASC describes each class by a subspace. This example looks at these subspaces: how many components they need,
and the principal angles between them, on a layer of a network that memorised 40 % redrawn labels.
"""

# %%
# Outputs of the first hidden layer, and one subspace per class from the noisy and from the true labels.

import torch
from matplotlib import pyplot as plt

from layerprobe import MASC, capture
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, seeded, train

digits = load("digits")
x, test_x = (torch.tensor(images).float() / 8 - 1 for images in (digits.train_images, digits.test_images))
true = torch.tensor(digits.train_labels)
noisy = torch.tensor(noise.uniform(digits.train_labels, 0.4, num_classes=10, seed=0).labels)
with seeded(0):
    model = MLP(64, (256, 256))
train(model, x, noisy, Recipe("adam", 1e-3, batch_size=64, max_epochs=80), order_seed=0)

outputs, test_outputs = (capture(model, data, layers="fc1").outputs["fc1"] for data in (x, test_x))  # (n, d)
subspaces = {name: MASC().fit(outputs, y).subspaces_ for name, y in (("noisy", noisy), ("true", true))}
subspaces["noisy"]

# %%
# **Spectra.** The share of the variance that the first r components of each class hold. With noisy labels
# every class contains rows of all others, so it needs more components for 99 %.

figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
for ax, (name, fitted) in zip(axes, subspaces.items(), strict=True):
    for eigenvalues, rank in zip(fitted.eigenvalues, fitted.ranks, strict=True):
        share = eigenvalues.cumsum(0) / eigenvalues.sum()
        ax.plot(range(1, len(share) + 1), share, color="#0072B2", alpha=0.5, linewidth=1)
        ax.plot(rank, share[rank - 1], "o", color="#D55E00", markersize=4)
    ax.set(title=f"{name} labels", xlabel="components r", xscale="log")
axes[0].set(ylabel="share of the variance", ylim=(0.6, 1.005))
plt.show()

# %%
# **Principal angles.** The cosines of the principal angles between the subspaces of the classes i and j are
# the singular values of :math:`U_i^\top U_j`. All classes share the direction of the mean, so the smallest
# angle says little; the picture shows the mean over the first ten components. Noise moves the subspaces
# towards each other.


def mean_angle(U, V):
    """Return the mean principal angle in degrees between two orthonormal bases, (d, r) each."""
    return torch.linalg.svdvals(U.T @ V).clamp(max=1).arccos().rad2deg().mean()


figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, (name, fitted) in zip(axes, subspaces.items(), strict=True):
    bases = [basis[:, :10] for basis in fitted.bases]
    angles = torch.tensor([[mean_angle(U, V) for V in bases] for U in bases])  # (K, K)
    image = ax.imshow(angles, vmin=0, vmax=60, cmap="viridis")
    ax.set(title=f"{name} labels", xlabel="class", xticks=range(10), yticks=range(10))
figure.colorbar(image, ax=axes, label="mean principal angle in degrees")
plt.show()

# %%
# **Angles of test rows.** MASC predicts the class of the smallest angle. From true labels, the own class is
# clearly nearer than the nearest other class; from noisy labels the two distributions overlap, but the order
# is mostly still right.

test_y = torch.tensor(digits.test_labels)
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, layout="constrained")
for ax, (name, fitted) in zip(axes, subspaces.items(), strict=True):
    angles = fitted.angles(test_outputs).rad2deg()  # (n, K)
    own = angles.gather(1, test_y[:, None]).squeeze(1)
    other = angles.scatter(1, test_y[:, None], 90.0).min(1).values
    bins = torch.linspace(0, 30, 40).numpy()
    ax.hist(own, bins, alpha=0.7, color="#0072B2", label="own class")
    ax.hist(other, bins, alpha=0.7, color="#D55E00", label="nearest other class")
    ax.set(
        title=f"{name} labels: {100 * (own < other).float().mean():.1f} % right", xlabel="angle in degrees"
    )
axes[1].legend(frameon=False)
plt.show()
