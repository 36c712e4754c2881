"""Figures over the layers: subspaces, components, untrained networks, latent memorisation, flipped rows.

Figures 2, 3, 12 and 13 of the paper have a row per corruption degree and a column per pair.
"""

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from layerprobe.errors import MissingRowsError
from layerprobe.figures import STYLES, Line, Panel, Style, draw_panels
from layerprobe.paper.figures.lines import (
    HUMAN,
    Axis,
    condition_styles,
    conditions,
    degree_names,
    draw_pairs,
    families,
    subspace_rows,
)
from layerprobe.paper.figures.spec import Panels, register_figure
from layerprobe.paper.selection import DEGREES, EVERY_DEGREE, LABELS, PAPER, accuracies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measured = dict[str, tuple[str, str]]  # split and labels of accuracies, by the title of their panels
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


# Each kind of accuracy has the style that it has in training histories.
NOISY_SERIES = {
    "MASC, training data, corrupted labels": Series("noisy", "train", "noisy", STYLES[1]),
    "MASC, training data, true labels": Series("noisy", "train", "true", STYLES[2]),
    "MASC, test data": Series("noisy", "test", "true", STYLES[0]),
    "network, training data, corrupted labels": Series("", "train", "noisy", STYLES[1]),
    "network, test data": Series("", "test", "true", STYLES[0]),
}
TRUE_SERIES = {
    "true subspaces, training data, true labels": Series("true", "train", "true", STYLES[2]),
    "true subspaces, test data": Series("true", "test", "true", STYLES[3]),
    "noisy subspaces, training data, corrupted labels": Series("noisy", "train", "noisy", STYLES[1]),
    "noisy subspaces, test data": Series("noisy", "test", "true", STYLES[0]),
}
FIRST_PAIRS = ("mlp-mnist", "cnn-fashion-mnist", "alexnet-cifar100")  # the columns of Figures 2 and 3
OTHER_PAIRS = ("mlp-cifar10", "cnn-mnist", "cnn-cifar10", "alexnet-tiny-imagenet")  # of Figures 12 and 13
COLUMNS = 3  # pairs side by side where the paper gives no number
THREE_COLUMNS = partial(draw_panels, columns=3)  # one per kind of number
OWN_LINE = "Dashed, hollow: the network itself."


def _grid(rows: pd.DataFrame, *, series: dict[str, Series]) -> "Figure":
    """Draw a row of panels per corruption degree and a column per pair, or else a pair below the other."""
    of_family, degrees = dict(families(rows)), conditions(rows)
    wide = len(of_family) <= 4
    cells = [(pair, p) for p, pair in product(degrees, of_family)] if wide else product(of_family, degrees)
    panels = [_grid_panel(pair, of_family[pair], p, series) for pair, p in cells]
    return draw_panels(panels, len(of_family) if wide else COLUMNS)


def _grid_panel(title: str, of: pd.DataFrame, degree: str, series: dict[str, Series]) -> Panel:
    axis, rows = Axis.of_layers(of), of[of["condition"] == degree]
    subspaces = {name: subspace_rows(rows, name) for name in LABELS}
    lines: list[Line] = []
    layers, network = axis.options["names"], not all(one.fitted_on for one in series.values())
    for label, one in series.items():
        here = accuracies(subspaces[one.fitted_on or "noisy"], one.split, one.labels)
        own = here[here["probe"] == "network"]
        if one.fitted_on:
            lines += axis.lines(here, "probe", {"masc": one.style}, {"masc": label})
        elif len(own):
            lines.append(Line.across(one.style, own["value"], len(layers), label))
    names = [*layers, "network"] if network else layers
    return axis.panel(f"{title}, {degree}", lines, "accuracy", names=names, apart=network)


def _register_grids(
    experiment: str, numbers: tuple[int, int], title: str, caption: str, series: dict[str, Series], *also: str
) -> None:
    """Register the two figures of the paper, and one of the pairs that they do not show."""
    common: dict[str, Any] = {"layout": None, "options": {"series": series}, "also": also}
    for number, pairs in zip(numbers, (FIRST_PAIRS, OTHER_PAIRS), strict=True):
        shown: dict[str, Any] = {"pairs": pairs, "degrees": EVERY_DEGREE}
        register_figure(f"figure{number}", title, caption, experiment, **shown, **common)(_grid)
    title, but = f"{title}, other pairs", (*FIRST_PAIRS, *OTHER_PAIRS)
    caption = f"As Figure {numbers[0]}, for pairs that no figure of the paper shows. {caption}"
    register_figure(experiment, title, caption, experiment, but=but, **common)(_grid)


_register_grids(
    "noisy_subspaces",
    (2, 12),
    "Noisy subspaces: accuracies of MASC over the layers",
    "MASC fitted on the corrupted training labels: accuracy on the training data against the corrupted and "
    "the true labels, and on the test data. Dashed: the network's own training and test accuracy. A row per "
    "corruption degree, a column per pair.",
    NOISY_SERIES,
)
_register_grids(
    "true_subspaces",
    (3, 13),
    "True subspaces beside noisy subspaces over the layers",
    "MASC fitted on the true training labels, beside MASC fitted on the corrupted ones: accuracy on the "
    "training data against the labels of the fit, and on the test data. A row per corruption degree, a "
    "column per pair.",
    TRUE_SERIES,
    "noisy_subspaces",
)


