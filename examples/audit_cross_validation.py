"""
Audit probabilities of a cross-validation
=========================================

Any classifier will do: ``audit_predictions`` takes out-of-sample probabilities or logits, for example of
scikit-learn's ``cross_val_predict``, with the same report and the same review as an audit of a network.
"""

# %%
# Out-of-sample probabilities by five folds of a support vector machine. One label in six is redrawn.

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import layerprobe
from layerprobe.data import noise

X, true = load_digits(return_X_y=True)
given = noise.uniform(true, 0.17, num_classes=10, seed=0).labels
wrong = given != true
classifier = make_pipeline(StandardScaler(), SVC(gamma=0.01))
logits = cross_val_predict(classifier, X, given, cv=5, method="decision_function")  # (n, K)

# %%
# The audit calibrates them, so that they may be logits or probabilities of any quality.

audit = layerprobe.audit_predictions(logits, given, logits=True)
audit

# %%
# The usual rule is to suspect each row whose prediction differs from its label. Beside the flags of the
# audit:

plain = logits.argmax(1) != given
flags = audit.issue_mask()
rows = {"prediction differs from the label": plain, "flags of the audit": flags}
pd.DataFrame(
    {
        "flagged": {name: one.sum() for name, one in rows.items()},
        "of them wrong": {name: wrong[one].mean() for name, one in rows.items()},
        "wrong labels found": {name: one[wrong].mean() for name, one in rows.items()},
    }
).round(3)

# %%
# After a review of 100 rows, the share of wrong labels is measured:

sample = audit.review_sample(n=100, seed=0)
reviewed = audit.apply(pd.DataFrame({"index": sample["index"], "label": true[sample["index"]]}))
shares = {"before the review": audit.noise_interval, "measured on 100 rows": tuple(reviewed.review.noise)}

figure, ax = plt.subplots(figsize=(7, 1.8), layout="constrained")
for name, (value, low, high) in shares.items():
    ax.errorbar(100 * value, name, xerr=[[100 * (value - low)], [100 * (high - value)]], fmt="o", capsize=4)
ax.axvline(100 * wrong.mean(), color="black", linestyle="--", label="truth")
ax.set(xlabel="wrong labels in %, with 95 % interval", xlim=(0, 40), ylim=(-0.6, 1.6))
ax.invert_yaxis()
ax.legend(frameon=False)
plt.show()

# %%
# The rows that are most likely wrong:

worst = audit.issues.sort_values("label_score").head(16)
figure, axes = plt.subplots(2, 8, figsize=(8, 2.6), layout="constrained")
for ax, row in zip(np.ravel(axes), worst.itertuples(), strict=True):
    ax.imshow(X[row.index].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{row.given_label} → {row.suggested_label}", fontsize=10)
    ax.set_axis_off()
plt.show()
