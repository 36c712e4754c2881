"""The table of claims: verdicts by the stated rules, and the page that shows them."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layerprobe.paper import PAIRS as REGISTERED
from layerprobe.paper import register_pair
from layerprobe.paper.claims import CLAIMS, VERDICT_RULE, VERDICTS, claims_table
from layerprobe.paper.pairs import PAPER_PAIRS
from layerprobe.paper.plans import SCALES, plan
from layerprobe.paper.selection import select, training_images
from layerprobe.paper.tables import TABLES
from paper.figures import synthetic

ROOT = Path(__file__).parents[2]
PAIRS = ("mlp-mnist", "cnn-mnist")
MASC_BEATS = "MASC on the layers of a memorised network"


@pytest.fixture(scope="module")
def rows():
    """Eight cells: MASC beats the network in all of them, and the untrained network by 24 points."""
    rows = synthetic.frame(PAIRS, seeds=1)
    quiet = (rows["experiment"] == "controls") & (rows["setting"] == "best_epoch")
    quiet |= (rows["experiment"] == "probes") & (rows["probe"] == "ncm") | (rows["layer"] == "input")
    return rows.assign(value=rows["value"].mask(quiet, 0.1))


def line(rows, start):
    (found,) = [one for one in claims_table(rows).to_dict("records") if one["claim"].startswith(start)]
    return found


def test_claim_holds_where_cells_agree_and_no_control_contradicts(rows):
    said = line(rows, MASC_BEATS)
    expected = [
        synthetic.masc(p, 1, 0, extra=0.04) - synthetic.network(p, 0, 0.04) for p in (0.2, 0.4, 0.6, 0.8)
    ]
    mean = 100 * sum(expected) / 4
    assert said["verdict"] == "holds"
    assert said["evidence"] == (
        f"8 of 8 cells, mean {mean:+.1f} points; per pair (cells): "
        f"mlp-mnist {mean:+.1f} (4), cnn-mnist {mean:+.1f} (4)"
    )
    assert "MASC on the untrained network: better in 0, equal in 0 of 8" in said["controls"]


def test_equal_control_leaves_a_caveat(rows):
    untrained = (rows["experiment"] == "controls") & (rows["setting"] == "untrained")
    raised = rows.assign(value=rows["value"].mask(untrained, rows["value"] + 0.25))
    said = line(raised, MASC_BEATS)
    assert said["verdict"] == "holds with a caveat"
    assert "MASC on the untrained network: better in 0, equal in 8 of 8" in said["controls"]
    assert line(raised, "Training makes these layers")["verdict"] == "does not hold"


@pytest.mark.parametrize(
    ("weak", "verdict"),
    [(0, "holds"), (1, "holds with a caveat"), (4, "does not hold"), (8, "does not hold")],
)
def test_the_verdict_follows_the_share_of_the_cells(rows, weak, verdict):
    cells = [(pair, p) for pair in PAIRS for p in (0.2, 0.4, 0.6, 0.8)][:weak]
    chosen = np.array([one in cells for one in zip(rows["pair"], rows["corruption"], strict=True)])
    network = (rows["probe"] == "network") & (rows["experiment"] == "noisy_subspaces") & chosen
    assert line(rows.assign(value=rows["value"].mask(network, 0.99)), MASC_BEATS)["verdict"] == verdict


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.52), (0.68, 0.7)])  # above and below 0.02 as floats
def test_a_difference_of_two_points_is_none_whatever_floats_make_of_it(rows, low, high):
    best = rows["setting"].eq("best_epoch") & rows["experiment"].eq("controls")
    last = rows["setting"].eq("last_epoch") & rows["experiment"].eq("controls")
    equal = rows.assign(value=rows["value"].mask(best, high).mask(last, low))
    said = line(equal, "Memorising corrupted labels")
    assert said["verdict"] == "does not hold"
    assert said["evidence"].startswith("0 of 8 cells, mean +2.0 points")


def test_a_claim_that_does_not_hold_at_small_scale_is_too_small_to_tell(rows):
    network = (rows["probe"] == "network") & (rows["experiment"] == "noisy_subspaces")
    worse = rows.assign(value=rows["value"].mask(network, 0.99))
    for images, verdict in ((1000, "too small to tell"), (10_000, "does not hold")):
        assert line(worse.assign(variant=f"subset {images}"), MASC_BEATS)["verdict"] == verdict
    assert line(rows.assign(variant="subset 1000"), MASC_BEATS)["verdict"] == "holds"


def test_few_cells_leave_a_caveat_and_no_cell_is_not_tested(rows):
    three = rows[(rows["pair"] == "mlp-mnist") & rows["corruption"].isin([0.2, 0.4, 0.6])]
    assert line(three, MASC_BEATS)["verdict"] == "holds with a caveat"
    nothing = claims_table(rows[:0])
    assert set(nothing["verdict"]) == {"not tested"}
    assert len(nothing) == len(CLAIMS)
    assert line(three, "The same holds for another optimiser")["verdict"] == "not tested"


def test_runs_on_fewer_images_than_others_of_their_pair_do_not_count(rows):
    pd.testing.assert_frame_equal(claims_table(synthetic.with_subset(rows)), claims_table(rows))


def test_both_shares_of_a_difference_are_of_the_same_runs(rows):
    second = rows[rows["experiment"] == "noisy_subspaces"]  # of runs without controls, all accuracies lower
    second = second.assign(key="second" + second["key"], seed=1, value=second["value"] - 0.2)
    both = pd.concat([rows, second], ignore_index=True)
    start = "Training makes these layers"
    assert line(both, start) == line(rows, start)
    assert line(both, MASC_BEATS)["controls"] == line(rows, MASC_BEATS)["controls"]


def test_latent_memorisation_is_measured_against_the_unchanged_labels_and_the_raw_input(rows):
    latent = rows["experiment"] == "latent_memorisation"
    kept = 1 - 0.9 * rows["degree"]  # of ten classes
    raw = latent & (rows["layer"] == "input")
    assert raw.any()
    cases = [(0.06, 0, "holds"), (0.06, 0.05, "holds with a caveat"), (0.01, 0, "does not hold")]
    for extra, of_input, verdict in cases:
        changed = rows["value"].mask(latent, kept + extra).mask(raw, kept + of_input)
        assert line(rows.assign(value=changed), "Networks trained on true labels")["verdict"] == verdict


def test_unknown_numbers_of_classes_and_other_noise_are_left_out_of_latent_memorisation(rows):
    start = "Networks trained on true labels"
    paper = line(rows, start)["evidence"]
    other_noise = rows.assign(noise="pairs", variant="noise pairs", key="other" + rows["key"])
    assert line(pd.concat([rows, other_noise], ignore_index=True), start)["evidence"] == paper
    register_pair(replace(REGISTERED["mlp-digits"], name="own-pair"))  # of any number of classes
    try:
        assert line(rows.assign(pair="own-pair"), start)["verdict"] == "not tested"
    finally:
        del REGISTERED["own-pair"]


def test_every_claim_is_tested_by_rows_of_every_experiment(rows):
    adam = synthetic.with_optimizers(rows)
    table = claims_table(adam)
    tested = set(table.loc[table["verdict"] != "not tested", "claim"])
    assert {one.text for one in CLAIMS} - tested == {CLAIMS[-1].text}  # the edit has no rows here
    assert set(table["verdict"]) <= set(VERDICTS)


@pytest.fixture(scope="module")
def collect():
    spec = importlib.util.spec_from_file_location("collect", ROOT / "results" / "collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_new_runs_are_added_to_the_committed_ones(collect):
    committed = collect.read("medium")
    keys = list(committed.history["key"].unique())
    rows, history = collect.combined(committed, replace(committed, rows=committed.rows.iloc[:0]), keys)
    pd.testing.assert_frame_equal(rows, committed.rows)
    pd.testing.assert_frame_equal(history, committed.history)
    # The last run again: its controls only, of the same network, then of another one.
    last = committed.rows["key"].iloc[-1]
    run = committed.rows[committed.rows["key"] == last]
    again = replace(
        committed,
        rows=run[run["experiment"] == "controls"].assign(value=0.5),
        history=committed.history[committed.history["key"] == last],
    )
    rows, _ = collect.combined(committed, again, keys)
    old, new = committed.rows["value"].to_numpy(), rows["value"].to_numpy()
    changed = (old != new) & ~(np.isnan(old) & np.isnan(new))  # a share of no labels is NaN
    assert set(rows.loc[changed, "experiment"]) == {"controls"}
    assert set(rows.loc[changed, "key"]) == {last}
    other = replace(again, history=again.history.assign(loss=2 * again.history["loss"]))
    rows, history = collect.combined(committed, other, keys)
    assert len(rows) == len(committed.rows) - len(run) + len(again.rows)
    assert len(history) == len(committed.history)
    # Without a committed history, as at small scale, and without a plan, all other rows stay.
    bare = replace(committed, history=committed.history.iloc[:0])
    rows, _ = collect.combined(bare, again, keys[1:])
    assert sorted(rows["key"]) == sorted(committed.rows["key"])
    # First results in any order end up in the order of the keys.
    backwards = replace(committed, rows=committed.rows.sort_values("key", ascending=False, kind="stable"))
    rows, _ = collect.combined(
        replace(committed, rows=run.iloc[:0], history=history.iloc[:0]), backwards, keys
    )
    assert list(rows["key"].unique()) == [key for key in keys if key in set(rows["key"])]


def test_the_page_of_results_shows_the_committed_rows(collect):
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    results = collect.read("medium")
    assert collect.page(text, results) == text, "run python results/collect.py medium"
    grid = results.only(list(plan(["table1"], SCALES["medium"], PAPER_PAIRS).work))
    relabelled = grid.rows[grid.rows["experiment"] == "retraining"]
    keys = ["pair", "corruption", "fitted_on", "metric"]
    shares = (100 * relabelled.groupby(keys)["value"].mean()).round(1)
    table = collect.relabelling(grid).set_index(["pair", "p", "subspaces"])
    assert len(table)
    for cell, line in table.iterrows():
        assert float(line["wrong labels corrected (%)"]) == shares[(*cell, "corrected")]
        assert float(line["right labels broken (%)"]) == shares[(*cell, "broken")]
    flipped = select(grid.rows, "flipped_rows", probe="masc", fitted_on="noisy", labels="true")
    shares = 100 * flipped.groupby(["pair", "corruption", "layer", "split"])["value"].mean()
    table1 = TABLES["table1"].build(grid.rows, grid.history)
    table = collect.labels_by_layer(grid, table1)
    assert len(table) == flipped.groupby(["pair", "corruption"]).ngroups
    for _, line in table.iterrows():
        cell, wrong = shares[line["pair"], line["p"]], float(line["wrong (%)"]) / 100
        after = wrong * (100 - cell[:, "flipped"]) + (1 - wrong) * (100 - cell[:, "unflipped"])
        assert after[line["labels: layer"]] <= after.min() + 0.1
        for purpose in ("prediction", "labels"):
            layer = line[f"{purpose}: layer"]
            assert abs(float(line[f"{purpose}: corrected (%)"]) - cell[layer, "flipped"]) < 0.06
            assert abs(float(line[f"{purpose}: broken (%)"]) - (100 - cell[layer, "unflipped"])) < 0.06
            assert abs(float(line[f"{purpose}: wrong after (%)"]) - after[layer]) < 0.2
    own = {"split": "test", "labels": "true", "metric": "accuracy"}
    measured = select(grid.rows, "corrected_subspaces", probe="masc", **own)
    shares = 100 * measured.groupby(["pair", "corruption", "setting", "layer"])["value"].mean()
    table = collect.corrected(grid)
    assert len(table) == measured.groupby(["pair", "corruption"]).ngroups
    for _, line in table.iterrows():
        cell = shares[line["pair"], line["p"]]
        layer = cell["p"].idxmax()
        assert line["noise taken out (layer)"] == f"{cell['p'].max():.1f} ({layer})"
        assert line["p 0.1 too low"] == f"{cell['p - 0.1', layer]:.1f}"
        assert line["p 0.1 too high"] == f"{cell['p + 0.1', layer]:.1f}"
    tests = select(results.rows, "noisy_subspaces", **own)
    tests = tests.assign(images=training_images(tests))[~tests["variant"].str.contains("adam")]
    kept = tests["probe"].eq("network") | tests["fitted_on"].eq("noisy") & tests["setting"].eq("0.99")
    means = 100 * tests[kept].groupby(["pair", "corruption", "images", "layer", "probe"])["value"].mean()
    table = collect.by_images(results)
    assert len(table) >= 12
    for _, line in table.iterrows():
        of = means[line["pair"], line["p"], float(line["images"].replace(",", ""))]
        masc = of.xs("masc", level="probe")
        assert line["network"] == f"{of['output', 'network']:.1f}"
        assert line["MASC, raw input"] == f"{masc['input']:.1f}"
        best = masc.drop("input")
        assert line["MASC, hidden layers"] == f"{best.max():.1f} ({best.idxmax()})"
    table = pd.read_csv(ROOT / "results" / "medium" / "claims.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(table, claims_table(results.rows), check_dtype=False)
    assert (ROOT / "results" / "medium" / "claims.md").read_text("utf-8").startswith(VERDICT_RULE)
