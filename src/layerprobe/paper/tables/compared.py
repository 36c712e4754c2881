"""Tables beside published numbers: Tables 1, 2, 3 and 5, layers, thresholds, probes, controls.

Only this module joins ours and published numbers, by key, each in columns of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from layerprobe.errors import InputError
from layerprobe.paper import published
from layerprobe.paper.experiments.probe_comparison import SEEDED
from layerprobe.paper.rows import independent
from layerprobe.paper.selection import (
    GROUP,
    LABELS,
    MARGIN,
    PAPER,
    ROUNDING,
    TEST,
    at_best_layer,
    both_labels,
    direction,
    hidden_layers,
    masc_at_best_layer,
    means,
    network_accuracy,
    optimizers,
    select,
    trains_as_published,
)
from layerprobe.paper.tables.joining import (
    first_columns,
    joined,
    layer_names,
    ordered,
    quantities,
    register_table,
    side_by_side,
)

Frame = pd.DataFrame
# Of a difference at small scale, where the effects of the paper do not appear.
TOO_SMALL = "too small to tell"
SAME = "same direction"  # of a gain whose accuracies differ, but that has the sign of the published one
ONE_FIT = "one probe seed"  # of a probe whose accuracy depends on its own seed, and that was fitted once
VERDICTS = ("reproduced", SAME, "differs", TOO_SMALL, ONE_FIT, "not run", "not published")
LAST = ["published", "ours", "ours_spread", "seeds", "difference", "verdict"]
QUANTITY = ["pair", "corruption", "quantity"]
MEMORISED = 0.99  # training accuracy of a network that memorised its labels
# Columns of Tables 1 and 5, the cell's own ones.
CELL = ["seeds", "memorised", "layer", "network", "network_spread", "published_network", "network_difference"]
CELL += ["masc", "masc_spread", "published_masc", "masc_difference", "hidden_layer", "masc_hidden"]
CELL += ["masc_hidden_spread", "gain", "gain_spread", "published_gain", "gain_difference", "verdict"]
GAIN = "relative gain in test accuracy of MASC at its best layer over the network"
PUBLISHED_ORDER = {"input": 0, "flatten": 1}  # layers of the published file, which has them by alphabet


def _published_quantities(columns: Mapping[str, pd.Series], frame: Frame) -> Frame:
    """Return published numbers below each other, by quantity; NaN where nothing was published is left out."""
    which = frame[["pair", "corruption"]]
    parts = [which.assign(quantity=name, published=numbers) for name, numbers in columns.items()]
    return pd.concat(parts).dropna(subset="published")


def beside_published(ours: Frame, published: Frame, keys: Sequence[str]) -> Frame:
    """Join our numbers and the published ones by key, and add difference (in points) and verdict.

    Parameters
    ----------
    ours : DataFrame
        Keys, variant, ours (a share), ours_spread, seeds, and further columns; all its rows appear.
    published : DataFrame
        Unique keys, published (a share), and further columns whose names begin with "published"; all its rows
        appear.
    keys : sequence of str
        "pair" and "corruption" among them.

    Raises
    ------
    InputError
        If a column of one frame could be mistaken for a column of the other.
    """
    table = _side_by_side(ours, published, keys)
    table["difference"] = 100 * (table["ours"] - table["published"])
    numbers = zip(table["published"], table["ours"], table["ours_spread"], strict=True)
    table["verdict"] = [verdict(*three) for three in numbers]
    table = ordered(table)
    few = (table["scale"] == "small") & (table["verdict"] == "differs")
    table.loc[few, "verdict"] = TOO_SMALL
    return first_columns(table, list(dict.fromkeys([*GROUP, "scale", *keys])), LAST)


def cells_beside_published(ours: Frame, published: Frame) -> Frame:
    """Join our cells of Table 1 or 5 and the published ones, and add differences (in points) and verdict.

    A cell is "reproduced" if both accuracies are. It has the "same direction" if MASC is better than the
    network by more than 2 points in both studies, or worse in both, or neither. Else it "differs", or is "too
    small to tell" at small scale.

    Parameters
    ----------
    ours : DataFrame
        pair, corruption, variant, seeds, and the shares network, masc and gain, each with its spread.
    published : DataFrame
        pair, corruption, published_network, published_masc, published_gain.
    """
    table = _side_by_side(ours, published, ["pair", "corruption"])
    for name in ("network", "masc", "gain"):
        table[f"{name}_difference"] = 100 * (table[name] - table[f"published_{name}"])
    table = ordered(table)
    table["verdict"] = [_cell_verdict(row) for row in table.to_dict("records")]
    return table


def _cell_verdict(row: Mapping[Any, Any]) -> str:
    each = {
        verdict(row[f"published_{name}"], row[name], row[f"{name}_spread"]) for name in ("network", "masc")
    }
    for word in ("not run", "not published"):
        if word in each:
            return word
    if each == {"reproduced"}:
        return "reproduced"
    ours, theirs = (row[f"{part}masc"] - row[f"{part}network"] for part in ("", "published_"))
    if direction(ours) == direction(theirs):
        return SAME
    return TOO_SMALL if row["scale"] == "small" else "differs"


def _side_by_side(ours: Frame, published: Frame, keys: Sequence[str]) -> Frame:
    mixed = [name for name in map(str, ours) if name.startswith("published")]
    mixed += [name for name in map(str, published) if not name.startswith("published") and name not in keys]
    if mixed:
        raise InputError(
            f"Expected columns 'published...' in the published frame only, and besides them only the keys "
            f"{list(keys)} there; got {', '.join(mixed)} on the wrong side. Rename them."
        )
    own = ours.assign(comparable=ours["variant"].map(trains_as_published).astype(bool))
    table = joined(own, published.assign(comparable=True), [*keys, "comparable"]).drop(columns="comparable")
    table["seeds"] = table["seeds"].fillna(0)
    texts = ["variant", *ours.drop(columns=[*keys, "variant"]).select_dtypes(exclude="number")]
    table[texts] = table[texts].astype(object).fillna("")
    return table


def verdict(published: float, ours: float, spread: float) -> str:
    """Return one of `VERDICTS`: "reproduced" up to a difference of 2 points or of twice the spread.

    Parameters
    ----------
    published, ours : float
        Shares in [0, 1]; NaN if missing.
    spread : float
        Our standard deviation over seeds; NaN if unknown.
    """
    if math.isnan(ours):
        return "not run"
    if math.isnan(published):
        return "not published"
    bound = MARGIN if math.isnan(spread) else max(MARGIN, 2 * spread)
    return "reproduced" if abs(ours - published) <= bound + ROUNDING else "differs"


def verdict_counts(table: Frame) -> str:
    """Return the number of verdicts of each kind, as "12 reproduced, 9 differ, 7 not run".

    Scales other than full are named. Quantities are counted separately, each with its name in parentheses.
    Empty for a table without comparisons.
    """
    table = table[table["verdict"] != "not published"] if "verdict" in table else table[:0]
    if table.empty:
        return ""
    if "quantity" not in table:
        return _counts(table)
    return "; ".join(
        f"{_counts(rows)} ({quantity})" for quantity, rows in table.groupby("quantity", sort=False)
    )


def _counts(table: Frame) -> str:
    suffixes = {"full": "", "medium": " at medium scale", "small": " at small scale"}
    suffixes["other recipe"] = " with another recipe"
    parts = []
    for name in [name for name in suffixes if name in set(table["scale"])] or ["full"]:
        number = table.loc[table["scale"] == name, "verdict"].value_counts()
        more = [f"{number[word]} {word}" for word in (SAME, ONE_FIT) if word in number]
        word, shown = (TOO_SMALL, TOO_SMALL) if name == "small" else ("differs", "differ")
        words = [f"{number.get('reproduced', 0)} reproduced", *more, f"{number.get(word, 0)} {shown}"]
        parts.append(f"{', '.join(words)}{suffixes[name]}")
    return ", ".join([*parts, f"{(table['verdict'] == 'not run').sum()} not run"])


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


def _degree(corruption: float) -> str:
    return "human labels" if pd.isna(corruption) else f"p = {corruption:g}"


def _pairs_by_corruption(table: Frame) -> Frame:
    """Return Table 1 or 5 for reading: lines of a pair below each other, a column per corruption degree."""
    keys = ["pair", "variant", "scale"]
    missing = table["verdict"].eq("not run")
    run, alone = (table.loc[which, keys].drop_duplicates() for which in (~missing, missing))
    groups = pd.concat([run, alone[~alone["pair"].isin(run["pair"])]])
    records = []
    for key in groups.itertuples(index=False, name=None):
        own = pd.Series([one == key for one in table[keys].itertuples(index=False, name=None)], table.index)
        cells = table[own | (missing & table["pair"].eq(key[0]))].drop_duplicates("corruption")
        for line, write in CELL_LINES.items():
            texts = {_degree(cell["corruption"]): write(cell) for cell in cells.to_dict("records")}
            if any(texts.values()):  # a pair that is not of the paper has no published lines
                records.append({**dict(zip(keys, key, strict=True)), "": line, **texts})
    columns = map(_degree, table["corruption"].drop_duplicates().sort_values())  # human labels are last
    return pd.DataFrame(records, columns=[*keys, "", *columns]).fillna("")


@register_table(
    "table5",
    f"Table 5: {GAIN}, true subspaces",
    "true_subspaces",
    layout=_pairs_by_corruption,
    fitted_on="true",
)
@register_table(
    "table1",
    f"Table 1: {GAIN}, noisy subspaces",
    "noisy_subspaces",
    layout=_pairs_by_corruption,
    fitted_on="noisy",
)
def _best_layers(rows: Frame, *, fitted_on: str) -> Frame:
    """Return one line per cell: network, masc (at its best layer), gain, and masc_hidden (without the input).

    The gain is the relative gain of MASC over the network, a ratio of means as in the paper; its spread is
    that of the gains of single runs. memorised says whether every run reached 99 % on the labels trained on.
    """
    experiment = f"{fitted_on}_subspaces"
    network, masc = network_accuracy(rows, experiment), masc_at_best_layer(rows, fitted_on)
    hidden = masc_at_best_layer(rows, fitted_on, hidden=True)
    both = masc.merge(network[["key", "value"]], on="key", suffixes=("", "_of_network"))
    gain = both.assign(value=both["value"] / both["value_of_network"] - 1)
    parts = {"network": network, "masc": masc, "masc_hidden": hidden, "gain": gain}
    # the ratio of the means of the runs that have both numbers
    ratio = means(both, GROUP)
    ratio["gain"] = ratio["ours"] / means(both, GROUP, column="value_of_network")["ours"] - 1
    trained = network_accuracy(rows, experiment, split="train", labels="noisy")
    least = trained.groupby(GROUP, sort=False, dropna=False)["value"].min().reset_index(name="memorised")
    least["memorised"] = least["memorised"].ge(MEMORISED).map({True: "yes", False: "no"}).astype(object)
    ours = side_by_side(parts, GROUP).drop(columns="gain")
    layers = layer_names(masc, GROUP), layer_names(hidden, GROUP, "hidden_layer")
    for beside in (ratio[[*GROUP, "gain"]], *layers, least):
        ours = ours.merge(beside, on=GROUP, how="left")
    theirs = published.table1()
    known = theirs[["pair", "corruption"]].assign(
        published_network=theirs["model_test"],
        published_masc=theirs[f"masc_{fitted_on}_best_layer"],
        published_gain=theirs[f"gain_{fitted_on}_percent"] / 100,
    )
    return cells_beside_published(ours, known)[[*GROUP, "scale", *CELL]]


@register_table(
    "table3", "Table 3: test accuracy after the last epoch", history=True, columns={"test": "test_accuracy"}
)
@register_table(
    "table2",
    "Table 2: training accuracy at the last epoch, on the labels trained on and on the true ones",
    history=True,
    columns={"train_noisy": "train_accuracy", "train_true": "true_accuracy"},
)
def _last_epoch(history: Frame, *, columns: dict[str, str]) -> Frame:
    """Return accuracies at the last epoch of training, named columns of the histories."""
    last = independent(history).sort_values("epoch", kind="stable").drop_duplicates("key", keep="last")
    last = last.sort_index()
    ours = quantities({name: last.assign(value=last[column]) for name, column in columns.items()}, GROUP)
    epochs = means(last, GROUP, "epochs", "epoch")[[*GROUP, "epochs"]]
    theirs = published.training()
    known = _published_quantities({name: theirs[name] for name in columns if name in theirs}, theirs)
    known = known.assign(published_epochs=theirs["last_epoch"])
    return beside_published(ours.merge(epochs, on=GROUP, how="left"), known, QUANTITY)


@register_table("layers", "MASC with noisy subspaces on every layer, test accuracy", "noisy_subspaces")
def _layers(rows: Frame) -> Frame:
    masc = select(rows, "noisy_subspaces", fitted_on="noisy", **PAPER, **TEST)
    theirs = published.masc_by_layer()[["pair", "corruption", "layer", "test"]]
    place = theirs["layer"].map(PUBLISHED_ORDER).fillna(len(PUBLISHED_ORDER))
    theirs = theirs.loc[place.sort_values(kind="stable").index].rename(columns={"test": "published"})
    return beside_published(means(masc, [*GROUP, "layer"]), theirs, ["pair", "corruption", "layer"])


@register_table(
    "thresholds",
    "MASC with noisy subspaces at its best layer for each variance threshold; published numbers are of one "
    "run",
    "noisy_subspaces",
)
def _thresholds(rows: Frame) -> Frame:
    masc = select(rows, "noisy_subspaces", probe="masc", fitted_on="noisy", **TEST)
    theirs = published.thresholds_best_layer().rename(columns={"threshold": "setting"})
    return _best_beside_published(masc, theirs, ["setting"])


def _best_beside_published(rows: Frame, theirs: Frame, kinds: list[str], *beside: Frame) -> Frame:
    """Return probes at their best layers, a line per group and kind, and further columns of groups."""
    keys = [*GROUP, *kinds]
    ours = means(at_best_layer(rows, keys), [*keys, "layer"])
    for frame in beside:
        ours = ours.merge(frame, on=keys, how="left")
    theirs = theirs.rename(columns={"best_layer": "published_layer", "test": "published"})
    return beside_published(ours, theirs, ["pair", "corruption", *kinds])


@register_table("probes", "Every probe at its best layer, the input left out, test accuracy", "probes")
def _probes(rows: Frame) -> Frame:
    """Return every probe at its best hidden layer, as in the paper.

    Runs without corruption are fitted once; their rows stand for noisy and for true labels. Logistic
    regression depends on its own seed: each fit counts like a run in the mean and the spread, but not in
    seeds, and there is no verdict on one fit.
    """
    tests = hidden_layers(select(rows, "probes", **TEST))
    tests = both_labels(tests[tests["probe"] != "network"])
    kinds = ["fitted_on", "probe"]
    fits = tests.assign(fit=tests["setting"].where(tests["setting"] != ""))
    fits = fits.groupby([*GROUP, *kinds], sort=False, dropna=False).agg(
        probe_seeds=("fit", "nunique"), networks=("key", "nunique")
    )
    fits = fits.reset_index()
    seeded = fits["probe"].isin(SEEDED)
    fits["probe_seeds"] = fits["probe_seeds"].clip(lower=1).where(seeded)
    each = tests.assign(key=tests["key"] + tests["setting"])
    table = _best_beside_published(each, published.probes_best_layer(), kinds, fits)
    table["seeds"] = table.pop("networks").fillna(0).astype(table["seeds"].dtype)
    judged = ~table["verdict"].isin(["not run", "not published"])
    table.loc[judged & (table["probe_seeds"] == 1), "verdict"] = ONE_FIT
    return table


@register_table(
    "controls",
    "Test accuracy of the baselines: MASC on the untrained network, the best epoch, the last epoch, and MASC "
    "at its best layer",
    "controls",
    "noisy_subspaces",
    "true_subspaces",
)
def _controls(rows: Frame) -> Frame:
    """Return test accuracies of MASC and its baselines, each a quantity, by optimiser.

    best_epoch is the network at its highest test accuracy, last_epoch at the end of training. masc_noisy and
    masc_true are MASC at its best layer, the input included. Quantities with hidden leave the input out, and
    so do those of the untrained network, whose input is the same. epoch is the mean over runs.
    """
    tests = select(rows, "controls", **TEST)
    untrained = hidden_layers(tests[tests["setting"] == "untrained"])
    parts = {f"untrained_{name}": at_best_layer(untrained[untrained["fitted_on"] == name]) for name in LABELS}
    parts |= {name: tests[tests["setting"] == name] for name in ("best_epoch", "last_epoch")}
    for name in LABELS:
        parts[f"masc_{name}"] = masc_at_best_layer(rows, name)
        parts[f"masc_{name}_hidden"] = masc_at_best_layer(rows, name, hidden=True)
    keys = [*GROUP, "layer"]
    epochs = [means(part, keys, "epoch", "epoch").assign(quantity=name) for name, part in parts.items()]
    lines = [*keys, "quantity"]
    ours = quantities(parts, keys).merge(pd.concat(epochs)[[*lines, "epoch"]], on=lines)
    best, last = published.table1(), published.training()
    theirs = [
        _published_quantities({"best_epoch": best["model_peak_epoch_test"]}, best),
        _published_quantities({"last_epoch": last["test"]}, last),
        _published_quantities({f"masc_{name}": best[f"masc_{name}_best_layer"] for name in LABELS}, best),
    ]
    # Published networks are those of the pair's own optimiser.
    frames = ours, pd.concat(theirs).assign(variant="")
    own, other = (frame.assign(optimizer=optimizers(frame)) for frame in frames)
    return beside_published(own, other.drop(columns="variant"), [*QUANTITY, "optimizer"])
