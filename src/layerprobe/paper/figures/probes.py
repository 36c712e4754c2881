"""Figures of best layers: thresholds, every probe, controls, and the gains over the network."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.figures import PROBE_TITLES, STYLES
from layerprobe.paper.experiments.subspaces import PAPER_SETTING, SETTINGS
from layerprobe.paper.figures.layout import Line, Panel, Style, sheet
from layerprobe.paper.figures.selection import (
    accuracies,
    conditions,
    degree_names,
    families,
    of_best_layer,
    span,
    styles_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BEST_EPOCH", "LAST_EPOCH", "PROBE_STYLES", "controls", "gains", "probes", "thresholds"]

PROBE_STYLES: dict[str, Style] = dict(
    zip(["masc", "ncm", "logistic", "lda", "qda", "knn", "velpic"], STYLES, strict=False)
)
LAST_EPOCH: Style = ("#333333", ">")
BEST_EPOCH: Style = ("#333333", "*")
# How the published Table 1 names what the lines of `gains` are.
TABLE1 = {
    "masc_noisy_best_layer": "MASC, noisy subspaces",
    "masc_true_best_layer": "MASC, true subspaces",
    "model_test": "network, last epoch",
    "model_peak_epoch_test": "network, best epoch",
}


def thresholds(rows: pd.DataFrame) -> "Figure":
    """Draw test accuracy at the best layer over the thresholds, one component first."""
    names = sorted(SETTINGS, key=lambda name: SETTINGS[name] or 0)  # one component first
    shown = ["one" if SETTINGS[name] is None else f"{100 * float(name):g} %" for name in names]
    of_experiments = rows[rows["experiment"].isin(["noisy_subspaces", "true_subspaces"])]
    test = accuracies(of_experiments[of_experiments["probe"] == "masc"])
    panels = []
    for title, of in families(test):
        for fitted_on in ("noisy", "true"):
            here = of[of["fitted_on"] == fitted_on]
            lines = []
            for condition, style in styles_of(conditions(here)).items():
                at = _best(here[here["condition"] == condition], "setting")
                lines.append(Line(condition, style, span(at, "setting", names)))
            label = "share of variance; one: a single component"
            panels.append(Panel(f"{title}: {fitted_on} subspaces", lines, "test accuracy", shown, label))
    return sheet(panels, _pairs_of_panels(panels))


def probes(rows: pd.DataFrame) -> "Figure":
    """Draw every probe at its best layer by corruption degree, fitted on noisy and on true labels."""
    of_experiment = _hidden(accuracies(rows[rows["experiment"] == "probes"]))
    panels = []
    for title, of in families(of_experiment):
        names = conditions(of)
        network = _network_lines(rows, title, names)
        for fitted_on in ("noisy", "true"):
            here = of[of["fitted_on"] == fitted_on]
            lines = [
                Line(
                    PROBE_TITLES.get(probe, probe), style, _by_condition(here[here["probe"] == probe], names)
                )
                for probe, style in PROBE_STYLES.items()
                if (here["probe"] == probe).any()
            ]
            panels.append(
                Panel(f"{title}: fitted on {fitted_on} labels", [*lines, *network], "test accuracy", names)
            )
    return sheet(panels, _pairs_of_panels(panels))


def controls(rows: pd.DataFrame) -> "Figure":
    """Draw MASC on trained and on untrained layers, and the network at its last and at its best epoch."""
    untrained = _hidden(rows[(rows["experiment"] == "controls") & (rows["setting"] == "untrained")])
    panels = []
    for title, of in families(rows[rows["experiment"] == "controls"]):
        names = conditions(of)
        for fitted_on in ("noisy", "true"):
            trained = _hidden(_masc(rows, title, fitted_on))
            here = accuracies(
                untrained[(untrained["family"] == title) & (untrained["fitted_on"] == fitted_on)]
            )
            lines = [
                Line("MASC, trained network", STYLES[0], _by_condition(trained, names)),
                Line("MASC, untrained network", STYLES[4], _by_condition(here, names)),
                *_network_lines(rows, title, names),
            ]
            panels.append(Panel(f"{title}: {fitted_on} subspaces", _drawn(lines), "test accuracy", names))
    return sheet(panels, _pairs_of_panels(panels))


def gains(rows: pd.DataFrame, published: pd.DataFrame | None = None) -> "Figure":
    """Draw Table 1: MASC at its best layer, noisy and true subspaces, against the network's two epochs.

    Parameters
    ----------
    rows : DataFrame
        Rows as `layerprobe.paper.figures.selection.named` gives them.
    published : DataFrame, optional
        The published Table 1 with columns pair, corruption and those of `TABLE1`; hollow grey markers.
    """
    panels = []
    for title, of in families(rows[rows["experiment"] == "noisy_subspaces"]):
        names = conditions(of)
        lines = [
            Line(f"MASC, {fitted_on} subspaces", style, _by_condition(_masc(rows, title, fitted_on), names))
            for fitted_on, style in (("noisy", STYLES[0]), ("true", STYLES[2]))
        ]
        lines = _drawn([*lines, *_network_lines(rows, title, names)])
        if published is not None:
            theirs = published[published["pair"] == of["pair"].iloc[0]]
            lines += _published_lines(theirs, names, {line.label: line.style for line in lines})
        panels.append(Panel(title, lines, "test accuracy", names))
    return sheet(panels)


def _masc(rows: pd.DataFrame, family: str, fitted_on: str) -> pd.DataFrame:
    """Return MASC's test accuracies at the paper's threshold; at p = 0 noisy subspaces are the true ones."""
    of_family = rows[
        (rows["family"] == family) & (rows["probe"] == "masc") & (rows["setting"] == PAPER_SETTING)
    ]
    found = of_family[of_family["experiment"] == f"{fitted_on}_subspaces"]
    clean = of_family[(of_family["experiment"] == "noisy_subspaces") & (of_family["corruption"] == 0)]
    return accuracies(pd.concat([clean[~clean["key"].isin(found["key"])], found]))


def _hidden(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out the input, which knows nothing of the network."""
    return rows[rows["layer"] != "input"]


