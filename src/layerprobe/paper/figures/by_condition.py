"""Figures of best layers: thresholds, probes, baselines, gains over the network, and retraining."""

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import STYLES, Panel, Style, draw_panels
from layerprobe.paper.experiments.subspaces import SETTINGS
from layerprobe.paper.figures.lines import (
    NETWORK_STYLES,
    condition_styles,
    conditions,
    degree_names,
    families,
    lines_by,
    network_lines,
    probe_lines,
    subspace_rows,
)
from layerprobe.paper.figures.spec import FigureSpec
from layerprobe.paper.selection import accuracies, at_best_layer, hidden_layers, network_retraining

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FITTED_ON = ("noisy", "true")
# Columns of the published Table 1 by their lines in the figure of gains: label and style.
GAINS: dict[str, tuple[str, Style]] = {
    "masc_noisy_best_layer": ("MASC, noisy subspaces", STYLES[0]),
    "masc_true_best_layer": ("MASC, true subspaces", STYLES[2]),
    "model_test": ("network, last epoch", NETWORK_STYLES["last_epoch"]),
    "model_peak_epoch_test": ("network, best epoch", NETWORK_STYLES["best_epoch"]),
}
# Lines of the figures of retraining.
RETRAINING: dict[str, tuple[str, Style]] = {
    "masc": ("MASC, chosen layer", STYLES[0]),
    "last_epoch": ("retrained, last epoch", STYLES[1]),
    "best_validation_epoch": ("retrained, best validation epoch", STYLES[2]),
    "masc_after": ("MASC, same layer, after retraining", STYLES[3]),
}


def _thresholds(rows: pd.DataFrame) -> "Figure":
    names = sorted(SETTINGS, key=lambda name: SETTINGS[name] or 0)  # one component first
    shown = ["one" if SETTINGS[name] is None else f"{100 * float(name):g} %" for name in names]
    masc = rows[rows["experiment"].isin(["noisy_subspaces", "true_subspaces"]) & rows["probe"].eq("masc")]
    panels = []
    for title, of in families(accuracies(masc)):
        for fitted_on in FITTED_ON:
            here = of[of["fitted_on"] == fitted_on]
            best = at_best_layer(here, ["condition", "setting"])
            lines = lines_by(best, "condition", condition_styles(here), "setting", names)
            label = "share of variance; one: a single component"
            panels.append(Panel(f"{title}: {fitted_on} subspaces", lines, "test accuracy", shown, label))
    return draw_panels(panels, _even_columns(panels))


def _probes(rows: pd.DataFrame) -> "Figure":
    panels = []
    for title, of in families(hidden_layers(accuracies(rows[rows["experiment"] == "probes"]))):
        names = conditions(of)
        for fitted_on in FITTED_ON:
            best = at_best_layer(of[of["fitted_on"] == fitted_on], ["probe", "condition"])
            lines = probe_lines(best, "condition", names) + network_lines(rows, title, names)
            panels.append(Panel(f"{title}: fitted on {fitted_on} labels", lines, "test accuracy", names))
    return draw_panels(panels, _even_columns(panels))


def _controls(rows: pd.DataFrame) -> "Figure":
    styles = {"MASC, trained network": STYLES[0], "MASC, untrained network": STYLES[4]}
    controls = rows[rows["experiment"] == "controls"]
    panels = []
    for title, of in families(controls):
        names = conditions(of)
        untrained = of[of["setting"] == "untrained"]
        for fitted_on in FITTED_ON:
            here = accuracies(untrained[untrained["fitted_on"] == fitted_on])
            parts = zip(styles, (_masc(rows, title, fitted_on), here), strict=True)
            both = pd.concat(part.assign(line=name) for name, part in parts)
            best = at_best_layer(hidden_layers(both), ["line", "condition"])
            lines = lines_by(best, "line", styles, "condition", names) + network_lines(rows, title, names)
            panels.append(Panel(f"{title}: {fitted_on} subspaces", lines, "test accuracy", names))
    return draw_panels(panels, _even_columns(panels))


