"""Summaries of test accuracies: tables in percent, and one sentence."""

import pandas as pd

from layerprobe.figures import PROBE_TITLES


def accuracies(rows: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies, shares in [0, 1], as mean, min and max over seeds, in the order of the rows.

    Columns layer, probe, fitted_on, mean, min, max. The network itself has "network" as its probe.
    """
    groups = rows[rows["split"] == "test"].groupby(["layer", "probe", "fitted_on"], sort=False)
    return groups["accuracy"].agg(["mean", "min", "max"]).reset_index()


def by_layer(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per layer: test accuracy of the network, of MASC, and of the best other probe.

    The best other probe is the one of the highest mean among those fitted on the noisy labels. Each cell is
    the mean over seeds in percent, and their range if there are several.
    """
    tests = accuracies(rows)
    noisy, true = tests[tests["fitted_on"] == "noisy"], tests[tests["fitted_on"] == "true"]
    lines = []
    for layer in noisy["layer"].unique():
        here = noisy[noisy["layer"] == layer]
        other = _best(here[here["probe"] != "masc"])
        title = PROBE_TITLES.get(other["probe"], other["probe"])
        lines.append(
            {
                "layer": layer,
                "network": _percent(_best(tests[tests["probe"] == "network"])),
                "MASC, noisy labels": _percent(_best(here[here["probe"] == "masc"])),
                "MASC, true labels": _percent(
                    _best(true[(true["layer"] == layer) & (true["probe"] == "masc")])
                ),
                "best other, noisy labels": f"{_percent(other)} {title}",
            }
        )
    return pd.DataFrame(lines)


def by_probe(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row per probe and label set, one column per layer: mean test accuracy in percent."""
    tests = accuracies(rows).replace({"probe": PROBE_TITLES, "fitted_on": {"": "noisy"}})
    is_network = tests["probe"] == "network"
    layers = [*tests[~is_network]["layer"].unique(), *tests[is_network]["layer"].unique()]
    index = ["fitted_on", "probe"]
    wide = (100 * tests.pivot_table("mean", index, "layer", sort=False)[layers]).round(1)
    wide = wide.sort_index(level="fitted_on", sort_remaining=False)
    return wide.reset_index(names=["labels", "probe"]).rename_axis(columns=None)


def finding(rows: pd.DataFrame) -> str:
    """Return one sentence that compares MASC, the network and the best other probe.

    The rows hold one corruption degree, one or more seeds, and probes fitted on "noisy" labels.
    """
    tests = accuracies(rows)
    noisy = tests[tests["fitted_on"] == "noisy"]
    network = _best(tests[tests["probe"] == "network"])
    masc, other = _best(noisy[noisy["probe"] == "masc"]), _best(noisy[noisy["probe"] != "masc"])
    points = 100 * (masc["mean"] - network["mean"])
    difference = (
        "as many" if abs(points) < 0.05 else f"{abs(points):.1f} points {'more' if points > 0 else 'fewer'}"
    )
    degree, seeds = rows["corruption"].iloc[0], len(rows["seed"].unique())
    return (
        f"With {100 * degree:g} % of its training labels redrawn, the network itself is right on "
        f"{100 * network['mean']:.1f} % of the test data; MASC on the same labels is right on "
        f"{100 * masc['mean']:.1f} % at its best layer on the test data, {masc['layer']}, {difference} "
        f"(ahead in {_ahead(rows, masc['layer'])} of {seeds} {'seed' if seeds == 1 else 'seeds'}), "
        f"and the best other probe, {PROBE_TITLES.get(other['probe'], other['probe'])} at {other['layer']}, "
        f"on {100 * other['mean']:.1f} %."
    )


def _ahead(rows: pd.DataFrame, layer: str) -> int:
    """Return the number of seeds with which MASC at a layer is better than the network on the test data."""
    tests = rows[rows["split"] == "test"].set_index("seed")
    masc = tests[(tests["probe"] == "masc") & (tests["fitted_on"] == "noisy") & (tests["layer"] == layer)]
    return int((masc["accuracy"] > tests[tests["probe"] == "network"]["accuracy"]).sum())


def _best(tests: pd.DataFrame) -> pd.Series:
    return tests.iloc[tests["mean"].argmax()]


def _percent(test: pd.Series) -> str:
    mean, low, high = 100 * test["mean"], 100 * test["min"], 100 * test["max"]
    return f"{mean:.1f}" if low == high else f"{mean:.1f} ({low:.0f}\u2013{high:.0f})"
