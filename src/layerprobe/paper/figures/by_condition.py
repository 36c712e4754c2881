"""Figures of best layers: thresholds, probes, gains over the network, optimisers, training images, cost."""

from typing import TYPE_CHECKING

import pandas as pd

from layerprobe.errors import MissingRowsError
from layerprobe.figures import PROBE_TITLES, RANGE, STYLES, Line, Panel, Style, draw_panels
from layerprobe.paper.experiments.subspaces import SETTINGS
from layerprobe.paper.figures.lines import (
    NETWORK_STYLES,
    PROBE_STYLES,
    condition_axis,
    condition_styles,
    degree_names,
    families,
    lines_by,
    network_lines,
    probe_lines,
    subspace_rows,
)
from layerprobe.paper.figures.spec import FigureSpec
from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.selection import (
    OPTIMIZER_WORDS,
    PAPER,
    accuracies,
    at_best_layer,
    hidden_layers,
    optimizers,
    other_words,
    words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FITTED_ON = ("noisy", "true")
UNTRAINED = "MASC, untrained network"
COSTS = {
    "fit_seconds": "seconds to fit",
    "predict_seconds": "seconds to predict",
    "fit_flops": "FLOPs to fit",
    "predict_flops": "FLOPs to predict",
}
# Columns of the published Table 1 by their lines in the figure of gains: label and style.
GAINS: dict[str, tuple[str, Style]] = {
    "masc_noisy_best_layer": ("MASC, noisy subspaces", STYLES[0]),
    "masc_true_best_layer": ("MASC, true subspaces", STYLES[2]),
    "model_test": ("network, last epoch", NETWORK_STYLES["last_epoch"]),
    "model_peak_epoch_test": ("network, best epoch", NETWORK_STYLES["best_epoch"]),
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
        x, order, options = condition_axis(of)
        for fitted_on in FITTED_ON:
            best = at_best_layer(of[of["fitted_on"] == fitted_on], ["probe", "condition"])
            lines = probe_lines(best, x, order) + network_lines(rows, title, x, order)
            panels.append(Panel(f"{title}: fitted on {fitted_on} labels", lines, "test accuracy", **options))
    return draw_panels(panels, _even_columns(panels))


def _gains(rows: pd.DataFrame, published: pd.DataFrame | None = None) -> "Figure":
    """Draw Table 1: MASC at its best layer against the network; hollow grey markers are published numbers."""
    panels = []
    for title, of in families(rows[rows["experiment"] == "noisy_subspaces"]):
        x, order, options = condition_axis(of)
        parts = [_masc(rows, title, name).assign(line=f"MASC, {name} subspaces") for name in FITTED_ON]
        parts.append(_untrained(rows, title).assign(line=UNTRAINED))
        best = at_best_layer(pd.concat(parts), ["line", "condition"])
        lines = lines_by(best, "line", {**dict(GAINS.values()), UNTRAINED: STYLES[4]}, x, order)
        lines += network_lines(rows, title, x, order)
        if published is not None:
            shown = {line.label: line.style for line in lines}
            theirs = published[published["pair"] == of["pair"].iloc[0]]
            theirs = theirs.assign(condition=degree_names(theirs["corruption"]))
            known = [
                theirs.assign(line=label, value=theirs[column])
                for column, (label, _) in GAINS.items()
                if column in theirs and label in shown
            ]
            titles = {label: f"published: {label}" for label in shown}
            if known and x == "corruption":
                drawn = pd.concat(known)
                styles = {label: shown[label] for label in drawn["line"].unique()}
                lines += lines_by(drawn, "line", styles, x, order, titles, "published")
        panels.append(Panel(title, lines, "test accuracy", **options))
    return draw_panels(panels)


def _optimizers(rows: pd.DataFrame) -> "Figure":
    """Draw the network, and MASC at its best hidden layer, for runs that differ in the optimiser only."""
    kinds = [other_words(variant, OPTIMIZER_WORDS) for variant in rows["variant"]]
    rows = rows.assign(kind=kinds, optimizer=optimizers(rows))
    styles = {"sgd": STYLES[0], "adam": STYLES[1]}
    titles = {name: name.upper() if name == "sgd" else "Adam" for name in styles}
    panels = []
    for pair, of in rows[rows["corruption"].notna()].groupby("pair", sort=False):
        both = [one for _, one in of.groupby("kind", sort=False) if len(set(one["optimizer"])) > 1]
        for one in both:
            tests = accuracies(subspace_rows(one, "noisy"))
            masc = hidden_layers(tests[tests["probe"] == "masc"])
            best = at_best_layer(masc, ["optimizer", "condition"])
            network = tests[tests["probe"] == "network"]
            x, order, options = condition_axis(one)
            lines = lines_by(
                best, "optimizer", styles, x, order, {k: f"MASC, {v}" for k, v in titles.items()}
            )
            own = {name: f"network, {title}" for name, title in titles.items()}
            lines += lines_by(network, "optimizer", styles, x, order, own, "network")
            panels.append(Panel(str(pair), lines, "test accuracy", **options))
    return draw_panels(panels)


def _training_images(rows: pd.DataFrame) -> "Figure":
    """Draw the network, MASC and its baselines over the number of training images."""
    changed = rows["variant"].map(lambda variant: bool({"optimizer", "edit"} & set(words(variant))))
    rows = rows[~changed & rows["corruption"].notna()]
    sizes = rows["subset"].astype(float).fillna(rows["pair"].map({n: p.train_size for n, p in PAIRS.items()}))
    rows = rows.assign(images=sizes)
    panels = []
    for (pair, condition), of in rows.groupby(["pair", "condition"], sort=False):
        if of["images"].nunique() < 2:
            continue
        tests = accuracies(of)
        masc = tests[(tests["probe"] == "masc") & (tests["fitted_on"] == "noisy")]
        trained = masc[(masc["experiment"] == "noisy_subspaces") & (masc["setting"] == PAPER["setting"])]
        network = tests[(tests["experiment"] == "controls") & (tests["probe"] == "network")]
        parts = {
            "MASC, best layer": at_best_layer(trained, ["images"]),
            "MASC, raw input": trained[trained["layer"] == "input"],
            UNTRAINED: at_best_layer(hidden_layers(masc[masc["setting"] == "untrained"]), ["images"]),
            "network, last epoch": network[network["setting"] == "last_epoch"],
            "network, best epoch": network[network["setting"] == "best_epoch"],
        }
        every = pd.concat(part.assign(line=name) for name, part in parts.items())
        styles = dict(zip(list(parts)[:3], (STYLES[0], STYLES[2], STYLES[4]), strict=True))
        lines = lines_by(every, "line", styles, "images")
        own = {f"network, {name.replace('_', ' ')}": style for name, style in NETWORK_STYLES.items()}
        lines += lines_by(every, "line", own, "images", kind="network")
        title = f"{pair}, {condition}"
        panels.append(Panel(title, lines, "test accuracy", xlabel="training images", xscale="log"))
    if not panels:
        raise MissingRowsError("training_images needs runs of a pair and degree at two numbers of images")
    return draw_panels(panels, spread="range over runs")


def _cost(rows: pd.DataFrame) -> "Figure":
    """Draw the costs of a probe on all layers of a pair, without probes that were left out on a layer."""
    rows = rows[rows["layer"] != ""]
    titles = list(dict.fromkeys(rows["family"]))
    every = rows.groupby("family")["layer"].nunique()
    panels = []
    for metric, title in COSTS.items():
        of = rows[rows["metric"] == metric]
        layers = of.groupby(["family", "probe", "layer"], sort=False)["value"].agg(RANGE)
        total = layers.groupby(["family", "probe"], sort=False).agg(["sum", "size"])
        complete = total[("mean", "size")] == every.reindex(total.index.get_level_values("family")).to_numpy()
        lines = []
        for probe, style in PROBE_STYLES.items():
            chosen = total[complete & (total.index.get_level_values("probe") == probe)]
            spans = pd.DataFrame({name: chosen[name, "sum"] for name in RANGE}).droplevel("probe")
            spans = spans[spans["mean"] > 0]  # a logarithmic axis cannot show a cost of zero
            spans.index = pd.Index([float(titles.index(family)) for family in spans.index])
            if len(spans):
                lines.append(Line(PROBE_TITLES[probe], style, spans, "marker"))
        panels.append(Panel(title, lines, title, titles, yscale="log"))
    return draw_panels(panels, 2)


def _masc(rows: pd.DataFrame, family: str, fitted_on: str) -> pd.DataFrame:
    """Return the test accuracies of MASC at the paper's threshold."""
    of_family = rows[(rows["family"] == family) & (rows["probe"] == "masc")]
    return accuracies(subspace_rows(of_family, fitted_on))


def _untrained(rows: pd.DataFrame, family: str) -> pd.DataFrame:
    """Return the test accuracies of MASC with noisy subspaces on the hidden layers of untrained networks."""
    of = rows[(rows["family"] == family) & (rows["setting"] == "untrained") & (rows["fitted_on"] == "noisy")]
    return hidden_layers(accuracies(of))


def _even_columns(panels: list[Panel]) -> int:
    """Return a number of columns that keeps the two panels of a family side by side."""
    return 2 if len(panels) <= 6 else 4


_EPOCHS = "Dashed, hollow: the network at its last epoch, and at the epoch of its highest test accuracy."
_BEST = "The best layer has the highest mean test accuracy: an upper bound where there are no test labels."
_DEGREES = (0.2, 0.4, 0.6, 0.8)
CONDITION_FIGURES = [
    FigureSpec(
        "gains",
        "MASC at its best layer against the network itself",
        f"The accuracies behind Tables 1 and 5, the input among the layers of MASC; the untrained network "
        f"without it. {_BEST} {_EPOCHS} Grey, hollow, where given: published numbers.",
        ("noisy_subspaces", "true_subspaces", "controls"),
        _gains,
        published=True,
        degrees=_DEGREES,
    ),
    FigureSpec(
        "training_images",
        "MASC and the network over the number of training images",
        f"Fitted on noisy labels. {_BEST} {_EPOCHS} The untrained network is without its input.",
        ("noisy_subspaces", "controls"),
        _training_images,
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
        "optimizers",
        "SGD against Adam",
        "Test accuracy of the network (dashed, hollow) and of MASC with noisy subspaces at its best hidden "
        "layer, by optimiser.",
        ("noisy_subspaces",),
        _optimizers,
    ),
    FigureSpec(
        "cost",
        "Cost of fitting and predicting, all layers of a network together",
        "Measured seconds, and FLOPs by formula, for all training and all test rows, summed over the layers; "
        "means over runs. A probe that was left out on a layer has no point: see the table `cost`.",
        ("cost",),
        _cost,
    ),
]
