"""One sweep on each kind of cluster, with what can happen there; what is refused before anything is sent."""

import sys
import time

import pytest

from layerprobe.errors import InputError
from layerprobe.paper import read_run, run_folder
from layerprobe.paper.analysis import analyse_grid
from layerprobe.paper.rows import read_rows
from layerprobe.runs import scheduler as sweeps
from layerprobe.runs.clusters import Cluster
from layerprobe.runs.grid import train_grid


@pytest.mark.timeout(240)  # of a machine that is busy: every process that starts imports torch
def test_runs_are_trained_and_measured_there_whatever_happens_to_a_worker(
    cluster, spec_of, noted, tmp_path, monkeypatch
):
    monkeypatch.setattr(sweeps, "LOOK", 0.2)
    monkeypatch.chdir(tmp_path)
    fine, killed, deadly = [spec_of(seed) for seed in range(3)]
    told = []
    trainer = noted({killed.seed: 1, deadly.seed: 0})
    outcomes = train_grid(
        [fine, killed], "runs", cluster=cluster, execute=trainer, tell=lambda *what: told.append(what)
    )
    assert [outcome.state for outcome in outcomes] == ["trained", "trained"]
    runs = [read_run(run_folder("runs", spec)) for spec in (fine, killed)]
    assert all(run.done and not run.running for run in runs)
    sessions = [[session["epochs_before"] for session in run.record["sessions"]] for run in runs]
    assert sessions == [[0], [0, 1]]
    assert all(session["threads"] == 1 for run in runs for session in run.record["sessions"])
    ends = {position: stage for position, stage, *_ in told if stage != "training"}
    assert ends == {0: "done", 1: "done"}
    assert noted.begun() == [0, 1, 1]

    (given_up,) = train_grid([deadly], "runs", cluster=cluster, execute=trainer)
    assert given_up.state == "failed"
    assert "the cluster gave it up" in given_up.error
    assert 2 <= noted.begun().count(2) <= 4
    assert not list(tmp_path.glob("runs/.sweeps"))

    (measured,) = analyse_grid({fine: ["noisy_subspaces"]}, "runs", cluster=cluster)
    assert (measured.state, measured.error) == ("trained", "")
    assert len(read_rows(runs[0].folder, "noisy_subspaces"))


@pytest.mark.parametrize("backend", ["dask", "ray"])
@pytest.mark.parametrize("address", ["127.0.0.1:9", "no-such-host.invalid:1", "tcp://", "127.0.0.1:port"])
def test_a_wrong_address_is_said_soon(backend, address, spec_of, tmp_path):
    pytest.importorskip({"dask": "distributed"}.get(backend, backend), reason="needs layerprobe[cluster]")
    start = time.monotonic()
    with pytest.raises(InputError, match="mend --address"):
        train_grid([spec_of(0)], tmp_path, cluster=Cluster(backend, address))
    assert time.monotonic() - start < 60  # a hang, not a speed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_without_the_extra_one_error_says_what_to_install(backend, package, spec_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"pip install 'layerprobe\[cluster\]'"):
        train_grid([spec_of(0)], tmp_path, cluster=Cluster(backend, "127.0.0.1:9"))


def test_flags_that_do_not_go_together_are_refused(spec_of, tmp_path):
    assert Cluster.of("loky", None) is None
    assert Cluster.of("ray", "auto") == Cluster("ray", "auto")
    with pytest.raises(InputError, match="--backend dask needs --address"):
        Cluster.of("dask", None)
    with pytest.raises(InputError, match="add --backend"):
        Cluster.of("loky", "tcp://somewhere:8786")
    with pytest.raises(InputError, match="as it has workers"):
        train_grid([spec_of(0)], tmp_path, jobs=2, cluster=Cluster("dask", "127.0.0.1:9"))
