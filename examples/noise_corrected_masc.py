"""
MASC with the label noise taken out
===================================

Second moments are linear in the labels: if a share p of them is redrawn uniformly, the moment of each class
is mixed with the mean over all classes. ``MASC(noise=p)`` subtracts it. The example shows when this helps, on
the raw pixels of digits, without any network.
"""

# %%
# Accuracy on the test rows over the share of the variance that the subspaces keep, with and without the
# correction.

import pandas as pd
from matplotlib import pyplot as plt

from layerprobe import MASC
from layerprobe.data import load, noise

digits = load("digits")
x, test_x = (
    images.reshape(len(images), -1) / 8.0 - 1 for images in (digits.train_images, digits.test_images)
)
variances = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
rows = []
for p in (0.2, 0.4, 0.6, 0.8):
    for seed in range(3):
        noisy = noise.uniform(digits.train_labels, p, num_classes=10, seed=seed).labels
        for variance in variances:
            for name, given in (("as they are", None), ("noise taken out", p)):
                masc = MASC(variance=variance, noise=given).fit(x, noisy)
                rows.append((p, seed, variance, name, 100 * masc.score(test_x, digits.test_labels)))
table = pd.DataFrame(rows, columns=["p", "seed", "variance", "moments", "accuracy"])

# %%
# With a good share of the variance chosen, the correction gains little; at a fixed share of 99 %, the default
# of the paper, it gains much. It needs the noise p, which is usually an estimate.

figure, axes = plt.subplots(1, 4, figsize=(10, 3), sharey=True, layout="constrained")
for ax, (p, part) in zip(axes, table.groupby("p"), strict=True):
    means = part.pivot_table("accuracy", "variance", "moments")
    for (name, line), color, marker in zip(means.items(), ("#0072B2", "#D55E00"), "os", strict=True):
        ax.plot(range(len(variances)), line, marker=marker, color=color, label=name)
    ax.set_xticks(range(len(variances)), [f"{100 * v:g}" for v in variances])
    ax.set(title=f"{100 * p:.0f} % redrawn", xlabel="variance kept in %")
axes[0].set(ylabel="test accuracy in %")
axes[0].legend(frameon=False)
plt.show()

# %%
# The same as a table, mean over three seeds, at 99 % of the variance and at the best share (chosen by the
# test rows, an upper bound):

means = table.groupby(["p", "moments", "variance"])["accuracy"].mean()
pd.DataFrame(
    {"at 99 %": means.xs(0.99, level="variance"), "best share": means.groupby(["p", "moments"]).max()}
).round(1)
