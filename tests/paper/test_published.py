import math

import pytest

from layerprobe.paper import PAIRS, published
from layerprobe.probes import available

FRAMES = {
    "table1": 32,
    "training": 42,
    "masc_by_layer": 165,
    "probes_best_layer": 350,
    "thresholds_best_layer": 150,
}
RUNS, TEST_IMAGES = 3, 10_000


def hits(rounded):
    """Numbers of right predictions, summed over the runs, whose mean rounds to a published accuracy."""
    whole = RUNS * TEST_IMAGES
    about = round(rounded * whole)
    return [count for count in range(about - 3, about + 4) if abs(count / whole - rounded) < 0.5001e-4]


def gain(masc, network):
    return 100 * (masc / network - 1)


def misses(row, fitted_on, network):
    """Return how far the closest gain is off with so many right predictions of the network."""
    return min(
        abs(gain(masc, network) - row[f"gain_{fitted_on}_percent"])
        for masc in hits(row[f"masc_{fitted_on}_best_layer"])
    )


def test_the_gains_of_table_1_and_5_follow_from_the_shipped_accuracies():
    """Gains are ratios of means before rounding, so one whole number of hits must explain both to 0.01."""
    rows = published.table1()
    rows = rows[rows["pair"] != "resnet18-cifar10"]
    assert len(rows) == 28
    for _, row in rows.iterrows():
        off = [
            max(misses(row, fitted_on, network) for fitted_on in ("noisy", "true"))
            for network in hits(row["model_test"])
        ]
        assert min(off) < 0.01, row.to_dict()


def test_gains_from_the_rounded_accuracies_are_off_by_rounding_alone():
    rows = published.table1()
    for fitted_on in ("noisy", "true"):
        masc, network = rows[f"masc_{fitted_on}_best_layer"], rows["model_test"]
        off = (gain(masc, network) - rows[f"gain_{fitted_on}_percent"]).abs()
        rounding = 100 * (masc + 0.5e-4) / (network - 0.5e-4) - 100 * masc / network
        assert (off <= rounding).all()


@pytest.mark.parametrize(("name", "length"), FRAMES.items())
def test_a_frame_is_complete_and_uses_our_names(name, length):
    rows = getattr(published, name)()
    assert len(rows) == length
    assert set(rows["pair"]) <= set(PAIRS)
    assert set(rows["corruption"]) <= {0, 0.2, 0.4, 0.6, 0.8, 1}
    accuracies = rows.filter(regex="test|best_layer$|train_noisy").select_dtypes("number")
    assert accuracies.stack().dropna().between(0, 1).all()
    layers = rows.filter(regex="^(best_)?layer$")
    for column in layers:
        for pair, layer in set(zip(rows["pair"], rows[column], strict=True)):
            assert layer in PAIRS[pair].network().probed_layers


def test_probes_have_our_names_and_thresholds_are_texts():
    assert set(published.probes_best_layer()["probe"]) == {"ncm", "knn", "lda", "qda", "logistic"}
    assert set(published.probes_best_layer()["probe"]) < set(available())
    assert set(published.thresholds_best_layer()["threshold"]) == {"0.25", "0.5", "0.75", "0.99", "1pc"}


def test_numbers_are_those_of_the_files():
    row = published.table1().iloc[0]
    assert (row["pair"], row["corruption"], row["model_test"]) == ("mlp-mnist", 0.2, 0.8738)
    assert (row["gain_noisy_percent"], row["model_peak_epoch_test"]) == (10.9293, 0.9738)
    assert math.isnan(published.table1()["model_peak_epoch_test"].iloc[-1])


def test_changing_a_frame_does_not_change_the_next_one():
    rows = published.training()
    rows.loc[:, "test"] = 0.0
    assert published.training()["test"].gt(0).all()


def test_the_caveats_are_those_of_the_source():
    assert published.CAVEATS.startswith("- A gain is")
    assert "resnet18-cifar10" in published.CAVEATS
    assert "|" not in published.CAVEATS
