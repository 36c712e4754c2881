"""Figures of best layers: thresholds, probes, gains over the network, optimisers, training images, cost."""

from functools import partial
from itertools import cycle

import pandas as pd

from layerprobe.errors import MissingRowsError
from layerprobe.figures import PROBE_TITLES, RANGE, STYLES, Kind, Line, Panel, Style, draw_panels
from layerprobe.paper.experiments.subspaces import SETTINGS
from layerprobe.paper.figures.lines import (
    NETWORK_STYLES,
    NETWORK_TITLES,
    PROBE_STYLES,
    Axis,
    conditions,
    draw_pairs,
    families,
    subspace_rows,
)
from layerprobe.paper.figures.spec import Panels, register_figure
from layerprobe.paper.selection import (
    DEGREES,
    EVERY_DEGREE,
    LABELS,
    PAPER,
    accuracies,
    at_best_layer,
    both_labels,
    hidden_layers,
    optimizers,
    training_images,
    trains_as_published,
    words,
)

OPTIMIZER_WORDS = {"optimizer", "learning_rate", "momentum"}  # in which SGD and Adam differ
UNTRAINED = "MASC, untrained network, hidden layers"
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
EPOCHS = "Dashed, hollow: the network at its last epoch, and at the epoch of its highest test accuracy."
BEST = "The best layer has the highest mean test accuracy: an upper bound where there are no test labels."


def _network(rows: pd.DataFrame, axis: Axis, kind: Kind = "network") -> list[Line]:
    """Return the network's test accuracy at its last and best epoch.

    Runs without rows of controls have the last one in those of noisy subspaces.
    """
    network = rows[rows["probe"] == "network"]
    own = network[network["experiment"] == "controls"]
    others = network[(network["experiment"] == "noisy_subspaces") & ~network["key"].isin(own["key"])]
    both = pd.concat([own, accuracies(others).assign(setting="last_epoch")])
    return axis.lines(both, "setting", NETWORK_STYLES, NETWORK_TITLES, kind)


def _ticks(rows: pd.DataFrame) -> tuple[float, ...]:
    """Return the degrees along the axis: without 0 and 1 if all runs are between those of Table 1."""
    within = rows["corruption"].dropna().between(DEGREES[0], DEGREES[-1]).all()
    return DEGREES if within else EVERY_DEGREE


@register_figure(
    "gains",
    "MASC at its best layer against the network itself",
    f"The accuracies behind Tables 1 and 5, the input among the layers of MASC; the untrained network "
    f"without it. {BEST} {EPOCHS} Grey, hollow, where given: published numbers.",
    "noisy_subspaces",
    "true_subspaces",
    "controls",
    published=True,
    degrees=DEGREES,
)
def _gains(rows: pd.DataFrame, published: pd.DataFrame | None = None) -> Panels:
    noisy = rows[rows["experiment"] == "noisy_subspaces"]
    for title, of in families(noisy):
        axis, masc = Axis.of_conditions(of), rows[(rows["family"] == title) & (rows["probe"] == "masc")]
        parts = [
            accuracies(subspace_rows(masc, name)).assign(line=f"MASC, {name} subspaces") for name in LABELS
        ]
        untrained = masc[(masc["setting"] == "untrained") & (masc["fitted_on"] == "noisy")]
        parts.append(hidden_layers(accuracies(untrained)).assign(line=UNTRAINED))
        best = at_best_layer(pd.concat(parts), ["line", "condition"])
        lines = axis.lines(best, "line", {**dict(GAINS.values()), UNTRAINED: STYLES[4]})
        lines += _network(rows[rows["family"] == title], axis)
        comparable = axis.column == "corruption" and trains_as_published(of["variant"].iloc[0])
        if published is not None and comparable:
            theirs = published[published["pair"] == of["pair"].iloc[0]]
            shown = {line.label for line in lines}
            known = {
                column: label for column, (label, _) in GAINS.items() if column in theirs and label in shown
            }
            numbers = theirs.rename(columns=known).melt(["corruption"], [*known.values()], "line")
            titles = {label: f"published: {label}" for label in shown}
            lines += axis.lines(numbers, "line", dict(GAINS.values()), titles, "published")
        yield axis.panel(title, lines, ticks=_ticks(noisy))


