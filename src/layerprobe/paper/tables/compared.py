"""Tables of accuracies that the paper published too: Tables 1, 2, 3 and 5, layers, thresholds, probes."""

from functools import partial

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.rows import independent
from layerprobe.paper.selection import GROUP, PAPER, TEST, at_best_layer, hidden_layers, means, select
from layerprobe.paper.tables.comparing import beside_published, published_quantities
from layerprobe.paper.tables.joining import quantities
from layerprobe.paper.tables.spec import Table

Frame = pd.DataFrame
SUBSPACES = ("noisy_subspaces", "true_subspaces")
QUANTITY = ["pair", "corruption", "quantity"]
MEMORISED = 0.99  # training accuracy of a network that memorised its labels
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
    """Return the quantities network, masc (at its best layer), gain and masc_hidden (without the input).

    The gain is the relative gain of MASC over the network, a ratio of means as in the paper; its spread is
    that of the gains of single runs. memorised says whether every run reached 99 % on the labels trained on.
    """
    experiment = f"{fitted_on}_subspaces"
    network, masc = network_accuracy(rows, experiment), masc_at_best_layer(rows, fitted_on)
    both = masc.merge(network[["key", "value"]], on="key", suffixes=("", "_of_network"))
    parts = {
        "network": network,
        "masc": masc,
        "gain": both.assign(value=both["value"] / both["value_of_network"] - 1),
        "masc_hidden": masc_at_best_layer(rows, fitted_on, hidden=True),
    }
    ours = quantities(parts, [*GROUP, "layer"])
    # the ratio of the means of the runs that have both numbers
    ratio = means(both, GROUP)["ours"] / means(both, GROUP, column="value_of_network")["ours"]
    ours.loc[ours["quantity"] == "gain", "ours"] = ratio.to_numpy() - 1
    trained = network_accuracy(rows, experiment, "train", "noisy")
    least = trained.groupby(GROUP, sort=False, dropna=False)["value"].min().reset_index()
    memorised = least["value"].ge(MEMORISED).map({True: "yes", False: "no"}).astype(object)
    ours = ours.merge(least.assign(memorised=memorised)[[*GROUP, "memorised"]], on=GROUP, how="left")
    theirs = published.table1()
    columns = {
        "network": theirs["model_test"],
        "masc": theirs[f"masc_{fitted_on}_best_layer"],
        "gain": theirs[f"gain_{fitted_on}_percent"] / 100,
    }
    return beside_published(ours, published_quantities(columns, theirs), QUANTITY)


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

    Runs without corruption are fitted once; their rows stand for noisy and for true labels.
    """
    tests = hidden_layers(select(rows, "probes", **TEST))
    tests = tests[tests["probe"] != "network"]
    clean = tests[tests["corruption"] == 0]
    once = clean[~clean["key"].isin(clean.loc[clean["fitted_on"] == "true", "key"])]
    keys = [*GROUP, "fitted_on", "probe"]
    best = at_best_layer(pd.concat([tests, once.assign(fitted_on="true")], ignore_index=True), keys)
    theirs = _renamed(published.probes_best_layer())
    return beside_published(
        means(best, [*keys, "layer"]), theirs, ["pair", "corruption", "fitted_on", "probe"]
    )


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
    optimizers = [_optimizer(*which) for which in zip(ours["pair"], ours["variant"], strict=True)]
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


def _optimizer(pair: str, variant: str) -> str:
    """Return the optimiser of a variant, which names it only where it is not the pair's own."""
    named = [part.split(" ")[1] for part in variant.split(", ") if part.startswith("optimizer ")]
    own = PAIRS[pair].recipe.optimizer if pair in PAIRS else ""
    return named[0] if named else own


_BEST = "test accuracy of the network and of MASC at its best layer"
_TRAINING = {"train_noisy": "train_accuracy", "train_true": "true_accuracy"}
COMPARED_TABLES = {
    "table1": Table(
        f"Table 1: {_BEST}, noisy subspaces", ("noisy_subspaces",), partial(_best_layers, fitted_on="noisy")
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
        f"Table 5: {_BEST}, true subspaces", ("true_subspaces",), partial(_best_layers, fitted_on="true")
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