def _gains(rows: pd.DataFrame, published: pd.DataFrame | None = None) -> "Figure":
    """Draw Table 1: MASC at its best layer against the network; hollow grey markers are published numbers."""
    panels = []
    for title, of in families(rows[rows["experiment"] == "noisy_subspaces"]):
        names = conditions(of)
        masc = (_masc(rows, title, name).assign(line=f"MASC, {name} subspaces") for name in FITTED_ON)
        best = at_best_layer(pd.concat(masc), ["line", "condition"])
        lines = lines_by(best, "line", dict(GAINS.values()), "condition", names)
        lines += network_lines(rows, title, names)
        if published is not None:
            shown = {line.label: line.style for line in lines}
            theirs = published[published["pair"] == of["pair"].iloc[0]]
            theirs = theirs.assign(condition=degree_names(theirs["corruption"]))
            parts = [
                theirs.assign(line=label, value=theirs[column])
                for column, (label, _) in GAINS.items()
                if column in theirs and label in shown
            ]
            titles = {label: f"published: {label}" for label in shown}
            if parts:
                drawn = pd.concat(parts)
                styles = {label: shown[label] for label in drawn["line"].unique()}
                lines += lines_by(drawn, "line", styles, "condition", names, titles, "published")
        panels.append(Panel(title, lines, "test accuracy", names))
    return draw_panels(panels)


def _before_and_after(rows: pd.DataFrame, *, fitted_on: str) -> "Figure":
    panels = []
    for title, of in families(rows[rows["experiment"].eq("retraining") & rows["fitted_on"].eq(fitted_on)]):
        names = conditions(of)
        masc = accuracies(of[of["probe"] == "masc"], "evaluation")
        network = network_retraining(of, setting="early_stopping")
        chosen = masc[masc["setting"] == ""]
        after = masc[masc["setting"] == "masc_after"].merge(chosen[["key", "layer"]])
        parts = {"masc": chosen, "masc_after": after, **network}
        together = pd.concat(part.assign(line=name) for name, part in parts.items())
        titles = {name: label for name, (label, _) in RETRAINING.items()}
        styles = {name: style for name, (_, style) in RETRAINING.items()}
        lines = lines_by(together, "line", styles, "condition", names, titles)
        before = {"before": NETWORK_STYLES["last_epoch"]}
        own = {"before": "network before"}
        lines += lines_by(together, "line", before, "condition", names, own, "network")
        panels.append(Panel(title, lines, "accuracy on 80 % of test", names))
    return draw_panels(panels)


def _masc(rows: pd.DataFrame, family: str, fitted_on: str) -> pd.DataFrame:
    """Return the test accuracies of MASC at the paper's threshold."""
    of_family = rows[(rows["family"] == family) & (rows["probe"] == "masc")]
    return accuracies(subspace_rows(of_family, fitted_on))


def _even_columns(panels: list[Panel]) -> int:
    """Return a number of columns that keeps the two panels of a family side by side."""
    return 2 if len(panels) <= 6 else 4


_EPOCHS = "Dashed, hollow: the network at its last epoch, and at the epoch of its highest test accuracy."
_BEST = "The best layer has the highest mean test accuracy: an upper bound where there are no test labels."
_RETRAINED = (
    "Accuracy on the 80 % of the test data that chose neither layer nor epoch, by corruption degree: MASC at "
    "the layer chosen on the other 20 %; the network before and after retraining on the labels of MASC, for "
    "at most 30 epochs with early stopping. Where the subspaces of a small training set return the given "
    "label of every row, there is nothing to learn from them: see Table 6."
)
CONDITION_FIGURES = [
    *(
        FigureSpec(
            name,
            f"Retraining on labels from {fitted_on} subspaces",
            _RETRAINED,
            ("retraining",),
            partial(_before_and_after, fitted_on=fitted_on),
        )
        for name, fitted_on in (("figure4", "noisy"), ("figure27", "true"))
    ),
    FigureSpec(
        "thresholds",
        "Test accuracy of MASC at its best layer, by variance threshold",
        f"From one component per class to 99.9 % of the variance. {_BEST}",
        ("noisy_subspaces",),
        _thresholds,
        also=("true_subspaces",),
    ),
    FigureSpec(
        "probes",
        "Test accuracy of every probe at its best layer",
        f"Fitted on noisy and on true labels, the input left out. {_BEST} {_EPOCHS}",
        ("probes", "controls"),
        _probes,
    ),
    FigureSpec(
        "controls",
        "Baselines: untrained networks and the best epoch",
        f"MASC on the trained and on the untrained network, the input left out. {_BEST} {_EPOCHS}",
        ("noisy_subspaces", "controls"),
        _controls,
        also=("true_subspaces",),
    ),
    FigureSpec(
        "gains",
        "MASC at its best layer against the network itself",
        f"The numbers of Table 1, the input among the layers. {_BEST} {_EPOCHS} Grey, hollow, where given: "
        "published numbers.",
        ("noisy_subspaces", "true_subspaces", "controls"),
        _gains,
        published=True,
    ),
]
