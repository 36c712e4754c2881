"""One grid on each kind of cluster, with lost workers; errors before any work is sent."""

import sys
import time

import pytest

from layerprobe.cli import main
from layerprobe.cli.jobs import Workers
from layerprobe.errors import InputError
from layerprobe.paper import read_run, run_folder
from layerprobe.paper.analysis import analyse_grid
from layerprobe.paper.rows import read_rows
from layerprobe.runs.grid import train_grid
from layerprobe.runs.scheduler import Cluster


@pytest.mark.timeout(600)  # every process that starts imports torch, slowly on a busy machine
def test_cluster_trains_and_measures_runs_and_replaces_lost_workers(
    cluster, spec_of, deadly_pair, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fine, killed = spec_of("mlp-digits"), spec_of(deadly_pair("mortal", batch=6))  # 4 batches per epoch
    deadly, reports = spec_of(deadly_pair("deadly")), []
    outcomes = train_grid(
        [fine, killed], "runs", jobs=cluster, report=lambda *progress: reports.append(progress)
    )
    assert [outcome.state for outcome in outcomes] == ["trained", "trained"]
    runs = [read_run(run_folder("runs", spec)) for spec in (fine, killed)]
    assert all(run.done and not run.running for run in runs)
    sessions = [[session["epochs_before"] for session in run.record["sessions"]] for run in runs]
    assert sessions == [[0], [0, 1]]
    assert all(session["threads"] == 1 for run in runs for session in run.record["sessions"])
    assert {position: progress.state for position, progress in reports if progress.ended} == {
        0: "done",
        1: "done",
    }
    assert deadly_pair.attempts("mortal") == 2

    (failed,) = train_grid([deadly], "runs", jobs=cluster)
    assert failed.state == "failed"
    assert "the cluster gave the run up" in failed.error
    assert 2 <= deadly_pair.attempts("deadly") <= 4
    assert not list(tmp_path.glob("runs/.sessions"))

    (measured,) = analyse_grid({fine: ["noisy_subspaces"]}, "runs", jobs=cluster)
    assert (measured.state, measured.error) == ("trained", "")
    assert len(read_rows(runs[0].folder, "noisy_subspaces"))


@pytest.mark.parametrize("backend", ["dask", "ray"])
@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:1", "tcp://", "127.0.0.1:port"])
def test_wrong_address_is_reported_soon(backend, address, spec_of, tmp_path):
    pytest.importorskip({"dask": "distributed"}.get(backend, backend), reason="needs layerprobe[cluster]")
    start = time.monotonic()
    with pytest.raises(InputError, match="correct --address"):
        train_grid([spec_of("mlp-digits")], tmp_path, jobs=Cluster(backend, address))
    assert time.monotonic() - start < 60  # a hang, not a speed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_missing_extra_is_named(backend, package, spec_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'layerprobe\[cluster\]'"):
        train_grid([spec_of("mlp-digits")], tmp_path, jobs=Cluster(backend, "127.0.0.1:9"))


def test_contradicting_flags_are_refused(tmp_path, capsys):
    assert Workers(3).resolve() == 3
    assert Workers(backend="ray", address="auto").resolve() == Cluster("ray", "auto")
    with pytest.raises(InputError, match="--backend dask needs --address"):
        Workers(backend="dask").resolve()
    with pytest.raises(InputError, match="add --backend"):
        Workers(address="tcp://somewhere:8786").resolve()
    command = ["paper", "train", "--pair", "mlp-digits", "--root", str(tmp_path), "--jobs", "2"]
    assert main([*command, "--backend", "dask", "--address", "127.0.0.1:9"]) == 2
    assert "leave out --jobs" in capsys.readouterr().err
