"""Figures of retraining on labels that MASC gave: before and after by degree, and epoch by epoch."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import STYLES
from layerprobe.paper.figures.layout import Line, Panel, sheet
from layerprobe.paper.figures.probes import LAST_EPOCH
from layerprobe.paper.figures.selection import accuracies, conditions, families, span, styles_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["before_and_after", "epoch_by_epoch"]


def before_and_after(rows: pd.DataFrame, fitted_on: str) -> "Figure":
    """Draw evaluation accuracy before and after with early stopping, and of MASC: Figures 4 and 27."""
    panels = []
    for title, of in families(_of(rows, fitted_on)):
        evaluation, names = accuracies(of, "evaluation"), conditions(of)
        masc = evaluation[evaluation["probe"] == "masc"]
        chosen = masc[masc["setting"] == ""]
        epochs = evaluation[(evaluation["setting"] == "early_stopping") & (evaluation["probe"] == "network")]
        validation = accuracies(of, "validation")
        validation = validation[
            validation["setting"].eq("early_stopping") & validation["probe"].eq("network")
        ]
        again = masc[masc["setting"] == "masc_after"].merge(chosen[["key", "layer"]])
        lines = [
            Line("MASC, chosen layer", STYLES[0], span(chosen, "condition", names)),
            Line("retrained, last epoch", STYLES[1], span(_last(epochs), "condition", names)),
            Line(
                "retrained, best validation epoch",
                STYLES[2],
                span(_best(epochs, validation), "condition", names),
            ),
            Line("MASC, same layer, after retraining", STYLES[3], span(again, "condition", names)),
            Line(
                "network before",
                LAST_EPOCH,
                span(epochs[epochs["epoch"] == 0], "condition", names),
                "network",
            ),
        ]
        panels.append(
            Panel(title, [line for line in lines if len(line.span)], "accuracy on 80 % of test", names)
        )
    return sheet(panels)


def epoch_by_epoch(rows: pd.DataFrame, fitted_on: str, split: str) -> "Figure":
    """Draw an accuracy after each of ten epochs without early stopping: Figures 28 to 31.

    `split` is "evaluation", or "train" for the training data against their true labels.
    """
    shown = {"evaluation": "accuracy on 80 % of test", "train": "training accuracy, true labels"}
    panels = []
    of_setting = _of(rows, fitted_on)
    of_setting = of_setting[(of_setting["setting"] == "ten_epochs") & (of_setting["probe"] == "network")]
    for title, of in families(accuracies(of_setting, split)):
        lines = [
            Line(condition, style, span(of[of["condition"] == condition], "epoch"))
            for condition, style in styles_of(conditions(of)).items()
        ]
        panels.append(Panel(title, lines, shown[split]))
    return sheet(panels)


def _of(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    return rows[(rows["experiment"] == "retraining") & (rows["fitted_on"] == fitted_on)]


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each run's row of its last epoch."""
    return rows[rows["epoch"] == rows.groupby("key")["epoch"].transform("max")]


def _best(evaluation: pd.DataFrame, validation: pd.DataFrame) -> pd.DataFrame:
    """Return each run's evaluation row of the first epoch after retraining began with its best validation."""
    later = validation[validation["epoch"] >= 1].sort_values(["value", "epoch"], ascending=[False, True])
    return evaluation.merge(later.drop_duplicates("key")[["key", "epoch"]])
