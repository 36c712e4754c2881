import math

import numpy as np
import pandas as pd
import pytest

from layerprobe.errors import InputError
from layerprobe.paper.tables import beside_published, verdict_counts
from layerprobe.paper.tables.compared import cells_beside_published, verdict

KEYS = ["pair", "corruption"]


def ours_of(*lines):
    names = [*KEYS, "variant", "layer", "ours", "ours_spread", "seeds"]
    return pd.DataFrame(lines, columns=names).astype({"seeds": "Int64"})


def published_of(*lines):
    return pd.DataFrame(lines, columns=[*KEYS, "published"])


OURS = ours_of(
    ("cnn-mnist", 0.4, "", "fc1", 0.52, np.nan, 1),
    ("mlp-mnist", 0.2, "subset 100", "fc2", 0.40, 0.01, 2),
    ("mlp-mnist", 0.2, "", "fc1", 0.55, 0.03, 3),
    ("mlp-digits", 0.2, "", "fc1", 0.9, 0.0, 2),
)
PUBLISHED = published_of(("cnn-mnist", 0.2, 0.8), ("mlp-mnist", 0.2, 0.5), ("cnn-mnist", 0.4, 0.5))


def test_numbers_are_joined_by_key_and_every_row_of_both_appears():
    table = beside_published(OURS, PUBLISHED, KEYS)
    names = [*KEYS, "variant", "scale", "published", "ours", "seeds", "verdict"]
    lines = table[names].fillna({"published": -1, "ours": -1}).to_numpy().tolist()
    assert lines == [
        ["mlp-mnist", 0.2, "", "full", 0.5, 0.55, 3, "reproduced"],
        ["mlp-mnist", 0.2, "subset 100", "small", 0.5, 0.40, 2, "too small to tell"],
        ["cnn-mnist", 0.2, "", "", 0.8, -1, 0, "not run"],
        ["cnn-mnist", 0.4, "", "full", 0.5, 0.52, 1, "reproduced"],
        ["mlp-digits", 0.2, "", "full", -1, 0.9, 2, "not published"],
    ]
    assert table["difference"].iloc[0] == pytest.approx(5)
    assert table["difference"].iloc[1] == pytest.approx(-10)
    assert table["difference"].isna().tolist() == [False, False, True, False, True]
    assert table["layer"].tolist() == ["fc1", "fc2", "", "fc1", "fc1"]


def test_published_numbers_are_not_in_our_columns():
    nothing = beside_published(OURS[:0], PUBLISHED, KEYS)
    assert len(nothing) == 3
    assert nothing[["ours", "ours_spread", "difference"]].isna().all(axis=None)
    assert nothing["published"].notna().all()
    assert set(nothing["seeds"]) == {0}


@pytest.mark.parametrize(
    ("ours", "published"),
    [(OURS.assign(published=0.5), PUBLISHED), (OURS, PUBLISHED.assign(ours=0.5))],
)
def test_ambiguous_columns_are_refused(ours, published):
    with pytest.raises(InputError, match="on the wrong side"):
        beside_published(ours, published, KEYS)


@pytest.mark.parametrize(
    ("published", "ours", "spread", "expected"),
    [
        (0.50, 0.52, math.nan, "reproduced"),  # 2 points, whatever floats make of them
        (0.50, 0.48, 0.001, "reproduced"),
        (0.50, 0.5201, 0.01, "differs"),
        (0.50, 0.44, 0.03, "reproduced"),  # twice 3 points
        (0.50, 0.4399, 0.03, "differs"),
        (0.50, math.nan, math.nan, "not run"),
        (math.nan, 0.5, 0.1, "not published"),
    ],
)
def test_the_verdict_allows_two_points_or_twice_the_spread(published, ours, spread, expected):
    assert verdict(published, ours, spread) == expected


def test_verdicts_are_counted_per_scale():
    table = beside_published(OURS, PUBLISHED, KEYS)
    full = "2 reproduced, 0 differ"
    assert verdict_counts(table[table["scale"] != "small"]) == f"{full}, 1 not run"
    assert verdict_counts(table) == f"{full}, 0 reproduced, 1 too small to tell at small scale, 1 not run"
    assert verdict_counts(table[table["verdict"] == "not run"]) == "0 reproduced, 0 differ, 1 not run"


def test_verdicts_are_counted_per_quantity():
    table = beside_published(OURS, PUBLISHED, KEYS)
    quantities = table.assign(quantity=["network", "masc", "masc", "network", "masc"])
    assert verdict_counts(quantities) == (
        "2 reproduced, 0 differ, 0 not run (network); "
        "0 reproduced, 1 too small to tell at small scale, 1 not run (masc)"
    )
    assert verdict_counts(table.drop(columns="verdict")) == ""
    assert verdict_counts(table.assign(verdict="not published")) == ""  # a pair that is not the paper's


@pytest.mark.parametrize(
    ("network", "masc", "variant", "expected"),
    [
        (0.51, 0.61, "", "reproduced"),
        (0.30, 0.40, "", "same direction"),
        (0.30, 0.40, "subset 100", "same direction"),
        (0.60, 0.61, "", "differs"),  # one point is no difference
        (0.70, 0.61, "subset 10000", "differs"),
        (0.70, 0.61, "subset 100", "too small to tell"),
        (0.50, math.nan, "", "not run"),
    ],
)
def test_a_cell_of_table_1_has_one_verdict(network, masc, variant, expected):
    """The published network has 50 %, MASC 60 %."""
    cell = {"pair": ["mlp-mnist"], "corruption": 0.2, "variant": variant, "seeds": 1}
    numbers = {"network": network, "masc": masc, "gain": masc / network - 1}
    spreads = {f"{name}_spread": math.nan for name in numbers}
    known = {"published_network": 0.5, "published_masc": 0.6, "published_gain": 0.2}
    published = pd.DataFrame({"pair": ["mlp-mnist"], "corruption": 0.2, **known})
    table = cells_beside_published(pd.DataFrame({**cell, **numbers, **spreads}), published)
    assert table["verdict"].tolist() == [expected]
    assert table["masc_difference"].iloc[0] == pytest.approx(100 * (masc - 0.6), nan_ok=True)
