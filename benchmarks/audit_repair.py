"""Measure a repaired network, MASC with noise correction, and label errors confirmed by people."""

import json
from collections.abc import Iterator
from pathlib import Path

import audit_networks as nets
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from layerprobe import MASC, audit
from layerprobe.auditing import Audit
from layerprobe.auditing.dataset.labelled import read_rows
from layerprobe.auditing.features import NetworkReader
from layerprobe.auditing.method.ensemble import HYPERPARAMETERS
from layerprobe.layers.views import resolve_views
from layerprobe.training.loop import accuracy

VIEWS = ("flip", "right", "down")
Measured = Iterator[tuple[str, str, int, str, float]]  # policy, method, views, measure, value


def by_holdout(model: torch.nn.Module, data: nets.Data) -> Audit:
    """Audit with the noisy hold-out, averaged over views."""
    held = data.holdout_x, data.holdout_given
    return audit(model, (data.x, data.given), policy="noisy_holdout", holdout=held, views=VIEWS)


def repaired(model: torch.nn.Module, data: nets.Data, seed: int) -> Measured:
    """Retrain on soft and predicted labels, stop early by the noisy hold-out; measure on clean images."""
    found = by_holdout(model, data)
    for labels in ("soft", "all"):
        again = found.retrain(found.relabel(labels), seed=seed)
        yield (
            "noisy_holdout",
            f"trained anew on {labels} labels",
            0,
            "test_accuracy",
            accuracy(again.model, data.test_x, data.test_true),
        )
        yield "noisy_holdout", f"trained anew on {labels} labels", 0, "epochs", float(again.best_epoch)
    decoded = found.predict(data.test_x) == data.test_true.numpy()
    yield "noisy_holdout", "decoder", len(VIEWS), "test_accuracy", float(decoded.mean())


def corrected(model: torch.nn.Module, data: nets.Data) -> Measured:
    """Fit MASC with and without noise correction; the noisy hold-out selects layer and variance."""
    matrix = by_holdout(model, data).noise.matrix
    reader = NetworkReader(model, views=resolve_views(VIEWS))
    outputs = [
        reader.read(read_rows(pair)).mean
        for pair in (
            (data.x, data.given),
            (data.holdout_x, data.holdout_given),
            (data.test_x, data.test_true),
        )
    ]
    variances = HYPERPARAMETERS["masc"]
    for name, noise in (("MASC", None), ("MASC, noise taken out", matrix)):
        best = -1.0, 0.0, 0.0
        for layer, X in outputs[0].items():
            masc = MASC(max(variances), noise=noise).fit(X, data.given)
            by = [masc.staged_predict(part[layer], variances) for part in outputs[1:]]
            for variance, judged, tested in zip(variances, *by, strict=True):
                chosen = float((judged == data.holdout_given).double().mean())
                best = max(best, (chosen, float((tested == data.test_true).double().mean()), variance))
        yield "noisy_holdout", f"{name}, best layer and variance", len(VIEWS), "test_accuracy", best[1]
        yield "noisy_holdout", f"{name}, best layer and variance", len(VIEWS), "variance", best[2]


def confirmed_errors(model: torch.nn.Module, data: nets.Data, root: Path) -> Measured:
    """Rank the labels of the test images; measure the ranks of labels that people did not confirm."""
    reviewed = json.loads((root / "label-errors" / "cifar10_mturk.json").read_text())
    index = np.array([item["id"] for item in reviewed])
    wrong = np.zeros(len(data.x), bool)
    wrong[index] = [item["mturk"]["given"] < 3 for item in reviewed]
    yield "", "labels", 0, "reviewed", float(len(index))
    yield "", "labels", 0, "confirmed", float(wrong.sum())
    outputs = NetworkReader(model, layers=["output"]).read(read_rows((data.x, data.given))).logits
    softmax = outputs.softmax(1).gather(1, data.given[:, None]).squeeze(1).numpy()
    views = audit(model, (data.x, data.given), policy="unseen_views", views=VIEWS)
    for policy, name, score in (
        ("", "softmax of the memorised network", softmax),
        ("noisy_holdout", "decoder", by_holdout(model, data).issues["label_score"].to_numpy()),
        ("unseen_views", "decoder", views.issues["label_score"].to_numpy()),
    ):
        order = np.argsort(score, kind="stable")
        yield policy, name, len(VIEWS), "auroc", roc_auc_score(wrong, -score)
        yield policy, name, len(VIEWS), "auroc_of_reviewed", roc_auc_score(wrong[index], -score[index])
        yield policy, name, len(VIEWS), "found_in_first_1000", float(wrong[order[:1000]].sum())
    yield "unseen_views", "noise", len(VIEWS), "rate", views.noise.rate
    yield "unseen_views", "noise", len(VIEWS), "low", views.noise.low
