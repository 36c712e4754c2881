import math

import pandas as pd
import pytest

from layerprobe.paper import RunSpec, execute, run_folder
from layerprobe.runs.leases import acquire
from layerprobe.runs.states import disk_needed, so_far, status, untrained_network


def spec_of(corruption=0.4, seed=0, **changes):
    return RunSpec.of("mlp-digits", corruption, seed, **({"subset": 100, "max_epochs": 2} | changes))


def train(spec, root, *, stop_after=None):
    def on_epoch(epoch):
        if epoch.epoch == stop_after:
            raise InterruptedError

    try:
        return execute(spec, root, on_epoch=on_epoch)
    except InterruptedError:
        return None


def test_status_of_every_state(tmp_path):
    done, begun, unreadable, missing = specs = [spec_of(seed=seed) for seed in range(4)]
    run = train(done, tmp_path)
    train(begun, tmp_path, stop_after=1)
    train(unreadable, tmp_path, stop_after=1)
    (run_folder(tmp_path, unreadable) / "run.json").write_text("{")
    rows = status(tmp_path, specs)
    assert list(rows["state"]) == ["done", "resumable", "unreadable", "missing"]
    assert list(rows["epochs"]) == [2, 1, 0, 0]
    assert list(rows["seed"]) == [0, 1, 2, 3]
    last = run.history.iloc[-1]
    for name in ("train_accuracy", "true_accuracy", "test_accuracy"):
        assert rows.loc[0, name] == last[name]
        assert math.isnan(rows.loc[3, name])
    assert rows.loc[0, "seconds"] == run.history["seconds"].sum()
    assert rows.loc[0, "memorised"] is not pd.NA
    assert not rows.loc[0, "memorised"]
    assert tmp_path / rows.loc[0, "folder"] == run.folder
    with acquire(run_folder(tmp_path, begun)):
        assert status(tmp_path, [begun])["state"].item() == "running"
    assert so_far(tmp_path, done) == (2, last["train_accuracy"])
    assert so_far(tmp_path, missing) == (0, 0.0)


def test_status_without_specs_shows_damaged_runs(tmp_path):
    train(spec_of(), tmp_path, stop_after=1)
    train(spec_of(seed=1), tmp_path, stop_after=1)
    folder = run_folder(tmp_path, spec_of(seed=1))
    (folder / "run.json").write_text("[1]")
    rows = status(tmp_path)
    assert rows["state"].tolist() == ["resumable", "unreadable"]
    assert rows["pair"].tolist() == ["mlp-digits"] * 2
    assert tmp_path / rows["folder"].iloc[1] == folder


def test_status_without_specs_completes_the_grid(tmp_path):
    for spec in (spec_of(0.2, 0), spec_of(0.6, 1), spec_of(0.6, 0, batch_size=16)):
        train(spec, tmp_path, stop_after=1)
    rows = status(tmp_path)
    found = set(zip(rows["corruption"], rows["seed"], rows["variant"], rows["state"], strict=True))
    usual, other = "max_epochs 2, subset 100", "batch_size 16, max_epochs 2, subset 100"
    assert found == {
        (0.2, 0, usual, "resumable"),
        (0.2, 1, usual, "missing"),
        (0.6, 0, usual, "missing"),
        (0.6, 1, usual, "resumable"),
        (0.6, 0, other, "resumable"),
    }
    # A missing run is exactly the run that training would write.
    missing = rows[rows["state"] == "missing"]
    assert set(missing["folder"]) == {
        f"mlp-digits/{s.folder_name}" for s in (spec_of(0.2, 1), spec_of(0.6, 0))
    }
    assert status(tmp_path / "nowhere").empty


def test_variant_names_differences_from_the_recipe(tmp_path):
    rows = status(
        tmp_path, [RunSpec.of("cnn-mnist", 0, 0), RunSpec.of("cnn-mnist", 0, 0, protocol="published")]
    )
    assert list(rows["variant"]) == ["", "shuffle False, noise published"]


@pytest.mark.parametrize("checkpoints", [False, True])
def test_runs_fit_the_estimated_disk_space(tmp_path, checkpoints):
    specs = [spec_of(seed=seed) for seed in range(2)]
    weights = sum(value.nbytes for value in untrained_network(specs[0]).state_dict().values())
    needed = disk_needed(specs, jobs=1, checkpoints=checkpoints)
    peak = 0

    def measure(_):
        nonlocal peak
        peak = max(peak, sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")))

    for spec in specs:
        execute(spec, tmp_path, checkpoints=checkpoints, on_epoch=measure)
    # Adam keeps two numbers a weight, and a checkpoint is written beside the last one.
    kept = 2 * 3 * weights if checkpoints else 0
    assert needed == pytest.approx(2 * weights + kept + 2 * 3 * weights, rel=1e-3)
    assert peak < needed
