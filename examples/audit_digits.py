"""
Find wrong labels, look at 100 rows, act
========================================

The whole path of an audit on digits, of which 20 % of the labels are wrong: the network memorises them, the
audit ranks them, a review of 100 rows measures how many there are, and the repaired labels train a better
network.
"""

# %%
# A network that memorises its labels. 400 rows are set aside before training, with labels as noisy as the
# rest.

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt

import layerprobe
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, accuracy, seeded, train

digits = load("digits")
images, true = digits.train_images, digits.train_labels
x, test_x = (torch.tensor(part).float() / 16 for part in (images, digits.test_images))
y = torch.tensor(noise.uniform(true, 0.22, num_classes=10, seed=0).labels)

with seeded(0):
    model = MLP(64, (128, 128))
history = train(model, x[400:], y[400:], Recipe("adam", 2e-3, batch_size=32, max_epochs=80), order_seed=0)
print(f"The network fits {history[-1].train_accuracy:.0%} of its labels.")

# %%
# **Audit.** One call. The result is shown in a notebook as below.

audit = layerprobe.audit(model, (x[400:], y[400:]), policy="noisy_holdout", holdout=(x[:400], y[:400]))
audit

# %%
# The most suspicious labels: the given one, and the suggestion.

worst = audit.issues.sort_values("label_score").head(24)
figure, axes = plt.subplots(3, 8, figsize=(8, 3.9), layout="constrained")
for ax, row in zip(axes.flat, worst.itertuples(), strict=True):
    ax.imshow(images[400 + row.index].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{row.given_label} → {row.suggested_label}", fontsize=10)
    ax.set_axis_off()
figure.suptitle("Given label → suggested label")
plt.show()

# %%
# **Look at 100 rows.** ``audit.report("audit.html")`` writes the page ``review.html`` for this. Here the true
# labels answer, with 3 % wrong answers, as a person would give them.

sample = audit.review_sample(n=100, seed=0)
rng = np.random.default_rng(0)
answers = true[400:][sample["index"]].copy()
slips = rng.random(len(answers)) < 0.03
answers[slips] = rng.integers(10, size=slips.sum())
reviewed = audit.apply(pd.DataFrame({"index": sample["index"], "label": answers}))
print(reviewed.label_finding)
print(reviewed.advice, "-", reviewed.why)

# %%
# **Act.** Relabel, and train a copy of the network on the result.

repaired = reviewed.relabel("confident")
better = reviewed.retrain(repaired)
test_y = torch.tensor(digits.test_labels)
before, after = (np.mean(labels != true[400:]) for labels in (y[400:].numpy(), repaired.labels))
networks = {"memorised network": model, "retrained network": better.model}
scores = {name: accuracy(network, test_x, test_y) for name, network in networks.items()}
scores["best layers, no training"] = np.mean(reviewed.predict(test_x) == digits.test_labels)

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.6), layout="constrained")
left.barh(["given", "repaired"], [100 * before, 100 * after], color=["#D55E00", "#009E73"])
left.set(title="wrong labels in %")
right.barh([*scores], [100 * score for score in scores.values()], color=["#D55E00", "#009E73", "#0072B2"])
right.set(title="test accuracy in %", xlim=(50, 105))
for axes in (left, right):
    axes.invert_yaxis()
    axes.bar_label(axes.containers[0], fmt="%.1f", padding=3)
    axes.margins(x=0.15)
plt.show()
