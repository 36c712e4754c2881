from itertools import product

import pandas as pd
import pytest

from layerprobe.paper import published
from layerprobe.paper.tables import TABLES, VERDICTS, readable

FIRST = ["pair", "corruption", "variant", "scale"]
CELLS = ("table1", "table5")
COMPARED = {
    "table1": 32,
    "table2": 42,
    "table3": 42,
    "table5": 32,
    "layers": len(published.masc_by_layer()),
    "thresholds": len(published.thresholds_best_layer()),
    "probes": len(published.probes_best_layer()),
    "controls": 42 + 28 + 32 + 32,
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_runs_has_the_published_numbers_only(name, no_rows, no_history):
    table = TABLES[name].build(no_rows, no_history)
    assert list(table)[:4] == FIRST
    if name == "supplementary_table1":  # of the pairs alone
        return
    assert len(table) == COMPARED.get(name, 0)
    assert ("verdict" in table) == (name in COMPARED)
    if name in COMPARED:
        assert set(table["verdict"]) == {"not run"}
        assert table["masc" if name in CELLS else "ours"].isna().all()
        assert set(table["seeds"]) == {0}


@pytest.mark.parametrize("name", TABLES)
def test_runs_on_human_labels_pass_through_every_table(name, rows_of, subspace_rows, history_of):
    run = {"pair": "cnn-cifar10", "corruption": None, "noise": "cifar-10n:worst"}
    probes = {"experiment": "probes", "probe": "knn", "layer": "fc1", "fitted_on": "noisy", "value": 0.3}
    test = {"split": "test", "labels": "true", "metric": "accuracy"}
    sets = product(("noisy", "true"), (0, 1))
    parts = [subspace_rows({"fc1": 0.9}, fitted_on=labels, seed=seed, **run) for labels, seed in sets]
    rows = pd.concat([*parts, rows_of([probes], test, **run)])
    history = history_of((0.9,), (0.9,), (0.9,), **run)
    table = TABLES[name].build(rows, history)
    human = table[table["corruption"].isna()]
    shown = {"table1", "table2", "table3", "table5", "layers", "thresholds", "probes", "controls"}
    shown |= {"sensitivity", "natural", "supplementary_table1"}  # "untrained" needs rows of `controls`
    assert (len(human) > 0) == (name in shown)
    if "verdict" in table:
        assert set(human["verdict"]) == {"not published"}
        assert set(table["verdict"]) <= set(VERDICTS)
        assert table["published_masc" if name in CELLS else "published"].notna().sum() == COMPARED[name]
    assert len(readable(table)) == len(table)


def test_every_experiment_has_a_table():
    needed = {name for table in TABLES.values() for name in table.needs}
    assert needed == {
        "noisy_subspaces",
        "true_subspaces",
        "latent_memorisation",
        "probes",
        "cost",
        "retraining",
        "flipped_rows",
        "controls",
        "similarity",
        "weight_edit",
        "corrected_subspaces",
        "corrected_retraining",
    }
    assert [name for name, table in TABLES.items() if table.history] == ["table2", "table3"]
