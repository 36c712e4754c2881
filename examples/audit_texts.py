"""Audit a text classifier that memorised wrong labels.

The texts are docstrings of Python's standard library; the classes are its packages. 40 % of the labels are
redrawn at random, and a quarter of the rows is set aside as a noisy hold-out. A small network on word counts
memorises the other rows. The audit finds wrong labels and predicts better than the network, without verified
labels:

    python examples/audit_texts.py

The same from the command line, with the weights that this script writes:

    layerprobe audit --model examples.audit_texts:build --weights texts.safetensors \
        --data examples.audit_texts:training_rows --inputs examples.audit_texts:word_counts \
        --policy noisy_holdout --holdout examples.audit_texts:held_out_rows
"""

from functools import cache

import numpy as np
import safetensors.torch
import torch
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

from layerprobe import audit
from layerprobe.data import docstrings, noise

CORRUPTION = 0.4


@cache
def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return texts, noisy labels, true labels, and whether a row is held out; all of shape (n,)."""
    texts = docstrings()
    noisy = noise.uniform(texts.train_labels, CORRUPTION, num_classes=10, seed=0).labels
    held_out = np.random.default_rng(1).random(len(noisy)) < 0.25  # not the seed of the noise
    names = np.array(texts.class_names)
    return np.array(texts.train_texts, object), names[noisy], names[texts.train_labels], held_out


def training_rows() -> tuple[list[str], np.ndarray]:
    """Return the texts and labels of the training rows."""
    texts, noisy, _, held_out = rows()
    return texts[~held_out].tolist(), noisy[~held_out]


def held_out_rows() -> tuple[list[str], np.ndarray]:
    """Return the rows of the hold-out, with labels as noisy as those of the training rows."""
    texts, noisy, _, held_out = rows()
    return texts[held_out].tolist(), noisy[held_out]


@cache
def vocabulary() -> CountVectorizer:
    """Return the words that occur in at least two training texts."""
    return CountVectorizer(min_df=2).fit(training_rows()[0])


def word_counts(texts: list[str]) -> torch.Tensor:
    """Return the inputs (b, d) of the network for b texts: log(1 + count) of each word."""
    return torch.tensor(vocabulary().transform(texts).toarray(), dtype=torch.float32).log1p()


def build() -> nn.Module:
    """Return the untrained network."""
    width = len(vocabulary().vocabulary_)
    return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def memorise(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, most_epochs: int = 200) -> float:
    """Train until all labels are memorised; return the share of memorised labels."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    learnt = 0.0
    for _ in range(most_epochs):
        for batch in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.inference_mode():
            learnt = (model(x).argmax(1) == labels).float().mean().item()
        if learnt == 1:
            break
    return learnt


def main() -> None:
    """Train, audit, and compare with the true labels."""
    torch.manual_seed(0)
    model, (texts, labels) = build(), training_rows()
    names, codes = np.unique(labels, return_inverse=True)  # outputs are in the order of the sorted names
    learnt = memorise(model, word_counts(texts), torch.from_numpy(codes))
    safetensors.torch.save_model(model, "texts.safetensors")
    result = audit(model, texts, labels, inputs=word_counts, policy="noisy_holdout", holdout=held_out_rows())
    print(f"The network has memorised {learnt:.0%} of its labels.")
    print(result.finding)

    # The true labels are known here only because the noise was added by this script.
    _, _, truth, held_out = rows()
    wrong, flagged = labels != truth[~held_out], result.issue_mask()
    test = docstrings()
    texts, truth = list(test.test_texts), names[test.test_labels]
    with torch.inference_mode():
        head = names[model(word_counts(texts)).argmax(1)]
    decoder = result.predict(texts)
    print(f"Test accuracy: network {np.mean(head == truth):.1%}, decoder {np.mean(decoder == truth):.1%}.")
    print(f"Wrong labels: {wrong.mean():.1%}, estimated {result.noise.rate:.1%}.")
    print(
        f"Flagged: {flagged.sum()}; of them wrong {wrong[flagged].mean():.1%}, "
        f"announced {result.expected_precision:.1%}; of the wrong ones found {flagged[wrong].mean():.1%}."
    )


if __name__ == "__main__":
    main()
