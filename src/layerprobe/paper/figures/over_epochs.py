"""Figures over epochs: probes during training, histories, and the edit midway."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import PROBE_TITLES, STYLES, training_history
from layerprobe.paper.figures.lines import NETWORK_STYLES, PROBE_STYLES, Axis, conditions, families
from layerprobe.paper.figures.spec import Panels, register_figure
from layerprobe.paper.selection import accuracies, at_best_layer, hidden_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDIT_PART = r"(?:^|, )edit (?P<what>[^,]*)"  # as in layerprobe.runs.states.variant
NO_EDIT = "no edit"


@register_figure(
    "dynamics",
    "Test accuracy over the epochs of training",
    "The network, and probes fitted on the noisy labels, each at its best hidden layer at the last epoch; "
    "MASC at 99 % of the variance and with one component. Epoch 0 is the untrained network.",
    "dynamics",
)
def _dynamics(rows: pd.DataFrame) -> Panels:
    network, axis = {"network": NETWORK_STYLES["last_epoch"]}, Axis("epoch", options={"xscale": "symlog"})
    rows = rows.assign(probe=rows["probe"].mask(rows["setting"] == "1pc", "masc_1pc"))
    for title, of in families(accuracies(rows[rows["experiment"] == "dynamics"])):
        for condition in conditions(of):
            here = of[of["condition"] == condition]
            probes = here[here["probe"] != "network"]
            hidden = hidden_layers(probes)
            probes = probes if hidden.empty else hidden
            last = probes.groupby("probe")["epoch"].transform("max")
            best = at_best_layer(probes[probes["epoch"] == last], ["probe"])
            chosen = probes.merge(best[["probe", "layer"]].drop_duplicates())
            lines = axis.lines(chosen, "probe", PROBE_STYLES, PROBE_TITLES)
            lines += axis.lines(here, "probe", network, {"network": "network itself"}, "network")
            yield axis.panel(f"{title}, {condition}", lines)


@register_figure(
    "midway",
    "Training with an edit of the last layer on the way",
    "Test accuracy during training on corrupted labels. The edit replaces the last layer by a probe of the "
    "last hidden layer, fitted on the same labels, and restarts the optimiser. The epoch after the edit is "
    "the first that shows it.",
    history=True,
)
def _midway(history: pd.DataFrame) -> Panels:
    edit = history["variant"].str.extract(EDIT_PART)
    runs = history.assign(
        edit=edit["what"].str.replace("^velpic", "edit", regex=True).fillna(NO_EDIT),
        variant=history["variant"].str.replace(EDIT_PART, "", regex=True).str.strip(", "),
        value=history["test_accuracy"],
    )
    axis = Axis("epoch")
    for (pair, condition, _), of in runs.groupby(["pair", "condition", "variant"], sort=False):
        edits = sorted(of["edit"].unique(), key=lambda what: (what != NO_EDIT, what))
        if edits != [NO_EDIT]:
            lines = axis.lines(of, "edit", dict(zip(edits, STYLES, strict=False)))
            yield axis.panel(f"{pair}, {condition}", lines)


@register_figure(
    "history",
    "Training histories",
    "Accuracies during training. A network that has stopped keeps its last accuracies.",
    history=True,
    layout=None,
)
def _histories(history: pd.DataFrame) -> "Figure":
    ordered = pd.concat(
        of[of["condition"] == condition].assign(pair=f"{title}, {condition}")
        for title, of in families(history)
        for condition in conditions(of)
    )
    # Runs are numbered within their panel, whether or not their seeds derive from one.
    runs = ordered.groupby("pair")["key"].transform(lambda key: pd.factorize(key)[0])
    return training_history(ordered.assign(seed=runs).drop(columns="corruption"))
