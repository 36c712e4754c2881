import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from layerprobe.errors import DataError, InputError
from layerprobe.paper import BusyError, RunSpec, execute, run_folder
from layerprobe.paper.analysis import analyse, analyse_grid, gather, histories, missing
from layerprobe.paper.experiments import EXPERIMENTS
from layerprobe.paper.locking import locked
from layerprobe.paper.rows import COLUMNS, read_rows, rows_path
from layerprobe.paper.subjects import Subject

SPEC = RunSpec.of("mlp-digits", 0.4, 0, subset=64, test_subset=50, max_epochs=2)
WANTED = ["noisy_subspaces", "true_subspaces", "latent_memorisation"]


@pytest.fixture
def root(tmp_path):
    execute(SPEC, tmp_path)
    return tmp_path


def test_only_what_suits_the_run_is_done_and_only_once(root, monkeypatch):
    assert missing(SPEC, root, WANTED) == ["noisy_subspaces", "true_subspaces"]
    begun = []
    analyse(SPEC, root, WANTED, on_experiment=begun.append)
    assert begun == ["noisy_subspaces", "true_subspaces"]
    before = {path: path.read_bytes() for path in root.rglob("*.csv")}
    monkeypatch.setattr(Subject, "of", None)  # nothing is even read
    analyse(SPEC, root, WANTED, on_experiment=begun.append)
    assert len(begun) == 2
    assert {path: path.read_bytes() for path in root.rglob("*.csv")} == before


def test_rows_are_on_disk_as_soon_as_their_experiment_ends(root):
    def cut_off(name):
        if name == "true_subspaces":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(SPEC, root, WANTED, on_experiment=cut_off)
    assert missing(SPEC, root, WANTED) == ["true_subspaces"]


def test_the_seconds_of_an_experiment_are_a_row(root):
    analyse(SPEC, root, ["noisy_subspaces"])
    rows = read_rows(run_folder(root, SPEC), "noisy_subspaces")
    assert rows["metric"].value_counts()["experiment_seconds"] == 1


def test_a_run_that_is_not_done_is_refused(tmp_path):
    with pytest.raises(DataError, match="Train it first"):
        analyse(SPEC, tmp_path, WANTED)


def test_an_unknown_experiment_is_named(root):
    with pytest.raises(InputError, match="nope"):
        missing(SPEC, root, ["nope"])


def test_a_run_in_other_hands_is_left_alone(root):
    with locked(run_folder(root, SPEC)), pytest.raises(BusyError):
        analyse(SPEC, root, WANTED)


def test_a_grid_goes_on_when_one_run_fails(root):
    absent = RunSpec.of("mlp-digits", 0.4, 1, subset=64, max_epochs=2)
    told = []
    outcomes = analyse_grid({absent: WANTED, SPEC: WANTED}, root, jobs=1)
    assert [outcome.state for outcome in outcomes] == ["failed", "trained"]
    assert "Train it first" in outcomes[0].error
    outcomes = analyse_grid({SPEC: WANTED}, root, jobs=1, tell=lambda *what: told.append(what))
    assert [outcome.state for outcome in outcomes] == ["kept"]
    assert told == []


def test_gathered_rows_know_their_runs(root):
    assert list(gather([SPEC], root)) == COLUMNS
    assert gather([SPEC], root).empty
    analyse(SPEC, root, ["noisy_subspaces"])
    rows = gather([SPEC, RunSpec.of("mlp-digits", 0.8, 0)], root)
    assert rows["key"].unique().tolist() == [SPEC.key[:12]]


def test_histories_know_their_runs_and_targets(root):
    history = histories([SPEC, RunSpec.of("mlp-digits", 0.8, 0)], root)
    assert history["epoch"].tolist() == [1, 2]
    assert history["target"].unique().tolist() == [SPEC.recipe.target]
    assert list(histories([], root)) == list(history)


GOLDEN = Path(__file__).parent / "golden_rows.json"
SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from layerprobe.paper import RunSpec, execute
from layerprobe.paper.analysis import analyse
spec = RunSpec.of("mlp-digits", 0.4, 0, subset=64, test_subset=50, max_epochs=2)
execute(spec, sys.argv[1])
analyse(spec, sys.argv[1], sys.argv[2].split(","))
"""


def rows_of_a_fresh_process(root, names):
    subprocess.run([sys.executable, "-c", SCRIPT, str(root), ",".join(names)], check=True)
    folder = run_folder(root, SPEC)
    return {name: read_rows(folder, name) for name in names if rows_path(folder, name).exists()}


def test_golden_rows_of_one_tiny_run(tmp_path):
    """Bit for bit from process to process; and the committed rows, up to what another processor rounds."""
    names = [name for name in EXPERIMENTS if name not in ("cost", "dynamics", "similarity")]
    first, second = (rows_of_a_fresh_process(tmp_path / side, names) for side in "ab")
    golden = json.loads(GOLDEN.read_text("utf-8"))
    assert set(golden) == set(first) == set(second)
    for name, rows in first.items():
        measured = rows[rows["metric"] != "experiment_seconds"].reset_index(drop=True)
        again = second[name][second[name]["metric"] != "experiment_seconds"].reset_index(drop=True)
        pd.testing.assert_frame_equal(measured, again, check_exact=True)
        text = measured.drop(columns="value").to_csv(index=False)
        assert hashlib.sha256(text.encode()).hexdigest() == golden[name]["rows_sha256"]
        assert measured["value"].mean() == pytest.approx(golden[name]["mean_value"], rel=0.01)
