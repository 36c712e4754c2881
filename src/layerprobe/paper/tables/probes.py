"""Other probes on the same layers: what they know, and what they cost."""

import pandas as pd

from layerprobe.paper import published
from layerprobe.paper.tables.comparing import beside_published
from layerprobe.paper.tables.grouping import GROUP, TEST, at_best_layer, means, ordered, select, side_by_side

__all__ = ["cost", "probes"]

COSTS = ["fit_flops", "predict_flops", "fit_seconds", "predict_seconds", "peak_bytes"]


def probes(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return every probe at its best layer on the test data, the input left out as in the paper."""
    tests = select(rows, "probes", **TEST)
    tests = tests[(tests["probe"] != "network") & (tests["layer"] != "input")]
    keys = [*GROUP, "fitted_on", "probe"]
    best = at_best_layer(_both_label_sets(tests), keys)
    theirs = published.probes_best_layer().rename(
        columns={"best_layer": "published_layer", "test": "published"}
    )
    return beside_published(
        means(best, [*keys, "layer"]), theirs, ["pair", "corruption", "fitted_on", "probe"]
    )


def cost(rows: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return what fitting a layer's probe and predicting all test rows takes, means over runs.

    Operations follow from formulas, seconds and bytes are measured; only seconds have a spread.
    """
    parts = {name: select(rows, "cost", metric=name) for name in COSTS}
    table = side_by_side(parts, [*GROUP, "layer", "probe"])
    return ordered(table.drop(columns=[f"{name}_spread" for name in COSTS if not name.endswith("seconds")]))


def _both_label_sets(tests: pd.DataFrame) -> pd.DataFrame:
    """Let what was fitted on the labels of a run without corruption stand for both names they have."""
    clean = tests[tests["corruption"] == 0]
    missing = clean[~clean["key"].isin(clean.loc[clean["fitted_on"] == "true", "key"])]
    return pd.concat([tests, missing.assign(fitted_on="true")], ignore_index=True)
