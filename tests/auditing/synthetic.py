"""A made-up audit with the attributes of a real one: what pages and charts are tested on."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

LAYERS = ["input", "conv2", "flatten", "fc1", "fc2", "fc3"]
CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot"]
CANDIDATES = [
    ("ridge", 0.1),
    ("ridge", 1.0),
    ("shrinkage_lda", 0.1),
    ("whitened_knn", 100),
    ("velpic", np.nan),
]
CONTROLS = {
    "head": 0.45,
    "head over views": 0.49,
    "raw input": 0.47,
    "untrained copy": 0.46,
    "early stopping": 0.62,
    "decoder": 0.68,
}


def candidates(layers=LAYERS):
    rows = []
    for i, layer in enumerate(layers):
        for j, (probe, strength) in enumerate(CANDIDATES):
            value = 0.66 - 0.2 * abs(i - len(layers) // 2) / len(layers) - 0.02 * j
            rows.append((layer, probe, strength, value, value - 0.017, value + 0.017))
    frame = pd.DataFrame(rows, columns=["layer", "probe", "strength", "criterion", "low", "high"])
    for name in ("criterion", "low", "high"):
        frame["gain" if name == "criterion" else f"gain_{name}"] = frame[name] - CONTROLS["head"]
    frame["chosen"] = frame["criterion"] >= frame["criterion"].nlargest(3).iloc[-1]
    frame["why"] = np.where(
        frame["chosen"],
        "within the interval of the best, and it beats the head and every control by more than its interval",
        "",
    )
    return frame


def label_issues(classes, n, generator):
    given, suggested = generator.integers(0, len(classes), (2, n))
    score = generator.uniform(size=n)
    return pd.DataFrame(
        {
            "index": np.arange(n) * 3,
            "given_label": [classes[k] for k in given],
            "suggested_label": [classes[k] for k in suggested],
            "label_score": score,
            "is_label_issue": (score < 0.2) & (given != suggested),
            "margin": 1 - score,
        }
    )


def make_audit(classes=CLASSES, n=400, *, layers=LAYERS, example=None, advice="review"):
    generator = np.random.default_rng(3)
    K = len(classes)
    matrix = np.full((K, K), 0.2 / K) + 0.8 * np.eye(K)
    matrix[0, 1 % K] += 0.15
    matrix /= matrix.sum(1, keepdims=True)
    value = np.array(list(CONTROLS.values()))
    controls = pd.DataFrame(
        {
            "control": list(CONTROLS),
            "criterion": value,
            "low": value - 0.015,
            "high": value + 0.015,
            "beaten": value < 0.68,
        }
    )
    pictures = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
    example = example or (lambda i: pictures[i])
    return SimpleNamespace(
        label_finding="About 38 % of the labels are wrong, an estimate.",
        network_finding="The decoder is right on 68.0 % of held-out rows, the head on 45.0 %.",
        advice=advice,
        why="The share of wrong labels is an estimate.",
        evidence=pd.DataFrame(
            {
                "quantity": ["wrong labels", "flagged labels that are wrong"],
                "value": [0.382, 0.93],
                "low": [0.36, np.nan],
                "high": [0.405, np.nan],
                "kind": ["estimated", "estimated"],
                "basis": ["the held-out rows", "the held-out rows"],
            }
        ),
        review=None,
        policy="noisy_holdout",
        classes=np.array(classes, dtype=object),
        n=n,
        layers=candidates(layers),
        controls=controls,
        noise=SimpleNamespace(rate=0.382, low=0.36, high=0.405, matrix=matrix, prior=np.full(K, 1 / K)),
        issues=label_issues(classes, n, generator),
        conflicts=pd.DataFrame(
            columns=["index", "given_label", "other_index", "other_label", "similarity", "group"]
        ),
        expected_precision=0.93,
        cost={"capture": 12.3, "probes": 4.5, "views": 30.2, "leave-one-out": 1.25},
        settings={
            "seed": 0,
            "versions": {"layerprobe": "0.1.0", "torch": "2.13.0"},
        },
        examples=lambda positions: [example(i) for i in positions],
    )
