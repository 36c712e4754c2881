"""Figures over the layers: subspaces, components, untrained networks, latent memorisation, flipped rows.

Figures 2, 3, 12 and 13 of the paper have a row per corruption degree and a column per pair.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from layerprobe.errors import MissingRowsError
from layerprobe.figures import STYLES, Line, Panel, Style, draw_panels
from layerprobe.paper.figures.lines import (
    HUMAN,
    condition_styles,
    conditions,
    degree_names,
    families,
    layers_of,
    lines_by,
    span,
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
FLIPPED: Measured = {
    "flipped rows, given labels": ("flipped", "noisy"),
    "flipped rows, true labels": ("flipped", "true"),
    "unflipped rows": ("unflipped", "true"),
}
SIMILARITIES = {
    "linear CKA": ("cka", ""),
    "principal cosine, noisy": ("principal_cosine", "noisy"),
    "principal cosine, true": ("principal_cosine", "true"),
}


class Series(NamedTuple):
    """One line of a panel of a pair and a degree."""

    fitted_on: str  # the labels of the subspaces; empty for the network itself
    split: str
    labels: str
    style: Style


NOISY_SERIES = {
    "MASC, training data, corrupted labels": Series("noisy", "train", "noisy", STYLES[0]),
    "MASC, training data, true labels": Series("noisy", "train", "true", STYLES[2]),
    "MASC, test data": Series("noisy", "test", "true", STYLES[1]),
    "network, training data, corrupted labels": Series("", "train", "noisy", STYLES[0]),
    "network, test data": Series("", "test", "true", STYLES[1]),
}
TRUE_SERIES = {
    "true subspaces, training data, true labels": Series("true", "train", "true", STYLES[2]),
    "true subspaces, test data": Series("true", "test", "true", STYLES[3]),
    "noisy subspaces, training data, corrupted labels": Series("noisy", "train", "noisy", STYLES[0]),
    "noisy subspaces, test data": Series("noisy", "test", "true", STYLES[1]),
}
FIRST_PAIRS = ("mlp-mnist", "cnn-fashion-mnist", "alexnet-cifar100")  # the columns of Figures 2 and 3
OTHER_PAIRS = ("mlp-cifar10", "cnn-mnist", "cnn-cifar10", "alexnet-tiny-imagenet")  # of Figures 12 and 13
COLUMNS = 3  # pairs side by side where the paper gives no number


def _grid(rows: pd.DataFrame, *, series: Mapping[str, Series]) -> "Figure":
    """Draw a row of panels per corruption degree, a column per pair."""
    titles, degrees = list(dict.fromkeys(rows["family"])), conditions(rows)
    wide = titles if len(titles) <= 4 else None
    panels = [
        _grid_panel(f"{title}, {degree}", of[of["condition"] == degree], layers_of(of), series)
        for title, of in families(rows)
        for degree in degrees
    ]
    if wide:  # by degree, then by pair
        panels = [panels[i * len(degrees) + j] for j in range(len(degrees)) for i in range(len(titles))]
    return draw_panels(panels, len(titles) if wide else COLUMNS)


def _grid_panel(title: str, rows: pd.DataFrame, layers: list[str], series: Mapping[str, Series]) -> Panel:
    lines: list[Line] = []
    subspaces = {name: subspace_rows(rows, name) for name in ("noisy", "true")}
    for label, one in series.items():
        here = accuracies(subspaces[one.fitted_on or "noisy"], one.split, one.labels)
        if one.fitted_on:
            line = Line(label, one.style, span(here[here["probe"] == "masc"], "layer", layers))
        else:
            own = here.loc[here["probe"] == "network", "value"].agg(["mean", "min", "max"])
            ends = pd.DataFrame([own] * 2, index=[0.0, len(layers) - 1.0]).dropna()
            line = Line(label, one.style, ends, "network", at_end=True)
        lines += [line] if len(line.span) else []
    return Panel(title, lines if len(rows) else [], "accuracy", layers)


def _by_condition(rows: pd.DataFrame, *, experiment: str, measured: Measured) -> "Figure":
    """Draw one panel per family and accuracy, MASC with noisy subspaces and the network itself."""
    shown = rows[(rows["experiment"] == experiment) & rows["fitted_on"].isin(["noisy", ""])]
    if shown["degree"].notna().any():  # the degree of labels that are corrupted after training
        shown = shown.assign(corruption=shown["degree"], condition=degree_names(shown["degree"]))
    panels = [
        _accuracy_panel(f"{title}: {name}", of, *which)
        for title, of in families(shown)
        for name, which in measured.items()
    ]
    return draw_panels(panels, len(measured))


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


def _untrained(rows: pd.DataFrame) -> "Figure":
    """Draw MASC over the layers of trained networks, and dashed over those of untrained ones."""
    panels = []
    for title, of in families(rows):
        untrained = of[of["setting"] == "untrained"]
        for fitted_on in ("noisy", "true"):
            trained = accuracies(subspace_rows(of, fitted_on))
            trained, layers = trained[trained["probe"] == "masc"], layers_of(of)
            other = accuracies(untrained[untrained["fitted_on"] == fitted_on])
            styles = condition_styles(pd.concat([trained, other]))
            labels = dict.fromkeys(styles, "untrained network")
            lines = lines_by(trained, "condition", styles, "layer", layers)
            lines += lines_by(other, "condition", styles, "layer", layers, labels, "network")
            panels.append(Panel(f"{title}: {fitted_on} subspaces", lines, "test accuracy", layers))
    return draw_panels(panels, 2 if len(panels) <= 6 else 4)


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


OWN_LINE = "Dashed, hollow: the network itself."
_NOISY = "Noisy subspaces: accuracies of MASC over the layers"
_TRUE = "True subspaces beside noisy subspaces over the layers"
_NOISY_CAPTION = (
    "MASC fitted on the corrupted training labels: accuracy on the training data against the corrupted and "
    "the true labels, and on the test data. Dashed: the network's own training and test accuracy. A row per "
    "corruption degree, a column per pair."
)
_TRUE_CAPTION = (
    "MASC fitted on the true training labels, beside MASC fitted on the corrupted ones: accuracy on the "
    "training data against the labels of the fit, and on the test data. A row per corruption degree, a "
    "column per pair."
)
_GRIDS = {
    "noisy_subspaces": (("figure2", "figure12"), _NOISY, _NOISY_CAPTION, NOISY_SERIES, ()),
    "true_subspaces": (("figure3", "figure13"), _TRUE, _TRUE_CAPTION, TRUE_SERIES, ("noisy_subspaces",)),
}
LAYER_FIGURES: list[FigureSpec] = []
for _experiment, (_numbered, _title, _caption, _series, _also) in _GRIDS.items():
    _plot, _every = partial(_grid, series=_series), (FIRST_PAIRS, OTHER_PAIRS)
    LAYER_FIGURES += [
        FigureSpec(
            _name,
            f"{_name.replace('figure', 'Figure ')}: {_title[0].lower()}{_title[1:]}",
            _caption,
            (_experiment,),
            _plot,
            also=_also,
            pairs=_pairs,
            degrees=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        )
        for _name, _pairs in zip(_numbered, _every, strict=True)
    ]
    LAYER_FIGURES.append(
        FigureSpec(
            _experiment,
            f"{_title}, other pairs",
            f"As {_numbered[0].replace('figure', 'Figure ')}, for pairs that no figure of the paper shows. "
            f"{_caption}",
            (_experiment,),
            _plot,
            also=_also,
            but=(*FIRST_PAIRS, *OTHER_PAIRS),
        )
    )
LAYER_FIGURES += [
    FigureSpec(
        _name,
        f"{_name.replace('figure', 'Figure ')}: components per class, {_fitted_on} subspaces",
        f"Components per class at 99 % of the variance, subspaces of the {_labels} training labels: the mean "
        "over classes, and their range.",
        (f"{_fitted_on}_subspaces",),
        partial(_components, fitted_on=_fitted_on),
        degrees=_degrees,
    )
    for _name, _fitted_on, _labels, _degrees in (
        ("figure15", "noisy", "corrupted", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        ("figure17", "true", "true", (0.2, 0.4, 0.6, 0.8, 1.0)),  # at p = 0 they are those of Figure 15
    )
]
LAYER_FIGURES += [
    FigureSpec(
        "untrained",
        "Random initialisation: test accuracy of MASC by layer",
        "MASC on the layers of the trained network. Dashed, hollow: on those of the same network before "
        "training, fitted on the same labels.",
        ("noisy_subspaces", "controls"),
        _untrained,
        also=("true_subspaces",),
    ),
    FigureSpec(
        "latent",
        "Latent memorisation: labels corrupted after training",
        "MASC on the layers of the generalised network, which was trained on clean labels. Its subspaces are "
        "those of labels corrupted after training, by their degree.",
        ("latent_memorisation",),
        partial(_by_condition, experiment="latent_memorisation", measured=ACCURACIES),
    ),
    FigureSpec(
        "flipped",
        "Training rows whose label was flipped, and the others",
        "MASC with noisy subspaces over the layers: how often it returns the wrong given label of a flipped "
        f"row, its true label, and the label of an unflipped row. {OWN_LINE}",
        ("flipped_rows",),
        partial(_by_condition, experiment="flipped_rows", measured=FLIPPED),
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