def _best(rows: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return, for each value of a column, the rows of the layer that is best there."""
    groups = [of_best_layer(of) for _, of in rows.groupby(by, sort=False)]
    return pd.concat(groups) if groups else rows


def _by_condition(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    return span(_best(rows, "condition"), "condition", names)


def _network_lines(rows: pd.DataFrame, family: str, names: list[str]) -> list[Line]:
    """Return the network's own test accuracy at its last and at its best epoch, from the controls."""
    own = rows[(rows["experiment"] == "controls") & (rows["family"] == family) & (rows["probe"] == "network")]
    test = accuracies(own)
    return _drawn(
        Line(
            f"network, {name} epoch",
            style,
            span(test[test["setting"] == f"{name}_epoch"], "condition", names),
            "network",
        )
        for name, style in (("last", LAST_EPOCH), ("best", BEST_EPOCH))
    )


def _published_lines(theirs: pd.DataFrame, names: list[str], styles: dict[str, Style]) -> list[Line]:
    theirs = theirs.assign(condition=degree_names(theirs["corruption"]))
    return _drawn(
        Line(
            f"published: {label}",
            styles[label],
            span(theirs.assign(value=theirs[column]), "condition", names),
            "published",
        )
        for column, label in TABLE1.items()
        if column in theirs and label in styles
    )


def _drawn(lines: Iterable[Line]) -> list[Line]:
    """Leave out lines without points."""
    return [line for line in lines if len(line.span)]


def _pairs_of_panels(panels: list[Panel]) -> int:
    """Return columns that keep the two panels of a family side by side."""
    return 2 if len(panels) <= 6 else 4
