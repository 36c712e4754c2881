import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES
from paper.figures.synthetic import frame, masc, network


def test_noise_taken_out_is_compared_on_the_same_runs(no_history):
    rows = frame(degrees=(0.4,), seeds=4)
    first, _, _, last = rows["key"].unique()
    rows = rows[(rows["experiment"] != "corrected_subspaces") | (rows["key"] != first)]
    rows = rows[(rows["experiment"] != "noisy_subspaces") | (rows["key"] != last)]
    (line,) = TABLES["corrected"].build(rows, no_history).to_dict("records")
    mean = 0.015  # of the seeds 1 and 2
    expected = {
        "network": network(0.4, 0, 0.04) + mean,
        "masc": masc(0.4, 1, 0, extra=0.04) + mean,
        "masc_1pc": masc(0.4, 1, 0, setting="1pc", extra=0.04) + mean,
        "corrected": masc(0.4, 1, 0) + 0.2 + mean,
        "p_too_low": masc(0.4, 1, 0) + 0.17 + mean,
        "p_too_high": masc(0.4, 1, 0) + 0.17 + mean,
    }
    assert {name: line[name] for name in expected} == pytest.approx(expected)
    assert (line["masc_layer"], line["corrected_layer"], line["seeds"]) == ("fc1", "input", 2)


def test_runs_without_corrected_subspaces_are_left_out(no_history):
    rows = frame(degrees=(0.2, 0.4), seeds=1)
    rows = rows[(rows["experiment"] != "corrected_subspaces") | (rows["corruption"] == 0.2)]
    assert TABLES["corrected"].build(rows, no_history)["corruption"].tolist() == [0.2]
    none = rows[rows["experiment"] != "corrected_subspaces"]
    assert TABLES["corrected"].build(pd.DataFrame(none), no_history).empty