def _with_both(rows: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return the rows of runs with two experiments."""
    for name in (first, second):
        rows = rows[rows["key"].isin(rows.loc[rows["experiment"] == name, "key"])]
    if rows.empty:
        raise MissingRowsError(f"a run with both {first} and {second} is needed")
    return rows


@register_figure(
    "corrected",
    "MASC with the noise taken out of the moments, at its best layer",
    f"Fitted on noisy labels, the input among the layers. MASC(noise=p) subtracts the noise; p is known "
    f"here. It is not in the paper, and leaves out layers whose decompositions take too long. {BEST} "
    f"{EPOCHS}",
    "corrected_subspaces",
    "noisy_subspaces",
    also=("controls",),
    degrees=DEGREES,
    only=partial(_with_both, first="corrected_subspaces", second="noisy_subspaces"),
)
def _corrected(rows: pd.DataFrame) -> Panels:
    settings = {
        ("noisy_subspaces", PAPER["setting"]): "MASC, 99 % of the variance",
        ("noisy_subspaces", "1pc"): "MASC, one component",
        ("corrected_subspaces", "p"): "MASC, 99 %, noise taken out",
    }
    styles = dict(zip(settings.values(), STYLES, strict=False))
    measured = pd.Series(zip(rows["experiment"], rows["setting"], strict=True), rows.index)
    for title, of in families(rows.assign(line=measured.map(settings))):
        axis, masc = Axis.of_conditions(of), accuracies(of[of["line"].notna()])
        best = at_best_layer(masc, ["line", "condition"])
        yield axis.panel(title, axis.lines(best, "line", styles) + _network(of, axis), ticks=_ticks(rows))


def _at_several_sizes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of pairs and degrees with runs on at least two numbers of images."""
    rows = rows[rows["variant"].map(trains_as_published) & rows["corruption"].notna()]
    rows = rows.assign(images=training_images(rows))
    several = rows.groupby(["pair", "corruption"])["images"].transform("nunique") > 1
    if not several.any():
        raise MissingRowsError("training_images needs runs of a pair and degree at two numbers of images")
    return rows[several]


@register_figure(
    "training_images",
    "MASC and the network over the number of training images",
    f"Fitted on noisy labels. {BEST} {EPOCHS} The untrained network is without its input. At medium scale "
    "all images are trained with the recipe of the paper. A point is the mean over all runs on as many "
    "images.",
    "noisy_subspaces",
    "controls",
    only=_at_several_sizes,
)
def _training_images(rows: pd.DataFrame) -> Panels:
    axis = Axis("images", options={"xlabel": "training images", "xscale": "log"})
    styles = dict(zip(("MASC, best layer", "MASC, raw input", UNTRAINED), STYLES[:5:2], strict=True))
    for (pair, condition), of in rows.groupby(["pair", "condition"], sort=False):
        tests = accuracies(of)
        masc = tests[(tests["probe"] == "masc") & (tests["fitted_on"] == "noisy")]
        trained = masc[(masc["experiment"] == "noisy_subspaces") & (masc["setting"] == PAPER["setting"])]
        untrained = hidden_layers(masc[masc["setting"] == "untrained"])
        parts = [at_best_layer(trained, ["images"]), trained[trained["layer"] == "input"]]
        parts.append(at_best_layer(untrained, ["images"]))
        every = pd.concat(part.assign(line=name) for name, part in zip(styles, parts, strict=True))
        lines = axis.lines(every, "line", styles) + _network(of, axis)
        yield axis.panel(f"{pair}, {condition}", lines)


@register_figure(
    "thresholds",
    "Test accuracy of MASC at its best layer, by variance threshold",
    f"From one component per class to 99.9 % of the variance. {BEST}",
    "noisy_subspaces",
    also=("true_subspaces",),
    layout=draw_pairs,
    degrees=DEGREES,
)
def _thresholds(rows: pd.DataFrame) -> Panels:
    names = sorted(SETTINGS, key=lambda name: SETTINGS[name] or 0)  # one component first
    shown = ["one" if SETTINGS[name] is None else f"{100 * float(name):g} %" for name in names]
    label = "share of variance; one: a single component"
    axis = Axis("setting", names, {"names": shown, "xlabel": label})
    masc = rows[rows["experiment"].isin(["noisy_subspaces", "true_subspaces"]) & rows["probe"].eq("masc")]
    for title, of in families(both_labels(accuracies(masc))):
        for fitted_on in LABELS:
            best = at_best_layer(of[of["fitted_on"] == fitted_on], ["condition", "setting"])
            yield axis.panel(f"{title}: {fitted_on} subspaces", axis.by_condition(best))


@register_figure(
    "probes",
    "Test accuracy of every probe at its best layer",
    f"Fitted on noisy and on true labels, the input left out. {BEST} {EPOCHS}",
    "probes",
    "controls",
    layout=draw_pairs,
    degrees=DEGREES,
    only=partial(_with_both, first="probes", second="controls"),
)
def _probes(rows: pd.DataFrame) -> Panels:
    tests = hidden_layers(accuracies(rows[rows["experiment"] == "probes"]))
    further = [name for name in tests["probe"].unique() if name not in {*PROBE_STYLES, "network"}]
    colors = cycle(color for color, _ in reversed(STYLES))
    styles = {**PROBE_STYLES, **{name: (color, "p") for name, color in zip(further, colors, strict=False)}}
    for title, of in families(both_labels(tests)):
        names = conditions(of)
        # Many probes at one degree would cover each other: markers stand side by side.
        axis = Axis("condition", names, {"names": names}) if len(names) == 1 else Axis.of_conditions(of)
        kinds: tuple[Kind, Kind] = ("marker", "marker") if len(names) == 1 else ("probe", "network")
        for fitted_on in LABELS:
            best = at_best_layer(of[of["fitted_on"] == fitted_on], ["probe", "condition"])
            lines = axis.lines(best, "probe", styles, PROBE_TITLES, kinds[0])
            lines += _network(rows[rows["family"] == title], axis, kinds[1])
            yield axis.panel(f"{title}: fitted on {fitted_on} labels", lines)


@register_figure(
    "optimizers",
    "SGD against Adam",
    "Test accuracy of the network (dashed, hollow) and of MASC with noisy subspaces at its best hidden "
    "layer, by optimiser; a point is the mean over all its learning rates.",
    "noisy_subspaces",
)
def _optimizers(rows: pd.DataFrame) -> Panels:
    rows = rows[rows["corruption"].notna()]
    kinds = [
        str({name: value for name, value in words(variant).items() if name not in OPTIMIZER_WORDS})
        for variant in rows["variant"]
    ]
    styles, titles = {"sgd": STYLES[0], "adam": STYLES[1]}, {"sgd": "SGD", "adam": "Adam"}
    groups = rows.assign(kind=kinds, optimizer=optimizers(rows)).groupby(["pair", "kind"], sort=False)
    both = [(pair, of) for (pair, _), of in groups if len(set(of["optimizer"])) > 1]
    if not both:
        raise MissingRowsError(
            "optimizers needs runs of a pair by SGD and by Adam that are alike in all else"
        )
    for pair, of in both:
        tests = accuracies(subspace_rows(of, "noisy"))
        masc = hidden_layers(tests[tests["probe"] == "masc"])
        best, axis = at_best_layer(masc, ["optimizer", "condition"]), Axis.of_conditions(of)
        lines = axis.lines(best, "optimizer", styles, {k: f"MASC, {v}" for k, v in titles.items()})
        network, own = tests[tests["probe"] == "network"], {k: f"network, {v}" for k, v in titles.items()}
        lines += axis.lines(network, "optimizer", styles, own, "network")
        yield axis.panel(str(pair), lines)


@register_figure(
    "cost",
    "Cost of fitting and predicting, all layers of a network together",
    "Measured seconds, and FLOPs by formula, for all training and all test rows, summed over the layers; "
    "means over the runs of all degrees. A probe that was left out on a layer, and a cost of zero, have no "
    "point: see the table `cost`.",
    "cost",
    layout=partial(draw_panels, columns=2),
    pooled=True,
)
def _cost(rows: pd.DataFrame) -> Panels:
    rows = rows[rows["layer"] != ""]
    titles = list(dict.fromkeys(rows["family"]))
    layers = rows.groupby("family")["layer"].nunique()
    for metric, title in COSTS.items():
        lines = []
        for probe, style in PROBE_STYLES.items():
            of = rows[(rows["metric"] == metric) & (rows["probe"] == probe)]
            runs = of.groupby(["family", "key"], sort=False)["value"].agg(["sum", "size"])
            whole = runs["size"] == layers.reindex(runs.index.get_level_values("family")).to_numpy()
            spans = runs.loc[whole, "sum"].groupby("family", sort=False).agg(RANGE)
            spans = spans[spans["mean"] > 0]  # a logarithmic axis cannot show a cost of zero
            spans.index = pd.Index([float(titles.index(family)) for family in spans.index])
            if len(spans):
                lines.append(Line(PROBE_TITLES[probe], style, spans, "marker"))
        yield Panel(title, lines, title, titles, yscale="log")
