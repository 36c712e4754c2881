"""Use an audit with cleanlab: equal column names, and the audit's probabilities as input of cleanlab.

Needs cleanlab, ``pip install 'layerprobe[compare]'``; then ``python examples/audit_cleanlab.py``.
"""

import numpy as np
import pandas as pd
import torch
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

import layerprobe
from layerprobe.data import load, noise
from layerprobe.networks import MLP
from layerprobe.training import Recipe, seeded, train


def most_suspicious(issues: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the rows with the lowest label scores; uses columns that cleanlab and the audit share."""
    flagged = issues[issues["is_label_issue"]]
    return flagged.sort_values("label_score").head(count)[["given_label", "label_score"]]


def main() -> None:
    """Audit a network trained on digits with wrong labels, and pass its probabilities to cleanlab."""
    digits = load("digits")
    corrupted = noise.uniform(digits.train_labels, 0.4, num_classes=10, seed=0)
    x = torch.tensor(digits.train_images).float().unsqueeze(1) / 16
    y = torch.tensor(corrupted.labels)
    with seeded(0):
        model = MLP(64, (128, 128))
    train(model, x[400:], y[400:], Recipe("adam", 1e-3, 32, target=0.95, max_epochs=150), order_seed=0)
    audit = layerprobe.audit(model, (x[400:], y[400:]), policy="noisy_holdout", holdout=(x[:400], y[:400]))
    print(most_suspicious(audit.issues, 10))

    labels, wrong = y[400:].numpy(), corrupted.changed[400:]
    with torch.inference_mode():
        memorised = model.eval()(x[400:]).softmax(1).numpy()
    for name, probabilities in (("the network's own", memorised), ("the audit's", audit.pred_probs)):
        flags = find_label_issues(labels, probabilities)
        scores = get_label_quality_scores(labels, probabilities)
        found = np.mean(wrong[np.argsort(scores)[: wrong.sum()]])
        right = wrong[flags].mean() if flags.any() else float("nan")
        print(
            f"cleanlab on {name} probabilities: {flags.sum()} flags, {right:.0%} of them right; "
            f"of the {wrong.sum()} lowest scores {found:.0%} are wrong labels"
        )


if __name__ == "__main__":
    main()