@register_figure(
    "untrained",
    "Random initialisation: test accuracy of MASC by layer",
    "MASC on the layers of the trained network. Dashed, hollow: on those of the same network before "
    "training, fitted on the same labels.",
    "noisy_subspaces",
    "controls",
    also=("true_subspaces",),
    layout=draw_pairs,
    degrees=EVERY_DEGREE,
)
def _untrained(rows: pd.DataFrame) -> Panels:
    for title, of in families(rows):
        axis, untrained = Axis.of_layers(of), of[of["setting"] == "untrained"]
        for fitted_on in LABELS:
            trained = accuracies(subspace_rows(of, fitted_on))
            trained = trained[trained["probe"] == "masc"]
            other = accuracies(untrained[untrained["fitted_on"] == fitted_on])
            lines = axis.by_condition(trained, other, "untrained network")
            yield axis.panel(f"{title}: {fitted_on} subspaces", lines)


@register_figure(
    "latent",
    "Latent memorisation: labels corrupted after training",
    "MASC on the layers of the generalised network, which was trained on clean labels. Its subspaces are "
    "those of labels corrupted after training, by their degree.",
    "latent_memorisation",
    layout=THREE_COLUMNS,
    options={"measured": ACCURACIES},
    degrees=(0.0,),  # of the networks
)
@register_figure(
    "flipped",
    "Training rows whose label was flipped, and the others",
    "MASC with noisy subspaces over the layers: how often it returns the wrong given label of a flipped row, "
    f"its true label, and the label of an unflipped row. {OWN_LINE}",
    "flipped_rows",
    layout=THREE_COLUMNS,
    options={"measured": FLIPPED},
    degrees=EVERY_DEGREE[1:],  # no label is flipped at p = 0
)
def _by_condition(rows: pd.DataFrame, *, measured: Measured) -> Panels:
    """Draw one panel per family and accuracy, MASC with noisy subspaces and the network itself."""
    shown = rows[rows["fitted_on"].isin(["noisy", ""])]
    if shown["degree"].notna().any():  # the degree of labels that are corrupted after training
        shown = shown.assign(corruption=shown["degree"], condition=degree_names(shown["degree"]))
    for title, of in families(shown):
        for name, which in measured.items():
            yield _accuracy_panel(f"{title}: {name}", of, *which)


def _accuracy_panel(title: str, rows: pd.DataFrame, split: str = "test", labels: str = "true") -> Panel:
    """Return a panel with one line per condition: solid over the layers, dashed for the network itself."""
    axis, here = Axis.of_layers(rows), accuracies(rows, split, labels)
    layers, styles = axis.options["names"], condition_styles(here)
    lines = axis.by_condition(here[here["probe"] == "masc"], styles=styles)
    network = here[here["probe"] == "network"]
    if network.empty:
        return axis.panel(title, lines, "accuracy")
    for condition, style in styles.items():
        own = network.loc[network["condition"] == condition, "value"]
        if len(own):
            lines.append(Line.across(style, own, len(layers)))
    return axis.panel(title, lines, "accuracy", names=[*layers, "network"], apart=True)


@register_figure(
    "similarity",
    "Similarity of memorised and generalised networks",
    "Over the layers, by corruption degree: linear CKA of the layer outputs on the test data, and mean "
    "cosine of the principal angles between class subspaces. Dashed, hollow: by chance.",
    "similarity",
    layout=partial(THREE_COLUMNS, spread="range over runs and classes"),
    degrees=DEGREES,
)
def _similarity(rows: pd.DataFrame) -> Panels:
    for title, of in families(rows):
        axis = Axis.of_layers(of)
        for name, (metric, fitted_on) in SIMILARITIES.items():
            here = of[of["fitted_on"].isin([fitted_on, ""])]
            measured, chance = (here[here["metric"] == which] for which in (metric, f"{metric}_chance"))
            lines = axis.by_condition(measured, chance, "by chance")
            yield axis.panel(f"{title}: {name}", lines, "similarity", yscale="share")


@register_figure(
    "natural",
    "Human labels: test accuracy of MASC",
    "Test accuracy over the layers, by annotation, and of the same network on clean labels (p = 0) where it "
    f"is among the runs. {OWN_LINE}",
    "noisy_subspaces",
    "true_subspaces",
    layout=partial(draw_panels, columns=2),
)
def _human(rows: pd.DataFrame) -> Panels:
    titles = rows[rows["corruption"].isna()]["family"].unique()
    if not len(titles):
        raise MissingRowsError(
            "there are no rows of runs on human labels; train some, for example with noise 'cifar-10n:worst'"
        )
    for title, fitted_on in product(titles, LABELS):
        family, measured = title.removesuffix(HUMAN), subspace_rows(rows, fitted_on)
        clean = measured[(measured["family"] == family) & (measured["corruption"] == 0)]
        of = pd.concat([clean, measured[measured["family"] == title]])
        yield _accuracy_panel(f"{family}: {fitted_on} subspaces", of)


def _components(rows: pd.DataFrame) -> Panels:
    counted = rows[(rows["metric"] == "components") & (rows["setting"] == PAPER["setting"])]
    by = ["condition", "corruption", "layer", "class"]
    for title, of in families(counted):
        axis = Axis.of_layers(of)
        per_class = of.groupby(by, sort=False, dropna=False)["value"].mean().reset_index()
        lines = axis.by_condition(per_class)
        yield axis.panel(title, lines, "components per class", yscale="linear")


for _number, _fitted_on, _labels, _degrees in (
    (15, "noisy", "corrupted", EVERY_DEGREE),
    (17, "true", "true", EVERY_DEGREE[1:]),  # at p = 0 they are those of Figure 15
):
    register_figure(
        f"figure{_number}",
        f"components per class, {_fitted_on} subspaces",
        f"Components per class at 99 % of the variance, subspaces of the {_labels} training labels: the mean "
        "over classes, and their range.",
        f"{_fitted_on}_subspaces",
        layout=partial(draw_panels, spread="range over classes"),
        degrees=_degrees,
    )(_components)
