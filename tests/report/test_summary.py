import pytest

from layerprobe.report import accuracies, by_layer, by_probe, finding

DASH = "\u2013"


def test_accuracies_are_mean_and_range_over_seeds_on_test_data(planted):
    table = accuracies(planted()).set_index(["probe", "fitted_on", "layer"])
    assert table.loc[("masc", "noisy", "fc1")].tolist() == pytest.approx([0.80, 0.79, 0.81])
    assert table.loc[("network", "", "output")].tolist() == pytest.approx([0.54, 0.54, 0.54])
    assert len(table) == 1 + 6 * 3


def test_by_layer_compares_network_masc_and_best_other_probe(planted):
    table = by_layer(planted()).set_index("layer")
    assert list(table.index) == ["input", "fc1", "fc2"]
    assert table.loc["fc1"].tolist() == [
        "54.0",
        f"80.0 (79{DASH}81)",
        f"98.0 (97{DASH}99)",
        f"75.0 (74{DASH}76) nearest class mean",
    ]
    assert table.loc["fc2", "best other, noisy labels"].endswith("kNN")
    assert by_layer(planted(seeds=1)).loc[1, "MASC, noisy labels"] == "80.0"


def test_by_probe_lists_every_probe_and_the_network_last(planted):
    table = by_probe(planted())
    assert list(table.columns) == ["labels", "probe", "input", "fc1", "fc2", "output"]
    assert list(table["labels"]) == ["noisy"] * 4 + ["true"] * 3
    lines = table.set_index(["labels", "probe"])
    assert lines.loc[("noisy", "MASC"), ["input", "fc1", "fc2"]].tolist() == [70.0, 80.0, 60.0]
    assert lines.loc[("true", "nearest class mean"), "fc2"] == 92.0
    assert lines.loc[("noisy", "network")].dropna().to_dict() == {"output": 54.0}


def test_finding_quotes_the_rows(planted):
    assert finding(planted()) == (
        "With 60 % of its training labels redrawn, the network itself is right on 54.0 % of the test data; "
        "MASC on the same labels is right on 80.0 % at its best layer on the test data, fc1, 26.0 points "
        "more (ahead in 3 of 3 seeds), and the best other probe, nearest class mean at input, on 88.0 %."
    )


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (0.90, "fc1, 10.0 points fewer (ahead in 0 of 3 seeds)"),
        (0.80, "fc1, as many (ahead in 1 of 3 seeds)"),
        (0.795, "fc1, 0.5 points more (ahead in 2 of 3 seeds)"),
    ],
)
def test_finding_reports_equal_and_lower_accuracy(planted, network, said):
    assert said in finding(planted(network={("test", "true"): network}))


def test_finding_uses_the_singular_for_one_seed(planted):
    assert "(ahead in 1 of 1 seed)" in finding(planted(seeds=1))
