"""Figures over epochs: probes during training, histories, and the edit midway."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import STYLES, Panel, draw_panels, training_history
from layerprobe.paper.figures.lines import (
    NETWORK_STYLES,
    conditions,
    families,
    lines_by,
    probe_lines,
)
from layerprobe.paper.figures.spec import FigureSpec
from layerprobe.paper.selection import accuracies, at_best_layer, hidden_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDIT_PART = r"(?:^|, )edit (?P<what>[^,]*)"  # as in layerprobe.runs.states.variant
NO_EDIT = "no edit"


def _dynamics(rows: pd.DataFrame) -> "Figure":
    """Draw test accuracy over the kept epochs, each probe at its best hidden layer at the last of them."""
    network = {"network": NETWORK_STYLES["last_epoch"]}
    one = rows["setting"] == "1pc"
    rows = rows.assign(probe=rows["probe"].mask(one, "masc_1pc"))
    panels = []
    for title, of in families(accuracies(rows[rows["experiment"] == "dynamics"])):
        for condition in conditions(of):
            here = of[of["condition"] == condition]
            probes = here[here["probe"] != "network"]
            hidden = hidden_layers(probes)
            probes = probes if hidden.empty else hidden
            last = probes.groupby("probe")["epoch"].transform("max")
            best = at_best_layer(probes[probes["epoch"] == last], ["probe"])
            chosen = probes.merge(best[["probe", "layer"]].drop_duplicates())
            lines = probe_lines(chosen, "epoch")
            own = {"network": "network itself"}
            lines += lines_by(here, "probe", network, "epoch", None, own, "network")
            panels.append(Panel(f"{title}, {condition}", lines, "test accuracy", xscale="symlog"))
    return draw_panels(panels)


def _histories(history: pd.DataFrame) -> "Figure":
    """Draw the accuracies of training, one panel per family and condition."""
    ordered = pd.concat(
        of[of["condition"] == condition].assign(pair=f"{title}, {condition}")
        for title, of in families(history)
        for condition in conditions(of)
    )
    # Runs are numbered within their panel, whether or not their seeds derive from one.
    runs = ordered.groupby("pair")["key"].transform(lambda key: pd.factorize(key)[0])
    return training_history(ordered.assign(seed=runs).drop(columns="corruption"))


def _midway(history: pd.DataFrame) -> "Figure":
    """Draw test accuracy during training of runs that were edited midway, and of those that were not."""
    edit = history["variant"].str.extract(EDIT_PART)
    runs = history.assign(
        edit=edit["what"].str.replace("^velpic", "edit", regex=True).fillna(NO_EDIT),
        variant=history["variant"].str.replace(EDIT_PART, "", regex=True).str.strip(", "),
        value=history["test_accuracy"],
    )
    panels = []
    for (pair, condition, _), of in runs.groupby(["pair", "condition", "variant"], sort=False):
        edits = sorted(of["edit"].unique(), key=lambda what: (what != NO_EDIT, what))
        if edits != [NO_EDIT]:
            lines = lines_by(of, "edit", dict(zip(edits, STYLES, strict=False)), "epoch")
            panels.append(Panel(f"{pair}, {condition}", lines, "test accuracy"))
    return draw_panels(panels)


EPOCH_FIGURES = [
    FigureSpec(
        "dynamics",
        "Test accuracy over the epochs of training",
        "The network, and probes fitted on the noisy labels, each at its best hidden layer at the last "
        "epoch; MASC at 99 % of the variance and with one component. Epoch 0 is the untrained network.",
        ("dynamics",),
        _dynamics,
    ),
    FigureSpec(
        "midway",
        "Training with an edit of the last layer on the way",
        "Test accuracy during training on corrupted labels. The edit replaces the last layer by a probe of "
        "the last hidden layer, fitted on the same labels, and restarts the optimiser. The epoch after the "
        "edit is the first that shows it.",
        (),
        _midway,
        history=True,
    ),
    FigureSpec(
        "history",
        "Training histories",
        "Accuracies during training. A network that has stopped keeps its last accuracies.",
        (),
        _histories,
        history=True,
    ),
]
