"""Tables of accuracies that the paper published too: Tables 1, 2, 3 and 5, layers, thresholds, probes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.experiments.probe_comparison import SEEDED
from layerprobe.paper.rows import independent
from layerprobe.paper.selection import (
    GROUP,
    PAPER,
    TEST,
    at_best_layer,
    hidden_layers,
    means,
    optimizer,
    select,
)
from layerprobe.paper.tables.comparing import (
    ONE_FIT,
    beside_published,
    cells_beside_published,
    published_quantities,
)
from layerprobe.paper.tables.joining import quantities, side_by_side
from layerprobe.paper.tables.spec import Table

Frame = pd.DataFrame
SUBSPACES = ("noisy_subspaces", "true_subspaces")
QUANTITY = ["pair", "corruption", "quantity"]
MEMORISED = 0.99  # training accuracy of a network that memorised its labels
# Columns of Tables 1 and 5, the cell's own ones.
CELL = ["seeds", "memorised", "layer", "network", "network_spread", "published_network", "network_difference"]
CELL += ["masc", "masc_spread", "published_masc", "masc_difference", "hidden_layer", "masc_hidden"]
CELL += ["masc_hidden_spread", "gain", "gain_spread", "published_gain", "gain_difference", "verdict"]
PUBLISHED_ORDER = {"input": 0, "flatten": 1}  # layers of the published file, which has them by alphabet


def network_accuracy(
    rows: Frame, experiment: str = "noisy_subspaces", split: str = "test", labels: str = "true"
) -> Frame:
    """Return the rows of the network's own accuracy.

    Parameters
    ----------
    rows : DataFrame
    experiment : str
        The experiment that measured it.
    split : {"train", "test"}
    labels : {"noisy", "true"}
    """
    return select(rows, experiment, probe="network", split=split, labels=labels, metric="accuracy")


def masc_at_best_layer(rows: Frame, fitted_on: str, *, hidden: bool = False) -> Frame:
    """Return the test rows of MASC at 99 % variance at its best layer.

    Parameters
    ----------
    rows : DataFrame
    fitted_on : {"noisy", "true"}
        Labels of the subspaces.
    hidden : bool
        Whether to leave out the input.
    """
    tests = select(rows, f"{fitted_on}_subspaces", fitted_on=fitted_on, **PAPER, **TEST)
    return at_best_layer(hidden_layers(tests) if hidden else tests)


def _best_layers(rows: Frame, history: Frame, *, fitted_on: str) -> Frame:
    """Return one line per cell: network, masc (at its best layer), gain, and masc_hidden (without the input).

    The gain is the relative gain of MASC over the network, a ratio of means as in the paper; its spread is
    that of the gains of single runs. memorised says whether every run reached 99 % on the labels trained on.
    """
    experiment = f"{fitted_on}_subspaces"
    network, masc = network_accuracy(rows, experiment), masc_at_best_layer(rows, fitted_on)
    hidden = masc_at_best_layer(rows, fitted_on, hidden=True)
    both = masc.merge(network[["key", "value"]], on="key", suffixes=("", "_of_network"))
    parts = {
        "network": network,
        "masc": masc,
        "masc_hidden": hidden,
        "gain": both.assign(value=both["value"] / both["value_of_network"] - 1),
    }
    ours = side_by_side(parts, GROUP)
    # the ratio of the means of the runs that have both numbers
    ratio = means(both, GROUP)["ours"] / means(both, GROUP, column="value_of_network")["ours"] - 1
    ratios = means(both, GROUP)[GROUP].assign(gain=ratio)
    ours = ours.drop(columns="gain").merge(ratios, on=GROUP, how="left")
    for name, part in {"layer": masc, "hidden_layer": hidden}.items():
        layers = part[[*GROUP, "layer"]].drop_duplicates().rename(columns={"layer": name})
        ours = ours.merge(layers, on=GROUP, how="left")
    trained = network_accuracy(rows, experiment, "train", "noisy")
    least = trained.groupby(GROUP, sort=False, dropna=False)["value"].min().reset_index()
    memorised = least["value"].ge(MEMORISED).map({True: "yes", False: "no"}).astype(object)
    ours = ours.merge(least.assign(memorised=memorised)[[*GROUP, "memorised"]], on=GROUP, how="left")
    theirs = published.table1()
    known = theirs[["pair", "corruption"]].assign(
        published_network=theirs["model_test"],
        published_masc=theirs[f"masc_{fitted_on}_best_layer"],
        published_gain=theirs[f"gain_{fitted_on}_percent"] / 100,
    )
    return cells_beside_published(ours, known)[[*GROUP, "scale", *CELL]]


def _pairs_by_corruption(table: Frame) -> Frame:
    """Return Table 1 or 5 for reading: lines of a pair below each other, a column per corruption degree."""
    keys = ["pair", "variant", "scale"]
    run = table.loc[table["verdict"] != "not run", keys].drop_duplicates()
    alone = table.loc[~table["pair"].isin(run["pair"]), keys].drop_duplicates()
    records = []
    for key in pd.concat([run, alone]).itertuples(index=False, name=None):
        chosen = table["pair"].eq(key[0]) & table["verdict"].eq("not run")
        own = [line == key for line in table[keys].itertuples(index=False, name=None)]
        cells = (
            table[chosen | pd.Series(own, table.index)].drop_duplicates("corruption").set_index("corruption")
        )
        for line, write in CELL_LINES.items():
            texts = {f"p = {p:g}": write(cell) for p, cell in cells.sort_index().iterrows()}
            records.append({**dict(zip(keys, key, strict=True)), "": line, **texts})
    columns = sorted({name for record in records for name in record if name.startswith("p = ")})
    return pd.DataFrame(records, columns=[*keys, "", *columns]).fillna("")


def _signed(share: float) -> str:
    return "" if pd.isna(share) else f"{100 * share:+.1f}"


def _percent(share: float, layer: str = "") -> str:
    return "" if pd.isna(share) else f"{100 * share:.1f}" + (f" ({layer})" if layer else "")


# The lines of a pair in Tables 1 and 5, from a line of the table to a text.
CELL_LINES: dict[str, Callable[[Any], str]] = {
    "gain in %, ours": lambda cell: _signed(cell["gain"]),
    "gain in %, published": lambda cell: _signed(cell["published_gain"]),
    "difference in points": lambda cell: _signed(cell["gain_difference"] / 100),
    "MASC (layer), ours": lambda cell: _percent(cell["masc"], cell["layer"]),
    "network, ours": lambda cell: _percent(cell["network"]),
    "verdict": lambda cell: cell["verdict"],
}


def _last_epoch(rows: Frame, history: Frame, *, columns: dict[str, str]) -> Frame:
    """Return accuracies at the last epoch of training, named columns of the histories."""
    last = independent(history).sort_values("epoch", kind="stable").drop_duplicates("key", keep="last")
    last = last.sort_index()
    ours = quantities({name: last.assign(value=last[column]) for name, column in columns.items()}, GROUP)
    epochs = means(last, GROUP, "epochs", "epoch")[[*GROUP, "epochs"]]
    theirs = published.training()
    known = published_quantities({name: theirs[name] for name in columns if name in theirs}, theirs)
    known = known.assign(published_epochs=theirs["last_epoch"])
    return beside_published(ours.merge(epochs, on=GROUP, how="left"), known, QUANTITY)


def _layers(rows: Frame, history: Frame) -> Frame:
    masc = select(rows, "noisy_subspaces", fitted_on="noisy", **PAPER, **TEST)
    theirs = published.masc_by_layer()[["pair", "corruption", "layer", "test"]]
    place = theirs["layer"].map(PUBLISHED_ORDER).fillna(len(PUBLISHED_ORDER))
    theirs = theirs.loc[place.sort_values(kind="stable").index].rename(columns={"test": "published"})
    return beside_published(means(masc, [*GROUP, "layer"]), theirs, ["pair", "corruption", "layer"])


def _thresholds(rows: Frame, history: Frame) -> Frame:
    keys = [*GROUP, "setting"]
    best = at_best_layer(select(rows, "noisy_subspaces", probe="masc", fitted_on="noisy", **TEST), keys)
    theirs = published.thresholds_best_layer().rename(columns={"threshold": "setting"})
    return beside_published(
        means(best, [*keys, "layer"]), _renamed(theirs), ["pair", "corruption", "setting"]
    )


def _probes(rows: Frame, history: Frame) -> Frame:
    """Return every probe at its best hidden layer, as in the paper.

    Runs without corruption are fitted once; their rows stand for noisy and for true labels. Logistic
    regression depends on its own seed: each fit counts like a run in the mean and spread, and there is no
    verdict on one fit.
    """
    tests = hidden_layers(select(rows, "probes", **TEST))
    tests = tests[tests["probe"] != "network"]
    # Each seed of a probe counts like a run of its own.
    tests = tests.assign(key=tests["key"].where(tests["setting"].eq(""), tests["key"] + tests["setting"]))
    clean = tests[tests["corruption"] == 0]
    once = clean[~clean["key"].isin(clean.loc[clean["fitted_on"] == "true", "key"])]
    keys = [*GROUP, "fitted_on", "probe"]
    tests = pd.concat([tests, once.assign(fitted_on="true")], ignore_index=True)
    best = at_best_layer(tests, keys)
    theirs = _renamed(published.probes_best_layer())
    ours = means(best, [*keys, "layer"])
    fits = tests[tests["setting"] != ""].groupby(keys, sort=False, dropna=False)["setting"].nunique()
    ours = ours.merge(fits.rename("probe_seeds").reset_index(), on=keys, how="left")
    ours["probe_seeds"] = ours["probe_seeds"].mask(ours["probe"].isin(SEEDED), ours["probe_seeds"].fillna(1))
    table = beside_published(ours, theirs, ["pair", "corruption", "fitted_on", "probe"])
    judged = ~table["verdict"].isin(["not run", "not published"])
    table.loc[judged & (table["probe_seeds"] == 1), "verdict"] = ONE_FIT
    return table


def _controls(rows: Frame, history: Frame) -> Frame:
    """Return test accuracies of MASC and its baselines, each a quantity, by optimiser.

    best_epoch is the network at its highest test accuracy, last_epoch at the end of training. masc_noisy and
    masc_true are MASC at its best layer, the input included. Quantities with hidden leave the input out, and
    so do those of the untrained network, whose input is the same. epoch is the mean over runs.
    """
    tests = select(rows, "controls", **TEST)
    untrained = hidden_layers(tests[tests["setting"] == "untrained"])
    parts = {
        f"untrained_{name}": at_best_layer(untrained[untrained["fitted_on"] == name])
        for name in ("noisy", "true")
    }
    parts |= {name: tests[tests["setting"] == name] for name in ("best_epoch", "last_epoch")}
    for name in ("noisy", "true"):
        parts[f"masc_{name}"] = masc_at_best_layer(rows, name)
        parts[f"masc_{name}_hidden"] = masc_at_best_layer(rows, name, hidden=True)
    keys = [*GROUP, "layer"]
    epochs = {name: means(part, keys, "epoch", "epoch").assign(quantity=name) for name, part in parts.items()}
    ours = quantities(parts, keys)
    ours = ours.merge(pd.concat(epochs.values())[[*keys, "quantity", "epoch"]], on=[*keys, "quantity"])
    optimizers = [optimizer(*which) for which in zip(ours["pair"], ours["variant"], strict=True)]
    ours = ours.assign(optimizer=pd.Series(optimizers, index=ours.index, dtype=object))
    best, last = published.table1(), published.training()
    masc = {f"masc_{name}": best[f"masc_{name}_best_layer"] for name in ("noisy", "true")}
    theirs = [
        published_quantities({"best_epoch": best["model_peak_epoch_test"]}, best),
        published_quantities({"last_epoch": last["test"]}, last),
        published_quantities(masc, best),
    ]
    return beside_published(ours, pd.concat(theirs), QUANTITY)


def _renamed(theirs: Frame) -> Frame:
    return theirs.rename(columns={"best_layer": "published_layer", "test": "published"})


_GAIN = "relative gain in test accuracy of MASC at its best layer over the network"
_TRAINING = {"train_noisy": "train_accuracy", "train_true": "true_accuracy"}
COMPARED_TABLES = {
    "table1": Table(
        f"Table 1: {_GAIN}, noisy subspaces",
        ("noisy_subspaces",),
        partial(_best_layers, fitted_on="noisy"),
        layout=_pairs_by_corruption,
    ),
    "table2": Table(
        "Table 2: training accuracy at the last epoch, on the labels trained on and on the true ones",
        (),
        partial(_last_epoch, columns=_TRAINING),
        needs_history=True,
    ),
    "table3": Table(
        "Table 3: test accuracy after the last epoch",
        (),
        partial(_last_epoch, columns={"test": "test_accuracy"}),
        needs_history=True,
    ),
    "table5": Table(
        f"Table 5: {_GAIN}, true subspaces",
        ("true_subspaces",),
        partial(_best_layers, fitted_on="true"),
        layout=_pairs_by_corruption,
    ),
    "layers": Table("MASC with noisy subspaces on every layer, test accuracy", ("noisy_subspaces",), _layers),
    "thresholds": Table(
        "MASC with noisy subspaces at its best layer for each variance threshold; published numbers are of "
        "one run",
        ("noisy_subspaces",),
        _thresholds,
    ),
    "probes": Table("Every probe at its best layer, the input left out, test accuracy", ("probes",), _probes),
    "controls": Table(
        "Test accuracy of the baselines: MASC on the untrained network, the best epoch, the last epoch, and "
        "MASC at its best layer",
        ("controls", *SUBSPACES),
        _controls,
    ),
}
