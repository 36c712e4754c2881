"""Selections and means of tidy rows, shared by tables and figures."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerprobe.paper.pairs import PAIRS
from layerprobe.paper.rows import independent

GROUP = ["pair", "corruption", "variant"]  # runs that differ in their seeds only
TEST = {"split": "test", "labels": "true", "metric": "accuracy"}
MARGIN = 0.02  # a difference of shares up to this counts as none
ROUNDING = 1e-11  # 0.52 and 0.50 are 2 points apart, although their floats are not
MEDIUM = 5000  # training images from which a run is of medium scale and not small
PAPER = {"probe": "masc", "setting": "0.99"}  # MASC as in the paper's main results
LABELS = ("noisy", "true")  # that probes are fitted on
DEGREES = (0.2, 0.4, 0.6, 0.8)  # of Table 1; figures add 0 and 1
EVERY_DEGREE = (0.0, *DEGREES, 1.0)
PROTOCOL, DATA = {"shuffle", "noise", "weights"}, {"subset", "test_subset"}  # words of a variant


def select(rows: pd.DataFrame, experiment: str, **equal: str) -> pd.DataFrame:
    """Return the rows of an experiment on independent runs whose columns have the given values.

    Parameters
    ----------
    rows : DataFrame
        Tidy rows (`layerprobe.paper.rows.COLUMNS`).
    experiment, **equal
    """
    selected = independent(rows)
    for column, value in {"experiment": experiment, **equal}.items():
        selected = selected[selected[column] == value]
    return selected


def accuracies(rows: pd.DataFrame, split: str = "test", labels: str = "true") -> pd.DataFrame:
    """Return the accuracies on a split against labels.

    Parameters
    ----------
    rows : DataFrame
    split : {"train", "test", "validation", "evaluation"}
    labels : {"noisy", "true", "relabelled"}
    """
    return rows[(rows["metric"] == "accuracy") & (rows["split"] == split) & (rows["labels"] == labels)]


def pair_places(rows: pd.DataFrame) -> pd.Series:
    """Return the place in `PAIRS` of the pair of each row; other pairs come last."""
    places = {name: place for place, name in enumerate(PAIRS)}
    return rows["pair"].map(places).fillna(len(places))


def training_images(rows: pd.DataFrame) -> pd.Series:
    """Return the number of training images of the run of each row."""
    whole = rows["pair"].map({name: pair.train_size for name, pair in PAIRS.items()})
    return rows["subset"].astype(float).fillna(whole.astype(float))


def hidden_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those of the input layer."""
    return rows[rows["layer"] != "input"]


def direction(difference: Any) -> Any:
    """Return the sign of a difference of shares, or of a Series of them: 0 up to `MARGIN`."""
    return np.sign(difference) * (abs(difference) > MARGIN + ROUNDING)


