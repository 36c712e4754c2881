"""Figures over the layers: subspaces, components, latent memorisation, human labels, similarity, cost."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.figures import PROBE_TITLES
from layerprobe.paper.experiments.subspaces import PAPER_SETTING
from layerprobe.paper.figures.layout import Line, Panel, Style, sheet
from layerprobe.paper.figures.probes import PROBE_STYLES
from layerprobe.paper.figures.selection import (
    HUMAN,
    accuracies,
    conditions,
    degree_names,
    families,
    layers_of,
    span,
    styles_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["components", "cost", "human", "latent", "similarity", "subspaces", "subspaces_in_full"]

TEST = ("test", "true")
# Panels of one family: what accuracies are measured on and against.
MEASURED = {
    "training, noisy labels": ("train", "noisy"),
    "training, true labels": ("train", "true"),
    "test": TEST,
}
SIMILARITIES = {
    "linear CKA": ("cka", ""),
    "principal cosine, noisy": ("principal_cosine", "noisy"),
    "principal cosine, true": ("principal_cosine", "true"),
}
COSTS = {
    "fit_seconds": "seconds to fit",
    "predict_seconds": "seconds to predict",
    "fit_flops": "FLOPs to fit",
    "predict_flops": "FLOPs to predict",
}


def subspaces(rows: pd.DataFrame, fitted_on: str) -> "Figure":
    """Test accuracy of MASC over the layers beside the network's own: Figures 2 and 3."""
    return sheet([_accuracy(title, of, TEST) for title, of in families(_measured(rows, fitted_on))])


def subspaces_in_full(rows: pd.DataFrame, fitted_on: str) -> "Figure":
    """Draw training accuracies too, one row of panels a family: Figures 12 and 13."""
    panels = [
        _accuracy(f"{title}: {name}", of, measured)
        for title, of in families(_measured(rows, fitted_on))
        for name, measured in MEASURED.items()
    ]
    return sheet(panels, len(MEASURED))


def human(rows: pd.DataFrame) -> "Figure":
    """Draw noisy and true subspaces of networks that learnt human labels, beside p = 0."""
    panels = []
    titles = rows[rows["corruption"].isna()]["family"].unique()
    if not len(titles):
        raise InputError(
            "there are no rows of runs on human labels; train some, as with noise 'cifar-10n:worst'"
        )
    for title in titles:
        family = title.removesuffix(HUMAN)
        for fitted_on in ("noisy", "true"):
            measured = _measured(rows, fitted_on)
            clean = measured[(measured["family"] == family) & (measured["corruption"] == 0)]
            of = pd.concat([clean, measured[measured["family"] == title]])
            panels.append(_accuracy(f"{family}: {fitted_on} subspaces", of, TEST))
    return sheet(panels, 2)


def latent(rows: pd.DataFrame) -> "Figure":
    """Draw MASC on generalised networks with subspaces from labels that were corrupted only afterwards."""
    of_experiment = rows[rows["experiment"] == "latent_memorisation"]
    degrees = of_experiment["degree"]
    later = of_experiment.assign(corruption=degrees, condition=degree_names(degrees))
    panels = [
        _accuracy(f"{title}: {name}", of, measured)
        for title, of in families(later)
        for name, measured in MEASURED.items()
    ]
    return sheet(panels, len(MEASURED))


def components(rows: pd.DataFrame, fitted_on: str) -> "Figure":
    """Draw how many components the subspace of a class has, over the layers: Figures 15 and 17."""
    of_metric = rows[(rows["experiment"] == f"{fitted_on}_subspaces") & (rows["metric"] == "components")]
    panels = []
    for title, of in families(of_metric[of_metric["setting"] == PAPER_SETTING]):
        layers = layers_of(of)
        lines = _by_condition(_class_means(of), layers)
        panels.append(Panel(title, lines, "components per class", layers, yscale="linear"))
    return sheet(panels, spread="range over classes")


def similarity(rows: pd.DataFrame) -> "Figure":
    """Draw how alike memorised and generalised networks are, over the layers."""
    panels = []
    for title, of in families(rows[rows["experiment"] == "similarity"]):
        layers = layers_of(of)
        for name, (metric, fitted_on) in SIMILARITIES.items():
            here = of[of["fitted_on"].isin([fitted_on, ""])]
            lines = _by_condition(here[here["metric"] == metric], layers)
            chance = _by_condition(here[here["metric"] == f"{metric}_chance"], layers)
            lines += [Line("by chance", line.style, line.span, "network") for line in chance]
            panels.append(Panel(f"{title}: {name}", lines, "similarity", layers, yscale="share"))
    return sheet(panels, len(SIMILARITIES), spread="range over runs and classes")


def cost(rows: pd.DataFrame) -> "Figure":
    """Draw seconds and FLOPs of fitting and predicting each probe, over the layers."""
    panels = []
    # What costs nothing has no place on a logarithmic axis.
    for title, of in families(rows[(rows["experiment"] == "cost") & (rows["value"] > 0)]):
        layers = layers_of(of)
        for metric, name in COSTS.items():
            here = of[of["metric"] == metric]
            lines = [
                Line(
                    PROBE_TITLES.get(probe, probe), style, span(here[here["probe"] == probe], "layer", layers)
                )
                for probe, style in PROBE_STYLES.items()
                if (here["probe"] == probe).any()
            ]
            panels.append(Panel(title, lines, name, layers, yscale="log"))
    return sheet(panels, len(COSTS))


def _measured(rows: pd.DataFrame, fitted_on: str) -> pd.DataFrame:
    """Return an experiment's rows at the paper's threshold, and the network's own.

    True subspaces are not measured at p = 0, where noisy labels are the true ones: noisy subspaces stand in.
    """
    found = rows[rows["experiment"] == f"{fitted_on}_subspaces"]
    if fitted_on == "true":
        clean = rows[(rows["experiment"] == "noisy_subspaces") & (rows["corruption"] == 0)]
        found = pd.concat([clean[~clean["key"].isin(found["key"])], found])
    return found[(found["setting"] == PAPER_SETTING) | (found["probe"] == "network")]


def _accuracy(title: str, rows: pd.DataFrame, measured: tuple[str, str]) -> Panel:
    """Return a panel of one accuracy: solid over the layers by condition, dashed for the network itself."""
    here, layers = accuracies(rows, *measured), layers_of(rows)
    network = here[here["probe"] == "network"]
    lines = _by_condition(here[here["probe"] == "masc"], layers)
    for condition, style in _styles(here).items():
        own = network[network["condition"] == condition]["value"]
        if len(own):
            ends = pd.DataFrame([own.agg(["mean", "min", "max"])] * 2, index=[0, len(layers)])
            lines.append(Line("network itself", style, ends, "network", at_end=True))
    names = layers if network.empty else [*layers, "network"]
    return Panel(title, lines, "accuracy", names, apart=not network.empty)


def _styles(rows: pd.DataFrame) -> dict[str, Style]:
    return styles_of(conditions(rows))


def _by_condition(rows: pd.DataFrame, layers: list[str]) -> list[Line]:
    return [
        Line(condition, style, span(rows[rows["condition"] == condition], "layer", layers))
        for condition, style in _styles(rows).items()
    ]


def _class_means(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one value a class: its mean over runs."""
    by = ["condition", "corruption", "layer", "class"]
    return rows.groupby(by, sort=False, dropna=False)["value"].mean().reset_index()
