"""Figures of relabelling and retraining: Figures 4, 27 to 31 of the paper, and retraining by epoch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import STYLES, Panel, Style, draw_panels
from layerprobe.paper.figures.lines import condition_axis, condition_styles, families, lines_by
from layerprobe.paper.figures.spec import FigureSpec
from layerprobe.paper.selection import accuracies, network_retraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAIN_PAIRS = ("mlp-mnist", "mlp-cifar10", "cnn-mnist", "cnn-fashion-mnist", "cnn-cifar10")  # of Figure 4
ALEXNETS = ("alexnet-cifar100", "alexnet-tiny-imagenet")  # of Figure 27
Bars = Mapping[str, Style]
RETRAINED: Bars = {
    "before retraining": STYLES[7],
    "after retraining, labels of noisy subspaces": STYLES[0],
    "after retraining, labels of true subspaces": STYLES[2],
}
BESIDE_MASC: Bars = {**RETRAINED, "MASC, noisy subspaces": STYLES[1], "MASC, true subspaces": STYLES[3]}
INCORRECT: Bars = {
    "corrupted labels": STYLES[7],
    "labels of noisy subspaces": STYLES[0],
    "labels of true subspaces": STYLES[2],
}
RELABELLED: Bars = dict(list(INCORRECT.items())[1:])
EVALUATION = "accuracy on 80 % of test"


def _both_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows; those of runs without corruption, fitted once, stand for noisy and for true labels."""
    clean = rows[(rows["corruption"] == 0) & (rows["fitted_on"] == "noisy")]
    once = clean[~clean["key"].isin(rows.loc[rows["fitted_on"] == "true", "key"])]
    return pd.concat([rows, once.assign(fitted_on="true")], ignore_index=True)


def _accuracy_bars(rows: pd.DataFrame, setting: str, *, masc: bool) -> "Figure":
    """Draw test accuracy before and after retraining with a protocol, and optionally that of MASC."""
    rows = _both_labels(rows)
    network = network_retraining(rows, setting=setting)
    parts = [network["before"].drop_duplicates("key").assign(bar="before retraining")]
    after = network["last_epoch"]
    of_masc = accuracies(rows[(rows["probe"] == "masc") & (rows["setting"] == "")], "evaluation")
    for name in ("noisy", "true"):
        retrained = after[after["fitted_on"] == name]
        parts.append(retrained.assign(bar=f"after retraining, labels of {name} subspaces"))
        if masc:
            chosen = of_masc[of_masc["fitted_on"] == name]
            parts.append(chosen.assign(bar=f"MASC, {name} subspaces"))
    return _bars(pd.concat(parts), BESIDE_MASC if masc else RETRAINED, EVALUATION)


def _bars(rows: pd.DataFrame, styles: Bars, label: str) -> "Figure":
    """Draw a panel per family, with a group of bars per condition; the column bar names the bar."""
    panels = []
    for title, of in families(rows):
        x, order, options = condition_axis(of)
        lines = lines_by(of, "bar", styles, x, order, kind="bar")
        panels.append(Panel(title, lines, label, **options))
    return draw_panels(panels)


def _before_and_after(rows: pd.DataFrame) -> "Figure":
    return _accuracy_bars(rows, "early_stopping", masc=True)


def _ten_epochs(rows: pd.DataFrame) -> "Figure":
    return _accuracy_bars(rows, "ten_epochs", masc=False)


def _incorrect(rows: pd.DataFrame) -> "Figure":
    before = rows[rows["metric"] == "incorrect_before"].drop_duplicates("key")
    after = rows[rows["metric"] == "incorrect_after"]
    bars = "labels of " + after["fitted_on"] + " subspaces"
    both = pd.concat([before.assign(bar="corrupted labels"), after.assign(bar=bars)])
    return _bars(both, INCORRECT, "incorrect labels")


def _corrected(rows: pd.DataFrame) -> "Figure":
    return _relabelled(rows, "corrected", "of the wrong labels")


def _broken(rows: pd.DataFrame) -> "Figure":
    return _relabelled(rows, "broken", "of the right labels")


def _relabelled(rows: pd.DataFrame, metric: str, label: str) -> "Figure":
    of = rows[rows["metric"] == metric]
    return _bars(of.assign(bar="labels of " + of["fitted_on"] + " subspaces"), RELABELLED, label)


def _by_epoch(rows: pd.DataFrame) -> "Figure":
    """Draw test accuracy after each of ten epochs of retraining without early stopping."""
    ten = rows[rows["setting"].eq("ten_epochs") & rows["probe"].eq("network")]
    panels = []
    for title, of in families(accuracies(ten, "evaluation")):
        for name in ("noisy", "true"):
            here = of[of["fitted_on"] == name]
            lines = lines_by(here, "condition", condition_styles(of), "epoch")
            panels.append(Panel(f"{title}: labels of {name} subspaces", lines, EVALUATION))
    return draw_panels(panels, 2 if len(panels) <= 6 else 4)


_NEEDS = ("retraining",)
_EVERY, _CORRUPTED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), (0.2, 0.4, 0.6, 0.8)
_BEFORE_AND_AFTER = (
    "Accuracy on the 80 % of the test data that did not choose the layer: the network before retraining; "
    "after retraining on the labels of MASC, at most 30 epochs with early stopping, last epoch; MASC itself "
    "at the layer chosen on the other 20 %."
)
RETRAINING_FIGURES = [
    FigureSpec(
        "figure4",
        "Figure 4: retraining on the labels of MASC, MLPs and CNNs",
        _BEFORE_AND_AFTER,
        _NEEDS,
        _before_and_after,
        pairs=MAIN_PAIRS,
        degrees=_EVERY,
    ),
    FigureSpec(
        "figure27",
        "Figure 27: retraining on the labels of MASC, AlexNets",
        _BEFORE_AND_AFTER,
        _NEEDS,
        _before_and_after,
        pairs=ALEXNETS,
        degrees=_EVERY,
    ),
    FigureSpec(
        "retraining",
        "Retraining on the labels of MASC, other pairs",
        f"As Figures 4 and 27, for the other pairs. {_BEFORE_AND_AFTER}",
        _NEEDS,
        _before_and_after,
        but=(*MAIN_PAIRS, *ALEXNETS),
    ),
    FigureSpec(
        "figure28",
        "Figure 28: share of incorrect labels before and after relabelling",
        "Share of the training labels that are incorrect: in the corrupted set, and in the set that MASC "
        "relabelled.",
        _NEEDS,
        _incorrect,
        degrees=_CORRUPTED,
    ),
    FigureSpec(
        "figure29",
        "Figure 29: wrong labels that became right by relabelling",
        "Share of the wrong training labels that relabelling by MASC corrected.",
        _NEEDS,
        _corrected,
        degrees=_CORRUPTED,
    ),
    FigureSpec(
        "figure30",
        "Figure 30: right labels that became wrong by relabelling",
        "Share of the right training labels that relabelling by MASC broke.",
        _NEEDS,
        _broken,
        degrees=_CORRUPTED,
    ),
    FigureSpec(
        "figure31",
        "Figure 31: retraining for ten epochs without early stopping",
        "Accuracy on the 80 % of the test data: the network before retraining, and after ten epochs on the "
        "labels of noisy and of true subspaces.",
        _NEEDS,
        _ten_epochs,
        degrees=_EVERY,
    ),
    FigureSpec(
        "retraining_epochs",
        "Retraining without early stopping, epoch by epoch",
        "Accuracy on the 80 % of the test data after each of ten epochs; epoch 0 is the network before "
        "retraining.",
        _NEEDS,
        _by_epoch,
    ),
]
