"""
An audit and cleanlab
=====================

``audit.issues`` has cleanlab's column names, and ``audit.pred_probs`` are out-of-sample probabilities from
one trained network, for any function with an argument ``pred_probs``. Needs cleanlab: ``pip install
'layerprobe[compare]'``.
"""

# %%
# A network that memorised digits, of which 40 % of the labels are redrawn.

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from matplotlib import pyplot as plt

import layerprobe
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, seeded, train

digits = load("digits")
corrupted = noise.uniform(digits.train_labels, 0.4, num_classes=10, seed=0)
x = torch.tensor(digits.train_images).float().unsqueeze(1) / 16
y = torch.tensor(corrupted.labels)
with seeded(0):
    model = MLP(64, (128, 128))
train(model, x[400:], y[400:], Recipe("adam", 1e-3, 32, target=0.95, max_epochs=100), order_seed=0)
audit = layerprobe.audit(model, (x[400:], y[400:]), policy="noisy_holdout", holdout=(x[:400], y[:400]))

# %%
# Columns that both packages share:

audit.issues.query("is_label_issue").sort_values("label_score")[["given_label", "label_score"]].head()

# %%
# cleanlab with the network's own probabilities, which repeat the memorised labels, and with those of the
# audit. cleanlab's usual recipe trains several networks by cross-validation instead.

labels, wrong = y[400:].numpy(), corrupted.changed[400:]
with torch.inference_mode():
    memorised = model.eval()(x[400:]).softmax(1).numpy()
figure, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
for name, probabilities in (
    ("the network's probabilities", memorised),
    ("the audit's probabilities", audit.pred_probs),
):
    flags = find_label_issues(labels, probabilities)
    print(f"cleanlab with {name}: {flags.sum()} flags, {wrong[flags].mean():.1%} of them right")
    scores = get_label_quality_scores(labels, probabilities)
    found = wrong[np.argsort(scores, kind="stable")].cumsum() / wrong.sum()
    ax.plot(100 * found, label=f"cleanlab's score, {name}")
ax.axvline(wrong.sum(), color="#888888", linestyle=":", label="number of wrong labels")
ax.set(xlabel="rows looked at, lowest score first", ylabel="wrong labels found in %")
ax.legend(frameon=False)
plt.show()
