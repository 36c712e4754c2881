"""Figures over the epochs of training: how probes follow the network, and the histories of training."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import PROBE_TITLES, STYLES, training_history
from layerprobe.paper.figures.layout import Line, Panel, sheet
from layerprobe.paper.figures.probes import LAST_EPOCH, PROBE_STYLES
from layerprobe.paper.figures.selection import accuracies, conditions, families, of_best_layer, span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["dynamics", "histories", "midway"]

EDIT_PART = r"(?:^|, )edit (?P<what>[^,]*)"
NO_EDIT = "no edit"


def dynamics(rows: pd.DataFrame) -> "Figure":
    """Draw test accuracy over the kept epochs, each probe at its best hidden layer at the last of them."""
    panels = []
    for title, of in families(accuracies(rows[rows["experiment"] == "dynamics"])):
        for condition in conditions(of):
            here = of[of["condition"] == condition]
            lines = [
                Line(
                    PROBE_TITLES.get(probe, probe),
                    style,
                    span(_at_best_layer(here[here["probe"] == probe]), "epoch"),
                )
                for probe, style in PROBE_STYLES.items()
                if (here["probe"] == probe).any()
            ]
            network = here[here["probe"] == "network"]
            if len(network):
                lines.append(Line("network itself", LAST_EPOCH, span(network, "epoch"), "network"))
            panels.append(Panel(f"{title}, {condition}", lines, "test accuracy", xscale="symlog"))
    return sheet(panels)


def histories(history: pd.DataFrame) -> "Figure":
    """Draw the accuracies of training, one panel a family and condition."""
    ordered = pd.concat(
        of[of["condition"] == condition].assign(pair=f"{title}, {condition}")
        for title, of in families(history)
        for condition in conditions(of)
    )
    # Runs count within their panel, whether or not their seeds derive from one.
    runs = ordered.groupby("pair")["key"].transform(lambda key: pd.factorize(key)[0])
    return training_history(ordered.assign(seed=runs).drop(columns="corruption"))


def midway(history: pd.DataFrame) -> "Figure":
    """Draw test accuracy over the epochs of runs that were edited midway, beside those that were not."""
    edit = history["variant"].str.extract(EDIT_PART)  # how `layerprobe.runs.states.variant` says it
    runs = history.assign(
        edit=edit["what"].str.replace("^velpic", "edit", regex=True).fillna(NO_EDIT),
        variant=history["variant"].str.replace(EDIT_PART, "", regex=True).str.strip(", "),
        value=history["test_accuracy"],
    )
    panels = []
    for (pair, condition, _), of in runs.groupby(["pair", "condition", "variant"], sort=False):
        edits = sorted(of["edit"].unique(), key=lambda what: (what != NO_EDIT, what))
        if edits != [NO_EDIT]:
            styled = zip(edits, STYLES, strict=False)
            lines = [Line(what, style, span(of[of["edit"] == what], "epoch")) for what, style in styled]
            panels.append(Panel(f"{pair}, {condition}", lines, "test accuracy"))
    return sheet(panels)


def _at_best_layer(rows: pd.DataFrame) -> pd.DataFrame:
    hidden = rows[rows["layer"] != "input"]  # which no epoch changes
    rows = rows if hidden.empty else hidden
    last = of_best_layer(rows[rows["epoch"] == rows["epoch"].max()])
    return rows[rows["layer"].isin(last["layer"])]
