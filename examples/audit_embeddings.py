"""
Audit labels with embeddings of a foundation model
==================================================

No network was trained on your labels, but a large pretrained one gives an embedding per row.
``audit_features`` needs nothing else.

The embeddings of this example are small and were made once: a network that was trained on MNIST embeds the
digits of scikit-learn, which are another data set. ``examples/data/make_embeddings.py`` made the file; the
network has never seen these images or their labels.
"""

# %%
# Embeddings (n, 48), and labels of which one in six is wrong: 3 and 5, 4 and 9, 1 and 7 are often confused.

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

import layerprobe
from layerprobe.data import load, noise

file = np.load(Path(sys.argv[0]).parent / "data" / "digits_embeddings.npz")  # beside this script
digits = load("digits")
images = np.concatenate([digits.train_images, digits.test_images])  # (n, 8, 8)
embeddings, true = file["embeddings"].astype(np.float32), file["labels"].astype(np.int64)
confused = np.eye(10)
for i, j in ((3, 5), (4, 9), (1, 7), (8, 2)):
    confused[[i, j], [i, j]] = 0.8
    confused[[i, j], [j, i]] = 0.2
given = noise.transition(true, confused, seed=0).labels
wrong = given != true
print(f"{len(given)} rows, {wrong.mean():.1%} of the labels are wrong")

# %%
# Embeddings that do not depend on the labels have memorised nothing: a random fifth of the rows selects the
# probe, and each row is scored by a fit without it. With ``data``, the report and the review show the rows.

audit = layerprobe.audit_features(embeddings, given, data=images)
audit

# %%
# The estimated noise matrix shows which classes are confused. This is an estimate; a review measures the
# share of wrong labels.

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, matrix, title in zip(axes, (confused, audit.noise.matrix), ("true", "estimated"), strict=True):
    image = ax.imshow(100 * np.asarray(matrix), vmin=0, vmax=25, cmap="Blues")
    ax.set(
        title=f"{title} noise", xlabel="given label", ylabel="true class", xticks=range(10), yticks=range(10)
    )
figure.colorbar(image, ax=axes, label="% of the class")
plt.show()

# %%
# Which share of the wrong labels is found after how many looks? Beside published detectors on the same
# embeddings.

table = audit.compare(
    ["deep_knn", "simifeat_rank", "fine", "hoc"],
    features={"features": embeddings},
    true_labels=true,
)
scores = {"audit": audit.issues["label_score"].to_numpy()}
for name in ("deep_knn", "fine"):
    scores[name] = layerprobe.baselines.create(name).score(embeddings, given)

figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, score in scores.items():
    found = wrong[np.argsort(score, kind="stable")].cumsum() / wrong.sum()
    ax.plot(np.arange(1, len(found) + 1), 100 * found, label=name)
ax.axvline(wrong.sum(), color="#888888", linestyle=":", label="number of wrong labels")
ax.set(xlabel="rows looked at, most suspicious first", ylabel="wrong labels found in %", xlim=(0, 500))
ax.legend(frameon=False)
plt.show()

# %%
# AUROC and overlap with the flags of the audit:

table.round(3)
