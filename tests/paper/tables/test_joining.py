import math

import pandas as pd
import pytest

from layerprobe.paper.selection import at_best_layer, means, scale, words
from layerprobe.paper.tables.joining import joined, side_by_side
from layerprobe.runs.specs import RunSpec
from layerprobe.runs.states import variant


def test_mean_and_spread_weigh_runs_equally():
    rows = pd.DataFrame({"pair": "a", "key": ["x", "x", "y"], "value": [0.2, 0.4, 0.5]})
    table = means(rows, ["pair"], "accuracy")
    assert table["accuracy"].item() == pytest.approx(0.4)  # of 0.3 and 0.5
    assert table["accuracy_spread"].item() == pytest.approx(math.sqrt(2) / 10)
    assert table["seeds"].item() == 2
    assert math.isnan(means(rows[:2], ["pair"])["ours_spread"].item())


def test_the_best_layer_is_that_of_the_highest_mean_and_the_first_of_equals():
    values = {"fc1": (0.9, 0.94), "fc2": (0.98, 0.84), "fc3": (0.92, 0.92)}
    rows = pd.DataFrame(
        [
            {"pair": "a", "corruption": math.nan, "variant": "", "layer": layer, "key": key, "value": value}
            for layer, pair in values.items()
            for key, value in zip("xy", pair, strict=True)
        ]
    )
    best = at_best_layer(rows)
    assert best["layer"].tolist() == ["fc1", "fc1"]
    assert best["value"].tolist() == [0.9, 0.94]


def test_a_join_keeps_the_order_of_the_left_and_matches_nan():
    left = pd.DataFrame({"k": ["b", "a"], "p": [math.nan, 0.2], "x": [1, 2]})
    right = pd.DataFrame({"k": ["c", "b"], "p": [0.2, math.nan], "y": [3, 4]})
    table = joined(left, right, ["k", "p"])
    assert table["k"].tolist() == ["b", "a", "c"]
    assert table["y"].fillna(0).tolist() == [4, 0, 3]


def test_missing_quantities_are_nan_side_by_side():
    rows = pd.DataFrame({"pair": ["a", "b"], "key": ["x", "y"], "value": [0.1, 0.2]})
    table = side_by_side({"one": rows[:1], "two": rows}, ["pair"])
    assert table["pair"].tolist() == ["a", "b"]
    assert table["one"].fillna(0).tolist() == [0.1, 0]
    assert table["two"].tolist() == [0.1, 0.2]
    assert table["seeds"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("", "full"),
        ("shuffle False, noise published", "full"),
        ("noise cifar-10n:worst", "full"),
        ("subset 2000", "small"),
        ("optimizer adam, momentum 0.0, subset 2000", "small"),
        ("test_subset 100", "small"),
        ("subset 10000, target 0.99", "medium"),
        ("optimizer adam, momentum 0.0", "other recipe"),
        ("widths (8, 16), noise published", "other recipe"),
        ("shuffle False, K2 3", "other recipe"),
    ],
)
def test_the_scale_of_a_variant(variant, expected):
    assert scale(variant) == expected


def test_options_of_any_name_are_words_of_a_variant():
    spec = RunSpec.of("mlp-digits", 0.4, 0, optimizer="sgd", subset=50, options={"num_classes": 4})
    described = variant(spec).replace("num_classes", "Width2")
    assert words(described) == {"optimizer": "sgd", "Width2": "4", "subset": "50"}
