"""
Audit a text classifier
=======================

The texts are docstrings of Python's standard library; the classes are its packages. 40 % of the labels are
redrawn at random, and a quarter of the rows is set aside. A small network on word counts memorises the other
rows.
"""

# %%
# Texts and labels are lists; ``inputs=`` turns a list of texts into what the network takes. A tokenizer works
# in the same way.

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

import layerprobe
from layerprobe.data import docstrings, noise
from layerprobe.training import Recipe, seeded, train

data = docstrings()
names = np.array(data.class_names)
true = data.train_labels
noisy = noise.uniform(true, 0.4, num_classes=10, seed=0).labels
held = np.random.default_rng(1).random(len(noisy)) < 0.25  # not the seed of the noise
texts = np.array(data.train_texts, object)

vectorizer = CountVectorizer(min_df=2).fit(texts[~held])


def word_counts(batch):
    """Return log(1 + count) of each word, (b, d), for b texts."""
    return torch.tensor(vectorizer.transform(batch).toarray(), dtype=torch.float32).log1p()


width = len(vectorizer.vocabulary_)
with seeded(0):
    model = nn.Sequential(
        nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )
history = train(
    model,
    word_counts(texts[~held]),
    torch.tensor(noisy[~held]),
    Recipe("adam", 1e-3, batch_size=64, max_epochs=25),
    order_seed=0,
)
print(f"{len(texts)} texts; {history[-1].train_accuracy:.0%} of the noisy labels are memorised")

# %%
# The audit takes texts and the names of the classes.

audit = layerprobe.audit(
    model,
    texts[~held].tolist(),
    names[noisy[~held]],
    inputs=word_counts,
    class_names=names,
    policy="noisy_holdout",
    holdout=(texts[held].tolist(), names[noisy[held]]),
)
audit

# %%
# The most suspicious labels. Here the true ones are known, because the noise was added above.

worst = audit.issues.sort_values("label_score").head(8)
worst = worst.assign(
    true_label=names[true[~held]][worst["index"]],
    text=[" ".join(texts[~held][i].split())[:80] for i in worst["index"]],
)
pd.set_option("display.max_colwidth", 90)
worst[["text", "given_label", "suggested_label", "true_label"]]

# %%
# The flags, and the predictions of the decoder on test texts beside those of the network.

wrong = noisy[~held] != true[~held]
flagged = audit.issue_mask()
test_texts, test_labels = list(data.test_texts), names[data.test_labels]
with torch.inference_mode():
    head = names[model(word_counts(test_texts)).argmax(1)]
scores = {
    "flags that are right": wrong[flagged].mean(),
    "wrong labels that are flagged": flagged[wrong].mean(),
    "test accuracy, network": np.mean(head == test_labels),
    "test accuracy, decoder": np.mean(audit.predict(test_texts) == test_labels),
}
figure, ax = plt.subplots(figsize=(6.5, 2.4), layout="constrained")
ax.barh(
    [*scores], [100 * score for score in scores.values()], color=["#009E73", "#009E73", "#D55E00", "#0072B2"]
)
ax.bar_label(ax.containers[0], fmt="%.1f %%", padding=3)
ax.invert_yaxis()
ax.set(xlim=(0, 110), xlabel="%")
plt.show()
