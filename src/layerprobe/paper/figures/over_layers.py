"""Figures over the layers: subspaces, components, latent memorisation, human labels, similarity, cost."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.errors import MissingRowsError
from layerprobe.figures import Line, Panel, draw_panels
from layerprobe.paper.figures.lines import (
    HUMAN,
    condition_styles,
    degree_names,
    families,
    layers_of,
    lines_by,
    probe_lines,
    subspace_rows,
)
from layerprobe.paper.figures.spec import FigureSpec
from layerprobe.paper.selection import PAPER, accuracies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = Mapping[str, tuple[str, str]]  # split and labels of accuracies, by the title of their panels
ACCURACIES: Measured = {
    "training, noisy labels": ("train", "noisy"),
    "training, true labels": ("train", "true"),
    "test": ("test", "true"),
}
TEST_ONLY: Measured = {"": ("test", "true")}
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


def _subspaces(rows: pd.DataFrame, *, fitted_on: str, measured: Measured) -> "Figure":
    return _accuracies(subspace_rows(rows, fitted_on), measured)


def _latent(rows: pd.DataFrame) -> "Figure":
    latent = rows[rows["experiment"] == "latent_memorisation"]
    degrees = latent["degree"]
    return _accuracies(latent.assign(corruption=degrees, condition=degree_names(degrees)), ACCURACIES)


def _accuracies(rows: pd.DataFrame, measured: Measured) -> "Figure":
    """Draw one panel per family and accuracy."""
    panels = [
        _accuracy_panel(f"{title}: {name}" if name else title, of, *which)
        for title, of in families(rows)
        for name, which in measured.items()
    ]
    return draw_panels(panels, len(measured) if len(measured) > 1 else None)


def _accuracy_panel(title: str, rows: pd.DataFrame, split: str = "test", labels: str = "true") -> Panel:
    """Return a panel with one line per condition: solid over the layers, dashed for the network itself."""
    here, layers = accuracies(rows, split, labels), layers_of(rows)
    styles = condition_styles(here)
    lines = lines_by(here[here["probe"] == "masc"], "condition", styles, "layer", layers)
    network = here[here["probe"] == "network"]
    for condition, style in styles.items():
        own = network.loc[network["condition"] == condition, "value"]
        if len(own):
            ends = pd.DataFrame([own.agg(["mean", "min", "max"])] * 2, index=[0, len(layers)])
            lines.append(Line("network itself", style, ends, "network", at_end=True))
    names = layers if network.empty else [*layers, "network"]
    return Panel(title, lines, "accuracy", names, apart=not network.empty)


def _human(rows: pd.DataFrame) -> "Figure":
    """Draw noisy and true subspaces of networks trained on human labels, beside p = 0."""
    titles = rows[rows["corruption"].isna()]["family"].unique()
    if not len(titles):
        raise MissingRowsError(
            "there are no rows of runs on human labels; train some, for example with noise 'cifar-10n:worst'"
        )
    panels = []
    for title in titles:
        family = title.removesuffix(HUMAN)
        for fitted_on in ("noisy", "true"):
            measured = subspace_rows(rows, fitted_on)
            clean = measured[(measured["family"] == family) & (measured["corruption"] == 0)]
            of = pd.concat([clean, measured[measured["family"] == title]])
            panels.append(_accuracy_panel(f"{family}: {fitted_on} subspaces", of))
    return draw_panels(panels, 2)


def _components(rows: pd.DataFrame, *, fitted_on: str) -> "Figure":
    counted = rows[(rows["experiment"] == f"{fitted_on}_subspaces") & (rows["metric"] == "components")]
    panels = []
    for title, of in families(counted[counted["setting"] == PAPER["setting"]]):
        layers = layers_of(of)
        by = ["condition", "corruption", "layer", "class"]
        per_class = of.groupby(by, sort=False, dropna=False)["value"].mean().reset_index()
        lines = lines_by(per_class, "condition", condition_styles(per_class), "layer", layers)
        panels.append(Panel(title, lines, "components per class", layers, yscale="linear"))
    return draw_panels(panels, spread="range over classes")


def _similarity(rows: pd.DataFrame) -> "Figure":
    panels = []
    for title, of in families(rows[rows["experiment"] == "similarity"]):
        layers = layers_of(of)
        for name, (metric, fitted_on) in SIMILARITIES.items():
            here = of[of["fitted_on"].isin([fitted_on, ""])]
            measured, chance = here[here["metric"] == metric], here[here["metric"] == f"{metric}_chance"]
            styles = condition_styles(measured)
            labels = dict.fromkeys(styles, "by chance")
            lines = lines_by(measured, "condition", styles, "layer", layers)
            lines += lines_by(chance, "condition", styles, "layer", layers, labels, "network")
            panels.append(Panel(f"{title}: {name}", lines, "similarity", layers, yscale="share"))
    return draw_panels(panels, len(SIMILARITIES), spread="range over runs and classes")


def _cost(rows: pd.DataFrame) -> "Figure":
    panels = []
    # A cost of zero has no place on a logarithmic axis.
    for title, of in families(rows[(rows["experiment"] == "cost") & (rows["value"] > 0)]):
        layers = layers_of(of)
        for metric, name in COSTS.items():
            lines = probe_lines(of[of["metric"] == metric], "layer", layers)
            panels.append(Panel(title, lines, name, layers, yscale="log"))
    return draw_panels(panels, len(COSTS))


OWN_LINE = "Dashed, hollow: the network itself."
_FITTED_ON = {"noisy": "the labels trained on", "true": "the true training labels"}
_CLASSES = "over the layers: the mean over classes, and their range"
LAYER_FIGURES = [
    FigureSpec(
        "latent",
        "Latent memorisation: labels corrupted after training",
        "MASC on the layers of the generalised network, which was trained on clean labels. Its subspaces are "
        "those of labels corrupted after training, by their degree.",
        ("latent_memorisation",),
        _latent,
    ),
    FigureSpec(
        "cost",
        "Cost of fitting and predicting, by probe and layer",
        "Measured seconds, and FLOPs by formula, for all training and all test rows; means over degrees.",
        ("cost",),
        _cost,
    ),
    FigureSpec(
        "similarity",
        "Similarity of memorised and generalised networks",
        "Over the layers, by corruption degree: linear CKA of the layer outputs on the test data, and mean "
        "cosine of the principal angles between class subspaces. Dashed, hollow: by chance.",
        ("similarity",),
        _similarity,
    ),
    FigureSpec(
        "natural",
        "Human labels: test accuracy of MASC",
        f"Test accuracy over the layers, by annotation; p = 0: the same network on clean labels. {OWN_LINE}",
        ("noisy_subspaces", "true_subspaces"),
        _human,
    ),
]
for _fitted_on, _numbers in {"noisy": (2, 12, 15), "true": (3, 13, 17)}.items():
    _name, _labels = _fitted_on.capitalize(), _FITTED_ON[_fitted_on]
    _also = ("noisy_subspaces",) if _fitted_on == "true" else ()
    LAYER_FIGURES += [
        FigureSpec(
            f"figure{_numbers[0]}",
            f"{_name} subspaces: test accuracy of MASC",
            f"Test accuracy of MASC over the layers, subspaces of {_labels}. {OWN_LINE}",
            (f"{_fitted_on}_subspaces",),
            partial(_subspaces, fitted_on=_fitted_on, measured=TEST_ONLY),
            also=_also,
        ),
        FigureSpec(
            f"figure{_numbers[1]}",
            f"{_name} subspaces: accuracies of MASC on training and test data",
            f"MASC over the layers, subspaces of {_labels}. {OWN_LINE}",
            (f"{_fitted_on}_subspaces",),
            partial(_subspaces, fitted_on=_fitted_on, measured=ACCURACIES),
            also=_also,
        ),
        FigureSpec(
            f"figure{_numbers[2]}",
            f"{_name} subspaces: components per class",
            f"Components per class at 99 % of its variance, {_CLASSES}.",
            (f"{_fitted_on}_subspaces",),
            partial(_components, fitted_on=_fitted_on),
        ),
    ]
