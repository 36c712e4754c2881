import math

import pandas as pd
import pytest

from layerprobe.paper.tables import TABLES


def test_accuracies_are_those_of_the_last_epoch(history_of, no_rows):
    history = pd.concat(
        [
            history_of((0.5, 0.99), (0.7, 0.85), (0.9, 0.86), seed=0),
            history_of((0.5, 0.8, 0.97), (0.7, 0.8, 0.83), (0.9, 0.9, 0.88), seed=1),
        ]
    )
    here = "pair == 'mlp-mnist' and corruption == 0.2"
    noisy, true = TABLES["table2"].build(no_rows, history).query(here).to_dict("records")
    assert (noisy["quantity"], noisy["published"], noisy["verdict"]) == ("train_noisy", 1, "reproduced")
    assert noisy["ours"] == pytest.approx(0.98)
    assert noisy["ours_spread"] == pytest.approx(math.sqrt(2) / 100)
    assert (noisy["epochs"], noisy["published_epochs"]) == (2.5, 167.6667)
    assert (true["quantity"], true["verdict"]) == ("train_true", "not published")
    assert true["ours"] == pytest.approx(0.84)
    (test,) = TABLES["table3"].build(no_rows, history).query(here).to_dict("records")
    assert test["ours"] == pytest.approx(0.87)
    assert test["difference"] == pytest.approx(87 - 87.38)


def test_every_published_training_appears(history_of, no_rows):
    table = TABLES["table3"].build(no_rows, history_of((1.0,), (1.0,), (0.5,), pair="mlp-digits"))
    assert table["verdict"].value_counts().to_dict() == {"not run": 42, "not published": 1}
