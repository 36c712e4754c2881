import errno
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from layerprobe.errors import DataError, InputError
from layerprobe.paper import BusyError, RunSpec, execute, execute_together, read_run, run_folder
from layerprobe.runs import execution
from layerprobe.runs.execution import groups
from layerprobe.runs.leases import acquire

EPOCHS = 3


def spec_of(corruption, seed, **changes):
    return RunSpec.of(
        "mlp-digits", corruption, seed, **({"subset": 120, "max_epochs": EPOCHS, "batch_size": 32} | changes)
    )


SPECS = [spec_of(0.2, 0), spec_of(0.8, 1), spec_of(0.8, 2)]


@pytest.fixture(scope="module")
def separate(tmp_path_factory):
    root = tmp_path_factory.mktemp("separate")
    return [execute(spec, root, checkpoints=True) for spec in SPECS]


def files_of(folder):
    """Return the paths of all files but the lease, which exists while the run is trained."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "lease"]
    return sorted(path.relative_to(folder) for path in files)


def assert_equal_runs(runs, expected):
    """Equal histories, and weights within the tolerance that `train_stacked` states for float32 and Adam."""
    for run, other in zip(runs, expected, strict=True):
        assert run.done
        assert run.spec == other.spec
        assert files_of(run.folder) == files_of(other.folder)
        pd.testing.assert_frame_equal(
            run.history.drop(columns=["seconds", "loss"]),
            other.history.drop(columns=["seconds", "loss"]),
            check_exact=True,
        )
        assert run.history["loss"].to_list() == pytest.approx(other.history["loss"].to_list(), rel=1e-5)
        for path in run.folder.rglob("*.safetensors"):
            found, wanted = load_file(path), load_file(other.folder / path.relative_to(run.folder))
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                assert (found[name] - value).abs().max() <= 2e-4 * value.abs().max(), (path.name, name)


def stop_at(number, of_member=0):
    def stop(member, epoch):
        if (member, epoch.epoch) == (of_member, number):
            raise KeyboardInterrupt

    return stop


def test_stacked_runs_write_the_folders_of_separate_runs(tmp_path, separate):
    calls = []
    runs = execute_together(
        SPECS, tmp_path, checkpoints=True, on_epoch=lambda member, epoch: calls.append((member, epoch.epoch))
    )
    assert calls == [(member, epoch) for epoch in range(1, EPOCHS + 1) for member in range(3)]
    assert [run.folder for run in runs] == [run_folder(tmp_path, spec) for spec in SPECS]
    assert_equal_runs(runs, separate)
    (session,) = runs[0].record["sessions"]
    assert session["epochs_before"] == 0
    assert runs[0].record["data"] == separate[0].record["data"]


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_runs_stopped_after_any_epoch_resume_stacked_or_separate(tmp_path, separate, epoch):
    with pytest.raises(KeyboardInterrupt):
        execute_together(SPECS, tmp_path, checkpoints=True, on_epoch=stop_at(epoch))
    halves = [read_run(run_folder(tmp_path, spec)) for spec in SPECS]
    # No epoch is lost, though only the first was reported. A run at its last epoch is done.
    assert [len(half.history) for half in halves] == [epoch] * 3
    assert [half.done for half in halves] == [epoch == EPOCHS] * 3
    alone = execute(SPECS[1], tmp_path, checkpoints=True)
    runs = execute_together(SPECS, tmp_path, checkpoints=True)
    assert_equal_runs([runs[0], alone, runs[2]], separate)
    going_on = [] if epoch == EPOCHS else [epoch]
    assert [session["epochs_before"] for session in runs[0].record["sessions"]] == [0, *going_on]


def test_runs_at_different_epochs_catch_up(tmp_path, separate):
    with suppress(KeyboardInterrupt):
        execute(SPECS[1], tmp_path, checkpoints=True, on_epoch=lambda e: stop_at(2)(0, e))
    calls = []
    runs = execute_together(
        SPECS, tmp_path, checkpoints=True, on_epoch=lambda member, epoch: calls.append((member, epoch.epoch))
    )
    assert calls == [(0, 1), (2, 1), (0, 2), (2, 2), (0, 3), (1, 3), (2, 3)]
    assert_equal_runs(runs, separate)


def test_run_is_done_when_it_ends(tmp_path):
    specs = [spec_of(0, 0, target=0.6, max_epochs=30), spec_of(1, 1, target=0.6, max_epochs=30)]
    done = []

    def look(member, epoch):
        done.append([read_run(run_folder(tmp_path, spec)).done for spec in specs])

    easy, hard = execute_together(specs, tmp_path, on_epoch=look)
    assert easy.memorised
    assert len(easy.history) < len(hard.history)
    assert [True, False] in done
    assert_equal_runs([easy], [execute(specs[0], tmp_path / "alone")])


def test_finished_run_is_not_changed(tmp_path, separate):
    done = execute(SPECS[0], tmp_path, checkpoints=True)
    before = {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")}
    calls = []
    runs = execute_together(
        SPECS, tmp_path, checkpoints=True, on_epoch=lambda member, _: calls.append(member)
    )
    assert {path: path.stat().st_mtime_ns for path in done.folder.rglob("*")} == before
    assert set(calls) == {1, 2}
    assert_equal_runs(runs, separate)


def test_refused_folder_does_not_stop_the_other_runs(tmp_path, separate):
    folder = run_folder(tmp_path, SPECS[0])
    folder.mkdir(parents=True)
    begun_by_another = run_folder(tmp_path, SPECS[2])
    execute(SPECS[1], tmp_path / "other").folder.rename(tmp_path / "moved")
    begun_by_another.parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(begun_by_another)
    with acquire(folder):
        busy, trained, other = execute_together(SPECS, tmp_path, checkpoints=True)
    assert isinstance(busy, BusyError)
    assert isinstance(other, DataError)
    assert files_of(folder) == []
    assert_equal_runs([trained], separate[1:2])


def test_all_folders_are_leased_during_training(tmp_path):
    seen = []

    def look(member, epoch):
        seen.append([read_run(run_folder(tmp_path, spec)).running for spec in SPECS])

    runs = execute_together(SPECS, tmp_path, on_epoch=look)
    assert seen == [[True] * 3] * (3 * EPOCHS)
    assert not any(run.running for run in runs)


def test_runs_resume_after_a_disk_error_at_any_write(tmp_path, separate, monkeypatch):
    write_bytes, count = Path.write_bytes, 0

    def write(path, blob):
        nonlocal count
        count += 1
        if count == fail_at:
            write_bytes(path, blob[: len(blob) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, blob)

    monkeypatch.setattr(Path, "write_bytes", write)
    fail_at = 0
    execute_together(SPECS, tmp_path / "counted", checkpoints=True)
    for fail_at in range(1, count + 1, 4):  # with three runs and this stride every kind of write is met
        count, root = 0, tmp_path / str(fail_at)
        with pytest.raises(OSError, match="No space"):
            execute_together(SPECS, root, checkpoints=True)
        assert_equal_runs(execute_together(SPECS, root, checkpoints=True), separate)


def test_groups_differ_only_in_corruption_noise_and_seeds(tmp_path, monkeypatch):
    other_subset, adam = spec_of(0.2, 0, subset=100), spec_of(0.2, 0, learning_rate=0.1)
    published = spec_of(0.2, 0, noise="published")
    assert groups([SPECS[0], other_subset, SPECS[1], adam, published]) == [
        [SPECS[0], SPECS[1], published],
        [other_subset],
        [adam],
    ]
    dropout = [RunSpec.of("cnn-mnist", p, 0, options={"dropout": 0.5}) for p in (0.2, 0.4)]
    assert groups(dropout) == [[spec] for spec in dropout]
    monkeypatch.setattr(execution, "run_data", None)  # refused before any folder is made
    for unlike in (dropout, [SPECS[0], other_subset]):
        with pytest.raises(InputError, match="differ only in corruption, noise and seeds"):
            execute_together(unlike, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert execute_together([], tmp_path) == []