def both_labels(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows; those of runs without corruption, fitted once, stand for noisy and for true labels."""
    clean = rows[(rows["corruption"] == 0) & (rows["fitted_on"] == "noisy")]
    once = clean[~clean["key"].isin(rows.loc[rows["fitted_on"] == "true", "key"])]
    return pd.concat([rows, once.assign(fitted_on="true")], ignore_index=True)


def means(rows: pd.DataFrame, keys: Sequence[str], name: str = "ours", column: str = "value") -> pd.DataFrame:
    """Return the mean of a column over runs, its spread and the number of runs.

    Several rows of one run, for example one per class, are averaged first.

    Parameters
    ----------
    rows : DataFrame
        Rows with the column key, which identifies a run.
    keys : sequence of str
        Columns whose values define a group.
    name : str
        Name of the mean in the result.
    column : str

    Returns
    -------
    DataFrame
        The keys in order of appearance, `name`, `name`_spread (the sample standard deviation over runs; NaN
        for one run), and seeds.
    """
    rows = rows.assign(averaged=rows[column].astype(float))
    runs = rows.groupby([*keys, "key"], sort=False, dropna=False)["averaged"].mean().reset_index()
    groups = runs.groupby(list(keys), sort=False, dropna=False)["averaged"]
    columns = {name: "mean", f"{name}_spread": "std", "seeds": "size"}
    return groups.agg(**columns).reset_index().astype({"seeds": "Int64"})  # type: ignore[call-overload]


def at_best_layer(rows: pd.DataFrame, keys: Sequence[str] = GROUP) -> pd.DataFrame:
    """Return the rows of the layer with the highest mean over runs per group; the first of equals.

    On test rows the choice uses the test data, as in the paper.

    Parameters
    ----------
    rows : DataFrame
        Rows of one quantity.
    keys : sequence of str
        Columns whose values define a group.
    """
    layers = means(rows, [*keys, "layer"])
    layers["ours"] = layers["ours"].round(12)  # equal sums of the same accuracies differ by rounding
    best = layers.groupby(list(keys), sort=False, dropna=False)["ours"].idxmax()
    return layers.loc[best, [*keys, "layer"]].merge(rows, on=[*keys, "layer"])


def network_accuracy(rows: pd.DataFrame, experiment: str = "noisy_subspaces", **equal: str) -> pd.DataFrame:
    """Return the rows of the network's own accuracy, by default its test accuracy.

    Parameters
    ----------
    rows : DataFrame
    experiment : str
        The experiment that measured it.
    **equal : str
        split and labels, where they differ from those of `TEST`.
    """
    return select(rows, experiment, **{"probe": "network", **TEST, **equal})


def masc_at_best_layer(
    rows: pd.DataFrame, fitted_on: str, *, hidden: bool = False, setting: str = PAPER["setting"]
) -> pd.DataFrame:
    """Return the test rows of MASC at its best layer.

    Parameters
    ----------
    rows : DataFrame
    fitted_on : {"noisy", "true"}
        Labels of the subspaces.
    hidden : bool
        Whether to leave out the input.
    setting : str
        The variance threshold.
    """
    which = {"probe": "masc", "setting": setting, "fitted_on": fitted_on}
    tests = select(rows, f"{fitted_on}_subspaces", **which, **TEST)
    return at_best_layer(hidden_layers(tests) if hidden else tests)


def words(variant: str) -> dict[str, str]:
    """Return the differences of a variant from its pair's own recipe and data, value by name."""
    return dict(part.split(" ", 1) for part in re.split(r", (?=\w+ )", variant) if part)


def scale(variant: str) -> str:
    """Return the scale of a variant.

    "full" if it differs from the pair's own recipe in the protocol, the kind of noise or published weights
    only; "medium" or "small" if its runs use a part of the images, at least `MEDIUM` training images or
    fewer; "other recipe" if they use all images and train differently.
    """
    changed = words(variant)
    if DATA & set(changed):
        return "medium" if int(changed.get("subset", 0)) >= MEDIUM else "small"
    return "full" if set(changed) <= PROTOCOL else "other recipe"


def trains_as_published(variant: str) -> bool:
    """Return whether runs have the optimiser and the noise of the published ones, and no edit."""
    changed = words(variant)
    return not {"optimizer", "edit"} & changed.keys() and changed.get("noise", "published") == "published"


def optimizers(rows: pd.DataFrame) -> pd.Series:
    """Return the optimiser of each row, which its variant names only where it is not the pair's own."""
    names = [
        words(variant).get("optimizer", PAIRS[pair].recipe.optimizer if pair in PAIRS else "")
        for pair, variant in zip(rows["pair"], rows["variant"], strict=True)
    ]
    return pd.Series(names, rows.index, dtype=object)


def network_retraining(
    rows: pd.DataFrame, experiment: str = "retraining", **equal: str
) -> dict[str, pd.DataFrame]:
    """Return the network's accuracies on the 80 % of the test data, before and after retraining.

    Parameters
    ----------
    rows : DataFrame
    experiment : str
        The experiment that retrained it.
    **equal : str
        Values by column, for example setting="early_stopping".

    Returns
    -------
    dict of str to DataFrame
        Rows "before", at the "last_epoch", and at the "best_validation_epoch": the first epoch of retraining
        with the highest accuracy on the other 20 %.
    """
    network = select(rows, experiment, probe="network", metric="accuracy", labels="true", **equal)
    network = network.sort_values("epoch", kind="stable")
    run = ["key", "fitted_on", "setting"]
    evaluated, validated = (network[network["split"] == split] for split in ("evaluation", "validation"))
    retrained = validated[validated["epoch"] >= 1].sort_values("value", ascending=False, kind="stable")
    best = retrained.drop_duplicates(run)[[*run, "epoch"]]
    before = evaluated[evaluated["epoch"] == 0]
    last = evaluated.drop_duplicates(run, keep="last")
    after = {"last_epoch": last, "best_validation_epoch": evaluated.merge(best, on=[*run, "epoch"])}
    runs = before[run]  # in the order of the rows
    return {"before": before, **{name: runs.merge(part, on=run) for name, part in after.items()}}
