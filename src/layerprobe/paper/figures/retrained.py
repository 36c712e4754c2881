"""Figures of relabelling and retraining: Figures 4, 27 to 31 of the paper, and retraining by epoch."""

from typing import Any

import pandas as pd

from layerprobe.figures import STYLES, Style
from layerprobe.paper.figures.lines import Axis, condition_styles, draw_pairs, families
from layerprobe.paper.figures.spec import Panels, register_figure
from layerprobe.paper.selection import (
    DEGREES,
    EVERY_DEGREE,
    LABELS,
    accuracies,
    both_labels,
    network_retraining,
)

MAIN_PAIRS = ("mlp-mnist", "mlp-cifar10", "cnn-mnist", "cnn-fashion-mnist", "cnn-cifar10")  # of Figure 4
ALEXNETS = ("alexnet-cifar100", "alexnet-tiny-imagenet")  # of Figure 27
RETRAINED: dict[str, Style] = {
    "before retraining": STYLES[7],
    "after retraining, labels of noisy subspaces": STYLES[0],
    "after retraining, labels of true subspaces": STYLES[2],
    "MASC, noisy subspaces": STYLES[1],
    "MASC, true subspaces": STYLES[3],
}
INCORRECT: dict[str, Style] = {
    "corrupted labels": STYLES[7],
    "labels of noisy subspaces": STYLES[0],
    "labels of true subspaces": STYLES[2],
}
EVALUATION = "accuracy on 80 % of test"
BEFORE_AND_AFTER = (
    "Accuracy on the 80 % of the test data that did not choose the layer: the network before retraining; "
    "after retraining on the labels of MASC, at most 30 epochs with early stopping, last epoch; MASC itself "
    "at the layer chosen on the other 20 %."
)


def _bars(rows: pd.DataFrame, styles: dict[str, Style], label: str, **options: Any) -> Panels:
    """Draw a panel per family, with a group of bars per condition; the column bar names the bar."""
    for title, of in families(rows):
        axis = Axis.of_conditions(of)
        yield axis.panel(title, axis.lines(of, "bar", styles, kind="bar"), label, **options)


@register_figure(
    "retraining",
    "Retraining on the labels of MASC, other pairs",
    f"As Figures 4 and 27, for the other pairs. {BEFORE_AND_AFTER}",
    "retraining",
    but=(*MAIN_PAIRS, *ALEXNETS),
)
@register_figure(
    "figure27",
    "retraining on the labels of MASC, AlexNets",
    BEFORE_AND_AFTER,
    "retraining",
    pairs=ALEXNETS,
    degrees=EVERY_DEGREE,
)
@register_figure(
    "figure4",
    "retraining on the labels of MASC, MLPs and CNNs",
    BEFORE_AND_AFTER,
    "retraining",
    pairs=MAIN_PAIRS,
    degrees=EVERY_DEGREE,
)
@register_figure(
    "figure31",
    "retraining for ten epochs without early stopping",
    "Accuracy on the 80 % of the test data: the network before retraining, and after ten epochs on the "
    "labels of noisy and of true subspaces.",
    "retraining",
    degrees=EVERY_DEGREE,
    options={"setting": "ten_epochs"},
)
def _accuracy_bars(rows: pd.DataFrame, setting: str = "early_stopping") -> Panels:
    rows = both_labels(rows)
    network = network_retraining(rows, setting=setting)
    after = network["last_epoch"]
    bars = [
        network["before"].drop_duplicates("key").assign(bar="before retraining"),
        after.assign(bar="after retraining, labels of " + after["fitted_on"] + " subspaces"),
    ]
    if setting == "early_stopping":
        masc = accuracies(rows[(rows["probe"] == "masc") & (rows["setting"] == "")], "evaluation")
        bars.append(masc.assign(bar="MASC, " + masc["fitted_on"] + " subspaces"))
    return _bars(pd.concat(bars), RETRAINED, EVALUATION)


LOW = " A number is the percent of a bar that is too low to see."


@register_figure(
    "figure28",
    "share of incorrect labels before and after relabelling",
    "Share of the training labels that are incorrect: in the corrupted set, and in the set that MASC "
    "relabelled." + LOW,
    "retraining",
    degrees=DEGREES,
    options={"metric": "incorrect_after", "label": "incorrect labels"},
)
@register_figure(
    "figure29",
    "wrong labels that became right by relabelling",
    "Share of the wrong training labels that relabelling by MASC corrected." + LOW,
    "retraining",
    degrees=DEGREES,
    options={"metric": "corrected", "label": "of the wrong labels"},
)
@register_figure(
    "figure30",
    "right labels that became wrong by relabelling",
    "Share of the right training labels that relabelling by MASC broke." + LOW,
    "retraining",
    degrees=DEGREES,
    options={"metric": "broken", "label": "of the right labels"},
)
def _relabelled(rows: pd.DataFrame, metric: str, label: str) -> Panels:
    of = rows[rows["metric"] == metric]
    bars = [of.assign(bar="labels of " + of["fitted_on"] + " subspaces")]
    if metric == "incorrect_after":
        before = rows[rows["metric"] == "incorrect_before"].drop_duplicates("key")
        bars.insert(0, before.assign(bar="corrupted labels"))
    return _bars(pd.concat(bars), INCORRECT, label, ticks=DEGREES)


@register_figure(
    "retraining_epochs",
    "Retraining without early stopping, epoch by epoch",
    "Accuracy on the 80 % of the test data after each of ten epochs; epoch 0 is the network before "
    "retraining.",
    "retraining",
    layout=draw_pairs,
    degrees=EVERY_DEGREE,
)
def _by_epoch(rows: pd.DataFrame) -> Panels:
    ten = rows[rows["setting"].eq("ten_epochs") & rows["probe"].eq("network")]
    axis = Axis("epoch")
    for title, of in families(both_labels(accuracies(ten, "evaluation"))):
        for name in LABELS:
            lines = axis.by_condition(of[of["fitted_on"] == name], styles=condition_styles(of))
            yield axis.panel(f"{title}: labels of {name} subspaces", lines, EVALUATION)
