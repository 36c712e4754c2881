import pytest

from layerprobe.errors import DataError, InputError
from layerprobe.paper import BusyError, RunSpec, execute, run_folder
from layerprobe.paper.analysis import analyse, analyse_grid, gather, histories, missing
from layerprobe.paper.rows import COLUMNS, read_rows
from layerprobe.paper.run_outputs import FinishedRun
from layerprobe.runs.leases import acquire

SPEC = RunSpec.of("mlp-digits", 0.4, 0, subset=64, test_subset=50, max_epochs=2)
WANTED = ["noisy_subspaces", "true_subspaces", "latent_memorisation"]


@pytest.fixture
def root(tmp_path):
    execute(SPEC, tmp_path)
    return tmp_path


def test_suitable_experiments_are_done_once(root, monkeypatch):
    assert missing(SPEC, root, WANTED) == ["noisy_subspaces", "true_subspaces"]
    begun = []
    analyse(SPEC, root, WANTED, on_experiment=begun.append)
    assert begun == ["noisy_subspaces", "true_subspaces"]
    before = {path: path.read_bytes() for path in root.rglob("*.csv")}
    monkeypatch.setattr(FinishedRun, "of", None)  # nothing is even read
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


def test_a_run_of_another_process_raises_busy(root):
    with acquire(run_folder(root, SPEC)), pytest.raises(BusyError):
        analyse(SPEC, root, WANTED)


def test_failed_run_does_not_end_the_grid(root):
    absent = RunSpec.of("mlp-digits", 0.4, 1, subset=64, max_epochs=2)
    reports = []
    outcomes = analyse_grid({absent: WANTED, SPEC: WANTED}, root, jobs=1)
    assert [outcome.state for outcome in outcomes] == ["failed", "trained"]
    assert "Train it first" in outcomes[0].error
    outcomes = analyse_grid({SPEC: WANTED}, root, jobs=1, report=lambda *progress: reports.append(progress))
    assert [outcome.state for outcome in outcomes] == ["kept"]
    assert reports == []


def test_gathered_rows_name_their_runs(root):
    assert list(gather([SPEC], root)) == COLUMNS
    assert gather([SPEC], root).empty
    analyse(SPEC, root, ["noisy_subspaces"])
    rows = gather([SPEC, RunSpec.of("mlp-digits", 0.8, 0)], root)
    assert rows["key"].unique().tolist() == [SPEC.key[:12]]


def test_histories_name_their_runs_and_targets(root):
    history = histories([SPEC, RunSpec.of("mlp-digits", 0.8, 0)], root)
    assert history["epoch"].tolist() == [1, 2]
    assert history["target"].unique().tolist() == [SPEC.recipe.target]
    assert list(histories([], root)) == list(history)


def test_unfinished_run_has_no_history(root):
    (run_folder(root, SPEC) / "done").unlink()
    assert histories([SPEC], root).empty
